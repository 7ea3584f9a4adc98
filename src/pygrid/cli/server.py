"""Runs an app under uvicorn, set up the way every app of pygrid runs."""

from __future__ import annotations

import asyncio
import http
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import msgspec
import uvicorn
from litestar import Litestar
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pygrid.messages import media
from pygrid.transport.pipes import MAX_MESSAGE_BYTES

MAX_HEADER_BYTES = 16 * 1024
"""Of the request line and all headers together."""
HEADER_TIMEOUT_S = 30.0
"""From the first byte of a connection or request to the end of its headers."""


class AppServer(uvicorn.Server):
    """A server whose app learns at once when it is to stop, so that long polls and event streams end by themselves.

    Args:
        shutdown_s: what requests still get then, before they are cut off.
        keep_alive_s: how long a connection stays open between requests.
        ready: called once the app has started and connections are accepted.
    """

    def __init__(self, app: Litestar, shutdown_s: int, keep_alive_s: int, ready: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=BoundedProtocol,
                ws="websockets-sansio",
                # Diffs hardly compress, and deflate costs some 40 kB for each connection.
                ws_per_message_deflate=False,
                ws_max_size=MAX_MESSAGE_BYTES,
                # Who only reads now and then, as a caller's end of a pipe does, can't answer pings; links have heartbeats.
                ws_ping_interval=None,
                lifespan="on",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=keep_alive_s,
                timeout_graceful_shutdown=shutdown_s,
            )
        )
        self._app = app
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            pipes = getattr(self._app.state, "pipes", None)
            if pipes is not None:
                pipes.serve_with(self._read_relayed)
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.state.stopping.set()
        await super().shutdown(sockets)
        if self.force_exit:
            # A second signal cuts requests off, but what the app has open is closed all the same.
            await self.lifespan.shutdown()

    def _read_relayed(self, caller: str) -> asyncio.Protocol:
        """What reads a connection that came through a pipe, as one of this server's own."""
        return RelayedProtocol(self.config, self.server_state, self.lifespan.state, caller=caller)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Unlike uvicorn's, the process does not die of the signal in the end: it was asked to stop, stopped, and exits with 0.
        self.force_exit = self.should_exit
        self.should_exit = True


class _HeadersTooLarge(Exception):
    """Stops the parser, which then calls for the refusal of what it was given."""


class BoundedProtocol(HttpToolsProtocol):
    """HTTP/1.1 with bounds that uvicorn's parser lacks: on the size of a request's headers, and on the time they take.

    What is no valid request is answered with a problem document, before any app sees it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_headers = True
        self._just_begun = False
        self._num_header_bytes = 0
        self._are_too_large = False
        self._header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_header_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_header_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._just_begun = False
        super().data_received(data)
        # Bounds a header that never ends, of which the parser says nothing. Where a request begins in the middle of what came,
        # only its address is counted: the rest may be the body of the request before.
        if self._in_headers and not self.transport.is_closing():
            self._num_header_bytes += len(self.url) if self._just_begun else len(data)
            if self._num_header_bytes > MAX_HEADER_BYTES:
                self._refuse_headers()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_headers = self._just_begun = True
        self._num_header_bytes = 0
        if self._header_timer is None:
            self._start_header_timer()

    def on_headers_complete(self) -> None:
        self._in_headers = False
        self._stop_header_timer()
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > MAX_HEADER_BYTES:
            self._are_too_large = True
            raise _HeadersTooLarge
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Called by the parser's side for whatever it did not take."""
        if self._are_too_large:
            self._refuse_headers()
        else:
            self._refuse(400, "invalid_http", msg)

    def _start_header_timer(self) -> None:
        self._header_timer = self.loop.call_later(HEADER_TIMEOUT_S, self._on_header_timeout)

    def _stop_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _on_header_timeout(self) -> None:
        self._header_timer = None
        if not self.transport.is_closing():
            self._refuse(408, "too_slow", f"the headers took more than {HEADER_TIMEOUT_S:.0f} s")

    def _refuse_headers(self) -> None:
        self._refuse(431, "headers_too_large", f"the address and the headers may have at most {MAX_HEADER_BYTES} bytes")

    def _refuse(self, status: int, code: str, detail: str) -> None:
        phrase = http.HTTPStatus(status).phrase
        problem = {"type": f"urn:pygrid:error:{code}", "title": phrase, "status": status, "detail": detail, "code": code}
        body = msgspec.json.encode(problem)
        head = [
            f"HTTP/1.1 {status} {phrase}",
            f"content-type: {media.PROBLEM}",
            f"content-length: {len(body)}",
            "connection: close",
        ]
        self.transport.write("\r\n".join([*head, "", ""]).encode() + body)
        self.transport.close()


class RelayedProtocol(BoundedProtocol):
    """The same for a connection through a pipe: ``caller`` is taken for the address that it came from."""

    def __init__(self, *args: Any, caller: str) -> None:
        super().__init__(*args)
        self._caller = caller

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.client = (self._caller, 0)
