"""What people see of a training while it runs: clients of the open cycle, and reports of the last cycles.

Queries inside a transaction of the caller; `pygrid.storage.reports` has the tables.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import sqlalchemy as sa

from pygrid.core.cycles import AssignmentState, Cycle
from pygrid.storage.cycles import CycleTotals, clients, cycles
from pygrid.storage.reports import assignments, reports


@dataclass(frozen=True)
class Participant:
    """A client in a cycle, and its report if there is one."""

    id: int
    """Id of its assignment."""
    client: str
    """Subject of its token; empty if clients have no names."""
    state: AssignmentState
    admitted_at: dt.datetime
    has_left: bool
    num_examples: int | None
    norm: float | None
    scale: float | None
    """Less than 1 if the diff was clipped; None until the cycle is completed."""
    metrics: dict[str, float] | None
    received_at: dt.datetime | None


@dataclass(frozen=True)
class ReportNorm:
    """The L2 norm of a report's diff."""

    cycle: int
    norm: float
    is_clipped: bool


def list_participants(connection: sa.Connection, cycle_id: int, limit: int) -> list[Participant]:
    """Clients of a cycle: first those without a report, by admission; then the others, newest report first."""
    statement = (
        sa.select(
            assignments.c.id,
            sa.func.coalesce(clients.c.subject, ""),
            assignments.c.state,
            assignments.c.created_at,
            clients.c.left_at.is_not(None),
            reports.c.num_examples,
            reports.c.norm,
            reports.c.scale,
            reports.c.metrics,
            reports.c.received_at,
        )
        .select_from(assignments.join(clients).outerjoin(reports, reports.c.id == assignments.c.id))
        .where(assignments.c.cycle_id == cycle_id)
        .order_by(reports.c.id.is_not(None), reports.c.received_at.desc(), assignments.c.id)
        .limit(limit)
    )
    return [
        Participant(row[0], row[1], AssignmentState(row[2]), row[3], bool(row[4]), *row[5:])
        for row in connection.execute(statement)
    ]


def count_assignments(connection: sa.Connection, cycle_id: int) -> dict[AssignmentState, int]:
    """Number of clients of a cycle in each state. Those that have left count as expired."""
    statement = (
        sa.select(assignments.c.state, sa.func.count())
        .where(assignments.c.cycle_id == cycle_id)
        .group_by(assignments.c.state)
    )
    return {AssignmentState(state): int(count) for state, count in connection.execute(statement)}


def list_norms(connection: sa.Connection, cycle: Cycle, num_cycles: int, limit: int) -> list[ReportNorm]:
    """Norms of the newest reports of a cycle and of the ``num_cycles`` before it, oldest first."""
    statement = (
        sa.select(cycles.c.sequence, reports.c.norm, sa.func.coalesce(reports.c.scale, 1.0) < 1.0)
        .select_from(reports.join(cycles, cycles.c.id == reports.c.cycle_id))
        .where(cycles.c.process_id == cycle.process_id, cycles.c.sequence >= cycle.sequence - num_cycles)
        .order_by(cycles.c.sequence.desc(), reports.c.id.desc())
        .limit(limit)
    )
    found = [ReportNorm(sequence, norm, bool(clipped)) for sequence, norm, clipped in connection.execute(statement)]
    return found[::-1]


def list_totals(connection: sa.Connection, cycle_ids: Sequence[int]) -> dict[int, CycleTotals]:
    """Totals of those of these cycles that are completed, by id of the cycle."""
    statement = sa.select(cycles.c.id, cycles.c.totals).where(cycles.c.id.in_(cycle_ids))
    return {
        cycle_id: msgspec.convert(stored, CycleTotals) for cycle_id, stored in connection.execute(statement) if stored
    }


def list_radii(connection: sa.Connection, cycle: Cycle, num_cycles: int) -> dict[int, float]:
    """The largest norm, or distance, that counted in full, by sequence of the cycles before ``cycle``."""
    statement = sa.select(cycles.c.sequence, cycles.c.radius).where(
        cycles.c.process_id == cycle.process_id,
        cycles.c.sequence >= cycle.sequence - num_cycles,
        cycles.c.radius.is_not(None),
    )
    return {int(sequence): float(radius) for sequence, radius in connection.execute(statement)}
