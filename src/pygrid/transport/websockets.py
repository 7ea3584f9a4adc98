"""WebSockets that a Domain dials: to the address that was given, by the proxy of the environment, and nowhere else."""

from __future__ import annotations

import logging
import ssl
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from pygrid.transport.links import NORMAL, PROTOCOL_ERROR, SocketClosed
from pygrid.transport.proxies import find_proxy


class _Straight(connect):
    """Follows no redirect: who answers could lead a Domain to machines that they do not reach themselves."""

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
    """A WebSocket at an ``http(s)`` address, to be awaited or entered. Neither end is pinged.

    Args:
        max_bytes: of one message that comes.
        max_queue: messages that wait here to be taken; then no more is read.
        trust: for https; None: the public authorities.
    Raises:
        InvalidInput: ``proxy_unsupported``. What it gives raises what `websockets.asyncio.client.connect` does.
    """
    scheme = {"http": "ws", "https": "wss"}[urlsplit(url).scheme]
    return _Straight(
        f"{scheme}://{url.partition('://')[2].rstrip('/')}{path}",
        proxy=find_proxy(url),
        ssl=trust,
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
"""What a close frame has room for."""


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
        await self._connection.close(code, shorten_reason(reason))


def _closed(error: ConnectionClosed) -> SocketClosed:
    if error.rcvd is None:
        return SocketClosed()
    return SocketClosed(error.rcvd.code, error.rcvd.reason)


def shorten_reason(reason: str) -> str:
    return reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
