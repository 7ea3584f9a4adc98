"""Devices at two replicas of a Domain, in process: one leads, the other one follows.

Should happen: a cycle opens when enough clients are present at both replicas together; each place is given once.
Should not: a client that changes the replica counts twice; a follower serves a process that the leader has deleted.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pygrid.clock import ManualClock
from pygrid.domain import build_domain
from pygrid.features.cycles.scheduler import CycleScheduler
from pygrid.settings import DomainSettings
from pygrid.storage.store import Store
from pygrid.web.services import service
from support.eventually import eventually
from support.training import Device, Site, gate_in_process, running_site
from support.web import People

WAIT_S = 60


class Replicas:
    """A leader and a follower on the same database and bucket."""

    def __init__(self, leader: Site, follower: Site) -> None:
        self.leader, self.follower = leader, follower

    async def host(self, **server_config: Any) -> dict[str, Any]:
        """A process that both replicas know."""
        process = await self.leader.host(**server_config)
        for site in (self.leader, self.follower):
            current = service(site.app.state, CycleScheduler).current
            await eventually(lambda current=current: process["id"] in current)
        return process

    async def delete(self, process: dict[str, Any]) -> None:
        path, owner = f"/model-centric/processes/{process['id']}", self.leader.owner
        assert (await self.leader.web.post(f"{path}/finish", headers=owner)).status_code == 200
        assert (await self.leader.web.delete(path, headers=owner)).status_code < 300

    async def devices(self, process: dict[str, Any], num: int) -> list[Device]:
        """New clients, half of them at each replica."""
        return [await (self.leader, self.follower)[number % 2].device(process) for number in range(num)]


@pytest.fixture
async def replicas(
    settings: DomainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Replicas]:
    monkeypatch.setattr("pygrid.features.processes.hosting.check_async", gate_in_process)
    clock = ManualClock()

    @asynccontextmanager
    async def replica(name: str, owner: dict[str, str]) -> AsyncIterator[Site]:
        own = dataclasses.replace(settings, data_dir=tmp_path / name)
        async with running_site(build_domain(own, clock=clock), clock, own.data_dir, owner) as site:
            yield site

    async with replica("leader", {}) as leader:
        leader.owner = await People(leader.web).owner()
        async with replica("follower", leader.owner) as follower:
            refused = await follower.web.get("/model-centric/processes", headers=leader.owner)
            assert (refused.status_code, refused.json()["code"]) == (503, "not_leader")
            yield Replicas(leader, follower)


async def test_a_follower_admits_clients_to_a_cycle(replicas: Replicas) -> None:
    process = await replicas.host(max_diffs=2)
    for device in await replicas.devices(process, 2):
        await device.join()
        await device.report(0.5)
    assert (await replicas.leader.until_completed(process))["num_reports"] == 2


async def test_clients_at_both_replicas_open_a_cycle_together(replicas: Replicas) -> None:
    process = await replicas.host(min_workers=4, max_workers=4, max_diffs=4)
    devices = await replicas.devices(process, 4)
    waiting = [asyncio.create_task(device.ask(wait_s=WAIT_S)) for device in devices[:3]]

    async def is_admitted() -> bool:
        answer = await devices[3].ask()
        return answer["status"] == "accepted"

    await eventually(is_admitted)
    assert [answer["status"] for answer in await asyncio.gather(*waiting)] == ["accepted"] * 3


async def test_a_client_that_changes_the_replica_counts_once(replicas: Replicas) -> None:
    process = await replicas.host(min_workers=3)
    devices = await replicas.devices(process, 3)
    for device in devices[:2]:
        for site in (replicas.leader, replicas.follower):
            device._site = site
            assert (await device.ask())["reason"] == "waiting_for_workers"
    assert (await devices[2].ask())["status"] == "accepted"


@pytest.mark.parametrize(
    ("refusal", "selection"), [("cycle_full", {}), ("not_drawn", {"pool_selection": "random", "pool_window_s": 0.5})]
)
async def test_each_place_is_given_once(replicas: Replicas, refusal: str, selection: dict[str, Any]) -> None:
    process = await replicas.host(max_workers=3, max_diffs=3, **selection)
    devices = await replicas.devices(process, 8)
    answers = await asyncio.gather(*(device.ask() for device in devices))
    assert sorted(answer.get("reason", "") for answer in answers) == [""] * 3 + [refusal] * 5
    assert (await replicas.leader.cycle(process))["num_assigned"] == 3


async def test_a_request_that_is_answered_late_does_not_end_the_key_of_a_later_one(replicas: Replicas) -> None:
    process = await replicas.host(min_workers=2, max_diffs=2)
    device, other = [await replicas.follower.device(process) for _ in range(2)]
    late = asyncio.create_task(device.ask(wait_s=3))
    replicas.leader.clock.advance(1)
    again = Device(replicas.leader, process, device.worker_id)
    await asyncio.gather(late, again.join(wait_s=WAIT_S), other.join(wait_s=WAIT_S))
    await again.report(0.5)


async def test_a_client_that_waits_at_a_follower_gets_a_place_of_the_next_cycle(replicas: Replicas) -> None:
    process = await replicas.host(max_workers=1, max_diffs=1)
    first, second = await replicas.devices(process, 2)
    await first.join()
    waiting = asyncio.create_task(second.ask(wait_s=WAIT_S))
    await first.report(0.5)
    answer = await waiting
    assert (answer["status"], answer["cycle"], answer["checkpoint"]) == ("accepted", 2, 2)


async def test_a_follower_forgets_a_process_that_was_deleted(replicas: Replicas) -> None:
    old = await replicas.host(max_diffs=1)
    await (await replicas.follower.device(old)).join()
    await replicas.delete(old)
    new = await replicas.host(max_diffs=1)
    device = await replicas.follower.device(new)
    assert (await device.join()).accepted["model_id"] == new["id"]


async def test_a_process_that_the_leader_deletes_at_the_same_time_is_not_found(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = await replicas.host(max_diffs=1)
    await replicas.follower.device(process)
    # A signal that is late.
    monkeypatch.setattr(service(replicas.follower.app.state, Store).processes, "keep_only", lambda _: None)
    await replicas.delete(process)
    message = {"model_name": process["name"], "model_version": process["version"]}
    for _ in range(2):
        answer = await replicas.follower.web.post("/model-centric/authenticate", json=message)
        assert (answer.status_code, answer.json()["code"]) == (404, "process_not_found")
