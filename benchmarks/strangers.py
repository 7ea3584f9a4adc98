"""What one client without an account can do to a Domain: to its memory, and to the requests of other clients.

Each attack runs for some seconds in a process of its own, while one other client asks for ``/healthz`` again and again over
a kept connection. Printed are the growth of the Domain's memory, and the other client's median with and without the attack.

    python benchmarks/strangers.py --seconds 10
    python benchmarks/strangers.py --only trailers
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from server_process import ServerProcess, leave_nothing_behind, start_domain

MAX_GROWTH_BYTES = 64 * 1024 * 1024
MAX_DELAY_MS = 20.0
PAUSE_S = 0.005
"""Between two requests of the other client."""
MAX_SOCKETS = 800

HOST = b"Host: 127.0.0.1\r\n"
GET = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"
LARGE = b"GET /schema/openapi.json HTTP/1.1\r\n" + HOST + b"\r\n"
LOGIN = b"POST /users/login HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
CHUNKED = LOGIN + b"Transfer-Encoding: chunked\r\n\r\n"
UPGRADE = (
    b"GET / HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)

Block = Callable[[], bytes]


def frame(opcode: int, payload: bytes, *, is_final: bool = True) -> bytes:
    """A masked WebSocket frame, with a mask of zeros."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2) if size < 65_536 else b"\xff" + size.to_bytes(8)
    return bytes([opcode | (0x80 if is_final else 0)]) + length + bytes(4) + payload


def with_length(body: bytes) -> bytes:
    return LOGIN + b"Content-Length: %d\r\n\r\n" % len(body) + body


def chunk(data: bytes) -> bytes:
    return b"%x\r\n" % len(data) + data + b"\r\n"


_OBJECTS = b"[" + b",".join([b'{"a":1}'] * 7_000) + b"]"
_WIDE = b"[" + b",".join([b'{"a":1}'] * 4_900) + b"]"
_NUMBERS = b"[" + b",".join([b"1.5e-300"] * 100_000) + b"]"
_NESTED = b"[" + b",".join([b"[" * 30 + b"]" * 30] * 150) + b"]"
_HALF_MESSAGE = frame(2, bytes(1_000_000))[:-1]


class Attack:
    """One kind of hostile client.

    Args:
        head: sent first on each connection.
        block: sent after it, again and again; none: nothing.
        num_sockets: connections that are open at once.
        reads: whether it reads the answers.
    """

    def __init__(self, head: bytes, block: Block | bytes = b"", num_sockets: int = 8, *, reads: bool = True) -> None:
        self.head = head
        self.block: Block = block if callable(block) else lambda: block
        self.num_sockets = num_sockets
        self.reads = reads

    def run(self, port: int, seconds: float) -> None:
        """Attack for some seconds; a connection that the server closes is opened again."""
        poller = select.epoll()
        ends: dict[int, _End] = {}
        until = time.monotonic() + seconds
        while (now := time.monotonic()) < until:
            while len(ends) < self.num_sockets:
                end = _End.open(port, self)
                if end is None:
                    break
                ends[end.fileno()] = end
                poller.register(end.fileno(), select.EPOLLOUT | (select.EPOLLIN if self.reads else 0))
            for number, events in poller.poll(0.05):
                end = ends[number]
                if not end.go_on(events, now):
                    poller.unregister(number)
                    del ends[number]
                    end.socket.close()
                elif end.is_done:
                    poller.modify(number, select.EPOLLIN if self.reads else 0)


class _End:
    """One connection of an attack."""

    def __init__(self, connection: socket.socket, attack: Attack) -> None:
        self.socket = connection
        self.fileno = connection.fileno
        self._attack = attack
        self._left = memoryview(attack.head)
        self.is_done = False

    @classmethod
    def open(cls, port: int, attack: Attack) -> _End | None:
        connection = socket.socket()
        if not attack.reads:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(1)
        try:
            connection.connect(("127.0.0.1", port))
        except OSError:
            connection.close()
            return None
        connection.setblocking(False)
        return cls(connection, attack)

    def go_on(self, events: int, _now: float) -> bool:
        """Read and send what can be. False: the connection has ended."""
        try:
            if events & select.EPOLLIN and not self.socket.recv(262_144):
                return False
            if events & (select.EPOLLHUP | select.EPOLLERR):
                return False
            if events & select.EPOLLOUT and not self.is_done:
                if not self._left:
                    self._left = memoryview(self._attack.block())
                    self.is_done = not self._left
                self._left = self._left[self.socket.send(self._left[:262_144]) :]
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True


def _random_block() -> bytes:
    return b"GET / HTTP/1.1\r\n" + random.randbytes(8192)


ATTACKS = {
    "pipelining, nothing read": Attack(b"", GET * 3000, reads=False),
    "large answers, nothing read": Attack(b"", LARGE * 100, MAX_SOCKETS, reads=False),
    "trailers": Attack(CHUNKED + b"2\r\n{}\r\n0\r\n", b"".join(b"T%d: %s\r\n" % (i, b"a" * 1000) for i in range(60))),
    "chunks after 404": Attack(
        b"POST /nothing HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n", chunk(bytes(32_768))
    ),
    "chunks after 413": Attack(CHUNKED, chunk(b" " * 32_768)),
    "chunks after 401": Attack(
        b"POST /datasets HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n", chunk(bytes(32_768))
    ),
    "headers without an end": Attack(b"GET / HTTP/1.1\r\nA: " + b"a" * 16_000, b"", MAX_SOCKETS),
    "half a request": Attack(LOGIN + b"Content-Length: 65000\r\n\r\n" + b" " * 64_000, b"", MAX_SOCKETS),
    "tiny chunks": Attack(CHUNKED, chunk(b" ") * 5000),
    "pieces of two bytes": Attack(LOGIN + b"Content-Length: 65000\r\n\r\n", b"  ", 64),
    "wide JSON, HTTP": Attack(b"", with_length(_OBJECTS)),
    "nested JSON, HTTP": Attack(b"", with_length(_NESTED)),
    "wide JSON, WebSocket": Attack(UPGRADE, frame(1, _WIDE)),
    "numbers, WebSocket": Attack(UPGRADE, frame(1, _NUMBERS)),
    "quoted quotes, WebSocket": Attack(UPGRADE, frame(1, b'"' + b'\\"' * 500_000 + b'"')),
    "half a message, WebSocket": Attack(UPGRADE + _HALF_MESSAGE, b"", MAX_SOCKETS),
    "fragments, WebSocket": Attack(UPGRADE + frame(2, b"", is_final=False), frame(0, b"", is_final=False) * 1000),
    "pings, WebSocket": Attack(UPGRADE, frame(9, b"a" * 125) * 1000, reads=False),
    "random bytes": Attack(b"", _random_block),
}


class OtherClient:
    """Asks for ``/healthz`` over one kept connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None

    def close(self) -> None:
        """End the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def times_ms(self, seconds: float) -> list[float]:
        """How long each request took, for some seconds."""
        times = []
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            began = time.perf_counter()
            self._ask()
            times.append((time.perf_counter() - began) * 1e3)
            time.sleep(PAUSE_S)
        return times

    def _ask(self) -> None:
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=60)
        self._socket.sendall(GET)
        answer = b""
        while not answer.endswith(b'{"status":"ok"}'):
            piece = self._socket.recv(4096)
            if not piece:
                raise ConnectionError(f"the server closed the connection of a client that did nothing wrong: {answer[:200]!r}")
            answer += piece


def rss_bytes(pid: int) -> int:
    """Resident memory of a process."""
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    if match is None:
        raise RuntimeError(f"the process {pid} has no memory any more")
    return int(match.group(1)) * 1024


@contextlib.contextmanager
def attacking(name: str, port: int, seconds: float) -> Iterator[subprocess.Popen[bytes]]:
    """The attack, run by another process."""
    command = [sys.executable, __file__, "--attack", name, "--port", str(port), "--seconds", str(seconds)]
    process = subprocess.Popen(command)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def measure(server: ServerProcess, name: str, seconds: float) -> dict[str, float | str | bool]:
    """Run one attack; what it did to memory and to the other client."""
    port = server.address[1]
    other = OtherClient(port)
    quiet = statistics.median(other.times_ms(1.0))
    before, most, times = rss_bytes(server.pid), 0, []
    with attacking(name, port, seconds + 1.0):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            times += other.times_ms(0.2)
            most = max(most, rss_bytes(server.pid))
    loaded = statistics.median(times)
    return {
        "attack": name,
        "grown_mib": round((most - before) / 2**20, 1),
        "median_ms": round(loaded, 2),
        "median_quiet_ms": round(quiet, 2),
        "slowest_ms": round(max(times), 1),
        "kept": most - before < MAX_GROWTH_BYTES and loaded - quiet < MAX_DELAY_MS,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="Length of each attack.")
    parser.add_argument("--only", default="", help="Only attacks whose names contain this.")
    parser.add_argument("--attack", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.attack:
        os.nice(5)
        ATTACKS[asked.attack].run(asked.port, asked.seconds)
        return 0
    leave_nothing_behind()
    is_kept = True
    with tempfile.TemporaryDirectory() as folder:
        for name in ATTACKS:
            if asked.only not in name:
                continue
            with start_domain(Path(folder) / name.replace(" ", "-").replace(",", "")) as server:
                result = measure(server, name, asked.seconds)
            is_kept = is_kept and bool(result["kept"])
            print(json.dumps(result), flush=True)
    return 0 if is_kept else 1


if __name__ == "__main__":
    sys.exit(main())
