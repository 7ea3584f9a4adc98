"""What happens to a running job whose process ended, or was paused for longer than its lease.

    the lease of a running job ends ──> another process claims it, with the next fence ──> `take_over`

The claim is committed first. From then on the earlier holder can store nothing, so the facts that decide do not change.

All functions are pure.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from pygrid.core.jobs import JobRecord, may_run_again


class TakeOver(enum.Enum):
    """What the new holder of a job does."""

    FINISH = enum.auto()
    """Store the result that the earlier holder left."""
    WAIT = enum.auto()
    """Wait for the Worker on another machine, which has the job, or for which the job is about to start."""
    START_AGAIN = enum.auto()
    PUT_BACK = enum.auto()
    """Offer the job again, on its one charge: no Worker received it."""
    FAIL = enum.auto()
    """End the job. Its charge stands."""


@dataclass(frozen=True, slots=True)
class LeftBehind:
    """What the earlier holders of a job left."""

    has_result: bool
    """A complete result is stored under the fence of an earlier holder."""
    has_begun: bool
    """A Worker may have received the job."""
    is_worker_alive: bool = False
    """A Worker on another machine holds a lease of this job, or an engine was asked to start one for it."""


def take_over(job: JobRecord, left: LeftBehind) -> TakeOver:
    """What the new holder of a running job does.

    A private job is never started twice, because its cost is charged once.
    """
    if left.has_result:
        return TakeOver.FINISH
    if left.is_worker_alive:
        return TakeOver.WAIT
    if may_run_again(job):
        return TakeOver.START_AGAIN
    return TakeOver.PUT_BACK if job.is_private and not left.has_begun else TakeOver.FAIL
