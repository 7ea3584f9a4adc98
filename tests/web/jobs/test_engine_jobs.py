"""Jobs in a pool whose Workers an engine starts, with an engine that only keeps what it was asked for.

Should happen: a start token leases its job once; a job that no Worker began is approved again and starts once more on
its one charge; what the engine cannot do is told; a Worker whose job is over is cancelled at its engine.
Should not happen: a private job that begins twice; a token that is good for anything else; a job in a pool that the
data owner has not allowed, or that the Domain does not have.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from test_remote_leases import CAPABLE, COUNT, GOOD, PRIVATE, ended

from pygrid.clock import SystemClock
from pygrid.compute.driver import Begin
from pygrid.compute.engines import EngineError, EngineState, EngineTimings
from pygrid.compute.leases import Leases
from pygrid.core.job_spec import ColumnRef, JobSpec, Statistic
from pygrid.domain import DomainTimings, build_domain
from pygrid.errors import Conflict, Gone, NotFound
from pygrid.features.jobs.running.maintenance import JobUpkeep
from pygrid.features.workers import engines
from pygrid.features.workers.leases import LeaseRows
from pygrid.features.workers.service import WorkersService
from pygrid.settings import load_settings
from pygrid.storage import audit, charges
from pygrid.storage import engine_starts as rows
from pygrid.storage.signals import LocalSignals
from pygrid.storage.sql.database import Database
from pygrid.storage.sql.migrations import migrate
from pygrid.storage.workers import begin_lease, count_leases
from pygrid.web.services import service
from support.eventually import eventually
from support.jobs import DATASETS, JOBS, Person, Site, running_site
from support.web import assert_problem, running

WORKERS = "/data-centric/workers"
ANSWERS = b'{"answers":[{"count":3}]}'
POOLS = """
[[pool]]
name = "hpc"
driver = "slurm"
folder = "/nowhere"
domain = "http://domain.example"
places = 2
start_s = 5
"""
TIMINGS = DomainTimings(engines=EngineTimings(poll_s=0.02, gone_s=0.1, retry_s=0.0))


@dataclass
class Engine:
    """A launcher that keeps its Workers' tokens, by handle."""

    tokens: dict[str, str] = field(default_factory=dict)
    states: dict[str, EngineState] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)
    fault: str = ""

    async def start(self, handle: str, token: str) -> None:
        if self.fault:
            raise EngineError(self.fault)
        self.tokens[handle], self.states[handle] = token, EngineState.PENDING

    async def poll(self, handles: Sequence[str]) -> Mapping[str, EngineState]:
        return {handle: self.states[handle] for handle in handles if handle in self.states}

    async def cancel(self, handle: str) -> None:
        self.cancelled.append(handle)
        self.states[handle] = EngineState.ENDED

    async def close(self) -> None:
        pass

    async def token(self, number: int = 1) -> str:
        """The token of the Worker that was started as this one."""
        await eventually(lambda: len(self.tokens) >= number)
        return list(self.tokens.values())[number - 1]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    one = Engine()
    monkeypatch.setattr(engines, "make_launcher", lambda config, domain: one)
    return one


@pytest.fixture
async def site(tmp_path: Path, engine: Engine) -> AsyncIterator[Site]:
    (tmp_path / "pools.toml").write_text(POOLS)
    settings = load_settings({}, data_dir=tmp_path / "data", id="test", pools=str(tmp_path / "pools.toml"))
    async with running_site(settings, TIMINGS) as running:
        yield running


@dataclass
class OnceWorker:
    """A Worker that has claimed its job, by hand."""

    site: Site
    lease: dict[str, Any]
    secret: str

    async def call(self, verb: str, path: str, **more: Any) -> httpx.Response:
        return await _call(self.site, self.secret, verb, path, **more)

    async def renew(self) -> httpx.Response:
        return await self.call("POST", f"/leases/{self.lease['id']}/renew", json={})

    async def bring(self, content: bytes) -> httpx.Response:
        return await self.call("POST", f"/leases/{self.lease['id']}/result", content=content)


async def _call(site: Site, secret: str, verb: str, path: str, **more: Any) -> httpx.Response:
    return await site.web.request(verb, WORKERS + path, headers={"Authorization": f"Bearer {secret}"}, **more)


async def try_claim(site: Site, token: str, **changes: Any) -> httpx.Response:
    return await _call(site, token, "POST", "/claim", json={**CAPABLE, **changes})


async def claim(site: Site, token: str) -> OnceWorker:
    answer = await try_claim(site, token)
    assert answer.status_code == 200, answer.text
    return OnceWorker(site, **answer.json())


async def allowed(site: Site, *pools: str) -> int:
    dataset = await site.owner.upload()
    await site.owner.set_policy(dataset, pools=pools or ["hpc"])
    return dataset


async def private(site: Site, dataset: int) -> str:
    job_id: str = (await site.scientist.submit(dataset, "statistics", **COUNT, **PRIVATE))["id"]
    return job_id


async def exact(site: Site, dataset: int) -> str:
    job = await site.scientist.submit(dataset, "statistics", **COUNT)
    await site.owner.approve(await site.owner.wait(job["id"], "waiting"))
    return str(job["id"])


async def actions(site: Site, job_id: str) -> list[str]:
    """The audit entries of a job, in their order."""
    read = service(site.app.state, Database).read
    entries = await read(lambda connection: audit.list_entries(connection, limit=1000))
    return [entry.action for entry in sorted(entries, key=lambda one: one.number) if entry.data.get("job_id") == job_id]


async def charge(site: Site, job_id: str) -> str:
    read = service(site.app.state, Database).read
    return (await read(lambda connection: charges.get_charge(connection, job_id))).state.value


async def all_ended(site: Site) -> None:
    """Until no engine has a Worker of this Domain."""
    read = service(site.app.state, Database).read

    async def is_none_open() -> bool:
        return not await read(rows.list_open)

    await eventually(is_none_open)


async def test_a_token_leases_its_job_once_and_opens_nothing_else(site: Site, engine: Engine) -> None:
    job = await private(site, await allowed(site))
    token = await engine.token()
    assert await charge(site, job) == "reserved"
    worker = await claim(site, token)
    assert_problem(await try_claim(site, token), 410, "start_token_used")
    assert_problem(await try_claim(site, "0" * 64), 410, "start_token_used")
    assert_problem(await site.web.post(f"{WORKERS}/claim", json=CAPABLE), 401, "worker_token_missing")
    lease = f"/leases/{worker.lease['id']}"
    for secret, path in ((token, f"{lease}/renew"), (token, "/lease"), (worker.secret, "/lease")):
        body = CAPABLE if path == "/lease" else {}
        assert_problem(await _call(site, secret, "POST", path, json=body), 401, "invalid_worker_token")
    assert_problem(await worker.bring(ended(GOOD, ANSWERS)), 409, "lease_not_begun")
    assert await charge(site, job) == "reserved", "no Worker has begun"
    assert (await worker.renew()).status_code == 200
    assert await charge(site, job) == "running"
    assert (await worker.bring(ended(GOOD, ANSWERS))).status_code == 200
    done = await site.owner.wait(job, "released")
    assert done["facts"]["worker"] == "hpc"
    assert (await worker.renew()).status_code in (401, 410), "its start ends a moment later than its job"
    engine.states = dict.fromkeys(engine.states, EngineState.ENDED)
    await all_ended(site)
    read = service(site.app.state, Database).read
    entries = await read(lambda connection: audit.list_entries(connection, limit=1000))
    assert [entry.data["pool"] for entry in entries if entry.action == "job_started"] == ["hpc"]
    with_secrets = await read(lambda connection: str(connection.execute(rows.engine_starts.select()).all()))
    assert token not in with_secrets
    assert worker.secret not in with_secrets


async def test_a_job_whose_worker_never_renewed_starts_again_on_its_one_charge(site: Site, engine: Engine) -> None:
    service(site.app.state, WorkersService).driver.leases.lease_s = 0.2
    job = await private(site, await allowed(site))
    first = await claim(site, await engine.token())
    await engine.token(2)
    service(site.app.state, WorkersService).driver.leases.lease_s = 60
    assert_problem(await first.renew(), 401, "invalid_worker_token")
    second = await claim(site, await engine.token(len(engine.tokens)))
    await second.renew()
    await second.bring(ended(GOOD, ANSWERS))
    await site.owner.wait(job, "released")
    done = await actions(site, job)
    assert done.count("budget_reserved") == done.count("charge_running") == done.count("charge_released") == 1
    assert "job_put_back" in done
    assert list(engine.tokens)[:2] == [f"pygrid-{job}-1", f"pygrid-{job}-2"]
    assert engine.cancelled[:1] == [f"pygrid-{job}-1"]


async def test_a_private_job_that_began_never_starts_again(site: Site, engine: Engine) -> None:
    job = await private(site, await allowed(site))
    worker = await claim(site, await engine.token())
    await worker.renew()
    engine.states = dict.fromkeys(engine.states, EngineState.ENDED)
    failed = await site.owner.wait(job, "failed")
    assert "its engine ended the Worker" in failed["detail"]
    assert await charge(site, job) == "failed"
    assert len(engine.tokens) == 1
    assert (await actions(site, job)).count("charge_running") == 1


async def test_an_exact_job_that_lost_its_worker_starts_once_more_in_its_pool(site: Site, engine: Engine) -> None:
    job = await exact(site, await allowed(site))
    worker = await claim(site, await engine.token())
    await worker.renew()
    assert (await worker.call("DELETE", f"/leases/{worker.lease['id']}")).status_code == 200
    again = await claim(site, await engine.token(2))
    await again.renew()
    await again.bring(ended(GOOD, ANSWERS))
    assert (await site.owner.wait(job, "held"))["facts"]["worker"] == "hpc"


async def test_a_machine_without_a_sandbox_gets_no_job(site: Site, engine: Engine) -> None:
    job = await private(site, await allowed(site))
    engine_token = await engine.token()
    assert_problem(await try_claim(site, engine_token, layers=[], is_sound=False), 403, "sandbox_unavailable")
    await engine.token(2)
    assert_problem(await try_claim(site, engine_token), 410, "start_token_used")
    assert await charge(site, job) == "reserved"


async def test_an_engine_that_is_away_leaves_the_job_approved_and_charges_nothing(site: Site, engine: Engine) -> None:
    engine.fault = "no route to host"
    job = await private(site, await allowed(site))

    async def is_told() -> dict[str, Any] | None:
        found = await site.owner.job(job)
        return found if found["state"] == "approved" and found["code"] == "engine_unavailable" else None

    assert "no route to host" in (await eventually(is_told))["detail"]
    assert await charge(site, job) == "reserved"
    assert (await site.scientist.call("POST", f"{JOBS}/{job}/cancel")).status_code == 200
    assert await charge(site, job) == "refunded"
    assert engine.tokens == {}


async def test_a_cancelled_job_is_cancelled_at_its_engine(site: Site, engine: Engine) -> None:
    job = await private(site, await allowed(site))
    worker = await claim(site, await engine.token())
    await worker.renew()
    assert (await site.scientist.call("POST", f"{JOBS}/{job}/cancel")).status_code == 200
    await eventually(lambda: set(engine.cancelled) == {f"pygrid-{job}-1"})
    assert (await worker.renew()).status_code in (401, 410)
    assert await charge(site, job) == "failed", "a Worker had begun, so the charge stands"
    await all_ended(site)


async def test_a_job_is_not_offered_while_its_engine_does_not_know_the_worker(site: Site, engine: Engine) -> None:
    job = await exact(site, await allowed(site))
    first = await engine.token()
    engine.states.clear()
    await engine.token(2)
    assert_problem(await try_claim(site, first), 410, "start_token_used")
    assert (await site.owner.job(job))["state"] in ("approved", "running")


async def test_pools_that_nobody_has_or_allowed_are_refused(site: Site, engine: Engine) -> None:
    dataset = await site.owner.upload()
    for pools, leased in ((["local", "nowhere"], False), (["trials"], False)):
        body = {"epsilon": 8.0, "delta": 1e-6, "epsilon_per_user": 4.0, "pools": pools, "allow_remote_workers": leased}
        assert_problem(await site.owner.call("PUT", f"{DATASETS}/{dataset}/policy", json=body), 400, "pool_unknown")
    for pools, leased in ((["local", "leased"], False), (["local"], True), ([], False)):
        body = {"epsilon": 8.0, "delta": 1e-6, "epsilon_per_user": 4.0, "pools": pools, "allow_remote_workers": leased}
        assert_problem(await site.owner.call("PUT", f"{DATASETS}/{dataset}/policy", json=body), 400, "invalid_policy")
    assert_problem(await site.scientist.try_submit(dataset, "statistics", **COUNT, pool="hpc"), 409, "pool_not_allowed")
    assert_problem(await site.scientist.try_submit(dataset, "statistics", **COUNT, pool="x"), 400, "pool_unknown")
    policy = await site.owner.set_policy(dataset)
    assert policy["pools"] == ["local"]
    assert (await site.owner.set_policy(dataset, allow_remote_workers=True))["pools"] == ["local", "leased"]
    assert_problem(await site.scientist.try_submit(dataset, "statistics", **COUNT, pool="hpc"), 409, "pool_not_allowed")
    federation = {"coordinator": "http://127.0.0.1:1", "process": "p", "version": "1", "cycles": 1}
    await site.owner.set_policy(dataset, pools=["hpc"])
    assert_problem(await site.scientist.try_submit(dataset, federation=federation), 409, "pool_not_allowed")
    assert engine.tokens == {}


async def test_consent_that_is_taken_back_holds_for_jobs_that_wait(site: Site, engine: Engine) -> None:
    engine.fault = "away"
    dataset = await allowed(site)
    job = await exact(site, dataset)
    await site.owner.wait(job, "approved")
    await site.owner.set_policy(dataset, pools=["local"])
    # The engine stays away meanwhile: an attempt that began before the change would start a Worker, and end it.
    assert (await site.owner.wait(job, "held"))["facts"]["worker"] == ""
    engine.fault = ""
    assert engine.tokens == {}


async def test_workers_whose_jobs_do_not_run_are_ended(tmp_path: Path, engine: Engine) -> None:
    (tmp_path / "pools.toml").write_text(POOLS)
    settings = load_settings({}, data_dir=tmp_path / "data", id="test", pools=str(tmp_path / "pools.toml"))
    async with running_site(settings, TIMINGS) as site:
        database = service(site.app.state, Database)
        now = service(site.app.state, WorkersService).clock.now()
        # As a Domain that was killed leaves it.
        await database.write(lambda connection: rows.put_start(connection, "0" * 32, "hpc", "a" * 64, now))
        engine.states[f"pygrid-{'0' * 32}-1"] = EngineState.RUNNING
        await eventually(lambda: engine.cancelled == [f"pygrid-{'0' * 32}-1"])
        await all_ended(site)


async def test_a_worker_reads_nothing_before_its_begin_is_recorded(tmp_path: Path) -> None:
    database, recorded = Database(f"sqlite:///{tmp_path}/domain.sqlite"), asyncio.Event()
    migrate(database)
    leases = Leases(LeaseRows(database, LocalSignals(), SystemClock()))
    answers = [True]

    async def begin(lease: str) -> bool:
        await recorded.wait()
        return answers.pop() and await database.write(lambda connection: begin_lease(connection, lease))

    (tmp_path / "0.bin").write_bytes(bytes(8))
    column = ColumnRef(str(tmp_path / "0.bin"), "int64", (), 1)
    spec = JobSpec(id="job", kind="statistics", columns={"x": column}, statistics=(Statistic("count"),))
    async with leases.open(spec, None, Begin(begin)) as job:
        offer = await leases.assign(job, -1, "hpc")
        assert offer is not None
        lease_id = offer.lease_id
        with pytest.raises(Conflict, match="renew the lease"):
            await leases.find_file(-1, lease_id, "x")
        renewal = asyncio.create_task(leases.renew(-1, lease_id))
        await asyncio.wait({renewal}, timeout=0)
        with pytest.raises(Conflict, match="renew the lease"):
            await leases.renew(-1, lease_id)
        with pytest.raises(Gone):
            await leases.renew(-2, lease_id)
        recorded.set()
        await renewal
        with pytest.raises(NotFound):
            await leases.find_file(-1, lease_id, "x")
    answers.append(False)
    async with leases.open(msgspec.structs.replace(spec, id="other"), None, Begin(begin)) as job:
        offer = await leases.assign(job, -1, "hpc")
        assert offer is not None
        lease_id = offer.lease_id
        with pytest.raises(Gone):
            await leases.renew(-1, lease_id)
    async with leases.open(msgspec.structs.replace(spec, id="cancelled"), None, Begin(begin)) as job:
        job.done.cancel()
        assert await leases.assign(job, -1, "hpc") is None, "it ended before its Worker asked"
    assert database.read_now(count_leases) == {-1: 2}
    database.close()


async def test_a_job_whose_pool_was_removed_says_so_and_starts_when_it_is_back(tmp_path: Path, engine: Engine) -> None:
    (tmp_path / "pools.toml").write_text(POOLS)
    with_pool = load_settings({}, data_dir=tmp_path / "data", id="test", pools=str(tmp_path / "pools.toml"))
    without = load_settings({}, data_dir=tmp_path / "data", id="test")
    engine.fault = "maintenance"
    rarely = DomainTimings(engines=EngineTimings(poll_s=0.02, retry_s=600.0))
    async with running_site(with_pool, rarely) as site:
        job = await private(site, await allowed(site))

        async def is_put_back() -> bool:
            return (await site.scientist.job(job))["code"] == "engine_unavailable"

        await eventually(is_put_back)
        headers = site.scientist.headers
    async with running(app := build_domain(without, timings=TIMINGS)) as web:
        scientist = Person(web, headers)
        await service(app.state, JobUpkeep).run_once()
        told = await scientist.job(job)
        assert (told["state"], told["code"]) == ("approved", "pool_unknown")
        assert "no pool hpc" in told["detail"]
        assert "one of the pools local, leased" in told["detail"]
    engine.fault = ""
    async with running(build_domain(with_pool, timings=TIMINGS)) as web:
        await engine.token()
        assert (await Person(web, headers).job(job))["code"] == ""


async def test_starts_of_ended_jobs_are_deleted_when_they_are_old(site: Site, engine: Engine) -> None:
    service(site.app.state, WorkersService).driver.leases.lease_s = 0.2
    database = service(site.app.state, Database)
    dataset = await allowed(site)
    ended_job = await private(site, dataset)
    worker = await claim(site, await engine.token())
    assert (await worker.renew()).status_code == 200
    assert (await worker.bring(ended(GOOD, ANSWERS))).status_code == 200
    await site.owner.wait(ended_job, "released")
    engine.states = dict.fromkeys(engine.states, EngineState.ENDED)
    await all_ended(site)
    running_job = await private(site, dataset)
    await engine.token(2)

    async def left(before: dt.datetime) -> list[str]:
        await database.write(lambda connection: rows.delete_old(connection, before))
        query = rows.engine_starts.select()
        return [row.job_id for row in await database.read(lambda connection: connection.execute(query).all())]

    now = dt.datetime.now(dt.UTC)
    assert sorted(await left(now - dt.timedelta(days=30))) == sorted([ended_job, running_job])
    assert await left(now + dt.timedelta(days=1)) == [running_job]
