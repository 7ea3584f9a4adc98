"""A TCP forwarder between a replica and a server that can be cut, so that packets are lost, or slowed down."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Self

Target = tuple[str, int] | str
"""Host and port; or the path of a Unix socket."""


class Forwarder:
    """Listens on a free port of the loopback interface for the length of an ``async with`` block.

    Args:
        target: where the connections lead.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.delay_s = 0.0
        """Pause before each piece of data of either direction."""
        self._open = asyncio.Event()
        self._open.set()
        self._links: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.reset()
        await asyncio.gather(*self._links, return_exceptions=True)

    def cut(self) -> None:
        """Pass nothing on, and close nothing, as a network does that loses all packets."""
        self._open.clear()

    def mend(self, *, is_reset: bool = False) -> None:
        """End a cut: what was sent meanwhile arrives, or all connections are reset."""
        if is_reset:
            self.reset()
        self._open.set()

    def reset(self) -> None:
        """End all connections."""
        for link in self._links:
            link.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.current_task()
        assert link is not None
        self._links.add(link)
        try:
            await self._open.wait()
            await self._link(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # an end of the connection is gone, or `reset`
        finally:
            self._links.discard(link)
            writer.close()

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if isinstance(self.target, str):
            there = await asyncio.open_unix_connection(self.target)
        else:
            there = await asyncio.open_connection(*self.target)
        try:
            both = [
                asyncio.create_task(self._pass(reader, there[1])),
                asyncio.create_task(self._pass(there[0], writer)),
            ]
            try:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in both:
                    one.cancel()
                await asyncio.gather(*both, return_exceptions=True)
        finally:
            there[1].close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self._open.wait()
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)  # the delay of the network
                writer.write(data)
                await writer.drain()
