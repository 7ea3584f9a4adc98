"""Jobs that take part in a training at another Domain: real Workers, real sockets between the Domains.

Should happen: every cycle has the diff of each Domain once, with the published number of its records as weight; all
cycles are paid for before the first begins; the owner's revocation ends it at once, and the others go on without
waiting. Should not happen: an exact diff that leaves without a person; a Worker's place that is taken while a job waits
for a cycle; a charge that is kept although nothing was trained.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import dp_accounting
import numpy as np
import pytest
import sqlalchemy as sa
from dp_accounting import rdp

from pygrid.privacy.events import PoissonSampledGaussian, decode_events
from pygrid.storage import audit
from pygrid.storage.charges import charges, curves
from pygrid.storage.federated import federated_cycles
from pygrid.storage.sql.database import Database
from support.eventually import eventually
from support.federation import LONG, PRIVATE, QUICK, Town, running_hub, running_town, settings_of
from support.jobs import Site
from support.web import assert_problem


@pytest.fixture(autouse=True)
def _gate_in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from support.training import gate_in_process

    monkeypatch.setattr("pygrid.features.processes.hosting.check_async", gate_in_process)


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    async with running_town(tmp_path, "alice", "bob") as running:
        yield running


def charges_of(folder: Path, name: str) -> list[tuple[str, PoissonSampledGaussian]]:
    """State and event of each charge at a Domain; its audit log must be whole."""
    settings = settings_of(folder, name)
    database = Database(settings.database_url)
    try:
        known = audit.read_head(settings.data_dir / audit.HEAD_FILE)
        assert database.read_now(lambda connection: audit.verify(connection, known)) is None
        statement = sa.select(charges.c.state, curves.c.events).join(curves, curves.c.id == charges.c.curve_id)
        rows = database.read_now(lambda connection: connection.execute(statement.order_by(charges.c.id)).all())
    finally:
        database.close()
    found = []
    for state, events in rows:
        (event,) = decode_events(events)
        assert isinstance(event, PoissonSampledGaussian)
        found.append((state, event))
    return found


def parts_of(folder: Path, name: str) -> list[tuple[int, str]]:
    """Cycle and state of each training at a Domain."""
    database = Database(settings_of(folder, name).database_url)
    try:
        statement = sa.select(federated_cycles.c.cycle, federated_cycles.c.state).order_by(federated_cycles.c.number)
        return [tuple(row) for row in database.read_now(lambda connection: connection.execute(statement).all())]
    finally:
        database.close()


async def test_two_domains_train_privately_and_pay_for_all_cycles(town: Town, tmp_path: Path) -> None:
    jobs = {name: await town.submit(name, **PRIVATE) for name in town.sites}
    for name, job in jobs.items():
        running = await town.wait(name, job, "running")
        assert running["detail"] == ""
        assert running["request"]["federation"]["auth_token"] == "(set)", "nobody is shown what would let them in"
    process = await town.hub.host()
    await town.hub.until(process, completed=3)
    assert (await town.hub.get(process))["state"] == "finished"
    ended = {name: await town.wait(name, job, "released") for name, job in jobs.items()}
    assert await town.hub.contributions(process) == [(n, name) for n in (1, 2, 3) for name in ("alice", "bob")]
    reports = (await town.hub.get(process, "/contributions"))["contributions"]
    assert {(one["client"], one["num_examples"], one["weight"]) for one in reports} == {
        ("alice", 200, 200),
        ("bob", 220, 220),
    }
    assert all(one["metrics"] == {} for one in reports), "of a private job nothing but the diff leaves"
    for name, job in ended.items():
        federation = job["federation"]
        assert (federation["num_begun"], federation["num_reported"], federation["doing"]) == (3, 3, "")
        assert job["result_bytes"] is None
        assert_problem(await town.sites[name].scientist.result(job["id"]), 404, "result_not_found")
        assert job["facts"]["num_calls"] > 0
        assert not (tmp_path / name / "jobs" / "inputs" / job["id"]).exists()
        (charged,) = charges_of(tmp_path, name)
        state, event = charged
        assert state == "released"
        # By another library: what was charged is what ran, and it is no more than what was asked for.
        rounds = math.ceil(1 / event.sampling_rate - 1e-9)
        assert event.rounds == 3 * rounds
        accountant = rdp.RdpAccountant(dp_accounting.rdp.rdp_privacy_accountant.DEFAULT_RDP_ORDERS)
        one_round = dp_accounting.PoissonSampledDpEvent(
            event.sampling_rate, dp_accounting.GaussianDpEvent(event.noise_multiplier)
        )
        accountant.compose(one_round, len([1 for _, what in parts_of(tmp_path, name) if what == "reported"]) * rounds)
        spent = (await town.sites[name].scientist.budget(town.datasets[name]))["yours"]
        assert spent == pytest.approx(accountant.get_epsilon(1e-6), rel=0.02)
        assert spent <= 2.0
    first, last = await town.hub.model(1), await town.hub.model()
    assert any(not np.array_equal(first[name], last[name]) for name in first)


async def test_an_exact_job_needs_a_person_who_is_told_what_leaves(town: Town) -> None:
    jobs = {name: await town.submit(name, **QUICK) for name in town.sites}
    process = await town.hub.host()
    for name, job in jobs.items():
        waiting = await town.wait(name, job, "waiting")
        federation = waiting["request"]["federation"]
        assert (federation["coordinator"], federation["cycles"]) == (town.hub.url, 3)
        await town.sites[name].owner.approve(waiting)
    await town.hub.until(process, completed=3)
    for name, job in jobs.items():
        ended = await town.wait(name, job, "released")
        assert ended["federation"]["num_reported"] == 3
    reports = (await town.hub.get(process, "/contributions"))["contributions"]
    assert all(set(one["metrics"]) == {"loss", "accuracy"} for one in reports)


async def test_no_cycle_begins_before_the_process_is_there_and_what_never_began_is_given_back(
    town: Town, tmp_path: Path
) -> None:
    job = await town.submit("alice", **PRIVATE)
    running = await town.wait("alice", job, "running")
    assert running["federation"]["doing"] in ("", "waits for the training to begin")
    assert (await town.sites["alice"].scientist.budget(town.datasets["alice"]))["yours"] > 0
    answer = await town.sites["alice"].scientist.call("POST", f"/data-centric/jobs/{job['id']}/cancel")
    assert answer.json()["state"] == "cancelled"
    assert (await town.sites["alice"].scientist.budget(town.datasets["alice"]))["yours"] == 0
    assert [state for state, _ in charges_of(tmp_path, "alice")] == ["refunded"]


async def test_a_revocation_ends_a_training_that_runs_and_nobody_waits_for_it(town: Town, tmp_path: Path) -> None:
    slow = await town.submit("alice", **LONG)
    quick = await town.submit("bob", **PRIVATE)
    process = await town.hub.host(min_workers=1, min_diffs=1)
    alice = town.sites["alice"]

    async def trains() -> bool:
        return (await alice.owner.job(slow["id"]))["federation"]["doing"] == "trains for cycle 1"

    await eventually(trains)
    answer = await alice.scientist.call("POST", f"/data-centric/jobs/{slow['id']}/revoke")
    assert_problem(answer, 403, "not_your_dataset")
    answer = await alice.owner.call("POST", f"/data-centric/jobs/{slow['id']}/revoke")
    assert (answer.status_code, answer.json()["state"]) == (200, "revoked"), answer.text
    # A cycle has a minute: it would take so long if it waited for the one that left.
    await town.hub.until(process, completed=3, seconds=30)
    await town.wait("bob", quick, "released")
    assert await town.hub.contributions(process) == [(1, "bob"), (2, "bob"), (3, "bob")]
    assert [state for state, _ in charges_of(tmp_path, "alice")] == ["failed"]
    assert not list((tmp_path / "alice" / "jobs" / "inputs").iterdir())
    # Its Worker is gone: the one place is free again.
    count = await alice.scientist.submit(
        town.datasets["alice"], "statistics", statistics=[{"kind": "count"}], privacy={"epsilon": 0.5, "delta": 1e-6}
    )
    await alice.scientist.wait(count["id"], "released")


async def test_a_job_that_waits_for_a_cycle_takes_no_place_of_a_worker(town: Town) -> None:
    site, dataset = town.sites["alice"], town.datasets["alice"]
    job = await town.submit("alice", **PRIVATE)
    await town.wait("alice", job, "running")
    count = await site.scientist.submit(
        dataset, "statistics", statistics=[{"kind": "count"}], privacy={"epsilon": 0.5, "delta": 1e-6}
    )
    await site.scientist.wait(count["id"], "released", seconds=20)
    assert (await site.scientist.job(job["id"]))["state"] == "running"


async def test_two_federations_cannot_have_the_budget_twice(town: Town, tmp_path: Path) -> None:
    """Whoever asks for the same under another name pays again, and is refused once the budget is spent."""
    most = {**QUICK, "privacy": {"epsilon": 3.0, "delta": 1e-6}}
    first = await town.submit("alice", **most)
    second = await town.submit("alice", federation={"process": "another"}, **most)
    await town.wait("alice", first, "running")
    waiting = await town.wait("alice", second, "waiting")
    assert not waiting["cost"]["fits"]
    assert waiting["detail"].startswith("budget_exhausted: this job takes"), "it fitted when it was submitted"
    assert_problem(await town.sites["alice"].owner.decide("approve", waiting), 409, "budget_exhausted")
    assert [state for state, _ in charges_of(tmp_path, "alice")] == ["reserved"]


@pytest.mark.parametrize("where", ["coordinator", "data"])
async def test_on_postgresql(where: str, tmp_path: Path, postgres_url: str) -> None:
    there = {"database_url": postgres_url}
    async with (
        running_hub(tmp_path / "hub", **(there if where == "coordinator" else {})) as hub,
        running_town(tmp_path, "alice", hub=hub, settings=there if where == "data" else None) as town,
    ):
        process = await hub.host(min_workers=1, min_diffs=1, max_diffs=2, num_cycles=2, cycle_length=1.0)
        job = await town.submit("alice", 2, **PRIVATE)
        ended = await town.wait("alice", job, "released")
        assert ended["federation"]["num_reported"] == 2
        assert await hub.contributions(process) == [(1, "alice"), (2, "alice")]


NONSENSE: list[dict[str, Any]] = [
    {"coordinator": "ftp://somewhere"},
    {"coordinator": "http://user:password@somewhere"},
    {"coordinator": "grid+http://somewhere"},
    {"coordinator": ""},
    {"coordinator": "http://somewhere/" + "x" * 3000},
    {"process": ""},
    {"process": "a\0b"},
    {"version": "x" * 201},
    {"cycles": 0},
    {"cycles": -1},
    {"cycles": 10_001},
    {"auth_token": "x" * 20_000},
    {"auth_token": "a\nb"},
    {"unknown": 1},
]


async def test_requests_that_make_no_sense_are_refused(site: Site) -> None:
    dataset = await site.owner.upload()
    good = {"coordinator": "http://127.0.0.1:1", "process": "p", "version": "1", "cycles": 2}
    for nonsense in NONSENSE:
        answer = await site.scientist.try_submit(dataset, federation={**good, **nonsense}, **QUICK)
        assert answer.status_code == 400, (nonsense, answer.text)
        codes = ("invalid_job", "invalid_url", "invalid_config", "invalid_text")
        assert answer.json()["code"] in codes, (nonsense, answer.text)
    answer = await site.scientist.try_submit(dataset, "statistics", statistics=[{"kind": "count"}], federation=good)
    assert_problem(answer, 400, "invalid_job")
    many = {"epochs": 10_000, "batch_size": 1, "privacy": {"epsilon": 1.0, "delta": 1e-6}}
    await site.owner.set_policy(dataset)
    answer = await site.scientist.try_submit(dataset, federation={**good, "cycles": 10_000}, **many)
    assert "rounds" in assert_problem(answer, 400, "invalid_privacy_terms")["detail"]
    assert (await site.owner.call("GET", "/data-centric/jobs")).json()["jobs"] == []
