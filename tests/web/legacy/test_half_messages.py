"""Hundreds of WebSockets that each begin a message and never end it, from one address and from many, and one that never
reads.

Should happen: other clients are answered all the time; what the messages hold is counted and returned; a client that
reads none of its answers is cut off.
Should not happen: the messages hold more than the limit for an address, or all addresses together.
"""

from __future__ import annotations

import asyncio
import json

import pytest
from litestar import Litestar
from websockets.asyncio.client import ClientConnection, connect

from support.eventually import eventually
from support.web import serving

NUM_SOCKETS = 200
PER_ADDRESS, IN_ALL = 512 * 1024, 2 * 1024 * 1024
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
TEXT = json.dumps({"type": "model-centric/authenticate", "data": {"worker_id": "A" * 40_000}}).encode()
HALVES = {
    "half a frame": b"\x81\xfe" + len(TEXT).to_bytes(2) + b"\0\0\0\0" + TEXT[: len(TEXT) // 2],
    "a fragment": b"\x01\xfe" + (len(TEXT) // 2).to_bytes(2) + b"\0\0\0\0" + TEXT[: len(TEXT) // 2],
    "a head that announces 8 MiB": b"\x81\xff" + (8 * 1024 * 1024).to_bytes(8) + b"\0\0\0\0" + TEXT[:20_000],
}


@pytest.mark.parametrize("num_addresses", [1, 20])
@pytest.mark.parametrize("half", HALVES)
async def test_half_messages(domain: Litestar, half: str, num_addresses: int) -> None:
    async with (
        serving(domain, held_bytes_per_address=PER_ADDRESS, held_bytes=IN_ALL) as (server, port),
        connect(f"ws://127.0.0.1:{port}/", proxy=None) as honest,
    ):
        open_connections, most = server.open_connections, PER_ADDRESS if num_addresses == 1 else IN_ALL
        reading = []
        for number in range(NUM_SOCKETS):
            address = (f"127.0.1.{number % num_addresses + 1}", 0)
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=address)
            writer.write(UPGRADE + HALVES[half])
            reading.append((asyncio.create_task(reader.read()), writer))
            assert open_connections.num_held_bytes <= most
            if number % 20 == 0:
                await honest.send('{"type": "socket-ping"}')
                assert json.loads(await honest.recv())["alive"] == "True"
        await eventually(lambda: sum(task.done() for task, _ in reading) >= NUM_SOCKETS // 4)
        assert most // 2 < open_connections.num_held_bytes <= most
        await honest.send('{"type": "get-id"}')
        assert json.loads(await honest.recv())["syft_version"] == "0.2.9"
        for _, writer in reading:
            writer.close()
        await asyncio.gather(*(task for task, _ in reading), return_exceptions=True)
        await eventually(lambda: open_connections.num_held_bytes == 0)


async def test_a_client_that_never_reads_its_answers_is_cut_off(domain: Litestar) -> None:
    text = json.dumps({"type": "x" * 4000}).encode()  # the answer repeats the type
    messages = (b"\x81\xfe" + len(text).to_bytes(2) + b"\0\0\0\0" + text) * 50
    async with (
        serving(domain, stalled_s=0.3, sweep_s=0.1) as (server, port),
        connect(f"ws://127.0.0.1:{port}/", proxy=None) as honest,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
        writer.write(UPGRADE)
        assert (await reader.readexactly(12)).endswith(b"101")
        with pytest.raises(ConnectionError):
            await _send_on(writer, messages, honest)
        writer.close()
        await eventually(lambda: server.open_connections.num_held_bytes == 0)
        await honest.send('{"type": "socket-ping"}')
        assert json.loads(await honest.recv())["alive"] == "True"


async def _send_on(writer: asyncio.StreamWriter, messages: bytes, honest: ClientConnection) -> None:
    async with asyncio.timeout(60):
        while True:
            writer.write(messages)
            await writer.drain()
            await honest.send('{"type": "socket-ping"}')
            assert json.loads(await honest.recv())["alive"] == "True"
