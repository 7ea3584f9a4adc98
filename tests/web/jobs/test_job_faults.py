"""Faults of the machine while a job runs: a disk without room, a Worker that is killed, columns that changed on the
disk.

Should happen: a result that could not be stored is stored later; an exact job whose Worker was killed runs again, once.
Should not: a private job whose result could not be stored once loses its charge for nothing, or runs twice; a job that
reads damaged columns.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from pygrid.core.jobs import JobRecord
from pygrid.features.jobs.running import results
from pygrid.features.jobs.running.job_writes import JobWrites
from pygrid.settings import DomainSettings
from pygrid.storage import audit
from pygrid.storage.charges import charges
from pygrid.storage.columns import CHECKSUMS_FILE
from pygrid.storage.datasets import dataset_versions
from pygrid.storage.sql.database import Database
from pygrid.storage.sql.failures import outcome_unknown
from pygrid.web.services import service
from support.eventually import eventually
from support.jobs import Site
from support.processes import job_processes
from support.web import assert_problem, flip

COUNT: dict[str, Any] = {"statistics": [{"kind": "count"}]}
PRIVATE_COUNT: dict[str, Any] = {**COUNT, "privacy": {"epsilon": 1.0, "delta": 1e-6}}
LONG: dict[str, Any] = {"epochs": 10_000, "batch_size": 1}
LONG_PRIVATE: dict[str, Any] = {"epochs": 1500, "batch_size": 10, "privacy": {"epsilon": 1.0, "delta": 1e-6}}


async def failed(site: Site, job_id: str) -> dict[str, Any] | None:
    job = await site.owner.job(job_id)
    return job if job["state"] == "failed" else None


async def actions(site: Site, job_id: str) -> list[str]:
    entries = await service(site.app.state, Database).read(lambda c: audit.list_entries(c, limit=1000))
    return [entry.action for entry in entries if entry.data.get("job_id") == job_id]


async def charge_states(site: Site) -> list[str]:
    def load(connection: sa.Connection) -> list[str]:
        return list(connection.execute(sa.select(charges.c.state)).scalars())

    found: list[str] = await service(site.app.state, Database).read(load)
    return found


async def test_a_result_that_could_not_be_stored_is_stored_again(
    site: Site, settings: DomainSettings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(results, "FIRST_RETRY_S", 0.05)
    dataset = await site.owner.upload()
    await site.owner.set_policy(dataset)
    # A file where the folder of results should be: every attempt to store one fails in the file system.
    place, aside = settings.data_dir / "jobs" / "results", settings.data_dir / "jobs" / "aside"
    place.rename(aside)
    place.touch()
    job = await site.scientist.submit(dataset, "statistics", **PRIVATE_COUNT)
    await eventually(lambda: "end of job not stored" in caplog.text)
    assert (await site.scientist.job(job["id"]))["state"] == "running"
    place.unlink()
    aside.rename(place)
    await site.scientist.wait(job["id"], "released")
    assert (await site.scientist.result(job["id"])).status_code == 200
    assert await charge_states(site) == ["released"]
    assert (await actions(site, job["id"])).count("job_started") == 1


async def test_a_begin_whose_commit_is_unknown_is_not_told_as_free(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection to the database breaks after the commit that lets a Worker have the job, before its answer."""
    begin = JobWrites.begin

    async def losing_the_answer(writes: JobWrites, job: JobRecord, lease: str) -> bool:
        await begin(writes, job, lease)
        raise outcome_unknown()

    monkeypatch.setattr(JobWrites, "begin", losing_the_answer)
    dataset = await site.owner.upload()
    await site.owner.set_policy(dataset)
    job = await site.scientist.submit(dataset, "statistics", **PRIVATE_COUNT)
    ended = await site.scientist.wait(job["id"], "failed")
    assert "what it was charged stays charged" in ended["detail"]
    assert await charge_states(site) == ["failed"]


async def has_begun(site: Site, job_id: str, attempt: int) -> bool:
    is_started = (await actions(site, job_id)).count("job_started") == attempt
    return is_started and (await site.scientist.job(job_id))["progress"] > 0


def kill_worker() -> None:
    """Kill the child of the fork server that computes, as the kernel does when memory runs out."""
    max(job_processes(), key=lambda child: float(child.cpu_times().user)).kill()


async def test_an_exact_job_whose_worker_was_killed_runs_again_once(site: Site) -> None:
    dataset = await site.owner.upload()
    job = await site.scientist.submit(dataset, **LONG)
    await site.owner.approve(await site.owner.wait(job["id"], "waiting"))
    for attempt in (1, 2):
        await eventually(partial(has_begun, site, job["id"], attempt))
        kill_worker()
    told = await eventually(lambda: failed(site, job["id"]))
    assert told["code"] == "lost"
    assert (await actions(site, job["id"])).count("job_requeued") == 1


async def has_worker() -> bool:
    """Whether a fork server has a child."""
    return bool(job_processes())


async def test_a_private_job_whose_worker_was_killed_does_not_run_again(site: Site) -> None:
    dataset = await site.owner.upload()
    await site.owner.set_policy(dataset)
    job = await site.scientist.submit(dataset, **LONG_PRIVATE)
    await site.scientist.wait(job["id"], "running")
    await eventually(has_worker)
    kill_worker()
    await eventually(lambda: failed(site, job["id"]))
    assert (await actions(site, job["id"])).count("job_started") == 1
    assert await charge_states(site) == ["failed"]


async def columns_of(site: Site, settings: DomainSettings) -> Path:
    select = sa.select(dataset_versions.c.folder)
    name: str = await service(site.app.state, Database).read(lambda connection: connection.execute(select).scalar_one())
    return settings.data_dir / "datasets" / name


async def test_damaged_columns_are_not_read(site: Site, settings: DomainSettings) -> None:
    dataset = await site.owner.upload()
    folder = await columns_of(site, settings)
    # Version 0.1 wrote no checksums: the first use makes them.
    (folder / CHECKSUMS_FILE).unlink()
    job = await site.scientist.submit(dataset, "statistics", **COUNT)
    await site.owner.approve(await site.owner.wait(job["id"], "waiting"))
    await site.owner.wait(job["id"], "held")
    assert (folder / CHECKSUMS_FILE).is_file()
    for column in folder.glob("*.bin"):
        flip(column)
    job = await site.scientist.submit(dataset)
    await site.owner.approve(await site.owner.wait(job["id"], "waiting"))
    told = await eventually(lambda: failed(site, job["id"]))
    assert "damaged" in told["detail"]


async def test_a_damaged_result_does_not_leave(site: Site, settings: DomainSettings) -> None:
    dataset = await site.owner.upload()
    await site.owner.set_policy(dataset)
    job = await site.scientist.submit(dataset, "statistics", **PRIVATE_COUNT)
    await site.scientist.wait(job["id"], "released")
    (result,) = (
        path for path in (settings.data_dir / "jobs" / "results" / job["id"]).iterdir() if len(path.name) == 64
    )
    flip(result)
    assert_problem(await site.scientist.result(job["id"]), 503, "blob_damaged")
