"""A Domain that is stopped while jobs are on their way, and starts again on the same folder.

Should happen: what waits goes on; what was charged stays charged; a result that was stored is released, once; an exact
job whose Worker was lost is started once more.
Should not happen: a private job runs twice on one charge; a job that stays as it is for ever; files of nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from pygrid.core.jobs import JobRecord
from pygrid.domain import DomainTimings, build_domain
from pygrid.features.jobs.running.dry_run import DryRun
from pygrid.features.jobs.running.queue import JobQueue
from pygrid.features.jobs.running.results import Results
from pygrid.features.jobs.running.spec_builder import SpecBuilder
from pygrid.settings import DomainSettings
from pygrid.storage import audit
from pygrid.storage.audit import HEAD_FILE, read_head
from pygrid.storage.charges import charges
from pygrid.storage.job_files import JobFiles
from pygrid.storage.sql.database import Database
from pygrid.storage.store import Store
from pygrid.web.services import service
from support.eventually import eventually
from support.jobs import Person, Site, running_site
from support.web import People, assert_problem, running

COUNT: dict[str, Any] = {"statistics": [{"kind": "count"}]}
PRIVATE_COUNT: dict[str, Any] = {**COUNT, "privacy": {"epsilon": 1.0, "delta": 1e-6}}
LONG: dict[str, Any] = {"epochs": 10_000, "batch_size": 1}
LONG_PRIVATE: dict[str, Any] = {"epochs": 1500, "batch_size": 10, "privacy": {"epsilon": 1.0, "delta": 1e-6}}


@asynccontextmanager
async def again(settings: DomainSettings, timings: DomainTimings | None = None) -> AsyncIterator[Site]:
    """The same Domain, once more, with the same people."""
    app = build_domain(settings, timings=timings)
    async with running(app) as web:
        people = People(web)
        names = ("owner", "scientist", "officer", "stranger")
        everybody = [Person(web, await people.log_in(f"{name}@example.org")) for name in names]
        yield Site(app, web, *everybody, people)


async def never(*_: object) -> Any:
    """What a crash came before."""
    await asyncio.Event().wait()


def states_of_charges(settings: DomainSettings) -> list[str]:
    database = Database(settings.database_url)
    try:
        assert (
            database.read_now(lambda connection: audit.verify(connection, read_head(settings.data_dir / HEAD_FILE)))
            is None
        )
        return database.read_now(
            lambda connection: list(connection.execute(sa.select(charges.c.state).order_by(charges.c.id)).scalars())
        )
    finally:
        database.close()


async def until_a_worker_begins(settings: DomainSettings) -> None:
    """Wait until the only charge can't be given back any more."""

    async def is_running() -> bool:
        return await asyncio.to_thread(states_of_charges, settings) == ["running"]

    await eventually(is_running)


async def test_what_is_checked_waits_or_is_approved_goes_on(
    settings: DomainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing_now(_queue: JobQueue, **_which: bool) -> None:
        return None

    with monkeypatch.context() as patch:
        patch.setattr(DryRun, "run", never)
        async with running_site(settings) as site:
            dataset = await site.owner.upload()
            await site.owner.set_policy(dataset)
            exact = await site.scientist.submit(dataset, "statistics", **COUNT)
            private = await site.scientist.submit(dataset, "statistics", **PRIVATE_COUNT)
    with monkeypatch.context() as patch:
        patch.setattr(JobQueue, "take_next", nothing_now)
        async with again(settings) as site:
            waiting = await site.owner.wait(exact["id"], "waiting")
            await site.scientist.wait(private["id"], "approved")
    assert states_of_charges(settings) == []
    async with again(settings) as site:
        await site.scientist.wait(private["id"], "released")
        await site.owner.approve(waiting)
        await site.owner.wait(exact["id"], "held")
    async with again(settings) as site:
        held = await site.owner.job(exact["id"])
        await site.owner.approve(held)
    async with again(settings) as site:
        assert (await site.scientist.result(exact["id"])).json()["answers"][0]["value"] == 300
    assert states_of_charges(settings) == ["released"]


async def test_a_private_job_that_was_cut_off_fails_and_stays_charged(settings: DomainSettings) -> None:
    async with running_site(settings) as site:
        dataset = await site.owner.upload()
        await site.owner.set_policy(dataset)
        job = await site.scientist.submit(dataset, **LONG_PRIVATE)
        await site.scientist.wait(job["id"], "running")
        await until_a_worker_begins(settings)
    assert states_of_charges(settings) == ["running"]
    async with again(settings) as site:
        failed = await site.scientist.wait(job["id"], "failed")
        assert failed["code"] == "job_failed"
        assert "the Domain stopped" in (await site.owner.job(job["id"]))["detail"]
        assert (await site.scientist.budget(dataset))["yours"] == pytest.approx(job["cost"]["your_price"])
    assert states_of_charges(settings) == ["failed"]
    assert not list((settings.data_dir / "jobs" / "inputs").iterdir())


async def test_an_exact_job_that_was_cut_off_is_started_once_more_and_no_more(settings: DomainSettings) -> None:
    async with running_site(settings) as site:
        dataset = await site.owner.upload()
        job = await site.scientist.submit(dataset, **LONG)
        await site.owner.approve(await site.owner.wait(job["id"], "waiting"))
        await site.scientist.wait(job["id"], "running")
    async with again(settings) as site:
        await site.scientist.wait(job["id"], "running")
    async with again(settings) as site:
        failed = await site.scientist.wait(job["id"], "failed")
        assert failed["code"] == "lost"


async def test_a_result_that_was_stored_is_released_once(
    settings: DomainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: list[bytes] = []
    put_result = JobFiles.put_result

    def put(files: JobFiles, job_id: str, payload: bytes, outcome: bytes) -> str:
        stored.append(payload)
        return put_result(files, job_id, payload, outcome)

    monkeypatch.setattr(JobFiles, "put_result", put)
    with monkeypatch.context() as patch:
        patch.setattr(Results, "finish", never)
        async with running_site(settings) as site:
            dataset = await site.owner.upload()
            await site.owner.set_policy(dataset)
            job = await site.scientist.submit(dataset, "statistics", **PRIVATE_COUNT)
            await eventually(lambda: stored)
            assert (await site.scientist.job(job["id"]))["state"] == "running"
    assert states_of_charges(settings) == ["running"]
    for _ in range(2):
        async with again(settings) as site:
            await site.scientist.wait(job["id"], "released")
            assert (await site.scientist.result(job["id"])).content == stored[0]
            assert (await site.owner.job(job["id"]))["facts"]["num_records"] == 300
    assert len(stored) == 1
    assert states_of_charges(settings) == ["released"]


async def test_a_charge_is_durable_before_the_worker_starts(
    settings: DomainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    spec = SpecBuilder.spec

    async def look(maker: SpecBuilder, job: JobRecord, held: contextlib.ExitStack) -> Any:
        seen.append(await asyncio.to_thread(states_of_charges, settings))
        return await spec(maker, job, held)

    monkeypatch.setattr(SpecBuilder, "spec", look)
    async with running_site(settings) as site:
        dataset = await site.owner.upload()
        await site.owner.set_policy(dataset)
        job = await site.scientist.submit(dataset, "statistics", **PRIVATE_COUNT)
        await site.scientist.wait(job["id"], "released")
    assert seen == [["reserved"]]


async def test_a_cancelled_private_job_stays_charged(settings: DomainSettings) -> None:
    async with running_site(settings) as site:
        dataset = await site.owner.upload()
        await site.owner.set_policy(dataset)
        job = await site.scientist.submit(dataset, **LONG_PRIVATE)
        await site.scientist.wait(job["id"], "running")
        await until_a_worker_begins(settings)
        answer = await site.scientist.call("POST", f"/data-centric/jobs/{job['id']}/cancel")
        assert answer.json()["state"] == "cancelled"
        assert (await site.scientist.budget(dataset))["yours"] == pytest.approx(job["cost"]["your_price"])
    assert states_of_charges(settings) == ["failed"]


async def test_a_deleted_dataset_costs_nothing_any_more(
    settings: DomainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(JobQueue, "take_next", never)
        async with running_site(settings) as site:
            dataset = await site.owner.upload()
            await site.owner.set_policy(dataset, auto_approve=False)
            job = await site.scientist.submit(dataset, "statistics", **PRIVATE_COUNT)
            await site.owner.approve(await site.owner.wait(job["id"], "waiting"))
            assert (await site.owner.call("DELETE", f"/data-centric/datasets/{dataset}")).status_code == 204
    async with again(settings) as site:
        failed = await site.scientist.wait(job["id"], "failed")
        assert failed["code"] == "dataset_not_found"
    assert states_of_charges(settings) == []


async def test_no_private_job_runs_on_a_database_that_is_older_than_its_exported_head(settings: DomainSettings) -> None:
    file = settings.data_dir / "domain.db"
    async with running_site(settings) as site:
        dataset = await site.owner.upload()
        await site.owner.set_policy(dataset)
        approved = await site.scientist.submit(dataset, "statistics", **PRIVATE_COUNT)
        await site.scientist.wait(approved["id"], "released")
    old = file.read_bytes()
    async with again(settings) as site:
        job = await site.scientist.submit(dataset, "statistics", **PRIVATE_COUNT)
        await site.scientist.wait(job["id"], "released")
    file.write_bytes(old)
    async with again(settings) as site:
        answer = await site.scientist.try_submit(dataset, "statistics", **PRIVATE_COUNT)
        assert "audit-head.json" in assert_problem(answer, 503, "ledger_rolled_back")["detail"]
        exact = await site.scientist.submit(dataset, "statistics", **COUNT)
        await site.owner.wait(exact["id"], "waiting")
    (settings.data_dir / HEAD_FILE).unlink()
    async with again(settings) as site:
        job = await site.scientist.submit(dataset, "statistics", **PRIVATE_COUNT)
        await site.scientist.wait(job["id"], "released")


async def test_a_job_whose_charge_is_not_its_own_holds_up_no_other(
    settings: DomainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody wrote to the database: what is not paid for as it says is not released, and is told in the log."""
    with monkeypatch.context() as patch:
        patch.setattr(Results, "finish", never)
        async with running_site(settings) as site:
            dataset = await site.owner.upload()
            await site.owner.set_policy(dataset)
            job = await site.scientist.submit(dataset, "statistics", **PRIVATE_COUNT)
            results = settings.data_dir / "jobs" / "results"
            await eventually(lambda: [path for path in results.rglob("*") if path.is_file()])
    database = Database(settings.database_url)
    await database.write(lambda connection: connection.execute(charges.update().values(state="failed")))
    database.close()
    async with again(settings) as site:
        assert (await site.scientist.job(job["id"]))["state"] == "running"
        assert_problem(await site.scientist.result(job["id"]), 409, "result_not_released")
        other = await site.scientist.submit(dataset, "statistics", **PRIVATE_COUNT)
        await site.scientist.wait(other["id"], "released")
    assert list(results.rglob(f"*{job['id']}*")), "the result is kept for who looks into it"


async def test_a_head_that_cannot_be_exported_goes_out_with_the_next(settings: DomainSettings) -> None:
    async with running_site(settings) as site:
        dataset = await site.owner.upload()
        await site.owner.set_policy(dataset)
        head_file = settings.data_dir / HEAD_FILE
        before = read_head(head_file)
        aside = head_file.rename(head_file.with_name("aside"))
        head_file.mkdir()
        job = await site.scientist.submit(dataset, "statistics", **PRIVATE_COUNT)
        await site.scientist.wait(job["id"], "released")
        head_file.rmdir()  # raises if there is something in it
        aside.rename(head_file)
        assert read_head(head_file) == before
        await site.owner.set_policy(dataset)
        assert read_head(head_file).number > before.number + 3
    assert states_of_charges(settings) == ["released"]


async def test_a_result_that_a_former_leader_stored_late_does_not_hold_up_its_job(settings: DomainSettings) -> None:
    """The former leader was paused while its Worker ended. When it wakes up, the job runs again elsewhere."""
    async with running_site(settings) as site:
        dataset = await site.owner.upload()
        job = await site.scientist.submit(dataset, epochs=1000, batch_size=10)
        await site.owner.approve(await site.owner.wait(job["id"], "waiting"))
        await site.owner.wait(job["id"], "running")
        store = service(site.app.state, Store)
        await asyncio.to_thread(store.job_files.put_result, job["id"], b"of the former leader", b"{}")
        await site.owner.approve(await site.owner.wait(job["id"], "held"))
        result = await site.scientist.result(job["id"])
        assert result.status_code == 200
        assert result.content != b"of the former leader"


async def test_a_domain_that_drains_starts_no_job_and_ends_those_that_run(settings: DomainSettings) -> None:
    async with running_site(settings) as site:
        dataset = await site.owner.upload()
        await site.owner.set_policy(dataset)
        first = await site.scientist.submit(dataset, **{**LONG_PRIVATE, "epochs": 200})
        await site.scientist.wait(first["id"], "running")
        site.app.state.stopping.is_draining = True
        second = await site.scientist.submit(dataset, "statistics", **PRIVATE_COUNT)
        await site.scientist.wait(first["id"], "released")
        assert (await site.scientist.job(second["id"]))["state"] == "checking"
    async with again(settings) as site:
        await site.scientist.wait(second["id"], "released")
