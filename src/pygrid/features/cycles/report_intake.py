"""Receive a report from the socket, check it and spool it if it is large, in bounded memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from dataclasses import dataclass

from pygrid.core.processes import HostedProcess
from pygrid.core.reports import ReportCheck, ReportContent
from pygrid.errors import TooSlow
from pygrid.storage.blobs.protocol import LargeReport
from pygrid.tensors.flat import Float32

SMALL_BYTES = 1024 * 1024
"""Reports up to this size stay in memory until they are folded; larger ones go through a file."""
PIECE_BYTES = 256 * 1024
"""Size of one of the two buffers of a large report."""
GRACE_S = 30.0
MIN_BYTES_PER_S = 8 * 1024
"""A report must arrive within `GRACE_S` plus the time of the largest allowed size at this rate."""


@dataclass(frozen=True)
class Received:
    """A checked report: its bytes are in memory, or in a durable spool."""

    content: ReportContent
    data: bytes | None
    spool: LargeReport | None


async def receive_report(
    pieces: AsyncIterator[bytes],
    process: HostedProcess,
    centre: Float32 | None,
    make_spool: Callable[[], LargeReport],
    executor: Executor,
) -> Received:
    """Read and check a report, and spool it if it is large.

    Args:
        centre: the vector from which the distance is measured; None measures no distance.
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
            return await _receive_large(pieces, check, make_spool, executor)
    except TimeoutError:
        raise TooSlow(f"the report did not arrive within {limit_s:.0f} s", limit_s=limit_s) from None


async def _receive_small(pieces: AsyncIterator[bytes], check: ReportCheck) -> Received:
    data = b"".join([piece async for piece in pieces])
    check.add(data)
    return Received(check.finish(), data, None)


async def _receive_large(
    pieces: AsyncIterator[bytes], check: ReportCheck, make_spool: Callable[[], LargeReport], executor: Executor
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

    filling, resting = memoryview(bytearray(PIECE_BYTES)), memoryview(bytearray(PIECE_BYTES))
    filled = 0
    taking: asyncio.Future[None] | None = None
    try:
        async for piece in pieces:
            rest = memoryview(piece)
            while rest:
                count = min(len(rest), PIECE_BYTES - filled)
                filling[filled : filled + count] = rest[:count]
                rest, filled = rest[count:], filled + count
                if filled == PIECE_BYTES:
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
