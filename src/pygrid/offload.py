"""Large bodies in memory, which must not block the event loop: they are handled in a thread and sent in slices."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

OFFLOAD_BYTES = 64 * 1024
"""Up to this size, handing work to a thread takes longer than the work."""
SLICE_BYTES = 512 * 1024
"""Largest part of a body that is passed on at once, because the receiver copies it."""


async def offload(num_bytes: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The result of ``work``, which reads or writes about ``num_bytes``. Raises what it raises."""
    if num_bytes <= OFFLOAD_BYTES:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)


def slices(pieces: Sequence[bytes | memoryview]) -> Iterator[memoryview]:
    """The same bytes in views of at most `SLICE_BYTES`; nothing is copied."""
    for piece in pieces:
        view = memoryview(piece)
        for begin in range(0, len(view), SLICE_BYTES):
            yield view[begin : begin + SLICE_BYTES]
