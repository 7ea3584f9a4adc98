"""When the end of a private job is seen, and how long an evaluation may take: from public numbers alone.

Should happen: enough time for every unit; a job that could not give each unit its limit is refused.
Should not happen: a limit that ends honest evaluations; a time plan that depends on the data.
"""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygrid.compute.runtime.contributions import PlanRows
from pygrid.compute.runtime.schedule import LEAST_LIMIT, VARIATION, make_time_plan
from pygrid.compute.runtime.watch import Watch
from pygrid.core.job_spec import PrivacyTerms, held_s, max_evaluations, max_participations, unit_limit_s
from pygrid.errors import InvalidInput
from pygrid.plans import Plan
from pygrid.privacy.noise import SecretBits
from support.plans.attacks import MODEL, contributing, honest_plan, slow_plan
from support.plans.handmade import GraphBuilder


def terms(rounds: int, rate: float, unit: str = "record") -> PrivacyTerms:
    return PrivacyTerms(1.0, 1.0, rounds, 1e-6, 1.0, sampling_rate=rate, unit=unit)  # type: ignore[arg-type]


@given(st.integers(1, 500), st.floats(1e-4, 1.0), st.integers(1, 5000))
def test_there_are_hardly_ever_more_evaluations_than_planned(rounds: int, rate: float, num_units: int) -> None:
    """Against draws: a chance below 1e-9 is not seen in a test."""
    drawn = np.random.default_rng(0).binomial(num_units, rate, rounds)
    assert drawn.sum() <= max_evaluations(terms(rounds, rate), num_units) <= rounds * num_units
    of_one = np.random.default_rng(1).binomial(rounds, rate, num_units)
    assert of_one.max() <= max_participations(terms(rounds, rate)) <= rounds


@given(st.integers(1, 1000), st.integers(1, 5000), st.floats(1e-6, 1e-2), st.floats(0.0, 1e-2))
def test_the_plan_has_time_for_slow_values_and_for_one_slow_unit(
    rounds: int, num_units: int, unit_s: float, round_s: float
) -> None:
    asked = terms(rounds, 1.0)
    if rounds * num_units * LEAST_LIMIT * unit_s > 0.8 * 3600:
        with pytest.raises(InvalidInput, match="evaluations") as caught:
            make_time_plan(asked, num_units, unit_s, round_s, 3600.0)
        assert caught.value.code == "job_too_slow"
        return
    plan = make_time_plan(asked, num_units, unit_s, round_s, 3600.0)
    assert LEAST_LIMIT * unit_s <= plan.limit_s <= unit_limit_s(unit_s)
    assert rounds * num_units * plan.limit_s <= 3600, "every unit can use its whole limit within the time of the job"
    needed = VARIATION * (rounds * num_units * unit_s + rounds * round_s) + rounds * plan.limit_s
    assert plan.planned_s >= needed


def test_the_limit_of_the_one_unit_of_a_domain_is_its_plan() -> None:
    plan = make_time_plan(terms(1, 1.0, "domain"), 1, 10.0, 0.1, 3600.0)
    assert plan.planned_s >= plan.limit_s >= VARIATION * 10.0


@given(st.floats(0, 1e4), st.floats(0, 1e4))
def test_the_end_is_held_at_the_planned_time_or_at_twice_as_much(elapsed: float, planned: float) -> None:
    held = held_s(elapsed, planned)
    assert held >= max(elapsed, planned)
    steps = math.log2(held / max(planned, 0.25))
    assert steps == pytest.approx(round(steps), abs=1e-9)


def test_a_watch_ends_a_long_evaluation_and_not_the_next_one() -> None:
    """The evaluation has many operators, so that it can be ended between two; the short ones after it are whole."""
    data = {"x": np.zeros((3, 1), np.float32), "y": np.zeros(3, np.int64)}
    long = PlanRows(slow_plan(operator="Pow", width=400_000, repeats=30), "grads", MODEL, data, bits=SecretBits())
    short = PlanRows(honest_plan(), "grads", MODEL, data, bits=SecretBits())
    num_threads = threading.active_count()
    with Watch(0.01) as watch:
        assert [block.failed.all() for block in long.blocks(np.arange(1), watch)] == [True]
        assert not any(block.failed.any() for _ in range(50) for block in short.blocks(np.arange(3), watch))
    assert threading.active_count() == num_threads


def test_reads_of_a_large_table_are_planned_as_misses() -> None:
    """A table of 4 MiB that is read where the data says; one of 1 KiB stays in the cache."""

    def plan_of(size: int) -> Plan:
        def build(g: GraphBuilder) -> str:
            table = g.op("ConstantOfShape", g.ints(size))
            return g.op("Add", "data/x", g.op("Unsqueeze", g.op("Gather", table, "data/y", axis=0), g.ints(1)))

        return contributing("table", build)

    data = {"x": np.zeros((3, 1), np.float32), "y": np.zeros(3, np.int64)}
    large, small = (PlanRows(plan_of(size), "grads", MODEL, data, bits=SecretBits()) for size in (1 << 20, 1 << 8))
    assert large.miss_s > small.miss_s == 0.0
    with_misses = make_time_plan(terms(100, 1.0), 3, 1e-4, 0.0, 3600.0, 1e-3)
    assert with_misses.planned_s >= make_time_plan(terms(100, 1.0), 3, 1e-4, 0.0, 3600.0).planned_s + 0.25
