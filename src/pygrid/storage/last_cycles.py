"""What the last completed cycle of a process lets expect of the next one."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from pygrid.core.cycles import CycleState
from pygrid.storage.cycles import cycles
from pygrid.storage.reports import reports


@dataclass(frozen=True)
class LastCycle:
    """The newest completed cycle of a process with reports."""

    radius: float | None
    """The largest distance, or norm, that counted in full; None: there was no limit."""
    largest: float
    """The largest weighted norm of a report, after clipping."""
    num_reports: int


def find_last_cycle(connection: sa.Connection, process_id: int) -> LastCycle | None:
    """The newest completed cycle of a process with reports; None: there is none."""
    newest = (
        sa.select(cycles.c.id, cycles.c.radius, cycles.c.num_reports)
        .where(
            cycles.c.process_id == process_id, cycles.c.state == CycleState.COMPLETED.value, cycles.c.num_reports > 0
        )
        .order_by(cycles.c.sequence.desc())
        .limit(1)
    )
    row = connection.execute(newest).first()
    if row is None:
        return None
    size = reports.c.norm * sa.func.coalesce(reports.c.scale, 1.0) * reports.c.weight
    largest = connection.execute(sa.select(sa.func.max(size)).where(reports.c.cycle_id == row.id)).scalar()
    return LastCycle(row.radius, float(largest or 0.0), row.num_reports)
