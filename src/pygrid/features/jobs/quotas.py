"""How many jobs one account may have at once, so that nobody's keep out those of others."""

from __future__ import annotations

import sqlalchemy as sa

from pygrid import codes
from pygrid.core.jobs import JobRecord
from pygrid.errors import Conflict, TooManyRequests
from pygrid.storage import jobs as rows

MAX_OPEN_JOBS = 20
"""Of one user; a job is open until it has ended."""


def check_room(connection: sa.Connection, job: JobRecord, *, max_federated: int) -> None:
    """Refuse a new job of somebody who has too many that have not ended, or asks for the same part in a training again.

    Args:
        max_federated: of one user; each may wait for its coordinator for days.
    Raises:
        TooManyRequests: ``too_many_jobs``, ``too_many_federated_jobs``.
        Conflict: ``federation_exists``, with the ``job_id`` of the other: both would be paid for.
    """
    opened = rows.list_open(connection, job.requested_by)
    if len(opened) >= MAX_OPEN_JOBS:
        raise TooManyRequests(
            f"you have {MAX_OPEN_JOBS} jobs that have not ended; wait for one, or cancel one", code=codes.TOO_MANY_JOBS
        )
    if not job.is_federated:
        return
    federated = [other for other in opened if other.is_federated]
    for other in federated:
        if _same_part(job, other):
            raise Conflict(
                f"job {other.id} takes part in this training with this dataset already; cancel it before you ask again",
                code=codes.FEDERATION_EXISTS,
                job_id=other.id,
            )
    if len(federated) >= max_federated:
        raise TooManyRequests(
            f"you have {len(federated)} jobs that take part in trainings elsewhere, and this Domain lets one account "
            f"have {max_federated} (PYGRID_FEDERATED_JOBS_PER_USER); wait until one has ended, or cancel one",
            code=codes.TOO_MANY_FEDERATED_JOBS,
        )


def _same_part(job: JobRecord, other: JobRecord) -> bool:
    asked, has = job.request.federation, other.request.federation
    assert asked is not None
    assert has is not None
    where, there = ((one.coordinator, one.process, one.version) for one in (asked, has))
    return job.dataset_id == other.dataset_id and where == there
