"""Cycles, clients and events: their tables, and queries inside a transaction of the caller.

    processes 1--n cycles 1--n assignments n--1 clients
    processes 1--n events

Assignments and reports are in `pygrid.storage.reports`. Statements of the path of a report are `Prepared`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from pygrid.core.cycles import Cycle, CycleState
from pygrid.storage.processes import processes
from pygrid.storage.sql.metadata import UtcDateTime, metadata

cycles = sa.Table(
    "cycles",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("process_id", sa.ForeignKey("processes.id"), nullable=False),
    sa.Column("sequence", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("checkpoint", sa.Integer, nullable=False),
    sa.Column("num_assigned", sa.Integer, nullable=False),
    sa.Column("num_reports", sa.Integer, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("opened_at", UtcDateTime, nullable=True),
    sa.Column("deadline_at", UtcDateTime, nullable=True),
    sa.Column("completed_at", UtcDateTime, nullable=True),
    sa.Column("lease_until", UtcDateTime, nullable=True),
    sa.Column("totals", sa.JSON, nullable=True),
    # Number of named clients that have left the process: the cycle does not wait for them.
    sa.Column("num_left", sa.Integer, nullable=False, server_default=sa.text("0")),
    # The largest distance, or norm, of a diff that counted in full; NULL without a limit.
    sa.Column("radius", sa.Double, nullable=True),
    sa.UniqueConstraint("process_id", "sequence"),
)


clients = sa.Table(
    "clients",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("process_id", sa.ForeignKey("processes.id"), nullable=False, index=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    # Subject of its token, if its process requires tokens.
    sa.Column("subject", sa.Text, nullable=True),
    sa.Column("left_at", UtcDateTime, nullable=True),
    # To within an hour; an unused client expires.
    sa.Column("used_at", UtcDateTime, nullable=True),
    # Marks (keyed hashes) of the address that created it, and of its token's subject if clients have no names.
    sa.Column("address_mark", sa.String(32), nullable=True),
    sa.Column("subject_mark", sa.String(32), nullable=True),
    sa.Index("ix_clients_process_id_address_mark", "process_id", "address_mark"),
    sa.Index("ix_clients_process_id_subject_mark", "process_id", "subject_mark"),
)


events = sa.Table(
    "events",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("process_id", sa.ForeignKey("processes.id"), nullable=False, index=True),
    sa.Column("cycle", sa.Integer, nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("data", sa.JSON, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
)


@dataclass(frozen=True)
class StoredEvent:
    """One change in the life of a process."""

    id: int
    cycle: int
    kind: str
    data: dict[str, Any]
    at: dt.datetime


@dataclass(frozen=True)
class CycleTotals:
    """Totals of the accepted reports of a cycle; metrics are weighted means."""

    num_examples: int
    num_clipped: int
    bytes_received: int
    metrics: dict[str, float]


CYCLE_COLUMNS = [cycles.c[field] for field in Cycle.__dataclass_fields__]
_EVENT = [events.c[field] for field in StoredEvent.__dataclass_fields__]


def read_cycle(row: Sequence[Any]) -> Cycle:
    fields = dict(zip(Cycle.__dataclass_fields__, row, strict=True))
    return Cycle(**{**fields, "state": CycleState(fields["state"])})


# -- cycles ------------------------------------------------------------------------------------------------------------


def put_cycle(
    connection: sa.Connection,
    *,
    process_id: int,
    sequence: int,
    state: CycleState,
    checkpoint: int,
    now: dt.datetime,
    deadline_at: dt.datetime | None,
    num_left: int = 0,
) -> Cycle:
    """Add a cycle that begins in ``state``."""
    opened_at = now if state is CycleState.OPEN else None
    statement = cycles.insert().values(
        process_id=process_id,
        sequence=sequence,
        state=state.value,
        attempt=1,
        checkpoint=checkpoint,
        num_assigned=0,
        num_reports=0,
        num_left=num_left,
        created_at=now,
        opened_at=opened_at,
        deadline_at=deadline_at if opened_at else None,
    )
    key = connection.execute(statement).inserted_primary_key
    assert key is not None
    return get_cycle(connection, int(key[0]))


_GET_CYCLE = sa.select(*CYCLE_COLUMNS).where(cycles.c.id == sa.bindparam("cycle_id"))


def get_cycle(connection: sa.Connection, cycle_id: int) -> Cycle:
    """The cycle of an id, which must exist."""
    return read_cycle(connection.execute(_GET_CYCLE, {"cycle_id": cycle_id}).one())


def get_newest_cycle(connection: sa.Connection, process_id: int) -> Cycle:
    """The newest cycle of a process; every process has one."""
    statement = (
        sa.select(*CYCLE_COLUMNS).where(cycles.c.process_id == process_id).order_by(cycles.c.sequence.desc()).limit(1)
    )
    return read_cycle(connection.execute(statement).one())


def list_cycles(connection: sa.Connection, process_id: int, after: int, limit: int) -> list[Cycle]:
    """Cycles of a process with a sequence above ``after``, oldest first."""
    statement = (
        sa.select(*CYCLE_COLUMNS)
        .where(cycles.c.process_id == process_id, cycles.c.sequence > after)
        .order_by(cycles.c.sequence)
        .limit(limit)
    )
    return [read_cycle(row) for row in connection.execute(statement)]


def list_unfinished_cycles(connection: sa.Connection) -> list[Cycle]:
    """Every cycle that is not completed. A Domain resumes them when it starts."""
    statement = sa.select(*CYCLE_COLUMNS).where(cycles.c.state != CycleState.COMPLETED.value).order_by(cycles.c.id)
    return [read_cycle(row) for row in connection.execute(statement)]


def update_cycle(connection: sa.Connection, cycle: Cycle, lease_until: dt.datetime | None = None) -> None:
    """Store the fields that transitions change; ``lease_until`` acquires the lease for the completion."""
    connection.execute(
        cycles.update()
        .where(cycles.c.id == cycle.id)
        .values(
            state=cycle.state.value,
            attempt=cycle.attempt,
            checkpoint=cycle.checkpoint,
            num_assigned=cycle.num_assigned,
            opened_at=cycle.opened_at,
            deadline_at=cycle.deadline_at,
            completed_at=cycle.completed_at,
            lease_until=lease_until,
        )
    )


def complete_cycle(connection: sa.Connection, cycle: Cycle, totals: CycleTotals, radius: float | None = None) -> None:
    """Store a completed cycle with the totals of its reports.

    Args:
        radius: the largest distance, or norm, that counted in full; None: there was no limit.
    """
    update_cycle(connection, cycle)
    connection.execute(cycles.update().where(cycles.c.id == cycle.id).values(totals=asdict(totals), radius=radius))


def find_radius(connection: sa.Connection, process_id: int) -> float | None:
    """The radius of a process's newest completed cycle with reports; None: no such cycle, or it had no limit."""
    statement = (
        sa.select(cycles.c.radius)
        .where(
            cycles.c.process_id == process_id,
            cycles.c.state == CycleState.COMPLETED.value,
            cycles.c.num_reports > 0,
        )
        .order_by(cycles.c.sequence.desc())
        .limit(1)
    )
    return connection.execute(statement).scalar()


def acquire_lease(connection: sa.Connection, cycle_id: int, now: dt.datetime, until: dt.datetime) -> bool:
    """Acquire the lease for the completion of a closing cycle; False while another holder has it."""
    free = cycles.c.lease_until.is_(None) | (cycles.c.lease_until <= now)
    statement = (
        cycles.update()
        .where(cycles.c.id == cycle_id, cycles.c.state == CycleState.CLOSING.value, free)
        .values(lease_until=until)
    )
    return connection.execute(statement).rowcount == 1


def release_lease(connection: sa.Connection, cycle_id: int) -> None:
    """Release the lease, so that the next attempt need not wait for its end."""
    connection.execute(cycles.update().where(cycles.c.id == cycle_id).values(lease_until=None))


def release_all_leases(connection: sa.Connection) -> None:
    """Release the leases of a Domain that crashed. Call it at start, when no other process uses the database."""
    connection.execute(cycles.update().where(cycles.c.state == CycleState.CLOSING.value).values(lease_until=None))


# -- clients and assignments -------------------------------------------------------------------------------------------


def put_client(
    connection: sa.Connection,
    client_id: str,
    process_id: int,
    now: dt.datetime,
    *,
    subject: str | None = None,
    address_mark: str | None = None,
    subject_mark: str | None = None,
) -> None:
    """Add a client of a process.

    Args:
        subject: the subject of its token, if clients have names.
        address_mark: mark of the address that creates it, if addresses have a quota.
        subject_mark: mark of the subject of its token, if clients have no names.
    """
    values = {"process_id": process_id, "created_at": now, "used_at": now, "subject": subject}
    marks = {"address_mark": address_mark, "subject_mark": subject_mark}
    connection.execute(clients.insert().values(id=client_id, **values, **marks))


def lock_process(connection: sa.Connection, process_id: int) -> None:
    """Lock a process: no other transaction locks it before this one ends."""
    connection.execute(sa.select(processes.c.id).where(processes.c.id == process_id).with_for_update())


def find_client(connection: sa.Connection, process_id: int, subject: str) -> str | None:
    """The id of a subject's client of a process."""
    where = (clients.c.process_id == process_id, clients.c.subject == subject)
    return connection.execute(sa.select(clients.c.id).where(*where)).scalar()


def count_left(connection: sa.Connection, process_id: int) -> int:
    """Number of clients that have left a process."""
    statement = sa.select(sa.func.count()).where(clients.c.process_id == process_id, clients.c.left_at.is_not(None))
    return int(connection.execute(statement).scalar_one())


# -- events ------------------------------------------------------------------------------------------------------------


def put_event(
    connection: sa.Connection,
    process_id: int,
    cycle: int,
    kind: str,
    now: dt.datetime,
    data: dict[str, Any] | None = None,
) -> None:
    """Record a change in the life of a process."""
    connection.execute(events.insert().values(process_id=process_id, cycle=cycle, kind=kind, data=data or {}, at=now))


def list_events(connection: sa.Connection, process_id: int, after: int, limit: int) -> list[StoredEvent]:
    """Events of a process with an id above ``after``, oldest first."""
    statement = (
        sa.select(*_EVENT)
        .where(events.c.process_id == process_id, events.c.id > after)
        .order_by(events.c.id)
        .limit(limit)
    )
    return [StoredEvent(*row) for row in connection.execute(statement)]
