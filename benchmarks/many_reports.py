"""Sends the large reports of many clients of 2020 at once, without holding them in memory."""

from __future__ import annotations

import asyncio
import base64
import json

import numpy as np

from loadgen import Address, Connection, Process, host
from pygrid.plans.gate import check
from pygrid.plans.variants import Variant, VariantPlan
from pygrid.syft import PlanMessage, write_plan, write_state
from vector_model import model_bytes, plan_bytes

PIECE = 256 * 1024
ROUTE = "model-centric/report"


async def host_large(address: Address, token: str, name: str, size: int) -> Process:
    """Host a vector with a plan of this day, and an opaque variant of it for clients of 2020."""
    plan = plan_bytes(size, has_labels=True)
    opaque = write_plan(PlanMessage("training_plan", torchscript=b"opaque"))
    variant = Variant(1, check(plan).plan_id, "torchscript", (VariantPlan(8, opaque),)).to_bytes()
    config = {"cycle_length": 36_000, "num_cycles": 1, "max_diffs": 100_000}
    parts = {"plan:training_plan:torchscript": variant}
    return await host(address, token, name, model_bytes(size), plan, config, parts)


class Reports:
    """Reports that differ in their id and key only, so all of them share one text."""

    def __init__(self, size: int, value: float = 1e-3) -> None:
        self._diff = base64.b64encode(write_state([np.full(size, value, np.float32)]))

    @property
    def num_bytes(self) -> int:
        """Length of one report, without its head."""
        return len(self._diff)

    async def send(self, address: Address, worker_id: str, key: str, over: str) -> None:
        """Send a report over a connection of its own. Raises RuntimeError: it was refused."""
        own = {"worker_id": worker_id, "request_key": key, "diff": ""}
        message = own if over == "http" else {"type": ROUTE, "data": own}
        start, end = json.dumps(message).encode().split(b'""')
        parts = [start + b'"', self._diff, b'"' + end]
        reader, writer = await asyncio.open_connection(*address, limit=PIECE)
        try:
            await self._send_head(reader, writer, sum(map(len, parts)), over)
            for part in parts:
                for at in range(0, len(part), PIECE):
                    writer.write(part[at : at + PIECE])
                    await writer.drain()
            answer = await reader.readuntil(b'"}')
            if b'"success"' not in answer:
                raise RuntimeError(f"a report was refused: {answer[-300:]!r}")
        finally:
            writer.close()

    @staticmethod
    async def _send_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, num_bytes: int, over: str) -> None:
        if over == "http":
            head = f"POST /{ROUTE} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {num_bytes}\r\n\r\n"
            writer.write(head.encode())
            return
        writer.write(
            b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        await reader.readuntil(b"\r\n\r\n")
        # One text frame; a mask of zeros leaves the content as it is.
        writer.write(b"\x81\xff" + num_bytes.to_bytes(8, "big") + bytes(4))


async def admit(address: Address, process: Process, num_devices: int) -> list[tuple[str, str]]:
    """Ids and keys of new clients of 2020 in the open cycle."""
    connection = await Connection.open(address)
    found = []
    for _ in range(num_devices):
        named = {"model_name": process.name, "model_version": process.version}
        worker_id = (await connection.post_json("/model-centric/authenticate", named)).json()["worker_id"]
        asked = {"worker_id": worker_id, "model": process.name, "version": process.version}
        accepted = (await connection.post_json("/model-centric/cycle-request", asked)).json()
        found.append((worker_id, accepted["request_key"]))
    connection.close()
    return found
