"""Jobs: the table, and queries inside a transaction of the caller.

    datasets 1--1 policies
    datasets 1--n jobs 1--1 charges (`pygrid.storage.charges`)
                  jobs 1--n federated_cycles (`pygrid.storage.federated`)

The tables hold no bytes: ``plan_id``, ``model_hash`` and ``result_hash`` name files of the job. They have no foreign
keys to users, because requests and decisions outlive accounts.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import sqlalchemy as sa

from pygrid import codes
from pygrid.core.access import OWNER, Permission, Principal
from pygrid.core.datasets import Holding
from pygrid.core.job_pools import LOCAL
from pygrid.core.job_spec import PrivacyTerms
from pygrid.core.jobs import ENDED, RESULT_EXPIRED, TRANSITIONS, WITHDRAWN, Change, JobRecord, JobState, Result
from pygrid.errors import Conflict, NotFound
from pygrid.messages.jobs import JobRequest
from pygrid.storage.accounts import users
from pygrid.storage.datasets import dataset_versions, datasets
from pygrid.storage.policies import allows_pool, list_allowed_pools
from pygrid.storage.sql.database import instance_of
from pygrid.storage.sql.metadata import UtcDateTime, metadata
from pygrid.storage.workers import end_of_job

jobs = sa.Table(
    "jobs",
    metadata,
    # In the order of submission.
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("id", sa.String(32), nullable=False, unique=True),
    sa.Column("dataset_id", sa.ForeignKey("datasets.id"), nullable=False, index=True),
    sa.Column("version_id", sa.ForeignKey("dataset_versions.id"), nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("request", sa.JSON, nullable=False),
    sa.Column("request_hash", sa.String(64), nullable=False),
    sa.Column("requested_by", sa.Integer, nullable=False, index=True),
    sa.Column("plan_id", sa.String(64), nullable=False),
    sa.Column("plan_name", sa.Text, nullable=False),
    sa.Column("plan_summary", sa.Text, nullable=False),
    sa.Column("model_hash", sa.String(64), nullable=False),
    sa.Column("terms", sa.JSON(none_as_null=True), nullable=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    # Each change of the job adds one. A change is written only if no other change came between.
    sa.Column("sequence", sa.Integer, nullable=False),
    # [[state, time], ...]: all changes, so that a caller that follows the job misses none.
    sa.Column("history", sa.JSON, nullable=False),
    sa.Column("num_attempts", sa.Integer, nullable=False),
    sa.Column("decided_by", sa.Integer, nullable=True),
    sa.Column("comment", sa.Text, nullable=False),
    sa.Column("code", sa.String(64), nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("private_detail", sa.Text, nullable=False),
    sa.Column("mock_metrics", sa.JSON, nullable=False),
    sa.Column("result_hash", sa.String(64), nullable=True),
    sa.Column("result_bytes", sa.BigInteger, nullable=True),
    sa.Column("result_media_type", sa.String(100), nullable=True),
    sa.Column("result_metrics", sa.JSON(none_as_null=True), nullable=True),
    sa.Column("facts", sa.JSON(none_as_null=True), nullable=True),
    # Set while the job runs, and renewed by the Domain that runs it, so that another Domain notices its end.
    sa.Column("lease_until", UtcDateTime, nullable=True),
    # The instance that runs the job, and a number that each holder increments; both are checked at the end of the work.
    sa.Column("lease_holder", sa.String(32), nullable=True),
    sa.Column("lease_fence", sa.Integer, nullable=False, server_default=sa.text("0")),
    # The pool that the requester named; empty: any.
    sa.Column("pool", sa.String(40), nullable=False, server_default=sa.text("''")),
    # A federated job takes a Worker for each cycle, and none while it waits for the next cycle.
    sa.Column("is_federated", sa.Boolean, nullable=False, server_default=sa.false()),
    sqlite_autoincrement=True,
)


@dataclass(frozen=True)
class JobDataset:
    """The dataset of a job, deleted or not."""

    id: int
    name: str
    version: int
    size_bytes: int
    folder: str
    mock_folder: str | None
    mock: str
    holding: Holding
    is_deleted: bool


_SAME = (
    "id",
    "dataset_id",
    "version_id",
    "request_hash",
    "requested_by",
    "plan_id",
    "plan_name",
    "plan_summary",
    "model_hash",
    "created_at",
    "updated_at",
    "sequence",
    "num_attempts",
    "decided_by",
    "comment",
    "code",
    "detail",
    "private_detail",
    "mock_metrics",
    "facts",
)
"""Fields of a job that are stored unchanged in columns."""
_JOB = [column for column in jobs.c if column.name not in ("lease_until", "lease_holder", "is_federated", "pool")]


# Jobs


def put_job(connection: sa.Connection, job: JobRecord) -> None:
    job = replace(job, history=(Change(job.state, job.created_at),))
    connection.execute(jobs.insert().values(_values(job)))


def update_job(
    connection: sa.Connection, job: JobRecord, now: dt.datetime, *, lease_until: dt.datetime | None = None
) -> JobRecord:
    """Store a job that has made one transition since it was read; returns it as stored.

    Args:
        lease_until: end of a new lease of this instance; None: nobody holds the job after this, and its Worker on
            another machine has lost it.
    Raises:
        Conflict: ``job_decided``: it has made another transition; nothing was changed.
    """
    job = replace(job, updated_at=now, history=(*job.history, Change(job.state, now)))
    holder, step = (None, 0) if lease_until is None else (instance_of(connection), 1)
    lease = {"lease_until": lease_until, "lease_holder": holder, "lease_fence": jobs.c.lease_fence + step}
    statement = jobs.update().where(jobs.c.id == job.id, jobs.c.sequence == job.sequence - 1)
    fence = connection.execute(statement.values({**_values(job), **lease}).returning(jobs.c.lease_fence)).scalar()
    if fence is None:
        raise Conflict("the job has changed since it was read; load it again", code=codes.JOB_DECIDED)
    if lease_until is None:
        end_of_job(connection, job.id)
    return replace(job, lease_fence=fence)


def find_job(connection: sa.Connection, job_id: str, *, lock: bool = False) -> JobRecord | None:
    """A job; with ``lock``, no other transaction changes it before this one ends."""
    statement = sa.select(*_JOB).where(jobs.c.id == job_id)
    row = connection.execute(statement.with_for_update() if lock else statement).first()
    return None if row is None else _job(row)


def get_job(connection: sa.Connection, job_id: str, *, lock: bool = False) -> JobRecord:
    """As `find_job`. Raises NotFound: ``job_not_found``."""
    job = find_job(connection, job_id, lock=lock)
    if job is None:
        raise job_not_found(job_id)
    return job


@dataclass(frozen=True)
class JobFilter:
    dataset_id: int | None = None
    states: Collection[JobState] = ()
    """Empty: jobs in any state."""
    mine: bool = False
    before: str | None = None
    """Only jobs submitted before the one of this id."""
    limit: int = 100


def list_jobs(connection: sa.Connection, principal: Principal, wanted: JobFilter) -> list[JobRecord]:
    """Jobs that the caller may see, newest first."""
    where = [seen_by(principal)]
    if wanted.mine:
        where.append(jobs.c.requested_by == principal.user_id)
    if wanted.dataset_id is not None:
        where.append(jobs.c.dataset_id == wanted.dataset_id)
    if wanted.states:
        where.append(jobs.c.state.in_([state.value for state in wanted.states]))
    if wanted.before is not None:
        where.append(jobs.c.number < sa.select(jobs.c.number).where(jobs.c.id == wanted.before).scalar_subquery())
    statement = sa.select(*_JOB).join(datasets).where(*where).order_by(jobs.c.number.desc()).limit(wanted.limit)
    return [_job(row) for row in connection.execute(statement)]


def list_queue(
    connection: sa.Connection, principal: Principal, states: Collection[JobState], after: str | None, limit: int
) -> list[JobRecord]:
    """Jobs in these states that the caller may see, oldest first.

    Args:
        after: only jobs submitted after the one of this id.
    """
    where = [seen_by(principal), jobs.c.state.in_([state.value for state in states])]
    if after is not None:
        where.append(jobs.c.number > sa.select(jobs.c.number).where(jobs.c.id == after).scalar_subquery())
    statement = sa.select(*_JOB).join(datasets).where(*where).order_by(jobs.c.number).limit(limit)
    return [_job(row) for row in connection.execute(statement)]


def count_undecided(connection: sa.Connection, principal: Principal, dataset_ids: Collection[int]) -> dict[int, int]:
    """Numbers of jobs of others that wait for a decision and that the caller may see, by dataset."""
    waits = jobs.c.state.in_([state.value for state in WITHDRAWN])
    others = jobs.c.requested_by != principal.user_id
    return _count(connection, principal, jobs.c.dataset_id, jobs.c.dataset_id.in_(dataset_ids), waits, others)


def count_asked(connection: sa.Connection, principal: Principal, user_ids: Collection[int]) -> dict[int, int]:
    """Numbers of jobs that the caller may see, by requester."""
    return _count(connection, principal, jobs.c.requested_by, jobs.c.requested_by.in_(user_ids))


def _count(
    connection: sa.Connection, principal: Principal, by: sa.Column[int], *where: sa.ColumnElement[bool]
) -> dict[int, int]:
    counted = sa.select(by, sa.func.count()).join(datasets).where(seen_by(principal), *where).group_by(by)
    return {row[0]: row[1] for row in connection.execute(counted)}


def list_in_state(connection: sa.Connection, state: JobState, limit: int = 1000) -> list[JobRecord]:
    """Jobs of all users in a state, oldest first."""
    statement = sa.select(*_JOB).where(jobs.c.state == state.value).order_by(jobs.c.number).limit(limit)
    return [_job(row) for row in connection.execute(statement)]


def list_unfinished_ids(connection: sa.Connection) -> set[str]:
    """The ids of all jobs that have not ended."""
    statement = sa.select(jobs.c.id).where(jobs.c.state.not_in([state.value for state in ENDED]))
    return set(connection.execute(statement).scalars())


def list_result_ids(connection: sa.Connection) -> set[str]:
    """The ids of all jobs with a stored result."""
    return set(connection.execute(sa.select(jobs.c.id).where(jobs.c.result_hash.is_not(None))).scalars())


def list_abandoned_ids(connection: sa.Connection) -> list[str]:
    """The ids of jobs that can be cancelled and whose requesters have no account, oldest first."""
    states = [state.value for state, following in TRANSITIONS.items() if JobState.CANCELLED in following]
    gone = jobs.c.requested_by.not_in(sa.select(users.c.id))
    return list(
        connection.execute(sa.select(jobs.c.id).where(jobs.c.state.in_(states), gone).order_by(jobs.c.number)).scalars()
    )


def list_withdrawn_ids(connection: sa.Connection) -> list[str]:
    """The ids of jobs that wait for a decision and whose datasets were deleted, oldest first."""
    where = (jobs.c.state.in_([state.value for state in WITHDRAWN]), datasets.c.deleted_at.is_not(None))
    statement = (
        sa.select(jobs.c.id).join(datasets, datasets.c.id == jobs.c.dataset_id).where(*where).order_by(jobs.c.number)
    )
    return list(connection.execute(statement).scalars())


def list_stranded_ids(connection: sa.Connection, pools: Collection[str]) -> list[str]:
    """The ids of approved jobs that may run in none of the Domain's pools and do not say so, oldest first."""
    fits = sa.or_(*(sa.and_(allows_pool(jobs.c.dataset_id, name), jobs.c.pool.in_(("", name))) for name in pools))
    where = (jobs.c.state == JobState.APPROVED.value, jobs.c.is_federated.is_(False), jobs.c.code != codes.POOL_UNKNOWN)
    return list(connection.execute(sa.select(jobs.c.id).where(*where, sa.not_(fits)).order_by(jobs.c.number)).scalars())


def strand(connection: sa.Connection, job_id: str, why: str) -> None:
    """Say why no pool can run an approved job. It stays approved, and starts if the Domain gets a pool that can."""
    where = (jobs.c.id == job_id, jobs.c.state == JobState.APPROVED.value)
    connection.execute(jobs.update().where(*where).values(code=codes.POOL_UNKNOWN, detail=why))


def has_account(connection: sa.Connection, user_id: int) -> bool:
    return connection.execute(sa.select(users.c.id).where(users.c.id == user_id)).first() is not None


def list_old_results(connection: sa.Connection, before: dt.datetime, limit: int = 1000) -> list[str]:
    """The ids of jobs with a stored result that was released before ``before``, oldest first."""
    where = (jobs.c.state == JobState.RELEASED.value, jobs.c.result_hash.is_not(None), jobs.c.updated_at < before)
    return list(connection.execute(sa.select(jobs.c.id).where(*where).order_by(jobs.c.number).limit(limit)).scalars())


def forget_result(connection: sa.Connection, job_id: str, detail: str) -> None:
    """Mark the result of a released job as expired. The job has ended, so it makes no transition."""
    columns = ("result_hash", "result_bytes", "result_media_type", "result_metrics")
    values = {**dict.fromkeys(columns), "code": RESULT_EXPIRED, "detail": detail}
    connection.execute(jobs.update().where(jobs.c.id == job_id, jobs.c.state == JobState.RELEASED.value).values(values))


def list_open(connection: sa.Connection, user_id: int) -> list[JobRecord]:
    """The jobs of a user that have not ended, oldest first."""
    where = (jobs.c.requested_by == user_id, jobs.c.state.not_in([state.value for state in ENDED]))
    return [_job(row) for row in connection.execute(sa.select(*_JOB).where(*where).order_by(jobs.c.number))]


def count_waiting(connection: sa.Connection, dataset_id: int) -> int:
    """Number of jobs on a dataset that wait for a decision."""
    statement = sa.select(sa.func.count()).where(
        jobs.c.dataset_id == dataset_id, jobs.c.state == JobState.WAITING.value
    )
    return int(connection.execute(statement).scalar_one())


# The queue


def find_next(
    connection: sa.Connection, *, exact_only: bool = False, pool: str | None = None, federated: bool = False
) -> JobRecord | None:
    """The next approved job, or None; no other transaction gets it before this one ends.

    It is the oldest job of the requesters with the fewest running jobs, so that no requester occupies all Workers.

    Args:
        exact_only: only a non-private job.
        pool: only a job that may run in this pool: the dataset's policy and the job allow it. A job that lost a Worker
            of another machine runs on this one, if it may.
        federated: only federated jobs, which take no Worker at this point; else only other jobs.
    """
    others = jobs.alias()
    num_running = (
        sa.select(sa.func.count())
        .where(
            others.c.requested_by == jobs.c.requested_by,
            others.c.state == JobState.RUNNING.value,
            others.c.is_federated.is_(federated),
        )
        .correlate(jobs)
        .scalar_subquery()
    )
    where = [jobs.c.state == JobState.APPROVED.value, jobs.c.is_federated.is_(federated)]
    if exact_only:
        where.append(jobs.c.terms.is_(None))
    if pool is not None:
        where += [allows_pool(jobs.c.dataset_id, pool), jobs.c.pool.in_(("", pool))]
    if pool not in (None, LOCAL):
        where.append(
            sa.or_(jobs.c.num_attempts == 0, jobs.c.pool == pool, sa.not_(allows_pool(jobs.c.dataset_id, LOCAL)))
        )
    statement = (
        sa.select(*_JOB)
        .where(*where)
        .order_by(num_running, jobs.c.number)
        .limit(1)
        .with_for_update(of=jobs, skip_locked=True)
    )
    row = connection.execute(statement).first()
    return None if row is None else _job(row)


def find_pools(connection: sa.Connection, job: JobRecord) -> frozenset[str]:
    """Names of the pools in which a job may run: the dataset's policy and the job allow them."""
    asked = job.request.pool
    return frozenset(name for name in list_allowed_pools(connection, job.dataset_id) if asked in ("", name))


def holds_lease(connection: sa.Connection, job: JobRecord) -> bool:
    """Whether this instance holds a running job under the fence of ``job``.

    A lease that is over is still held until another instance acquires the job, under the next fence.
    """
    where = (jobs.c.id == job.id, jobs.c.lease_holder == instance_of(connection))
    statement = sa.select(jobs.c.id).where(*where, jobs.c.lease_fence == job.lease_fence)
    return connection.execute(statement).first() is not None


def acquire_lease(
    connection: sa.Connection, job: JobRecord, until: dt.datetime, lost_before: dt.datetime | None
) -> JobRecord | None:
    """Take a running job over from its holder, under the next fence; None if its holder has renewed the lease.

    Args:
        lost_before: only a lease that ended before this time; None: any, as no other process uses the database.
    """
    where = [jobs.c.id == job.id, jobs.c.state == JobState.RUNNING.value, jobs.c.lease_fence == job.lease_fence]
    if lost_before is not None:
        where.append(jobs.c.lease_until < lost_before)
    fence = job.lease_fence + 1
    values = {"lease_holder": instance_of(connection), "lease_fence": fence, "lease_until": until}
    if not connection.execute(jobs.update().where(*where).values(values)).rowcount:
        return None
    return replace(job, lease_fence=fence)


def renew_leases(connection: sa.Connection, fences: Mapping[str, int], until: dt.datetime) -> set[str]:
    """Renew this instance's leases of running jobs.

    Args:
        fences: the fence of each lease by the id of its job.
    Returns:
        The ids of the running jobs that another instance has taken over; their leases stay lost.
    """
    same = sa.or_(sa.false(), *((jobs.c.id == one) & (jobs.c.lease_fence == fence) for one, fence in fences.items()))
    held = same & (jobs.c.lease_holder == instance_of(connection))
    is_running = jobs.c.state == JobState.RUNNING.value
    connection.execute(jobs.update().where(held, is_running).values(lease_until=until))
    lost = sa.select(jobs.c.id).where(jobs.c.id.in_(fences), is_running, ~held)
    return set(connection.execute(lost).scalars())


def list_lost(connection: sa.Connection, now: dt.datetime) -> list[JobRecord]:
    """Running jobs whose lease is over: the process that ran them has ended."""
    where = (jobs.c.state == JobState.RUNNING.value, jobs.c.lease_until < now)
    return [_job(row) for row in connection.execute(sa.select(*_JOB).where(*where).order_by(jobs.c.number))]


# Datasets and requesters of jobs


def get_job_dataset(connection: sa.Connection, job: JobRecord) -> JobDataset:
    """The dataset of a job, in the version that the job runs on."""
    fields = [datasets.c[name] for name in ("id", "name", "created_by", "visibility", "deleted_at")]
    versions = [dataset_versions.c[name] for name in ("number", "size_bytes", "folder", "mock_folder", "mock")]
    statement = sa.select(*fields, *versions).join(dataset_versions).where(dataset_versions.c.id == job.version_id)
    row = connection.execute(statement).one()
    return JobDataset(
        row.id,
        row.name,
        row.number,
        row.size_bytes,
        row.folder,
        row.mock_folder,
        row.mock,
        Holding(row.created_by, row.visibility),
        row.deleted_at is not None,
    )


def job_not_found(job_id: str) -> NotFound:
    """The refusal for a job that is not there, or that the caller may not see."""
    return NotFound(f"there is no job {job_id}", code=codes.JOB_NOT_FOUND, job_id=job_id)


def seen_by(principal: Principal, person: sa.Column[int] = jobs.c.requested_by) -> sa.ColumnElement[bool]:
    """`pygrid.core.jobs.may_see` as a condition on what a person did on a dataset that is joined."""
    if principal.role.id == OWNER.id:
        return sa.true()
    conditions = [person == principal.user_id]
    if principal.may(Permission.UPLOAD_DATA):
        conditions.append(datasets.c.created_by == principal.user_id)
    if principal.may(Permission.TRIAGE_REQUESTS):
        conditions.append(datasets.c.visibility.in_(("public", "listed")))
        conditions.append(datasets.c.created_by == principal.user_id)
    return sa.or_(*conditions)


def _values(job: JobRecord) -> dict[str, Any]:
    values: dict[str, Any] = {name: getattr(job, name) for name in _SAME}
    result = job.result
    return values | {
        "state": job.state.value,
        "request": msgspec.to_builtins(job.request),
        "is_federated": job.is_federated,
        "pool": job.request.pool,
        "history": msgspec.to_builtins([(change.state.value, change.at) for change in job.history]),
        "terms": msgspec.to_builtins(job.terms),
        "result_hash": None if result is None else result.hash,
        "result_bytes": None if result is None else result.num_bytes,
        "result_media_type": None if result is None else result.media_type,
        "result_metrics": None if result is None else dict(result.metrics),
    }


def _job(row: sa.Row[Any]) -> JobRecord:
    result = None
    if row.result_hash is not None:
        result = Result(row.result_hash, row.result_bytes, row.result_media_type, row.result_metrics)
    return JobRecord(
        state=JobState(row.state),
        request=msgspec.convert(row.request, JobRequest),
        terms=msgspec.convert(row.terms, PrivacyTerms | None),
        result=result,
        lease_fence=row.lease_fence,
        history=tuple(Change(*one) for one in msgspec.convert(row.history, list[tuple[JobState, dt.datetime]])),
        **{name: row._mapping[name] for name in _SAME},
    )
