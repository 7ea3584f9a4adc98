"""The best checkpoint of a curve, and when a training ends early; compared with a literal reading of the rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygrid.configuration.evaluation import EarlyStop, find_best, mode_of
from pygrid.errors import InvalidConfig


def curve(*losses: float, metric: str = "loss") -> list[tuple[int, dict[str, float]]]:
    return [(number, {metric: loss}) for number, loss in enumerate(losses, 2)]


@pytest.mark.parametrize(
    ("losses", "patience", "is_over"),
    [
        ((), 1, False),
        ((0.5,), 1, False),
        ((0.5, 0.6), 1, True),
        ((0.5, 0.6), 2, False),
        ((0.5, 0.6, 0.4, 0.5), 2, False),
        ((0.5, 0.6, 0.4, 0.4, 0.4), 2, True),
    ],
)
def test_a_training_ends_after_so_many_evaluations_without_a_better_value(
    losses: tuple[float, ...], patience: int, is_over: bool
) -> None:
    assert EarlyStop(patience=patience).is_over(curve(*losses)) is is_over


def test_a_small_gain_does_not_count() -> None:
    assert find_best(curve(0.5, 0.4999, 0.49), min_delta=0.001) == (4, 0.49)
    assert EarlyStop(patience=1, min_delta=0.001).is_over(curve(0.5, 0.4999))


def test_evaluations_without_the_metric_do_not_count() -> None:
    mixed = [(2, {"loss": 0.5}), (3, {"accuracy": 0.9}), (4, {"loss": 0.6})]
    assert find_best(mixed) == (2, 0.5)
    assert find_best(mixed, "auc") is None
    assert not EarlyStop(patience=2).is_over(mixed)
    assert EarlyStop(patience=1).is_over(mixed)


@pytest.mark.parametrize(
    ("metric", "mode"),
    [
        ("loss", "min"),
        ("val_loss", "min"),
        ("accuracy", "max"),
        ("ROC-AUC", "max"),
        ("macro_f1", "max"),
        ("mse", "min"),
    ],
)
def test_the_name_of_a_metric_says_what_is_better(metric: str, mode: str) -> None:
    assert mode_of(metric) == mode


@given(st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4]), max_size=12), st.integers(1, 4))
def test_early_stopping_is_the_literal_rule(losses: list[float], patience: int) -> None:
    since = 0
    best = float("inf")
    for loss in losses:
        since = 0 if loss < best else since + 1
        best = min(best, loss)
    assert EarlyStop(patience=patience).is_over(curve(*losses)) is (since >= patience)
    assert find_best(curve(*losses)) == ((losses.index(min(losses)) + 2, min(losses)) if losses else None)


def test_its_values_are_checked() -> None:
    with pytest.raises(InvalidConfig, match=r"EarlyStop\.patience is 0; it must be a whole number from 1"):
        EarlyStop(patience=0)
    with pytest.raises(InvalidConfig, match="did you mean 'patience'"):
        EarlyStop(patient=3)  # type: ignore[call-arg]
