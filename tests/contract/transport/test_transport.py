"""What every `Transport` does, tried on each implementation against the same small ASGI application.

Should happen: bodies stream both ways with a known length; statuses and headers arrive as sent; the body can be sent
again; an
    answer that comes before the upload ends is given; silence ends with an error.
Should not: a refused upload hanging, a retry of a request that the server may have acted on, a token in an error or a
log.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from pygrid.errors import Conflict, Gone, InvalidInput, PayloadTooLarge, PygridError, TooManyRequests, Unavailable
from pygrid.transport import NO_RETRIES, Api, AsgiTransport, HttpTransport, Request, RetryPolicy, Transport
from pygrid.transport.base import BytesBody
from support.eventually import eventually, eventually_blocking
from support.relay_site import running_site

FAST = RetryPolicy(base_s=0.01, max_delay_s=0.02, max_elapsed_s=5.0)


class TinyApp:
    """Answers by path; counts what it was asked."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.seen_headers: list[dict[str, str]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        self.calls.append(scope["path"])
        self.seen_headers.append({name.decode(): value.decode() for name, value in scope["headers"]})
        handler = getattr(self, scope["path"].strip("/").replace("-", "_"))
        await handler(scope, receive, send)

    async def echo(self, scope: Any, receive: Any, send: Any) -> None:
        digest, size, more = hashlib.sha256(), 0, True
        while more:
            message = await receive()
            digest.update(message["body"])
            size += len(message["body"])
            more = message["more_body"]
        headers = dict(scope["headers"])
        await answer(
            send,
            200,
            {
                "sha256": digest.hexdigest(),
                "size": size,
                "length": headers.get(b"content-length", b"").decode(),
                "query": scope["query_string"].decode(),
                "method": scope["method"],
            },
        )

    async def stream(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-kind", b"stream")]})
        for i in range(5):
            await send({"type": "http.response.body", "body": bytes([i]) * 100_000, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def too_large(self, scope: Any, receive: Any, send: Any) -> None:
        await problem(send, 413, "payload_too_large", max_bytes=7)

    async def gone(self, scope: Any, receive: Any, send: Any) -> None:
        await problem(send, 410, "cycle_closed", cycle=3)

    async def plain_conflict(self, scope: Any, receive: Any, send: Any) -> None:
        await answer(send, 409, "no", content_type=b"text/plain")

    async def busy_twice(self, scope: Any, receive: Any, send: Any) -> None:
        if len(self.calls) <= 2:
            await problem(send, 429, "too_many_requests", headers=[(b"retry-after", b"0")])
        else:
            await answer(send, 200, {"tries": len(self.calls)})

    async def slow(self, scope: Any, receive: Any, send: Any) -> None:
        """No answer until the client goes."""
        while (await receive())["type"] != "http.disconnect":
            pass

    async def together(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers once four requests are here."""
        await eventually(lambda: self.calls.count("/together") >= 4)
        await answer(send, 200, {})

    async def breaks(self, scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", b"10")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"123", "more_body": True})
        if len(self.calls) >= 3:
            await send({"type": "http.response.body", "body": b"4567890"})

    async def not_json(self, scope: Any, receive: Any, send: Any) -> None:
        await answer(send, 200, "<html>", content_type=b"text/html")


async def answer(
    send: Any, status: int, content: object, content_type: bytes = b"application/json", headers: Any = ()
) -> None:
    body = json.dumps(content).encode()
    await send(
        {"type": "http.response.start", "status": status, "headers": [(b"content-type", content_type), *headers]}
    )
    await send({"type": "http.response.body", "body": body})


async def problem(send: Any, status: int, code: str, headers: Any = (), **fields: object) -> None:
    document = {"status": status, "code": code, "detail": f"refused: {code}", **fields}
    await answer(send, status, document, b"application/problem+json", headers)


@contextlib.contextmanager
def served(app: TinyApp) -> Iterator[str]:
    """The application under uvicorn, on a free port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_level="critical", ws="none", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        eventually_blocking(lambda: server.started)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=10)


@pytest.fixture
def app() -> TinyApp:
    return TinyApp()


@pytest.fixture(params=["http", "in-process", "relayed"])
def transport(request: pytest.FixtureRequest, app: TinyApp, tmp_path: Path) -> Iterator[Transport]:
    with contextlib.ExitStack() as stack:
        chosen: Transport
        if request.param == "http":
            chosen = HttpTransport(stack.enter_context(served(app)))
        elif request.param == "relayed":
            chosen = stack.enter_context(running_site(app, tmp_path)).open()
        else:
            chosen = AsgiTransport(app)
        stack.callback(chosen.close)
        yield chosen


def test_many_threads_share_few_connections(transport: Transport) -> None:
    """More threads than a pool has connections: no answer is lost to a thread that takes its connection for a
    dead one.
    """

    def call(number: int) -> bool:
        data = str(number).encode()
        with transport.send(Request("POST", "/echo", body=BytesBody(data))) as response:
            return bool(json.loads(response.read(1000))["sha256"] == hashlib.sha256(data).hexdigest())

    with ThreadPoolExecutor(60) as threads:
        assert all(threads.map(call, range(1500)))


def test_a_body_arrives_whole_with_its_length(transport: Transport) -> None:
    data = bytes(range(256)) * 4000
    request = Request("POST", "/echo", {"a": "1 ü"}, body=BytesBody(data))
    with transport.send(request) as response:
        echoed = json.loads(response.read(10_000))
    assert echoed == {
        "sha256": hashlib.sha256(data).hexdigest(),
        "size": len(data),
        "length": str(len(data)),
        "query": echoed["query"],
        "method": "POST",
    }
    assert echoed["query"] in ("a=1+%C3%BC", "a=1%20%C3%BC")


def test_a_long_answer_comes_in_pieces(transport: Transport) -> None:
    with transport.send(Request("GET", "/stream")) as response:
        assert response.status == 200
        assert response.headers["x-kind"] == "stream"
        pieces = list(response.chunks())
    assert b"".join(pieces) == b"".join(bytes([i]) * 100_000 for i in range(5))
    assert len(pieces) > 1


def test_an_answer_longer_than_the_limit_is_refused(transport: Transport) -> None:
    with (
        transport.send(Request("GET", "/stream")) as response,
        pytest.raises(PygridError, match="longer than 1,000 bytes"),
    ):
        response.read(1000)


def test_an_upload_that_is_refused_early_gives_the_refusal(transport: Transport) -> None:
    body = BytesBody(bytes(20_000_000))
    with pytest.raises(PayloadTooLarge) as caught:
        Api(transport, retries=NO_RETRIES).send_body("/too-large", dict, body, headers={}, idempotent=True)
    assert caught.value.code == "payload_too_large"
    assert caught.value.fields == {"max_bytes": 7}


def test_problem_documents_become_the_errors_they_name(transport: Transport) -> None:
    with pytest.raises(Gone) as caught:
        Api(transport).get("/gone", dict)
    assert (caught.value.code, caught.value.detail, caught.value.fields) == (
        "cycle_closed",
        "refused: cycle_closed",
        {"cycle": 3},
    )


def test_a_refusal_without_explanation_keeps_its_class(transport: Transport) -> None:
    with pytest.raises(Conflict, match="status 409 and no explanation"):
        Api(transport).get("/plain-conflict", dict)


def test_an_answer_of_another_protocol_says_so(transport: Transport) -> None:
    with pytest.raises(PygridError, match="Is it a pygrid Domain") as caught:
        Api(transport).get("/not-json", dict)
    assert caught.value.code == "unexpected_answer"


def test_a_busy_server_is_asked_again_even_if_the_call_is_not_idempotent(transport: Transport, app: TinyApp) -> None:
    api, told = Api(transport, retries=FAST), list[str]()
    api.on_retry = lambda error, delay_s: told.append(error.code)
    assert api.post("/busy-twice", dict) == {"tries": 3}
    assert told == ["too_many_requests"] * 2
    assert app.calls == ["/busy-twice"] * 3


def test_a_longer_wait_than_the_patience_ends_at_once(transport: Transport, app: TinyApp) -> None:
    with pytest.raises(TooManyRequests):
        Api(transport, retries=NO_RETRIES).post("/busy-twice", dict)
    assert len(app.calls) == 1


def test_silence_ends_with_an_error(transport: Transport) -> None:
    with pytest.raises(Unavailable, match="silent for too long") as caught:
        Api(transport, retries=NO_RETRIES).get("/slow", dict, timeout_s=0.3)
    assert caught.value.code == "connection_lost"


def test_a_lost_answer_is_asked_for_again_only_if_the_call_is_idempotent(transport: Transport, app: TinyApp) -> None:
    api = Api(transport, retries=FAST)
    with pytest.raises(Unavailable) as caught:
        api.post("/breaks", dict)
    assert caught.value.code == "connection_lost"
    assert len(app.calls) == 1
    assert api.exchange(Request("GET", "/breaks"), lambda response: response.read(100)) == b"1234567890"
    assert len(app.calls) == 3


def test_a_repeated_upload_sends_the_same_bytes(transport: Transport) -> None:
    api, body = Api(transport), BytesBody(b"abc" * 1000)
    answers = [api.send_body("/echo", dict, body, headers={}, idempotent=True) for _ in range(2)]
    assert answers[0] == answers[1]


def test_the_token_travels_in_a_header_and_shows_nowhere(
    transport: Transport, app: TinyApp, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    api = Api(transport, token="s3cret-token", retries=FAST)
    api.post("/busy-twice", dict)
    with pytest.raises(Gone) as caught:
        api.get("/gone", dict)
    assert all(headers["authorization"] == "Bearer s3cret-token" for headers in app.seen_headers)
    assert "s3cret-token" not in caplog.text
    assert "s3cret-token" not in repr(caught.value) + str(caught.value.to_problem())


def test_requests_run_at_the_same_time(transport: Transport) -> None:
    """The first three are answered only once the fourth has arrived."""

    def ask(results: list[int]) -> None:
        with transport.send(Request("GET", "/together", timeout_s=60)) as response:
            results.append(response.status)

    results: list[int] = []
    threads = [threading.Thread(target=ask, args=(results,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [200] * 4


def test_nobody_at_the_address_is_a_clear_error() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(Unavailable, match="Is the Domain running there") as caught:
            Api(HttpTransport(url), retries=NO_RETRIES).get("/", dict)
    assert caught.value.code == "connection_failed"


def test_a_socket_closed_during_the_upload_still_gives_the_refusal() -> None:
    """A server that refuses and hangs up, reading nothing: the answer lies in the socket when the upload breaks."""
    document = json.dumps({"status": 413, "code": "payload_too_large", "detail": "no more than 7 bytes"}).encode()
    head = (
        f"HTTP/1.1 413 x\r\ncontent-type: application/problem+json\r\ncontent-length: {len(document)}\r\n\r\n".encode()
    )

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.recv(100)
        connection.sendall(head + document)
        connection.close()

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        api = Api(HttpTransport(f"http://127.0.0.1:{listener.getsockname()[1]}"), retries=NO_RETRIES)
        with pytest.raises(PayloadTooLarge, match="no more than 7 bytes"):
            api.send_body("/report", dict, BytesBody(bytes(30_000_000)), headers={}, idempotent=True)
        thread.join()
        api.close()


@pytest.mark.parametrize("url", ["localhost:5000", "ftp://x", "http://", "http://user:pw@host", "http://host/?token=1"])
def test_what_is_not_the_address_of_a_domain_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        HttpTransport(url)
    assert caught.value.code == "invalid_url"


def test_a_proxy_of_the_environment_is_used_unless_excepted(monkeypatch: pytest.MonkeyPatch, app: TinyApp) -> None:
    asked: list[bytes] = []

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        asked.append(connection.recv(1000))
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        connection.close()

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        monkeypatch.setenv("http_proxy", f"127.0.0.1:{listener.getsockname()[1]}")
        with Api(HttpTransport("http://domain.example:5000")) as api:
            assert api.get("/healthz", dict) == {}
        thread.join()
    assert asked[0].startswith(b"GET http://domain.example:5000/healthz HTTP/1.1\r\n")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with served(app) as url, Api(HttpTransport(url)) as api, pytest.raises(Gone):
        api.get("/gone", dict)
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1")
    with pytest.raises(InvalidInput, match="NO_PROXY"):
        HttpTransport("http://domain.example")
