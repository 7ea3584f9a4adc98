"""Values that a browser keeps for the app."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from pygrid.clock import ManualClock
from pygrid.features.accounts.oidc.sealed import SIGN_IN_S, SealedValues


@dataclass(frozen=True)
class Order:
    name: str
    tags: frozenset[str]


@dataclass(frozen=True)
class Offer:
    name: str
    tags: frozenset[str]


def test_a_sealed_value_opens_with_the_same_key_until_it_expires() -> None:
    clock, value = ManualClock(), Order("ä", frozenset({"a", "b"}))
    sealed = SealedValues(clock, "k" * 32, Order)
    text = sealed.seal(value)
    assert "ä" not in text
    assert sealed.seal(value) != text
    assert SealedValues(clock, "k" * 32, Order).open(text) == value, "another replica"
    clock.advance(SIGN_IN_S)
    assert sealed.open(text) == value
    clock.advance(1)
    assert sealed.open(text) is None


@pytest.mark.parametrize("kind", [Order, Offer])
def test_no_other_text_opens(kind: type[Order]) -> None:
    clock = ManualClock()
    other = SealedValues(clock, "x" * 32 if kind is Order else "k" * 32, kind).seal(kind("a", frozenset()))
    sealed = SealedValues(clock, "k" * 32, Order)
    own = sealed.seal(Order("a", frozenset()))
    for text in ("", "=", "A", "ä", "\udc80", "A" * 64, other, own[4:], own[:-4], own[:40] + "AAAA" + own[44:]):
        assert sealed.open(text) is None, text
