"""The clock, an argument of everything that needs the time, so that tests control it."""

from __future__ import annotations

import datetime as dt
import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

logger = logging.getLogger(__name__)

MAX_SLEW = 0.01
"""Largest relative difference in speed between an app's time and real time, while it approaches a changed clock."""
JUMP_S = 2.0
"""Seconds. A larger change of the machine's clock is logged."""


class Clock(Protocol):
    """A source of the current time."""

    def now(self) -> dt.datetime:
        """The current time, aware, in UTC."""
        ...


def elapsed_s() -> float:
    """Seconds since the machine started, including sleep. This clock cannot be set."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class SystemClock:
    """The machine's clock at the start of the app, plus the time elapsed since. It never jumps or runs backwards.

    When the machine's clock is set, deadlines and leases of the app keep their length: this clock approaches the new
    setting by at most `MAX_SLEW` seconds per second. After a restart, the app has the machine's clock at once.

    Args:
        wall_s: the machine's clock, in seconds.
        elapsed_s: the machine's monotonic clock, in seconds.
    """

    def __init__(self, wall_s: Callable[[], float] = time.time, elapsed_s: Callable[[], float] = elapsed_s) -> None:
        self._wall_s, self._elapsed_s = wall_s, elapsed_s
        self._lock = threading.Lock()
        self._looked_at = elapsed_s()
        self._time = wall_s()
        self._apart = 0.0

    def now(self) -> dt.datetime:
        with self._lock:
            looked_at, wall = self._elapsed_s(), self._wall_s()
            passed = max(0.0, looked_at - self._looked_at)
            self._looked_at = looked_at
            apart = wall - (self._time + passed)
            if abs(apart - self._apart) > JUMP_S:
                logger.warning("machine's clock was set", extra={"by_s": round(apart - self._apart, 3)})
            step = max(-MAX_SLEW * passed, min(MAX_SLEW * passed, apart))
            self._time += passed + step
            self._apart = apart - step
            return dt.datetime.fromtimestamp(self._time, dt.UTC)


class ManualClock:
    """A clock that only `advance` moves; for tests."""

    def __init__(self, start: dt.datetime = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)) -> None:
        self._now = start

    def now(self) -> dt.datetime:
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the clock forward by ``seconds``."""
        self._now += dt.timedelta(seconds=seconds)
