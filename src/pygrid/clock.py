"""The clock, passed where time matters so that a test can hold it."""

from __future__ import annotations

import datetime as dt
import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

logger = logging.getLogger(__name__)

MAX_SLEW = 0.01
"""An app's time runs at most this much faster or slower than real time while it approaches a clock that was set."""
JUMP_S = 2.0
"""A clock that is set by more than this is logged."""


class Clock(Protocol):
    """Tells the time."""

    def now(self) -> dt.datetime:
        """The current time, aware, in UTC."""
        ...


def _elapsed_s() -> float:
    """Seconds since the machine started, its sleep included; nobody can set this clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class SystemClock:
    """The machine's clock as it was when the app started, and since then real time: it never jumps and never runs back.

    When somebody sets the machine's clock, deadlines and leases of the app keep their length: time here approaches the new
    setting by at most `MAX_SLEW` seconds a second. A restart takes over the machine's clock at once.

    Args:
        wall_s, elapsed_s: the machine's clock and its monotonic one, in seconds.
    """

    def __init__(self, wall_s: Callable[[], float] = time.time, elapsed_s: Callable[[], float] = _elapsed_s) -> None:
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
    """A clock that stands still until told; for tests."""

    def __init__(self, start: dt.datetime = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)) -> None:
        self._now = start

    def now(self) -> dt.datetime:
        return self._now

    def advance(self, seconds: float) -> None:
        """Move on by ``seconds``."""
        self._now += dt.timedelta(seconds=seconds)
