"""Checks a safetensors file of float32 values while its bytes arrive in pieces of any size. Stores no values."""

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
    """The properties of a complete, well-formed file."""

    layout: Layout
    crc32: int
    """CRC-32 of all bytes of the file."""
    norm: float
    """L2 norm of all values."""


class StreamCheck:
    """Reads the bytes of a file, and rejects the file at the first fault.

    Args:
        max_bytes: largest size of the complete file.
        on_layout: called once with the layout, before any value is read. It raises an error to reject the file, and
            must reject arrays that are not float32.
        on_values: called with each block of values, in the order of the file, after the check that all are finite.
    """

    def __init__(
        self, max_bytes: int, on_layout: Callable[[Layout], None], on_values: Callable[[Float32], None] | None = None
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
        """Read the next bytes. Also raises what ``on_layout`` raises.

        Raises:
            PayloadTooLarge: the file is larger than ``max_bytes``.
            InvalidTensors: the bytes are not in the format.
            NonFinite: a value is NaN or infinite.
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
        """The properties of the file, after all its bytes were added. Raises InvalidTensors: the file ends early."""
        layout, norm = self._layout, self._norm
        if layout is None or norm is None or self._length != layout.total_bytes:
            described = "its header" if layout is None else f"the {layout.total_bytes} bytes that its header describes"
            raise InvalidTensors(f"the data ends after {self._length} bytes, before the end of {described}")
        return Checked(layout, self._crc32, norm.norm)

    def _read_header(self, view: memoryview) -> int | None:
        """Length of the header, or None until all of it has arrived."""
        if len(view) < 8:
            return None
        length = header_length(view[:8])
        if length > self._max_bytes:
            raise InvalidTensors(f"the header claims {length} bytes; the complete file may have {self._max_bytes}")
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
            raise InvalidTensors(f"the data continues after the {layout.total_bytes} bytes that its header describes")
        if data:
            values = np.frombuffer(data, dtype="<f4")
            norm.add(values)
            if self._on_values is not None:
                self._on_values(values)
