"""Cycles, clients and events: their tables, and queries inside a transaction of the caller.

    processes 1--n cycles 1--n assignments n--1 clients
    processes 1--n events

Assignments and reports are in `pygrid.storage.reports`. Statements of the path of a report are `Prepared`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import sqlalchemy as sa

from pygrid.core import leases
from pygrid.core.cycles import Cycle, CycleState
from pygrid.core.leases import FencedLease
from pygrid.storage.leases import lease_time
from pygrid.storage.processes import processes
from pygrid.storage.sql.database import instance_of
from pygrid.storage.sql.metadata import UtcDateTime, insert, metadata
from pygrid.storage.sql.prepared import AnyOf, Prepared

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
    # End of the grace period, once it has begun; and clients that had not reported at the end.
    sa.Column("grace_until", UtcDateTime, nullable=True),
    sa.Column("num_late", sa.Integer, nullable=False, server_default=sa.text("0")),
    # The largest distance, or norm, of a diff that counted in full; NULL without a limit.
    sa.Column("radius", sa.Double, nullable=True),
    # Instance that completes the cycle, and a number that each holder increments; it is checked at the end of the work.
    sa.Column("lease_holder", sa.String(32), nullable=True),
    sa.Column("lease_fence", sa.Integer, nullable=False, server_default=sa.text("0")),
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
    sa.Column("process_id", sa.ForeignKey("processes.id"), nullable=False),
    sa.Column("cycle", sa.Integer, nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("data", sa.JSON, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
    # Its place among the events of its process. It is given under the lock of the process, so the events of a process
    # are committed in the order of their numbers. The ids of two writers are not.
    sa.Column("number", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.Index("ix_events_process_id_number", "process_id", "number", unique=True),
)


@dataclass(frozen=True)
class StoredEvent:
    """One change in the life of a process. ``number`` grows with each event of the process."""

    number: int
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
    spread: dict[str, tuple[float, float, float, int]] = field(default_factory=dict)
    """Smallest value, median, largest value and number of reports of each metric. Empty for cycles that
    version 0.1 completed."""


CYCLE_COLUMNS = [cycles.c[field] for field in Cycle.__dataclass_fields__]
_EVENT = [events.c[field] for field in StoredEvent.__dataclass_fields__]


def read_cycle(row: Sequence[Any]) -> Cycle:
    fields = dict(zip(Cycle.__dataclass_fields__, row, strict=True))
    return Cycle(**{**fields, "state": CycleState(fields["state"])})


# -- cycles ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NewCycle:
    """A cycle that will be added, in its first state."""

    process_id: int
    sequence: int
    state: CycleState
    checkpoint: int
    deadline_at: dt.datetime | None
    """Its deadline if it is open."""
    num_left: int = 0


def put_cycle(connection: sa.Connection, cycle: NewCycle, now: dt.datetime) -> Cycle:
    values = {**vars(cycle), "state": cycle.state.value, "attempt": 1, "num_assigned": 0, "num_reports": 0}
    if cycle.state is not CycleState.OPEN:
        values["deadline_at"] = None
    opened_at = now if cycle.state is CycleState.OPEN else None
    statement = cycles.insert().values(**values, created_at=now, opened_at=opened_at)
    return get_cycle(connection, insert(connection, statement))


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


def update_cycle(connection: sa.Connection, cycle: Cycle, *, leased_at: dt.datetime | None = None) -> None:
    """Store the fields that transitions change.

    Args:
        leased_at: when this instance has claimed the lease for the completion; None: nobody holds it after this.
    """
    until = None if leased_at is None else leases.end_of_lease(lease_time(connection, leased_at))
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
            grace_until=cycle.grace_until,
            num_late=cycle.num_late,
            completed_at=cycle.completed_at,
            lease_fence=cycle.lease_fence,
            lease_holder=None if until is None else instance_of(connection),
            lease_until=until,
        )
    )


def complete_cycle(connection: sa.Connection, cycle: Cycle, totals: CycleTotals, radius: float | None = None) -> None:
    """Store a completed cycle with the totals of its reports.

    Args:
        radius: the largest distance, or norm, that counted in full; None: there was no limit.
    """
    update_cycle(connection, cycle)
    connection.execute(cycles.update().where(cycles.c.id == cycle.id).values(totals=asdict(totals), radius=radius))


def _lock_lease(connection: sa.Connection, cycle_id: int) -> FencedLease | None:
    """Lock a cycle; returns its lease, or None if it is not closing."""
    row = connection.execute(
        sa.select(cycles.c.state, cycles.c.lease_holder, cycles.c.lease_fence, cycles.c.lease_until)
        .where(cycles.c.id == cycle_id)
        .with_for_update()
    ).one()
    if row.state != CycleState.CLOSING.value:
        return None
    return FencedLease(row.lease_holder, row.lease_fence, row.lease_until)


def _put_lease(connection: sa.Connection, cycle_id: int, lease: FencedLease) -> None:
    values = {"lease_holder": lease.holder, "lease_fence": lease.fence, "lease_until": lease.until}
    connection.execute(cycles.update().where(cycles.c.id == cycle_id).values(values))


def acquire_lease(connection: sa.Connection, cycle_id: int, now: dt.datetime) -> int | None:
    """Acquire the lease for the completion of a closing cycle; None while another instance holds it.

    Returns:
        The fence of the lease. An instance that holds it already, since it closed the cycle, keeps its fence.
    """
    lease, instance = _lock_lease(connection, cycle_id), instance_of(connection)
    if lease is None:
        return None
    at = lease_time(connection, now)
    taken = leases.renew(lease, instance, lease.fence, at) or leases.claim(lease, instance, at)
    if taken is not None:
        _put_lease(connection, cycle_id, taken)
    return None if taken is None else taken.fence


def renew_lease(connection: sa.Connection, cycle_id: int, fence: int, now: dt.datetime) -> bool:
    """Extend this instance's lease; returns False if it was lost."""
    lease = _lock_lease(connection, cycle_id)
    if lease is None:
        return False
    renewed = leases.renew(lease, instance_of(connection), fence, lease_time(connection, now))
    if renewed is not None:
        _put_lease(connection, cycle_id, renewed)
    return renewed is not None


def is_leased(connection: sa.Connection, cycle_id: int, fence: int) -> bool:
    """Whether this instance holds a closing cycle under ``fence``; no other transaction changes that before this ends.

    A lease that is over is still held until another instance acquires it, under the next fence.
    """
    lease = _lock_lease(connection, cycle_id)
    return lease is not None and leases.is_held(lease, instance_of(connection), fence)


def release_lease(connection: sa.Connection, cycle_id: int, fence: int) -> None:
    """Release this instance's lease, so that the next attempt need not wait for its end."""
    lease = _lock_lease(connection, cycle_id)
    released = None if lease is None else leases.release(lease, instance_of(connection), fence)
    if released is not None:
        _put_lease(connection, cycle_id, released)


def release_all_leases(connection: sa.Connection) -> None:
    """Release the leases of a Domain that crashed. Call it at start, when no other process uses the database."""
    free = {"lease_holder": None, "lease_until": None}
    connection.execute(cycles.update().where(cycles.c.state == CycleState.CLOSING.value).values(free))


# -- clients and assignments -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NewClient:
    """A client that will be added to a process."""

    id: str
    process_id: int
    subject: str | None = None
    """The subject of its token, if clients have names."""
    address_mark: str | None = None
    """Mark of the address that creates it, if addresses have a quota."""
    subject_mark: str | None = None
    """Mark of the subject of its token, if clients have no names."""


def put_client(connection: sa.Connection, client: NewClient, now: dt.datetime) -> None:
    """Add a client of a process."""
    connection.execute(clients.insert().values(**vars(client), created_at=now, used_at=now))


def lock_process(connection: sa.Connection, process_id: int) -> None:
    """Lock a process: no other transaction locks it before this one ends. Rows that refer to it can be added."""
    _LOCK_PROCESSES.all(connection, {"process_ids": [process_id]})


def lock_cycle(connection: sa.Connection, cycle_id: int) -> Cycle:
    """Lock a cycle, which must exist, and its process before it."""
    process_id = get_cycle(connection, cycle_id).process_id
    return lock_cycles(connection, [(process_id, cycle_id)])[cycle_id]


_newest = cycles.alias("newest")
_LOCK_PROCESSES = Prepared(
    sa.select(processes.c.id)
    .where(AnyOf(processes.c.id, "process_ids"))
    .order_by(processes.c.id)
    .with_for_update(key_share=True)
)
_LOCK_CYCLES = Prepared(
    sa.select(*CYCLE_COLUMNS).where(AnyOf(cycles.c.id, "cycle_ids")).order_by(cycles.c.id).with_for_update()
)


def lock_cycles(connection: sa.Connection, ids: Collection[tuple[int, int]]) -> dict[int, Cycle]:
    """Lock cycles, and their processes before them; returns the cycles by id.

    Args:
        ids: the id of the process and that of the cycle, of each.
    """
    if connection.dialect.name != "sqlite":  # it has one writer
        _LOCK_PROCESSES.all(connection, {"process_ids": [process_id for process_id, _ in ids]})
    found = _LOCK_CYCLES.all(connection, {"cycle_ids": [cycle_id for _, cycle_id in ids]})
    return {cycle.id: cycle for cycle in map(read_cycle, found)}


_LOCK_NEWEST = Prepared(
    sa.select(*CYCLE_COLUMNS)
    .where(
        cycles.c.id.in_(
            sa.select(
                sa.select(_newest.c.id)
                .where(_newest.c.process_id == processes.c.id)
                .order_by(_newest.c.sequence.desc())
                .limit(1)
                .correlate(processes)
                .scalar_subquery()
            )
            .select_from(processes)
            .where(AnyOf(processes.c.id, "process_ids"))
        )
    )
    .order_by(cycles.c.id)
    .with_for_update()
)


def lock_newest_cycles(connection: sa.Connection, process_ids: Collection[int]) -> dict[int, Cycle]:
    """Lock processes, and then their newest cycles; returns these by the id of the process."""
    values = {"process_ids": list(process_ids)}
    if connection.dialect.name != "sqlite":  # it has one writer
        # After this, no other transaction adds a cycle.
        _LOCK_PROCESSES.all(connection, values)
    return {cycle.process_id: cycle for cycle in map(read_cycle, _LOCK_NEWEST.all(connection, values))}


def find_client(connection: sa.Connection, process_id: int, subject: str) -> str | None:
    where = (clients.c.process_id == process_id, clients.c.subject == subject)
    return connection.execute(sa.select(clients.c.id).where(*where)).scalar()


def count_left(connection: sa.Connection, process_id: int) -> int:
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
    """Record a change in the life of a process; locks the process, whose count is the number of the event."""
    numbered = (
        processes.update()
        .where(processes.c.id == process_id)
        .values(num_events=processes.c.num_events + 1)
        .returning(processes.c.num_events)
    )
    number = connection.execute(numbered).scalar_one()
    row = {"process_id": process_id, "number": number, "cycle": cycle, "kind": kind, "data": data or {}, "at": now}
    connection.execute(events.insert().values(row))


def list_events(connection: sa.Connection, process_id: int, after: int, limit: int) -> list[StoredEvent]:
    """Events of a process with a number above ``after``, oldest first."""
    statement = (
        sa.select(*_EVENT)
        .where(events.c.process_id == process_id, events.c.number > after)
        .order_by(events.c.number)
        .limit(limit)
    )
    return [StoredEvent(*row) for row in connection.execute(statement)]
