"""Calls to a Domain through the relay of its Network, beside the same calls over TLS to the Domain itself.

    python benchmarks/relay.py [--repeats 5] [--stream-mb 256] [--calls 1000]

Claim: on loopback one stream through the relay carries at least 200 MB/s, and a call on a warm connection takes at most
3 ms more than without. Network and Domain are processes of their own; the caller is this one, with the SDK's own
transports in both ways, which take turns.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpcore

from figure import Figure
from pygrid.errors import PygridError
from pygrid.transport import Request, Transport, open_transport
from pygrid.transport.base import BytesBody
from pygrid.transport.certificates import client_context
from pygrid.transport.dialer import Dialer
from pygrid.transport.http import MAX_CONNECTIONS, PooledTransport, PoolTarget
from server_process import ServerProcess, leave_nothing_behind

STREAM_BUDGET_MB_S = 200.0
ADDED_BUDGET_MS = 3.0
NUM_WARM_CALLS = 1000
NUM_SETUPS = 40
NUM_THREADS = 50
PIECE_BYTES = 64 * 1024 * 1024
QUERY = {"worker_id": "benchmark", "random": "1"}
MB = 1e6
START_S = 60.0

Open = Callable[[], Transport]


class Ways:
    """How the Domain is reached: through the ``relay``, and ``direct``; with the CPU time of everyone on the way."""

    def __init__(self, network: ServerProcess, domain: ServerProcess) -> None:
        url = "{}:{}".format(*network.address)
        self.open: dict[str, Open] = {
            "relay": lambda: open_transport(f"grid+http://{url}/hospital-a"),
            "direct": lambda: open_directly("{}:{}".format(*domain.address)),
        }
        self._network, self._domain = network, domain

    def cpu_s(self) -> dict[str, float]:
        return {"caller": time.process_time(), "Network": self._network.cpu_s, "Domain": self._domain.cpu_s}


def open_directly(host: str) -> Transport:
    """Connections to the Domain's own TLS that trust any certificate, as the relay's do before keys are compared."""
    dialer, url = Dialer(), f"https://{host}"
    pool = httpcore.ConnectionPool(client_context(), max_connections=MAX_CONNECTIONS, network_backend=dialer)
    return PooledTransport(PoolTarget(url=url, origin=url, host=host, base_path="", proxy=""), pool, dialer.head)


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Ways]:
    invitation = secrets.token_hex(32)
    # By way of `env`, so that this process's own environment stays as it is.
    env = ["env", f"PYGRID_INVITATION={invitation}", sys.executable]
    network_command = [*env, "-m", "pygrid", "network", "--port", "0", "--data-dir", str(folder / "net")]
    with ServerProcess(network_command, folder / "net", "/readyz") as network:
        url = "http://{}:{}".format(*network.address)
        script = str(Path(__file__).parent / "tls_domain.py")
        domain_command = [*env, script, "--folder", str(folder / "domain"), "--network", url]
        with ServerProcess(domain_command, folder / "domain") as domain:
            ways = Ways(network, domain)
            wait_until_reached(ways.open["relay"])
            yield ways


def wait_until_reached(opened: Open) -> None:
    end = time.monotonic() + START_S
    while True:
        with contextlib.closing(opened()) as transport:
            try:
                call(transport)
                return
            except PygridError:
                if time.monotonic() > end:
                    raise
        time.sleep(0.05)


def call(transport: Transport) -> None:
    with transport.send(Request("GET", "/healthz")) as response:
        assert response.read(1000) == b'{"status":"ok"}'


def stream_down(transport: Transport, num_bytes: int) -> None:
    while num_bytes:
        size = min(num_bytes, PIECE_BYTES)
        with transport.send(
            Request("GET", "/model-centric/speed-test", {**QUERY, "size_bytes": str(size)})
        ) as response:
            assert sum(map(len, response.chunks())) == size
        num_bytes -= size


def stream_up(transport: Transport, num_bytes: int) -> None:
    body = BytesBody(bytes(PIECE_BYTES))
    while num_bytes > 0:
        with transport.send(Request("POST", "/model-centric/speed-test", QUERY, body=body)) as response:
            assert response.read(1000) == b"{}"
        num_bytes -= PIECE_BYTES


def measure_stream(
    ways: Ways, what: str, move: Callable[[Transport, int], None], num_bytes: int, repeats: int
) -> list[Figure]:
    speeds: dict[str, list[float]] = {way: [] for way in ways.open}
    used: dict[str, float] = {}
    for _ in range(repeats):
        for way, opened in ways.open.items():
            with contextlib.closing(opened()) as transport:
                move(transport, PIECE_BYTES)
                cpu, start = ways.cpu_s(), time.perf_counter()
                move(transport, num_bytes)
                speeds[way].append(num_bytes / (time.perf_counter() - start) / MB)
                if way == "relay":
                    used = {who: (now - cpu[who]) / num_bytes * MB * 1e3 for who, now in ways.cpu_s().items()}
    relay, direct = statistics.median(speeds["relay"]), statistics.median(speeds["direct"])
    shares = ", ".join(f"{who} {ms:.2f}" for who, ms in used.items())
    note = (
        f"direct {direct:.0f} MB/s, so {relay / direct:.2f} x; slowest {min(speeds['relay']):.0f}; CPU ms per MB: "
        f"{shares}"
    )
    return [Figure(f"one stream {what} through the relay", relay, "MB/s", STREAM_BUDGET_MB_S, at_least=True, note=note)]


def measure_latency(ways: Ways) -> list[Figure]:
    times: dict[str, list[float]] = {way: [] for way in ways.open}
    with contextlib.ExitStack() as stack:
        transports = {way: stack.enter_context(contextlib.closing(opened())) for way, opened in ways.open.items()}
        for number in range(NUM_WARM_CALLS + 20):
            for way, transport in transports.items():
                start = time.perf_counter()
                call(transport)
                if number >= 20:
                    times[way].append((time.perf_counter() - start) * 1e3)
    figures = []
    for name, rank in (("median", 0.5), ("99 %", 0.99)):
        relay, direct = (sorted(times[way])[int(rank * NUM_WARM_CALLS)] for way in ("relay", "direct"))
        note = f"relay {relay:.2f} ms, direct {direct:.2f} ms, so {relay / direct:.2f} x"
        figures.append(
            Figure(f"added to a call on a warm connection, {name}", relay - direct, "ms", ADDED_BUDGET_MS, note=note)
        )
    return figures


def measure_setup(ways: Ways) -> Figure:
    times: dict[str, list[float]] = {way: [] for way in ways.open}
    for _ in range(NUM_SETUPS):
        for way, opened in ways.open.items():
            with contextlib.closing(opened()) as transport:
                start = time.perf_counter()
                call(transport)
                times[way].append((time.perf_counter() - start) * 1e3)
    relay, direct = statistics.median(times["relay"]), statistics.median(times["direct"])
    note = f"direct {direct:.2f} ms, so {relay / direct:.1f} x; slowest {max(times['relay']):.1f} ms"
    return Figure("first call on a new connection, median", relay, "ms", note=note)


def measure_parallel(ways: Ways, num_calls: int, repeats: int) -> Figure:
    rates: dict[str, list[float]] = {way: [] for way in ways.open}
    for _ in range(repeats):
        for way, opened in ways.open.items():
            with contextlib.closing(opened()) as transport, ThreadPoolExecutor(NUM_THREADS) as threads:
                start = time.perf_counter()
                list(threads.map(lambda _, to=transport: call(to), range(num_calls)))
                rates[way].append(num_calls / (time.perf_counter() - start))
    relay, direct = statistics.median(rates["relay"]), statistics.median(rates["direct"])
    note = (
        f"{num_calls} calls by {NUM_THREADS} threads, first ones included; direct {direct:.0f} /s, so "
        f"{relay / direct:.2f} x"
    )
    return Figure("parallel small calls", relay, "/s", note=note)


def measure(folder: Path, num_bytes: int, num_calls: int, repeats: int) -> list[Figure]:
    with running(folder) as ways:
        return [
            *measure_stream(ways, "down", stream_down, num_bytes, repeats),
            *measure_stream(ways, "up", stream_up, num_bytes, repeats),
            *measure_latency(ways),
            measure_setup(ways),
            measure_parallel(ways, num_calls, repeats),
        ]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description="Calls through the relay of a Network, beside calls to the Domain itself."
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--stream-mb", type=int, default=256)
    parser.add_argument("--calls", type=int, default=1000)
    given = parser.parse_args(arguments)
    leave_nothing_behind()
    num_bytes = max(1, given.stream_mb * 1024 * 1024 // PIECE_BYTES) * PIECE_BYTES
    with tempfile.TemporaryDirectory(prefix="pygrid-bench-") as folder:
        os.environ["XDG_CONFIG_HOME"] = folder  # who the Domain is need not be remembered
        figures = measure(Path(folder), num_bytes, given.calls, given.repeats)
    for figure in figures:
        print(figure.line())
    return 0 if all(figure.kept for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
