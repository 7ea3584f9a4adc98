"""A relay that lies: whatever it does to the bytes, a caller gets the Domain's true answer or an error, and so does the
Domain.

Should happen: each change of the bytes on the way, by message or by byte, is noticed at the latest when it would
matter; other
    borders between messages make no difference.
Should not: a wrong answer, a wrong or repeated request at the Domain, a call that hangs beyond its time.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import socket
import threading
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pygrid.errors import Unavailable
from pygrid.features.relay.network.pipes import End, Pipes, Receive
from pygrid.transport import Request, Transport, http
from support.relay_app import BLOCK, PatternBody, RelayedApp
from support.relay_site import RelaySite, running_site
from support.thorough import examples

NUM_BLOCKS = 6
SILENCE_S = 0.3
HONEST = ("pass", "split", "merge")


@dataclass(frozen=True)
class Lie:
    """What happens to one message."""

    direction: str
    index: int
    kind: str
    at: int
    data: bytes


lies = st.lists(
    st.builds(
        Lie,
        direction=st.sampled_from(["up", "down"]),
        index=st.integers(0, 9),
        kind=st.sampled_from(["drop", "replay", "swap", "truncate", "inject", "flip", "end", "split"]),
        at=st.integers(0, 2**20),
        data=st.binary(min_size=1, max_size=40),
    ),
    min_size=1,
    max_size=4,
)


class LyingPipes(Pipes):
    """Carries the bytes as the script says."""

    script: tuple[Lie, ...] = ()

    async def splice(self, name: str, caller: End, domain: End, cut: asyncio.Event) -> None:
        caller.receive = _lie(caller.receive, [lie for lie in self.script if lie.direction == "up"])
        domain.receive = _lie(domain.receive, [lie for lie in self.script if lie.direction == "down"])
        await super().splice(name, caller, domain, cut)


def _lie(receive: Receive, script: list[Lie]) -> Receive:
    pending: deque[Any] = deque()
    held: list[Any] = []
    count = 0

    async def lying() -> Any:
        nonlocal count
        while not pending:
            message = await receive()
            if message["type"] != "websocket.receive":
                pending.extend([*held, message])
                held.clear()
                break
            pieces = [message["bytes"]]
            for lie in script:
                if lie.index == count:
                    pieces = _bend(lie, pieces, held)
            count += 1
            for piece in pieces:
                pending.append(
                    {"type": "websocket.disconnect"} if piece is None else {"type": "websocket.receive", "bytes": piece}
                )
            if held and not any(lie.kind == "swap" and lie.index == count - 1 for lie in script):
                pending.extend(held)
                held.clear()
        return pending.popleft()

    return lying


def _bend(lie: Lie, pieces: list[Any], held: list[Any]) -> list[Any]:
    if not pieces or pieces[-1] is None:
        return pieces
    data = pieces[-1]
    at = lie.at % len(data) if data else 0
    match lie.kind:
        case "drop":
            return pieces[:-1]
        case "replay":
            return [*pieces, data]
        case "swap":
            held.append({"type": "websocket.receive", "bytes": data})
            return pieces[:-1]
        case "truncate":
            return [*pieces[:-1], data[:at]]
        case "inject":
            return [*pieces[:-1], data[:at] + lie.data + data[at:]]
        case "flip":
            return (
                [*pieces[:-1], data[:at] + bytes([data[at] ^ (1 + lie.data[0] % 255)]) + data[at + 1 :]]
                if data
                else pieces
            )
        case "end":
            return [*pieces, None]
        case "split":
            return [*pieces[:-1], data[:at], data[at:]]
    raise AssertionError(lie.kind)


class Calls:
    """Makes calls, each with one right answer, and keeps count; calls of different rounds have different paths."""

    def __init__(self, app: RelayedApp) -> None:
        self.app = app
        self.sent: Counter[str] = Counter()
        self.num_rounds = 0

    def make(self, transport: Transport) -> int:
        """Three calls; each is answered rightly, or fails. Gives how many were answered."""
        body = PatternBody(NUM_BLOCKS)
        self.num_rounds += 1
        num_right = 0
        for path, check in (
            (f"/small/{self.num_rounds}", lambda data: json.loads(data) == {"path": f"/small/{self.num_rounds}"}),
            (f"/echo/{self.num_rounds}", lambda data: json.loads(data)["sha256"] == body.sha256),
            (f"/blocks/{self.num_rounds}/{NUM_BLOCKS}", lambda data: data == BLOCK * NUM_BLOCKS),
        ):
            request = Request("POST", path, body=body if path.startswith("/echo") else None, timeout_s=SILENCE_S)
            self.sent[path] += 1
            with contextlib.suppress(Unavailable), transport.send(request) as response:
                data = response.read(10_000_000)
                assert response.status == 200
                assert check(data), "a wrong answer was believed"
                num_right += 1
        # What reached the Domain was sent, no more often than that.
        assert Counter(self.app.calls) <= self.sent
        return num_right


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "CONNECT_TIMEOUT_S", SILENCE_S)


@pytest.fixture
def app() -> RelayedApp:
    return RelayedApp()


@pytest.fixture
def calls(app: RelayedApp) -> Calls:
    return Calls(app)


@pytest.fixture
def site(app: RelayedApp, tmp_path: Path) -> Iterator[RelaySite]:
    with running_site(app, tmp_path, make_pipes=LyingPipes) as site:
        yield site


def run(site: RelaySite, calls: Calls, script: list[Lie]) -> int:
    """How many of three calls were answered rightly by a relay that follows the script."""
    pipes = site.relay.pipes
    assert isinstance(pipes, LyingPipes)
    pipes.script = tuple(script)
    transport = site.open()
    try:
        return calls.make(transport)
    finally:
        transport.close()


SLOW = settings(
    max_examples=examples(60),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)


@pytest.mark.slow
@given(lies)
@SLOW
def test_nothing_that_it_does_to_messages_makes_a_wrong_answer(
    site: RelaySite, calls: Calls, script: list[Lie]
) -> None:
    run(site, calls, script)


@pytest.mark.parametrize(
    "kind", ["drop", "replay", "swap", "truncate", "inject", "flip"]
)  # an end after an answer is none
@pytest.mark.parametrize("direction", ["up", "down"])
def test_each_lie_is_noticed(site: RelaySite, calls: Calls, direction: str, kind: str) -> None:
    """At each of the first messages of a connection: at least the call that it hits fails."""
    for index in range(4):
        lie = Lie(direction, index, kind, 7, b"lie")
        # With every message bent in this way, no call at all gets through.
        assert run(site, calls, [Lie(direction, n, kind, 7, b"lie") for n in range(index, 40)]) < 3, lie


borders = st.builds(
    Lie, st.sampled_from(["up", "down"]), st.integers(0, 9), st.just("split"), st.integers(0, 2**20), st.just(b"-")
)


@given(st.lists(borders))
@settings(SLOW, max_examples=examples(30))
def test_other_borders_between_messages_make_no_difference(site: RelaySite, calls: Calls, script: list[Lie]) -> None:
    assert run(site, calls, script) == 3


class LyingWire:
    """A TCP proxy before the Network that changes single bytes of what it sends: heads, frames, anything."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.changes: dict[int, tuple[str, bytes]] = {}
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def _start(self, work: Any, *args: Any) -> None:
        thread = threading.Thread(target=work, args=args)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                ours = self._listening.accept()[0]
                theirs = socket.create_connection(self._target)
                self._sockets += [ours, theirs]
                self._start(self._copy, ours, theirs, {})
                self._start(self._copy, theirs, ours, dict(self.changes))

    def _copy(self, source: socket.socket, into: socket.socket, changes: dict[int, tuple[str, bytes]]) -> None:
        position = 0
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                bent = bytearray(data)
                for offset in sorted(changes, reverse=True):
                    if position <= offset < position + len(data):
                        kind, extra = changes[offset]
                        at = offset - position
                        if kind == "flip":
                            bent[at] ^= 1 + extra[0] % 255
                        elif kind == "insert":
                            bent[at:at] = extra
                        else:
                            del bent[at : at + len(extra)]
                position += len(data)
                into.sendall(bent)
        for end in (source, into):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for end in self._sockets:  # wakes who reads
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for end in self._sockets:
            end.close()


@pytest.mark.slow
@given(
    st.dictionaries(
        st.one_of(st.integers(0, 1500), st.integers(0, 600_000)),
        st.tuples(st.sampled_from(["flip", "insert", "delete"]), st.binary(min_size=1, max_size=9)),
        min_size=1,
        max_size=4,
    )
)
@SLOW
def test_nothing_that_it_does_to_bytes_makes_a_wrong_answer(
    site: RelaySite, calls: Calls, changes: dict[int, tuple[str, bytes]]
) -> None:
    host, _, port = site.network_url.removeprefix("http://").partition(":")
    wire = LyingWire((host, int(port)))
    wire.changes = changes
    transport = site.open_by_url(f"grid+{wire.url}/hospital-a?identity={site.identity.key}")
    try:
        calls.make(transport)
    finally:
        transport.close()
        wire.close()


def test_an_end_in_the_middle_is_not_the_end_of_an_answer(site: RelaySite, app: RelayedApp) -> None:
    """An answer that goes on until the connection closes has no length to compare with: only TLS tells where it
    ends.
    """

    async def unbounded(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"connection", b"close"), (b"transfer-encoding", b"identity")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for _ in range(NUM_BLOCKS):
            await send({"type": "http.response.body", "body": BLOCK, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    app.unbounded = unbounded  # type: ignore[attr-defined]
    pipes = site.relay.pipes
    assert isinstance(pipes, LyingPipes)
    digests = set()
    for index in range(2, 12):
        pipes.script = (Lie("down", index, "end", 0, b"-"),)
        transport = site.open()
        with contextlib.suppress(Unavailable), transport.send(Request("GET", "/unbounded", timeout_s=2)) as response:
            digests.add(hashlib.sha256(response.read(10_000_000)).hexdigest())
        transport.close()
    assert digests <= {PatternBody(NUM_BLOCKS).sha256}
