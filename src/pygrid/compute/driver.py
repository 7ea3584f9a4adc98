"""How a Domain has a job run: the interface of drivers, and the limits that the operator sets.

                run()
    (unknown) ---------> queued -----> running -----> (result; forgotten but for its log)
                            \\             \\
                             cancel()       cancel(), time, memory: killed, with a failure as the result

`run` always gives a `JobResult`, checked by `results.py`; what goes wrong with a job is a failure in it, not an
exception.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from pygrid.compute.results import OnProgress
from pygrid.core.job_spec import JobResult, JobSpec

State = Literal["queued", "running"]
LOGS_KEPT = 1000


class Driver(Protocol):
    """Runs jobs somewhere. An implementation may be called from one event loop only."""

    async def run(self, spec: JobSpec, on_progress: OnProgress | None = None, *, pad: bool = True) -> JobResult:
        """Queue a job, run it, give its result. If the caller is cancelled, so is the job.

        Args:
            pad: hold a private job until its planned time (`held_s`); not needed for a trial on made-up data.
        Raises:
            InvalidInput: the specification makes no sense; nothing ran.
            Conflict: a job of this id is queued or running.
            Unavailable: no Worker can be had, or only one whose sandbox is too weak; the job never started.
        """

    def cancel(self, job_id: str) -> bool:
        """End a job, whose `run` then gives a failure ``cancelled``; False if there is no such job now."""

    def status(self, job_id: str) -> State | None:
        """Where a job is; None if it is not here (any more)."""

    def logs(self, job_id: str) -> tuple[str, ...]:
        """What happened to a job, a line each; for its owner only, where the job is private.

        Kept for the latest jobs.
        """

    async def close(self) -> None:
        """End every job and every Worker."""


@dataclass(frozen=True)
class LocalLimits:
    """What the operator decides about Workers of this machine."""

    max_concurrent: int = 2
    allow_weak_sandbox: bool = False
    """Run strangers' plans even where the kernel offers too little to lock them in."""
