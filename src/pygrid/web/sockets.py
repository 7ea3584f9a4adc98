"""Both ends of a WebSocket as what a `pygrid.web.links.Link` needs: the app's end (ASGI), and the end that dialled out."""

from __future__ import annotations

import contextlib
from typing import Any

from litestar import WebSocket
from litestar.exceptions import WebSocketDisconnect
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from pygrid.web.links import GOING_AWAY, NORMAL, PROTOCOL_ERROR, SocketClosed

MAX_REASON_BYTES = 123
"""What a close frame has room for."""


def is_of_a_browser(socket: WebSocket[Any, Any, Any]) -> bool:
    """Whether a page opens it. No Domain and no SDK is one; it could only be used against what its reader reaches."""
    return "origin" in socket.headers


class AsgiSocket:
    """The end of the app that accepted the WebSocket."""

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
            await self._socket.close(code, _shorten(reason))


class ClientSocket:
    """The end that dialled out (``websockets.asyncio.client.connect``)."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    async def send_text(self, text: str) -> None:
        try:
            await self._connection.send(text)
        except ConnectionClosed as error:
            raise _closed(error) from error

    async def receive_text(self) -> str:
        try:
            message = await self._connection.recv()
        except ConnectionClosed as error:
            raise _closed(error) from error
        if isinstance(message, bytes):
            await self.close(PROTOCOL_ERROR, "frames are text")
            raise SocketClosed(PROTOCOL_ERROR, "frames are text")
        return message

    async def close(self, code: int = NORMAL, reason: str = "") -> None:
        await self._connection.close(code, _shorten(reason))


def _closed(error: ConnectionClosed) -> SocketClosed:
    if error.rcvd is None:
        return SocketClosed()
    return SocketClosed(error.rcvd.code, error.rcvd.reason)


def _shorten(reason: str) -> str:
    return reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
