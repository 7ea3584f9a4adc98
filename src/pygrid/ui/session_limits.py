"""What one session of a browser can use of this process: event streams at once, and pages per second.

Both are counted in memory. A session is counted only after it was authenticated, so a made-up cookie takes no memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from pygrid import codes
from pygrid.clock import Clock
from pygrid.errors import TooManyRequests

MAX_STREAMS = 8
"""Open event streams of a session. A browser opens three of them, and fetches changes in its other tabs."""
MAX_APP_STREAMS = 1000
"""Open event streams of all sessions; idle ones take about 60 kB each."""
RETRY_S = 5.0
PAGES_PER_S = 20.0
PAGES_AT_ONCE = 100
"""Pages that a session can open at once after a pause, such as the tabs of a browser that starts again."""
MIN_PRUNED = 1000
"""Sessions that are counted before those without pages are removed."""


class SessionLimits:
    """Counts the streams and pages of each session; the key of a session is its token."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._streams: Counter[str] = Counter()
        self._pages: dict[str, tuple[float, float]] = {}
        """Pages that count, and since when, by session."""
        self._prune_at = MIN_PRUNED

    @property
    def num_counted(self) -> int:
        """Sessions whose pages are counted in memory."""
        return len(self._pages)

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

    def take_page(self, session: str) -> None:
        """Count a page. Source: the leaky bucket as a meter, ITU-T I.371.

        Raises:
            TooManyRequests: ``too_many_requests``, with ``retry_after_s``; the page was not counted.
        """
        now = self._clock.now().timestamp()
        used, since = self._pages.get(session, (0.0, now))
        # A clock that was set back empties no bucket.
        used = max(0.0, used - max(0.0, now - since) * PAGES_PER_S)
        if used + 1 > PAGES_AT_ONCE:
            wait_s = (used + 1 - PAGES_AT_ONCE) / PAGES_PER_S
            raise TooManyRequests(
                f"this session opens more than {PAGES_PER_S:g} pages a second: wait a few seconds, then load the page "
                "again",
                retry_after_s=round(wait_s, 3),
            )
        self._pages[session] = (used + 1, now)
        if len(self._pages) > self._prune_at:
            self._pages = {
                key: (level, at) for key, (level, at) in self._pages.items() if level > (now - at) * PAGES_PER_S
            }
            self._prune_at = max(MIN_PRUNED, 2 * len(self._pages))
