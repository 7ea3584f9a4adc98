"""What surrounds every route: error answers, limits, headers, counts, health, lifecycle, event streams.

Should happen: whatever goes wrong is a problem document with a stable code; what is counted and logged names no path,
query or token; what waits ends when the app stops.
Should not happen: a traceback, a framework's own error page, an unbounded body; a route open to scripts that has no
need of it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from litestar import Litestar, get, post
from litestar.params import FromQuery, JSONBody
from litestar.response import Stream

from pygrid.clock import SystemClock
from pygrid.errors import Conflict, PygridError, TooManyRequests
from pygrid.features.accounts.service import AccountService
from pygrid.features.accounts.signing import AccountRules
from pygrid.lifecycle import AppContext, BackgroundTask, Feature, Stopping, TaskRunner
from pygrid.messages.accounts import LoginRequest
from pygrid.metrics import Metrics
from pygrid.settings import AppSettings
from pygrid.storage.sql.database import Database
from pygrid.web import health, requests
from pygrid.web.app import build_app
from pygrid.web.health import PROBE_FILE, Readiness
from pygrid.web.requests import AppRequest, stream_body
from pygrid.web.services import service
from pygrid.web.sse import ServerEvent, event_stream
from support.eventually import eventually, turns
from support.web import People, assert_problem, running

Web = httpx.AsyncClient


# A Domain


async def test_no_such_address(web: Web) -> None:
    problem = assert_problem(await web.get("/nothing/here"), 404, "route_not_found")
    assert "nothing/here" not in str(problem)
    assert "one without a path: https://HOST" in problem["detail"]


async def test_wrong_method_names_the_right_ones(web: Web) -> None:
    answer = await web.delete("/healthz")
    assert_problem(answer, 405, "method_not_allowed")
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_input"),
        (b"{", "invalid_json"),
        (b"\xff", "invalid_json"),
        (b"[" * 50_000, "json_too_complex"),
        (b"[" * 33 + b"]" * 33, "json_too_complex"),
        (b'{"email": "a@b.c", "password": "x", "email": "c@d.e"}', "duplicate_key"),
        (b"[]", "invalid_input"),
        (b"null", "invalid_input"),
        (b'{"email": 5, "password": "x"}', "invalid_input"),
        (b'{"email": "a@b.c"}', "missing_field"),
    ],
)
async def test_a_body_that_is_not_what_is_wanted(web: Web, body: bytes, code: str) -> None:
    assert_problem(await web.post("/users/login", content=body), 400, code)


async def test_a_wrong_type_is_named_with_its_place(web: Web) -> None:
    answer = await web.post("/users", json={"email": "a@b.c", "password": "long enough", "role": "one"})
    problem = assert_problem(answer, 400, "invalid_input")
    assert problem["errors"] == [{"field": "role", "detail": "it must be a whole number or null, not a text"}]


@pytest.mark.parametrize(
    "content_type", ["application/json", "Application/JSON; charset=utf-8", "application/x+json", ""]
)
async def test_json_is_read_as_json_or_without_a_content_type(web: Web, people: People, content_type: str) -> None:
    await people.sign_up("a@b.c")
    body = b'{"email": "a@b.c", "password": "correct horse battery"}'
    answer = await web.post("/users/login", content=body, headers={"content-type": content_type})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "nonsense"]
)
async def test_json_of_another_content_type_is_refused_where_it_could_be_a_form(web: Web, content_type: str) -> None:
    headers = {"content-type": content_type}
    answer = await web.post(
        "/users", content=b'{"email": "a@b.c", "password": "correct horse battery"}', headers=headers
    )
    assert_problem(answer, 415, "unsupported_media_type")
    device = await web.post("/model-centric/authenticate", content=b"{}", headers=headers)
    assert device.status_code == 400, "devices of 2020 send JSON under any content type"


async def test_a_json_body_above_the_limit_is_refused_announced_or_not(web: Web) -> None:
    limit = requests.MAX_JSON_BYTES

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(limit // 1024 + 1):
            yield b" " * 1024

    for content in (b" " * (limit + 1), pieces()):
        problem = assert_problem(await web.post("/users/login", content=content), 413, "payload_too_large")
        assert problem["max_bytes"] == limit
    assert_problem(await web.post("/users/login", content=b" " * limit), 400, "invalid_json")


async def test_every_answer_has_security_headers_and_an_id(web: Web) -> None:
    for path in ("/healthz", "/nothing", "/users", "/metrics"):
        headers = (await web.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert len(headers["x-request-id"]) == 16
        assert "access-control-allow-origin" not in headers


async def test_a_request_keeps_the_id_it_came_with_if_it_is_a_plain_word(web: Web) -> None:
    assert (await web.get("/healthz", headers={"x-request-id": "trace-1.2_3"})).headers["x-request-id"] == "trace-1.2_3"
    for bad in ("a b", "x" * 65, "<script>"):
        assert len((await web.get("/healthz", headers={"x-request-id": bad})).headers["x-request-id"]) == 16


async def test_only_the_routes_of_devices_are_open_to_scripts_of_any_origin(web: Web) -> None:
    ask = {"origin": "https://somewhere.example", "access-control-request-method": "POST"}
    answer = await web.options("/model-centric/report", headers=ask)
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "Authorization" in answer.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in answer.headers
    refused = await web.post("/model-centric/cycle-request", content=b"{", headers=ask)
    assert refused.status_code == 400
    assert refused.headers["access-control-allow-origin"] == "*", "scripts may read refusals too"
    for path in ("/users", "/users/login", "/healthz", "/model-centric"):
        for method in ("OPTIONS", "GET"):
            assert "access-control-allow-origin" not in (await web.request(method, path, headers=ask)).headers


async def test_a_page_of_another_site_changes_nothing(web: Web) -> None:
    """A form on any page can send this without asking first, to a Domain on the machine of whoever looks at the
    page.
    """
    body = b'{"email": "intruder@example.org", "password": "long enough"}'
    forged = {"content-type": "text/plain", "origin": "https://evil.example", "sec-fetch-site": "cross-site"}
    assert_problem(await web.post("/users", content=body, headers=forged), 403, "cross_site_refused")
    assert (await web.get("/healthz", headers=forged)).status_code == 200
    assert_problem(
        await web.post("/users", content=body, headers={"origin": "https://evil.example"}), 403, "cross_site_refused"
    )
    own = {"origin": "http://localhost", "sec-fetch-site": "same-origin", "content-type": "application/json"}
    answer = await web.post("/users", content=body, headers=own)
    assert answer.json()["user"]["role"]["name"] == "Owner", "nobody was before"


async def test_counts_go_by_route_and_not_by_path(web: Web, people: People) -> None:
    owner = await people.owner()
    for number in range(1, 4):
        await web.get(f"/users/{number}?secret=value", headers=owner)
    await web.get("/some/where")
    await web.request("BREW", "/healthz")
    answer = await web.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    text = answer.text
    assert 'pygrid_http_requests_total{method="GET",route="/users/{user_id}",status="200"} 1.0' in text
    assert 'pygrid_http_requests_total{method="GET",route="/users/{user_id}",status="404"} 2.0' in text
    assert 'pygrid_http_requests_total{method="GET",route="(none)",status="404"} 1.0' in text
    assert 'pygrid_http_request_seconds_count{method="GET",route="/users/{user_id}"} 3.0' in text
    assert "process_resident_memory_bytes" in text
    assert "pygrid_http_open_requests 1.0" in text
    for hidden in ("secret", "BREW", "/some/where", "owner@"):
        assert hidden not in text


async def test_the_log_names_no_path_query_token_or_address(
    web: Web, people: People, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    owner = await people.owner()
    await web.get("/users/1?request_key=abc123", headers={**owner, "x-request-id": "known"})
    lines = [record for record in caplog.records if record.name == "pygrid.access"]
    assert vars(lines[-1]) | {
        "method": "GET",
        "route": "/users/{user_id}",
        "status": 200,
        "request_id": "known",
    } == vars(lines[-1])
    written = " ".join(str(vars(record)) for record in caplog.records if record.name.startswith("pygrid"))
    for hidden in ("abc123", owner["Authorization"].split()[1], "owner@example.org", "correct horse"):
        assert hidden not in written


async def test_openapi_describes_the_routes(web: Web) -> None:
    answer = await web.get("/schema/openapi.json")
    assert answer.status_code == 200
    document = answer.json()
    assert document["info"]["title"] == "Domain test"
    assert {"/users", "/users/login", "/users/{user_id}/role", "/roles", "/groups", "/healthz", "/readyz"} <= set(
        document["paths"]
    )
    listing = document["paths"]["/users"]["get"]
    assert listing["security"] == [{"session": []}]
    assert "application/problem+json" in listing["responses"]["403"]["content"]
    assert document["components"]["securitySchemes"]["session"]["scheme"] == "bearer"


async def test_ready_means_that_the_database_answers(domain: Litestar, web: Web) -> None:
    assert (await web.get("/healthz")).json() == {"status": "ok"}
    assert (await web.get("/readyz")).json() == {"status": "ready"}
    database: Database = service(domain.state, Database)
    database.engine.dispose()
    # A connection made from now on finds a folder in the place of the file.
    os.rename(str(database.url.database), f"{database.url.database}.gone")
    os.mkdir(str(database.url.database))
    assert_problem(await web.get("/readyz"), 503, "database_unavailable")
    assert (await web.get("/healthz")).status_code == 200


async def test_a_stopping_app_is_not_ready(domain: Litestar, web: Web) -> None:
    domain.state.stopping.set()
    assert_problem(await web.get("/readyz"), 503, "shutting_down")


# An app of its own, with routes that go wrong


class Secret(Exception):
    pass


@get("/unexpected")
async def unexpected() -> None:
    raise Secret("the password is swordfish")


@get("/on-purpose")
async def on_purpose() -> None:
    raise Conflict("taken", code="seat_taken", seat=7)


@get("/nameless")
async def nameless() -> None:
    raise PygridError("the password is swordfish")


@get("/later")
async def later() -> None:
    raise TooManyRequests("later", retry_after_s=2.1)


@post("/upload", request_max_body_size=None)
async def upload(request: AppRequest, max_bytes: FromQuery[int]) -> dict[str, int]:
    return {"size": sum([len(chunk) async for chunk in stream_body(request, max_bytes)])}


@post("/echo")
async def echo(data: JSONBody[LoginRequest]) -> LoginRequest:
    return data


EVENTS: dict[str, Any] = {}


class OpenSession:
    """A session that does not end."""

    def wait(self) -> Any:
        return asyncio.Event().wait()

    async def is_over(self) -> bool:
        return False


@get("/events")
async def events(request: AppRequest) -> Stream:
    async def source() -> AsyncIterator[ServerEvent]:
        try:
            yield ServerEvent(1, "begun", b'{"a":1}')
            while True:
                yield await EVENTS["queue"].get()
        finally:
            EVENTS["closed"].set()

    return event_stream(source(), request.app.state.stopping, OpenSession(), heartbeat_s=0.05)  # type: ignore[arg-type]


def _app(tmp_path: Path, tasks: list[BackgroundTask] | None = None, metrics: Metrics | None = None) -> Litestar:
    database = Database(f"sqlite:///{tmp_path / 'plumbing.db'}")
    counted = metrics or Metrics()

    async def close() -> None:
        database.close()

    return build_app(
        title="Plumbing",
        description="For tests.",
        context=AppContext(SystemClock(), Stopping(), counted, TaskRunner(counted)),
        features=[
            Feature(
                services=(database, Readiness(database.read, tmp_path)),
                routes=(unexpected, on_purpose, nameless, later, upload, echo, events),
                tasks=tuple(tasks or ()),
                close=close,
            )
        ],
        authenticator=AccountService(
            database, database, SystemClock(), AccountRules(app_name="test", open_signup=False)
        ),
    )


@pytest.fixture
async def plumbing(tmp_path: Path) -> AsyncIterator[Web]:
    async with running(_app(tmp_path)) as client:
        yield client


@pytest.mark.parametrize("path", ["/unexpected", "/nameless"])
async def test_a_fault_is_told_by_a_log_id_alone(plumbing: Web, path: str, caplog: pytest.LogCaptureFixture) -> None:
    answer = await plumbing.get(path)
    problem = assert_problem(answer, 500, "internal")
    assert "swordfish" not in answer.text
    assert "Traceback" not in answer.text
    logged = [record for record in caplog.records if getattr(record, "log_id", "") == problem["log_id"]]
    assert len(logged) == 1
    assert logged[0].exc_info is not None
    assert "swordfish" in str(logged[0].exc_info[1])


async def test_an_error_on_purpose_carries_its_code_and_fields(plumbing: Web) -> None:
    assert assert_problem(await plumbing.get("/on-purpose"), 409, "seat_taken")["seat"] == 7


async def test_when_to_come_back_is_in_the_header_in_whole_seconds(plumbing: Web) -> None:
    answer = await plumbing.get("/later")
    assert assert_problem(answer, 429, "too_many_requests")["retry_after_s"] == 2.1
    assert answer.headers["retry-after"] == "3"


async def test_a_streamed_body_has_no_limit_but_its_own(plumbing: Web) -> None:
    size = 12_000_000
    assert (await plumbing.post(f"/upload?max_bytes={size}", content=b"x" * size)).json() == {"size": size}
    assert_problem(await plumbing.post("/upload?max_bytes=9", content=b"x" * 10), 413, "payload_too_large")

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b"x"

    assert (await plumbing.post("/upload?max_bytes=10", content=pieces())).json() == {"size": 10}
    assert_problem(await plumbing.post("/upload?max_bytes=9", content=pieces()), 413, "payload_too_large")


async def _call(app: Litestar, path: str, messages: list[dict[str, Any]], query: bytes = b"") -> list[dict[str, Any]]:
    """What an app sends for a request that arrives as these ASGI messages, and then nothing."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 1),
        "server": ("test", 80),
        "scheme": "http",
        "http_version": "1.1",
        "root_path": "",
        "asgi": {"version": "3.0"},
    }
    await app(scope, receive, send)  # type: ignore[arg-type]
    return sent


async def test_a_body_that_stalls_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "SLOW_S", 0.05)
    app = _app(tmp_path)
    try:
        sent = await _call(
            app, "/upload", [{"type": "http.request", "body": b"x", "more_body": True}], b"max_bytes=100"
        )
    finally:
        service(app.state, Database).close()
    assert sent[0]["status"] == 408
    assert b'"code":"too_slow"' in sent[1]["body"]


async def test_a_client_that_goes_away_is_no_fault(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    app = _app(tmp_path, metrics=metrics)
    try:
        for path, query in (("/upload", b"max_bytes=100"), ("/echo", b"")):
            messages = [{"type": "http.request", "body": b"x", "more_body": True}, {"type": "http.disconnect"}]
            assert (await _call(app, path, messages, query))[0]["status"] == 499
    finally:
        service(app.state, Database).close()
    assert caplog.records == []
    assert 'status="499"' in metrics.render().decode()


# Background tasks


async def test_tasks_run_with_the_app_and_end_with_it(tmp_path: Path) -> None:
    steps: list[str] = []
    stepped = asyncio.Event()

    async def forever() -> None:
        try:
            steps.append("begun")
            await asyncio.Event().wait()
        finally:
            steps.append("ended")

    async def step() -> None:
        steps.append("step")
        if steps.count("step") == 3:
            stepped.set()

    tasks = [BackgroundTask("forever", forever), BackgroundTask.every(0.02, "steps", step)]
    async with running(_app(tmp_path, tasks)) as client:
        await asyncio.wait_for(stepped.wait(), 60)
        assert (await client.get("/readyz")).status_code == 200
    assert steps[0] == "begun"
    assert steps[-1] == "ended"


async def test_a_task_that_fails_is_logged_counted_and_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pygrid.lifecycle.MIN_RESTART_S", 2.0)
    runs: list[int] = []
    worked = asyncio.Event()

    async def fails_once() -> None:
        runs.append(len(runs))
        if len(runs) == 1:
            raise Secret("first time")
        worked.set()
        await asyncio.Event().wait()

    metrics = Metrics()
    async with running(_app(tmp_path, [BackgroundTask("fragile", fails_once)], metrics)) as client:

        async def is_unready() -> httpx.Response | None:
            answer = await client.get("/readyz")
            return None if answer.status_code == 200 else answer

        answer = await eventually(is_unready)
        problem = assert_problem(answer, 503, "tasks_failing")
        assert problem["tasks"] == ["fragile"]
        await asyncio.wait_for(worked.wait(), 60)
        assert (await client.get("/readyz")).status_code == 200
    assert 'pygrid_task_failures_total{task="fragile"} 1.0' in metrics.render().decode()
    assert [record.getMessage() for record in caplog.records if record.exc_info] == ["background task failed"]


# Event streams


async def test_a_stream_listens_before_it_says_that_it_is_open() -> None:
    begun = asyncio.Event()

    async def source() -> AsyncIterator[ServerEvent]:
        begun.set()
        await asyncio.Event().wait()
        yield ServerEvent(1, "never", b"")

    stream: Any = event_stream(source(), Stopping(), OpenSession()).iterator  # type: ignore[arg-type]
    assert await anext(stream) == b": open\n\n"
    assert begun.is_set(), "what the client reads now is followed"
    await stream.aclose()


@pytest.fixture
def stream(tmp_path: Path) -> Litestar:
    EVENTS.update(queue=asyncio.Queue(), closed=asyncio.Event())
    return _app(tmp_path)


async def _read_stream(app: Litestar, enough: bytes, then: Any) -> bytes:
    """What `/events` sends; ``then(received)`` is awaited, and its answer sent as a message, once ``enough`` came."""
    received = bytearray()
    seen = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await seen.wait()
        message: dict[str, Any] = await then(received)
        return message

    async def send(message: dict[str, Any]) -> None:
        received.extend(message.get("body", b""))
        if enough in received:
            seen.set()

    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": "/events", "query_string": b"", "headers": []}
    await asyncio.wait_for(app(scope, receive, send), 60)  # type: ignore[arg-type]
    service(app.state, Database).close()
    return bytes(received)


async def test_events_come_with_heartbeats_between_until_the_client_goes(stream: Litestar) -> None:
    async def gone(received: bytearray) -> dict[str, Any]:
        EVENTS["queue"].put_nowait(ServerEvent(2, "more", b"[]"))
        await eventually(lambda: b"event: more" in received)
        return {"type": "http.disconnect"}

    received = await _read_stream(stream, b": still here\n\n", gone)
    assert received.startswith(b': open\n\nid: 1\nevent: begun\ndata: {"a":1}\n\n: still here\n\n')
    assert b"id: 2\nevent: more\ndata: []\n\n" in received
    assert EVENTS["closed"].is_set()


async def test_events_end_when_the_app_stops(stream: Litestar) -> None:
    async def stop(_received: bytearray) -> dict[str, Any]:
        stream.state.stopping.set()
        await EVENTS["closed"].wait()
        return {"type": "http.disconnect"}

    await _read_stream(stream, b"begun", stop)
    assert EVENTS["closed"].is_set()


async def test_stopping_wakes_what_sleeps() -> None:
    stopping = Stopping()
    assert await stopping.sleep(0.01) is False
    assert await stopping.sleep(0) is False
    sleeping = asyncio.create_task(stopping.sleep(3600))
    await turns()
    stopping.set()
    assert await asyncio.wait_for(sleeping, 60) is True
    await asyncio.wait_for(stopping.wait(), 60)


async def test_readiness_tells_a_full_disk(web: Web, domain: Litestar) -> None:
    """The probe is written to a device that is always full, as a disk or a quota can be."""
    (service(domain.state, AppSettings).data_dir / PROBE_FILE).symlink_to("/dev/full")
    problem = assert_problem(await web.get("/readyz"), 503, "disk_full")
    assert "No space left" in problem["detail"]
    (service(domain.state, AppSettings).data_dir / PROBE_FILE).unlink()
    assert (await web.get("/readyz")).status_code == 200


async def test_readiness_wants_room_on_the_disk(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "MIN_FREE_BYTES", 2**62)
    assert_problem(await web.get("/readyz"), 503, "disk_full")
