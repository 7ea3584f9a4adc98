"""Assignments and the reports of open and completed cycles: tables, and queries inside a transaction of the caller.

    cycles 1--n assignments n--1 clients
    cycles 1--n reports 1--1 assignments

The tables hold no bytes: ``reports.file, offset, length`` name a range in the diffs of the cycle. Statements on the
path of a report are `Prepared`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

import msgspec
import sqlalchemy as sa

from pygrid import codes
from pygrid.core.cycles import Assignment, AssignmentState, Cycle, CycleState
from pygrid.errors import NotFound
from pygrid.messages.processes import Contribution
from pygrid.storage.cycles import CYCLE_COLUMNS, CycleTotals, clients, cycles, events, read_cycle
from pygrid.storage.evaluations import evaluations
from pygrid.storage.processes import processes
from pygrid.storage.sql.metadata import UtcDateTime, metadata
from pygrid.storage.sql.prepared import AnyOf, Prepared

assignments = sa.Table(
    "assignments",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("cycle_id", sa.ForeignKey("cycles.id"), nullable=False),
    sa.Column("client_id", sa.ForeignKey("clients.id"), nullable=False, index=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("key_hash", sa.String(64), nullable=False, unique=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("cycle_id", "client_id"),
)


reports = sa.Table(
    "reports",
    metadata,
    # The assignment's id, so there is at most one report for each. This index and the cycle's are the only ones.
    sa.Column("id", sa.ForeignKey("assignments.id"), primary_key=True, autoincrement=False),
    sa.Column("cycle_id", sa.ForeignKey("cycles.id"), nullable=False, index=True),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("file", sa.String(64), nullable=False),
    sa.Column("offset", sa.BigInteger, nullable=False),
    sa.Column("length", sa.BigInteger, nullable=False),
    sa.Column("num_examples", sa.BigInteger, nullable=False),
    sa.Column("weight", sa.BigInteger, nullable=False),
    sa.Column("norm", sa.Double, nullable=False),
    sa.Column("scale", sa.Double, nullable=True),
    sa.Column("metrics", sa.JSON, nullable=False),
    sa.Column("received_at", UtcDateTime, nullable=False),
    # From the mean diff of the previous cycle; NULL if it is not measured.
    sa.Column("distance", sa.Double, nullable=True),
)


@dataclass(frozen=True)
class Report:
    """An accepted report, under the id of its assignment.

    Its bytes are ``length`` bytes from ``offset`` of ``file`` in the diffs of its cycle. ``scale`` is set when the
    cycle is completed: 1.0, or less if the diff was clipped.
    """

    id: int
    cycle_id: int
    file: str
    offset: int
    length: int
    num_examples: int
    weight: int
    norm: float
    scale: float | None
    """0.0 means that its bytes were damaged on the disk, so it is in no checkpoint."""
    metrics: dict[str, float]
    fingerprint: str = ""
    """Length and CRC-32 of its bytes in hex, separated by a dash."""
    distance: float | None = None
    """L2 norm of the diff minus the mean diff of the previous cycle; None if it was not measured."""


_REPORT = [reports.c[field] for field in Report.__dataclass_fields__]
_ASSIGNMENT = [assignments.c.id, assignments.c.cycle_id, assignments.c.client_id, assignments.c.state]


def put_departure(
    connection: sa.Connection, client_id: str, process_id: int, now: dt.datetime, *, is_named: bool
) -> Cycle:
    """Record once that a client has left its process; returns the newest cycle, which no longer waits for it.

    Args:
        is_named: whether the process counts its clients: then this cycle, unless the client has reported in it, and all
            later ones count one that has left.
    Raises:
        NotFound: ``worker_not_found``.
    """
    found = get_application(connection, client_id, process_id)
    cycle, own = found.cycle, found.own
    first = clients.update().where(clients.c.id == client_id, clients.c.left_at.is_(None)).values(left_at=now)
    if not connection.execute(first).rowcount:
        return cycle
    has_reported = own is not None and own.state is AssignmentState.REPORTED
    if own is not None and own.state is AssignmentState.ASSIGNED:
        ended = assignments.update().where(assignments.c.id == own.id).values(state=AssignmentState.EXPIRED.value)
        connection.execute(ended)
        cycle = replace(cycle, num_assigned=cycle.num_assigned - 1)
    if is_named and not has_reported:
        cycle = replace(cycle, num_left=cycle.num_left + 1)
    values = {"num_assigned": cycle.num_assigned, "num_left": cycle.num_left}
    connection.execute(cycles.update().where(cycles.c.id == cycle.id).values(values))
    return cycle


@dataclass(frozen=True)
class Application:
    """The data that decides on the admission of a client."""

    process_id: int
    process_state: str
    cycle: Cycle
    """The newest cycle of its process."""
    own: Assignment | None
    """The client's assignment to that cycle, if any."""
    has_left: bool = False
    used_at: dt.datetime | None = None
    """Time of the client's last use, to within an hour; None for a named client, which does not expire."""


_newest = cycles.alias("newest")
_FIND_APPLICATION = Prepared(
    sa.select(
        clients.c.process_id,
        processes.c.state,
        clients.c.left_at,
        sa.case((clients.c.subject.is_(None), sa.func.coalesce(clients.c.used_at, clients.c.created_at))),
        *_ASSIGNMENT,
        *CYCLE_COLUMNS,
    )
    .select_from(
        clients.join(processes)
        .join(cycles, cycles.c.process_id == clients.c.process_id)
        .outerjoin(assignments, (assignments.c.cycle_id == cycles.c.id) & (assignments.c.client_id == clients.c.id))
    )
    .where(
        clients.c.id == sa.bindparam("client_id"),
        cycles.c.sequence
        == sa.select(sa.func.max(_newest.c.sequence))
        .where(_newest.c.process_id == clients.c.process_id)
        .scalar_subquery(),
    )
)


def get_application(connection: sa.Connection, client_id: str, process_id: int) -> Application:
    """The data that decides on the admission of a client to the newest cycle of a process.

    Raises:
        NotFound: ``worker_not_found``: no client of this process (``worker`` is the client on the wire).
    """
    row = _FIND_APPLICATION.run(connection, {"client_id": client_id})
    if row is None or row[0] != process_id:
        raise worker_not_found()
    own = None if row[4] is None else Assignment(row[4], row[5], row[6], AssignmentState(row[7]))
    return Application(row[0], row[1], read_cycle(row[8:]), own, row[2] is not None, row[3])


def delete_training(connection: sa.Connection, process_id: int) -> None:
    """Delete the cycles of a process, with its clients, assignments, reports, evaluations and events."""
    own = sa.select(cycles.c.id).where(cycles.c.process_id == process_id)
    for table in (reports, assignments):
        connection.execute(table.delete().where(table.c.cycle_id.in_(own)))
    for table in (evaluations, cycles, clients, events):
        connection.execute(table.delete().where(table.c.process_id == process_id))


_HAS_CLIENT = Prepared(sa.select(clients.c.id).where(clients.c.id == sa.bindparam("client_id")))


def has_client(connection: sa.Connection, client_id: str) -> bool:
    """Whether there is a client with this id, of any process."""
    return client_id.isprintable() and _HAS_CLIENT.run(connection, {"client_id": client_id}) is not None


def worker_not_found() -> NotFound:
    """The refusal for an id that does not belong to a present client of the process."""
    return NotFound("Worker ID not found! Authenticate for this process first.", code=codes.WORKER_NOT_FOUND)


_LAST_SEQUENCE = Prepared(
    sa.select(sa.func.max(cycles.c.sequence))
    .select_from(assignments.join(cycles))
    .where(assignments.c.client_id == sa.bindparam("client_id"), cycles.c.sequence < sa.bindparam("before"))
)


def find_last_sequence(connection: sa.Connection, client_id: str, before: int) -> int | None:
    """Sequence of the newest cycle before ``before`` that a client was admitted to."""
    row = _LAST_SEQUENCE.run(connection, {"client_id": client_id, "before": before})
    return None if row is None else row[0]


_FIND_BY_KEY = Prepared(
    sa.select(*_ASSIGNMENT, reports.c.fingerprint, *CYCLE_COLUMNS)
    .select_from(assignments.join(cycles).outerjoin(reports, reports.c.id == assignments.c.id))
    .where(assignments.c.key_hash == sa.bindparam("key_hash"))
)


def find_by_key(connection: sa.Connection, key_hash: str) -> tuple[Assignment, Cycle] | None:
    """The assignment that a request key belongs to, with its cycle; or None."""
    row = _FIND_BY_KEY.run(connection, {"key_hash": key_hash})
    if row is None:
        return None
    return Assignment(row[0], row[1], row[2], AssignmentState(row[3]), row[4]), read_cycle(row[5:])


_FIND_ASSIGNMENTS = Prepared(
    sa.select(assignments.c.key_hash, *_ASSIGNMENT, reports.c.fingerprint)
    .select_from(assignments.outerjoin(reports, reports.c.id == assignments.c.id))
    .where(AnyOf(assignments.c.key_hash, "key_hashes"))
)


def find_assignments(connection: sa.Connection, key_hashes: Sequence[str]) -> dict[str, Assignment]:
    """The assignments of request keys, with the fingerprints of their reports, by the hash of the key."""
    found = _FIND_ASSIGNMENTS.all(connection, {"key_hashes": list(key_hashes)})
    return {row[0]: Assignment(row[1], row[2], row[3], AssignmentState(row[4]), row[5]) for row in found}


_PUT_ASSIGNMENT = Prepared.insert(
    assignments, "cycle_id", "client_id", "state", "key_hash", "created_at", returning="id"
)
LONGEST_REQUEST = dt.timedelta(minutes=10)
"""For which a request for admission can be held up, for example by a replica that is paused."""
_RENEW_ASSIGNMENT = Prepared(
    assignments.update()
    .where(
        assignments.c.id == sa.bindparam("assignment_id"),
        ~assignments.c.created_at.between(sa.bindparam("after"), sa.bindparam("until")),
    )
    .values(
        state=AssignmentState.ASSIGNED.value,
        key_hash=sa.bindparam("new_key_hash"),
        created_at=sa.bindparam("renewed_at"),
    )
    .returning(assignments.c.id)
)
_SET_ASSIGNED = Prepared(
    cycles.update().where(cycles.c.id == sa.bindparam("of_cycle")).values(num_assigned=sa.bindparam("new_count"))
)


def set_num_assigned(connection: sa.Connection, cycle: Cycle) -> None:
    """Store the number of admitted clients. The caller holds the lock of the cycle."""
    _SET_ASSIGNED.run(connection, {"of_cycle": cycle.id, "new_count": cycle.num_assigned})


def put_assignment(
    connection: sa.Connection, cycle_id: int, client_id: str, key_hash: str, now: dt.datetime
) -> Assignment:
    """Admit a client to a cycle. The caller holds the lock of the cycle, and counts."""
    state = AssignmentState.ASSIGNED
    row = {"cycle_id": cycle_id, "client_id": client_id, "state": state.value, "key_hash": key_hash, "created_at": now}
    key = _PUT_ASSIGNMENT.run(connection, row)
    assert key is not None
    return Assignment(int(key[0]), cycle_id, client_id, state)


def renew_assignment(
    connection: sa.Connection,
    assignment: Assignment,
    key_hash: str,
    now: dt.datetime,
    asked_at: dt.datetime | None = None,
) -> Assignment | None:
    """Set a new key for an assignment that has not reported. The caller counts one that had expired.

    Args:
        asked_at: when the client asked for the key; None: its requests are answered in their order.
    Returns:
        None: a later request of the client got a key already, and nothing was changed. A replica that was paused or cut
        off can be late with its answer, which nobody waits for.
    """
    after = asked_at or now
    until = after + LONGEST_REQUEST if asked_at else after
    values = {"assignment_id": assignment.id, "new_key_hash": key_hash, "renewed_at": now}
    values |= {"after": after + dt.timedelta(microseconds=1), "until": until}
    if _RENEW_ASSIGNMENT.run(connection, values) is None:
        return None
    return replace(assignment, state=AssignmentState.ASSIGNED)


def expire_assignments(connection: sa.Connection, cycle_id: int) -> None:
    """End the assignments of a cycle that have not reported."""
    connection.execute(
        assignments.update()
        .where(assignments.c.cycle_id == cycle_id, assignments.c.state == AssignmentState.ASSIGNED.value)
        .values(state=AssignmentState.EXPIRED.value)
    )


def count_late(connection: sa.Connection, cycle_id: int) -> int:
    """Number of clients whose assignment to a cycle ended without a report, without those that have left."""
    statement = (
        sa.select(sa.func.count())
        .select_from(assignments.join(clients))
        .where(
            assignments.c.cycle_id == cycle_id,
            assignments.c.state == AssignmentState.EXPIRED.value,
            clients.c.left_at.is_(None),
        )
    )
    return int(connection.execute(statement).scalar_one())


def _select_late(cycle: Cycle) -> sa.Select[tuple[str]]:
    """Ids of the clients that were late in the cycle before ``cycle``, and not in the one before that.

    A client that is late twice in a row has no preference: one that never reports would always have it.
    """
    earlier, before = assignments.alias("earlier"), cycles.alias("before")
    was_late_twice = sa.exists().where(
        earlier.c.client_id == assignments.c.client_id,
        earlier.c.cycle_id == before.c.id,
        earlier.c.state == AssignmentState.EXPIRED.value,
        before.c.process_id == cycle.process_id,
        before.c.sequence == cycle.sequence - 2,
    )
    return (
        sa.select(assignments.c.client_id)
        .select_from(assignments.join(clients).join(cycles, cycles.c.id == assignments.c.cycle_id))
        .where(
            cycles.c.process_id == cycle.process_id,
            cycles.c.sequence == cycle.sequence - 1,
            assignments.c.state == AssignmentState.EXPIRED.value,
            clients.c.left_at.is_(None),
            ~was_late_twice,
        )
    )


def count_awaited(connection: sa.Connection, cycle: Cycle) -> int:
    """Number of clients with a preference that have no assignment to this cycle."""
    own = assignments.alias("own")
    has_place = sa.exists().where(own.c.client_id == assignments.c.client_id, own.c.cycle_id == cycle.id)
    awaited = _select_late(cycle).where(~has_place).subquery()
    return int(connection.execute(sa.select(sa.func.count()).select_from(awaited)).scalar_one())


def was_late(connection: sa.Connection, client_id: str, cycle: Cycle) -> bool:
    return connection.execute(_select_late(cycle).where(assignments.c.client_id == client_id)).first() is not None


# -- reports -----------------------------------------------------------------------------------------------------------

_PUT_REPORT = Prepared.insert(reports, "received_at", *Report.__dataclass_fields__)
_MARK_REPORTED = Prepared(
    assignments.update().where(AnyOf(assignments.c.id, "assignment_ids")).values(state=AssignmentState.REPORTED.value)
)
_SET_REPORT_COUNT = Prepared(
    cycles.update().where(cycles.c.id == sa.bindparam("of_cycle")).values(num_reports=sa.bindparam("new_count"))
)
_REPORT_FIELDS = tuple(Report.__dataclass_fields__)


def put_reports(connection: sa.Connection, accepted: Sequence[Report], now: dt.datetime) -> None:
    """Record accepted reports and mark their assignments. The caller holds the locks of their cycles, and counts."""
    if accepted:
        fields = [{name: getattr(report, name) for name in _REPORT_FIELDS} for report in accepted]
        _PUT_REPORT.run_many(connection, [{"received_at": now, **row} for row in fields])
        _MARK_REPORTED.run(connection, {"assignment_ids": [report.id for report in accepted]})


def set_report_counts(connection: sa.Connection, counts: Mapping[int, int]) -> None:
    """Set the number of reports of cycles by their ids. The caller holds their locks."""
    for cycle_id in sorted(counts):
        _SET_REPORT_COUNT.run(connection, {"of_cycle": cycle_id, "new_count": counts[cycle_id]})


def get_report(connection: sa.Connection, report_id: int) -> Report:
    """The report of an assignment, which must have reported."""
    return Report(*connection.execute(sa.select(*_REPORT).where(reports.c.id == report_id)).one())


def list_reports(connection: sa.Connection, cycle_id: int) -> list[Report]:
    """The accepted reports of a cycle in a fixed order."""
    statement = sa.select(*_REPORT).where(reports.c.cycle_id == cycle_id).order_by(reports.c.id)
    return [Report(*row) for row in connection.execute(statement)]


def list_contributions(connection: sa.Connection, process_id: int, after: int, limit: int) -> list[Contribution]:
    """The accepted reports of a process with an id above ``after``, oldest admission first."""
    statement = (
        sa.select(
            reports.c.id,
            cycles.c.sequence,
            sa.func.coalesce(clients.c.subject, ""),
            reports.c.num_examples,
            reports.c.weight,
            reports.c.norm,
            sa.func.coalesce(reports.c.scale, 1.0),
            reports.c.metrics,
            reports.c.received_at,
        )
        .select_from(reports.join(cycles, cycles.c.id == reports.c.cycle_id))
        .join(assignments, assignments.c.id == reports.c.id)
        .join(clients, clients.c.id == assignments.c.client_id)
        .where(cycles.c.process_id == process_id, reports.c.id > after)
        .order_by(reports.c.id)
        .limit(limit)
    )
    return [Contribution(*row) for row in connection.execute(statement)]


def list_report_files(connection: sa.Connection) -> set[str]:
    """Names of the files that hold reports of cycles that are not completed."""
    statement = (
        sa.select(reports.c.file)
        .select_from(reports.join(cycles, cycles.c.id == reports.c.cycle_id))
        .where(cycles.c.state != CycleState.COMPLETED.value)
        .distinct()
    )
    return set(connection.execute(statement).scalars())


def list_accepted(
    connection: sa.Connection, process_id: int, before: int, num_cycles: int, limit: int
) -> list[tuple[float, int]]:
    """Norm after clipping and weight of the reports of a process's last cycles with reports.

    Args:
        before: only cycles with a lower sequence.
        num_cycles: largest number of cycles; none is added after ``limit`` reports are found.
    """
    newest = (
        sa.select(cycles.c.id, cycles.c.num_reports)
        .where(cycles.c.process_id == process_id, cycles.c.sequence < before, cycles.c.num_reports > 0)
        .order_by(cycles.c.sequence.desc())
        .limit(num_cycles)
    )
    wanted: list[int] = []
    found = 0
    for cycle_id, num_reports in connection.execute(newest):
        if found >= limit:
            break
        wanted.append(cycle_id)
        found += num_reports
    accepted = reports.c.norm * sa.func.coalesce(reports.c.scale, 1.0)
    statement = sa.select(accepted, reports.c.weight).where(reports.c.cycle_id.in_(wanted)).order_by(reports.c.id)
    return [(float(norm), int(weight)) for norm, weight in connection.execute(statement)]


def set_counted(connection: sa.Connection, counted: Sequence[Report]) -> None:
    """Record the scale and the weight with which reports went into their checkpoint; without a scale it is 1.0."""
    if counted:
        statement = (
            reports.update()
            .where(reports.c.id == sa.bindparam("report_id"))
            .values(scale=sa.bindparam("by"), weight=sa.bindparam("counts"))
        )
        connection.execute(
            statement, [{"report_id": report.id, "by": report.scale, "counts": report.weight} for report in counted]
        )


def get_totals(connection: sa.Connection, cycle_id: int) -> CycleTotals:
    """Totals of the reports of a cycle that are accepted so far."""
    stored = connection.execute(sa.select(cycles.c.totals).where(cycles.c.id == cycle_id)).scalar()
    return msgspec.convert(stored, CycleTotals) if stored else add_up(list_reports(connection, cycle_id))


def add_up(found: Sequence[Report], num_clipped: int = 0) -> CycleTotals:
    """Totals of these reports; metrics have the weights of the diffs."""
    sums: dict[str, tuple[float, float]] = {}
    values: dict[str, list[float]] = {}
    for report in found:
        for name, value in report.metrics.items():
            values.setdefault(name, []).append(value)
            total, weight = sums.get(name, (0.0, 0.0))
            sums[name] = (total + value * report.weight, weight + report.weight)
    return CycleTotals(
        num_examples=sum(report.num_examples for report in found),
        num_clipped=num_clipped,
        bytes_received=sum(report.length for report in found),
        metrics={name: total / weight for name, (total, weight) in sorted(sums.items())},
        spread={name: (min(some), median(some), max(some), len(some)) for name, some in sorted(values.items())},
    )
