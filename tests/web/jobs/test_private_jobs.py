"""Jobs under privacy terms, over HTTP, with real Workers.

Should happen: what fits the policy needs no person; it is charged once, before it runs; caps hold whoever asks and how
often. Should not happen: anything but noise of a plan that gives the data away; a charge that is given back; one record
that shows in state, text or time.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pygrid.compute.pools import Slot
from pygrid.core.jobs import JobRecord
from pygrid.features.jobs.running.dry_run import DryRun
from pygrid.plans.runner import Runner
from pygrid.storage import audit
from pygrid.storage.sql.database import Database
from pygrid.tensors import decode
from pygrid.web.services import service
from support.jobs import DATASETS, POLICY, Person, Site, npz, records
from support.plans.handmade import logistic_plan
from support.web import assert_problem


async def test_a_private_training_within_the_policy_needs_no_person(site: Site) -> None:
    dataset = await site.owner.upload()
    policy = await site.owner.set_policy(dataset, epsilon=20.0, epsilon_per_user=8.0)
    assert policy == {
        **POLICY,
        "epsilon": 20.0,
        "epsilon_per_user": 8.0,
        "max_epsilon_per_job": None,
        "use": "mixed",
        "allow_remote_workers": False,
        "pools": ["local"],
        "unit": "record",
        "fresh_budget": False,
    }
    terms = {"epsilon": 6.0, "delta": 1e-6, "clip": 1.0}
    job = await site.scientist.submit(
        dataset, epochs=10, batch_size=60, privacy=terms, optimizer={"learning_rate": 0.5}
    )
    cost = job["cost"]
    assert 5.98 < cost["epsilon"] <= 6.0
    assert cost["rounds"] == 50
    assert (cost["yours_before"], cost["your_cap"], cost["spent_before"]) == (0.0, 8.0, None)
    assert 0.997 < cost["certainty"] < 0.998
    done = await site.scientist.wait(job["id"], "released")
    assert (done["facts"], done["plan_summary"], done["decided_by"]) == (None, None, None)
    trained, _ = decode((await site.scientist.result(job["id"])).content)
    data = records()
    metrics = Runner(logistic_plan()).evaluate(trained, {"x": data["features"], "y": data["label"]})
    assert metrics["accuracy"] > 0.7
    budget = await site.scientist.budget(dataset)
    assert budget["yours"] == pytest.approx(cost["yours_after"])
    assert (budget["spent"], budget["users"]) == (None, None)
    of_all = await site.owner.budget(dataset)
    # Each in the epsilon of its own cap.
    assert of_all["spent"] + of_all["left"] == pytest.approx(20.0)
    assert list(of_all["users"].values()) == [pytest.approx(budget["yours"])]
    assert (await site.owner.job(job["id"]))["facts"]["num_calls"] > 0


async def test_a_second_job_beyond_the_cap_is_refused_at_once(site: Site) -> None:
    dataset = await site.owner.upload()
    await site.owner.set_policy(dataset, epsilon_per_user=1.5)
    asked = {"statistics": [{"kind": "count"}], "privacy": {"epsilon": 1.2, "delta": 1e-6}}
    first = await site.scientist.submit(dataset, "statistics", **asked)
    await site.scientist.wait(first["id"], "released")
    before = await site.owner.budget(dataset)
    refused = assert_problem(await site.scientist.try_submit(dataset, "statistics", **asked), 409, "budget_exhausted")
    assert f"{first['cost']['your_price']:.3g}" in refused["detail"]
    assert await site.owner.budget(dataset) == before
    # What is shown adds up: spent and left to the cap, and the price to what is spent.
    mine = await site.scientist.budget(dataset)
    assert mine["yours"] + mine["your_left"] == pytest.approx(1.5)
    assert mine["yours"] == pytest.approx(first["cost"]["your_price"])
    assert before["spent"] + before["left"] == pytest.approx(8.0)


async def test_nobody_approves_what_the_ledger_would_refuse(site: Site) -> None:
    """Two jobs wait; the first takes what the second would need."""
    dataset = await site.owner.upload()
    await site.owner.set_policy(dataset, epsilon_per_user=1.5, auto_approve=False)
    asked = {"statistics": [{"kind": "count"}], "privacy": {"epsilon": 1.2, "delta": 1e-6}}
    first, second = [await site.scientist.submit(dataset, "statistics", **asked) for _ in range(2)]
    await site.owner.approve(await site.owner.wait(first["id"], "waiting"))
    await site.scientist.wait(first["id"], "released")
    waiting = await site.owner.wait(second["id"], "waiting")
    assert not waiting["cost"]["fits"]
    assert_problem(await site.owner.decide("approve", waiting), 409, "budget_exhausted")
    assert (await site.owner.job(second["id"]))["state"] == "waiting"


async def test_a_budget_protects_the_unit_that_it_was_opened_for(site: Site) -> None:
    dataset = await site.owner.upload()
    policy = await site.owner.set_policy(dataset)
    assert policy["unit"] == "record"
    for unit in ("domain", "subject"):
        answer = await site.scientist.try_submit(dataset, privacy={"epsilon": 1.0, "delta": 1e-6, "unit": unit})
        assert_problem(answer, 400, "unit_not_budgeted")
        changed = await site.owner.call("PUT", f"{DATASETS}/{dataset}/policy", json={**POLICY, "unit": unit})
        assert_problem(changed, 409, "budget_fixed")
    files = {"config": b'{"subject": "town", "max_records_per_subject": 2}', "data": npz(records())}
    version = await site.owner.call("POST", f"{DATASETS}/{dataset}/versions", files=files)
    assert_problem(version, 409, "unit_fixed")
    other = await site.owner.upload("other", records(seed=4))
    opened = await site.owner.call("PUT", f"{DATASETS}/{other}/policy", json={**POLICY, "unit": "subject"})
    assert_problem(opened, 400, "invalid_policy")
    assert (await site.owner.set_policy(other, unit="domain"))["unit"] == "domain"
    assert_problem(
        await site.scientist.try_submit(other, privacy={"epsilon": 1.0, "delta": 1e-6}), 400, "unit_not_budgeted"
    )


async def test_the_same_records_get_a_second_budget_only_if_the_owner_says_so(site: Site) -> None:
    dataset = await site.owner.upload()
    await site.owner.set_policy(dataset)
    job = await site.scientist.submit(
        dataset, "statistics", statistics=[{"kind": "count"}], privacy={"epsilon": 1.0, "delta": 1e-6}
    )
    await site.scientist.wait(job["id"], "released")
    assert (await site.owner.call("DELETE", f"{DATASETS}/{dataset}")).status_code == 204
    # Under another name, and with the columns in another order.
    again = await site.owner.upload("again", dict(reversed(records().items())))
    path = f"{DATASETS}/{again}/policy"
    assert_problem(await site.owner.call("PUT", path, json=POLICY), 409, "content_has_budget")
    confirmed = await site.owner.call("PUT", path, json={**POLICY, "fresh_budget": True})
    assert confirmed.status_code == 200, confirmed.text
    # An owner who guesses the records of another one is not told: only the last record may be unknown.
    flags = ("triage_requests", "edit_settings", "create_users", "create_groups", "edit_roles", "manage_infrastructure")
    holder = {"name": "Holder", **{f"can_{name}": False for name in flags}, "can_upload_data": True}
    role = await site.owner.call("POST", "/roles", json=holder)
    headers = await site.people.with_role(role.json()["role"]["id"], site.owner.headers, "guesser@example.org")
    guesser = Person(site.web, headers)
    for seed in (3, 9):
        guessed = await guesser.upload(f"guess {seed}", records(seed=seed))
        answer = await guesser.call("PUT", f"{DATASETS}/{guessed}/policy", json=POLICY)
        assert answer.status_code == 200, answer.text
    entries = service(site.app.state, Database).read_now(lambda connection: audit.list_entries(connection, limit=1000))
    found = {entry.action: entry.data["others"] for entry in entries if "others" in entry.data}
    assert found == {"fresh_budget_confirmed": [dataset], "same_records_budgeted": [dataset, again]}
    # As a later version of a dataset with a budget, too.
    third = await site.owner.upload("third", records(seed=5))
    await site.owner.set_policy(third)
    for config, expected in ((b"{}", 409), (b'{"fresh_budget": true}', 201)):
        files = {"config": config, "data": npz(records())}
        answer = await site.owner.call("POST", f"{DATASETS}/{third}/versions", files=files)
        assert answer.status_code == expected, answer.text


async def test_a_charge_is_given_back_if_no_worker_was_given_the_job(site: Site, settings: Any) -> None:
    dataset = await site.owner.upload()
    await site.owner.set_policy(dataset, auto_approve=False)
    job = await site.scientist.submit(
        dataset, "statistics", statistics=[{"kind": "count"}], privacy={"epsilon": 1.0, "delta": 1e-6}
    )
    waiting = await site.owner.wait(job["id"], "waiting")
    for column in settings.data_dir.rglob("0.bin"):
        column.write_bytes(b"")
    await site.owner.approve(waiting)
    failed = await site.scientist.wait(job["id"], "failed")
    assert "nothing was charged" in failed["detail"]
    assert (await site.owner.budget(dataset))["spent"] == 0.0
    database = Database(settings.database_url)
    try:
        actions = [entry.action for entry in database.read_now(audit.list_entries)]
    finally:
        database.close()
    assert actions.count("charge_refunded") == 1
    assert_sound(settings.database_url)


@pytest.mark.parametrize("delta", [0.5, 0.999, 1e-3])
async def test_a_delta_that_protects_nobody_opens_no_budget(site: Site, delta: float) -> None:
    dataset = await site.owner.upload()
    answer = await site.owner.call("PUT", f"{DATASETS}/{dataset}/policy", json={**POLICY, "delta": delta})
    assert_problem(answer, 400, "invalid_delta")
    assert_problem(await site.owner.call("GET", f"{DATASETS}/{dataset}/policy"), 404, "policy_not_found")


async def test_whoever_asks_for_a_whole_budget_gets_it(site: Site) -> None:
    dataset = await site.owner.upload()
    await site.owner.set_policy(dataset, epsilon=1.0, epsilon_per_user=1.0, use="training")
    job = await site.scientist.submit(
        dataset, epochs=2, batch_size=30, privacy={"epsilon": 1.0, "delta": 1e-6}, optimizer={"learning_rate": 0.1}
    )
    await site.scientist.wait(job["id"], "released")


async def test_a_policy_may_want_a_person_for_dear_jobs(site: Site) -> None:
    dataset = await site.owner.upload()
    await site.owner.set_policy(dataset, max_epsilon_per_job=0.5)
    asked = {"statistics": [{"kind": "count"}]}
    cheap = await site.scientist.submit(dataset, "statistics", **asked, privacy={"epsilon": 0.5, "delta": 1e-6})
    dear = await site.scientist.submit(dataset, "statistics", **asked, privacy={"epsilon": 0.6, "delta": 1e-6})
    exact = await site.scientist.submit(dataset, "statistics", **asked)
    await site.scientist.wait(cheap["id"], "released")
    for job in (dear, exact):
        assert (await site.scientist.wait(job["id"], "waiting"))["decided_by"] is None


async def test_a_dataset_that_is_hidden_meanwhile_needs_a_person(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = await site.owner.upload()
    await site.owner.set_policy(dataset)
    run = DryRun.run

    async def hide_first(dry_run: DryRun, job: JobRecord, slot: Slot) -> None:
        answer = await site.owner.call("PUT", f"{DATASETS}/{dataset}", json={"visibility": "private"})
        assert answer.status_code == 200, answer.text
        await run(dry_run, job, slot)

    monkeypatch.setattr(DryRun, "run", hide_first)
    asked = {"statistics": [{"kind": "count"}], "privacy": {"epsilon": 0.5, "delta": 1e-6}}
    job = await site.scientist.submit(dataset, "statistics", **asked)
    own = await site.owner.submit(dataset, "statistics", **asked)
    await site.owner.wait(own["id"], "released")
    await site.scientist.wait(job["id"], "waiting")
    budget = await site.owner.budget(dataset)
    assert set(budget["users"]) == {own["requested_by_email"]}


async def test_statistics_by_texts_tell_nothing_of_unknown_ones(site: Site) -> None:
    dataset = await site.owner.upload()
    await site.owner.set_policy(dataset)
    asked = [
        {"kind": "count", "by": "town", "keys": ["Wil", "Oz", "Bern"]},
        {"kind": "mean", "column": "age", "lower": 20, "upper": 80, "by": "label", "keys": [0, 1, 2]},
        {"kind": "quantile", "column": "age", "edges": list(range(20, 81, 5))},
    ]
    exact = await site.scientist.submit(dataset, "statistics", statistics=asked)
    await site.owner.approve(await site.owner.wait(exact["id"], "waiting"))
    await site.owner.approve(await site.owner.wait(exact["id"], "held"))
    answers = (await site.scientist.result(exact["id"])).json()["answers"]
    data = records()
    towns = {town: int((data["town"] == town).sum()) for town in ("Wil", "Bern")}
    assert answers[0]["groups"] == [["Wil", towns["Wil"]], ["Oz", 0], ["Bern", towns["Bern"]]]
    for key, mean in answers[1]["groups"][:3]:
        assert mean == pytest.approx(data["age"][data["label"] == key].mean(), rel=1e-5)
    private = await site.scientist.submit(
        dataset, "statistics", statistics=asked[:1], privacy={"epsilon": 3.0, "delta": 1e-6}
    )
    await site.scientist.wait(private["id"], "released")
    answer = await site.scientist.result(private["id"])
    assert answer.headers["content-type"].startswith("application/json")
    noisy = dict(answer.json()["answers"][0]["groups"])
    std = answer.json()["answers"][0]["noise_std"]
    assert noisy.keys() == {"Wil", "Oz", "Bern"}
    for town, value in noisy.items():
        assert abs(value - towns.get(town, 0)) < 6 * std


async def test_caps_hold_against_many_jobs_at_once(site: Site, settings: Any) -> None:
    dataset = await site.owner.upload()
    await site.owner.set_policy(dataset, epsilon=3.0, epsilon_per_user=2.0, auto_approve=True)
    asked = {"statistics": [{"kind": "count"}], "privacy": {"epsilon": 0.8, "delta": 1e-6}}
    askers = [site.scientist] * 10 + [site.stranger] * 10
    answers = await asyncio.gather(*(person.try_submit(dataset, "statistics", **asked) for person in askers))
    ended = []
    for person, answer in zip(askers, answers, strict=True):
        if answer.status_code == 409:
            ended.append({**assert_problem(answer, 409, "budget_exhausted"), "state": "failed"})
            continue
        job = answer.json()
        there = await person.wait(job["id"], "released", "waiting", "failed")
        if there["state"] == "waiting":
            decided = await site.owner.decide("approve", await site.owner.job(job["id"]))
            there = await person.wait(job["id"], "released", "failed") if decided.status_code == 200 else decided.json()
        ended.append({"state": "failed", **there})
    released = [job for job in ended if job["state"] == "released"]
    assert {job["code"] for job in ended if job["state"] == "failed"} == {"budget_exhausted"}
    assert 1 < len(released) < 20
    budget = await site.owner.budget(dataset)
    assert budget["spent"] <= 3.0
    assert all(spent <= 2.0 for spent in budget["users"].values())
    assert_sound(settings.database_url)


def assert_sound(url: str) -> None:
    database = Database(url)
    try:
        assert database.read_now(audit.verify) is None
    finally:
        database.close()
