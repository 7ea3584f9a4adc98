"""Sentences about privacy: right against the closed form, monotone in epsilon, never a certainty of 100%."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygrid.privacy.words import best_guess, explain_epsilon, sure


@pytest.mark.parametrize(
    ("epsilon", "words"), [(0.0, "50%"), (0.1, "52%"), (1.0, "73%"), (3.0, "95%"), (10.0, "99.995%")]
)
def test_a_certainty_is_shown_with_the_digits_that_matter(epsilon: float, words: str) -> None:
    assert sure(epsilon) == words
    assert words in explain_epsilon(epsilon, 1e-6)


@given(st.floats(0.0, 1e6))
def test_a_certainty_is_that_of_the_closed_form_and_below_100(epsilon: float) -> None:
    shown = float(sure(epsilon).removeprefix("over ").rstrip("%"))
    exact = 100.0 / (1.0 + math.exp(-min(epsilon, 700.0)))
    assert shown < 100.0
    assert shown == pytest.approx(exact, abs=0.51)


@given(st.floats(0.0, 50.0), st.floats(0.0, 50.0))
def test_a_larger_epsilon_never_sounds_safer(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert best_guess(low) <= best_guess(high)
    low_shown, high_shown = (float(sure(epsilon).removeprefix("over ").rstrip("%")) for epsilon in (low, high))
    assert low_shown <= high_shown


@pytest.mark.parametrize(
    ("unit", "words"),
    [("record", "a record has"), ("subject", "the records of a person have"), ("domain", "the whole data")],
)
def test_a_sentence_names_the_unit(unit: str, words: str) -> None:
    sentence = explain_epsilon(1.0, 1e-6, unit)
    assert words in sentence
    assert sentence.endswith("except with a probability of 1 in 1,000,000.")
