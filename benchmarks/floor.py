"""The floor that the Domain is measured against: a bare server that adds up what it receives, and does nothing else.

It speaks just enough HTTP/1.1 for the load generator: any request with a body is a safetensors file of float32 values,
which are added to one float64 sum. No routing, no checks, no keys, nothing durable: less work than this can't receive a
report.

    python benchmarks/floor.py --port-file FILE
"""

from __future__ import annotations

import argparse
import asyncio
import re
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import uvloop

ANSWER = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 20\r\n\r\n{"status":"success"}'
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_HEAD_BYTES = 64 * 1024


class Sum:
    """The running sum of all bodies of one length; float64, one entry per float32 value."""

    def __init__(self) -> None:
        self.values: npt.NDArray[np.float64] | None = None

    def add(self, body: memoryview) -> None:
        """Add the arrays of a safetensors file, taken as one flat float32 array."""
        header_bytes = 8 + int.from_bytes(body[:8], "little")
        diff = np.frombuffer(body, dtype="<f4", offset=header_bytes)
        if self.values is None or self.values.size != diff.size:
            self.values = np.zeros(diff.size)
        self.values += diff


class FloorProtocol(asyncio.BufferedProtocol):
    """One connection: read a head, read its body straight into place, add, answer, again."""

    def __init__(self, total: Sum) -> None:
        self._total = total
        self._head = bytearray(_HEAD_BYTES)
        self._filled = 0
        self._body = bytearray()
        self._missing = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's do not inherit from it

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._missing:
            return memoryview(self._body)[len(self._body) - self._missing :]
        return memoryview(self._head)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._missing:
            self._missing -= nbytes
        else:
            self._filled += nbytes
            if not self._read_head():
                return
        if not self._missing:
            if self._body:
                self._total.add(memoryview(self._body))
            self._transport.write(ANSWER)

    def _read_head(self) -> bool:
        """Whether the head is complete; then ``_body`` holds what came of the body and ``_missing`` counts the rest."""
        end = self._head.find(b"\r\n\r\n", 0, self._filled)
        if end < 0:
            if self._filled == _HEAD_BYTES:
                self._transport.close()
            return False
        match = _CONTENT_LENGTH.search(self._head, 0, end + 2)
        length = int(match.group(1)) if match else 0
        first = self._head[end + 4 : self._filled]
        if len(self._body) != length:
            self._body = bytearray(length)
        self._body[: len(first)] = first
        self._missing = length - len(first)
        self._filled = 0
        return True


async def serve(port_file: Path) -> None:
    """Serve on a free port of the loopback interface, told in ``port_file``, until cancelled."""
    total = Sum()
    server = await asyncio.get_running_loop().create_server(lambda: FloorProtocol(total), "127.0.0.1", 0)
    port_file.write_text(str(server.sockets[0].getsockname()[1]))  # noqa: ASYNC240  nothing else runs yet
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description="The bare server that a Domain is measured against.")
    parser.add_argument("--port-file", type=Path, required=True, help="where the chosen port is written")
    uvloop.run(serve(parser.parse_args().port_file))


if __name__ == "__main__":
    main()
