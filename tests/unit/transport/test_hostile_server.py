"""What a server can do to the SDK, on a real socket.

Should happen: an answer that is too long, too slow or of another kind ends in an error of pygrid.
Should not happen: bytes are kept without end, a redirect is followed, an error of Python's.
"""

from __future__ import annotations

import contextlib
import gzip
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pygrid.client.downloads import read_checked, write_checked
from pygrid.client.events import parse_events
from pygrid.edge import EdgeClient
from pygrid.edge.cache import DiskCache, MemoryCache
from pygrid.errors import PygridError
from pygrid.transport import Api, HttpTransport, Request
from pygrid.transport.dialer import Dialer, HeadClock
from pygrid.transport.retry import NO_RETRIES, RetryPolicy

PROBLEM = b"HTTP/1.1 429 x\r\nContent-Type: application/problem+json\r\n"
OK = b"HTTP/1.1 200 OK\r\n"


@contextlib.contextmanager
def answering(head: bytes, block: bytes = b"", *, pause_s: float = 0.0) -> Iterator[tuple[str, list[bytes]]]:
    """The address of a server that answers every request with the same, and the requests that it got.

    Args:
        block: sent again and again until the client closes; none: the connection is closed after the head.
    """
    listening = socket.create_server(("127.0.0.1", 0))
    is_over = threading.Event()
    requests: list[bytes] = []
    serving: list[threading.Thread] = []

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            requests.append(connection.recv(65_536))
            connection.sendall(head)
            while block and not is_over.wait(pause_s):
                connection.sendall(block)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                serving.append(threading.Thread(target=serve, args=(listening.accept()[0],)))
                serving[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", requests
    finally:
        is_over.set()
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        for thread in [accepting, *serving]:
            thread.join(60)


def _refusal(url: str, call: Callable[[Api], object]) -> PygridError:
    with Api(HttpTransport(url), retries=NO_RETRIES) as api, pytest.raises(PygridError) as caught:
        call(api)
    return caught.value


CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
MEBIBYTE_CHUNK = b"100000\r\n" + bytes(1024 * 1024) + b"\r\n"


def test_json_without_end() -> None:
    with answering(CHUNKED, MEBIBYTE_CHUNK) as (url, _):
        assert _refusal(url, lambda api: api.get("/x", dict)).code == "answer_too_large"


def test_a_problem_without_end() -> None:
    with answering(PROBLEM + b"Transfer-Encoding: chunked\r\n\r\n", MEBIBYTE_CHUNK) as (url, _):
        assert _refusal(url, lambda api: api.get("/x", dict)).code == "answer_too_large"


def test_a_download_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pygrid.client.downloads.MAX_MEMORY_BYTES", 4 * 1024**2)
    monkeypatch.setattr("pygrid.client.downloads.MAX_FILE_BYTES", 4 * 1024**2)
    request = Request("GET", "/x")
    with answering(CHUNKED, MEBIBYTE_CHUNK) as (url, _):
        assert _refusal(url, lambda api: read_checked(api, request)).code == "answer_too_large"
        assert _refusal(url, lambda api: write_checked(api, request, tmp_path / "file")).code == "answer_too_large"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("block", [b"X: " + b"a" * 65_536, b"X: a\r\n" * 1000], ids=["one header", "many headers"])
def test_headers_without_end(block: bytes) -> None:
    with answering(OK, block) as (url, _):
        assert _refusal(url, lambda api: api.get("/x", dict)).code == "connection_lost"


def test_trailers_without_end() -> None:
    with answering(CHUNKED + b"2\r\n{}\r\n0\r\n", b"T: " + b"a" * 1000 + b"\r\n") as (url, _):
        assert _refusal(url, lambda api: api.get("/x", dict)).code == "connection_lost"


def test_an_event_without_end() -> None:
    with answering(CHUNKED + b"", b"6\r\ndata:\n\r\n" + b"400\r\ndata:" + b"a" * 1018 + b"\n\r\n") as (url, _):

        def follow(api: Api) -> None:
            with api.open(Request("GET", "/x", is_stream=True)) as response:
                for _event in parse_events(response.chunks()):
                    pass

        assert _refusal(url, follow).code == "answer_too_large"


def test_an_answer_byte_by_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pygrid.transport.http.SLOW_S", 0.2)
    with answering(CHUNKED, b"1\r\n \r\n", pause_s=0.02) as (url, _):
        error = _refusal(url, lambda api: api.get("/x", dict))
    assert (error.code, "bytes per second" in error.detail) == ("connection_lost", True)


def test_a_head_byte_by_byte() -> None:
    with answering(OK + b"X-Slow: ", b"a", pause_s=0.02) as (url, _):
        transport = HttpTransport(url, dialer=Dialer(head=HeadClock(slow_s=0.2)))
        with Api(transport, retries=NO_RETRIES) as api, pytest.raises(PygridError) as caught:
            api.get("/x", dict)
    assert (caught.value.code, "bytes per second" in caught.value.detail) == ("connection_lost", True)


def test_a_server_may_be_silent_before_the_head() -> None:
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listening, listening.accept()[0] as connection:
            connection.recv(65_536)
            threading.Event().wait(0.3)
            connection.sendall(OK + b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")

    serving = threading.Thread(target=serve)
    serving.start()
    transport = HttpTransport(
        f"http://127.0.0.1:{listening.getsockname()[1]}", dialer=Dialer(head=HeadClock(slow_s=0.1))
    )
    with Api(transport, retries=NO_RETRIES) as api:
        assert api.get("/x", dict) == {}
    serving.join(60)


def test_a_stream_of_events_may_be_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pygrid.transport.http.SLOW_S", 0.02)
    num_seen = 0
    with (
        answering(CHUNKED, b"3\r\n: \n\r\n", pause_s=0.02) as (url, _),
        Api(HttpTransport(url)) as api,
        api.open(Request("GET", "/x", is_stream=True)) as response,
    ):
        for _event in parse_events(response.chunks()):
            num_seen += 1
            if num_seen == 10:
                break
    assert num_seen == 10


def test_a_redirect_is_not_followed() -> None:
    with answering(OK + b"Content-Length: 2\r\n\r\n{}") as (elsewhere, asked):
        head = b"HTTP/1.1 307 x\r\nLocation: " + elsewhere.encode() + b"/x\r\nContent-Length: 0\r\n\r\n"
        with answering(head) as (url, _):
            assert _refusal(url, lambda api: api.get("/x", dict)).code == "unexpected_answer"
    assert asked == []


def test_a_compressed_answer_is_not_decompressed() -> None:
    body = gzip.compress(bytes(10 * 1024**2))
    head = OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    with answering(head) as (url, _):
        assert _refusal(url, lambda api: api.get("/x", dict)).code == "unexpected_answer"


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"code": "server_busy", "self": 1, "detail": "x"}',
        b'{"code": [], "detail": {}, "status": "x", "title": 1}',
        b'{"code": "server_busy", "retry_after_s": 1' + b"0" * 400 + b"}",
        b'{"code": "server_busy", "retry_after_s": "soon"}',
        b"\xff\xfe",
    ],
    ids=["nested", "a name of Python's", "other kinds", "a huge number", "a text for a number", "no text"],
)
def test_any_problem_becomes_an_error_of_pygrid(body: bytes) -> None:
    head = PROBLEM + b"Retry-After: " + b"9" * 5000 + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    retries = RetryPolicy(max_elapsed_s=0.01)
    with answering(head) as (url, _), Api(HttpTransport(url), retries=retries) as api, pytest.raises(PygridError):
        api.get("/x", dict)


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_model_without_end_fills_no_device(in_memory: bool, tmp_path: Path) -> None:
    limit = 4 * 1024**2
    cache: Any = MemoryCache() if in_memory else DiskCache(tmp_path, max_bytes=limit)
    with answering(CHUNKED, MEBIBYTE_CHUNK) as (url, _):
        device = EdgeClient(url, "digits", cache=cache, max_cache_bytes=limit, retries=NO_RETRIES)
        with device, pytest.raises(PygridError) as caught:
            cache.get("a" * 64, device._fetcher(Request("GET", "/x"), limit))
    assert caught.value.code == "answer_too_large"
    assert list(tmp_path.iterdir()) == []
