"""Plans that try to make one record change what others contribute, through the trusted runner.

Should happen: two datasets that differ in one record have sums that differ by one contribution, to the bit.
Should not happen: a failure, a mark, a place in the data or the time of one record shows in another's contribution.
"""

from __future__ import annotations

import json
import math
import time
from types import CodeType, ModuleType
from typing import Any

import numpy as np
import pytest

from pygrid.compute.runtime import contributions, execute, schedule
from pygrid.compute.runtime.contributions import PlanRows, PlanSums, subject_groups
from pygrid.compute.runtime.inputs import MappedColumns
from pygrid.compute.runtime.watch import Watch
from pygrid.core.job_spec import ColumnRef, JobSpec, PrivacyTerms
from pygrid.errors import InvalidPlan
from pygrid.plans import Plan
from pygrid.plans.gate import check
from pygrid.privacy.accountants import calibrate
from pygrid.privacy.clipping import ClippedSum, Grid
from pygrid.privacy.mechanisms import GaussianSum
from pygrid.privacy.noise import SecretBits
from pygrid.tensors import decode, encode
from support.plans.attacks import (
    MARK,
    MODEL,
    contributing,
    fallback_plan,
    honest_plan,
    plus_or_minus,
    position_plan,
    slow_plan,
)
from support.thorough import THOROUGH

N = 128
NUM_JOBS = 400 if THOROUGH else 100
"""On each of two neighboring datasets. With 100, a leak of everything is a bound of epsilon 2.1."""
SLOW = 7.0
"""The ``x`` of the record on which `slow_plan` takes long; to the other plans it means nothing."""
PLANS = {
    "fallback": fallback_plan,
    "position": position_plan,
    "honest": honest_plan,
    "slow": lambda: slow_plan(operator="Pow"),
}


def data(size: int = N, **changes: Any) -> dict[str, Any]:
    """Records that differ in ``y`` alone, some of them changed: ``y={60: MARK}``."""
    columns = {"x": np.zeros((size, 1), np.float32), "y": np.arange(size, dtype=np.int64)}
    for name, values in changes.items():
        for index, value in values.items():
            columns[name][index] = value
    return columns


def rows_of(plan: Plan, columns: dict[str, Any], *, groups: Any = None, max_rows: int = 1) -> Any:
    """The vector of each unit."""
    units = PlanRows(plan, "grads", MODEL, columns, bits=SecretBits(), groups=groups, max_rows=max_rows)
    return np.concatenate([block.rows for block in units.blocks(np.arange(units.num_units), Watch())])


def integer_sum(plan: Plan, columns: dict[str, Any], *, groups: Any = None, max_rows: int = 1) -> Any:
    """The sum before noise, in steps of the grid."""
    sums = PlanSums(1.0, plan, "grads", MODEL, columns, bits=SecretBits(), groups=groups, max_rows=max_rows)
    total = GaussianSum(sums.size, 1.0, 1.0)
    sums.add_to(total, np.arange(sums.num_units), Watch())
    return total._open().total()


def fours() -> Any:
    """Four records for each subject."""
    return subject_groups(np.arange(N) // 4, 4)


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("unit", ["record", "subject"])
def test_one_unit_moves_the_integer_sum_by_one_contribution(name: str, unit: str) -> None:
    plan = PLANS[name]()
    assert check(plan.data).per_example_independent
    how: dict[str, Any] = {"groups": fours(), "max_rows": 4} if unit == "subject" else {}
    before = integer_sum(plan, data(), **how)
    bound = Grid.fit(1.0, 1).sensitivity
    for index in (0, 60, N - 1):
        for changed in (data(y={index: MARK}), data(y={index: -1}), data(x={index: np.nan}), data(x={index: 1e30})):
            moved = np.abs(integer_sum(plan, changed, **how) - before)
            assert moved.max() <= 2 * bound, "one unit replaced by another moves the sum by two contributions at most"


def test_the_place_of_a_record_does_not_reach_its_contribution() -> None:
    """The first record is taken away, so that all others move up."""
    plan = position_plan()
    columns = data()
    shorter = {name: array[1:] for name, array in columns.items()}
    np.testing.assert_array_equal(rows_of(plan, columns)[1:], rows_of(plan, shorter))
    order = np.random.default_rng(0).permutation(N)
    shuffled = {name: array[order] for name, array in columns.items()}
    np.testing.assert_array_equal(rows_of(plan, columns)[order], rows_of(plan, shuffled))


def test_a_record_that_fails_does_not_reach_the_others() -> None:
    plan = fallback_plan()
    before, after = rows_of(plan, data()), rows_of(plan, data(y={60: MARK}))
    assert not after[60].any()
    others = np.arange(N) != 60
    np.testing.assert_array_equal(before[others], after[others])
    assert before[others].any(axis=1).all()


def test_sums_and_rows_are_the_same_contributions() -> None:
    """`PlanSums` clips within the graph, `PlanRows` outside it: within a step for each record."""
    plan = contributing("scaled", lambda g: g.op("Mul", "data/x", g.const(np.float32(0.37))))
    columns = data()
    columns["x"] = np.random.default_rng(3).normal(size=(N, 1)).astype(np.float32)
    columns["x"][5], columns["x"][6] = np.nan, 3e38
    clipped = ClippedSum(Grid.fit(1.0, 1), 1)
    clipped.add(rows_of(plan, columns))
    assert np.abs(integer_sum(plan, columns) - clipped.total()).max() <= 2 * N


def test_a_plan_whose_time_depends_on_values_is_refused() -> None:
    plan = slow_plan()
    assert check(plan.data).value_dependent_time == ("grads", "eval")
    with pytest.raises(InvalidPlan, match="remainder") as caught:
        rows_of(plan, data())
    assert caught.value.code == "plan_time_unbounded"
    assert check(slow_plan(operator="Mul").data).value_dependent_time == ()


def test_a_unit_that_takes_too_long_counts_as_zero_and_no_other_does() -> None:
    """A watch without time ends every unit; one with time ends none, and the session goes on after an end."""
    plan = slow_plan(operator="Pow", width=200_000, repeats=8)
    units = PlanRows(plan, "grads", MODEL, data(), bits=SecretBits())
    with Watch(1e-4) as watch:
        blocks = list(units.blocks(np.arange(5), watch))
    assert blocks[0].failed.all()
    assert not blocks[0].rows.any()
    with Watch(60.0) as watch:
        blocks = list(units.blocks(np.arange(5), watch))
    assert not blocks[0].failed.any()
    assert (blocks[0].rows == 1.0).all()


def test_what_a_unit_draws_does_not_depend_on_others() -> None:
    """A plan returns its noise: all numbers differ, for each unit and each call, whatever else fails."""
    from dataclasses import replace  # noqa: F401

    from pygrid.plans import NoisePort, Port, build_archive
    from support.plans.handmade import GraphBuilder, f32

    base = honest_plan()
    g = GraphBuilder()
    g.op("ReduceSum", "noise/u", g.ints(0), keepdims=0, out="grads/w")
    g.op("ReduceSum", "data/x", g.ints(0, 1), keepdims=0, out="metrics/loss")
    inputs = (
        f32("params/w", 1),
        f32("data/x", "batch", 1),
        Port("data/y", "int64", ("batch",)),
        f32("noise/u", "batch", 1),
    )
    outputs = (f32("grads/w", 1), f32("metrics/loss"))
    model = g.model(inputs, outputs)
    raw = model.SerializeToString(deterministic=True)
    import msgspec

    from support.plans.handmade import graph_entry

    manifest = msgspec.structs.replace(
        base.manifest, graphs={"grads": graph_entry(raw, model, inputs, outputs)}, noise={"u": NoisePort((1,))}
    )
    plan = Plan.from_bytes(build_archive(manifest, {"grads": raw}, ""))
    rows = rows_of(plan, data())
    assert len(np.unique(rows)) > 0.99 * N
    assert ((rows >= 0) & (rows < 1)).all()
    assert abs(rows.mean() - 0.5) < 0.15  # six standard errors


@pytest.fixture
def _prepared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """All jobs of a test share the times that are measured for the first one, and what follows from the plan alone."""

    def share(module: ModuleType, name: str) -> None:
        made: dict[str | CodeType, Any] = {}
        make = getattr(module, name)

        def made_once(what: Any, *more: Any, **options: Any) -> Any:
            key = options.get("name") or getattr(what, "__code__", what)
            if key not in made:
                made[key] = make(what, *more, **options)
            return made[key]

        monkeypatch.setattr(module, name, made_once)

    for module, name in (
        (contributions, "analyse"),
        (contributions, "measure"),
        (contributions, "read_graph"),
        (schedule, "measure"),
    ):
        share(module, name)


def noisy_sum(kind: str, columns: dict[str, Any], plan: Plan, terms: PrivacyTerms) -> float:
    """The one number that a private job releases: the noisy sum of the contributions, or what follows from it."""
    size = len(columns["y"])
    refs = {
        "x": ColumnRef("", "float32", (1,), size),
        "y": ColumnRef("", "int64", (), size),
        "who": ColumnRef("", "int32", (), size),
    }
    spec = JobSpec(
        id="job",
        kind=kind,  # type: ignore[arg-type]
        columns=refs,
        plan_path="plan",
        model_path="model",
        binding={"x": "x", "y": "y"},
        subject="who",
        privacy=terms,
        metric_bounds={"loss": (-4.0, 4.0)},
    )
    inputs = MappedColumns({**columns, "who": np.arange(size, dtype=np.int32) // 4}, plan.data, encode(MODEL))
    _, payload = execute.run(spec, inputs, lambda _: None, started=time.monotonic())
    if kind == "train":
        return float(decode(payload)[0]["w"][0])
    answer = json.loads(payload)
    return float(answer["metrics"]["loss"] * answer["count"])


def least_epsilon(first: Any, second: Any, delta: float) -> float:
    """A lower bound of epsilon, with a confidence above 99.9%, from samples of a number on two datasets.

    The best of some thresholds in both directions; Clopper-Pearson bounds. Source: Jagielski, Ullman, Oprea, NeurIPS
    2020.
    """
    from scipy.stats import beta

    found = 0.0
    thresholds = np.quantile(np.concatenate([first, second]), np.linspace(0.02, 0.98, 25))
    alpha = 1e-3 / (4 * len(thresholds))
    for threshold in thresholds:
        for one, other in ((first, second), (second, first)):
            for sign in (1, -1):
                hits, misses = np.sum(sign * one > sign * threshold), np.sum(sign * other > sign * threshold)
                low = beta.ppf(alpha, hits, len(one) - hits + 1) if hits else 0.0
                high = beta.ppf(1 - alpha, misses + 1, len(other) - misses) if misses < len(other) else 1.0
                if low > delta:
                    found = max(found, math.log((low - delta) / high))
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("_prepared_once")
@pytest.mark.parametrize(("kind", "rate"), [("train", 1.0), ("train", 0.1), ("evaluate", 1.0)])
@pytest.mark.parametrize("unit", ["record", "subject"])
@pytest.mark.parametrize("name", ["fallback", "position", "slow"])
def test_answers_do_not_tell_a_marked_record_beyond_epsilon(name: str, unit: str, kind: str, rate: float) -> None:
    epsilon, delta, size = 1.0, 1e-6, 40
    terms = PrivacyTerms(
        clip=1.0,
        noise_multiplier=calibrate(epsilon, delta, rate, 1),
        rounds=1,
        delta=delta,
        expected_size=1.0,
        sampling_rate=rate,
        unit=unit,  # type: ignore[arg-type]
        max_rows_per_subject=4,
    )
    plan = PLANS[name]()
    samples = [
        np.array([noisy_sum(kind, columns, plan, terms) for _ in range(NUM_JOBS)])
        for columns in (data(size), data(size, x={20: SLOW}, y={20: MARK}))
    ]
    assert samples[0].std() > 0.5 * terms.noise_multiplier, "the noise is there"
    assert least_epsilon(*samples, delta) <= epsilon


def test_the_bound_of_the_last_test_finds_a_leak() -> None:
    """Two contributions' worth of noise around sums that differ by many."""
    rng = np.random.default_rng(0)
    z = calibrate(1.0, 1e-6, 1.0, 1)
    assert least_epsilon(rng.normal(0, z, NUM_JOBS), rng.normal(252, z, NUM_JOBS), 1e-6) > 2.0
    assert least_epsilon(rng.normal(0, z, NUM_JOBS), rng.normal(1, z, NUM_JOBS), 1e-6) <= 1.0


def test_plus_or_minus_is_what_it_says() -> None:
    plan = contributing("sign", lambda g: plus_or_minus(g, g.op("Greater", "data/x", g.const(np.float32(0)))))
    assert rows_of(plan, data(x={3: 1.0}))[:5, 0].tolist() == [-1, -1, -1, 1, -1]
