"""The way of an attack of `stranger_attacks.py` to a Domain behind a Network."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading

from websockets.asyncio.client import ClientConnection, connect

from pygrid.transport.certificates import client_context

MAX_PIPES = 24
"""Connections of one address that a relay carries."""
DOMAIN_ID = "hospital-a"
"""Of the Domain behind a Network."""


class RelayDoor(threading.Thread):
    """A port whose connections are carried to a Domain through the relay of its Network, over TLS, from an address."""

    def __init__(self, network_port: int, source: str) -> None:
        super().__init__(daemon=True)
        self._source = source
        self._url = f"ws://127.0.0.1:{network_port}/relay/{DOMAIN_ID}"
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=MAX_PIPES)
        self.port = self._listening.getsockname()[1]

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._carry, sock=self._listening)
        await server.serve_forever()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(Exception), contextlib.closing(writer):  # the attack opens another one
            opening = connect(self._url, local_addr=(self._source, 0), proxy=None, compression=None, close_timeout=1)
            async with opening as pipe:
                inner, outer = socket.socketpair()
                for end in (inner, outer):
                    end.setblocking(False)
                with inner:
                    pumps = [
                        asyncio.create_task(_read_pipe(pipe, inner)),
                        asyncio.create_task(_write_pipe(inner, pipe)),
                    ]
                    tls = await asyncio.open_connection(sock=outer, ssl=client_context(), server_hostname="")
                    with contextlib.closing(tls[1]):
                        pumps += [
                            asyncio.create_task(_copy(reader, tls[1])),
                            asyncio.create_task(_copy(tls[0], writer)),
                        ]
                        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                    for pump in pumps:
                        pump.cancel()
                    await asyncio.gather(*pumps, return_exceptions=True)


async def _read_pipe(pipe: ClientConnection, into: socket.socket) -> None:
    async for message in pipe:
        assert isinstance(message, bytes)
        await asyncio.get_running_loop().sock_sendall(into, message)


async def _write_pipe(source: socket.socket, pipe: ClientConnection) -> None:
    while data := await asyncio.get_running_loop().sock_recv(source, 65_536):
        await pipe.send(data)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
