"""Jobs that nobody looks after any more.

Should happen: the jobs of an account that was deleted end, whatever state they are in; what waits for a person ends
with its dataset; a result that was kept long enough is deleted, and says so.
Should not happen: a private job that runs, and is paid for, is cut off; a job of somebody who is still there ends; a
result goes before its time, or one that waits to be signed off.
"""

from __future__ import annotations

import dataclasses
import datetime as dt

import pytest

from pygrid.clock import SystemClock
from pygrid.features.jobs.running.maintenance import JobUpkeep
from pygrid.settings import AppSettings
from pygrid.storage import audit
from pygrid.storage.sql.database import Database
from pygrid.web.services import service
from support.jobs import DATASETS, Person, Site
from support.web import assert_problem


class Later(SystemClock):
    """So many days ahead."""

    def __init__(self, days: float) -> None:
        super().__init__()
        self._days = days

    def now(self) -> dt.datetime:
        return super().now() + dt.timedelta(days=self._days)


async def delete_account(site: Site, person: Person) -> None:
    me = (await person.call("GET", "/users/me")).json()["user"]["id"]
    answer = await site.owner.call("DELETE", f"/users/{me}")
    assert answer.status_code == 200, answer.text


async def tidy(site: Site) -> None:
    await service(site.app.state, JobUpkeep).run_once()


async def test_jobs_of_a_deleted_account_end(site: Site) -> None:
    dataset = await site.owner.upload()
    statistics = {"kind": "statistics", "statistics": [{"kind": "count"}]}
    waiting = await site.scientist.submit(dataset, **statistics)
    await site.owner.wait(waiting["id"], "waiting")
    held = await site.scientist.submit(dataset, **statistics)
    await site.owner.approve(await site.owner.wait(held["id"], "waiting"))
    await site.owner.wait(held["id"], "held")
    others = await site.stranger.submit(dataset, **statistics)
    await site.owner.wait(others["id"], "waiting")
    await tidy(site)
    assert (await site.owner.job(waiting["id"]))["state"] == "waiting", "the account is still there"
    await delete_account(site, site.scientist)
    await tidy(site)
    ended = await site.owner.job(waiting["id"])
    detail = "cancelled, because the account of the requester was deleted"
    assert (ended["state"], ended["detail"]) == ("cancelled", detail)
    assert (await site.owner.job(held["id"]))["state"] == "held"
    assert (await site.owner.job(others["id"]))["state"] == "waiting"
    folder = service(site.app.state, AppSettings).data_dir / "jobs" / "inputs" / waiting["id"]
    assert not folder.exists()
    entries = await service(site.app.state, Database).read(audit.list_entries)
    assert [(one.action, one.actor) for one in entries if one.data.get("job_id") == waiting["id"]][-1] == (
        "job_cancelled",
        None,
    )


@pytest.mark.parametrize(("privacy", "state"), [(None, "cancelled"), ({"epsilon": 1.0, "delta": 1e-6}, "released")])
async def test_a_running_job_of_a_deleted_account(
    site: Site, monkeypatch: pytest.MonkeyPatch, privacy: dict[str, float] | None, state: str
) -> None:
    """An exact one is ended with its Worker; a private one is paid for, and ends by itself."""
    dataset = await site.owner.upload()
    await site.owner.set_policy(dataset)
    # Long enough to be caught at it.
    job = await site.scientist.submit(
        dataset, epochs=400 if privacy is None else 120, batch_size=1 if privacy is None else 8, privacy=privacy
    )
    if privacy is None:
        await site.owner.approve(await site.owner.wait(job["id"], "waiting"))
    await site.owner.wait(job["id"], "running")
    await delete_account(site, site.scientist)
    await tidy(site)
    assert (await site.owner.wait(job["id"], state))["state"] == state


async def test_nothing_of_a_deleted_dataset_leaves(site: Site) -> None:
    dataset = await site.owner.upload()
    statistics = {"kind": "statistics", "statistics": [{"kind": "count"}]}
    waiting = await site.scientist.submit(dataset, **statistics)
    held = await site.scientist.submit(dataset, **statistics)
    released = await site.scientist.submit(dataset, **statistics)
    for job in (held, released):
        await site.owner.approve(await site.owner.wait(job["id"], "waiting"))
        await site.owner.wait(job["id"], "held")
    await site.owner.approve(await site.owner.job(released["id"]))
    await site.owner.wait(waiting["id"], "waiting")
    await tidy(site)
    assert (await site.owner.job(held["id"]))["state"] == "held", "the dataset is still there"
    assert (await site.owner.call("DELETE", f"{DATASETS}/{dataset}")).status_code == 204
    for job in (waiting, held):
        # An officer may decide too, and did not delete anything.
        answer = await site.officer.decide("approve", await site.officer.job(job["id"]))
        assert_problem(answer, 409, "dataset_deleted")
    results = service(site.app.state, AppSettings).data_dir / "jobs" / "results"
    assert (results / held["id"]).exists()
    await tidy(site)
    for job in (waiting, held):
        ended = await site.scientist.job(job["id"])
        assert (ended["state"], ended["detail"], ended["decided_by"]) == ("denied", "the dataset was deleted", None)
        assert_problem(await site.owner.result(job["id"]), 404, "result_not_found")
    assert not (results / held["id"]).exists()
    assert (await site.scientist.result(released["id"])).status_code == 200, "it had left before"


async def test_a_result_is_deleted_when_its_time_is_over(site: Site) -> None:
    dataset = await site.owner.upload()
    await site.owner.set_policy(dataset)
    job = await site.scientist.submit(dataset, privacy={"epsilon": 1.0, "delta": 1e-6})
    released = await site.scientist.wait(job["id"], "released")
    exact = await site.scientist.submit(dataset)
    await site.owner.approve(await site.owner.wait(exact["id"], "waiting"))
    await site.owner.wait(exact["id"], "held")
    upkeep = service(site.app.state, JobUpkeep)
    folder = service(site.app.state, AppSettings).data_dir / "jobs" / "results"
    await dataclasses.replace(upkeep, clock=Later(1000)).run_once()
    assert (await site.scientist.result(job["id"])).status_code == 200, "by default results are kept"
    await dataclasses.replace(upkeep, clock=Later(29.9), keep_results_days=30).run_once()
    assert (await site.scientist.result(job["id"])).status_code == 200
    await dataclasses.replace(upkeep, clock=Later(30.1), keep_results_days=30).run_once()
    problem = assert_problem(await site.scientist.result(job["id"]), 410, "result_expired")
    assert problem["detail"] == "the result was deleted 30 days after its release"
    assert {path.name for path in folder.iterdir()} == {exact["id"]}, "what waits to be signed off stays"
    now = await site.scientist.job(job["id"])
    assert (now["state"], now["result_bytes"], now["cost"]) == ("released", None, released["cost"])
    assert (await site.scientist.budget(dataset))["yours"] > 0
