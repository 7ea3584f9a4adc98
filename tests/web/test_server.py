"""The server before the app: what is no request, or too much of one, on real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator

import httpx
import pytest
from litestar import Litestar

from pygrid.errors import Unavailable
from pygrid.storage.sql.database import Database
from pygrid.web.server import ignore_new
from pygrid.web.services import service
from support.eventually import eventually
from support.web import serving


async def _talk(port: int, *pieces: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of what the server answers before it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0.01)  # so that the server reads each piece alone
    head, _, body = (await asyncio.wait_for(reader.read(), 60)).partition(b"\r\n\r\n")
    writer.close()
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(line.lower().split(": ", 1) for line in lines), body


REQUEST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"


async def test_a_request_is_answered(domain: Litestar) -> None:
    async with serving(domain) as (_, port):
        status, headers, body = await _talk(port, REQUEST, b"\r\n")
        assert (status, json.loads(body)) == (200, {"status": "ok"})
        assert "server" not in headers


@pytest.mark.parametrize(
    "pieces",
    [
        (REQUEST + b"X-Long: " + b"a" * 20_000 + b"\r\n\r\n",),
        (REQUEST + b"X-Long: ", *[b"a" * 1000] * 17),
        (b"GET /" + b"a" * 20_000,),
        (REQUEST, *[b"X-%d: a\r\n" % i for i in range(3)], b"".join(b"Y-%d: aaaaaaaaa\r\n" % i for i in range(2000))),
    ],
    ids=["one long header", "a header without end", "a long address", "many headers"],
)
async def test_headers_are_bounded(domain: Litestar, pieces: tuple[bytes, ...]) -> None:
    async with serving(domain) as (_, port):
        status, headers, body = await _talk(port, *pieces)
    assert (status, headers["content-type"]) == (431, "application/problem+json")
    assert json.loads(body)["code"] == "headers_too_large"


async def test_headers_within_the_bound_pass_however_they_arrive(domain: Litestar) -> None:
    async with serving(domain) as (_, port):
        for size in (1000, 15_000):
            assert (await _talk(port, REQUEST + b"X-Long: " + b"a" * size + b"\r\n\r\n"))[0] == 200
        assert (await _talk(port, *[bytes([byte]) for byte in REQUEST[:20]], REQUEST[20:], b"\r\n"))[0] == 200


@pytest.mark.parametrize(
    "junk", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"HELLO\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"]
)
async def test_what_is_no_request_is_told_so(domain: Litestar, junk: bytes) -> None:
    async with serving(domain) as (_, port):
        status, headers, body = await _talk(port, junk)
    assert (status, headers["content-type"]) == (400, "application/problem+json")
    assert json.loads(body)["code"] == "invalid_http"


@pytest.mark.parametrize("sent", [b"", b"GET /heal", REQUEST])
async def test_headers_that_do_not_come_are_given_up(domain: Litestar, sent: bytes) -> None:
    async with serving(domain, head_s=0.1) as (_, port):
        status, _, body = await _talk(port, sent)
    assert (status, json.loads(body)["code"]) == (408, "too_slow")


async def test_the_time_for_headers_does_not_count_answers_or_pauses(domain: Litestar) -> None:
    """Three requests on one connection, with pauses longer than a request's headers may take; longer ones do not
    matter.
    """
    head_s = 0.3
    async with (
        serving(domain, head_s=head_s) as (_, port),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        for _ in range(3):
            answer = await client.get("/healthz")
            assert answer.status_code == 200
            await asyncio.sleep(1.5 * head_s)  # longer than the bound on a head
        body = iter([b'{"email": "a@b.c", ', b'"password": "x"}'])

        async def slowly() -> AsyncIterator[bytes]:
            for piece in body:
                yield piece
                await asyncio.sleep(1.5 * head_s)  # the same for a body

        assert (await client.post("/users/login", content=slowly())).status_code == 403


async def test_a_signal_ends_it_and_a_second_one_does_not_wait(domain: Litestar) -> None:
    async with serving(domain) as (running, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /users HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
        await eventually(lambda: running.server_state.tasks)
        running.config.timeout_graceful_shutdown = 60
        running.handle_exit(15, None)
        assert not running.force_exit
        await asyncio.wait_for(domain.state.stopping.wait(), 60)
        assert running.server_state.tasks, "the request is waited for"
        running.handle_exit(15, None)
        assert running.force_exit
        await eventually(lambda: service(domain.state, Database)._closed)
        with pytest.raises(Unavailable, match="closed"):
            await service(domain.state, Database).write(lambda _connection: None)
        writer.close()
        await asyncio.wait_for(reader.read(), 60)


@pytest.mark.skipif(sys.platform != "linux", reason="the filter is one of Linux")
def test_no_connection_is_made_once_the_server_takes_the_last_ones() -> None:
    """A connection that is made between the last accept and the close of the listening socket would be reset."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname()) as early,
    ):
        ignore_new(listening)
        with pytest.raises(TimeoutError):
            socket.create_connection(listening.getsockname(), timeout=0.2)
        accepted, _ = listening.accept()
        with accepted:
            early.sendall(b"sent")
            accepted.settimeout(60)
            assert accepted.recv(4) == b"sent", "those that wait are served"
            listening.setblocking(False)
            with pytest.raises(BlockingIOError):
                listening.accept()
