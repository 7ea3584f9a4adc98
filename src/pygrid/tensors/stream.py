"""The check of a safetensors file of float32 values while its bytes arrive, in pieces of any size; nothing is kept."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pygrid.errors import InvalidTensors, PayloadTooLarge
from pygrid.tensors.flat import VALUE_BYTES, FiniteNorm, Float32
from pygrid.tensors.safetensors import Layout, header_length, parse_header

Bytes = bytes | bytearray | memoryview


@dataclass(frozen=True)
class Checked:
    """What a whole, well-formed file is."""

    layout: Layout
    crc32: int
    """Of all its bytes."""
    norm: float
    """L2 norm of all its values."""


class StreamCheck:
    """Takes in the bytes of a file and refuses it as soon as something is wrong.

    Args:
        max_bytes: of the whole file.
        on_layout: called once with the layout, before any value is looked at; it raises to refuse, and it must refuse
            arrays that are not float32.
        on_values: called with each block of values, in the order of the file, once it is known to be finite.
    """

    def __init__(
        self,
        max_bytes: int,
        on_layout: Callable[[Layout], None],
        on_values: Callable[[Float32], None] | None = None,
    ) -> None:
        self._max_bytes = max_bytes
        self._on_values = on_values
        self._on_layout = on_layout
        self._crc32 = 0
        self._pending = bytearray()
        self._layout: Layout | None = None
        self._norm: FiniteNorm | None = None
        self._length = 0

    def add(self, data: Bytes) -> None:
        """Take in the next bytes.

        Raises:
            PayloadTooLarge, InvalidTensors, NonFinite: the file cannot be accepted. And whatever ``on_layout`` raises.
        """
        self._length += len(data)
        if self._length > self._max_bytes:
            raise PayloadTooLarge(f"at most {self._max_bytes} bytes are accepted here", max_bytes=self._max_bytes)
        self._crc32 = zlib.crc32(data, self._crc32)
        view = memoryview(data)
        if self._pending:
            self._pending += view
            view, self._pending = memoryview(self._pending), bytearray()
        if self._layout is None:
            header_bytes = self._read_header(view)
            if header_bytes is None:
                self._pending += view
                return
            view = view[header_bytes:]
        usable = len(view) - len(view) % VALUE_BYTES
        self._add_values(view[:usable])
        self._pending += view[usable:]

    def finish(self) -> Checked:
        """What the file is, once all of it was added.

        Raises:
            InvalidTensors: it ends early.
        """
        layout, norm = self._layout, self._norm
        if layout is None or norm is None or self._length != layout.total_bytes:
            described = "its header" if layout is None else f"the {layout.total_bytes} bytes that its header describes"
            raise InvalidTensors(f"the data ends after {self._length} bytes, before the end of {described}")
        return Checked(layout, self._crc32, norm.norm)

    def _read_header(self, view: memoryview) -> int | None:
        """Length of the header, once all of it is there; else None."""
        if len(view) < 8:
            return None
        length = header_length(view[:8])
        if length > self._max_bytes:
            raise InvalidTensors(f"the header claims {length} bytes, more than the whole may have")
        if len(view) < length:
            return None
        layout = parse_header(view[:length])
        self._on_layout(layout)
        self._layout, self._norm = layout, FiniteNorm(layout)
        return length

    def _add_values(self, data: Bytes) -> None:
        layout, norm = self._layout, self._norm
        assert layout is not None
        assert norm is not None
        if self._length > layout.total_bytes:
            raise InvalidTensors(f"the data goes on after the {layout.total_bytes} bytes that its header describes")
        if data:
            values = np.frombuffer(data, dtype="<f4")
            norm.add(values)
            if self._on_values is not None:
                self._on_values(values)
