"""The interface of drivers, which run jobs somewhere, and the limits of the driver of this machine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from pygrid.compute.results import OnProgress
from pygrid.core.job_spec import JobResult, JobSpec
from pygrid.errors import Unavailable


@dataclass(frozen=True)
class Begin:
    """How a driver records that a Worker receives a job."""

    record: Callable[[str], Awaitable[bool]]
    """Takes the hash of the id of the Worker's lease; empty for a Worker of this machine.

    It returns False if the job was cancelled, or the lease is over, so no Worker may begin it."""
    is_resumed: bool = False
    """Whether a Worker of another machine has had the job since before this process started; it gets no other one."""


class Driver(Protocol):
    """Runs jobs somewhere. One event loop calls an implementation."""

    @property
    def name(self) -> str:
        """The name of the driver, for logs."""

    @property
    def capacity(self) -> int:
        """Number of jobs that can run at once, now."""

    async def start(self) -> object:
        """Have a Worker ready. Raises Unavailable: none can be had, or only one whose sandbox is too weak."""

    async def run(
        self, spec: JobSpec, on_progress: OnProgress | None = None, *, pad: bool = True, begin: Begin | None = None
    ) -> JobResult:
        """Queue a job, run it, and return its checked result. Cancelling the call cancels the job.

        What goes wrong with a job is a failure in its result, not an exception.

        Args:
            pad: hold a private job until its planned time (`held_s`); not needed for a dry run on made-up data.
            begin: called once, before a Worker receives the job.
        Raises:
            InvalidInput: the specification is not valid; nothing ran.
            Conflict: a job of this id is queued or running.
            Unavailable: as `start`; the job never started.
            NotStarted: no Worker took the job: ``begin`` was not called.
        """

    async def close(self) -> None:
        """End every job and every Worker."""


class NotStarted(Unavailable):
    """No Worker took a job, which can run on another driver."""


@dataclass(frozen=True)
class LocalLimits:
    """Limits of the Workers of this machine, which the operator sets."""

    max_concurrent: int = 2
    allow_weak_sandbox: bool = False
    """Run untrusted plans even where the kernel offers too little for a sandbox."""
