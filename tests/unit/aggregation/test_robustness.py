"""Hostile devices against the default rule, on the digits.

Should happen: with a fifth of the devices hostile the model is within 2 points of training without them.
Should not happen: the same attacks leave the mean of 0.1 unharmed: then they would show nothing.
"""

from __future__ import annotations

import numpy as np
import pytest

from robust_rules import ABSENT, ATTACKS, DEFAULT, OLD, simulate

FAST = {"num_devices": 10, "num_hostile": 2, "num_cycles": 6}


def test_two_of_ten_devices_at_minus_fifty_times() -> None:
    without = simulate(DEFAULT, ABSENT, **FAST)
    assert without > 0.85
    assert simulate(DEFAULT, "-50x", **FAST) >= without - 0.04
    assert simulate(OLD, "-50x", **FAST) < without - 0.2


@pytest.mark.slow
@pytest.mark.parametrize("attack", [name for name in ATTACKS if name != "none"])
def test_a_fifth_of_the_devices_costs_at_most_two_points(attack: str) -> None:
    without, attacked = (np.mean([simulate(DEFAULT, name, seed=seed) for seed in range(5)]) for name in (ABSENT, attack))
    assert attacked >= without - 0.02


@pytest.mark.slow
def test_honest_cycles_cost_nothing() -> None:
    default, mean = (
        np.mean([simulate(rule, "none", num_hostile=0, seed=seed) for seed in range(5)]) for rule in (DEFAULT, OLD)
    )
    assert default >= mean - 0.01


@pytest.mark.slow
def test_a_claim_of_ten_thousand_examples() -> None:
    without = simulate(DEFAULT, ABSENT, num_hostile=1)
    assert simulate(DEFAULT, "sign flip", num_hostile=1, claimed=10_000) >= without - 0.02
    assert simulate(OLD, "sign flip", num_hostile=1, claimed=10_000) < without - 0.2


def test_a_model_that_was_hit_in_its_first_cycle_is_trained_all_the_same() -> None:
    """All but one device had nothing to learn, and that one lies: nothing tells the Domain what is usual."""
    assert simulate(DEFAULT, "huge", num_devices=10, num_hostile=1, num_cycles=8, quiet_first=True) > 0.85
