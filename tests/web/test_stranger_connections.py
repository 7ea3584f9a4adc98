"""Clients that send or leave unread more than any honest one, on real sockets against the real server.

Should happen: each gets an answer that it can read, and its connection ends; other clients go on.
Should not happen: bytes are read or kept without end, a request that was cut off runs, errors in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from litestar import Litestar

from pygrid.legacy.websocket import Published
from pygrid.web.connections import ClosedTransport
from pygrid.web.http_reader import BoundedProtocol
from pygrid.web.requests import AppRequest
from pygrid.web.server import AppServer
from pygrid.web.services import service
from pygrid.web.streamed_messages import STREAMED
from pygrid.web.websocket_reader import BoundedWebSocket
from support.eventually import eventually, turns
from support.thorough import examples
from support.web import serving

GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /users/login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
MEBIBYTE = 1024 * 1024


async def _flood(port: int, head: bytes, block: bytes, most: int = 64 * MEBIBYTE) -> tuple[int, bytes]:
    """How many bytes the server took before it closed the connection (at most ``most``), and what it answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    num_sent = 0
    try:
        writer.write(head)
        async with asyncio.timeout(60):
            while num_sent < most:
                writer.write(block)
                await writer.drain()
                num_sent += len(block)
    except OSError:
        pass
    try:
        async with asyncio.timeout(60):
            answer = await reader.read(MEBIBYTE)
    except OSError:
        answer = b""
    writer.close()
    return num_sent, answer


@pytest.mark.parametrize(
    ("head", "block"),
    [
        (CHUNKED + b"2\r\n{}\r\n0\r\n", b"".join(b"T%d: %s\r\n" % (i, b"a" * 1000) for i in range(60))),
        (CHUNKED + b"2\r\n{}\r\n0\r\nT: ", b"a" * 65_536),
        (CHUNKED, b"1;" + b"a" * 65_536),
        (CHUNKED, b"1\r\n \r\n" * 10_000),
        (
            b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"8000\r\n" + b"a" * 0x8000 + b"\r\n",
        ),
        (POST + b"Content-Length: 9999999999\r\n\r\n", b"a" * 65_536),
        (b"", b"\r\n" * 32_768),
    ],
    ids=[
        "trailers",
        "a trailer without end",
        "an extension without end",
        "tiny chunks",
        "chunks after 404",
        "bytes after 413",
        "lines",
    ],
)
async def test_what_does_not_end_is_ended(domain: Litestar, head: bytes, block: bytes) -> None:
    async with serving(domain) as (_, port):
        num_sent, _ = await _flood(port, head, block)
    assert num_sent < 32 * MEBIBYTE  # what the kernel holds at both ends, and a little


async def test_requests_whose_answers_nobody_reads_are_not_read(domain: Litestar) -> None:
    async with serving(domain, stalled_s=0.5, sweep_s=0.1) as (server, port):
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # what is answered soon waits at the server
            client.connect(("127.0.0.1", port))
            client.settimeout(60)
            sending = asyncio.create_task(asyncio.to_thread(_send_until_cut_off, client, GET * 3000))

            def is_sent() -> bool:
                assert server.open_connections.num_held_bytes < MEBIBYTE
                return sending.done()

            await eventually(is_sent, within_s=60)
            num_requests = 3000 * await sending
        assert server.server_state.total_requests < num_requests // 2


def _send_until_cut_off(client: socket.socket, block: bytes) -> int:
    """How many blocks were begun before the server closed the connection."""
    for num_blocks in range(1, 1000):
        try:
            client.sendall(block)
        except ConnectionError:
            return num_blocks
    raise AssertionError("the server reads on")


async def test_a_long_request_may_be_sent_before_the_server_is_done_with_the_last_one(domain: Litestar) -> None:
    """A client that has read the whole answer does not know that the app is still about to end it."""
    body = b'{"email": "' + b"a" * 60_000 + b'"}'
    request = POST + b"Content-Length: %d\r\n\r\n" % len(body) + body
    async with serving(domain) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(3):
            writer.write(GET + request)
            assert await asyncio.wait_for(_answers(reader, 2), 60) == [200, 400]
        writer.close()


async def _answers(reader: asyncio.StreamReader, count: int) -> list[int]:
    """The statuses of some answers."""
    statuses = []
    for _ in range(count):
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
        statuses.append(int(head.split()[1]))
    return statuses


async def test_a_few_requests_in_one_piece_are_all_answered(domain: Litestar) -> None:
    async with serving(domain) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET * 20 + GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        answers = await asyncio.wait_for(reader.read(), 60)
        writer.close()
    assert answers.count(b"HTTP/1.1 200") == 21


@pytest.mark.parametrize(
    "head",
    [
        POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
        POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
        POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\n",
        UPGRADE.replace(b"GET", b"PUT"),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
async def test_requests_that_readers_understand_differently_are_refused(domain: Litestar, head: bytes) -> None:
    async with serving(domain) as (server, port):
        _, answer = await _flood(port, head, b"", most=0)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"invalid_http" in answer
        assert server.server_state.total_requests == 0


async def test_connections_are_counted_and_idle_ones_replaced(domain: Litestar) -> None:
    async with serving(domain, max_connections=4) as (server, port):
        ends = [await asyncio.open_connection("127.0.0.1", port) for _ in range(6)]
        for reader, _ in ends[:2]:
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.wait_for(reader.read(), 60) == b""
        ends[5][1].write(GET)
        assert b"200" in await asyncio.wait_for(ends[5][0].readline(), 60)
        assert len(server.open_connections) == 4
        for _, writer in ends:
            writer.close()
        await _until_empty(server)


async def test_a_refused_client_can_read_why(domain: Litestar) -> None:
    """Also one that has sent a request before it reads: closing at once would reset the connection."""
    async with serving(domain, max_connections=1) as (server, port):
        busy, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(POST + b"Content-Length: 2\r\n\r\n")
        await eventually(lambda: server.server_state.tasks)
        refused, sender = await asyncio.open_connection("127.0.0.1", port)
        sender.write(GET)
        assert (await asyncio.wait_for(refused.readline(), 60)).startswith(b"HTTP/1.1 503 ")
        sender.write(GET * 10)
        rest = await asyncio.wait_for(refused.read(), 60)  # raises if the connection is reset
        assert b"server_busy" in rest
        assert not busy.at_eof()
        for one in (writer, sender):
            one.close()
        await _until_empty(server)


async def test_few_refused_connections_stay_open(domain: Litestar) -> None:
    async with serving(domain, max_connections=1, max_refused=2, linger_s=60) as (server, port):
        _, busy = await asyncio.open_connection("127.0.0.1", port)
        busy.write(POST + b"Content-Length: 2\r\n\r\n")
        await eventually(lambda: server.server_state.tasks)
        ends = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
        for reader, _ in ends:
            assert b"server_busy" in await asyncio.wait_for(reader.read(), 60)
        await eventually(lambda: len(server.server_state.connections) == 3)
        for _, writer in ends:
            writer.close()
        await eventually(lambda: len(server.server_state.connections) == 1)
        busy.close()


async def test_requests_of_one_address_begin_in_turn(domain: Litestar) -> None:
    """Each of two addresses sends 40 requests at once; the app takes 5 of each, and no more until these are
    answered.
    """
    running: list[str] = []
    may_end = asyncio.Event()

    async def take(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await domain(scope, receive, send)
        running.append(scope["client"][0])
        await may_end.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with serving(domain, requests_at_once=5, request_counted_s=60) as (server, port):
        server.config.loaded_app = take
        ends = []
        for number in range(80):
            address = ("127.0.0.2", 0) if number % 2 else ("127.0.0.3", 0)
            ends.append(await asyncio.open_connection("127.0.0.1", port, local_addr=address))
            ends[-1][1].write(GET)
        await eventually(lambda: len(running) == 10)
        _, other = await asyncio.open_connection("127.0.0.1", port)
        other.write(GET)
        await eventually(lambda: "127.0.0.1" in running)
        assert sorted(running) == ["127.0.0.1"] + ["127.0.0.2"] * 5 + ["127.0.0.3"] * 5
        may_end.set()
        for reader, _ in ends:
            assert (await asyncio.wait_for(reader.readline(), 60)).startswith(b"HTTP/1.1 204 ")
        for _, writer in [*ends, (None, other)]:
            writer.close()
        await _until_empty(server)
        await eventually(lambda: not len(server.open_connections.turns))


async def test_a_request_that_waits_lets_others_begin(domain: Litestar) -> None:
    async def take(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == "/wait":
            AppRequest(scope, receive, send).stop_counting()
            await asyncio.Event().wait()
        await domain(scope, receive, send)

    async with serving(domain, requests_at_once=1, request_counted_s=60) as (server, port):
        server.config.loaded_app = take
        waiting = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        for _, writer in waiting:
            writer.write(GET.replace(b"/healthz", b"/wait"))
        await eventually(lambda: len(server.server_state.tasks) == 3)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET)
        assert (await asyncio.wait_for(reader.readline(), 60)).startswith(b"HTTP/1.1 200 ")
        for task in server.server_state.tasks:
            task.cancel()
        for _, one in [*waiting, (None, writer)]:
            one.close()
        await _until_empty(server)


async def test_a_request_whose_client_went_while_it_waited_never_runs(domain: Litestar) -> None:
    num_running = 0
    may_end = asyncio.Event()

    async def take(scope: Any, receive: Any, send: Any) -> None:
        nonlocal num_running
        if scope["type"] != "http":
            return await domain(scope, receive, send)
        num_running += 1
        await may_end.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with serving(domain, requests_at_once=1, request_counted_s=60) as (server, port):
        server.config.loaded_app = take
        _, first = await asyncio.open_connection("127.0.0.1", port)
        first.write(GET)
        await eventually(lambda: num_running == 1)
        _, gone = await asyncio.open_connection("127.0.0.1", port)
        gone.write(GET)
        await eventually(lambda: len(server.open_connections) == 2)
        gone.transport.abort()
        last, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET)
        may_end.set()
        assert (await asyncio.wait_for(last.readline(), 60)).startswith(b"HTTP/1.1 204 ")
        for one in (first, writer):
            one.close()
        await _until_empty(server)
        await eventually(lambda: not len(server.open_connections.turns))


async def test_a_body_that_came_while_its_request_waited_is_read(domain: Litestar) -> None:
    body = b'{"email": "a@example.org", "password": "' + b"a" * 60_000 + b'"}'
    request = POST + b"Content-Length: %d\r\n\r\n" % len(body) + body
    async with serving(domain, requests_at_once=1, request_counted_s=60) as (_, port):
        ends = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
        for _, writer in ends:
            writer.write(request)
        for reader, writer in ends:
            assert (await asyncio.wait_for(reader.readline(), 60)).startswith(b"HTTP/1.1 403 ")  # the password is wrong
            writer.close()


async def test_bodies_that_arrive_side_by_side_keep_their_bytes(domain: Litestar) -> None:
    """All connections are read into one buffer. Each body is longer than a read, and each read has another byte."""
    size = 300 * 1024
    told: dict[str, bytes] = {}

    async def tell(scope: Any, receive: Any, send: Any) -> None:
        parts = []
        while (message := await receive())["type"] == "http.request":
            parts.append(message["body"])
            if not message["more_body"]:
                break
        told[scope["path"]] = b"".join(parts)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    domain.asgi_handler = tell
    async with serving(domain) as (_, port):
        ends = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        for number, (_, writer) in enumerate(ends):
            writer.write(b"POST /%d HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (number, size))
        for start in range(0, size, size // 6):
            for number, (_, writer) in enumerate(ends):
                writer.write(bytes([number + start // 1024 % 200]) * (size // 6))
                await writer.drain()
        for reader, writer in ends:
            assert (await asyncio.wait_for(reader.readline(), 60)).startswith(b"HTTP/1.1 204 ")
            writer.close()
    for number in range(3):
        expected = [bytes([number + start // 1024 % 200]) * (size // 6) for start in range(0, size, size // 6)]
        assert told[f"/{number}"] == b"".join(expected)


async def test_a_message_that_came_with_the_handshake_is_answered(domain: Litestar) -> None:
    async def echo(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "websocket":
            return await domain(scope, receive, send)
        await receive()
        await turns(20)  # the message is looked at before the handshake is answered
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": (await receive())["text"]})

    async with serving(domain) as (server, port):
        server.config.loaded_app = echo
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(UPGRADE + b"\x81\x85\0\0\0\0hello")
        assert await asyncio.wait_for(reader.readuntil(b"hello"), 60)
        writer.close()


async def test_messages_that_come_with_many_handshakes_begin_where_the_handshake_ends(domain: Litestar) -> None:
    """A message can be parsed in pieces, which must not begin within its handshake."""

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "websocket":
            return await domain(scope, receive, send)
        scope[STREAMED] = lambda start: False
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": (await receive())["text"][-5:]})

    async with serving(domain) as (server, port):
        server.config.loaded_app = echo
        ends = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
        for number, (_, writer) in enumerate(ends):
            text = b"hello".rjust(1900 + 5 * number)
            writer.write(UPGRADE + b"\x81\xfe" + len(text).to_bytes(2) + bytes(4) + text)
        for reader, writer in ends:
            assert await asyncio.wait_for(reader.readuntil(b"hello"), 60)
            writer.close()


async def test_a_closed_connection_is_freed_at_once(domain: Litestar) -> None:
    """What refers to itself is freed only by the garbage collector: thousands of closed connections would lie about."""
    async with serving(domain) as (server, port):
        await _ask_and_close(port)
        await _until_empty(server)
        gc.collect()
        gc.disable()
        try:
            num_before = len(_readers())
            for _ in range(20):
                await _ask_and_close(port)
            await _until_empty(server)
            await turns()
            assert len(_readers()) <= num_before + 2
        finally:
            gc.enable()


async def test_an_idle_websocket_is_closed_and_a_busy_one_is_not(domain: Litestar) -> None:
    """Pings and empty fragments are no messages."""
    service(domain.state, Published).idle_s = 0.3
    message = b"\x81\x92\0\0\0\0" + b'{"type": "get-id"}'
    async with serving(domain) as (server, port):
        ends = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        for reader, writer in ends:
            writer.write(UPGRADE)
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
        (idle, pinging), (busy, speaking) = ends
        closed = asyncio.create_task(idle.readuntil(b"\x03\xe8"))  # 1000: normal
        async with asyncio.timeout(60):
            while not closed.done():
                pinging.write(b"\x89\x80\0\0\0\0")
                speaking.write(message)
                await busy.readuntil(b"}")
                await asyncio.wait([closed], timeout=0.02)
        speaking.write(message)
        assert await asyncio.wait_for(busy.readuntil(b"}"), 60)
        for _, writer in ends:
            writer.close()
        await _until_empty(server)


async def test_a_closed_websocket_keeps_no_buffers(domain: Litestar) -> None:
    """Frameworks keep references to it in circles; its transport must not hang on them, which has 256 KiB under TLS."""
    async with serving(domain) as (server, port):
        earlier = _readers()
        for _ in range(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(UPGRADE)
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
            writer.close()
        await _until_empty(server)
        left = [one for one in _readers() if not any(one is other for other in earlier)]
        assert {type(one.transport) for one in left} <= {ClosedTransport}


async def test_a_websocket_that_was_cut_off_is_freed_with_its_connection(domain: Litestar) -> None:
    async with serving(domain, held_bytes_per_address=MEBIBYTE, linger_s=600) as (server, port):
        earlier = _readers()
        ends = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
        for _, writer in ends:
            writer.write(UPGRADE + b"\x82\xff" + (64_000).to_bytes(8) + b"\0\0\0\0" + b"a" * 60_000)
        told = [asyncio.create_task(reader.readuntil(b"try again later")) for reader, _ in ends]
        await asyncio.wait(told, return_when=asyncio.FIRST_COMPLETED)
        for _, writer in ends:
            writer.close()
        await asyncio.gather(*told, return_exceptions=True)
        await _until_empty(server)

        def is_freed() -> bool:
            gc.collect()
            return not any(isinstance(one, BoundedWebSocket) and one not in earlier for one in _readers())

        await eventually(is_freed)


def _readers() -> list[BoundedWebSocket | BoundedProtocol]:
    """The readers of connections that were not freed, also those of earlier tests."""
    # By type: `isinstance` also asks objects for `__class__`, and some warn about that.
    return [one for one in gc.get_objects() if issubclass(type(one), BoundedWebSocket | BoundedProtocol)]


async def _ask_and_close(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert b"200" in await asyncio.wait_for(reader.read(), 60)
    writer.close()


async def test_fragments_without_content_are_bounded(domain: Litestar) -> None:
    async with serving(domain) as (_, port):
        num_sent, _ = await _flood(port, UPGRADE + b"\x01\x80\0\0\0\0", b"\x00\x80\0\0\0\0" * 1000)
    assert num_sent < 32 * MEBIBYTE


async def _until_empty(server: AppServer) -> None:
    await eventually(lambda: not len(server.open_connections))


pieces = st.sampled_from(
    [
        GET,
        POST,
        CHUNKED,
        UPGRADE,
        b"\r\n",
        b"\r\n\r\n",
        b"Content-Length: 5\r\n",
        b"2\r\n{}\r\n",
        b"0\r\n\r\n",
        b"\x81\x80\0\0\0\0",
    ]
) | st.binary(max_size=40)


async def test_any_bytes_end_in_an_answer_or_a_close(domain: Litestar, caplog: pytest.LogCaptureFixture) -> None:
    samples: list[list[bytes]] = []

    @settings(max_examples=examples(150), deadline=None, database=None)
    @given(st.lists(pieces, max_size=12))
    def collect(sample: list[bytes]) -> None:
        samples.append(sample)

    collect()
    async with serving(domain, head_s=0.1, linger_s=0.1, idle_s=1) as (server, port):
        for sample in samples:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for piece in sample:
                writer.write(piece)
            writer.write_eof()
            try:
                await asyncio.wait_for(reader.read(), 60)
            except ConnectionResetError:
                assert sample  # a client that sends nothing is not reset
            writer.close()
        await _until_empty(server)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_peer_that_reads_nothing_is_cut_off(domain: Litestar) -> None:
    async with serving(domain, stalled_s=0.05, sweep_s=0.02, idle_s=60) as (server, port):
        _, writer = await _unread_answers(port)
        await _until_empty(server)
        writer.close()


async def _unread_answers(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that has asked for many large answers, and reads at most a few."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    writer.write(GET.replace(b"/healthz", b"/schema/openapi.json") * 100)
    return reader, writer


async def test_a_body_below_the_minimum_rate_is_refused(domain: Litestar, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pygrid.web.requests.GRACE_S", 0.1)
    async with serving(domain) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(POST + b"Content-Length: 1000\r\n\r\n")
        answer = asyncio.create_task(reader.readline())
        async with asyncio.timeout(20):
            while not answer.done():
                writer.write(b" ")
                await asyncio.wait([answer], timeout=0.02)
        assert answer.result().startswith(b"HTTP/1.1 408 ")
        writer.close()


async def test_a_stream_of_messages_is_read_no_faster_than_the_app_takes_them(domain: Litestar) -> None:
    """What a large upload through a relay is: more in all than one address may have the server hold."""
    num_messages, taken = 2000, 0

    async def take(scope: Any, receive: Any, send: Any) -> None:
        nonlocal taken
        if scope["type"] != "websocket":
            return await domain(scope, receive, send)
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] == "websocket.receive":
            taken += 1
            if taken == num_messages:
                await send({"type": "websocket.send", "text": "all"})
            await asyncio.sleep(0.0005)  # it is slower than the client

    def send(connection: socket.socket) -> bytes:
        connection.sendall(UPGRADE)
        head = connection.recv(4096)
        for _ in range(num_messages):
            connection.sendall(frame)
        return head

    frame = b"\x82\xfe" + (20_000).to_bytes(2) + b"\0\0\0\0" + b"a" * 20_000
    async with serving(domain, held_bytes_per_address=MEBIBYTE) as (server, port):
        server.config.loaded_app = take
        with socket.create_connection(("127.0.0.1", port), timeout=180) as connection:
            sending = asyncio.create_task(asyncio.to_thread(send, connection))

            def is_sent() -> bool:
                assert server.open_connections.num_held_bytes <= MEBIBYTE // 2
                return sending.done()

            await eventually(is_sent, within_s=60)
            assert (await sending).startswith(b"HTTP/1.1 101 ")
            assert await asyncio.to_thread(connection.recv, 5) == b"\x81\x03all"
        await _until_empty(server)


@pytest.mark.parametrize(
    "held",
    [
        POST + b"Content-Length: 65000\r\n\r\n" + b" " * 64_000,
        CHUNKED + b"fa00\r\n" + b" " * 60_000,
        UPGRADE + b"\x82\xff" + (64_000).to_bytes(8) + b"\0\0\0\0" + b"a" * 60_000,
        UPGRADE + b"\x02\xfe" + (60_000).to_bytes(2) + b"\0\0\0\0" + b"a" * 60_000,
        UPGRADE + b"\x82\xfe" + (60_000).to_bytes(2) + b"\0\0\0\0" + b"a" * 7000,
        UPGRADE[:-2] + (b"A: " + b"a" * 1000 + b"\r\n") * 12 + b"\r\n",
    ],
    ids=["body", "chunks", "frame", "fragment", "begun frame", "head of a WebSocket"],
)
async def test_connections_that_hold_too_much_together_are_closed(domain: Litestar, held: bytes) -> None:
    async with serving(domain, held_bytes_per_address=MEBIBYTE) as (server, port):
        ends = []
        for _ in range(40):
            ends.append(await asyncio.open_connection("127.0.0.1", port))
            ends[-1][1].write(held)
        reading = [asyncio.create_task(reader.read()) for reader, _ in ends]
        await eventually(lambda: any(one.done() for one in reading))
        assert 0 < server.open_connections.num_held_bytes <= MEBIBYTE
        for _, writer in ends:
            writer.close()
        await asyncio.gather(*reading, return_exceptions=True)
        await _until_empty(server)
        assert server.open_connections.num_held_bytes == 0
