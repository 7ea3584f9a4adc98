"""A search over many Domains at a Network, one of them deaf, beside asking the same Domains one after the other.

    python benchmarks/search.py [--domains 50] [--distance-ms 20]

Claim: with a deadline of 250 ms a search over 50 Domains is answered within 300 ms, whatever one of them does. The
Network is a process of its own, started as a user starts it. The Domains are light ones in this process: each signs in
as Domains do, keeps a real WebSocket to the Network, and answers as if it were so far away. The deaf one keeps its
connection and answers no search.

The baseline in the same run asks the same Domains over the same kind of link, one after the other, as Networks of 2020
did; the deadline is then that of each.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve

from figure import Figure
from loadgen import Connection
from pygrid.errors import PygridError
from pygrid.messages.associations import CONTROL_PATH, canonical
from pygrid.messages.identity import NONCE_BYTES, from_base64url, to_base64url
from pygrid.transport.identity import Identity, IdentityKey
from pygrid.transport.links import Link
from pygrid.transport.websockets import ClientSocket
from server_process import ServerProcess, leave_nothing_behind

DEADLINE_S = 0.25
BUDGET_MS = 300.0
NUM_SEARCHES = 20
NUM_DATASETS = 10
INVITATION = secrets.token_hex(32)


class LightDomain:
    """A Domain that does nothing but belong to a Network and answer searches."""

    def __init__(self, number: int, distance_s: float) -> None:
        self.name = f"domain-{number}"
        self.is_deaf = False
        self.num_asked = 0
        self._distance_s = distance_s
        self._identity = Identity.make()
        self._tasks: list[asyncio.Task[Any]] = []
        self._connections: list[ClientConnection] = []

    async def join(self, network_url: str, hub_url: str) -> None:
        """Dial the Network, and the hub that asks one after the other."""
        control = await self._dial(network_url.replace("http", "ws", 1) + CONTROL_PATH)
        await self._greet(control)
        link = self._link(control)
        await link.ask("heartbeat", {"catalog": "1"}, 10.0)
        hub = await self._dial(hub_url)
        await hub.send(self.name)
        self._link(hub)

    async def leave(self) -> None:
        for connection in self._connections:
            await connection.close()
        await asyncio.gather(*self._tasks)

    async def _dial(self, url: str) -> ClientConnection:
        connection = await connect(url, compression=None, ping_interval=None, max_size=None)
        self._connections.append(connection)
        return connection

    def _link(self, connection: ClientConnection) -> Link:
        link = Link(ClientSocket(connection), {"search": self._search})
        self._tasks.append(asyncio.create_task(link.run()))
        return link

    async def _greet(self, connection: ClientConnection) -> None:
        challenge = json.loads(await connection.recv())
        network = IdentityKey.parse(challenge["identity"])
        fields = {"name": self.name, "version": "benchmark"}
        entry = canonical(fields)
        nonce = from_base64url(challenge["nonce"], NONCE_BYTES, "nonce")
        signed = (nonce, network.raw, self.name.encode(), hashlib.sha256(entry).digest())
        hello = {
            "type": "hello",
            "name": self.name,
            "identity": str(self._identity.key),
            "nonce": to_base64url(secrets.token_bytes(NONCE_BYTES)),
            "signature": to_base64url(self._identity.sign("control", *signed)),
            "entry": fields,
            "entry_signature": to_base64url(self._identity.sign("entry", entry)),
            "invitation": INVITATION,
        }
        await connection.send(json.dumps(hello))
        welcome = json.loads(await connection.recv())
        assert (welcome["type"], welcome["state"]) == ("welcome", "accepted"), welcome

    async def _search(self, payload: dict[str, Any]) -> dict[str, Any]:
        self.num_asked += 1
        if self.is_deaf:
            await asyncio.Event().wait()
        await asyncio.sleep(self._distance_s)
        return {"version": "1", "datasets": [_dataset(number, payload["text"]) for number in range(NUM_DATASETS)]}


def _dataset(number: int, text: str) -> dict[str, Any]:
    columns = [{"name": f"column-{column}", "dtype": "float32", "meaning": "a measurement"} for column in range(10)]
    figures = {"version": 1, "num_records": 1000, "num_columns": 10, "updated_at": None}
    description = f"what somebody would say of {text} in a sentence or two"
    return {
        "id": number + 1,
        "name": text,
        "description": description,
        "tags": ["census", "eu"],
        "columns": columns,
        **figures,
    }


class Hub:
    """Where the Domains are asked one after the other."""

    def __init__(self) -> None:
        self.links: dict[str, Link] = {}

    async def accept(self, connection: ServerConnection) -> None:
        name = str(await connection.recv())
        link = self.links[name] = Link(ClientSocket(connection), {}, name=name)  # type: ignore[arg-type]  # the same calls
        await link.run()

    async def search(self, text: str) -> int:
        """How many answered in time."""
        num_answers = 0
        for link in self.links.values():
            try:
                await link.ask("search", {"text": text}, DEADLINE_S)
                num_answers += 1
            except PygridError:
                pass
        return num_answers


async def times_ms(search: Callable[[str], Awaitable[object]], texts: list[str]) -> list[float]:
    taken = []
    for text in texts:
        start = time.perf_counter()
        await search(text)
        taken.append((time.perf_counter() - start) * 1e3)
    return taken


async def measure(folder: Path, num_domains: int, distance_s: float) -> list[Figure]:
    # By way of `env`, which becomes the Network: this process's own environment stays as it is.
    command = ["env", f"PYGRID_INVITATION={INVITATION}", sys.executable, "-m", "pygrid"]
    command += ["network", "--port", "0", "--data-dir", str(folder)]
    with await asyncio.to_thread(ServerProcess, command, folder, "/readyz") as network:
        url = "http://{}:{}".format(*network.address)
        hub = Hub()
        async with serve(hub.accept, "127.0.0.1", 0, compression=None, max_size=None) as hub_server:
            hub_url = f"ws://127.0.0.1:{hub_server.sockets[0].getsockname()[1]}"
            domains = [LightDomain(number, distance_s) for number in range(num_domains)]
            await asyncio.gather(*(domain.join(url, hub_url) for domain in domains))
            web = await Connection.open(network.address)
            try:
                return await _compare(network, web, hub, domains)
            finally:
                web.close()
                for domain in domains:
                    await domain.leave()


async def _compare(network: ServerProcess, web: Connection, hub: Hub, domains: list[LightDomain]) -> list[Figure]:
    expected = {"datasets": len(domains) * NUM_DATASETS, "missing": 0}

    async def search(text: str) -> None:
        answer = (await web.post_json("/network/search", {"text": text, "timeout_s": DEADLINE_S})).json()
        assert {name: len(answer[name]) for name in expected} == expected, {
            name: len(answer[name]) for name in expected
        }

    def texts(kind: str, count: int = NUM_SEARCHES) -> list[str]:
        return [f"{kind} {number}" for number in range(count)]

    await times_ms(search, texts("warm", 3))
    cpu_s = network.cpu_s
    all_there = await times_ms(search, texts("all"))
    cpu_ms = (network.cpu_s - cpu_s) / NUM_SEARCHES * 1e3
    asked = sum(domain.num_asked for domain in domains)
    known = await times_ms(search, texts("all"))
    assert sum(domain.num_asked for domain in domains) == asked, "what is known is asked of nobody"
    one_by_one = await times_ms(hub.search, texts("hub", 5))
    domains[0].is_deaf = True
    expected.update(datasets=expected["datasets"] - NUM_DATASETS, missing=1)
    # So few that the questions which the deaf one never answers stay below what one Domain may leave open.
    one_deaf = await times_ms(search, texts("deaf", 12))
    one_by_one_deaf = await times_ms(hub.search, texts("hub deaf", 5))
    median = statistics.median
    return [
        Figure(
            f"search over {len(domains)} Domains, one deaf, deadline {DEADLINE_S * 1e3:g} ms: the slowest",
            max(one_deaf),
            "ms",
            BUDGET_MS,
            note=f"median {median(one_deaf):.0f} ms; one after the other {median(one_by_one_deaf):.0f} ms, "
            f"so {median(one_by_one_deaf) / median(one_deaf):.1f} x",
        ),
        Figure(
            "the same, all there: median",
            median(all_there),
            "ms",
            note=f"slowest {max(all_there):.0f} ms; one after the other {median(one_by_one):.0f} ms, "
            f"so {median(one_by_one) / median(all_there):.1f} x; CPU of the Network {cpu_ms:.1f} ms",
        ),
        Figure(
            "the same, remembered: median",
            median(known),
            "ms",
            note=(
                f"slowest {max(known):.0f} ms; {median(all_there) / median(known):.1f} x faster than asking; asks "
                "nobody"
            ),
        ),
    ]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="A search over many Domains, beside asking them one after the other.")
    parser.add_argument("--domains", type=int, default=50)
    parser.add_argument("--distance-ms", type=float, default=20.0, help="how long each takes to answer")
    given = parser.parse_args(arguments)
    leave_nothing_behind()
    with tempfile.TemporaryDirectory(prefix="pygrid-bench-") as folder:
        figures = asyncio.run(measure(Path(folder), given.domains, given.distance_ms / 1e3))
    for figure in figures:
        print(figure.line())
    return 0 if all(figure.kept for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
