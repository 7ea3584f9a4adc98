"""The attacks of `strangers.py`: what a hostile client without an account sends to a server, from an address of its
own.

python benchmarks/stranger_attacks.py NAME --port PORT --seconds 10 [--through-relay]
"""

from __future__ import annotations

import argparse
import os
import random
import secrets
import select
import socket
import sys
import time
from collections.abc import Callable

ATTACKER = "127.0.0.2"
MAX_SOCKETS = 800
NUM_KEPT = 400
"""Kept connections of an attack with valid requests."""

HOST = b"Host: 127.0.0.1\r\n"
GET = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"
LARGE = b"GET /schema/openapi.json HTTP/1.1\r\n" + HOST + b"\r\n"
DATASETS = b"GET /data-centric/datasets HTTP/1.1\r\n" + HOST + b"\r\n"
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
    length = (
        bytes([0x80 | size])
        if size < 126
        else b"\xfe" + size.to_bytes(2)
        if size < 65_536
        else b"\xff" + size.to_bytes(8)
    )
    return bytes([opcode | (0x80 if is_final else 0)]) + length + bytes(4) + payload


def with_length(body: bytes) -> bytes:
    return LOGIN + b"Content-Length: %d\r\n\r\n" % len(body) + body


def chunk(data: bytes) -> bytes:
    return b"%x\r\n" % len(data) + data + b"\r\n"


_OBJECTS = b"[" + b",".join([b'{"a":1}'] * 7_000) + b"]"
_WIDE = b"[" + b",".join([b'{"a":1}'] * 4_900) + b"]"
_NUMBERS = b"[" + b",".join([b"1.5e-300"] * 100_000) + b"]"
_NESTED = b"[" + b",".join([b"[" * 30 + b"]" * 30] * 150) + b"]"
_GET_ID = frame(1, b'{"type": "get-id"}')
_LONG_HEADERS = b"GET / HTTP/1.1\r\nA: " + b"a" * 16_000
_HALF_UPLOAD = LOGIN + b"Content-Length: 65000\r\n\r\n" + b" " * 64_000
_HALF_REPORT = (
    b"POST /model-centric/report HTTP/1.1\r\n"
    + HOST
    + b"Content-Type: application/json\r\nContent-Length: 1000000\r\n\r\n"
    b'{"diff": "' + b"A" * 40_000
)
_LONG_UPGRADE = UPGRADE[:-2] + b"X-Long: " + b"a" * 13_000 + b"\r\n\r\n"
_HALF_MESSAGE = frame(2, bytes(1_000_000))[:-1]


class Attack:
    """One kind of hostile client.

    Args:
        head: sent first on each connection; a function gives each connection its own.
        block: sent after it, again and again; none: nothing.
        num_sockets: connections that are open at once.
        reads: whether it reads the answers.
        answer: how an answer begins; with it, each block is sent only after the answer to the one before has begun.
        closes: whether it closes each connection once it has sent ``head``.
    """

    def __init__(
        self,
        head: Block | bytes,
        block: Block | bytes = b"",
        num_sockets: int = 8,
        *,
        reads: bool = True,
        answer: bytes = b"",
        closes: bool = False,
    ) -> None:
        self.head: Block = head if callable(head) else lambda: head
        self.block: Block = block if callable(block) else lambda: block
        self.num_sockets = num_sockets
        self.reads = reads
        self.answer = answer
        self.closes = closes

    def run(self, port: int, seconds: float, most: int) -> None:
        """Attack for some seconds, on at most ``most`` connections; one that the server closes is opened again.

        Prints a line once it has begun.
        """
        poller = select.epoll()
        ends: dict[int, _End] = {}
        until = time.monotonic() + seconds
        has_begun = False
        while time.monotonic() < until:
            while len(ends) < min(self.num_sockets, most):
                end = _End.open(port, self)
                if end is None:
                    break
                ends[end.fileno()] = end
                poller.register(end.fileno(), end.wanted())
            if ends and not has_begun:
                has_begun = True
                print("the attack has begun", flush=True)
            for number, events in poller.poll(0.05):
                end = ends[number]
                if end.go_on(events):
                    poller.modify(number, end.wanted())
                else:
                    poller.unregister(number)
                    del ends[number]
                    end.socket.close()


class _End:
    """One connection of an attack."""

    def __init__(self, connection: socket.socket, attack: Attack) -> None:
        self.socket = connection
        self.fileno = connection.fileno
        self._attack = attack
        self._left = memoryview(attack.head() or (attack.block() if attack.answer else b""))
        self._tail = b""
        self._is_done = False

    @classmethod
    def open(cls, port: int, attack: Attack) -> _End | None:
        connection = socket.socket()
        if not attack.reads:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(1)
        try:
            connection.bind((ATTACKER, 0))
            connection.connect(("127.0.0.1", port))
        except OSError:
            connection.close()
            return None
        connection.setblocking(False)
        return cls(connection, attack)

    def wanted(self) -> int:
        """What to wait for."""
        may_write = bool(self._left) or not (self._is_done or self._attack.answer)
        return (select.EPOLLOUT if may_write else 0) | (select.EPOLLIN if self._attack.reads else 0)

    def go_on(self, events: int) -> bool:
        """Read and send what can be. False: the connection has ended."""
        try:
            if events & select.EPOLLIN and not self._read():
                return False
            if events & (select.EPOLLHUP | select.EPOLLERR):
                return False
            if events & select.EPOLLOUT:
                if not self._left and self._attack.closes:
                    return False
                if not self._left and not self._attack.answer:
                    self._left = memoryview(self._attack.block())
                    self._is_done = not self._left
                self._left = self._left[self.socket.send(self._left[:262_144]) :]
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True

    def _read(self) -> bool:
        data = self.socket.recv(262_144)
        if begin := self._attack.answer:
            joined = self._tail + data
            self._tail = joined[len(joined) - len(begin) + 1 :] if len(begin) > 1 else b""
            if begin in joined and not self._left:
                self._left = memoryview(self._attack.block())
        return bool(data)


def _random_block() -> bytes:
    return b"GET / HTTP/1.1\r\n" + random.randbytes(8192)


def _log_in() -> bytes:
    return with_length(b'{"email": "%s@example.org", "password": "not this one"}' % secrets.token_hex(4).encode())


def _any_half() -> bytes:
    """One of the heads that make a server hold something."""
    return random.choice((_HALF_REPORT, _LONG_UPGRADE, _HALF_UPLOAD, _LONG_HEADERS, UPGRADE + _HALF_MESSAGE))


def _repeat(request: Block | bytes) -> Attack:
    """Valid requests, one after the other, over hundreds of kept connections."""
    return Attack(b"", request, NUM_KEPT, answer=b"HTTP/1.1 ")


def _get(path: bytes) -> bytes:
    return b"GET %s HTTP/1.1\r\n" % path + HOST + b"\r\n"


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
    "headers without an end": Attack(_LONG_HEADERS, b"", MAX_SOCKETS),
    "half a request": Attack(_HALF_UPLOAD, b"", MAX_SOCKETS),
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
    "pings, 400 WebSockets": Attack(UPGRADE, frame(9, b"a" * 125) * 100, NUM_KEPT),
    "half a report, diff first": Attack(_HALF_REPORT, b"", MAX_SOCKETS),
    "long headers, WebSocket": Attack(_LONG_UPGRADE, b"", MAX_SOCKETS),
    "a mixture of halves": Attack(_any_half, b"", MAX_SOCKETS),
    "pieces of two bytes, 800 connections": Attack(LOGIN + b"Content-Length: 65000\r\n\r\n", b"  ", MAX_SOCKETS),
    "Expect: 100-continue": Attack(LOGIN + b"Expect: 100-continue\r\nContent-Length: 65000\r\n\r\n", b"", MAX_SOCKETS),
    "pings in fragments, WebSocket": Attack(UPGRADE, frame(9, b"a", is_final=False) * 100),
    "empty messages, 400 WebSockets": Attack(UPGRADE, frame(1, b"") * 100, NUM_KEPT),
    "requests of clients that are gone": Attack(GET, b"", NUM_KEPT, closes=True),
    "random bytes": Attack(b"", _random_block),
    "connections that close at once": Attack(b"G", b"", NUM_KEPT, closes=True),
    "valid: /healthz": _repeat(GET),
    "valid: /readyz": _repeat(_get(b"/readyz")),
    "valid: /metrics": _repeat(_get(b"/metrics")),
    "valid: OpenAPI document": _repeat(LARGE),
    "valid: datasets": _repeat(DATASETS),
    "valid: wrong passwords": _repeat(_log_in),
    "valid: search": _repeat(_get(b"/data-centric/datasets?text=age&tag=oncology")),
    "valid: messages, WebSocket": Attack(UPGRADE + _GET_ID, _GET_ID, NUM_KEPT, answer=b"}"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=ATTACKS, help="Which attack.")
    parser.add_argument("--port", type=int, required=True, help="Of the server, or of the Network.")
    parser.add_argument("--seconds", type=float, default=10.0, help="Length of the attack.")
    parser.add_argument(
        "--through-relay", action="store_true", help="Attack the Domain behind the Network at the port."
    )
    asked = parser.parse_args()
    os.nice(5)
    port, most = asked.port, MAX_SOCKETS
    if asked.through_relay:
        # Only here: most attackers start faster without TLS and WebSockets.
        from relay_door import MAX_PIPES, RelayDoor

        door = RelayDoor(asked.port, ATTACKER)
        door.start()
        port, most = door.port, MAX_PIPES
    ATTACKS[asked.name].run(port, asked.seconds, most)
    return 0


if __name__ == "__main__":
    sys.exit(main())
