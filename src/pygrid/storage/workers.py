"""Workers on other machines. Each function takes a connection inside a transaction of its caller.

Their leases are not stored: a lease ends with the process of the Domain that granted it.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import sqlalchemy as sa

from pygrid import codes
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
