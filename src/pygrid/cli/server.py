"""Runs an app under uvicorn, set up the way every app of pygrid runs."""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import http
import os
import socket
import termios
from collections.abc import Callable
from types import FrameType
from typing import Any

import msgspec
import uvicorn
from litestar import Litestar
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from pygrid.messages import media
from pygrid.transport.pipes import MAX_MESSAGE_BYTES

MAX_HEADER_BYTES = 16 * 1024
"""Of the request line and all headers together."""
HEADER_TIMEOUT_S = 30.0
"""From the first byte of a connection or request to the end of its headers."""


IDLE_GRACE_S = 0.2
"""How long connections without a request stay open after the signal to stop, for requests that are on their way."""


class DrainingState(ServerState):
    """What the server's connections share."""

    is_draining = False
    """The app is about to stop: each connection ends with its next answer."""


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
        self.server_state = DrainingState()
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
        await self._drain(sockets or [])
        await super().shutdown(sockets)
        if self.force_exit:
            # A second signal cuts requests off, but what the app has open is closed all the same.
            await self.lifespan.shutdown()

    async def _drain(self, sockets: list[socket.socket]) -> None:
        """Answer what was sent before the stop: the kernel resets connections that wait in a listening socket when it closes,
        and those that are closed with bytes unread. Each answer from now on ends its connection.
        """
        assert isinstance(self.server_state, DrainingState)
        self.server_state.is_draining = True
        for connection in list(self.server_state.connections):
            if isinstance(connection, BoundedProtocol):
                connection.end_after_answer()
        loop = asyncio.get_running_loop()
        waiting = [socket.socket(fileno=os.dup(one.fileno())) for one in sockets]
        # The servers let go of the listening sockets, which stay open by their copies.
        for server in self.servers:
            server.close()
        for one in sockets:
            one.close()
        for one in waiting:
            one.setblocking(False)
            with contextlib.suppress(BlockingIOError), one:
                while not self.force_exit:
                    accepted, _ = one.accept()
                    await loop.connect_accepted_socket(self._read_accepted, accepted)
        # What has arrived is read first. An idle connection is given a moment, as its client may be about to use it.
        until = loop.time() + IDLE_GRACE_S
        while loop.time() < until and not self.force_exit:  # noqa: ASYNC110 - the handler of a signal wakes nobody
            await asyncio.sleep(IDLE_GRACE_S / 10)

    def _read_accepted(self) -> asyncio.Protocol:
        return BoundedProtocol(self.config, self.server_state, self.lifespan.state)

    def _read_relayed(self, caller: str) -> asyncio.Protocol:
        """What reads a connection that came through a pipe, as one of this server's own."""
        return RelayedProtocol(self.config, self.server_state, self.lifespan.state, caller=caller)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Unlike uvicorn's, the process does not die of the signal in the end: it was asked to stop, stopped, and exits with 0.
        self.force_exit = self.should_exit
        self.should_exit = True


def _num_unread(transport: asyncio.BaseTransport) -> int:
    """Bytes that arrived at a connection and wait in the kernel."""
    connection = transport.get_extra_info("socket")
    if connection is None or connection.fileno() < 0:
        return 0
    waiting = array.array("i", [0])
    fcntl.ioctl(connection.fileno(), termios.FIONREAD, waiting)
    return waiting[0]


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
        if getattr(self.server_state, "is_draining", False):
            self.end_after_answer()

    def end_after_answer(self) -> None:
        """Have the answer to the newest request say ``Connection: close``, if there is one that has not begun."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """Called when the server closes its connections: one with bytes that were not read yet is answered first."""
        if not _num_unread(self.transport):
            super().shutdown()

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
