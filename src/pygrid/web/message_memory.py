"""Bounds the memory of large JSON texts that are decoded and answered at the same time, of all clients together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pygrid import codes
from pygrid.errors import Unavailable

MAX_BYTES = 64 * 1024 * 1024
MIN_BYTES = 64 * 1024
"""Shorter texts are not counted."""
COPIES = 3
"""Memory of a text while it is handled, as a multiple of its length: the text, its decoded parts, their arrays."""


class MessageMemory:
    """The memory of an app for JSON bodies and WebSocket messages; the server bounds that of unfinished messages."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0

    @contextlib.contextmanager
    def hold(self, length: int = 0) -> Iterator[HeldText]:
        """Count a text of ``length`` bytes for the length of the block. One text is always accepted.

        Yields:
            The text, which can grow while it arrives.
        Raises:
            Unavailable: ``server_busy``: other texts fill the memory; nothing was read.
        """
        held = HeldText(self)
        try:
            held.grow(length)
            yield held
        finally:
            self.num_bytes -= held.num_bytes


class HeldText:
    """A text that `MessageMemory` counts. Attributes: ``num_bytes``: the memory that is counted for it."""

    def __init__(self, memory: MessageMemory) -> None:
        self._memory = memory
        self.num_bytes = 0

    def grow(self, length: int) -> None:
        """Count the text with a new length. Raises Unavailable: ``server_busy``: other texts fill the memory."""
        memory = self._memory
        num_bytes = max(self.num_bytes, COPIES * length if length > MIN_BYTES else 0)
        others = memory.num_bytes - self.num_bytes
        if num_bytes and others and others + num_bytes > memory.max_bytes:
            raise Unavailable(
                f"{others:,} bytes of other messages are being handled, of at most {memory.max_bytes:,}; send this one "
                "again later",
                code=codes.SERVER_BUSY,
                retry_after_s=1.0,
            )
        memory.num_bytes = others + num_bytes
        self.num_bytes = num_bytes
