"""Runs an app under uvicorn, set up the way every app of pygrid runs."""

from __future__ import annotations

import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from litestar import Litestar


class AppServer(uvicorn.Server):
    """A server whose app learns at once when it is to stop, so that long polls and event streams end by themselves.

    Args:
        shutdown_s: what requests still get then, before they are cut off.
        ready: called once the app has started and connections are accepted.
    """

    def __init__(self, app: Litestar, shutdown_s: int, keep_alive_s: int, ready: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="httptools",
                ws="websockets-sansio",
                # Diffs hardly compress, and deflate costs some 40 kB for each connection.
                ws_per_message_deflate=False,
                lifespan="on",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_keep_alive=keep_alive_s,
                timeout_graceful_shutdown=shutdown_s,
            )
        )
        self._app = app
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.state.stopping.set()
        await super().shutdown(sockets)
        if self.force_exit:
            # A second signal cuts requests off, but what the app has open is closed all the same.
            await self.lifespan.shutdown()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Unlike uvicorn's, the process does not die of the signal in the end: it was asked to stop, stopped, and exits with 0.
        self.force_exit = self.should_exit
        self.should_exit = True
