"""A Domain that stops and starts again on the same folder.

Should happen: keys, waiting cycles, accepted reports and what was closing go on where they were; files of nobody are
swept. Should not happen: a report is lost or counts twice; a cycle that nobody closes; a fault that stops other cycles.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from pygrid.clock import ManualClock
from pygrid.domain import build_domain
from pygrid.settings import DomainSettings
from pygrid.storage import cycles as rows
from pygrid.storage.cycle_transitions import close_cycle
from pygrid.storage.sql.database import Database
from pygrid.storage.sql.failures import outcome_unknown
from pygrid.tensors import encode
from pygrid.web.services import service
from support.eventually import eventually
from support.streams import Waiting
from support.training import (
    Device,
    Site,
    assert_values,
    gate_in_process,
    model,
    read_variant_alone,
    running_site,
    wide_plan,
)
from support.web import assert_problem

WIDE = 100_000


class Restartable:
    """A Domain that can be started again and again on one folder."""

    def __init__(self, settings: DomainSettings, clock: ManualClock, owner: dict[str, str]) -> None:
        self._settings = settings
        self._clock = clock
        self._owner = owner
        self.folder: Path = settings.data_dir

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Site]:
        app = build_domain(self._settings, clock=self._clock)
        async with running_site(app, self._clock, self._settings.data_dir, self._owner) as site:
            yield site

    def database(self) -> Database:
        return Database(self._settings.database_url)


@pytest.fixture
def domain_again(
    owned_folder: tuple[Path, dict[str, str]],
    settings: DomainSettings,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> Restartable:
    monkeypatch.setattr("pygrid.features.processes.hosting.check_async", gate_in_process)
    monkeypatch.setattr("pygrid.plans.dialects.check.check_async", read_variant_alone)
    shutil.copytree(owned_folder[0], settings.data_dir)
    return Restartable(settings, clock, owned_folder[1])


def _moved(device: Device, site: Site) -> Device:
    """The same device, talking to a Domain that was started again."""
    moved = Device(site, device.process, device.worker_id)
    moved.key = device.key
    return moved


async def test_a_time_of_grace_goes_on_and_its_reports_count_once(
    domain_again: Restartable, clock: ManualClock
) -> None:
    async with domain_again.running() as site:
        process = await site.host(max_diffs=1, grace_s=10, outlier_factor=None)
        one, late, silent = await site.devices(process, 3)
        await one.report(0.25)
        await late.report(0.75)
    clock.advance(5)
    async with domain_again.running() as site:
        cycle = await site.cycle(process)
        assert (cycle["state"], cycle["num_reports"], cycle["grace_until"]) == ("open", 2, "2026-01-01T00:00:10Z")
        await _moved(late, site).report(0.75)
        await site.pass_time(6)
        completed = await site.until_completed(process)
        assert (completed["num_reports"], completed["num_late"]) == (2, 1)
        assert_values(await site.checkpoint(process), 0.5)
        assert_problem(await _moved(silent, site).send(model(0.5)), 410, "cycle_closed")


@pytest.mark.parametrize("wide", [0, WIDE], ids=["small", "large"])
async def test_a_cycle_goes_on_with_exactly_the_reports_it_had(domain_again: Restartable, wide: int) -> None:
    plans = {"training_plan": wide_plan(wide)} if wide else None
    async with domain_again.running() as site:
        process = await site.host(start=model(1.0, wide), plans=plans, max_diffs=4)
        devices = await site.devices(process, 4)
        for device, value in zip(devices[:2], (0.5, 0.25), strict=True):
            assert (await device.send(model(value, wide))).status_code == 200
    async with domain_again.running() as site:
        devices = [_moved(device, site) for device in devices]
        cycle = await site.cycle(process)
        assert (cycle["state"], cycle["num_reports"], cycle["num_assigned"]) == ("open", 2, 4)
        # Sent again after the stop: a success, and nothing more.
        assert (await devices[0].send(model(0.5, wide))).json() == {"status": "success"}
        assert_problem(await devices[1].send(model(0.75, wide)), 409, "already_reported")
        assert (await devices[2].send(model(0.75, wide))).status_code == 200
    async with domain_again.running() as site:
        assert (await _moved(devices[3], site).send(model(0.5, wide))).status_code == 200
        completed = await site.until_completed(process)
        assert completed["num_reports"] == 4
        assert_values(await site.checkpoint(process), 0.5)


@pytest.mark.parametrize("wide", [0, WIDE], ids=["small", "large"])
async def test_a_report_whose_commit_is_unknown_keeps_its_bytes(
    domain_again: Restartable, wide: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the connection to the database broke after the commit, and before its answer."""
    plans = {"training_plan": wide_plan(wide)} if wide else None
    async with domain_again.running() as site:
        process = await site.host(start=model(1.0, wide), plans=plans, max_diffs=2)
        devices = await site.devices(process, 2)
        with monkeypatch.context() as patch:
            for name in ("write", "write_all", "write_all_with_bytes"):
                patch.setattr(Database, name, _losing_the_answer(getattr(Database, name)))
            assert_problem(await devices[0].send(model(0.5, wide)), 503, "outcome_unknown")
    async with domain_again.running() as site:
        assert (await _moved(devices[0], site).send(model(0.5, wide))).json() == {"status": "success"}
        assert (await _moved(devices[1], site).send(model(0.25, wide))).status_code == 200
        assert (await site.until_completed(process))["num_reports"] == 2
        assert_values(await site.checkpoint(process), 0.625)


def _losing_the_answer(write: Callable[..., Any]) -> Callable[..., Any]:
    async def lost(*args: Any) -> Any:
        await write(*args)
        raise outcome_unknown()

    return lost


async def test_weights_scales_and_optimizer_state_survive(domain_again: Restartable) -> None:
    """Momentum over two cycles, with a stop between the reports of each."""
    async with domain_again.running() as site:
        process = await site.host(
            max_diffs=2, outlier_factor=4.0, server_optimizer={"name": "momentum", "momentum": 0.5}
        )
        first = await site.devices(process, 2)
        await first[0].report(1.0, num_examples=3)
    async with domain_again.running() as site:
        await _moved(first[1], site).report(0.0, num_examples=1)
        await site.until_completed(process)
        assert_values(await site.checkpoint(process), 0.25)
        second = await site.devices(process, 2)
        await second[0].report(0.5)
    async with domain_again.running() as site:
        await _moved(second[1], site).report(0.25)
        await site.until_completed(process, 2)
        # m = 0.75, then 0.5 * 0.75 + 0.375
        assert_values(await site.checkpoint(process), 0.25 - 0.75)


async def test_earlier_norms_bound_outliers_after_a_restart(domain_again: Restartable) -> None:
    async with domain_again.running() as site:
        process = await site.host(max_diffs=2, num_cycles=5)
        for device in await site.devices(process, 2):
            await device.report(0.25)
        await site.until_completed(process)
    async with domain_again.running() as site:
        honest, hostile = await site.devices(process, 2)
        await hostile.report(-25.0)
        await honest.report(0.25)
        assert (await site.until_completed(process, 2))["num_clipped"] == 1
        # Norms 1, 1, 1, 100 in units of an honest one: the median is 1, so the hostile one counts 2.
        for array in (await site.checkpoint(process)).values():
            np.testing.assert_allclose(array, 0.75 - (0.25 - 0.5) / 2, rtol=1e-6)


async def test_a_deadline_that_passed_while_it_was_stopped_closes_the_cycle(
    domain_again: Restartable, clock: ManualClock
) -> None:
    async with domain_again.running() as site:
        process = await site.host(max_diffs=None, cycle_length=60)
        waiting = await site.host(name="other", min_diffs=2, max_diffs=None, cycle_length=60)
        (device,) = await site.devices(process, 1)
        await device.report(0.5)
    clock.advance(600)
    async with domain_again.running() as site:
        await site.until_completed(process)
        assert_values(await site.checkpoint(process), 0.5)

        async def reopened() -> bool:
            return (await site.cycle(waiting))["attempt"] == 2

        await eventually(reopened)


async def test_a_cycle_left_in_closing_is_completed_at_the_start(domain_again: Restartable, clock: ManualClock) -> None:
    """As after a kill between closing and completing: the lease of the dead is no obstacle."""
    async with domain_again.running() as site:
        process = await site.host(max_diffs=3)
        for device in await site.devices(process, 2):
            await device.report(0.5)
    database = domain_again.database()
    database.write_now(lambda c: close_cycle(c, rows.get_newest_cycle(c, process["id"]), clock.now()))
    database.close()
    async with domain_again.running() as site:
        completed = await site.until_completed(process)
        assert completed["num_reports"] == 2
        assert_values(await site.checkpoint(process), 0.5)
        assert (await site.cycle(process))["state"] == "open"


async def test_files_of_nobody_are_swept_at_the_start(domain_again: Restartable) -> None:
    async with domain_again.running() as site:
        process = await site.host(start=model(1.0, WIDE), plans={"training_plan": wide_plan(WIDE)})
        one, two = await site.devices(process, 2)
        assert (await one.send(model(0.5, WIDE))).status_code == 200
    folder = domain_again.folder
    (kept,) = (folder / "diffs").glob("*.report")
    left = [
        kept.with_name("1-0123456789abcdef.report"),
        folder / "diffs" / "999.segment",
        folder / "blobs" / ".abc.part",
    ]
    for path in left:
        path.write_bytes(b"left behind")
    async with domain_again.running() as site:
        assert [path for path in left if path.exists()] == []
        assert kept.exists()
        assert (await _moved(two, site).send(model(0.25, WIDE))).status_code == 200
        await site.until_completed(process)
        assert_values(await site.checkpoint(process), 0.625)
        await eventually(lambda: not kept.exists())


async def test_bytes_without_a_row_do_not_count(domain_again: Restartable) -> None:
    """As after a kill between the bytes of a report and its row: the next report lies behind them."""
    async with domain_again.running() as site:
        process = await site.host()
        one, two = await site.devices(process, 2)
        await one.report(0.5)
    (segment,) = (domain_again.folder / "diffs").glob("*.segment")
    with segment.open("ab") as file:
        file.write(encode(model(100.0)) + b"half a rep")
    async with domain_again.running() as site:
        await _moved(two, site).report(0.25)
        await site.until_completed(process)
        assert_values(await site.checkpoint(process), 0.625)


async def test_who_waits_is_answered_when_the_domain_stops(domain_again: Restartable) -> None:
    async with domain_again.running() as site:
        process = await site.host(max_workers=1, max_diffs=1)
        await site.devices(process, 1)
        waiting = await Waiting(site, await site.device(process), wait_s=100).held()
        site.app.state.stopping.set()
        answer = await waiting.answer()
        assert (answer["status"], answer["reason"]) == ("rejected", "cycle_full")


async def test_finished_processes_stay_finished(domain_again: Restartable) -> None:
    async with domain_again.running() as site:
        process = await site.host(num_cycles=1, max_diffs=1, published=True)
        (device,) = await site.devices(process, 1)
        await device.report(0.5)
        await site.until_completed(process)
    async with domain_again.running() as site:
        assert await _moved(device, site).ask(wait_s=None) == {"status": "rejected"}
        assert (await _moved(device, site).send(model(0.5))).json() == {"status": "success"}
        assert len(await site.cycles(process)) == 1


# -- faults of the store while it runs ---------------------------------------------------------------------------------


def _rename(old: str, new: str) -> Any:
    return lambda connection: connection.execute(sa.text(f"ALTER TABLE {old} RENAME TO {new}"))


async def test_a_deadline_is_kept_although_the_store_fails_meanwhile(domain_again: Restartable) -> None:
    """Without its table of events no cycle can close; once it is back both do."""
    async with domain_again.running() as site:
        processes = [await site.host(name=name, max_diffs=None) for name in ("one", "two")]
        for process in processes:
            (device,) = await site.devices(process, 1)
            await device.report(0.5)
        database = service(site.app.state, Database)
        await database.write(_rename("events", "events_gone"))
        failures = site.app.state.metrics.task_failures.labels("end_cycle")
        await site.pass_time(61)

        async def both_failed() -> bool:
            return bool(failures._value.get() >= 2)

        await eventually(both_failed)
        assert {(await site.cycle(process))["state"] for process in processes} == {"open"}
        await database.write(_rename("events_gone", "events"))
        await site.pass_time(10)
        for process in processes:
            await site.until_completed(process)
            assert_values(await site.checkpoint(process), 0.5)


async def test_a_completion_that_fails_is_tried_again(domain_again: Restartable) -> None:
    """The model's file is away: no checkpoint; once it is back the cycle completes with what it had."""
    async with domain_again.running() as site:
        process = await site.host(max_diffs=1)
        (device,) = await site.devices(process, 1)
        blob = site.folder / "blobs" / device.accepted["model_hash"]
        aside = blob.with_suffix(".aside")
        blob.rename(aside)
        await device.report(0.5)
        failures = site.app.state.metrics.task_failures.labels("complete_cycle")

        async def failed() -> bool:
            return bool(failures._value.get() >= 1)

        await eventually(failed)
        assert (await site.cycle(process))["state"] == "closing"
        aside.rename(blob)
        await site.pass_time(10)
        await site.until_completed(process)
        assert_values(await site.checkpoint(process), 0.5)


async def test_a_report_that_cannot_be_stored_is_not_acknowledged(domain_again: Restartable) -> None:
    async with domain_again.running() as site:
        process = await site.host(max_diffs=1)
        (device,) = await site.devices(process, 1)
        database = service(site.app.state, Database)
        await database.write(_rename("reports", "reports_gone"))
        assert (await device.send(model(0.5))).status_code >= 500
        await database.write(_rename("reports_gone", "reports"))
        await device.report(0.5)
        await site.until_completed(process)
        assert_values(await site.checkpoint(process), 0.5)
