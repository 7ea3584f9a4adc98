"""A Domain that stops and starts again while Workers of other machines have its jobs, and those Workers, by hand.

Should happen: a Worker renews its lease at the new process, fetches the same files, and brings its result, which is
released on the job's one charge; a job that no Worker has begun is offered again.
Should not happen: a private job that begins twice; a Worker that uses the lease of another one; a result that was
accepted and is lost; a lease that outlives its job, its Worker's authorization or its time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from test_engine_jobs import ANSWERS, TIMINGS, Engine, all_ended, allowed, claim, exact, private, try_claim
from test_job_restart import again, never, states_of_charges
from test_remote_leases import COUNT, GOOD, PRIVATE, Machine, ended, history, machine, open_dataset

from pygrid.compute.engines import EngineState
from pygrid.features.jobs.running.results import Results
from pygrid.features.jobs.running.spec_builder import SpecBuilder
from pygrid.features.workers import engines
from pygrid.features.workers.service import WorkersService
from pygrid.settings import DomainSettings, load_settings
from pygrid.storage import audit
from pygrid.storage.sql.database import Database
from pygrid.storage.workers import worker_leases
from pygrid.tensors import encode
from pygrid.web.services import service
from support.eventually import eventually
from support.jobs import JOBS, PLAN, Site, running_site
from support.plans.handmade import logistic_params
from support.web import assert_problem

POOLS = """
[[pool]]
name = "hpc"
driver = "slurm"
folder = "/nowhere"
domain = "http://domain.example"
places = 2
start_s = 60
"""
RESULT = ended(GOOD, ANSWERS)


@pytest.fixture
def settings(tmp_path: Path) -> DomainSettings:
    return load_settings({}, data_dir=tmp_path / "data", id="test", prefer_remote_workers=True, num_workers=1)


@asynccontextmanager
async def restarted(settings: DomainSettings, *machines: Machine) -> AsyncIterator[Site]:
    """The same Domain once more; the machines talk to it."""
    async with again(settings) as site:
        for one in machines:
            one.site = site
        yield site


async def patiently(call: Any) -> httpx.Response:
    """The answer to a request that a Worker repeats while the Domain asks for it."""

    async def answer() -> httpx.Response | None:
        response: httpx.Response = await call()
        return None if response.status_code == 503 else response

    found: httpx.Response = await eventually(answer)
    return found


async def actions(site: Site, job_id: str) -> list[str]:
    read = service(site.app.state, Database).read
    entries = await read(lambda connection: audit.list_entries(connection, limit=1000))
    return [one.action for one in entries if one.data.get("job_id") == job_id]


async def open_dataset_for(site: Site, worker: Machine) -> int:
    dataset = await site.owner.upload(f"points-{worker.id}")
    await site.owner.set_policy(dataset, allow_remote_workers=True, fresh_budget=True)
    return dataset


async def lease_private(site: Site, worker: Machine) -> tuple[dict[str, Any], str]:
    dataset = await open_dataset_for(site, worker)
    lease, job = await worker.take(site.scientist.submit(dataset, "statistics", **COUNT, **PRIVATE))
    return lease, job["id"]


async def lease_exact(site: Site, worker: Machine) -> tuple[dict[str, Any], str]:
    job = await site.scientist.submit(await open_dataset_for(site, worker), "statistics", **COUNT)
    lease, _ = await worker.take(site.owner.approve(await site.owner.wait(job["id"], "waiting")))
    return lease, job["id"]


async def num_leases(site: Site) -> int:
    read = service(site.app.state, Database).read
    return int(
        await read(lambda found: found.execute(sa.select(sa.func.count()).select_from(worker_leases)).scalar_one())
    )


async def test_a_worker_keeps_a_private_job_that_it_has_begun(settings: DomainSettings) -> None:
    async with running_site(settings) as site:
        worker, other = await machine(site), await machine(site, "gpu-2")
        lease, job = await worker.take(site.scientist.submit(await open_dataset(site), **PRIVATE))
        await worker.renew(lease)
        plan = lease["spec"]["plan_path"]
        assert (await worker.file(lease, plan)).content == PLAN
        stored = await service(site.app.state, Database).read(
            lambda found: str(found.execute(sa.select(worker_leases)).all())
        )
        assert lease["id"] not in stored
    async with restarted(settings, worker, other) as site:
        assert (await patiently(lambda: worker.renew(lease))).status_code == 200
        for answer in (await other.renew(lease), await other.file(lease, plan), await other.bring(lease, RESULT)):
            assert_problem(answer, 410, "lease_over")
        assert (await patiently(lambda: worker.file(lease, plan))).content == PLAN
        assert await worker.ask(wait_s=0) is None, "the job is not offered"
        assert (await site.owner.call("GET", "/data-centric/workers/authorized")).json()["workers"][0][
            "num_running"
        ] == 1
        result = encode(logistic_params())
        assert (await patiently(lambda: worker.bring(lease, ended(GOOD, result)))).status_code == 200
        done = await site.owner.job(job["id"])
        assert (done["state"], done["facts"]["worker"]) == ("released", "gpu-1")
        assert (await site.scientist.result(job["id"])).content == result
        assert_problem(await worker.renew(lease), 410, "lease_over")
        assert await num_leases(site) == 0
        done = await actions(site, job["id"])
        for action in ("budget_reserved", "charge_running", "charge_released", "job_started", "job_released"):
            assert done.count(action) == 1, done
    assert states_of_charges(settings) == ["released"]


async def test_a_worker_begins_at_the_process_after_the_one_that_leased_its_job(settings: DomainSettings) -> None:
    async with running_site(settings) as site:
        worker = await machine(site)
        lease, job_id = await lease_private(site, worker)
    assert states_of_charges(settings) == ["reserved"]
    async with restarted(settings, worker) as site:
        assert_problem(await worker.bring(lease, RESULT), 409, "lease_not_begun")
        assert (await patiently(lambda: worker.renew(lease))).status_code == 200
        assert states_of_charges(settings) == ["running"]
        assert (await patiently(lambda: worker.bring(lease, RESULT))).status_code == 200
        assert (await site.owner.job(job_id))["state"] == "released"
    assert states_of_charges(settings) == ["released"]


async def test_a_worker_that_does_not_come_back_has_lost_its_job(
    settings: DomainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_site(settings) as site:
        worker, other, third = await machine(site), await machine(site, "gpu-2"), await machine(site, "gpu-3")
        held, private_job = await lease_private(site, worker)
        await worker.renew(held)
        unbegun, unbegun_job = await lease_private(site, other)
        lost, exact_job = await lease_exact(site, third)
        await third.renew(lost)
    with monkeypatch.context() as patch:
        patch.setattr("pygrid.compute.leases.Leases.__init__.__defaults__", (0.3,))
        async with restarted(settings, worker, other, third) as site:
            failed = await site.owner.wait(private_job, "failed")
            assert "Worker 'gpu-1' did not renew" in failed["detail"]
            assert (await site.owner.wait(unbegun_job, "released"))["facts"]["worker"] == "", "it ran here"
            assert (await site.owner.wait(exact_job, "held"))["facts"]["worker"] == ""
            assert (await actions(site, exact_job)).count("job_requeued") == 1
            for one, lease in ((worker, held), (other, unbegun), (third, lost)):
                assert_problem(await one.renew(lease), 410, "lease_over")
                assert_problem(await one.bring(lease, RESULT), 410, "lease_over")
    assert states_of_charges(settings) == ["failed", "released"]


async def test_a_private_job_that_no_worker_has_is_offered_again(
    settings: DomainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(SpecBuilder, "spec", never)
        async with running_site(settings) as site:
            worker, dataset = await machine(site), await open_dataset(site)
            asking = asyncio.create_task(worker.ask(wait_s=60))
            await worker.until_asking()
            job = await site.scientist.submit(dataset, "statistics", **COUNT, **PRIVATE)
            await site.owner.wait(job["id"], "running")
        asking.cancel()
    assert states_of_charges(settings) == ["reserved"]
    async with restarted(settings, worker) as site:
        # It may have started on this machine before the Worker asked.
        lease = await worker.ask(wait_s=5)
        if lease is not None:
            await worker.renew(lease)
            await worker.bring(lease, RESULT)
        await site.owner.wait(job["id"], "released")
        done = await actions(site, job["id"])
        assert (done.count("budget_reserved"), done.count("charge_running"), done.count("job_put_back")) == (1, 1, 1)


async def test_a_result_is_accepted_only_when_it_is_stored(
    settings: DomainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Results, "keep", never)
        async with running_site(settings) as site:
            worker = await machine(site)
            lease, job_id = await lease_private(site, worker)
            await worker.renew(lease)
            bringing = asyncio.create_task(worker.bring(lease, RESULT))
            repeating = asyncio.create_task(worker.bring(lease, RESULT))
            assert (await worker.renew(lease)).status_code == 200, "the lease holds until the result is stored"
            await asyncio.wait({bringing, repeating}, timeout=0)
            assert not bringing.done()
            site.app.state.stopping.set()
            for brought in (bringing, repeating):
                assert_problem(await brought, 503, "job_resumes")
    async with restarted(settings, worker) as site:
        assert (await patiently(lambda: worker.bring(lease, RESULT))).status_code == 200
        assert (await site.owner.job(job_id))["state"] == "released"


async def test_a_worker_that_was_revoked_meanwhile_has_no_lease(settings: DomainSettings) -> None:
    async with running_site(settings) as site:
        worker, other = await machine(site), await machine(site, "gpu-2")
        lease, job_id = await lease_private(site, worker)
        await worker.renew(lease)
        kept, kept_job = await lease_private(site, other)
        await other.renew(kept)
    async with restarted(settings, worker, other) as site:
        assert (await site.owner.call("DELETE", f"/data-centric/workers/{worker.id}")).status_code == 200
        assert_problem(await worker.renew(lease), 401, "invalid_worker_token")
        assert (await site.owner.wait(job_id, "failed"))["state"] == "failed"
        assert (await site.scientist.call("POST", f"{JOBS}/{kept_job}/cancel")).status_code == 200
        assert_problem(await other.renew(kept), 410, "lease_over")
        assert_problem(await other.bring(kept, RESULT), 410, "lease_over")
        assert await num_leases(site) == 0
    assert states_of_charges(settings) == ["failed", "failed"]


async def test_a_worker_that_gives_its_job_back_before_it_is_waited_for_gets_no_second_one(
    settings: DomainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_site(settings) as site:
        worker = await machine(site)
        lease, job_id = await lease_private(site, worker)
        await worker.renew(lease)
    build, may_build = SpecBuilder.spec, asyncio.Event()

    async def late(*arguments: Any) -> Any:
        await may_build.wait()
        return await build(*arguments)

    monkeypatch.setattr(SpecBuilder, "spec", late)
    async with restarted(settings, worker) as site:
        assert (await worker.renew(lease)).status_code == 200
        assert_problem(await worker.file(lease, "0" * 64), 503, "job_resumes")
        assert_problem(await worker.bring(lease, RESULT), 503, "job_resumes")
        assert (await worker.call("DELETE", f"/leases/{lease['id']}")).status_code == 200
        may_build.set()
        assert (await site.owner.wait(job_id, "failed"))["state"] == "failed"
        assert (await actions(site, job_id)).count("charge_running") == 1
        assert [one.state.value for one in await history(site, job_id)].count("running") == 1


async def test_a_job_that_a_worker_had_too_long_ends_after_a_restart(
    settings: DomainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_site(settings) as site:
        worker = await machine(site)
        lease, job_id = await lease_private(site, worker)
        await worker.renew(lease)
    database = Database(settings.database_url)
    values = {"assigned_at": service(site.app.state, WorkersService).clock.now().replace(year=2020)}
    await database.write(lambda connection: connection.execute(worker_leases.update().values(values)))
    database.close()
    async with restarted(settings, worker) as site:
        assert "longer than" in (await site.owner.wait(job_id, "failed"))["detail"]
        assert_problem(await worker.renew(lease), 410, "lease_over")


# -- Engines -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    one = Engine()
    monkeypatch.setattr(engines, "make_launcher", lambda config, domain: one)
    return one


@pytest.fixture
def with_pool(tmp_path: Path) -> DomainSettings:
    (tmp_path / "pools.toml").write_text(POOLS)
    return load_settings({}, data_dir=tmp_path / "data", id="test", pools=str(tmp_path / "pools.toml"))


async def test_a_worker_of_an_engine_keeps_its_job_and_its_start(with_pool: DomainSettings, engine: Engine) -> None:
    async with running_site(with_pool, TIMINGS) as site:
        dataset = await allowed(site)
        job_id = await private(site, dataset)
        worker = await claim(site, await engine.token())
        assert (await worker.renew()).status_code == 200
        pending = await private(site, dataset)
        token = await engine.token(2)
    assert engine.cancelled == []
    async with again(with_pool, TIMINGS) as site:
        worker.site = site
        assert (await patiently(worker.renew)).status_code == 200
        assert (await patiently(lambda: worker.bring(RESULT))).status_code == 200
        assert (await site.owner.job(job_id))["state"] == "released"
        claimed = await patiently(lambda: try_claim(site, token))
        assert claimed.status_code == 200
        assert_problem(await try_claim(site, token), 410, "start_token_used")
        second = type(worker)(site, **claimed.json())
        assert (await second.renew()).status_code == 200
        assert (await second.bring(RESULT)).status_code == 200
        assert (await site.owner.job(pending))["state"] == "released"
        assert len(engine.tokens) == 2, "nothing was started twice"
        for one in (job_id, pending):
            done = await actions(site, one)
            assert done.count("charge_running") == done.count("job_started") == 1
        engine.states = dict.fromkeys(engine.states, EngineState.ENDED)
        await all_ended(site)
    assert states_of_charges(with_pool) == ["released", "released"]


async def test_the_engine_of_a_kept_start_is_asked_and_told(with_pool: DomainSettings, engine: Engine) -> None:
    async with running_site(with_pool, TIMINGS) as site:
        dataset = await allowed(site)
        job_id = await private(site, dataset)
        worker = await claim(site, await engine.token())
        assert (await worker.renew()).status_code == 200
        cancelled = await exact(site, dataset)
        await engine.token(2)
    async with again(with_pool, TIMINGS) as site:
        worker.site = site
        assert (await patiently(worker.renew)).status_code == 200
        assert (await site.scientist.call("POST", f"{JOBS}/{cancelled}/cancel")).status_code == 200
        await eventually(lambda: engine.cancelled[:1] == [f"pygrid-{cancelled}-1"])
        await patiently(lambda: worker.call("GET", f"/leases/{worker.lease['id']}/files/{'0' * 64}"))
        engine.states[f"pygrid-{job_id}-1"] = EngineState.ENDED
        assert "its engine ended the Worker" in (await site.owner.wait(job_id, "failed"))["detail"]
        await all_ended(site)
