"""Keeps the diffs of reports whose request key comes after their diff, in bounded memory and on a bounded disk.

Without a valid key, nobody knows whether a report may be kept at all. At most 4 reports are kept in files, each is
bounded, and each must arrive fast.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import IO, Protocol

from pygrid import codes
from pygrid.errors import PayloadTooLarge, TooSlow, Unavailable

MAX_IN_MEMORY_BYTES = 1024 * 1024
"""A longer text goes to a file."""
MAX_IN_MEMORY_PER_ADDRESS = 8 * 1024 * 1024
"""Limit for all texts of an address together, so that one address cannot take the memory of all others."""
MAX_BYTES = 256 * 1024 * 1024
"""Longest text."""
MAX_FILES = 4
MAX_FILES_PER_ADDRESS = 2
GRACE_S = 30.0
MIN_BYTES_PER_S = 32 * 1024
"""Average rate of a text in a file after `GRACE_S`."""
_PIECE_BYTES = 256 * 1024


class Memory(Protocol):
    """Counts the memory of a text."""

    def grow(self, length: int) -> None:
        """Count the text with a new length. Raises Unavailable: ``server_busy``."""
        ...


class ReportStage:
    """The files of a Domain for such diffs. They have no names, so none is left after a crash.

    Args:
        folder: where the files are.
    """

    def __init__(self, folder: Path, max_files: int = MAX_FILES) -> None:
        self._folder = folder
        self._max_files = max_files
        self.num_files = 0
        """Number of files."""
        self._open = Counter[str]()
        """The same by address."""
        self._in_memory = Counter[str]()
        """Bytes in memory by address."""

    @contextlib.contextmanager
    def text(self, address: str, held: Memory) -> Iterator[StagedText]:
        """A new text from an address; what it has is removed at the end of the block.

        Args:
            held: counts its bytes in memory.
        """
        staged = StagedText(self, address, held)
        try:
            yield staged
        finally:
            staged.close()

    def make_file(self, address: str) -> IO[bytes]:
        """Return a new file. Raises Unavailable: ``server_busy``: there are as many as there can be."""
        if self.num_files >= self._max_files or self._open[address] >= MAX_FILES_PER_ADDRESS:
            raise _busy()
        file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - `close` closes it
        self.num_files += 1
        self._open[address] += 1
        return file

    def count(self, address: str, change: int) -> None:
        """Count bytes in memory. Raises Unavailable: ``server_busy``: they are too many for an address."""
        if self._in_memory[address] + max(0, change) > MAX_IN_MEMORY_PER_ADDRESS:
            raise _busy()
        self._in_memory[address] += change
        if not self._in_memory[address]:
            del self._in_memory[address]

    def close_file(self, address: str, file: IO[bytes]) -> None:
        file.close()
        self.num_files -= 1
        self._open[address] -= 1
        if not self._open[address]:
            del self._open[address]


class StagedText:
    def __init__(self, stage: ReportStage, address: str, held: Memory) -> None:
        self._stage = stage
        self._address = address
        self._held = held
        self._memory = bytearray()
        self._file: IO[bytes] | None = None
        self._num_bytes = 0
        self._began = time.monotonic()

    async def add(self, data: bytes) -> None:
        """Append. Raises Unavailable: ``server_busy``. PayloadTooLarge. TooSlow."""
        self._num_bytes += len(data)
        if self._num_bytes <= MAX_IN_MEMORY_BYTES:
            self._held.grow(self._num_bytes)
            self._stage.count(self._address, len(data))
            self._memory += data
            return
        if self._num_bytes > MAX_BYTES:
            raise PayloadTooLarge(
                f"a report whose 'request_key' comes after its 'diff' may have at most {MAX_BYTES:,} bytes",
                max_bytes=MAX_BYTES,
            )
        if self._num_bytes < (time.monotonic() - self._began - GRACE_S) * MIN_BYTES_PER_S:
            raise TooSlow(f"the report arrived at less than {MIN_BYTES_PER_S} bytes per second", limit_s=GRACE_S)
        if self._file is None:
            self._file = self._stage.make_file(self._address)
        if self._memory:
            data = bytes(self._memory) + data
            self._clear()
        await asyncio.shield(asyncio.to_thread(self._file.write, data))

    async def read(self) -> AsyncIterator[bytes]:
        file = self._file
        if file is None:
            for start in range(0, len(self._memory), _PIECE_BYTES):
                yield bytes(self._memory[start : start + _PIECE_BYTES])
            return
        await asyncio.to_thread(file.seek, 0)
        while piece := await asyncio.to_thread(file.read, _PIECE_BYTES):
            yield piece

    def close(self) -> None:
        self._clear()
        if self._file is not None:
            self._stage.close_file(self._address, self._file)
            self._file = None

    def _clear(self) -> None:
        self._stage.count(self._address, -len(self._memory))
        self._memory = bytearray()


def _busy() -> Unavailable:
    return Unavailable(
        "other reports whose 'request_key' comes after their 'diff' are being received; send this one again later, or "
        "put 'request_key' first",
        code=codes.SERVER_BUSY,
        retry_after_s=5.0,
    )
