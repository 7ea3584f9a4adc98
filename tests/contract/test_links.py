"""Both ends of a control WebSocket, over a pair in memory and over a real one on loopback.

Should happen: an answer reaches whoever asked, whatever the order; a refusal comes back as its class; what is told is
heard in its order; a newer link takes the place of an older one.
Should not happen: an open question that waits for ever once the link is closed; a frame that breaks the other end; more
questions, or larger frames, than the bounds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import uvicorn
from litestar import Litestar, WebSocket, websocket
from websockets.asyncio.client import connect

from pygrid.errors import NotFound, PayloadTooLarge, PygridError, TooSlow, Unavailable
from pygrid.transport.links import (
    MAX_FRAME_BYTES,
    PROTOCOL_ERROR,
    REPLACED,
    TOO_BIG,
    Handler,
    Link,
    Links,
    SocketClosed,
    decode_frame,
)
from pygrid.transport.websockets import ClientSocket
from pygrid.web.sockets import AsgiSocket
from support.eventually import eventually, turns

Payload = dict[str, Any]


class MemorySocket:
    """One end of a pair in memory."""

    def __init__(self, incoming: asyncio.Queue[str | None], outgoing: asyncio.Queue[str | None]) -> None:
        self._incoming, self._outgoing = incoming, outgoing
        self.closed_with: tuple[int, str] | None = None

    async def send_text(self, text: str) -> None:
        if self.closed_with is not None:
            raise SocketClosed
        await self._outgoing.put(text)

    async def receive_text(self) -> str:
        text = await self._incoming.get()
        if text is None:
            self.closed_with = self.closed_with or (1001, "")
            raise SocketClosed(*self.closed_with)
        return text

    async def close(self, code: int = 1000, reason: str = "") -> None:
        if self.closed_with is None:
            self.closed_with = (code, reason)
            await self._outgoing.put(None)
            await self._incoming.put(None)


@asynccontextmanager
async def memory_pair() -> AsyncIterator[tuple[Any, Any]]:
    there: asyncio.Queue[str | None] = asyncio.Queue()
    back: asyncio.Queue[str | None] = asyncio.Queue()
    yield MemorySocket(there, back), MemorySocket(back, there)


@asynccontextmanager
async def real_pair() -> AsyncIterator[tuple[Any, Any]]:
    """The app's end and the dialling end of a WebSocket between a server and a client on loopback."""
    accepted: asyncio.Future[AsgiSocket] = asyncio.get_running_loop().create_future()
    over = asyncio.Event()

    @websocket("/")
    async def accept(socket: WebSocket[Any, Any, Any]) -> None:
        await socket.accept()
        accepted.set_result(AsgiSocket(socket))
        await over.wait()

    config = uvicorn.Config(
        Litestar([accept], logging_config=None), port=0, ws="websockets-sansio", log_config=None, lifespan="off"
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    await eventually(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    async with connect(f"ws://127.0.0.1:{port}/", max_size=MAX_FRAME_BYTES, compression=None, proxy=None) as connection:
        yield await accepted, ClientSocket(connection)
        over.set()
    server.should_exit = True
    await serving


Pair = Callable[..., Awaitable[tuple[Link, Link]]]


@pytest.fixture(params=[memory_pair, real_pair], ids=["memory", "real"])
async def sockets(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Any, Any]]:
    async with request.param() as pair:
        yield pair


@pytest.fixture
async def make(sockets: tuple[Any, Any]) -> AsyncIterator[Pair]:
    """Runs a link on each end, with the given handlers."""
    async with AsyncExitStack() as stack:

        async def run(here: dict[str, Handler], there: dict[str, Handler], **bounds: int) -> tuple[Link, Link]:
            links = Link(sockets[0], here, name="there", **bounds), Link(sockets[1], there, name="here", **bounds)
            for link in links:
                task = asyncio.create_task(link.run())
                stack.push_async_callback(_wait_for, task)
                stack.push_async_callback(link.close)
            return links

        yield run


async def _wait_for(task: asyncio.Task[SocketClosed]) -> None:
    async with asyncio.timeout(60):
        await task


async def test_answers_reach_whoever_asked_in_any_order(make: Pair) -> None:
    gates = {number: asyncio.Event() for number in range(5)}

    async def wait(payload: Payload) -> Payload:
        await gates[payload["number"]].wait()
        return {"number": payload["number"]}

    async def double(payload: Payload) -> Payload:
        return {"twice": payload["number"] * 2}

    here, there = await make({"double": double}, {"wait": wait})
    asked = [asyncio.create_task(here.ask("wait", {"number": number})) for number in gates]
    # Both ends number from 1: the same number in both directions is not mixed up.
    assert await there.ask("double", {"number": 21}) == {"twice": 42}
    for number in reversed(gates):
        gates[number].set()
        assert await asked[number] == {"number": number}
    assert here.num_asked == 0


async def test_a_refusal_comes_back_as_its_class_with_its_fields(make: Pair) -> None:
    async def refuse(_payload: Payload) -> None:
        raise NotFound("there is no such thing", code="thing_not_found", thing=7)

    async def fail(_payload: Payload) -> None:
        raise ZeroDivisionError("secret of the other end")

    here, _ = await make({}, {"refuse": refuse, "fail": fail})
    with pytest.raises(NotFound) as refused:
        await here.ask("refuse")
    assert (refused.value.code, refused.value.fields) == ("thing_not_found", {"thing": 7})
    with pytest.raises(PygridError) as failed:
        await here.ask("fail")
    assert (failed.value.code, "secret" in failed.value.detail) == ("internal", False)
    with pytest.raises(NotFound) as unknown:
        await here.ask("nothing of the kind")
    assert unknown.value.code == "unknown_type"


async def test_what_is_told_is_heard_in_order_and_an_unknown_type_does_no_harm(make: Pair) -> None:
    heard: list[int] = []
    done = asyncio.Event()

    async def hear(payload: Payload) -> None:
        await turns()
        heard.append(payload["number"])
        if payload["number"] == 4:
            raise ValueError("a handler that fails does not end the link")
        if payload["number"] == 49:
            done.set()

    here, _ = await make({}, {"hear": hear})
    await here.notify("from a later version", {"x": 1})
    for number in range(50):
        await here.notify("hear", {"number": number})
    async with asyncio.timeout(60):
        await done.wait()
    assert heard == list(range(50))


async def test_no_answer_in_time_is_told_and_a_late_one_is_ignored(make: Pair) -> None:
    gate = asyncio.Event()

    async def wait(_payload: Payload) -> Payload:
        await gate.wait()
        return {"late": True}

    async def quick(_payload: Payload) -> Payload:
        return {"quick": True}

    here, _ = await make({}, {"wait": wait, "quick": quick})
    with pytest.raises(TooSlow) as slow:
        await here.ask("wait", timeout_s=0.05)
    assert (slow.value.code, here.num_asked) == ("no_answer", 0)
    gate.set()
    assert await here.ask("quick") == {"quick": True}


async def test_closing_fails_open_questions_on_both_ends(make: Pair) -> None:
    begun = asyncio.Event()

    async def never(_payload: Payload) -> None:
        begun.set()
        await asyncio.Event().wait()

    here, there = await make({"never": never}, {"never": never})
    asked = [asyncio.create_task(here.ask("never")), asyncio.create_task(there.ask("never"))]
    await begun.wait()
    await eventually(lambda: bool(here.num_asked and there.num_asked))
    await here.close(1000, "enough")
    for task in asked:
        with pytest.raises(Unavailable) as closed:
            async with asyncio.timeout(60):
                await task
        assert closed.value.code == "link_closed"
    assert not here.is_open
    with pytest.raises(Unavailable):
        await here.notify("hear")
    with pytest.raises(Unavailable):
        await here.ask("never")
    await here.close()


async def test_the_other_end_learns_why_it_was_closed(sockets: tuple[Any, Any]) -> None:
    here, there = Link(sockets[0], {}), Link(sockets[1], {})
    running = [asyncio.create_task(link.run()) for link in (here, there)]
    await here.close(REPLACED, "a newer one")
    async with asyncio.timeout(60):
        closed = [await task for task in running]
    assert closed[0].code == REPLACED
    # The pair in memory tells its other end only that it is over.
    assert closed[1].code in (REPLACED, 1001)


async def test_more_questions_than_the_bounds_are_refused_not_queued(make: Pair) -> None:
    async def never(_payload: Payload) -> None:
        await asyncio.Event().wait()

    here, there = await make({}, {"never": never}, max_asks=3, max_handling=2)
    asked = [asyncio.create_task(here.ask("never")) for _ in range(3)]
    done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED, timeout=10)
    refused = next(iter(done)).exception()
    assert isinstance(refused, Unavailable)
    assert refused.code == "link_busy"
    again = asyncio.create_task(here.ask("never"))
    while here.num_asked < 3:
        await turns()
        if again.done():
            again = asyncio.create_task(here.ask("never"))
    with pytest.raises(Unavailable) as busy:
        await here.ask("never")
    assert busy.value.code == "link_busy"
    await there.close()
    await asyncio.wait([*asked, again], timeout=10)
    for task in (*asked, again):
        assert isinstance(task.exception(), Unavailable)


async def test_too_large_a_frame_is_not_sent(make: Pair) -> None:
    async def big(_payload: Payload) -> Payload:
        return {"text": "x" * MAX_FRAME_BYTES}

    async def echo(payload: Payload) -> Payload:
        return payload

    here, _ = await make({}, {"big": big, "echo": echo})
    for call in (
        here.ask("echo", {"text": "x" * MAX_FRAME_BYTES}),
        here.notify("echo", {"text": "é" * (MAX_FRAME_BYTES // 2)}),
    ):
        with pytest.raises(PayloadTooLarge):
            await call
    with pytest.raises(PayloadTooLarge) as answer:
        await here.ask("big")
    assert answer.value.code == "frame_too_large"
    largest = "x" * (MAX_FRAME_BYTES - 100)
    assert await here.ask("echo", {"text": largest}) == {"text": largest}


BROKEN = [
    "",
    "{",
    "[]",
    '"text"',
    "{}",
    '{"type": 7}',
    '{"type": "a", "id": "1"}',
    '{"type": "a", "id": true}',
    '{"type": "a", "id": 1.5}',
    "[" * 5000,
]


@pytest.mark.parametrize("text", BROKEN)
async def test_a_broken_frame_closes_the_link_and_nothing_else(sockets: tuple[Any, Any], text: str) -> None:
    link = Link(sockets[0], {})
    running = asyncio.create_task(link.run())
    await sockets[1].send_text(text)
    async with asyncio.timeout(60):
        assert (await running).code == PROTOCOL_ERROR


async def test_too_long_a_frame_closes_the_link(sockets: tuple[Any, Any]) -> None:
    link = Link(sockets[0], {})
    running = asyncio.create_task(link.run())
    await sockets[1].send_text('{"type": "' + "x" * MAX_FRAME_BYTES + '"}')
    async with asyncio.timeout(60):
        assert (await running).code == TOO_BIG


@pytest.mark.parametrize(
    "text", ['{"type": "answer", "id": 99}', '{"type": "answer"}', '{"type": "problem", "id": 1, "problem": 7}']
)
async def test_an_answer_that_nobody_waits_for_is_ignored(sockets: tuple[Any, Any], text: str) -> None:
    async def echo(payload: Payload) -> Payload:
        return payload

    link = Link(sockets[0], {"echo": echo})
    running = asyncio.create_task(link.run())
    await sockets[1].send_text(text)
    await sockets[1].send_text('{"type": "echo", "id": 5, "x": [1]}')
    assert decode_frame(await sockets[1].receive_text()) == {"type": "answer", "id": 5, "x": [1]}
    await link.close()
    await running


async def test_a_problem_of_any_shape_is_an_error_for_whoever_asked(sockets: tuple[Any, Any]) -> None:
    link = Link(sockets[0], {})
    running = asyncio.create_task(link.run())
    asked = asyncio.create_task(link.ask("a"))
    number = decode_frame(await sockets[1].receive_text())["id"]
    await sockets[1].send_text(f'{{"type": "problem", "id": {number}, "problem": "?"}}')
    with pytest.raises(PygridError):
        await asked
    await link.close()
    await running


async def test_of_two_links_of_a_name_the_newer_one_stays() -> None:
    links = Links()
    async with memory_pair() as (first, _), memory_pair() as (second, _):
        older, newer = Link(first, {}), Link(second, {})
        await links.put("a", older)
        await links.put("a", newer)
        assert first.closed_with is not None
        assert first.closed_with[0] == REPLACED
        assert (links.find("a"), list(links), len(links)) == (newer, ["a"], 1)
        # What ends of the older one does not take the newer one away.
        assert not links.release("a", older)
        assert links.get("a") is newer
        assert links.release("a", newer)
        assert links.find("a") is None
        with pytest.raises(Unavailable) as offline:
            links.get("a")
        assert offline.value.code == "domain_offline"


async def test_closing_a_name_or_all() -> None:
    links = Links()
    async with memory_pair() as (first, _), memory_pair() as (second, _), memory_pair() as (third, _):
        for name, socket in (("a", first), ("b", second), ("c", third)):
            await links.put(name, Link(socket, {}))
        await links.close("a", reason="revoked")
        await links.close("never there")
        assert first.closed_with == (4003, "revoked")
        await links.close_all()
        assert len(links) == 0
        assert second.closed_with[0] == third.closed_with[0] == 1001
