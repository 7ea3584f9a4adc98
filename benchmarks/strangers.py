"""What one client without an account can do to a Domain: to its memory, and to the requests of other clients.

Each attack runs for a minute in a process of its own and from an address of its own (127.0.0.2). Two other clients, on
kept connections, ask again and again: one for ``/healthz``, the other for the public datasets, which reads the
database. Printed are the growth of the memory, and the medians of the other clients with the attack and just before it.

    python benchmarks/strangers.py
    python benchmarks/strangers.py --relay
    python benchmarks/strangers.py --only trailers --seconds 10

With ``--relay`` the attacks reach the Domain through the relay of its Network, over TLS. The memory of both processes
is measured. One other client asks the Network for ``/healthz``, the other one the Domain, through the relay.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pygrid.errors import PygridError
from pygrid.transport import Request, Transport, open_transport
from relay_door import DOMAIN_ID
from server_process import ServerProcess, leave_nothing_behind, start_domain
from stranger_attacks import ATTACKS, DATASETS, GET

MAX_GROWTH_BYTES = 64 * 1024 * 1024
MAX_DELAY_MS = 20.0
PAUSE_S = 0.005
"""Between two rounds of requests of the other clients."""
ATTACKING = Path(__file__).with_name("stranger_attacks.py")
QUIET_S = 5.0
"""Length of the measurement before each attack."""


class OtherClient:
    """Sends one request again and again over a kept connection."""

    def __init__(self, port: int, request: bytes = GET) -> None:
        self._port = port
        self._request = request
        self._socket: socket.socket | None = None
        self.times_ms: list[float] = []

    def close(self) -> None:
        """End the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def ask(self) -> None:
        """Send the request and read the answer, which is JSON; note the time in ``times_ms``."""
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=60)
        began = time.perf_counter()
        self._socket.sendall(self._request)
        answer = b""
        while not (answer.endswith(b"}") and b"\r\n\r\n" in answer):
            piece = self._socket.recv(65_536)
            if not piece:
                raise ConnectionError(
                    f"the server closed the connection of a client that did nothing wrong: {answer[:200]!r}"
                )
            answer += piece
        if not answer.startswith(b"HTTP/1.1 200"):
            raise ConnectionError(f"a client that did nothing wrong was refused: {answer[:200]!r}")
        self.times_ms.append((time.perf_counter() - began) * 1e3)


class RelayedClient:
    """Asks a Domain for ``/healthz`` through the relay of its Network."""

    def __init__(self, network_port: int) -> None:
        self._transport: Transport = open_transport(f"grid+http://127.0.0.1:{network_port}/{DOMAIN_ID}")
        self.times_ms: list[float] = []

    def close(self) -> None:
        """End the connection."""
        self._transport.close()

    def ask(self) -> None:
        """Send the request and read the answer; note the time in ``times_ms``."""
        began = time.perf_counter()
        with self._transport.send(Request("GET", "/healthz")) as response:
            response.read(1000)
        self.times_ms.append((time.perf_counter() - began) * 1e3)


Client = OtherClient | RelayedClient


@dataclass(frozen=True)
class Target:
    """What is attacked: processes whose memory counts, clients by what they ask for, options of the attack."""

    servers: dict[str, ServerProcess]
    clients: dict[str, Client]
    options: list[str]


@contextlib.contextmanager
def direct(folder: Path) -> Iterator[Target]:
    """A Domain alone."""
    with start_domain(folder) as server:
        port = server.address[1]
        clients: dict[str, Client] = {"healthz": OtherClient(port), "datasets": OtherClient(port, DATASETS)}
        yield Target({"domain": server}, clients, ["--port", str(port)])
        for client in clients.values():
            client.close()


@contextlib.contextmanager
def relayed(folder: Path) -> Iterator[Target]:
    """A Network and a Domain that belongs to it."""
    pygrid = ["env", f"PYGRID_INVITATION={secrets.token_hex(32)}", sys.executable, "-m", "pygrid"]
    network_command = [*pygrid, "network", "--host", "127.0.0.1", "--port", "0", "--data-dir", str(folder / "network")]
    with ServerProcess(network_command, folder / "network", "/readyz") as network:
        port = network.address[1]
        url = f"http://127.0.0.1:{port}"
        domain_command = [*pygrid, "domain", "--id", DOMAIN_ID, "--host", "127.0.0.1", "--port", "0", "--network", url]
        with ServerProcess(
            [*domain_command, "--data-dir", str(folder / "domain")], folder / "domain", "/readyz"
        ) as domain:
            through = RelayedClient(port)
            wait_until_reached(through)
            clients: dict[str, Client] = {"network": OtherClient(port), "relayed": through}
            yield Target({"network": network, "domain": domain}, clients, ["--port", str(port), "--through-relay"])
            for client in clients.values():
                client.close()


def wait_until_reached(client: RelayedClient) -> None:
    """Return once the Network relays to the Domain."""
    until = time.monotonic() + 60
    while True:
        try:
            client.ask()
            return
        except PygridError:
            if time.monotonic() > until:
                raise
        time.sleep(0.05)


def rss_bytes(pid: int) -> int:
    """Resident memory of a process."""
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    if match is None:
        raise RuntimeError(f"the process {pid} has no memory any more")
    return int(match.group(1)) * 1024


@contextlib.contextmanager
def attacking(name: str, options: list[str], seconds: float) -> Iterator[subprocess.Popen[bytes]]:
    """The attack, run by another process; it has begun."""
    command = [sys.executable, str(ATTACKING), name, *options, "--seconds", str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        # Quick answers from before the attack would outnumber the slow ones.
        process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


def medians_ms(target: Target, seconds: float) -> dict[str, float]:
    """The median of each client's requests, for some seconds."""
    for client in target.clients.values():
        client.times_ms.clear()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for client in target.clients.values():
            client.ask()
        time.sleep(PAUSE_S)
    return {what: statistics.median(client.times_ms) for what, client in target.clients.items()}


def measure(target: Target, name: str, seconds: float) -> dict[str, object]:
    """Run one attack; what it did to memory and to the other clients."""
    quiet = medians_ms(target, min(QUIET_S, seconds))
    before = {which: rss_bytes(server.pid) for which, server in target.servers.items()}
    most = dict(before)
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(0.1):
            for which, server in target.servers.items():
                most[which] = max(most[which], rss_bytes(server.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with attacking(name, target.options, seconds + 5.0):
            loaded = medians_ms(target, seconds)
    finally:
        is_over.set()
        watcher.join()
    grown = {which: most[which] - before[which] for which in before}
    return {
        "attack": name,
        "grown_mib": {which: round(num_bytes / 2**20, 1) for which, num_bytes in grown.items()},
        "median_ms": {what: round(median, 2) for what, median in loaded.items()},
        "quiet_ms": {what: round(median, 2) for what, median in quiet.items()},
        "slowest_ms": {what: round(max(client.times_ms), 1) for what, client in target.clients.items()},
        "kept": max(grown.values()) < MAX_GROWTH_BYTES
        and all(loaded[what] - quiet[what] < MAX_DELAY_MS for what in loaded),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="Length of each attack.")
    parser.add_argument("--only", default="", help="Only attacks whose names contain this.")
    parser.add_argument("--relay", action="store_true", help="Attack a Domain through the relay of its Network.")
    asked = parser.parse_args()
    leave_nothing_behind()
    is_kept = True
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(ATTACKS):
            if asked.only not in name:
                continue
            with (relayed if asked.relay else direct)(Path(folder) / str(number)) as target:
                result = measure(target, name, asked.seconds)
            is_kept = is_kept and bool(result["kept"])
            print(json.dumps(result), flush=True)
    return 0 if is_kept else 1


if __name__ == "__main__":
    sys.exit(main())
