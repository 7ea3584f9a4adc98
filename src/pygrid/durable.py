"""Writes to files that survive a crash of the machine."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

Bytes = bytes | bytearray | memoryview


WRITEBACK_BYTES = 4 * 1024 * 1024
_SYNC_FILE_RANGE_WRITE = 2
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)
"""Of Linux; Python's ``os`` does not offer it."""


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: Bytes, offset: int) -> None:
    view = memoryview(data).cast("B")
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def start_writeback(descriptor: int, offset: int, length: int) -> None:
    """Have the kernel begin to write these bytes to the disk, without waiting for it; a hint, so a refusal does not
    matter.
    """
    if _sync_file_range is not None:
        _sync_file_range(descriptor, ctypes.c_int64(offset), ctypes.c_int64(length), _SYNC_FILE_RANGE_WRITE)
