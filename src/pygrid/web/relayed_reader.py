"""Reads HTTP/1.1 from connections that came through a pipe of a Network."""

from __future__ import annotations

import asyncio
from typing import Any

from pygrid.transport.pipes import MESSAGE_BYTES
from pygrid.web.connections import ConnectionSlot
from pygrid.web.http_reader import BoundedProtocol

_BELOW_BYTES = 3 * MESSAGE_BYTES
"""Parts of an unread answer that TLS, the message of the pipe and its WebSocket hold."""
_UNREAD_BYTES = 64 * 1024
"""Bytes that TLS reads while this reader is paused; 256 KiB or more by default."""


class RelayedProtocol(BoundedProtocol):
    """The reader of a connection through a pipe; ``caller`` replaces the address of the peer.

    The Network counts the connections of a caller, so here they count only in the total.
    """

    def __init__(self, *args: Any, caller: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._caller = caller

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if (limit := getattr(transport, "set_read_buffer_limits", None)) is not None:  # of TLS only
            limit(_UNREAD_BYTES)
        super().connection_made(transport)
        self.client = (self._caller, 0)

    def _admit(self) -> ConnectionSlot | str:
        return self._connections.admit(self, None, caller=self._caller)

    def num_held_bytes(self) -> int:
        num_bytes = super().num_held_bytes()
        return num_bytes + _BELOW_BYTES if self.transport.get_write_buffer_size() else num_bytes
