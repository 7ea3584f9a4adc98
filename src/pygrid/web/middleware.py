"""Pure ASGI middleware of every request, also without a route: request id, metrics, access log, headers."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable, Collection
from typing import Any, cast

import msgspec
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from pygrid import codes
from pygrid.errors import InvalidInput
from pygrid.messages import media
from pygrid.metrics import Metrics

access_log = logging.getLogger("pygrid.access")

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")

SECURITY_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
"""Sent with every answer that does not set them itself, for example the content-security-policy of a page."""

_OPEN_CORS: tuple[tuple[bytes, bytes], ...] = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", b"ETag, PyGrid-Checkpoint, Retry-After, X-Request-ID"),
    (b"cross-origin-resource-policy", b"cross-origin"),
)
_PREFLIGHT: tuple[tuple[bytes, bytes], ...] = (
    *_OPEN_CORS,
    (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
    (b"access-control-allow-headers", b"Authorization, Content-Type, If-None-Match"),
    (b"access-control-max-age", b"86400"),
    (b"content-length", b"0"),
)


_INVALID_TEXT = msgspec.json.encode(
    InvalidInput(
        "the path, the query or a header contains a NUL character: remove it", code=codes.INVALID_TEXT
    ).to_problem()
)
_INVALID_TEXT_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-type", media.PROBLEM.encode()),
    (b"content-length", str(len(_INVALID_TEXT)).encode()),
)


class Observe:
    """Assigns an id to a request (the caller's ``X-Request-ID`` if it is a plain word), counts, times and logs it.

    The log line has the route's template, never the path or the query: these contain names and, from clients of 2020,
    keys.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, clock: Callable[[], float] = time.perf_counter) -> None:
        self._app = app
        self._metrics = metrics
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        started = self._clock()
        request_id = _request_id(scope)
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
            await send(message)

        self._metrics.open_requests.inc()
        try:
            await self._app(scope, receive, send_with_id)
        finally:
            self._metrics.open_requests.dec()
            seconds = self._clock() - started
            method = scope["method"] if scope["method"] in _METHODS else "(other)"
            route = scope.get("path_template") or "(none)"
            self._metrics.observe(method, route, status, seconds)
            level = logging.WARNING if status >= 500 or status == 0 else logging.INFO
            if access_log.isEnabledFor(level):
                fields = {"method": method, "route": route, "status": status, "ms": round(seconds * 1000, 1)}
                access_log.log(level, "request", extra={**fields, "request_id": request_id.decode()})


def _request_id(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return value
    return secrets.token_hex(8).encode()


class Texts:
    """Refuses a request with 400 if its path, query or headers contain a NUL character, which no text may contain.

    At this point, text that is not UTF-8 has replacement characters, or half of a surrogate pair, which is refused too.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in (ScopeType.HTTP, ScopeType.WEBSOCKET) or _is_clean(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == ScopeType.WEBSOCKET:
            await send({"type": "websocket.close", "code": 1008, "reason": "invalid_text"})
        else:
            await send({"type": "http.response.start", "status": 400, "headers": list(_INVALID_TEXT_HEADERS)})
            await send({"type": "http.response.body", "body": _INVALID_TEXT, "more_body": False})


def _is_clean(scope: Scope) -> bool:
    path: str = scope["path"]
    if "\0" in path or b"%00" in scope["query_string"] or b"\0" in scope["query_string"]:
        return False
    if any(b"\0" in value for _, value in scope["headers"]):
        return False
    return path.isascii() or not any("\ud800" <= character <= "\udfff" for character in path)


class Heads:
    """Answers HEAD as GET, without the body: each route with GET has HEAD too.

    A stream is closed as if the client had gone, once the headers are sent.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        is_answered = False

        async def receive_until_answered() -> Any:
            return {"type": "http.disconnect"} if is_answered else await receive()

        async def send_head(message: Message) -> None:
            nonlocal is_answered
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                is_answered = True

        read = cast("Scope", {**scope, "method": "GET"})
        try:
            await self._app(read, receive_until_answered, send_head)
        finally:
            if "path_template" in read:
                scope["path_template"] = read["path_template"]


class Paths:
    """Reads a path that begins with several slashes as one with a single slash.

    A client of 2020 whose address ends with a slash sends ``//model-centric/...``.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP and scope["path"].startswith("//"):
            changed = {"path": "/" + scope["path"].lstrip("/"), "raw_path": b"/" + scope["raw_path"].lstrip(b"/")}
            await self._app(cast("Scope", {**scope, **changed}), receive, send)
        else:
            await self._app(scope, receive, send)


class Headers:
    """Adds the security headers, and opens ``open_paths`` to scripts of any origin (CORS).

    Only routes without cookies may be opened: the devices' routes, where a key in the request is the only credential.
    """

    def __init__(self, app: ASGIApp, open_paths: Collection[str] = ()) -> None:
        self._app = app
        self._open_paths = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        added = SECURITY_HEADERS
        if scope["path"] in self._open_paths:
            if scope["method"] == "OPTIONS":
                await send({"type": "http.response.start", "status": 204, "headers": list(_PREFLIGHT)})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                return
            added = (*_OPEN_CORS, *SECURITY_HEADERS)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message["headers"])
                present = {name.lower() for name, _ in headers}
                for name, value in added:
                    if name not in present:
                        headers.append((name, value))
                        present.add(name)
                message["headers"] = headers
            await send(message)

        await self._app(scope, receive, send_with_headers)
