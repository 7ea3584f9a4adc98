"""Denormal numbers as zero, for a thread.

A processor takes up to a hundred times as long for a product with a denormal number (magnitude below 1.2e-38 in
float32) as for any other. Where time must not depend on values, they are read and written as zero.

The floating-point environment of C holds the control register of the vector unit, and `fesetenv` writes it: MXCSR on
x86-64 (bits 6 and 15), FPCR on AArch64 (bit 24). Elsewhere nothing is changed, and `may_flush` is False.
"""

from __future__ import annotations

import contextlib
import ctypes
import platform
import struct
from collections.abc import Iterator

_REGISTERS = {"x86_64": (28, (1 << 15) | (1 << 6)), "aarch64": (0, 1 << 24)}
"""Machine -> the register's offset in ``fenv_t`` of the C library, and the bits to set."""
_FENV_BYTES = 64
"""At least the size of ``fenv_t``: 32 bytes on x86-64, 8 on AArch64."""

_register = _REGISTERS.get(platform.machine())
_math = ctypes.CDLL(None)
may_flush = _register is not None and hasattr(_math, "fesetenv")


@contextlib.contextmanager
def denormals_as_zero() -> Iterator[None]:
    """Have this thread read and write denormal numbers as zero within the block."""
    if not may_flush or _register is None:
        yield
        return
    before = ctypes.create_string_buffer(_FENV_BYTES)
    _math.fegetenv(before)
    offset, bits = _register
    changed = ctypes.create_string_buffer(before.raw, _FENV_BYTES)
    struct.pack_into("<I", changed, offset, struct.unpack_from("<I", before, offset)[0] | bits)
    _math.fesetenv(changed)
    try:
        yield
    finally:
        _math.fesetenv(before)
