"""Limits the rate of one transfer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

MIN_PAUSE_S = 0.005
"""Shorter pauses are added up, so that a fast transfer costs few timers."""


class Pacer:
    """Keeps one transfer below a rate.

    Args:
        bytes_per_s: highest average rate since the first byte.
        clock: monotonic seconds.
    """

    def __init__(self, bytes_per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._bytes_per_s = bytes_per_s
        self._clock = clock
        self._began = clock()
        self._num_bytes = 0

    async def take(self, num_bytes: int) -> None:
        """Count transferred bytes, and return when the next ones may follow."""
        self._num_bytes += num_bytes
        early_s = self._began + self._num_bytes / self._bytes_per_s - self._clock()
        if early_s >= MIN_PAUSE_S:
            await asyncio.sleep(early_s)
