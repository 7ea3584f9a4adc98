"""Queries on the clients of a process, inside a transaction of the caller."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import sqlalchemy as sa

from pygrid.core.cycles import AssignmentState, CycleState
from pygrid.storage.cycles import clients, cycles
from pygrid.storage.reports import assignments

_used_at = sa.func.coalesce(clients.c.used_at, clients.c.created_at)


def count_of_address(
    connection: sa.Connection, process_id: int, address_mark: str, used_since: dt.datetime | None
) -> int:
    """Number of an address's clients of a process.

    A client that has left counts too, because it may have had a place in a cycle.
    """
    where = [clients.c.process_id == process_id, clients.c.address_mark == address_mark]
    if used_since is not None:
        where.append(_used_at >= used_since)
    return int(connection.execute(sa.select(sa.func.count()).where(*where)).scalar_one())


def list_of_subject(connection: sa.Connection, process_id: int, subject_mark: str) -> list[str]:
    """Ids of the clients of a subject without a name, least recently used first.

    Clients that have left are included, because they never return.
    """
    where = (clients.c.process_id == process_id, clients.c.subject_mark == subject_mark)
    return list(connection.execute(sa.select(clients.c.id).where(*where).order_by(_used_at, clients.c.id)).scalars())


def touch_client(connection: sa.Connection, client_id: str, now: dt.datetime) -> None:
    """Store the time of a client's last use."""
    connection.execute(clients.update().where(clients.c.id == client_id).values(used_at=now))


def list_old_assignments(connection: sa.Connection, before: dt.datetime, limit: int) -> list[int]:
    """Ids of assignments older than ``before`` that did not report to a completed cycle."""
    statement = (
        sa.select(assignments.c.id)
        .join(cycles, cycles.c.id == assignments.c.cycle_id)
        .where(
            assignments.c.state == AssignmentState.EXPIRED.value,
            assignments.c.created_at < before,
            cycles.c.state == CycleState.COMPLETED.value,
        )
        .limit(limit)
    )
    return list(connection.execute(statement).scalars())


def delete_assignments(connection: sa.Connection, ids: Sequence[int]) -> None:
    """Delete assignments that did not report."""
    expired = assignments.c.state == AssignmentState.EXPIRED.value
    connection.execute(assignments.delete().where(assignments.c.id.in_(ids), expired))


def list_unused_clients(
    connection: sa.Connection, before: dt.datetime, left_before: dt.datetime, limit: int
) -> list[str]:
    """Ids of clients without names and assignments, last used before ``before`` or left before ``left_before``."""
    has_assignment = sa.exists().where(assignments.c.client_id == clients.c.id)
    statement = (
        sa.select(clients.c.id)
        .where(clients.c.subject.is_(None), (_used_at < before) | (clients.c.left_at < left_before), ~has_assignment)
        .limit(limit)
    )
    return list(connection.execute(statement).scalars())


def delete_clients(
    connection: sa.Connection, ids: Sequence[str], before: dt.datetime, left_before: dt.datetime
) -> None:
    """Delete clients that `list_unused_clients` found; a client that was used since stays."""
    has_assignment = sa.exists().where(assignments.c.client_id == clients.c.id)
    old = (_used_at < before) | (clients.c.left_at < left_before)
    connection.execute(clients.delete().where(clients.c.id.in_(ids), old, ~has_assignment))
