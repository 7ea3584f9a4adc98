"""Devices that lie to a running Domain with the default settings.

Should happen: the model stays close to what honest devices alone would make of it.
Should not happen: one diff, or a crowd of zeros, or a claim decides about the model; in the first cycle neither.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pygrid.storage import cycles as rows
from pygrid.storage import reports
from pygrid.storage.sql.database import Database
from pygrid.tensors import Params
from pygrid.web.services import service
from support.training import Device, Site, model

LARGEST = float(np.finfo(np.float32).max)


async def run(site: Site, process: dict[str, Any], sequence: int, diffs: list[Params | float], **metadata: Any) -> None:
    """One cycle of these diffs, each of a device of its own, or all of whose values are the same."""
    devices = [await (await site.device(process)).join(wait_s=10) for _ in diffs]
    for device, diff in zip(devices, diffs, strict=True):
        answer = await device.send(model(diff) if isinstance(diff, float) else diff, **metadata)
        assert answer.status_code == 200, answer.text
    await site.until_completed(process, sequence)


def flat(params: Params) -> npt.NDArray[np.float64]:
    return np.concatenate([params[name].reshape(-1) for name in sorted(params)]).astype(np.float64)


async def moved(site: Site, process: dict[str, Any]) -> float:
    """How far the model is from where it began, in its own norm."""
    return float(np.linalg.norm(flat(await site.checkpoint(process)) - 1.0) / np.linalg.norm(flat(model())))


async def test_zeros_do_not_switch_the_bound_off(site: Site) -> None:
    """Six diffs of zero and one of 1e30, first without a history, then with one."""
    process = await site.host(max_diffs=7)
    await run(site, process, 1, [*[0.0] * 6, 1e30])
    assert await moved(site, process) < 0.15
    fresh = await site.host(name="with-history", max_diffs=7, num_cycles=4)
    await run(site, fresh, 1, [0.125] * 7)
    before = flat(await site.checkpoint(fresh))
    await run(site, fresh, 2, [*[0.0] * 6, 1e30])
    # Twice the usual norm, as one vote of seven.
    np.testing.assert_allclose(flat(await site.checkpoint(fresh)), before - 2 * 0.125 / 7, rtol=1e-6)


@pytest.mark.parametrize("num_reports", [1, 2, 4])
async def test_a_huge_diff_among_few_is_held_to_what_was_usual(site: Site, num_reports: int) -> None:
    process = await site.host(max_diffs=num_reports, num_cycles=4)
    await run(site, process, 1, [0.125] * num_reports)
    await run(site, process, 2, [*[0.125] * (num_reports - 1), LARGEST])
    wanted = 1 - 0.125 - (0.125 * (num_reports - 1) + 0.25) / num_reports
    np.testing.assert_allclose(flat(await site.checkpoint(process)), wanted, rtol=1e-6)
    assert (await site.cycles(process))[1]["num_clipped"] == 1


@pytest.mark.parametrize("num_reports", [1, 2, 4, 5, 10])
async def test_a_huge_diff_does_not_destroy_the_model_in_the_first_cycle(site: Site, num_reports: int) -> None:
    process = await site.host(max_diffs=num_reports)
    await run(site, process, 1, [*[0.125] * (num_reports - 1), -LARGEST])
    limit = 1.0 if num_reports == 1 else 0.125
    assert await moved(site, process) <= limit * (1 + 1e-6)


async def test_claims_do_not_count(site: Site) -> None:
    process = await site.host(max_diffs=10)
    devices = [await (await site.device(process)).join() for _ in range(10)]
    for device in devices[:9]:
        await device.report(0.125, num_examples=40)
    await devices[9].report(-0.125, num_examples=10_000)
    await site.until_completed(process)
    np.testing.assert_allclose(flat(await site.checkpoint(process)), 1 - 0.1, rtol=1e-6)


async def test_the_checkpoint_is_centred_clipping(site: Site) -> None:
    """Three cycles against the formula in numpy, with arrays in two orders, from the reports that the Domain has
    measured.
    """
    process = await site.host(max_diffs=7, num_cycles=4)
    generator = np.random.default_rng(0)
    x, v = np.ones(15), np.zeros(15)
    for cycle in (1, 2, 3):
        diffs: list[Params | float] = []
        for size in (1, 1, 1, 1, 2, 8, 0):
            diff = {name: (generator.normal(size=a.shape) * size).astype(np.float32) for name, a in model().items()}
            diffs.append(diff if len(diffs) % 2 else dict(reversed(diff.items())))
        await run(site, process, cycle, diffs, num_examples=generator.integers(1, 100))
        flats = [flat(diff) for diff in diffs if isinstance(diff, dict)]
        distances = [float(np.linalg.norm(d - v)) for d in flats]
        t = np.median(distances[:-1])  # the last one is zero
        v = (v + np.mean([(d - v) * t / max(s, t) for d, s in zip(flats, distances, strict=True)], axis=0)).astype(
            np.float32
        )
        x = (x - v).astype(np.float32)
        np.testing.assert_allclose(flat(await site.checkpoint(process)), x, rtol=2e-6, atol=2e-6)
        stored = await service(site.app.state, Database).read(
            lambda connection, n=cycle: _reports(connection, process["id"], n)
        )
        reaches = sorted(report.norm if report.distance is None else report.distance for report in stored)
        np.testing.assert_allclose(reaches, sorted(distances), rtol=2e-6)
        assert (await site.cycles(process))[cycle - 1]["num_clipped"] == sum(s > 2 * t for s in distances)


def _reports(connection: Any, process_id: int, sequence: int) -> list[reports.Report]:
    (cycle,) = rows.list_cycles(connection, process_id, sequence - 1, 1)
    return reports.list_reports(connection, cycle.id)


async def test_one_lone_device_is_not_held_back(site: Site) -> None:
    """Its diffs shrink as training goes on, as they do, and count in full."""
    process = await site.host(max_diffs=1, num_cycles=5)
    device: Device = await site.device(process)
    for cycle, value in enumerate((0.5, 0.25, 0.25, 0.125), 1):
        await (await device.join(wait_s=10)).report(value)
        assert (await site.until_completed(process, cycle))["num_clipped"] == 0
    np.testing.assert_array_equal(flat(await site.checkpoint(process)), 1 - 1.125)
