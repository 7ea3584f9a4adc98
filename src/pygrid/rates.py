"""Limits on the rate of uses per address or session, in memory of a fixed size that no number of them can flush.

Each key has a token bucket in each of `ROWS` rows of a table, at a place that a secret hash selects. A key is refused
only if all its buckets are full. So other keys can cause a refusal only if they share its bucket in every row. No entry
is removed to make room: a bucket empties with time only.

Source: Cormode and Muthukrishnan, "An improved data stream summary: the count-min sketch", J. Algorithms 2005, with
conservative update (Estan and Varghese, SIGCOMM 2002), over leaky buckets in place of counters.
"""

from __future__ import annotations

import secrets
from array import array
from hashlib import blake2b

from pygrid import codes
from pygrid.clock import Clock
from pygrid.errors import TooManyRequests

ROWS = 4
CELLS = 8192
"""Buckets of a row: the table takes 512 KiB."""
_PLACE_BYTES = 4


class RateTable:
    """Limits the uses of each key.

    Args:
        per_s: uses per second; 0 switches the limit off.
        at_once: uses after a pause.
        refusal: text of the refusal; ``{wait_s}`` in it becomes the seconds until the next use.
    """

    def __init__(self, clock: Clock, per_s: float, at_once: int, refusal: str) -> None:
        self._clock = clock
        self._per_s = per_s
        self._at_once = at_once
        self._refusal = refusal
        self._secret = secrets.token_bytes(32)
        size = ROWS * CELLS if per_s else 0
        self._used = array("d", bytes(8 * size))
        self._at = array("d", bytes(8 * size))

    def take(self, key: str | None) -> None:
        """Count one use; ``key`` is None for an address without limits.

        Raises:
            TooManyRequests: ``rate_limited``, with ``retry_after_s``; the use was not counted and must not go ahead.
        """
        if not self._per_s or key is None:
            return
        now, per_s = self._clock.now().timestamp(), self._per_s
        places = self._places(key)
        for place in places:
            # A clock that was set back empties no bucket.
            self._used[place] = max(0.0, self._used[place] - max(0.0, now - self._at[place]) * per_s)
            self._at[place] = now
        least = min(self._used[place] for place in places)
        if least + 1 > self._at_once:
            wait_s = (least + 1 - self._at_once) / per_s
            text = self._refusal.format(wait_s=f"{wait_s:.1f}")
            raise TooManyRequests(text, code=codes.RATE_LIMITED, retry_after_s=round(wait_s, 3))
        for place in places:
            self._used[place] = max(self._used[place], least + 1)

    def _places(self, key: str) -> list[int]:
        digest = blake2b(key.encode(errors="surrogatepass"), key=self._secret, digest_size=ROWS * _PLACE_BYTES).digest()
        return [
            row * CELLS + int.from_bytes(digest[row * _PLACE_BYTES : (row + 1) * _PLACE_BYTES], "little") % CELLS
            for row in range(ROWS)
        ]
