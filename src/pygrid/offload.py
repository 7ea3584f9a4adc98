"""Large bodies in memory without holding up everybody else: worked on in a thread, and sent slice by slice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

OFFLOAD_BYTES = 64 * 1024
"""Less is done faster here than handed to a thread."""
SLICE_BYTES = 512 * 1024
"""Of a large body, so much is handed on at once: it is copied where it goes."""


async def offload(num_bytes: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What ``work`` gives, which reads or writes about so many bytes. Raises what it raises."""
    if num_bytes <= OFFLOAD_BYTES:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)


def slices(pieces: Sequence[bytes | memoryview]) -> Iterator[memoryview]:
    """The same bytes in views of at most `SLICE_BYTES`; nothing is copied."""
    for piece in pieces:
        view = memoryview(piece)
        for begin in range(0, len(view), SLICE_BYTES):
            yield view[begin : begin + SLICE_BYTES]
