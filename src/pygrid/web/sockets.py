"""The app's end of a WebSocket (ASGI), with the interface that `pygrid.transport.links.Link` needs."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from litestar import WebSocket
from litestar.exceptions import WebSocketDisconnect

from pygrid.transport.links import GOING_AWAY, NORMAL, SocketClosed
from pygrid.transport.websockets import shorten_reason

SLOW_S = 30.0
"""Seconds without a byte of a message that has begun, after which it fails."""


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

    async def receive(self) -> str | MessageParts | None:
        """Return the next message: a text, or its parts while they arrive; None: it is binary."""
        event = await self.receive_event()
        return MessageParts(self, event) if "more_body" in event else event.get("text")

    async def receive_event(self) -> dict[str, Any]:
        """Return the next event of the socket. Raises SocketClosed."""
        event: dict[str, Any] = dict(await self._socket.receive())
        if event["type"] == "websocket.disconnect":
            self._closed = True
            raise SocketClosed(event.get("code") or GOING_AWAY)
        return event

    async def close(self, code: int = NORMAL, reason: str = "") -> None:
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(WebSocketDisconnect, OSError):
            await self._socket.close(code, shorten_reason(reason))


class MessageParts:
    """The parts of a long text message, which can be iterated in several steps.

    Attributes:
        is_over: whether the last part was returned.
    """

    def __init__(self, end: AsgiSocket, first: dict[str, Any]) -> None:
        self._end = end
        self._next: dict[str, Any] | None = first
        self.is_over = False

    def __aiter__(self) -> MessageParts:
        return self

    async def __anext__(self) -> bytes:
        if self.is_over:
            raise StopAsyncIteration
        if self._next is None:
            async with asyncio.timeout(SLOW_S):
                self._next = await self._end.receive_event()
        event, self._next = self._next, None
        self.is_over = not event.get("more_body")
        return event.get("bytes") or b""

    async def skip(self, max_bytes: int) -> None:
        """Read the rest of the message, at most about ``max_bytes`` of it."""
        num_bytes = 0
        while not self.is_over and num_bytes <= max_bytes:
            num_bytes += len(await anext(self))
