"""Three replicas of a Domain behind HAProxy, on PostgreSQL and SeaweedFS, each of which can be made to fail."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import urllib.parse
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import pytest

from forwarder import Forwarder
from loadgen import Address
from server_process import ServerProcess, start_domain
from support import stores
from support.eventually import eventually
from support.postgres import PostgresServer

CONFIG = Path(__file__).parents[1] / "apps" / "domain" / "haproxy.cfg"
NUM_REPLICAS = 3
AWAY = (502, 503, 504)
"""What a balancer answers while a replica or the leader is away; a client comes back."""
LEADER_PATH = "/model-centric/processes"
"""A cheap path of the leader."""
_LOOK_S = 0.1


def find_haproxy() -> str:
    """Path of the program; the test is skipped without it."""
    program = shutil.which("haproxy")
    if program is None:
        assert "CI" not in os.environ, "haproxy is not installed"
        pytest.skip("needs haproxy")
    return program


@contextmanager
def haproxy(folder: Path, replicas: list[Address]) -> Iterator[Address]:
    """Address of a balancer in front of the replicas."""
    program, (port,) = find_haproxy(), stores.free_ports(1)
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


def status(address: Address, path: str, method: str = "GET") -> int:
    """Status of an answer; 0: nothing answers."""
    try:
        return httpx.request(method, f"http://{address[0]}:{address[1]}{path}", timeout=20).status_code
    except httpx.TransportError:
        return 0


def knows_leader(address: Address) -> bool:
    """Whether the balancer has looked at all replicas; before, it takes each for the leader."""
    return all(status(address, LEADER_PATH) not in (0, *AWAY) for _ in range(3 * NUM_REPLICAS))


class Replica:
    """A replica that is started again whenever it has ended, as a supervisor does."""

    def __init__(self, folder: Path, environment: dict[str, str], database: Forwarder, store: Forwarder) -> None:
        self.folder, self.database, self.store = folder, database, store
        self.environment = environment
        (port,) = stores.free_ports(1)
        self.address: Address = ("127.0.0.1", port)
        self.process: ServerProcess | None = None
        self.exit_codes: list[int] = []
        """Of each process that has ended."""

    async def run(self) -> None:
        """Start it again and again until cancelled."""
        try:
            while True:
                if self.process is None or self.process.exit_code is not None:
                    if self.process is not None:
                        self.exit_codes.append(self.process.exit_code or 0)
                        self.process = None
                    await self._start()
                await asyncio.sleep(_LOOK_S)  # between two looks
        finally:
            if self.process is not None:
                self.process.kill()

    async def _start(self) -> None:
        starting = asyncio.ensure_future(
            asyncio.to_thread(start_domain, self.folder, self.address[1], self.environment)
        )
        try:
            self.process = await asyncio.shield(starting)
        except RuntimeError:
            await asyncio.sleep(1)  # the database or the store is away: a supervisor waits, too
        except asyncio.CancelledError:
            with contextlib.suppress(RuntimeError):
                (await starting).kill()
            raise

    @property
    def is_up(self) -> bool:
        return self.process is not None and self.process.exit_code is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to its process. Nothing happens while it is down."""
        if self.process is not None:
            self.process.signal(number)


class WrongClock:
    """The clock of a process that is started with `environment`: that of the machine, plus a difference.

    Its monotonic clock is right, as on a machine whose clock is set. The test is skipped without libfaketime.
    """

    def __init__(self, file: Path) -> None:
        found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
        if not found:
            assert "CI" not in os.environ, "libfaketime is not installed"
            pytest.skip("needs libfaketime")
        self._file = file
        self.environment = {
            "LD_PRELOAD": str(found[0]),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, seconds: int) -> None:
        """Let it differ by some seconds, within a second."""
        part = self._file.with_suffix(".part")
        part.write_text(f"{seconds:+d}s\n")
        part.replace(self._file)


class Cluster:
    """The parts of `running_cluster`."""

    def __init__(self, postgres: PostgresServer, store: stores.Seaweed, replicas: list[Replica]) -> None:
        self.postgres, self.store, self.replicas = postgres, store, replicas
        self.address: Address = ("", 0)
        """Of the balancer."""

    async def find_leader(self) -> Replica | None:
        """The replica that says so itself; one that is stopped says nothing."""
        async with httpx.AsyncClient(timeout=2) as web:
            for replica in self.replicas:
                with contextlib.suppress(httpx.TransportError):
                    answer = await web.get(f"http://{replica.address[0]}:{replica.address[1]}/leaderz")
                    if answer.status_code == 200:
                        return replica
        return None

    async def num_ready(self) -> int:
        """The number of replicas that answer 200 to ``/readyz``."""
        asked = [replica.address for replica in self.replicas if replica.is_up]
        answers = await asyncio.gather(*(asyncio.to_thread(status, address, "/readyz") for address in asked))
        return answers.count(200)

    async def is_complete(self) -> bool:
        """Whether all replicas are ready."""
        return await self.has_ready(NUM_REPLICAS)

    async def has_ready(self, num: int) -> bool:
        """Whether at least ``num`` replicas are ready; none is asked while fewer have started."""
        return sum(replica.is_up for replica in self.replicas) >= num and await self.num_ready() >= num

    async def wait_ready(self) -> None:
        """Wait until all replicas are ready, and the balancer knows which one leads."""
        await eventually(self.is_complete, 180)
        await eventually(self.find_leader, 180)
        await eventually(lambda: asyncio.to_thread(knows_leader, self.address), 180)


@asynccontextmanager
async def running_cluster(folder: Path, **settings: str) -> AsyncIterator[Cluster]:
    """A cluster of which nothing is left at the end.

    Args:
        settings: further variables of the environment of each replica.
    """
    async with contextlib.AsyncExitStack() as stack:
        find_haproxy()
        postgres = stack.enter_context(PostgresServer())
        store = stack.enter_context(stores.Seaweed())
        parts = urllib.parse.urlsplit(postgres.url)
        socket = f"{urllib.parse.parse_qs(parts.query)['host'][0]}/.s.PGSQL.{parts.port or 5432}"
        shared = {
            **stores.CREDENTIALS,
            "SECRET_KEY": "k" * 32,
            "PYGRID_STORE": stores.new_address(store.endpoint).url,
            "PYGRID_S3_PATH_STYLE": "1",
            "PYGRID_TRUSTED_PROXIES": "127.0.0.1",
            **settings,
        }
        replicas = []
        for number in range(NUM_REPLICAS):
            database = await stack.enter_async_context(Forwarder(socket))
            objects = await stack.enter_async_context(Forwarder(("127.0.0.1", int(store.endpoint.rpartition(":")[2]))))
            own = {
                "DATABASE_URL": f"postgresql://{parts.username}@127.0.0.1:{database.port}/postgres",
                "PYGRID_S3_ENDPOINT": f"http://127.0.0.1:{objects.port}",
            }
            replicas.append(Replica(folder / str(number), {**shared, **own}, database, objects))
        cluster = Cluster(postgres, store, replicas)
        tasks = [asyncio.create_task(replica.run()) for replica in replicas]
        try:
            await eventually(lambda: any(replica.is_up for replica in replicas), 180)
            cluster.address = stack.enter_context(haproxy(folder, [replica.address for replica in replicas]))
            await cluster.wait_ready()
            yield cluster
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
