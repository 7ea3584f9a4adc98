"""Which clients are present for a cycle that opens when enough of them are.

A client is present while it waits, and for some time after it was told to come back. With several replicas, each one
stores the clients that are present there, and counts those of all.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from dataclasses import dataclass, field

from pygrid.clock import Clock
from pygrid.core.cycles import Cycle, CycleState
from pygrid.features.cycles.scheduler import CycleScheduler
from pygrid.storage.presence import exchange, mark_of
from pygrid.storage.signals import cycle_topic
from pygrid.storage.store import Store

EXCHANGE_S = 0.2
"""Shortest pause between two exchanges of a cycle."""
STORED = dt.timedelta(seconds=12)
"""For which other replicas count what this one has stored."""
REFRESH_S = 4.0
"""Pause between two exchanges of a cycle whose clients only wait."""


@dataclass
class _Present:
    """The clients that are present here, of an attempt of a cycle."""

    cycle: Cycle
    until: dict[str, dt.datetime] = field(default_factory=dict)
    has_quorum: bool = False
    next_exchange: asyncio.Task[int | None] | None = None
    exchanged_s: float = -EXCHANGE_S
    """When the last exchange began, by the clock of the event loop."""


class Presence:
    """Counts the clients that are present for the newest cycle of each process."""

    def __init__(self, store: Store, scheduler: CycleScheduler, clock: Clock) -> None:
        self._store, self._scheduler, self._clock = store, scheduler, clock
        self._present: dict[int, _Present] = {}

    async def is_quorum(self, cycle: Cycle, client_id: str, stay_s: float, needed: int) -> bool:
        """Count a client as present for ``stay_s`` and return whether enough clients are present, or the cycle is open.

        The client that completes the quorum wakes all others that wait. Each of them tries again, and the first
        transaction opens the cycle. The writer puts these transactions into one commit.

        Raises:
            Unavailable: the database does not answer.
        """
        present = self._of(cycle)
        present.until[client_id] = self._clock.now() + dt.timedelta(seconds=stay_s)
        here = self._count(present)
        num = here if here >= needed or not self._store.is_shared else await self._exchange_soon(present)
        if num is None:
            return True
        was_quorum, present.has_quorum = present.has_quorum, num >= needed
        if present.has_quorum and not was_quorum:
            self._store.signals.notify(cycle_topic(cycle.process_id))
        return present.has_quorum

    def remove(self, process_id: int, client_id: str) -> None:
        """Stop counting a client, which has gone."""
        if process_id in self._present:
            self._present[process_id].until.pop(client_id, None)

    def clear(self, process_id: int) -> None:
        """Stop counting all clients: the cycle has opened."""
        self._present.pop(process_id, None)

    async def refresh(self) -> None:
        """Store what has changed while nobody came. Raises Unavailable: the database does not answer."""
        for process_id, present in list(self._present.items()):
            current = self._scheduler.current.get(process_id)
            waits = current is not None and current.state is CycleState.HOSTED
            if current is None or not waits or _attempt(current) != _attempt(present.cycle):
                self.clear(process_id)
            elif present.until:
                self._count(present)
                await self._exchange_soon(present)

    def _of(self, cycle: Cycle) -> _Present:
        present = self._present.get(cycle.process_id)
        if present is None or _attempt(present.cycle) < _attempt(cycle):
            present = self._present[cycle.process_id] = _Present(cycle)
        return present

    def _count(self, present: _Present) -> int:
        now = self._clock.now()
        for gone in [client_id for client_id, until in present.until.items() if until <= now]:
            del present.until[gone]
        return len(present.until)

    async def _exchange_soon(self, present: _Present) -> int | None:
        """Return the number of clients at all replicas, from an exchange that begins after this call.

        None: another replica has opened the cycle.
        """
        if present.next_exchange is None:
            present.next_exchange = asyncio.create_task(self._exchange(present))
        return await asyncio.shield(present.next_exchange)

    async def _exchange(self, present: _Present) -> int | None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(present.exchanged_s + EXCHANGE_S - loop.time())
        present.exchanged_s, present.next_exchange = loop.time(), None
        marks, now = {mark_of(client_id) for client_id in present.until}, self._clock.now()
        found = await self._store.database.write(
            lambda connection: exchange(connection, present.cycle.id, marks, now, now + STORED)
        )
        return None if found is None else len(found)


def _attempt(cycle: Cycle) -> tuple[int, int]:
    return cycle.id, cycle.attempt
