"""WebSockets that a Domain dials: to the address that was given, by the proxy of the environment, and nowhere else."""

from __future__ import annotations

import logging
import ssl
from urllib.parse import urlsplit

from websockets.asyncio.client import connect

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
