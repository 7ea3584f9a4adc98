"""Keeps the C allocator from holding on to memory that a server has freed."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8


def limit_fragmentation() -> None:
    """Have glibc give large buffers back to the system at once, and share two arenas between all threads.

    By default glibc raises the size from which on a buffer is its own mapping as soon as one is freed, and gives each
    thread an
    arena: 50 devices that upload together left 200 MB of holes. Elsewhere than on glibc nothing is done.

    What a stream uses again at once is kept, up to 16 MiB: a bound that is set ends glibc's own, and with the default
    that is left each buffer of 256 KiB would be given back and mapped anew, which doubles the CPU time of a stream.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1024 * 1024)
        mallopt(_M_TRIM_THRESHOLD, 16 * 1024 * 1024)
        mallopt(_M_ARENA_MAX, 2)


def trim() -> None:
    """Give free pages back to the system, also those between pages in use. Takes some milliseconds; only with glibc."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)
