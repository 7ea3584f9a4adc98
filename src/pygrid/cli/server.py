"""Runs an app under uvicorn, set up the way every app of pygrid runs."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from litestar import Litestar

from pygrid.cli.connections import ConnectionLimits, Connections
from pygrid.cli.http_reader import BoundedProtocol, RelayedProtocol
from pygrid.cli.websocket_reader import BoundedWebSocket
from pygrid.transport.pipes import MAX_MESSAGE_BYTES


class AppServer(uvicorn.Server):
    """A server whose app learns at once when it is to stop, so that long polls and event streams end by themselves.

    Args:
        shutdown_s: what requests still get then, before they are cut off.
        ready: called once the app has started and connections are accepted.
    """

    def __init__(
        self, app: Litestar, shutdown_s: int, ready: Callable[[], None], limits: ConnectionLimits | None = None
    ) -> None:
        limits = limits or ConnectionLimits()
        self.open_connections = Connections(limits, time.monotonic)
        readers: dict[str, Any] = {
            "http": partial(BoundedProtocol, connections=self.open_connections),
            "ws": partial(BoundedWebSocket, limits=limits),
        }
        super().__init__(
            uvicorn.Config(
                app,
                **readers,
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
                timeout_keep_alive=limits.idle_s,
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
        return RelayedProtocol(
            self.config, self.server_state, self.lifespan.state, caller=caller, connections=self.open_connections
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Unlike uvicorn's, the process does not die of the signal in the end: it was asked to stop, stopped, and exits with 0.
        self.force_exit = self.should_exit
        self.should_exit = True
