"""Starts of Workers by engines: the table, and queries inside a transaction of the caller.

    starting ──its Worker claims the job──> claimed ──> ending ──> ended
        └──no claim in time────────────────────────────────^

A start is current until its job has ended or left the state ``running``: a Domain that starts again keeps its Worker.
A start token claims one job once. Both secrets, the token and the one that the Worker gets for it, are stored hashed.
`delete_old` deletes the rows of ended jobs.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import sqlalchemy as sa

from pygrid.core.engine_starts import EngineStart, StartState, handle_of
from pygrid.core.job_pools import LEASED
from pygrid.core.jobs import ENDED, JobState
from pygrid.storage.jobs import jobs
from pygrid.storage.sql.metadata import UtcDateTime, metadata
from pygrid.storage.workers import end_leases, worker_leases

engine_starts = sa.Table(
    "engine_starts",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("job_id", sa.String(64), nullable=False),
    # The number of the start among those of its job, from 1.
    sa.Column("fence", sa.Integer, nullable=False),
    sa.Column("pool", sa.String(40), nullable=False),
    # The name of the Worker at its engine.
    sa.Column("handle", sa.String(128), nullable=False),
    sa.Column("token_hash", sa.String(64), nullable=False, unique=True),
    # SHA-256 of the secret that the Worker got for its token; it is valid in the state `claimed`.
    sa.Column("secret_hash", sa.String(64), nullable=True, unique=True),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("started_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("job_id", "fence"),
    # A number is never used twice: it names the Worker of a lease.
    sqlite_autoincrement=True,
)

_RUNNING = sa.select(jobs.c.id).where(jobs.c.state == JobState.RUNNING.value)
_CURRENT = (StartState.STARTING.value, StartState.CLAIMED.value)
_COLUMNS = [engine_starts.c[name] for name in ("number", "job_id", "fence", "pool", "handle", "state", "started_at")]


def put_start(connection: sa.Connection, job_id: str, pool: str, token_hash: str, now: dt.datetime) -> EngineStart:
    """Add a start in the state ``starting``."""
    last = sa.select(sa.func.max(engine_starts.c.fence)).where(engine_starts.c.job_id == job_id)
    fence = (connection.execute(last).scalar() or 0) + 1
    values = {
        "job_id": job_id,
        "fence": fence,
        "pool": pool,
        "handle": handle_of(job_id, fence),
        "token_hash": token_hash,
        "state": StartState.STARTING.value,
        "started_at": now,
    }
    return _start(connection.execute(engine_starts.insert().values(values).returning(*_COLUMNS)).one())


def find_starting(connection: sa.Connection, token_hash: str) -> EngineStart | None:
    """The start whose token nobody has used."""
    where = (engine_starts.c.token_hash == token_hash, engine_starts.c.state == StartState.STARTING.value)
    row = connection.execute(sa.select(*_COLUMNS).where(*where)).first()
    return None if row is None else _start(row)


def claim_start(connection: sa.Connection, token_hash: str, secret_hash: str) -> EngineStart | None:
    """``starting -> claimed``, once: of several concurrent calls one succeeds. None: the token is not valid."""
    where = (engine_starts.c.token_hash == token_hash, engine_starts.c.state == StartState.STARTING.value)
    values = {"state": StartState.CLAIMED.value, "secret_hash": secret_hash}
    row = connection.execute(engine_starts.update().where(*where).values(values).returning(*_COLUMNS)).first()
    return None if row is None else _start(row)


def find_claimed(connection: sa.Connection, secret_hash: str) -> EngineStart | None:
    """The start that a Worker with this secret has claimed, until its job is over."""
    where = (engine_starts.c.secret_hash == secret_hash, engine_starts.c.state == StartState.CLAIMED.value)
    row = connection.execute(sa.select(*_COLUMNS).where(*where)).first()
    return None if row is None else _start(row)


def find_current(connection: sa.Connection, job_id: str) -> EngineStart | None:
    """The newest start of a job that is not over."""
    where = (engine_starts.c.job_id == job_id, engine_starts.c.state.in_(_CURRENT))
    row = connection.execute(sa.select(*_COLUMNS).where(*where).order_by(engine_starts.c.number.desc())).first()
    return None if row is None else _start(row)


def find_pool_at_work(connection: sa.Connection, job_id: str) -> str | None:
    """The pool of the Worker that holds a running job, or that its engine was asked to start; None: there is none."""
    of_job = worker_leases.c.job_id == job_id
    worker_id = connection.execute(sa.select(worker_leases.c.worker_id).where(of_job)).scalar()
    if worker_id is not None and worker_id >= 0:
        return LEASED
    start = find_current(connection, job_id)
    has_lease = start is not None and worker_id == -start.number
    return start.pool if start is not None and (has_lease or start.state is StartState.STARTING) else None


def finish_start(connection: sa.Connection, number: int) -> None:
    """``starting, claimed -> ending``."""
    where = (engine_starts.c.number == number, engine_starts.c.state.in_(_CURRENT))
    connection.execute(engine_starts.update().where(*where).values(state=StartState.ENDING.value))


def finish_orphans(connection: sa.Connection) -> None:
    """``starting, claimed -> ending`` for all starts whose job does not run."""
    where = (engine_starts.c.state.in_(_CURRENT), engine_starts.c.job_id.not_in(_RUNNING))
    connection.execute(engine_starts.update().where(*where).values(state=StartState.ENDING.value))


def end_orphans(connection: sa.Connection) -> None:
    """`finish_orphans`, and end the leases of jobs that do not run and of trainings; called when a Domain starts."""
    finish_orphans(connection)
    end_leases(connection, worker_leases.c.job_id.not_in(_RUNNING))


def close_start(connection: sa.Connection, number: int) -> None:
    """``ending -> ended``."""
    where = (engine_starts.c.number == number, engine_starts.c.state == StartState.ENDING.value)
    connection.execute(engine_starts.update().where(*where).values(state=StartState.ENDED.value))


def delete_old(connection: sa.Connection, before: dt.datetime) -> int:
    """Delete the starts from before a time whose jobs have ended; returns their number."""
    is_over = engine_starts.c.state.in_((StartState.ENDING.value, StartState.ENDED.value))
    unfinished = sa.select(jobs.c.id).where(jobs.c.state.not_in([state.value for state in ENDED]))
    where = (is_over, engine_starts.c.started_at < before, engine_starts.c.job_id.not_in(unfinished))
    return connection.execute(engine_starts.delete().where(*where)).rowcount


def list_open(connection: sa.Connection) -> list[EngineStart]:
    """The starts that have not ended, oldest first."""
    query = sa.select(*_COLUMNS).where(engine_starts.c.state != StartState.ENDED.value).order_by(engine_starts.c.number)
    return [_start(row) for row in connection.execute(query)]


def _start(row: sa.Row[Any]) -> EngineStart:
    return EngineStart(**{**row._mapping, "state": StartState(row.state)})
