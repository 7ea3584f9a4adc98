"""Receive a report from the socket, check it and spool it if it is large, in bounded memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass

from pygrid.core.processes import HostedProcess
from pygrid.core.reports import ReportCheck, ReportContent
from pygrid.durable import Bytes
from pygrid.errors import TooSlow
from pygrid.storage.blobs.protocol import LargeReport
from pygrid.tensors.flat import Float32

SMALL_BYTES = 1024 * 1024
"""Reports up to this size stay in memory until they are folded; larger ones go through a file."""
PIECE_BYTES = 256 * 1024
"""Largest size of one of the two buffers of a large report."""
MIN_PIECE_BYTES = 32 * 1024
ALL_BUFFERS_BYTES = 16 * 1024 * 1024
"""The more large reports arrive at once, the smaller are the buffers of the next one, so that all have about this."""
GRACE_S = 30.0
MIN_BYTES_PER_S = 8 * 1024
"""A report must arrive within `GRACE_S` plus the time of the largest allowed size at this rate."""


@dataclass(frozen=True)
class Received:
    """A checked report: its bytes are in memory, or in a durable spool."""

    content: ReportContent
    data: bytes | None
    spool: LargeReport | None


class ReportBuffers:
    """The buffers of the large reports that are being received."""

    def __init__(self) -> None:
        self.num_reports = 0

    @contextlib.contextmanager
    def pair(self) -> Iterator[tuple[memoryview, memoryview]]:
        """Two buffers of one size for one report."""
        self.num_reports += 1
        size = max(MIN_PIECE_BYTES, min(PIECE_BYTES, ALL_BUFFERS_BYTES // (2 * self.num_reports)))
        try:
            yield memoryview(bytearray(size)), memoryview(bytearray(size))
        finally:
            self.num_reports -= 1


async def receive_report(
    pieces: AsyncIterator[Bytes],
    process: HostedProcess,
    centre: Float32 | None,
    make_spool: Callable[[], LargeReport],
    executor: Executor,
    buffers: ReportBuffers,
) -> Received:
    """Read and check a report, and spool it if it is large.

    Args:
        centre: the vector from which the distance is measured; None measures no distance.
        executor: runs what waits for the disk.
    Raises:
        TooSlow: the report did not arrive in time.
        PygridError: `ReportCheck` refuses the report.
        After either error, nothing of the report is kept.
    """
    check = ReportCheck(process.model, process.max_report_bytes, centre)
    limit_s = GRACE_S + process.max_report_bytes / MIN_BYTES_PER_S
    try:
        async with asyncio.timeout(limit_s):
            if process.max_report_bytes <= SMALL_BYTES:
                return await _receive_small(pieces, check)
            with buffers.pair() as pair:
                return await _receive_large(pieces, check, make_spool, executor, pair)
    except TimeoutError:
        raise TooSlow(f"the report did not arrive within {limit_s:.0f} s", limit_s=limit_s) from None


async def _receive_small(pieces: AsyncIterator[Bytes], check: ReportCheck) -> Received:
    data = b"".join([piece async for piece in pieces])
    check.add(data)
    return Received(check.finish(), data, None)


async def _receive_large(
    pieces: AsyncIterator[Bytes],
    check: ReportCheck,
    make_spool: Callable[[], LargeReport],
    executor: Executor,
    buffers: tuple[memoryview, memoryview],
) -> Received:
    """Receive into two buffers: one fills from the socket while a thread checks and writes the other."""
    loop = asyncio.get_running_loop()
    making = loop.run_in_executor(executor, make_spool)
    try:
        spool = await asyncio.shield(making)
    except asyncio.CancelledError:
        making.add_done_callback(lambda made: made.result().discard())
        raise

    def take(data: memoryview) -> None:
        check.add(data)
        spool.write(data)

    filling, resting = buffers
    size, filled = len(filling), 0
    taking: asyncio.Future[None] | None = None
    try:
        async for piece in pieces:
            rest = memoryview(piece)
            while rest:
                count = min(len(rest), size - filled)
                filling[filled : filled + count] = rest[:count]
                rest, filled = rest[count:], filled + count
                if filled == size:
                    if taking is not None:
                        await taking
                    taking = loop.run_in_executor(executor, take, filling)
                    filling, resting, filled = resting, filling, 0
        if taking is not None:
            await taking
        await loop.run_in_executor(executor, take, filling[:filled])
        content = check.finish()
        await loop.run_in_executor(executor, spool.commit)
    except BaseException:
        if taking is not None:
            taking.cancel()
        spool.discard()
        raise
    return Received(content, None, spool)
