"""Trainings of federated jobs on Workers of other machines, called as such a Worker does.

Should happen: where the dataset's policy allows it, a cycle is trained on a machine that asks, if this one is busy or
it is preferred; what it brings is checked as any result, and leaves as a diff; after one that was lost the next is
trained here. Should not happen: records that leave the machine without the policy, or after the job was revoked; a
training that is paid for twice because its Worker was lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_federated_jobs import charges_of, parts_of
from test_remote_leases import GOOD, Machine, ended, machine

from pygrid.tensors import encode
from support.eventually import eventually
from support.federation import LONG, PRIVATE, Town, running_town, until_doing
from support.jobs import MODEL
from support.plans.handmade import logistic_params
from support.web import assert_problem

ALONE = {"min_workers": 1, "min_diffs": 1, "max_diffs": 1}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    from support.training import gate_in_process

    monkeypatch.setattr("pygrid.features.processes.hosting.check_async", gate_in_process)


@asynccontextmanager
async def alice(folder: Path, *, prefer: bool = True, allow: bool = True) -> AsyncIterator[tuple[Town, Machine]]:
    """A Domain with one Worker of its own and one of another machine, which asks when a test has it ask."""
    async with running_town(
        folder, "alice", settings={"prefer_remote_workers": prefer}, allow_remote_workers=allow, epsilon=10.0
    ) as town:
        yield town, await machine(town.sites["alice"])


async def taken(town: Town, worker: Machine, then: Callable[[], Any]) -> dict[str, Any]:
    """What the machine is given once it asks and ``then`` was done."""
    asking = asyncio.create_task(worker.ask(wait_s=60))
    await worker.until_asking()
    await then()
    lease = await asking
    assert lease is not None
    return lease


async def bring(worker: Machine, lease: dict[str, Any], value: float) -> None:
    assert (await worker.renew(lease)).status_code == 200
    trained = {name: np.full_like(array, value) for name, array in logistic_params().items()}
    assert (await worker.bring(lease, ended(GOOD, encode(trained)))).status_code == 200


@pytest.mark.parametrize("prefer", [True, False])
async def test_a_cycle_is_trained_on_another_machine(prefer: bool, tmp_path: Path) -> None:
    async with alice(tmp_path, prefer=prefer) as (town, worker):
        site = town.sites["alice"]
        process = await town.hub.host(**ALONE, num_cycles=2)
        if not prefer:  # the one Worker of this machine is taken
            busy = await site.scientist.submit(town.datasets["alice"], **LONG)
            await site.scientist.wait(busy["id"], "running")
        jobs: list[dict[str, Any]] = []

        async def submit() -> None:
            jobs.append(await town.submit("alice", 2, **PRIVATE))

        lease = await taken(town, worker, submit)
        assert lease["spec"]["id"] == f"{jobs[0]['id']}-cycle-1"
        await worker.renew(lease)
        assert (await worker.file(lease, lease["spec"]["model_path"])).content == MODEL
        assert (await worker.renew(lease, progress={"done": 1, "total": 2})).status_code == 200
        second = await taken(town, worker, lambda: bring(worker, lease, 0.5))
        await worker.renew(second)
        # The model of the second cycle, which the first has made: that of the machine.
        got = (await worker.file(second, second["spec"]["model_path"])).content
        assert got == encode(await town.hub.model(2))
        await bring(worker, second, 0.25)
        await town.hub.until(process, completed=2)
        done = await town.wait("alice", jobs[0], "released")
        assert (done["federation"]["num_reported"], done["facts"]["worker"]) == (2, "gpu-1")
        for array in (await town.hub.model()).values():
            np.testing.assert_allclose(array, 0.25)
        assert_problem(await worker.file(second, second["spec"]["plan_path"]), 410, "lease_over")
    assert parts_of(tmp_path, "alice") == [(1, "reported"), (2, "reported")]


async def test_records_stay_here_unless_the_policy_says_otherwise(tmp_path: Path) -> None:
    async with alice(tmp_path, allow=False) as (town, worker):
        process = await town.hub.host(**ALONE, num_cycles=2)
        asking = asyncio.create_task(worker.ask(wait_s=60))
        await worker.until_asking()
        job = await town.submit("alice", 2, **PRIVATE)
        await town.hub.until(process, completed=2)
        assert not asking.done()
        asking.cancel()
        assert (await town.wait("alice", job, "released"))["facts"]["worker"] == ""


async def test_a_policy_that_is_taken_back_holds_from_the_next_cycle_on(tmp_path: Path) -> None:
    async with alice(tmp_path) as (town, worker):
        site = town.sites["alice"]
        process = await town.hub.host(**ALONE, num_cycles=2)
        lease = await taken(town, worker, lambda: town.submit("alice", 2, **PRIVATE))
        await site.owner.set_policy(town.datasets["alice"], epsilon=10.0, allow_remote_workers=False)
        asking = asyncio.create_task(worker.ask(wait_s=60))
        await bring(worker, lease, 0.5)
        await town.hub.until(process, completed=2)
        assert not asking.done()
        asking.cancel()


async def test_a_policy_that_is_taken_back_while_a_job_waits_in_line_holds_at_once(tmp_path: Path) -> None:
    async with alice(tmp_path) as (town, worker):
        site, dataset = town.sites["alice"], town.datasets["alice"]
        busy = await site.scientist.submit(dataset, **LONG)
        await site.scientist.wait(busy["id"], "running")
        process = await town.hub.host(**ALONE, num_cycles=1)
        job = await town.submit("alice", 1, **PRIVATE)
        await until_doing(site, job, "waits for a Worker")
        await site.owner.set_policy(dataset, epsilon=10.0, allow_remote_workers=False)
        assert await worker.ask(wait_s=1) is None
        await site.scientist.call("POST", f"/data-centric/jobs/{busy['id']}/cancel")
        await town.hub.until(process, completed=1)
        assert (await town.wait("alice", job, "released"))["facts"]["worker"] == ""


async def test_after_a_worker_was_lost_the_next_training_is_here(tmp_path: Path) -> None:
    async with alice(tmp_path) as (town, worker):
        process = await town.hub.host(**ALONE, num_cycles=1)
        lease = await taken(town, worker, lambda: town.submit("alice", 3, **PRIVATE))
        await worker.renew(lease)
        asking = asyncio.create_task(worker.ask(wait_s=60))
        assert (await worker.call("DELETE", f"/leases/{lease['id']}")).status_code == 200
        await town.hub.until(process, completed=1)
        assert not asking.done()
        asking.cancel()
        assert_problem(await worker.bring(lease, ended(GOOD, MODEL)), 410, "lease_over")
    # What was given out may have been seen: it counts as used.
    assert parts_of(tmp_path, "alice") == [(1, "lost"), (1, "reported")]
    assert len(charges_of(tmp_path, "alice")) == 1


async def test_a_lease_that_was_never_begun_is_the_same_training_here(tmp_path: Path) -> None:
    async with alice(tmp_path) as (town, worker):
        process = await town.hub.host(**ALONE, num_cycles=1)
        lease = await taken(town, worker, lambda: town.submit("alice", 1, **PRIVATE))
        assert (await worker.call("DELETE", f"/leases/{lease['id']}")).status_code == 200
        await town.hub.until(process, completed=1)
    assert parts_of(tmp_path, "alice") == [(1, "reported")]


async def test_a_revocation_takes_the_records_from_the_other_machine(tmp_path: Path) -> None:
    async with alice(tmp_path) as (town, worker):
        site = town.sites["alice"]
        process = await town.hub.host(**ALONE, num_cycles=1)
        lease = await taken(town, worker, lambda: town.submit("alice", 1, **PRIVATE))
        assert (await worker.renew(lease)).status_code == 200
        (job,) = (await site.owner.call("GET", "/data-centric/jobs")).json()["jobs"]
        assert (await site.owner.call("POST", f"/data-centric/jobs/{job['id']}/revoke")).status_code == 200

        async def is_over() -> bool:
            return (await worker.renew(lease)).status_code != 200

        await eventually(is_over)
        assert_problem(await worker.file(lease, lease["spec"]["columns"]["features"]["path"]), 410, "lease_over")
        assert_problem(await worker.bring(lease, ended(GOOD, MODEL)), 410, "lease_over")
        assert await town.hub.contributions(process) == []
        # Its place is free again.
        again = asyncio.create_task(worker.ask(wait_s=60))
        await worker.until_asking()
        count = {"statistics": [{"kind": "count"}], "privacy": {"epsilon": 0.5, "delta": 1e-6}}
        await site.scientist.submit(town.datasets["alice"], "statistics", **count)
        assert await again is not None


def wrong_shape() -> bytes:
    return encode({"weight": np.zeros((3, 5), np.float32), "bias": np.zeros(3, np.float32)})


def not_finite() -> bytes:
    return encode({name: np.full_like(array, np.nan) for name, array in logistic_params().items()})


@pytest.mark.parametrize("make", [wrong_shape, not_finite, lambda: b"nonsense"])
async def test_what_another_machine_brings_is_not_believed(make: Callable[[], bytes], tmp_path: Path) -> None:
    async with alice(tmp_path) as (town, worker):
        process = await town.hub.host(**ALONE, num_cycles=1)
        lease = await taken(town, worker, lambda: town.submit("alice", 2, **PRIVATE))
        await worker.renew(lease)
        assert (await worker.bring(lease, ended(GOOD, make()))).status_code == 200
        await town.hub.until(process, completed=1)
        # The Domain notes it once it has the answer to its report.
        await eventually(lambda: parts_of(tmp_path, "alice") == [(1, "lost"), (1, "reported")])
