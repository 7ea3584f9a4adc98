"""Workers on other machines, and their leases: the tables, and queries inside a transaction of the caller.

    put_lease ──> assigned ──begin_lease──> begun ──> the row is deleted
                      └──────────────────────────────────^

The row of a lease is deleted in the transaction in which its job leaves the state ``running``
(`pygrid.storage.jobs.update_job`), or by `end_leases`: it has expired, was returned or revoked. Until one of these has
deleted it, it can be renewed, also after its time, because no other Worker can have the job.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import sqlalchemy as sa

from pygrid import codes
from pygrid.core.worker_leases import WorkerLease
from pygrid.errors import Conflict, NotFound
from pygrid.storage.sql.metadata import UtcDateTime, metadata

workers = sa.Table(
    "workers",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(100), nullable=False, unique=True),
    # SHA-256 of the token, which was shown once.
    sa.Column("token_hash", sa.String(64), nullable=False, unique=True),
    # The id of a user, without a foreign key: a Worker outlives the account.
    sa.Column("created_by", sa.Integer, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("last_seen_at", UtcDateTime, nullable=True),
    # A number is never used twice, so that the audit log is unambiguous.
    sqlite_autoincrement=True,
)

worker_leases = sa.Table(
    "worker_leases",
    metadata,
    # SHA-256 of the id, which only the Worker has.
    sa.Column("id_hash", sa.String(64), primary_key=True),
    # A training of a federated job has an id of its own.
    sa.Column("job_id", sa.String(64), nullable=False, unique=True),
    # The id of an authorized Worker; below 0: the number of a start by an engine.
    sa.Column("worker_id", sa.Integer, nullable=False, index=True),
    sa.Column("worker", sa.String(100), nullable=False),
    sa.Column("is_begun", sa.Boolean, nullable=False),
    sa.Column("assigned_at", UtcDateTime, nullable=False),
    sa.Column("until", UtcDateTime, nullable=False),
)


@dataclass(frozen=True)
class Worker:
    id: int
    name: str
    created_at: dt.datetime
    last_seen_at: dt.datetime | None


_COLUMNS = [workers.c[name] for name in ("id", "name", "created_at", "last_seen_at")]


def put_worker(connection: sa.Connection, name: str, token_hash: str, created_by: int, now: dt.datetime) -> Worker:
    """Authorize a Worker. Raises Conflict: ``worker_exists``: another Worker has this name."""
    if connection.execute(sa.select(workers.c.id).where(workers.c.name == name)).first() is not None:
        raise Conflict(
            f"there is a Worker {name!r} already; choose another name, or revoke that one", code=codes.WORKER_EXISTS
        )
    values = {"name": name, "token_hash": token_hash, "created_by": created_by, "created_at": now}
    worker_id = connection.execute(workers.insert().values(values).returning(workers.c.id)).scalar_one()
    return Worker(worker_id, name, now, None)


def list_workers(connection: sa.Connection) -> list[Worker]:
    """All authorized Workers, oldest first."""
    return [Worker(*row) for row in connection.execute(sa.select(*_COLUMNS).order_by(workers.c.id))]


def find_worker(connection: sa.Connection, token_hash: str) -> Worker | None:
    """The Worker with this token; None if it is not authorized."""
    row = connection.execute(sa.select(*_COLUMNS).where(workers.c.token_hash == token_hash)).first()
    return None if row is None else Worker(*row)


def update_seen(connection: sa.Connection, worker_id: int, now: dt.datetime) -> None:
    """Store the time of a Worker's last request."""
    connection.execute(workers.update().where(workers.c.id == worker_id).values(last_seen_at=now))


def release_worker(connection: sa.Connection, worker_id: int) -> None:
    """Revoke the authorization of a Worker. Raises NotFound: ``worker_not_found``."""
    if not connection.execute(workers.delete().where(workers.c.id == worker_id)).rowcount:
        raise NotFound(f"there is no Worker {worker_id}", code=codes.WORKER_NOT_FOUND, id=worker_id)


_LEASE = [worker_leases.c[name] for name in ("id_hash", "job_id", "worker_id", "worker", "is_begun")]


def put_lease(connection: sa.Connection, lease: WorkerLease, now: dt.datetime, until: dt.datetime) -> None:
    """Add a lease whose Worker has not begun. It replaces an earlier one of the job."""
    end_leases(connection, worker_leases.c.job_id == lease.job_id)
    values = {column.name: getattr(lease, column.name) for column in _LEASE}
    connection.execute(worker_leases.insert().values(**values, assigned_at=now, until=until))


def find_lease(connection: sa.Connection, id_hash: str, worker_id: int) -> WorkerLease | None:
    """The lease with this id, if this Worker holds it."""
    where = (worker_leases.c.id_hash == id_hash, worker_leases.c.worker_id == worker_id)
    row = connection.execute(sa.select(*_LEASE).where(*where)).first()
    return None if row is None else WorkerLease(*row)


def renew_lease(connection: sa.Connection, id_hash: str, until: dt.datetime) -> bool:
    """Extend a lease; False: it has ended."""
    update = worker_leases.update().where(worker_leases.c.id_hash == id_hash)
    return bool(connection.execute(update.values(until=until)).rowcount)


def begin_lease(connection: sa.Connection, id_hash: str) -> bool:
    """Record that the Worker begins; False: it has begun already, or its lease has ended."""
    where = (worker_leases.c.id_hash == id_hash, worker_leases.c.is_begun.is_(False))
    return bool(connection.execute(worker_leases.update().where(*where).values(is_begun=True)).rowcount)


def adopt_lease(connection: sa.Connection, job_id: str, now: dt.datetime, until: dt.datetime) -> WorkerLease | None:
    """Extend the lease of a job, for a process that waits for its Worker from now on; None: it has none."""
    update = worker_leases.update().where(worker_leases.c.job_id == job_id).values(until=until)
    row = connection.execute(update.returning(*_LEASE, worker_leases.c.assigned_at)).first()
    if row is None:
        return None
    age_s = max(0.0, (now - row.assigned_at).total_seconds())
    return WorkerLease(row.id_hash, row.job_id, row.worker_id, row.worker, row.is_begun, age_s)


def end_leases(connection: sa.Connection, *where: sa.ColumnElement[bool]) -> list[WorkerLease]:
    """Delete the leases that meet these conditions, and return them."""
    ended = connection.execute(worker_leases.delete().where(*where).returning(*_LEASE))
    return [WorkerLease(*row) for row in ended]


def end_of_job(
    connection: sa.Connection, job_id: str, id_hash: str = "", expired_at: dt.datetime | None = None
) -> WorkerLease | None:
    """End the lease of a job and return it; None: it has none.

    Args:
        id_hash: end only the lease with this id.
        expired_at: end it only if it has expired at this time.
    """
    where = [worker_leases.c.job_id == job_id]
    if id_hash:
        where.append(worker_leases.c.id_hash == id_hash)
    if expired_at is not None:
        where.append(worker_leases.c.until <= expired_at)
    return next(iter(end_leases(connection, *where)), None)


def count_leases(connection: sa.Connection) -> dict[int, int]:
    """The number of leases of each Worker that holds one."""
    query = sa.select(worker_leases.c.worker_id, sa.func.count()).group_by(worker_leases.c.worker_id)
    return {worker_id: int(number) for worker_id, number in connection.execute(query)}
