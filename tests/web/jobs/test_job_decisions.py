"""Who may do what with a job, over HTTP.

Should happen: the holder of the data or an officer decides, exactly one of several at once; who asked cancels.
Should not happen: anybody decides on their own request, or on one that they did not look at; a job of other people is
told from none by any verb; a request that makes no sense is stored.
"""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from pygrid.compute.pools import Pools
from pygrid.features.jobs import quotas
from pygrid.settings import DomainSettings
from pygrid.tensors import encode
from support.eventually import eventually
from support.jobs import BINDING, DATASETS, JOBS, PRIVATE, Person, Site, records
from support.plans.handmade import logistic_params, logistic_plan
from support.streams import Stream
from support.web import assert_problem

COUNT: dict[str, Any] = {"statistics": [{"kind": "count"}]}


async def waiting_job(site: Site, **upload: Any) -> dict[str, Any]:
    """A job of the scientist on a new dataset of the owner, as the owner sees it."""
    dataset = await site.owner.upload(**upload)
    job = await site.scientist.submit(dataset, "statistics", **COUNT)
    return await site.owner.wait(job["id"], "waiting")


async def test_of_decisions_at_once_exactly_one_wins(site: Site) -> None:
    job = await waiting_job(site)
    decisions = [(site.owner, "approve"), (site.officer, "deny"), (site.officer, "approve"), (site.owner, "deny")] * 3
    answers = await asyncio.gather(*(person.decide(what, job, state="waiting") for person, what in decisions))
    lost = [answer for answer in answers if answer.status_code != 200]
    assert len(lost) == len(decisions) - 1
    for answer in lost:
        assert_problem(answer, 409, "job_decided")
    won = next(answer.json() for answer in answers if answer.status_code == 200)
    if won["state"] == "approved":
        await site.owner.wait(job["id"], "held")
        assert_problem(await site.officer.decide("approve", job, state="waiting"), 409, "state_changed")


async def test_a_decision_counts_for_what_was_looked_at_alone(site: Site) -> None:
    job = await waiting_job(site)
    for what in ("approve", "deny"):
        answer = await site.owner.call("POST", f"{JOBS}/{job['id']}/{what}", json={"request_hash": "0" * 64})
        assert_problem(answer, 409, "request_changed")
    assert (await site.owner.job(job["id"]))["state"] == "waiting"
    other = await site.scientist.submit(job["dataset"], "statistics", **COUNT, seed=1)
    assert other["request_hash"] != job["request_hash"]


async def test_nobody_decides_on_their_own_request(site: Site) -> None:
    dataset = await site.owner.upload()
    for person in (site.owner, site.officer):
        job = await person.submit(dataset, "statistics", **COUNT)
        job = await person.wait(job["id"], "waiting")
        for what in ("approve", "deny"):
            assert_problem(await person.decide(what, job), 403, "own_request")
        assert_problem(await person.call("POST", f"{JOBS}/{job['id']}/revoke"), 403, "own_request")
    officers = await site.officer.job(job["id"])
    assert (officers["plan_summary"], officers["facts"]) == (None, None), "as who asked, an officer is a scientist"


async def test_a_scientist_decides_on_nothing_and_sees_no_more_than_their_own(site: Site) -> None:
    job = await waiting_job(site)
    for what in ("approve", "deny"):
        assert_problem(await site.scientist.decide(what, job), 403, "not_your_dataset")
    assert_problem(await site.scientist.call("POST", f"{JOBS}/{job['id']}/revoke"), 403, "not_your_dataset")
    assert_problem(await site.owner.call("POST", f"{JOBS}/{job['id']}/cancel"), 403, "not_your_dataset")


async def test_jobs_of_others_are_told_from_none_by_no_verb(site: Site) -> None:
    job = await waiting_job(site)
    for job_id in (job["id"], "0" * 32):
        path = f"{JOBS}/{job_id}"
        for verb, rest, body in (
            ("GET", "", None),
            ("GET", "/events", None),
            ("GET", "/result", None),
            ("POST", "/approve", {"request_hash": job["request_hash"]}),
            ("POST", "/deny", {"request_hash": job["request_hash"]}),
            ("POST", "/revoke", None),
            ("POST", "/cancel", None),
        ):
            problem = assert_problem(await site.stranger.call(verb, path + rest, json=body), 404, "job_not_found")
            assert problem["detail"].replace(job_id, "") == "there is no job "
    assert (await site.stranger.call("GET", JOBS)).json() == {"jobs": []}
    private = await site.owner.upload("secret", visibility="private")
    for person in (site.stranger, site.officer):
        assert_problem(await person.try_submit(private, "statistics", **COUNT), 404, "dataset_not_found")
        for path in ("policy", "budget"):
            assert_problem(await person.call("GET", f"{DATASETS}/{private}/{path}"), 404, "dataset_not_found")


async def test_lists_hold_what_one_may_see(site: Site) -> None:
    job = await waiting_job(site)
    mine = await site.stranger.submit(job["dataset"], "statistics", **COUNT)
    await site.stranger.wait(mine["id"], "waiting")

    async def ids(person: Person, **query: Any) -> list[str]:
        answer = await person.call("GET", JOBS, params=query)
        assert answer.status_code == 200, answer.text
        return [one["id"] for one in answer.json()["jobs"]]

    assert await ids(site.stranger) == [mine["id"]]
    for person in (site.owner, site.officer):
        assert await ids(person) == [mine["id"], job["id"]]
        assert await ids(person, mine=True) == []
    assert await ids(site.owner, limit=1, before=mine["id"]) == [job["id"]]
    assert await ids(site.owner, state="held") == await ids(site.owner, dataset=job["dataset"] + 1) == []
    assert len(await ids(site.owner, state="waiting", dataset=job["dataset"])) == 2
    assert (await site.owner.job(job["id"]))["waiting_beside"] == 1


async def test_changes_are_told_as_they_come_until_the_end(site: Site) -> None:
    job = await waiting_job(site)
    stream = await Stream(site.app, f"{JOBS}/{job['id']}/events", site.scientist.headers).opened()
    assert stream.headers["content-type"].startswith("text/event-stream")
    await site.owner.approve(job)
    await site.owner.approve(await site.owner.wait(job["id"], "held"))
    await stream.end()
    # Progress is told between; that of a state may come more than once.
    assert list(dict.fromkeys(stream.events)) == ["waiting", "approved", "running", "held", "released"]
    answer = await site.scientist.web.get(
        f"{JOBS}/{job['id']}/events", headers={**site.scientist.headers, "Last-Event-ID": "3"}
    )
    assert [line for line in answer.text.splitlines() if line.startswith("event: ")] == [
        "event: held",
        "event: released",
    ]


@pytest.mark.parametrize("how", ["role", "account"])
async def test_changes_are_told_to_those_alone_who_may_see_them_now(how: str, site: Site) -> None:
    """An officer looks on; what happens after the role is taken away, or the account, is told no more."""
    job = await waiting_job(site)
    officer = (await site.officer.call("GET", "/users/me")).json()["user"]["id"]
    stream = await Stream(site.app, f"{JOBS}/{job['id']}/events", site.officer.headers).opened()
    if how == "role":
        answer = await site.owner.call("PUT", f"/users/{officer}/role", json={"role": 1})
    else:
        answer = await site.owner.call("DELETE", f"/users/{officer}")
    assert answer.status_code == 200, answer.text
    await site.owner.approve(job)
    await stream.end()
    assert stream.events == ["waiting"]


async def test_a_denied_result_is_gone(site: Site) -> None:
    job = await waiting_job(site)
    await site.owner.approve(job)
    job = await site.officer.wait(job["id"], "held")
    answer = await site.officer.decide("deny", job, comment="too much leaves")
    assert (answer.json()["state"], answer.json()["comment"]) == ("denied", "too much leaves")
    for person in (site.owner, site.scientist):
        assert_problem(await person.result(job["id"]), 404, "result_not_found")


async def test_who_asked_may_cancel_until_it_is_decided(site: Site) -> None:
    job = await waiting_job(site)
    path = f"{JOBS}/{job['id']}/cancel"
    assert (await site.scientist.call("POST", path)).json()["state"] == "cancelled"
    assert_problem(await site.scientist.call("POST", path), 409, "job_decided")
    assert_problem(await site.owner.decide("approve", job), 409, "job_decided")


async def test_a_running_job_is_ended_when_it_is_cancelled(site: Site) -> None:
    dataset = await site.owner.upload()
    job = await site.scientist.submit(dataset, epochs=10_000, batch_size=1)
    await site.owner.approve(await site.owner.wait(job["id"], "waiting"))
    await site.scientist.wait(job["id"], "running")

    async def progress() -> float:
        done: float = (await site.scientist.job(job["id"]))["progress"]
        return done

    await eventually(progress)
    assert (await site.scientist.call("POST", f"{JOBS}/{job['id']}/cancel")).json()["state"] == "cancelled"
    # The slots are free again at once.
    for _ in range(3):
        other = await site.scientist.submit(dataset, "statistics", **COUNT)
        await site.owner.approve(await site.owner.wait(other["id"], "waiting"))
        await site.owner.wait(other["id"], "held")
    assert (await site.scientist.job(job["id"]))["state"] == "cancelled"


async def test_nobody_has_more_than_so_many_jobs_at_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotas, "MAX_OPEN_JOBS", 2)
    dataset = await site.owner.upload()
    answers = await asyncio.gather(*(site.scientist.try_submit(dataset, "statistics", **COUNT) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [201, 201, 429, 429]
    job = next(answer.json() for answer in answers if answer.status_code == 201)
    await site.scientist.call("POST", f"{JOBS}/{job['id']}/cancel")
    await site.scientist.submit(dataset, "statistics", **COUNT)


BIG = logistic_plan(features=9)


NONSENSE: list[tuple[str, dict[str, Any], str]] = [
    ("train", {"reason": " "}, "invalid_job"),
    ("train", {"epochs": 0}, "invalid_job"),
    ("train", {"batch_size": 0}, "invalid_job"),
    ("train", {"batch_size": 5000}, "invalid_job"),
    ("train", {"seed": -1}, "invalid_job"),
    ("predict", {}, "invalid_form"),
    ("guess", {}, "invalid_job"),
    ("train", {"surprise": 1}, "invalid_job"),
    ("train", {"hyper": {"lr": 7}}, "invalid_input"),
    ("train", {"hyper": {"x": 7}}, "invalid_input"),
    ("train", {"optimizer": {"name": "adam"}}, "invalid_job"),
    ("train", {"optimizer": {"name": "magic"}, "privacy": PRIVATE}, "invalid_job"),
    ("train", {"optimizer": {"tau": 0}, "privacy": PRIVATE}, "invalid_job"),
    ("train", {"optimizer": {"name": "sgd", "momentum": 0.9}, "privacy": PRIVATE}, "invalid_job"),
    ("train", {"optimizer": {"name": "adam", "beta2": 5.0}, "privacy": PRIVATE}, "invalid_job"),
    ("train", {"binding": {"x": "features"}}, "invalid_binding"),
    ("train", {"binding": {**BINDING, "z": "age"}}, "invalid_binding"),
    ("train", {"binding": {"x": "features", "y": "nothing"}}, "unknown_column"),
    ("train", {"binding": {"x": "age", "y": "label"}}, "invalid_binding"),
    ("train", {"binding": {"x": "features", "y": "age"}}, "invalid_binding"),
    ("train", {"binding": {"x": "features", "y": "town"}}, "invalid_binding"),
    ("train", {"model": encode(logistic_params(features=5))}, "shape_mismatch"),
    ("train", {"model": encode({**logistic_params(), "bias": np.array([1, np.nan, 0], np.float32)})}, "non_finite"),
    ("train", {"plan": b"no plan"}, "plan_malformed"),
    ("train", {"plan": None}, "invalid_form"),
    ("train", {"model": None}, "invalid_form"),
    ("train", {"plan": BIG.data, "model": encode(logistic_params(features=9))}, "invalid_binding"),
    *(
        ("train", {"privacy": {**PRIVATE, name: value}}, code)
        for name, value, code in (
            ("epsilon", 0, "invalid_epsilon"),
            ("epsilon", -1, "invalid_epsilon"),
            ("delta", 0, "invalid_delta"),
            ("delta", 1, "invalid_delta"),
            ("delta", 1e-3, "invalid_delta"),
            ("delta", 1e-4, "invalid_privacy_terms"),
            ("clip", 0, "invalid_privacy_terms"),
            ("clip", -1, "invalid_privacy_terms"),
            ("clip", 5e-324, "invalid_privacy_terms"),
            ("clip", 1e308, "invalid_privacy_terms"),
            ("epsilon", "nan", "invalid_job"),
            ("epsilon", 10**400, "invalid_job"),
            ("unit", "subject", "unit_not_budgeted"),
            ("unit", "person", "invalid_job"),
            ("sampling_rate", 0, "invalid_privacy_terms"),
            ("sampling_rate", 1.5, "invalid_privacy_terms"),
            ("sampling_rate", 1e-9, "invalid_privacy_terms"),
            ("sampling_rate", 5e-324, "invalid_privacy_terms"),
        )
    ),
    ("evaluate", {"privacy": {**PRIVATE, "unit": "domain"}}, "unit_not_budgeted"),
    ("evaluate", {"privacy": {**PRIVATE, "sampling_rate": 0.5}}, "invalid_privacy_terms"),
    ("statistics", {}, "invalid_job"),
    ("statistics", {"statistics": [{"kind": "median"}]}, "invalid_job"),
    ("statistics", {"statistics": [{"kind": "mean", "column": "age"}]}, "invalid_job"),
    ("statistics", {"statistics": [{"kind": "mean", "column": "age", "lower": -1e308, "upper": 1e308}]}, "invalid_job"),
    ("statistics", {"statistics": [{"kind": "sum", "column": "town", "lower": 0, "upper": 1}]}, "invalid_statistic"),
    ("statistics", {"statistics": [{"kind": "sum", "column": "features", "lower": 0, "upper": 1}]}, "invalid_job"),
    ("statistics", {"statistics": [{"kind": "count", "by": "town"}]}, "invalid_statistic"),
    ("statistics", {"statistics": [{"kind": "count", "by": "town", "keys": ["a", "a"]}]}, "invalid_statistic"),
    ("statistics", {"statistics": [{"kind": "count", "by": "town", "keys": [1]}]}, "invalid_statistic"),
    ("statistics", {"statistics": [{"kind": "count", "by": "label", "keys": ["0"]}]}, "invalid_statistic"),
    ("statistics", {"statistics": [{"kind": "count", "by": "age", "keys": [30]}]}, "invalid_job"),
    ("statistics", {"statistics": [{"kind": "histogram", "column": "age", "edges": [2, 1]}]}, "invalid_job"),
    ("statistics", {"statistics": [{"kind": "count"}], "binding": BINDING}, "invalid_job"),
    ("statistics", {"statistics": [{"kind": "count"}] * 101}, "invalid_job"),
]


async def test_requests_that_make_no_sense_are_refused_and_leave_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch, settings: DomainSettings
) -> None:
    async def start(_pools: Pools) -> None:
        """No Worker is needed to refuse."""

    monkeypatch.setattr(Pools, "start", start)
    dataset = await site.owner.upload()
    await site.owner.set_policy(dataset)
    wrong = []
    for kind, changes, code in NONSENSE:
        answer = await site.scientist.try_submit(dataset, kind, **changes)
        if answer.status_code != 400 or answer.json()["code"] != code:
            wrong.append((kind, changes, code, answer.text[:300]))
    assert not wrong, "\n".join(map(str, wrong))
    assert (await site.scientist.call("GET", JOBS)).json() == {"jobs": []}
    assert not list((settings.data_dir / "jobs" / "inputs").iterdir())


async def test_subjects_are_protected_where_there_are_some(site: Site) -> None:
    person = np.arange(300) // 3
    dataset = await site.owner.upload(
        arrays={**records(), "person": person}, subject="person", max_records_per_subject=3
    )
    answer = await site.scientist.try_submit(dataset, privacy=PRIVATE)
    assert_problem(answer, 409, "no_budget")
    await site.owner.set_policy(dataset)
    assert (
        "subject"
        in assert_problem(await site.scientist.try_submit(dataset, privacy=PRIVATE), 400, "unit_not_budgeted")["detail"]
    )
    for statistic in ({"kind": "count", "by": "person", "keys": [1]}, {"kind": "mean", "column": "person", "upper": 9}):
        answer = await site.scientist.try_submit(dataset, "statistics", statistics=[statistic])
        assert_problem(answer, 400, "invalid_statistic")
    terms = {**PRIVATE, "unit": "subject"}
    job = await site.scientist.submit(dataset, epochs=2, batch_size=25, privacy=terms, optimizer={"learning_rate": 0.1})
    assert job["cost"]["rounds"] == 8
    await site.scientist.wait(job["id"], "released")


async def test_only_a_decision_that_names_the_held_state_lets_a_result_leave(site: Site) -> None:
    job = await waiting_job(site)
    held = {"request_hash": job["request_hash"], "state": "held"}
    path = f"{JOBS}/{job['id']}"
    assert_problem(await site.owner.call("POST", f"{path}/approve", json=held), 409, "state_changed")
    unnamed = {"request_hash": job["request_hash"]}
    assert (await site.owner.call("POST", f"{path}/approve", json=unnamed)).status_code == 200
    await site.owner.wait(job["id"], "held")
    for stale in (unnamed, {**unnamed, "state": "waiting"}):
        for what in ("approve", "deny"):
            problem = assert_problem(await site.owner.call("POST", f"{path}/{what}", json=stale), 409, "state_changed")
            assert problem["state"] == "held"
    assert (await site.owner.job(job["id"]))["state"] == "held"
    assert_problem(await site.scientist.result(job["id"]), 409, "result_not_released")
    assert (await site.owner.call("POST", f"{path}/approve", json=held)).json()["state"] == "released"
    assert_problem(await site.owner.call("POST", f"{path}/approve", json=held), 409, "job_decided")
