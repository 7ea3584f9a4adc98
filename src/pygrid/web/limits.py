"""How often something may be tried."""

from __future__ import annotations

import datetime as dt
from collections import OrderedDict, deque
from collections.abc import Hashable

from pygrid.clock import Clock
from pygrid.errors import TooManyRequests

MAX_KEYS = 10_000


class AttemptLimit:
    """At most so many attempts in a sliding window, for each key. Kept in memory, for the keys used last (bounded).

    Args:
        max_attempts: in ``window_s`` seconds.
    """

    def __init__(self, clock: Clock, max_attempts: int, window_s: float) -> None:
        self._clock = clock
        self._max_attempts = max_attempts
        self._window = dt.timedelta(seconds=window_s)
        self._attempts: OrderedDict[Hashable, deque[dt.datetime]] = OrderedDict()

    def record(self, key: Hashable) -> None:
        """Count one attempt.

        Raises:
            TooManyRequests: with ``retry_after_s``; the attempt was not counted and must not go ahead.
        """
        now = self._clock.now()
        attempts = self._attempts.setdefault(key, deque())
        self._attempts.move_to_end(key)
        while attempts and attempts[0] <= now - self._window:
            attempts.popleft()
        if len(attempts) >= self._max_attempts:
            wait_s = (attempts[0] + self._window - now).total_seconds()
            raise TooManyRequests(
                f"too many attempts; try again in {wait_s:.0f} s", code="too_many_attempts", retry_after_s=round(wait_s, 3)
            )
        attempts.append(now)
        while len(self._attempts) > MAX_KEYS:
            self._attempts.popitem(last=False)

    def forget(self, key: Hashable) -> None:
        """Start counting anew, after a success."""
        self._attempts.pop(key, None)
