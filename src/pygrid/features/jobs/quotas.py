"""Limits of the open jobs of one account, so that no user's jobs keep out those of others."""

from __future__ import annotations

import sqlalchemy as sa

from pygrid import codes
from pygrid.core.jobs import JobRecord
from pygrid.errors import Conflict, TooManyRequests
from pygrid.storage import jobs as rows

MAX_OPEN_JOBS = 20
"""Open jobs of one user; a job is open until it has ended."""


def check_quotas(connection: sa.Connection, job: JobRecord, *, max_federated: int) -> None:
    """Refuse a new job if its requester has too many open ones, or one for the same part in a training.

    Args:
        max_federated: open federated jobs of one user; each can wait for its coordinator for days.
    Raises:
        TooManyRequests: ``too_many_jobs``, ``too_many_federated_jobs``.
        Conflict: ``federation_exists``, with the ``job_id`` of the other job, because both would be charged.
    """
    opened = rows.list_open(connection, job.requested_by)
    if len(opened) >= MAX_OPEN_JOBS:
        raise TooManyRequests(
            f"you have {MAX_OPEN_JOBS} open jobs, the most that are allowed: wait for one to end, or cancel one",
            code=codes.TOO_MANY_JOBS,
        )
    if not job.is_federated:
        return
    federated = [other for other in opened if other.is_federated]
    for other in federated:
        if _same_part(job, other):
            raise Conflict(
                f"job {other.id} already takes part in this training with this dataset: cancel it before you submit "
                "another",
                code=codes.FEDERATION_EXISTS,
                job_id=other.id,
            )
    if len(federated) >= max_federated:
        raise TooManyRequests(
            f"you have {len(federated)} open federated jobs, and this Domain allows {max_federated} for one account "
            "(PYGRID_FEDERATED_JOBS_PER_USER): wait for one to end, or cancel one",
            code=codes.TOO_MANY_FEDERATED_JOBS,
        )


def _same_part(job: JobRecord, other: JobRecord) -> bool:
    asked, has = job.request.federation, other.request.federation
    assert asked is not None
    assert has is not None
    where, there = ((one.coordinator, one.process, one.version) for one in (asked, has))
    return job.dataset_id == other.dataset_id and where == there
