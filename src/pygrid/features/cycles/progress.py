"""How far the newest cycle of a process is, for people who watch it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field

import sqlalchemy as sa

from pygrid.clock import Clock
from pygrid.core.access import Principal, require
from pygrid.core.cycles import AssignmentState, Cycle
from pygrid.core.processes import can_manage
from pygrid.features.cycles.cycle_metrics import CycleCounts
from pygrid.storage import cycles as rows
from pygrid.storage import processes, progress, reports
from pygrid.storage.cycles import CycleTotals
from pygrid.storage.progress import Participant, ReportNorm
from pygrid.storage.store import Store

MAX_PARTICIPANTS = 200
MAX_NORMS = 500
NUM_CYCLES = 50
"""Cycles before the newest one whose norms are returned."""


@dataclass(frozen=True)
class CycleProgress:
    """The newest cycle of a process. Values of single devices are empty unless the caller manages the process."""

    at: dt.datetime
    cycle: Cycle
    num_training: int
    """Clients that were admitted, have not reported and have not left."""
    num_expired: int
    """Clients whose admission ended without a report."""
    totals: CycleTotals
    refusals: Mapping[str, int]
    """Refused requests and reports of this process by reason, since the Domain was started."""
    is_managed: bool
    participants: list[Participant] = field(default_factory=list)
    norms: list[ReportNorm] = field(default_factory=list)
    radii: dict[int, float] = field(default_factory=dict)
    """The bound of norms, or of distances, by sequence of completed cycles."""

    @property
    def num_late(self) -> int:
        """Clients that still train although the cycle has reached its end: it is in its grace period."""
        return self.num_training if self.cycle.grace_until is not None else 0


class ProgressService:
    """Reads the progress of cycles from the store; only refusals are counted in memory."""

    def __init__(self, store: Store, counts: CycleCounts, clock: Clock) -> None:
        self._store = store
        self._counts = counts
        self._clock = clock

    async def get(self, principal: Principal, process_id: int) -> CycleProgress:
        """Return the progress of the newest cycle. Raises NotFound: ``process_not_found``."""
        require(principal)

        def load(connection: sa.Connection) -> CycleProgress:
            process = processes.get_process(connection, process_id)
            is_managed = can_manage(principal, process.created_by)
            cycle = rows.get_newest_cycle(connection, process_id)
            counted = progress.count_assignments(connection, cycle.id)
            found = CycleProgress(
                at=self._clock.now(),
                cycle=cycle,
                num_training=counted.get(AssignmentState.ASSIGNED, 0),
                num_expired=counted.get(AssignmentState.EXPIRED, 0),
                totals=reports.get_totals(connection, cycle.id),
                refusals=dict(self._counts.refusals.get(process_id, {})),
                is_managed=is_managed,
            )
            if not is_managed:
                return found
            found.participants.extend(progress.list_participants(connection, cycle.id, MAX_PARTICIPANTS))
            found.norms.extend(progress.list_norms(connection, cycle, NUM_CYCLES, MAX_NORMS))
            found.radii.update(progress.list_radii(connection, cycle, NUM_CYCLES))
            return found

        return await self._store.database.read(load)
