"""Arrays at addresses that suit vector instructions, independent of the allocator; and the allocator of C."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

ALIGNMENT = 64
"""Bytes: the size of a cache line, and of the widest vector register of current processors."""


_MAP_THRESHOLD = -3
"""``M_MMAP_THRESHOLD`` of mallopt(3)."""
_LARGE_BYTES = 256 * 1024


def unmap_freed_blocks() -> None:
    """Have the C library return every freed block of 256 KiB or more to the system at once.

    Otherwise it keeps them in pieces, so that the sizes of earlier blocks decide whether it finds memory for a later
    one. Does nothing where the C library has no such option.
    """
    if (option := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        option(_MAP_THRESHOLD, _LARGE_BYTES)


def aligned_zeros(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """A C-contiguous array of zeros whose address is a multiple of `ALIGNMENT`."""
    wanted = np.dtype(dtype)
    num_bytes = int(np.prod(shape, dtype=np.int64)) * wanted.itemsize
    memory = np.zeros(num_bytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + num_bytes].view(wanted).reshape(shape)
