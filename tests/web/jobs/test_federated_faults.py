"""Trainings across Domains in which Domains stop, come back, are late, or find nobody there, and Workers are killed.

Should happen: a training that was cut off is lost, and the next one begins; a diff that was kept is reported after a
restart, the very same bytes; a cycle that was opened again gets the diff that came too late for it; a coordinator that
is back is found. Should not happen: more trainings than were paid for; a diff that counts twice in a cycle; a job that
waits for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from test_federated_jobs import charges_of, parts_of

from pygrid.domain import build_domain
from pygrid.edge import EdgeClient
from pygrid.errors import Unavailable
from pygrid.features.jobs.running.runs import JobTrainer
from support.eventually import eventually
from support.federation import LONG, PRIVATE, QUICK_TIMINGS, running_hub, running_town, settings_of, until_doing
from support.jobs import Person, Site
from support.processes import job_processes
from support.web import People, running


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    from support.training import gate_in_process

    monkeypatch.setattr("pygrid.features.processes.hosting.check_async", gate_in_process)


@asynccontextmanager
async def again(folder: Path, name: str) -> AsyncIterator[Site]:
    """A Domain that was stopped, once more."""
    app = build_domain(settings_of(folder, name), timings=QUICK_TIMINGS)
    async with running(app) as web:
        people = People(web)
        everybody = [
            Person(web, await people.log_in(f"{who}@example.org"))
            for who in ("owner", "scientist", "officer", "stranger")
        ]
        yield Site(app, web, *everybody, people)


async def test_a_training_that_was_cut_off_is_lost_and_the_next_is_for_the_same_cycle(tmp_path: Path) -> None:
    async with running_hub(tmp_path / "hub") as hub:
        process = await hub.host(min_workers=1, min_diffs=1, max_diffs=1, num_cycles=2)
        async with running_town(tmp_path, "alice", hub=hub) as town:
            job = await town.submit("alice", 3, **LONG)
            await until_doing(town.sites["alice"], job, "trains for cycle 1")
        assert parts_of(tmp_path, "alice") == [(1, "training")]
        async with again(tmp_path, "alice") as site:
            found = await until_doing(site, job, "trains for cycle 1")
            assert (found["federation"]["num_begun"], found["federation"]["num_spent"]) == (2, 2)
        async with again(tmp_path, "alice") as site:
            await until_doing(site, job, "trains for cycle 1")
        async with again(tmp_path, "alice") as site:
            ended = await site.owner.wait(job["id"], "failed")
            assert ended["code"] == "job_failed"
        # Paid for three, begun three times: not a fourth.
        assert parts_of(tmp_path, "alice") == [(1, "lost")] * 3
        assert [state for state, _ in charges_of(tmp_path, "alice")] == ["failed"]
        assert await hub.contributions(process) == []


MEDIUM: dict[str, Any] = {"epochs": 150, "batch_size": 10, "hyper": {"lr": 0.01}}
"""A few seconds of training: long enough that its process can be killed, short enough that it is then done again."""


async def kill_training(site: Site, job: dict[str, Any], number: int) -> None:
    """``kill -9`` of the process of a job's training of this number."""

    async def has_begun() -> bool:
        found = await site.owner.job(job["id"])
        assert found["state"] in ("checking", "approved", "running"), found
        return found["federation"]["num_begun"] >= number and bool(job_processes())

    await eventually(has_begun)
    (process,) = job_processes()
    process.kill()


@pytest.mark.parametrize("terms", [{}, {"privacy": {"epsilon": 4.0, "delta": 1e-6}}], ids=["exact", "private"])
async def test_a_training_whose_process_is_killed_is_done_again(tmp_path: Path, terms: dict[str, Any]) -> None:
    async with running_town(tmp_path, "alice") as town:
        alice = town.sites["alice"]
        process = await town.hub.host(min_workers=1, min_diffs=1, max_diffs=1, num_cycles=1)
        job = await town.submit("alice", 2, **MEDIUM, **terms)
        if not terms:
            await alice.owner.approve(await town.wait("alice", job, "waiting"))
        await kill_training(alice, job, 1)
        ended = await town.wait("alice", job, "released")
        assert (ended["federation"]["num_begun"], ended["federation"]["num_reported"]) == (2, 1)
        # A private training has used up one of its cycles; of an exact one only diffs count.
        assert ended["federation"]["num_spent"] == (2 if terms else 1)
        assert await town.hub.contributions(process) == [(1, "alice")]
    assert parts_of(tmp_path, "alice") == [(1, "lost"), (1, "reported")]
    assert [state for state, _ in charges_of(tmp_path, "alice")] == (["released"] if terms else [])


@pytest.mark.parametrize(
    ("terms", "cycles"),
    # No training of the exact one ends, so that it can take long.
    [({"epochs": 5000}, 5), ({"privacy": {"epsilon": 4.0, "delta": 1e-6}}, 3)],
    ids=["exact", "private"],
)
async def test_a_job_whose_trainings_are_killed_again_and_again_ends(
    tmp_path: Path, terms: dict[str, Any], cycles: int
) -> None:
    async with running_town(tmp_path, "alice") as town:
        alice = town.sites["alice"]
        process = await town.hub.host(min_workers=1, min_diffs=1, max_diffs=1, num_cycles=1)
        job = await town.submit("alice", cycles, **{**MEDIUM, **terms})
        if "privacy" not in terms:
            await alice.owner.approve(await town.wait("alice", job, "waiting"))
        for number in (1, 2, 3):
            await kill_training(alice, job, number)
        ended = await town.wait("alice", job, "failed")
        assert ended["code"] == "job_failed"
        assert "SIGKILL" in ended["detail"]
        assert await town.hub.contributions(process) == []
    assert parts_of(tmp_path, "alice") == [(1, "lost")] * 3
    assert [state for state, _ in charges_of(tmp_path, "alice")] == (["failed"] if "privacy" in terms else [])


async def test_a_diff_that_was_kept_is_reported_after_a_restart_byte_for_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[bytes] = []
    send = EdgeClient.send_report

    async with running_hub(tmp_path / "hub") as hub:
        process = await hub.host(min_workers=1, min_diffs=1, max_diffs=1, num_cycles=1)

        def lost(self: EdgeClient, body: Any) -> None:
            sent.append(b"".join(body))
            raise Unavailable("the test cut the line", code="connection_lost")

        with monkeypatch.context() as patch:
            patch.setattr(EdgeClient, "send_report", lost)
            async with running_town(tmp_path, "alice", hub=hub) as town:
                job = await town.submit("alice", 3, **PRIVATE)
                await until_doing(town.sites["alice"], job, "tries again")
        assert parts_of(tmp_path, "alice") == [(1, "trained")]

        def watched(self: EdgeClient, body: Any) -> None:
            sent.append(b"".join(body))
            send(self, body)

        monkeypatch.setattr(EdgeClient, "send_report", watched)
        async with again(tmp_path, "alice") as site:
            ended = await site.owner.wait(job["id"], "released")
            assert ended["federation"]["num_reported"] == 1
        assert len(set(sent)) == 1
        assert await hub.contributions(process) == [(1, "alice")]


async def test_a_report_whose_answer_was_lost_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    send = EdgeClient.send_report
    calls: list[int] = []

    def loses_the_answer(self: EdgeClient, body: Any) -> None:
        assignment = self.assignment
        send(self, body)
        calls.append(1)
        if len(calls) == 1:
            self.assignment = assignment
            raise Unavailable("the test lost the answer", code="connection_lost")

    monkeypatch.setattr(EdgeClient, "send_report", loses_the_answer)
    async with running_hub(tmp_path / "hub") as hub, running_town(tmp_path, "alice", hub=hub) as town:
        process = await hub.host(min_workers=1, min_diffs=1, max_diffs=1, num_cycles=2)
        job = await town.submit("alice", 2, **PRIVATE)
        ended = await town.wait("alice", job, "released")
        assert ended["federation"]["num_reported"] == 2
        assert await hub.contributions(process) == [(1, "alice"), (2, "alice")]
    assert len(calls) == 3


async def test_who_is_late_for_a_cycle_that_is_opened_again_reports_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its diff is for the same model, so nothing more is paid for it."""
    train = JobTrainer.train
    reopened = asyncio.Event()

    async def slowly(self: JobTrainer, *args: Any, **more: Any) -> Any:
        result = await train(self, *args, **more)
        await reopened.wait()
        return result

    monkeypatch.setattr(JobTrainer, "train", slowly)
    async with running_hub(tmp_path / "hub") as hub, running_town(tmp_path, "alice", hub=hub) as town:
        process = await hub.host(min_workers=1, min_diffs=1, max_diffs=1, num_cycles=1, cycle_length=1.0)
        job = await town.submit("alice", 3, **PRIVATE)

        async def has_second_attempt() -> bool:
            (cycle,) = (await hub.get(process, "/cycles"))["cycles"]
            return int(cycle["attempt"]) > 1

        await eventually(has_second_attempt)
        reopened.set()
        await hub.until(process, completed=1)
        await town.wait("alice", job, "released")
        cycles = (await hub.get(process, "/cycles"))["cycles"]
        assert [(cycle["sequence"], cycle["state"]) for cycle in cycles] == [(1, "completed")]
        assert cycles[0]["attempt"] > 1
    assert parts_of(tmp_path, "alice") == [(1, "reported")]


async def test_a_straggler_misses_a_cycle_and_takes_part_in_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = JobTrainer.train
    held = asyncio.Event()

    async def waits_once(self: JobTrainer, job: Any, model: Path, number: int, **more: Any) -> Any:
        if "alice" in str(model) and number == 1:
            await held.wait()
        return await train(self, job, model, number, **more)

    monkeypatch.setattr(JobTrainer, "train", waits_once)
    async with running_town(tmp_path, "alice", "bob") as town:
        jobs = {name: await town.submit(name, **PRIVATE) for name in town.sites}
        process = await town.hub.host(min_workers=2, min_diffs=1, cycle_length=1.5)
        await town.hub.until(process, completed=1)
        held.set()
        await town.hub.until(process, completed=3)
        for name, job in jobs.items():
            await town.wait(name, job, "released")
        found = await town.hub.contributions(process)
        assert (1, "bob") in found
        assert (1, "alice") not in found
        assert (3, "alice") in found
        assert len(set(found)) == len(found)
    assert parts_of(tmp_path, "alice")[0] == (1, "missed")


async def test_a_coordinator_that_goes_away_and_comes_back_is_found_again(tmp_path: Path) -> None:
    async with running_hub(tmp_path / "hub") as hub:
        port, secret = int(hub.url.rpartition(":")[2]), hub.secret
        process = await hub.host(min_workers=1, min_diffs=1, max_diffs=1, num_cycles=2)
    async with running_town(tmp_path, "alice", hub=hub) as town:
        job = await town.submit("alice", 2, **PRIVATE)
        await until_doing(town.sites["alice"], job, "tries again")
        async with running_hub(tmp_path / "hub", secret, port) as hub:
            await town.wait("alice", job, "released")
            assert await hub.contributions(process) == [(1, "alice"), (2, "alice")]
