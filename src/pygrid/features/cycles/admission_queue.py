"""Clients that a change of a cycle has woken: as many try at once as there are places, and a quarter more.

With 10,000 clients that wait for 100 places, 125 try. The first one that finds the cycle full ends the attempts of all.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

from pygrid.configuration import ServerConfig
from pygrid.core.cycles import AdmissionRefusal, Cycle, CycleState

T = TypeVar("T")

ATTEMPTS_PER_PLACE = 1.25
"""More than one, because some clients rest, are too slow or have gone."""
_FULL = frozenset({"cycle_full", "not_drawn", "between_cycles"})
"""Reasons that hold for every client of the process."""


class AdmissionQueue:
    """The clients of one process that one signal has woken.

    Args:
        num_at_once: largest number of attempts at the same time.
    """

    def __init__(self, signal: asyncio.Future[None], num_at_once: int) -> None:
        self.signal = signal
        self._turns = asyncio.Semaphore(num_at_once)
        self._refusal: AdmissionRefusal | None = None

    async def try_in_turn(self, attempt: Callable[[], Awaitable[T | AdmissionRefusal]]) -> T | AdmissionRefusal:
        """Return the outcome of an attempt, or the refusal of an earlier client that found the cycle full.

        Clients try in the order in which they call this.
        """
        async with self._turns:
            if self._refusal is not None:
                return self._refusal
            outcome = await attempt()
            if isinstance(outcome, AdmissionRefusal) and outcome.reason in _FULL:
                self._refusal = outcome
            return outcome


class AdmissionQueues:
    """The newest queue of each process."""

    def __init__(self) -> None:
        self._queues: dict[int, AdmissionQueue] = {}

    def enter(self, cycle: Cycle | None, config: ServerConfig, signal: asyncio.Future[None]) -> AdmissionQueue | None:
        """Return the queue of a signal; None: each client that it woke can try.

        Args:
            cycle: the newest cycle of the process; its counts can be stale.
        """
        if cycle is None or config.max_workers is None or cycle.state not in (CycleState.HOSTED, CycleState.OPEN):
            return None
        queue = self._queues.get(cycle.process_id)
        if queue is None or queue.signal is not signal:
            num_places = max(1, config.max_workers - cycle.num_assigned)
            queue = self._queues[cycle.process_id] = AdmissionQueue(signal, math.ceil(ATTEMPTS_PER_PLACE * num_places))
        return queue
