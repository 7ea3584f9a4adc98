"""Hosted averaging plans: both forms agree with numpy; in a child, whatever goes wrong is an error with one code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pygrid.errors import InvalidInput, InvalidPlan, NonFinite, ShapeMismatch, Unavailable
from pygrid.plans import (
    AveragingRunner,
    DiffRef,
    GateLimits,
    Plan,
    Runner,
    check,
    run_averaging_async,
    run_averaging_in_child,
)
from pygrid.tensors import encode
from support.plans.averaging import AVERAGING, PLANS, SHAPES, all_at_once_plan, diffs
from support.plans.handmade import GraphBuilder, f32
from support.plans.variants import make_plan


def assert_mean(average: Any, given: list[dict[str, Any]]) -> None:
    assert set(average) == set(SHAPES)
    for name, array in average.items():
        np.testing.assert_allclose(array, np.mean([diff[name] for diff in given], axis=0), atol=1e-6)
        assert array.dtype == np.float32


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_average_is_that_of_numpy(name, count):
    assert_mean(AveragingRunner(PLANS[name]).average(iter(diffs(count))), diffs(count))


@pytest.mark.parametrize("name", PLANS)
def test_averaging_plans_pass_the_gate_and_say_what_a_diff_is(name):
    report = check(PLANS[name].data)
    assert {n: spec.shape for n, spec in report.model_spec.items()} == SHAPES
    assert report.model_bytes == 4 * 8
    assert not report.per_example_independent


def test_the_gate_bounds_the_memory_of_all_diffs():
    many = GateLimits(max_diffs=10**8)
    with pytest.raises(InvalidPlan, match="at the largest batch") as error:
        check(PLANS["all at once"].data, many)
    assert error.value.code == "plan_memory_too_large"
    check(PLANS["iterative"].data, many)


@pytest.mark.parametrize("name", PLANS)
def test_what_does_not_fit_is_refused(name):
    runner = AveragingRunner(PLANS[name])
    with pytest.raises(InvalidInput, match="no diffs"):
        runner.average([])
    with pytest.raises(ShapeMismatch, match="'b'"):
        runner.average([*diffs(2), {"w": np.zeros((3, 2), np.float32)}])


def test_infinity_is_no_average():
    with pytest.raises(NonFinite, match="NaN or infinity in array 'b'"):
        AveragingRunner(all_at_once_plan(spoil="Log")).average(
            [{n: -np.ones(s, np.float32) for n, s in SHAPES.items()}]
        )


def test_plans_of_the_wrong_kind_are_refused():
    with pytest.raises(InvalidPlan, match="not training"):
        Runner(PLANS["iterative"])


def stored(tmp_path: Any, given: list[dict[str, Any]]) -> list[DiffRef]:
    """One segment file with all diffs, as a server keeps them, and one file with the first alone."""
    refs, position = [], 3
    with (tmp_path / "segment").open("wb") as segment:
        segment.write(b"xyz")
        for diff in given:
            data = encode(diff, {"num_examples": "7"})
            segment.write(data)
            refs.append(DiffRef(tmp_path / "segment", position, len(data)))
            position += len(data)
    (tmp_path / "alone").write_bytes(encode(given[0]))
    refs[0] = DiffRef(tmp_path / "alone")
    return refs


@pytest.mark.parametrize("name", PLANS)
async def test_a_child_averages_diffs_from_files(tmp_path, name):
    assert_mean(await run_averaging_async(PLANS[name].data, stored(tmp_path, diffs())), diffs())


def test_a_diff_that_is_broken_fails_with_the_code(tmp_path):
    refs = stored(tmp_path, diffs())
    refs[3] = DiffRef(refs[3].path, refs[3].offset, 40)
    with pytest.raises(InvalidPlan, match="failed: the data") as error:
        run_averaging_in_child(PLANS["iterative"].data, refs)
    assert error.value.code == "averaging_failed"


def test_a_result_that_is_not_finite_fails_with_the_code(tmp_path):
    with pytest.raises(InvalidPlan, match="NaN or infinity") as error:
        run_averaging_in_child(all_at_once_plan(spoil="Log").data, stored(tmp_path, diffs()))
    assert error.value.code == "averaging_failed"


@pytest.mark.fresh_processes
@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"wall_s": 0.01}, "longer than 0.01 s"),
        ({"memory_bytes": 60 * 2**20}, "memory|ended|signal"),
        ({"cpu_s": 0}, "signal"),
    ],
)
def test_limits_fail_with_the_code(tmp_path, limits, reason):
    with pytest.raises(Unavailable, match=reason) as error:
        run_averaging_in_child(PLANS["iterative"].data, stored(tmp_path, diffs()), **limits)
    assert error.value.code == "averaging_failed"


def greedy_plan() -> Plan:
    """Makes 4 GB on the way to the average; the gate would refuse it, and here it did not run."""
    g = GraphBuilder()
    rows = g.op("Expand", g.op("Reshape", "diffs/w", g.ints(-1, 1)), g.ints(1, 1_000_000_000 // 30))
    extra = g.op("ReduceMin", g.op("Exp", g.op("Exp", rows)), keepdims=0)
    for name in SHAPES:
        mean = g.op("ReduceMean", f"diffs/{name}", g.ints(0), keepdims=0)
        g.op("Add", mean, extra, out=f"avg/{name}")
    inputs = tuple(f32(f"diffs/{n}", "num_diffs", *s) for n, s in SHAPES.items())
    outputs = tuple(f32(f"avg/{n}", *s) for n, s in SHAPES.items())
    return Plan.from_bytes(make_plan({"average": (g, inputs, outputs)}, **AVERAGING))


def test_a_plan_that_asks_for_too_much_memory_is_stopped(tmp_path):
    with pytest.raises((InvalidPlan, Unavailable)) as error:
        run_averaging_in_child(greedy_plan().data, stored(tmp_path, diffs()), memory_bytes=1024**3)
    assert error.value.code == "averaging_failed"


def test_a_training_plan_does_not_average(tmp_path):
    from support.plans.handmade import logistic_plan

    with pytest.raises(InvalidPlan, match="not averaging"):
        run_averaging_in_child(logistic_plan().data, stored(tmp_path, diffs()))
