"""What one session of a browser can use of this process: event streams at once, and pages per second.

Both are counted in memory, after the session was authenticated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from pygrid import codes
from pygrid.clock import Clock
from pygrid.errors import TooManyRequests
from pygrid.rates import RateTable

MAX_STREAMS = 8
"""Open event streams of a session. A browser opens three of them, and fetches changes in its other tabs."""
MAX_APP_STREAMS = 1000
"""Open event streams of all sessions; idle ones take about 60 kB each."""
RETRY_S = 5.0
PAGES_PER_S = 20
PAGES_AT_ONCE = 100
"""Pages that a session can open at once after a pause, such as the tabs of a browser that starts again."""


class SessionLimits:
    """Counts the streams and pages of each session; the key of a session is its token."""

    def __init__(self, clock: Clock) -> None:
        self._streams: Counter[str] = Counter()
        words = (
            f"this session opens more than {PAGES_PER_S} pages a second: wait a few seconds, then load the page again"
        )
        self.pages = RateTable(clock, PAGES_PER_S, PAGES_AT_ONCE, words)

    def check_streams(self, session: str) -> None:
        """Check that the session can open one more stream, which `stream` counts.

        Raises:
            TooManyRequests: ``too_many_streams``, with ``retry_after_s``.
        """
        if self._streams[session] >= MAX_STREAMS:
            what = f"this session has {MAX_STREAMS} pages open that update themselves"
        elif self._streams.total() >= MAX_APP_STREAMS:
            what = f"{MAX_APP_STREAMS:,} pages that update themselves are open in all sessions"
        else:
            return
        raise TooManyRequests(
            f"{what}; close one of them to see changes here without a reload",
            code=codes.TOO_MANY_STREAMS,
            retry_after_s=RETRY_S,
        )

    @contextmanager
    def stream(self, session: str) -> Iterator[None]:
        """Count a stream until the block ends."""
        self._streams[session] += 1
        try:
            yield
        finally:
            self._streams[session] -= 1
            if not self._streams[session]:
                del self._streams[session]
