"""The routes by which Workers of other machines fetch jobs, called as such a Worker does.

Should happen: a job is one Worker's until its lease ends; what comes in time counts, once; a job that nobody began runs
here. Should not happen: a file, or a result that is taken, without a lease that holds; a private job that runs twice; a
job that waits for ever; a word about the job to whoever has no token.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest

from pygrid.compute.leased import LeasedDriver
from pygrid.core.job_spec import OUTCOME, RESULT, Facts, Failure, Outcome
from pygrid.features.workers.service import WorkersService
from pygrid.sandbox.frames import frame
from pygrid.settings import load_settings
from pygrid.storage.sql.database import Database
from pygrid.tensors import encode
from pygrid.web.services import service
from support.eventually import eventually
from support.jobs import DATASETS, JOBS, MODEL, NUM_RECORDS, PLAN, Site, records, running_site
from support.plans.handmade import logistic_params
from support.web import assert_problem

WORKERS = "/data-centric/workers"
COUNT: dict[str, Any] = {"statistics": [{"kind": "count"}]}
PRIVATE: dict[str, Any] = {"privacy": {"epsilon": 1.0, "delta": 1e-6}}
GOOD = Outcome(Facts(num_records=300), media_type="application/octet-stream")
CAPABLE = {"layers": ["landlock 7", "seccomp"], "is_sound": True}


@pytest.fixture
async def site(tmp_path: Any) -> AsyncIterator[Site]:
    settings = load_settings({}, data_dir=tmp_path / "data", id="test", prefer_remote_workers=True, num_workers=1)
    async with running_site(settings) as running:
        yield running


class Machine:
    """A Worker, by hand."""

    def __init__(self, site: Site, new: dict[str, Any]) -> None:
        self.site, self.id, self.token = site, new["id"], new["token"]

    async def call(self, verb: str, path: str, **more: Any) -> httpx.Response:
        return await self.site.web.request(
            verb, WORKERS + path, headers={"Authorization": f"Bearer {self.token}"}, **more
        )

    async def ask(self, wait_s: float = 20.0, **changes: Any) -> dict[str, Any] | None:
        answer = await self.call("POST", "/lease", json={**CAPABLE, "wait_s": wait_s, **changes})
        assert answer.status_code == 200, answer.text
        lease: dict[str, Any] | None = answer.json()["lease"]
        return lease

    async def until_asking(self) -> None:
        """Until a question of this Worker waits for a job."""
        await eventually(lambda: driver(self.site).count_waiting(self.id) > 0)

    async def take(self, submit: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Wait for a job, and have one submitted: its lease, and itself."""
        asking = asyncio.create_task(self.ask(wait_s=60))
        await self.until_asking()
        job = await submit
        lease = await asking
        assert lease is not None
        return lease, job

    async def renew(self, lease: dict[str, Any], **body: Any) -> httpx.Response:
        return await self.call("POST", f"/leases/{lease['id']}/renew", json=body)

    async def file(self, lease: dict[str, Any], name: str) -> httpx.Response:
        return await self.call("GET", f"/leases/{lease['id']}/files/{name}")

    async def bring(self, lease: dict[str, Any], content: bytes) -> httpx.Response:
        return await self.call("POST", f"/leases/{lease['id']}/result", content=content)


def driver(site: Site) -> LeasedDriver:
    remote: LeasedDriver = service(site.app.state, WorkersService).driver
    return remote


def ended(outcome: Outcome, result: bytes = b"") -> bytes:
    return frame(OUTCOME, msgspec.json.encode(outcome)) + (frame(RESULT, result) if result else b"")


async def machine(site: Site, name: str = "gpu-1") -> Machine:
    answer = await site.owner.call("POST", WORKERS, json={"name": name})
    assert answer.status_code == 201, answer.text
    return Machine(site, answer.json())


async def open_dataset(site: Site) -> int:
    dataset = await site.owner.upload()
    await site.owner.set_policy(dataset, allow_remote_workers=True)
    return dataset


async def test_a_worker_gets_the_job_with_its_files_and_brings_the_result_once(site: Site) -> None:
    dataset, worker = await open_dataset(site), await machine(site)
    lease, job = await worker.take(site.scientist.submit(dataset, **PRIVATE))
    spec = lease["spec"]
    assert set(spec["columns"]) == {"features", "label"}, "only what is bound travels"
    assert_problem(await worker.file(lease, spec["plan_path"]), 409, "lease_not_begun")
    assert (await worker.renew(lease)).json()["expires_in_s"] == driver(site).leases.lease_s
    assert (await worker.file(lease, spec["plan_path"])).content == PLAN
    assert (await worker.file(lease, spec["model_path"])).content == MODEL
    label = await worker.file(lease, spec["columns"]["label"]["path"])
    assert label.content == records()["label"].tobytes()
    assert {file["hash"]: file["num_bytes"] for file in lease["files"]} == {
        spec["plan_path"]: len(PLAN),
        spec["model_path"]: len(MODEL),
        spec["columns"]["label"]["path"]: 8 * NUM_RECORDS,
        spec["columns"]["features"]["path"]: 16 * NUM_RECORDS,
    }
    assert_problem(await worker.file(lease, "0" * 64), 404, "file_not_found")
    # Of a private job nobody learns how far it is, whatever the Worker says.
    assert (await worker.renew(lease, progress={"done": 1, "total": 2})).status_code == 200
    assert (await site.owner.job(job["id"]))["progress"] == 0
    result = encode(logistic_params())
    assert (await worker.bring(lease, ended(GOOD, result))).status_code == 200
    assert_problem(await worker.bring(lease, ended(GOOD, result)), 410, "lease_over")
    assert_problem(await worker.file(lease, spec["plan_path"]), 410, "lease_over")
    done = await site.owner.wait(job["id"], "released")
    assert (done["facts"]["worker"], done["facts"]["bytes_out"]) == ("gpu-1", len(result))
    assert (await site.scientist.result(job["id"])).content == result


async def test_a_dataset_stays_on_the_machine_unless_its_policy_says_otherwise(site: Site) -> None:
    dataset, worker = await site.owner.upload(), await machine(site)
    assert (await site.owner.set_policy(dataset))["allow_remote_workers"] is False
    asking = asyncio.create_task(worker.ask(wait_s=20))
    job = await site.scientist.submit(dataset, "statistics", **COUNT, **PRIVATE)
    assert (await site.owner.wait(job["id"], "released"))["facts"]["worker"] == ""
    assert not asking.done()
    asking.cancel()


async def test_a_private_job_whose_lease_ran_out_fails_and_a_late_result_is_refused(site: Site) -> None:
    dataset, worker = await open_dataset(site), await machine(site)
    driver(site).leases.lease_s = 0.3
    lease, job = await worker.take(site.scientist.submit(dataset, **PRIVATE))
    await worker.renew(lease)
    failed = await site.owner.wait(job["id"], "failed")
    assert "did not renew" in failed["detail"]
    assert_problem(await worker.bring(lease, ended(GOOD, encode(logistic_params()))), 410, "lease_over")
    assert (await site.owner.job(job["id"]))["state"] == "failed"
    assert (await site.owner.budget(dataset))["spent"] > 0, "the debit stands"
    assert await worker.ask(wait_s=0) is None


async def test_an_exact_job_whose_lease_ran_out_is_run_here(site: Site) -> None:
    dataset, worker = await open_dataset(site), await machine(site)
    driver(site).leases.lease_s = 0.3
    job = await site.scientist.submit(dataset, "statistics", **COUNT)
    lease, _ = await worker.take(site.owner.approve(await site.owner.wait(job["id"], "waiting")))
    await worker.renew(lease)
    again = asyncio.create_task(worker.ask(wait_s=20))
    held = await site.owner.wait(job["id"], "held")
    assert held["facts"]["worker"] == ""
    states = [change.state.value for change in await history(site, job["id"])]
    assert states[-4:] == ["running", "approved", "running", "held"]
    assert not again.done(), "it was offered to another machine again"
    again.cancel()
    assert_problem(await worker.bring(lease, ended(GOOD, b'{"answers":[]}')), 410, "lease_over")


async def test_a_job_that_is_given_back_goes_on_at_once(site: Site) -> None:
    dataset, worker, other = await open_dataset(site), await machine(site), await machine(site, "gpu-2")
    driver(site).leases.lease_s = 3600
    exact = await site.scientist.submit(dataset, "statistics", **COUNT)
    lease, _ = await worker.take(site.owner.approve(await site.owner.wait(exact["id"], "waiting")))
    await worker.renew(lease)
    assert_problem(await other.call("DELETE", f"/leases/{lease['id']}"), 410, "lease_over")
    assert (await worker.call("DELETE", f"/leases/{lease['id']}")).json() == {"lease": lease["id"]}
    assert_problem(await worker.call("DELETE", f"/leases/{lease['id']}"), 410, "lease_over")
    assert (await site.owner.wait(exact["id"], "held"))["facts"]["worker"] == ""
    lease, private = await worker.take(site.scientist.submit(dataset, "statistics", **COUNT, **PRIVATE))
    await worker.renew(lease)
    await worker.call("DELETE", f"/leases/{lease['id']}")
    failed = await site.owner.wait(private["id"], "failed")
    assert "Worker 'gpu-1' was stopped" in failed["detail"]
    lease, unbegun = await worker.take(site.scientist.submit(dataset, "statistics", **COUNT, **PRIVATE))
    await worker.call("DELETE", f"/leases/{lease['id']}")
    assert (await site.owner.wait(unbegun["id"], "released"))["facts"]["worker"] == ""


async def history(site: Site, job_id: str) -> Any:
    from pygrid.storage import jobs as rows

    return (await service(site.app.state, Database).read(lambda connection: rows.get_job(connection, job_id))).history


async def test_a_job_that_no_worker_began_runs_here_on_its_one_charge(site: Site) -> None:
    dataset, worker = await open_dataset(site), await machine(site)
    driver(site).leases.lease_s = 0.3
    lease, job = await worker.take(site.scientist.submit(dataset, "statistics", **COUNT, **PRIVATE))
    done = await site.owner.wait(job["id"], "released")
    assert done["facts"]["worker"] == ""
    assert_problem(await worker.renew(lease), 410, "lease_over")
    assert [change.state.value for change in await history(site, job["id"])].count("running") == 1


async def test_a_job_that_is_cancelled_is_taken_from_its_worker(site: Site) -> None:
    dataset, worker = await open_dataset(site), await machine(site)
    job = await site.scientist.submit(dataset)
    lease, _ = await worker.take(site.owner.approve(await site.owner.wait(job["id"], "waiting")))
    assert (await worker.renew(lease, progress={"done": 1, "total": 4})).status_code == 200
    assert (await site.scientist.job(job["id"]))["progress"] == 0.25
    assert (await site.scientist.call("POST", f"{JOBS}/{job['id']}/cancel")).status_code == 200
    assert_problem(await worker.renew(lease), 410, "lease_over")
    assert (await site.scientist.job(job["id"]))["state"] == "cancelled"


async def test_what_a_worker_brings_is_checked(site: Site) -> None:
    dataset, worker = await open_dataset(site), await machine(site)
    lease, job = await worker.take(site.scientist.submit(dataset, **PRIVATE))
    await worker.renew(lease)
    for content in (b"", b"x", ended(GOOD), ended(GOOD, b"x")[:-1], frame(OUTCOME, b"{}") * 2, frame(RESULT, b"x")):
        assert_problem(await worker.bring(lease, content), 400, "invalid_result")
    too_long = b"x" * (lease["spec"]["limits"]["max_result_bytes"] + 1)
    assert_problem(await worker.bring(lease, ended(GOOD, too_long)), 413, "payload_too_large")
    assert_problem(await worker.renew(lease, progress={"done": "many"}), 400, "invalid_input")
    # Other arrays than the model's: all of a dataset, say.
    other = {**logistic_params(), "records": records()["features"]}
    assert (await worker.bring(lease, ended(GOOD, encode(other)))).status_code == 200
    failed = await site.owner.wait(job["id"], "failed")
    assert "other arrays than the model" in failed["detail"]
    assert (await site.scientist.result(job["id"])).status_code == 404


async def test_a_failure_is_told_to_the_owner_alone(site: Site) -> None:
    dataset, worker = await open_dataset(site), await machine(site)
    lease, job = await worker.take(site.scientist.submit(dataset, **PRIVATE))
    await worker.renew(lease)
    failure = Outcome(Facts(), Failure("plan_failed", "on record 7"))
    assert (await worker.bring(lease, ended(failure))).status_code == 200
    assert "record 7" in (await site.owner.wait(job["id"], "failed"))["detail"]
    assert "record 7" not in str(await site.scientist.job(job["id"]))


async def test_a_lease_is_one_workers(site: Site) -> None:
    dataset, worker, other = await open_dataset(site), await machine(site), await machine(site, "gpu-2")
    lease, _ = await worker.take(site.scientist.submit(dataset, **PRIVATE))
    await worker.renew(lease)
    for answer in (
        await other.renew(lease),
        await other.file(lease, lease["spec"]["plan_path"]),
        await other.bring(lease, ended(GOOD, encode(logistic_params()))),
    ):
        assert_problem(answer, 410, "lease_over")
    assert (await worker.renew(lease)).status_code == 200


async def test_a_token_that_was_revoked_is_good_for_nothing(site: Site) -> None:
    dataset, worker = await open_dataset(site), await machine(site)
    lease, job = await worker.take(site.scientist.submit(dataset, **PRIVATE))
    await worker.renew(lease)
    waiting = asyncio.create_task(worker.ask(wait_s=20))
    await worker.until_asking()  # or the token is refused before the question is heard
    assert (await site.owner.call("DELETE", f"{WORKERS}/{worker.id}")).status_code == 200
    assert await waiting is None
    for answer in (
        await worker.renew(lease),
        await worker.file(lease, lease["spec"]["plan_path"]),
        await worker.bring(lease, ended(GOOD, encode(logistic_params()))),
        await worker.call("POST", "/lease", json=CAPABLE),
    ):
        assert_problem(answer, 401, "invalid_worker_token")
    assert "was revoked" in (await site.owner.wait(job["id"], "failed"))["detail"]
    assert_problem(await site.owner.call("DELETE", f"{WORKERS}/{worker.id}"), 404, "worker_not_found")


async def test_owners_let_workers_in_and_a_token_opens_nothing_else(site: Site) -> None:
    worker = await machine(site)
    assert_problem(await site.owner.call("POST", WORKERS, json={"name": "gpu-1"}), 409, "worker_exists")
    for name in ("", " ", "x" * 101, "a\nb"):
        assert_problem(await site.owner.call("POST", WORKERS, json={"name": name}), 400, "invalid_name")
    listed = (await site.owner.call("GET", f"{WORKERS}/authorized")).json()["workers"]
    assert [(one["name"], one["last_seen_at"], one["num_waiting"]) for one in listed] == [("gpu-1", None, 0)]
    assert worker.token not in str(listed)
    for verb, path in (("POST", WORKERS), ("GET", f"{WORKERS}/authorized"), ("DELETE", f"{WORKERS}/{worker.id}")):
        body = {"json": {"name": "x"}} if verb == "POST" else {}
        for person in (site.scientist, site.officer):
            assert_problem(await person.call(verb, path, **body), 403, "not_permitted")
        assert (await site.web.request(verb, path, **body)).status_code == 401
    bearer = {"Authorization": f"Bearer {worker.token}"}
    assert (await site.web.get(DATASETS, headers=bearer)).status_code == 401
    assert (await site.web.get(JOBS, headers=bearer)).status_code == 401
    assert_problem(await site.owner.call("POST", f"{WORKERS}/lease", json=CAPABLE), 401, "invalid_worker_token")
    assert_problem(await site.web.post(f"{WORKERS}/lease", json=CAPABLE), 401, "worker_token_missing")


async def test_a_machine_that_cannot_lock_plans_in_gets_no_job(site: Site) -> None:
    worker = await machine(site)
    weak = {"layers": ["rlimits"], "is_sound": False}
    assert_problem(await worker.call("POST", "/lease", json=weak), 403, "sandbox_unavailable")
    for wait_s in (-1, 61):
        assert_problem(await worker.call("POST", "/lease", json={**CAPABLE, "wait_s": wait_s}), 400, "invalid_input")


async def test_a_worker_that_waits_does_not_keep_the_domain_from_stopping(site: Site) -> None:
    worker = await machine(site)
    asking = asyncio.create_task(worker.ask(wait_s=60))
    await worker.until_asking()
    site.app.state.stopping.set()
    async with asyncio.timeout(5):
        assert await asking is None
