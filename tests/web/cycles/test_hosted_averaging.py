"""Averaging by a plan of the model owner's, in place of the weighted mean.

Should happen: iterative and all-at-once plans give their average, which the server optimizer then applies; outliers are
clipped first.
Should not happen: a plan that fails loses a report; a plan that does not fit is hosted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pygrid.tensors import encode
from support.eventually import eventually
from support.plans.handmade import GraphBuilder, f32
from support.plans.variants import make_plan
from support.training import Site, assert_values, config, form, model
from support.web import assert_problem

SHAPES: dict[str, tuple[int, ...]] = {"weight": (3, 4), "bias": (3,)}
_KIND: dict[str, Any] = {"kind": "averaging", "data": {}, "metrics": {}}

PROCESSES = "/model-centric/processes"


def iterative_plan(shapes: dict[str, tuple[int, ...]] = SHAPES) -> bytes:
    """The running mean: (avg * num + item) / (num + 1)."""
    g = GraphBuilder()
    more = g.op("Add", "num", g.const(np.ones(1, np.float32)))
    for name in shapes:
        g.op("Div", g.op("Add", g.op("Mul", f"avg/{name}", "num"), f"item/{name}"), more, out=f"new/avg/{name}")
    inputs = (*(f32(f"{side}/{n}", *s) for side in ("avg", "item") for n, s in shapes.items()), f32("num", 1))
    outputs = tuple(f32(f"new/avg/{n}", *s) for n, s in shapes.items())
    return make_plan({"average": (g, inputs, outputs)}, iterative=True, **_KIND)


def largest_plan(spoil: str | None = None) -> bytes:
    """All diffs at once: the largest of each value."""
    g = GraphBuilder()
    for name in SHAPES:
        diffs = g.op(spoil, f"diffs/{name}") if spoil else f"diffs/{name}"
        g.op("ReduceMax", diffs, g.ints(0), keepdims=0, out=f"avg/{name}")
    inputs = tuple(f32(f"diffs/{n}", "num_diffs", *s) for n, s in SHAPES.items())
    outputs = tuple(f32(f"avg/{n}", *s) for n, s in SHAPES.items())
    return make_plan({"average": (g, inputs, outputs)}, **_KIND)


def median_plan() -> bytes:
    """The median of three diffs: what is left of their sum without the largest and the smallest."""
    g = GraphBuilder()
    for name in SHAPES:
        total, high, low = (
            g.op(op, f"diffs/{name}", g.ints(0), keepdims=0) for op in ("ReduceSum", "ReduceMax", "ReduceMin")
        )
        g.op("Sub", g.op("Sub", total, high), low, out=f"avg/{name}")
    inputs = tuple(f32(f"diffs/{n}", "num_diffs", *s) for n, s in SHAPES.items())
    outputs = tuple(f32(f"avg/{n}", *s) for n, s in SHAPES.items())
    return make_plan({"average": (g, inputs, outputs)}, **_KIND)


async def _run(site: Site, process: dict[str, Any], *values: float, **metadata: Any) -> None:
    for device, value in zip(await site.devices(process, len(values)), values, strict=True):
        await device.report(value, **metadata)
    await site.until_completed(process)


async def test_an_iterative_plan_averages(site: Site) -> None:
    process = await site.host(max_diffs=4, averaging_plan=iterative_plan(), iterative_plan=True)
    assert {plan["kind"] for plan in process["plans"]} == {"training", "averaging"}
    await _run(site, process, 0.5, 0.25, 0.5, 0.75)
    assert_values(await site.checkpoint(process), 0.5)


async def test_a_plan_that_takes_all_at_once_averages(site: Site) -> None:
    process = await site.host(max_diffs=3, averaging_plan=largest_plan(), outlier_factor=None)
    await _run(site, process, 0.5, -3.0, 0.25)
    assert_values(await site.checkpoint(process), 0.5)


async def test_a_median_is_not_moved_by_one_of_three(site: Site) -> None:
    process = await site.host(max_diffs=3, averaging_plan=median_plan(), outlier_factor=None)
    await _run(site, process, 0.5, 1000.0, 0.25)
    assert_values(await site.checkpoint(process), 0.5)


async def test_devices_do_not_get_the_averaging_plan(site: Site) -> None:
    process = await site.host(averaging_plan=iterative_plan(), iterative_plan=True)
    (device,) = await site.devices(process, 1)
    assert list(device.accepted["plans"]) == ["training_plan"]


async def test_the_server_optimizer_applies_the_average(site: Site) -> None:
    optimizer = {"name": "sgd", "learning_rate": 0.5}
    process = await site.host(averaging_plan=iterative_plan(), iterative_plan=True, server_optimizer=optimizer)
    await _run(site, process, 0.5, 0.25)
    assert_values(await site.checkpoint(process), 1 - 0.5 * 0.375)


async def test_weights_do_not_reach_a_plan(site: Site) -> None:
    process = await site.host(averaging_plan=iterative_plan(), iterative_plan=True)
    one, two = await site.devices(process, 2)
    await one.report(0.5, num_examples=100)
    await two.report(0.25, num_examples=1)
    await site.until_completed(process)
    assert_values(await site.checkpoint(process), 0.625)


async def test_outliers_are_clipped_before_a_plan_sees_them(site: Site) -> None:
    process = await site.host(max_diffs=3, averaging_plan=largest_plan(), outlier_factor=4.0)
    await _run(site, process, 0.25, 0.25, 12.5)
    for array in (await site.checkpoint(process)).values():
        np.testing.assert_allclose(array, 1 - 4 * 0.25, atol=1e-6)
    assert (await site.cycles(process))[0]["num_clipped"] == 1
    assert site.diff_files() == []


async def test_a_plan_that_fails_loses_nothing(site: Site) -> None:
    """The logarithm of a negative number is none: no checkpoint, the cycle stays in closing and is tried again."""
    process = await site.host(max_diffs=1, averaging_plan=largest_plan(spoil="Log"))
    (device,) = await site.devices(process, 1)
    await device.report(-0.5)
    failures = site.app.state.metrics.task_failures.labels("complete_cycle")

    async def has_failed() -> bool:
        return bool(failures._value.get() >= 1)

    await eventually(has_failed)
    cycle = await site.cycle(process)
    assert (cycle["state"], cycle["num_reports"]) == ("closing", 1)
    assert await site.num_checkpoints(process) == 1
    assert (await (await site.device(process)).ask())["reason"] == "between_cycles"
    assert (await device.send(model(-0.5))).json() == {"status": "success"}
    # Its owner can end it all the same.
    assert (await site.web.post(f"{PROCESSES}/{process['id']}/finish", headers=site.owner)).status_code == 200
    assert (await site.web.delete(f"{PROCESSES}/{process['id']}", headers=site.owner)).status_code == 204

    async def files_are_gone() -> bool:
        return site.diff_files() == []

    await eventually(files_are_gone)
    assert (await site.web.get("/readyz")).status_code == 200


@pytest.mark.parametrize(
    ("plan", "changes", "code"),
    [
        (iterative_plan(), {"iterative_plan": False}, "invalid_config"),
        (largest_plan(), {"iterative_plan": True}, "invalid_config"),
        (largest_plan(), {"max_diffs": 101}, "invalid_config"),
        (largest_plan(), {"max_diffs": None}, "invalid_config"),
        (iterative_plan({"weight": (3, 4)}), {"iterative_plan": True}, "shape_mismatch"),
        (iterative_plan({"weight": (3, 4), "bias": (4,)}), {"iterative_plan": True}, "shape_mismatch"),
    ],
)
async def test_an_averaging_plan_that_cannot_work_is_refused(site: Site, plan: bytes, changes: Any, code: str) -> None:
    parts = form(config(**changes), encode(model()), averaging_plan=plan)
    assert_problem(await site.try_host(parts), 400, code)
