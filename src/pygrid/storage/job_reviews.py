"""Queries for a person who decides on a job: earlier jobs on the dataset, the requester's account."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping
from typing import Any

import sqlalchemy as sa

from pygrid.core.jobs import JobRecord, JobState
from pygrid.storage.accounts import users
from pygrid.storage.jobs import get_job, jobs

_APPROVED = (JobState.APPROVED, JobState.RUNNING, JobState.HELD, JobState.RELEASED, JobState.FAILED)
"""States that follow an approval."""


def count_exact(connection: sa.Connection, dataset_id: int, begin: dt.datetime, end: dt.datetime) -> int:
    """Number of non-private jobs on a dataset that were submitted after ``begin``, until ``end``."""
    statement = sa.select(sa.func.count()).where(
        jobs.c.dataset_id == dataset_id, jobs.c.terms.is_(None), jobs.c.created_at > begin, jobs.c.created_at <= end
    )
    return int(connection.execute(statement).scalar_one())


def find_approved_plan(connection: sa.Connection, job: JobRecord) -> JobRecord | None:
    """The newest other job with the same plan on the same dataset that a person approved."""
    if not job.plan_id:
        return None
    statement = _approved(job.dataset_id).where(jobs.c.plan_id == job.plan_id, jobs.c.id != job.id)
    return _first(connection, statement)


def find_approved_of(connection: sa.Connection, job: JobRecord) -> JobRecord | None:
    """The newest earlier job of the same requester on the same dataset that a person approved."""
    number = sa.select(jobs.c.number).where(jobs.c.id == job.id).scalar_subquery()
    statement = _approved(job.dataset_id).where(jobs.c.requested_by == job.requested_by, jobs.c.number < number)
    return _first(connection, statement)


def count_outcomes(connection: sa.Connection, job: JobRecord) -> Mapping[JobState, int]:
    """Number of other jobs of the same requester on the same dataset, by state."""
    statement = (
        sa.select(jobs.c.state, sa.func.count())
        .where(jobs.c.dataset_id == job.dataset_id, jobs.c.requested_by == job.requested_by, jobs.c.id != job.id)
        .group_by(jobs.c.state)
    )
    return {JobState(state): count for state, count in connection.execute(statement)}


def list_account_times(connection: sa.Connection, user_ids: Collection[int]) -> dict[int, dt.datetime]:
    """When the accounts of these users were made, by id; without those that were deleted."""
    statement = sa.select(users.c.id, users.c.created_at).where(users.c.id.in_(user_ids))
    return {row.id: row.created_at for row in connection.execute(statement)}


def _approved(dataset_id: int) -> sa.Select[Any]:
    return (
        sa.select(jobs.c.id)
        .where(
            jobs.c.dataset_id == dataset_id,
            jobs.c.decided_by.is_not(None),
            jobs.c.state.in_([state.value for state in _APPROVED]),
        )
        .order_by(jobs.c.number.desc())
        .limit(1)
    )


def _first(connection: sa.Connection, statement: sa.Select[Any]) -> JobRecord | None:
    job_id: str | None = connection.execute(statement).scalar_one_or_none()
    return None if job_id is None else get_job(connection, job_id)
