"""Requests to an ASGI application in this process, without sockets, with the behavior of HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import queue
import threading
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any
from urllib.parse import quote, urlencode

from pygrid.transport.base import Request, Response, connection_failed, connection_lost

_EXIT_S = 10.0
"""Seconds that an application gets to end when the process ends."""

Message = MutableMapping[str, Any]
AsgiApp = Callable[[Any, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]


class AsgiTransport:
    """A `Transport` to an application in this process, which runs on an event loop in its own thread.

    The application's lifespan begins at the first request and ends with `close`, or with the process.
    """

    def __init__(self, app: AsgiApp, *, url: str = "http://in-process") -> None:
        self._app = app
        self._url = url
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lifespan: _Lifespan | None = None

    @property
    def url(self) -> str:
        return self._url

    def send(self, request: Request) -> Response:
        loop = self._start()
        exchange = _Exchange(self._app, request, self._url)
        loop.call_soon_threadsafe(exchange.start)
        return exchange.response(lambda: loop.call_soon_threadsafe(exchange.disconnect))

    def _start(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=loop.run_forever, name="pygrid-asgi", daemon=True)
                self._thread.start()
                self._loop = loop
                self._lifespan = _Lifespan(self._app)
                failure = asyncio.run_coroutine_threadsafe(self._lifespan.enter(), loop).result()
                _open_transports().add(self)
                if failure is not None:
                    raise connection_failed(self._url, failure)
            return self._loop

    def close(self) -> None:
        self._close(None)

    def _close(self, timeout_s: float | None) -> None:
        """End the application. Raises TimeoutError: it has not ended in time."""
        with self._lock:
            loop, thread, lifespan = self._loop, self._thread, self._lifespan
            self._loop = self._thread = self._lifespan = None
        # A process that was forked has the object without the thread.
        if loop is None or thread is None or lifespan is None or not thread.is_alive():
            return
        _open_transports().discard(self)
        asyncio.run_coroutine_threadsafe(_shut_down(lifespan), loop).result(timeout_s)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@functools.cache
def _open_transports() -> set[AsgiTransport]:
    """The transports that this process closes at its end, before it ends the pools of threads that their apps use."""
    found: set[AsgiTransport] = set()

    def close_all() -> None:
        for transport in list(found):
            with contextlib.suppress(TimeoutError):
                transport._close(_EXIT_S)

    # `atexit` comes after the end of the pools. Here the newest function is called first, so the pools register theirs
    # before this one.
    import concurrent.futures.thread  # noqa: F401

    threading._register_atexit(close_all)  # type: ignore[attr-defined]
    return found


async def _shut_down(lifespan: _Lifespan) -> None:
    """End the lifespan, then cancel the remaining tasks: answers without a reader."""
    await lifespan.leave()
    rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()


class _Lifespan:
    """The start and the end of an application; one without lifespan counts as started."""

    def __init__(self, app: AsgiApp) -> None:
        self._app = app
        self._incoming: asyncio.Queue[Message] = asyncio.Queue()
        self._outgoing: asyncio.Queue[Message] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def enter(self) -> str | None:
        """Start the application, and return the reason if it does not start."""
        self._task = asyncio.create_task(self._run())
        answer = await self._ask("lifespan.startup")
        return str(answer.get("message", "")) if answer["type"] == "lifespan.startup.failed" else None

    async def leave(self) -> None:
        await self._ask("lifespan.shutdown")

    async def _ask(self, kind: str) -> Message:
        await self._incoming.put({"type": kind})
        answer = asyncio.create_task(self._outgoing.get())
        assert self._task is not None
        await asyncio.wait({answer, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        answer.cancel()
        return {"type": "lifespan.unsupported"}

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
        await self._app(scope, self._incoming.get, self._outgoing.put)


class _Exchange:
    """One request and its answer, between the caller's thread and the loop's."""

    def __init__(self, app: AsgiApp, request: Request, url: str) -> None:
        self._app = app
        self._request = request
        self._url = url
        self._body: Iterator[bytes | memoryview] = iter(request.body) if request.body is not None else iter(())
        self._body_complete = False
        # Unbounded: the loop must never wait for a reader. The answers are in memory anyway.
        self._events: queue.SimpleQueue[Message | BaseException | None] = queue.SimpleQueue()
        self._disconnected = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    def disconnect(self) -> None:
        self._disconnected.set()

    def response(self, close: Callable[[], object]) -> Response:
        start = self._next(self._request.timeout_s)
        if start is None:
            raise connection_lost(self._url, "the application did not answer")
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in start.get("headers", [])}
        return Response(start["status"], headers, self._chunks(), lambda: (close(), None)[1])

    def _chunks(self) -> Iterator[bytes]:
        while (message := self._next(self._request.timeout_s)) is not None:
            if message.get("body"):
                yield bytes(message["body"])
            if not message.get("more_body", False):
                return
        raise connection_lost(self._url, "the application's answer ended early")

    def _next(self, timeout_s: float) -> Message | None:
        try:
            event = self._events.get(timeout=timeout_s)
        except queue.Empty:
            raise connection_lost(self._url, "the server was silent for too long") from None
        if isinstance(event, BaseException):
            raise event
        return event

    async def _run(self) -> None:
        try:
            await self._app(self._scope(), self._receive, self._send)
        except Exception as error:  # the caller gets the errors of the application
            self._events.put(error)
        finally:
            self._events.put(None)

    async def _receive(self) -> Message:
        if not self._body_complete:
            # A pause, as on a socket: other tasks run between two pieces of a body.
            await asyncio.sleep(0)
            piece = next(self._body, None)
            self._body_complete = piece is None
            return {
                "type": "http.request",
                "body": bytes(piece) if piece is not None else b"",
                "more_body": piece is not None,
            }
        await self._disconnected.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if not self._disconnected.is_set():
            self._events.put(message)

    def _scope(self) -> dict[str, Any]:
        headers = {
            "host": "localhost",
            "user-agent": "pygrid",
            **{k.lower(): v for k, v in self._request.headers.items()},
        }
        if self._request.body is not None:
            headers["content-length"] = str(self._request.body.num_bytes)
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": self._request.method,
            "scheme": "http",
            "path": self._request.path,
            "raw_path": quote(self._request.path).encode(),
            "query_string": urlencode(self._request.query).encode(),
            "root_path": "",
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()],
            "client": ("127.0.0.1", 0),
            "server": ("in-process", 80),
            "state": {},
        }
