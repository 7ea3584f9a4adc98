"""Counts of attempts by key, in memory of a fixed size that no number of keys can flush.

A count-min sketch for each slot of time: a key has one cell in each of four rows, and its count is the least of its
cells. Keys that share a cell can only raise each other's counts, so a key is never counted too low and never forgotten
early. The cells of a key depend on a secret of this process, so nobody can choose keys that share them.

Source: Cormode and Muthukrishnan, "An improved data stream summary", Journal of Algorithms 55 (2005).
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass

import numpy as np

from pygrid import codes
from pygrid.clock import Clock
from pygrid.errors import TooManyRequests

NUM_ROWS = 4
NUM_CELLS = 2**15
"""Cells in a row. With `NUM_SLOTS` this takes 6.5 MiB."""
NUM_SLOTS = 13
"""Number of slots: those of a whole window, and the present one."""


@dataclass(frozen=True, slots=True)
class Bound:
    """At most ``max_attempts`` of ``key`` in a window."""

    key: str
    max_attempts: int


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt that was counted; `AttemptSketch.forget` takes it back."""

    slot: int
    cells: tuple[np.ndarray[tuple[int], np.dtype[np.int64]], ...]


class AttemptSketch:
    """Counts attempts by key over a sliding window.

    Args:
        window_s: seconds that an attempt counts; it can count up to a twelfth longer.
    """

    def __init__(self, clock: Clock, window_s: float = 60.0) -> None:
        self._clock = clock
        self._slot_s = window_s / (NUM_SLOTS - 1)
        self._counts = np.zeros((NUM_SLOTS, NUM_ROWS, NUM_CELLS), np.uint32)
        self._slot = 0
        self._rows = np.arange(NUM_ROWS)
        self._secret = secrets.token_bytes(32)

    def record(self, *bounds: Bound) -> Attempt:
        """Count one attempt of every key.

        Raises:
            TooManyRequests: ``too_many_attempts`` with ``retry_after_s``: one of the keys has reached its bound. No key
                was counted, and the attempt must not go ahead.
        """
        self._move_on()
        cells = tuple(self._cells_of(bound.key) for bound in bounds)
        waits_s = [self._wait_s(places, bound.max_attempts) for places, bound in zip(cells, bounds, strict=True)]
        if (wait_s := max(waits_s, default=0.0)) > 0:
            raise TooManyRequests(
                f"too many attempts; try again in {wait_s:.0f} s",
                code=codes.TOO_MANY_ATTEMPTS,
                retry_after_s=round(wait_s, 3),
            )
        for places in cells:
            self._counts[self._slot % NUM_SLOTS, self._rows, places] += 1
        return Attempt(self._slot, cells)

    def forget(self, attempt: Attempt) -> None:
        """Take back an attempt that succeeded. Call it once for each attempt."""
        self._move_on()
        if self._slot - NUM_SLOTS < attempt.slot <= self._slot:
            for places in attempt.cells:
                counts = self._counts[attempt.slot % NUM_SLOTS]
                counts[self._rows, places] = np.maximum(counts[self._rows, places], 1) - 1

    def _move_on(self) -> None:
        """Empty the slots that are older than the window. If the clock is set back, counts stay for up to a window."""
        slot = int(self._clock.now().timestamp() // self._slot_s)
        for number in range(max(self._slot + 1, slot - NUM_SLOTS + 1), slot + 1):
            self._counts[number % NUM_SLOTS] = 0
        self._slot = slot

    def _wait_s(self, places: np.ndarray[tuple[int], np.dtype[np.int64]], max_attempts: int) -> float:
        """Seconds until the key of these cells has fewer attempts than ``max_attempts``; 0 if it has fewer now."""
        oldest = self._slot - NUM_SLOTS + 1
        order = (np.arange(NUM_SLOTS) + oldest) % NUM_SLOTS
        by_slot = self._counts[order[:, None], self._rows, places].astype(np.int64)  # slots x rows, oldest first
        left = by_slot.sum(axis=0)
        for step in range(NUM_SLOTS):
            if left.min() < max_attempts:
                return (
                    max(0.0, (oldest + step - 1 + NUM_SLOTS) * self._slot_s - self._clock.now().timestamp())
                    if step
                    else 0.0
                )
            left = left - by_slot[step]
        return self._slot_s * NUM_SLOTS

    def _cells_of(self, key: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        digest = hashlib.blake2b(
            key.encode("utf-8", "surrogatepass"), key=self._secret, digest_size=8 * NUM_ROWS
        ).digest()
        return (np.frombuffer(digest, np.uint64) % NUM_CELLS).astype(np.int64)
