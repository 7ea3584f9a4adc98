"""Arrays at addresses that suit vector instructions, independent of the allocator."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

ALIGNMENT = 64
"""Bytes: the size of a cache line, and of the widest vector register of current processors."""


def aligned_zeros(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """A C-contiguous array of zeros whose address is a multiple of `ALIGNMENT`."""
    wanted = np.dtype(dtype)
    num_bytes = int(np.prod(shape, dtype=np.int64)) * wanted.itemsize
    memory = np.zeros(num_bytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + num_bytes].view(wanted).reshape(shape)
