"""Settings of the C allocator, so that it returns memory that a server has freed."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8


def limit_fragmentation() -> None:
    """Make glibc return large buffers to the system at once, and share two arenas between all threads.

    By default, glibc raises its threshold for separate mappings whenever such a buffer is freed, and each thread has
    its own arena: 50 devices that uploaded together left 200 MB of holes. Without glibc this function does nothing.

    Up to 16 MiB of free memory is kept for reuse. Setting one threshold ends glibc's own adjustment of all; with the
    default trim threshold, each buffer of 256 KiB would be returned and mapped again, which doubles the CPU time of a
    stream.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1024 * 1024)
        mallopt(_M_TRIM_THRESHOLD, 16 * 1024 * 1024)
        mallopt(_M_ARENA_MAX, 2)


def trim() -> None:
    """Return free pages to the system, also those between used pages. Takes some milliseconds; only with glibc."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)
