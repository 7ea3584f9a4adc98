"""The app's end of a WebSocket (ASGI), with the interface that `pygrid.transport.links.Link` needs."""

from __future__ import annotations

import contextlib
from typing import Any

from litestar import WebSocket
from litestar.exceptions import WebSocketDisconnect

from pygrid.transport.links import GOING_AWAY, NORMAL, SocketClosed
from pygrid.transport.websockets import shorten_reason


def is_of_a_browser(socket: WebSocket[Any, Any, Any]) -> bool:
    """Return whether a page opened the socket; Domains and SDKs never send ``Origin``."""
    return "origin" in socket.headers


class AsgiSocket:
    """The app's end of an accepted WebSocket."""

    def __init__(self, socket: WebSocket[Any, Any, Any]) -> None:
        self._socket = socket
        self._closed = False

    async def send_text(self, text: str) -> None:
        if self._closed:
            raise SocketClosed
        try:
            await self._socket.send_text(text)
        except (WebSocketDisconnect, OSError) as error:
            raise SocketClosed from error

    async def receive_text(self) -> str:
        try:
            return await self._socket.receive_text()
        except WebSocketDisconnect as error:
            self._closed = True
            raise SocketClosed(error.code or GOING_AWAY) from error

    async def close(self, code: int = NORMAL, reason: str = "") -> None:
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(WebSocketDisconnect, OSError):
            await self._socket.close(code, shorten_reason(reason))
