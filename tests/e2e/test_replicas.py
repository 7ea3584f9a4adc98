"""Three replicas of a Domain behind HAProxy, on PostgreSQL and SeaweedFS, which are killed while devices report.

Should happen: every acknowledged report is in exactly one checkpoint; another replica leads after the leader was
killed; what only the leader serves is refused elsewhere by a code.
Should not: a report lost or counted twice; two leaders.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

import crash
from loadgen import Address, Device, Process, RequestFailed, host, sign_up
from pygrid.web.leadership import FOLLOWER_PATHS
from server_process import ServerProcess, start_domain
from support import stores
from support.eventually import eventually
from vector_model import model_bytes, plan_bytes

CONFIG = Path(__file__).parents[2] / "apps" / "domain" / "haproxy.cfg"
SIZE = 4000
NUM_REPLICAS = 3
AWAY = (502, 503, 504)
"""What a balancer answers while a replica or the leader is away; a device comes back."""


@pytest.fixture
def environment(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with stores.seaweedfs() as endpoint:
        values = {
            **stores.CREDENTIALS,
            "DATABASE_URL": postgres_url,
            "SECRET_KEY": "k" * 32,
            "PYGRID_STORE": stores.new_address(endpoint).url,
            "PYGRID_S3_ENDPOINT": endpoint,
            "PYGRID_S3_PATH_STYLE": "1",
        }
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        yield


@contextmanager
def haproxy(folder: Path, replicas: list[Address]) -> Iterator[Address]:
    """Address of a balancer in front of the replicas."""
    program = shutil.which("haproxy")
    if program is None:
        assert "CI" not in os.environ, "haproxy is not installed"
        pytest.skip("needs haproxy")
    (port,) = stores._free_ports(1)
    addresses = {f"PYGRID_REPLICA_{number}": f"{host}:{port}" for number, (host, port) in enumerate(replicas, 1)}
    environment = {**os.environ, **addresses, "PYGRID_BIND": f"127.0.0.1:{port}"}
    subprocess.run([program, "-c", "-f", str(CONFIG)], env=environment, check=True, capture_output=True)
    with (folder / "haproxy.log").open("wb") as log:
        running = subprocess.Popen([program, "-db", "-f", str(CONFIG)], env=environment, stdout=log, stderr=log)
    try:
        yield "127.0.0.1", port
    finally:
        running.kill()
        running.wait()


class PatientReporter(crash.Reporter):
    """A device that comes back when a replica is away, as the SDKs do."""

    async def _connected(self) -> Device:
        with _patience():
            return await super()._connected()

    async def _step(self, device: Device) -> None:
        with _patience():
            await super()._step(device)


@contextmanager
def _patience() -> Iterator[None]:
    try:
        yield
    except RequestFailed as failure:
        if failure.status not in AWAY:
            raise
        raise ConnectionError(str(failure)) from failure


def status(address: Address, path: str, method: str = "GET") -> int:
    """Status of an answer; 0: nothing answers."""
    try:
        return httpx.request(method, f"http://{address[0]}:{address[1]}{path}", timeout=20).status_code
    except httpx.TransportError:
        return 0


def _knows_leader(address: Address) -> bool:
    """Whether the balancer has looked at all replicas; before, it takes each for the leader."""
    return all(status(address, "/model-centric/processes") not in (0, *AWAY) for _ in range(3 * NUM_REPLICAS))


def leaders(replicas: list[ServerProcess]) -> list[int]:
    return [number for number, one in enumerate(replicas) if status(one.address, "/leaderz") == 200]


@pytest.mark.slow
def test_no_acknowledged_report_is_lost_with_a_replica(environment: None, tmp_path: Path) -> None:
    asyncio.run(_report_through_kills(tmp_path))


async def _report_through_kills(folder: Path) -> None:
    rng = random.Random(1)
    replicas = [await asyncio.to_thread(start_domain, folder / str(number)) for number in range(NUM_REPLICAS)]
    try:
        assert await asyncio.to_thread(leaders, replicas) == [0], "one leads"
        _assert_followers_refuse(replicas[1].address)
        with haproxy(folder, [one.address for one in replicas]) as address:
            process = await _host(address)
            marks, stop = crash.Marks(SIZE), asyncio.Event()
            async with asyncio.TaskGroup() as group:
                for _ in range(crash.NUM_DEVICES):
                    group.create_task(PatientReporter(address, process, marks, SIZE, stop).run())
                for killed in (1, 0, 2, 1):
                    seen = len(marks.acknowledged)
                    wanted = seen + rng.randrange(2, 9)  # at any point of a cycle
                    await eventually(lambda wanted=wanted: len(marks.acknowledged) >= wanted)
                    replicas[killed].kill()
                    shutil.rmtree(folder / str(killed))
                    port = replicas[killed].address[1]
                    replicas[killed] = await asyncio.to_thread(start_domain, folder / str(killed), port)
                stop.set()
            await eventually(lambda: asyncio.to_thread(leaders, replicas))
            assert len(await asyncio.to_thread(leaders, replicas)) == 1
            await eventually(lambda: asyncio.to_thread(_knows_leader, address))
            await crash._finish(address, process)
            result = await crash._verify(address, process, marks, [])
        assert result.problems == []
        assert result.num_acknowledged > 8
        assert result.num_checkpoints > 3
    finally:
        for one in replicas:
            one.kill()


async def _host(address: Address) -> Process:
    await eventually(lambda: asyncio.to_thread(_knows_leader, address))
    token = await sign_up(address, "owner@example.org", "correct horse battery staple")
    config: dict[str, Any] = crash.SERVER_CONFIG
    return await host(address, token, "marks", model_bytes(SIZE), plan_bytes(SIZE), config)


def _assert_followers_refuse(follower: Address) -> None:
    for method, path in (("POST", "/model-centric/cycle-request"), ("GET", "/jobs"), ("POST", "/users")):
        answer = httpx.request(method, f"http://{follower[0]}:{follower[1]}{path}", timeout=20)
        assert (answer.status_code, answer.json()["code"]) == (503, "not_leader")
        assert answer.headers["retry-after"] == "1"
    assert status(follower, "/readyz") == 200
    for path in FOLLOWER_PATHS - {"/healthz", "/readyz", "/metrics"}:
        assert status(follower, path) not in (0, 503), path
