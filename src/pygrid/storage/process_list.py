"""Hosted processes as rows of a list, each with its newest cycle: one statement for a page."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from pygrid.storage.cycles import cycles
from pygrid.storage.processes import checkpoints, processes


@dataclass(frozen=True)
class ListedProcess:
    id: int
    name: str
    version: str
    state: str
    created_at: dt.datetime
    created_by: int | None
    server_config: Mapping[str, Any]
    sequence: int
    """The number of its newest cycle."""
    num_reports: int
    totals: Mapping[str, Any] | None
    """Totals of the newest completed cycle; None: there is none."""
    num_checkpoints: int
    model_bytes: int
    owner: str = ""
    """E-mail of the model owner; empty: the caller may not see it."""


def list_curves(connection: sa.Connection, after: Mapping[int, int]) -> dict[int, list[Any]]:
    """The totals of the completed cycles after one of each process, oldest first, by process."""
    wanted = (sa.and_(cycles.c.process_id == key, cycles.c.sequence > least) for key, least in after.items())
    statement = sa.select(cycles.c.process_id, cycles.c.totals).where(sa.or_(sa.false(), *wanted))
    found: dict[int, list[Any]] = {}
    for process_id, totals in connection.execute(statement.order_by(cycles.c.sequence)):
        found.setdefault(process_id, []).append(totals or {})
    return found


def list_process_page(
    connection: sa.Connection, *, before: int | None, limit: int, state: str = "", text: str = ""
) -> list[ListedProcess]:
    """Processes with an id below ``before``, newest first.

    Args:
        state: only those in this state; empty: all.
        text: only those whose name contains it, in any case.
    """
    newest = (
        sa.select(sa.func.max(cycles.c.sequence))
        .where(cycles.c.process_id == processes.c.id)
        .correlate(processes)
        .scalar_subquery()
    )
    last = (
        sa.select(sa.func.max(checkpoints.c.number))
        .where(checkpoints.c.process_id == processes.c.id)
        .correlate(processes)
        .scalar_subquery()
    )
    previous = cycles.alias("previous")
    statement = (
        sa.select(
            processes.c.id,
            processes.c.name,
            processes.c.version,
            processes.c.state,
            processes.c.created_at,
            processes.c.created_by,
            processes.c.server_config,
            cycles.c.sequence,
            cycles.c.num_reports,
            sa.func.coalesce(cycles.c.totals, previous.c.totals, type_=sa.JSON),
            checkpoints.c.number,
            checkpoints.c.size_bytes,
        )
        .select_from(processes)
        .join(cycles, sa.and_(cycles.c.process_id == processes.c.id, cycles.c.sequence == newest))
        .join(checkpoints, sa.and_(checkpoints.c.process_id == processes.c.id, checkpoints.c.number == last))
        .outerjoin(
            previous, sa.and_(previous.c.process_id == processes.c.id, previous.c.sequence == cycles.c.sequence - 1)
        )
        .where(processes.c.state != "deleted")
        .order_by(processes.c.id.desc())
        .limit(limit)
    )
    if before is not None:
        statement = statement.where(processes.c.id < before)
    if state:
        statement = statement.where(processes.c.state == state)
    if text:
        statement = statement.where(processes.c.name.icontains(text, autoescape=True))
    return [ListedProcess(*tuple(row)) for row in connection.execute(statement)]
