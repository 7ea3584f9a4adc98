"""Reads from sockets in sizes that the server chooses.

Event loops read up to 256 KiB at once from each socket that has bytes. Bytes of 80 clients of one address then exceed
what an address may hold, before their readers can pause.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from pygrid.web.connections import Connections


class SizedReader(Protocol):
    """A reader of a connection: first of HTTP, later possibly of a WebSocket."""

    def connection_made(self, transport: asyncio.Transport) -> None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...
    def view_received(self, view: memoryview) -> None:
        """Read these bytes. They change after the return."""
        ...

    def eof_received(self) -> bool | None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...
    def max_read_bytes(self) -> int:
        """Return how many bytes to read at once, if the address of the peer holds little."""
        ...


class SizedReads(asyncio.BufferedProtocol):
    """Passes what a socket receives to a reader, in pieces of the size that `Connections.num_bytes_to_read` returns.

    Args:
        reader: the reader of the connection. It may be replaced while the connection is open.
        connections: those of the server.
    """

    def __init__(self, reader: SizedReader, connections: Connections) -> None:
        self.reader: SizedReader | None = reader
        self.holder: str | None = None
        """Address that what the reader holds counts for."""
        self._connections = connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert self.reader is not None
        self.reader.connection_made(transport)  # type: ignore[arg-type]

    def connection_lost(self, exc: Exception | None) -> None:
        # Transports are freed late.
        reader, self.reader = self.reader, None
        if reader is not None:
            reader.connection_lost(exc)

    def get_buffer(self, sizehint: int) -> memoryview:
        most = self.reader.max_read_bytes() if self.reader is not None else 1
        return self._connections.buffer[: self._connections.num_bytes_to_read(self.holder, most)]

    def buffer_updated(self, nbytes: int) -> None:
        if self.reader is not None:
            self.reader.view_received(self._connections.buffer[:nbytes])

    def eof_received(self) -> bool | None:
        return self.reader.eof_received() if self.reader is not None else None

    def pause_writing(self) -> None:
        if self.reader is not None:
            self.reader.pause_writing()

    def resume_writing(self) -> None:
        if self.reader is not None:
            self.reader.resume_writing()
