"""WebSockets that a Domain opens, to the given address only, through the proxy of the environment."""

from __future__ import annotations

import logging
import ssl
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from pygrid.transport.authorities import trusting_context
from pygrid.transport.links import NORMAL, PROTOCOL_ERROR, SocketClosed
from pygrid.transport.proxies import find_proxy


class _NoRedirects(connect):
    """Follows no redirect: a server could lead the Domain to machines that the server cannot reach."""

    def process_redirect(self, exc: Exception) -> Exception:
        return exc


def dial_websocket(
    url: str,
    path: str,
    *,
    open_s: float,
    close_s: float,
    max_bytes: int,
    max_queue: int = 16,
    trust: ssl.SSLContext | None = None,
    logger: logging.Logger | None = None,
) -> connect:
    """A WebSocket at an ``http(s)`` address; await the result or enter it. Neither end sends pings.

    Args:
        max_bytes: largest message that is accepted.
        max_queue: largest number of received messages that wait here; reading stops at this number.
        trust: trusted authorities for https; None: those of `trusting_context`.
    Raises:
        InvalidInput: ``proxy_unsupported``. The result raises the errors of `websockets.asyncio.client.connect`.
    """
    scheme = {"http": "ws", "https": "wss"}[urlsplit(url).scheme]
    return _NoRedirects(
        f"{scheme}://{url.partition('://')[2].rstrip('/')}{path}",
        proxy=find_proxy(url),
        ssl=(trust or trusting_context()) if scheme == "wss" else None,
        compression=None,
        ping_interval=None,
        open_timeout=open_s,
        close_timeout=close_s,
        max_size=max_bytes,
        max_queue=max_queue,
        logger=logger,
        user_agent_header="pygrid",
    )


MAX_REASON_BYTES = 123
"""Longest reason in a close frame."""


class ClientSocket:
    """The end that opened the connection (``websockets.asyncio.client.connect``)."""

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
        await self._connection.close(code, shorten_reason(reason))


def _closed(error: ConnectionClosed) -> SocketClosed:
    if error.rcvd is None:
        return SocketClosed()
    return SocketClosed(error.rcvd.code, error.rcvd.reason)


def shorten_reason(reason: str) -> str:
    return reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
