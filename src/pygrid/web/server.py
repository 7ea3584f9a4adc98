"""Runs an app under uvicorn, with the settings of every app of pygrid."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import socket
import struct
import time
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from litestar import Litestar
from uvicorn.server import ServerState

from pygrid.transport.pipes import MAX_MESSAGE_BYTES, RelayedConnections
from pygrid.web.connections import ConnectionLimits, Connections
from pygrid.web.http_reader import BoundedProtocol
from pygrid.web.relayed_reader import RelayedProtocol
from pygrid.web.websocket_reader import BoundedWebSocket

IDLE_GRACE_S = 0.2
"""Seconds that connections without a request stay open after the signal to stop, for requests in transit."""
NOTICE_S = 1.0
"""Seconds after a drain for which connections are accepted: a balancer asks ``/leaderz`` in that time, and learns that
the app stops."""

_SO_ATTACH_FILTER = 26
_RETURN_CONSTANT = 0x06


class DrainingState(ServerState):
    """State that the connections of a server share."""

    is_draining = False
    """The app is about to stop: each connection ends with its next answer."""


class AppServer(uvicorn.Server):
    """A server that notifies its app of a stop at once, so that long polls and event streams end by themselves.

    Args:
        shutdown_s: seconds that requests get to end after the signal to stop.
        ready: called once the app has started and connections are accepted.
        drain_s: seconds for which the app goes on serving after the signal to stop; it is not ready from then on.
    """

    def __init__(
        self,
        app: Litestar,
        shutdown_s: int,
        ready: Callable[[], None],
        limits: ConnectionLimits | None = None,
        *,
        drain_s: int = 0,
    ) -> None:
        limits = limits or ConnectionLimits()
        self.open_connections = Connections(limits, time.monotonic)
        readers: dict[str, Any] = {
            "http": partial(BoundedProtocol.with_sized_reads, connections=self.open_connections),
            "ws": partial(BoundedWebSocket, limits=limits),
        }
        super().__init__(
            uvicorn.Config(
                app,
                **readers,
                # Diffs hardly compress, and deflate costs some 40 kB for each connection.
                ws_per_message_deflate=False,
                ws_max_size=MAX_MESSAGE_BYTES,
                # A peer that reads rarely, such as a caller's end of a pipe, cannot answer pings; links have
                # heartbeats.
                ws_ping_interval=None,
                lifespan="on",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=limits.idle_s,
                timeout_graceful_shutdown=shutdown_s,
            )
        )
        self.server_state = self._draining = DrainingState()
        self._app = app
        self._ready = ready
        self._drain_s = drain_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            if (relayed := self._app.state.services.find(RelayedConnections)) is not None:
                relayed.serve_with(self._read_relayed)
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._drain_s
        while loop.time() < until and not self.force_exit:  # noqa: ASYNC110 - a signal handler sets no event
            await asyncio.sleep(IDLE_GRACE_S)
        self._app.state.stopping.set()
        if self._drain_s:
            # A balancer cuts off the requests of a server that refuses connections. So those end first.
            noticed_s = loop.time() + NOTICE_S
            until = loop.time() + max(NOTICE_S, self.config.timeout_graceful_shutdown or 0)
            while not self.force_exit and (  # noqa: ASYNC110
                loop.time() < noticed_s or (self.server_state.tasks and loop.time() < until)
            ):
                await asyncio.sleep(IDLE_GRACE_S / 10)
        await self._drain(sockets or [])
        await super().shutdown(sockets)
        if self.force_exit:
            # A second signal cuts requests off, but the app still closes what it has open.
            await self.lifespan.shutdown()

    async def _drain(self, sockets: list[socket.socket]) -> None:
        """Answer all requests that were sent before the stop; each answer from now on ends its connection.

        The kernel resets connections that wait in a listening socket when it closes, and those that are closed with
        unread bytes.
        """
        self._draining.is_draining = True
        for connection in list(self.server_state.connections):
            if isinstance(connection, BoundedProtocol):
                connection.end_after_answer()
        loop = asyncio.get_running_loop()
        waiting = [socket.socket(fileno=os.dup(one.fileno())) for one in sockets]
        # The servers close the listening sockets, which stay open by their copies.
        for server in self.servers:
            server.close()
        for one in sockets:
            one.close()
        for one in waiting:
            ignore_new(one)
            one.setblocking(False)
            with contextlib.suppress(BlockingIOError), one:
                while not self.force_exit:
                    accepted, _ = one.accept()
                    await loop.connect_accepted_socket(self._read_accepted, accepted)
        # Arrived bytes are read first. An idle connection stays open for a moment: its client can be about to use it.
        until = loop.time() + IDLE_GRACE_S
        while loop.time() < until and not self.force_exit:  # noqa: ASYNC110 - a signal handler sets no event
            await asyncio.sleep(IDLE_GRACE_S / 10)

    def _read_accepted(self) -> asyncio.BaseProtocol:
        return BoundedProtocol.with_sized_reads(
            self.config, self.server_state, self.lifespan.state, connections=self.open_connections
        )

    def _read_relayed(self, caller: str) -> asyncio.Protocol:
        """Return the reader of a connection through a pipe; the server counts it among its own."""
        return RelayedProtocol(
            self.config, self.server_state, self.lifespan.state, caller=caller, connections=self.open_connections
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Unlike with uvicorn, the process does not end by the signal: it stops as requested, and exits with 0.
        self.force_exit = self.should_exit
        self.should_exit = True
        self._app.state.stopping.is_draining = True
        # uvicorn polls `should_exit`; requests that are answered before it does end their connections too.
        self._draining.is_draining = True


def ignore_new(listening: socket.socket) -> None:
    """Make the kernel drop packets of new connections, so that none is made between the last accept and the close.

    It is a filter of one instruction, which accepts 0 bytes of each packet (socket(7), ``SO_ATTACH_FILTER``). The
    connections that wait to be accepted do not have it. A client's kernel tries again, and finds the port closed.
    """
    instruction = ctypes.create_string_buffer(struct.pack("HBBI", _RETURN_CONSTANT, 0, 0, 0))
    program = struct.pack("HP", 1, ctypes.addressof(instruction))
    with contextlib.suppress(OSError):  # other kernels than Linux, and sockets that are not of TCP
        listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
