"""Jobs that are asked for and decided on twice under one ``Idempotency-Key``.

Should happen: one job, one decision, one answer. Should not happen: a second job, or a release by a repeated approval.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx

from support.jobs import BINDING, DATASETS, JOBS, MODEL, PLAN, Person, Site, npz, records
from support.web import assert_problem

COUNT: dict[str, Any] = {"kind": "statistics", "statistics": [{"kind": "count"}]}


async def post(person: Person, path: str, key: str, **more: Any) -> httpx.Response:
    return await person.web.post(path, headers={**person.headers, "Idempotency-Key": key}, **more)


def form(dataset: int, **config: Any) -> dict[str, bytes]:
    request = {"dataset": dataset, "reason": "a test", **COUNT, **config}
    return {"config": json.dumps(request).encode()}


async def num_jobs(person: Person) -> int:
    return len((await person.call("GET", JOBS)).json()["jobs"])


async def test_a_job_is_made_once(site: Site) -> None:
    dataset = await site.owner.upload()
    first = await post(site.scientist, JOBS, "one", files=form(dataset))
    again = await post(site.scientist, JOBS, "one", files=form(dataset))
    assert (first.status_code, first.json()["state"]) == (201, "checking")
    assert (again.status_code, again.content) == (201, first.content), "with another boundary, as a new form has"
    assert_problem(await post(site.scientist, JOBS, "one", files=form(dataset, seed=1)), 409, "idempotency_key_reused")
    assert await num_jobs(site.scientist) == 1


async def test_of_equal_jobs_at_once_one_is_made(site: Site) -> None:
    dataset = await site.owner.upload()
    config = {"dataset": dataset, "reason": "a test", "kind": "train", "binding": BINDING}
    files = {"config": json.dumps(config).encode(), "plan": PLAN, "model": MODEL}
    answers = await asyncio.gather(*(post(site.scientist, JOBS, "one", files=files) for _ in range(5)))
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({answer.content for answer in answers if answer.status_code == 201}) == 1
    assert await num_jobs(site.scientist) == 1
    files["model"] = MODEL + bytes(200_000)
    longer = await post(site.scientist, JOBS, "one", files=files)
    assert_problem(longer, 409, "idempotency_key_reused")


async def test_a_refused_job_may_be_asked_for_again(site: Site) -> None:
    dataset = await site.owner.upload()
    private = {"privacy": {"epsilon": 1.0, "delta": 1e-6}}
    assert_problem(await post(site.scientist, JOBS, "one", files=form(dataset, **private)), 409, "no_budget")
    await site.owner.set_policy(dataset)
    assert (await post(site.scientist, JOBS, "one", files=form(dataset, **private))).status_code == 201


async def test_a_decision_is_made_once_and_answered_twice(site: Site) -> None:
    dataset = await site.owner.upload()
    job = await site.scientist.submit(dataset, "statistics", statistics=COUNT["statistics"])
    job = await site.owner.wait(job["id"], "waiting")
    path, body = f"{JOBS}/{job['id']}/approve", {"request_hash": job["request_hash"], "state": "waiting"}
    first = await post(site.owner, path, "one", json=body)
    assert first.json()["state"] == "approved"
    await site.owner.wait(job["id"], "held")
    again = await post(site.owner, path, "one", json=body)
    assert (again.status_code, again.content) == (200, first.content)
    assert (await site.owner.job(job["id"]))["state"] == "held"
    release = {**body, "state": "held"}
    assert_problem(await post(site.owner, path, "one", json=release), 409, "idempotency_key_reused")
    assert (await post(site.owner, path, "two", json=release)).json()["state"] == "released"
    assert (await post(site.owner, path, "two", json=release)).json()["state"] == "released"


async def test_a_cancelled_job_answers_the_same_again(site: Site) -> None:
    dataset = await site.owner.upload()
    job = await site.scientist.submit(dataset, "statistics", statistics=COUNT["statistics"])
    path = f"{JOBS}/{job['id']}/cancel"
    first = await post(site.scientist, path, "one")
    again = await post(site.scientist, path, "one")
    assert (first.status_code, again.status_code, again.content) == (200, 200, first.content)
    assert_problem(await post(site.scientist, path, "two"), 409, "job_decided")


async def test_a_dataset_is_uploaded_once(site: Site) -> None:
    def upload(**config: Any) -> dict[str, bytes]:
        return {"config": json.dumps({"name": "points", **config}).encode(), "data": npz(records())}

    first = await post(site.owner, DATASETS, "one", files=upload())
    again = await post(site.owner, DATASETS, "one", files=dict(reversed(upload().items())))
    assert (first.status_code, again.status_code, again.content) == (201, 201, first.content)
    assert_problem(
        await post(site.owner, DATASETS, "one", files=upload(description="x")), 409, "idempotency_key_reused"
    )
    path = f"{DATASETS}/{first.json()['id']}/versions"
    version = {"config": b"{}", "data": npz(records(100))}
    second = await post(site.owner, path, "one", files=version)
    assert second.json()["version"] == 2, second.text
    assert (await post(site.owner, path, "one", files=version)).content == second.content
    assert (await site.owner.call("GET", f"{DATASETS}/{first.json()['id']}")).json()["version"] == 2


async def test_who_may_no_longer_see_a_job_gets_no_old_answer(site: Site) -> None:
    dataset = await site.owner.upload()
    job = await site.scientist.submit(dataset, "statistics", statistics=COUNT["statistics"])
    job = await site.owner.wait(job["id"], "waiting")
    path, body = f"{JOBS}/{job['id']}/approve", {"request_hash": job["request_hash"], "state": "waiting"}
    assert (await post(site.officer, path, "one", json=body)).status_code == 200
    users = (await site.owner.call("GET", "/users")).json()["users"]
    (officer,) = (user["id"] for user in users if user["email"] == "officer@example.org")
    assert (await site.owner.call("PUT", f"/users/{officer}/role", json={"role": 1})).status_code == 200
    former = Person(site.web, await site.people.log_in("officer@example.org"))
    assert_problem(await post(former, path, "one", json=body), 404, "job_not_found")
