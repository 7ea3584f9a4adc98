"""The tasks of federated jobs: each job has one, and uses a Worker only while it trains."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from pygrid.core import jobs as rules
from pygrid.core.federated import ParticipationResult, Trainer
from pygrid.core.jobs import JobRecord
from pygrid.features.jobs.running.job_writes import JobWrites
from pygrid.metrics import Metrics
from pygrid.privacy.ledger import ChargeState

logger = logging.getLogger(__name__)

RETRY_S = 30.0
"""Pause after an error of this Domain."""


class Federation(Protocol):
    """Takes part in trainings at other Domains."""

    @property
    def max_jobs(self) -> int:
        """The number of jobs that can take part at once."""

    def doing(self, job_id: str) -> str:
        """Return the present step of a job as text; empty if it does not take part now."""

    async def may_dial(self, job: JobRecord) -> bool:
        """Whether this Domain calls the job's coordinator without a review by a person."""

    async def take_part(self, job: JobRecord, trainer: Trainer) -> ParticipationResult:
        """Run a job to its end; a job that was interrupted continues."""

    async def leave(self, job: JobRecord) -> None:
        """Notify the coordinator of an ended job that it must not wait for it, if it can be reached."""

    def close(self) -> None:
        """End all participation."""


class FederatedTasks:
    """The tasks of federated jobs.

    Args:
        trainer: runs the Workers of the jobs.
        on_change: called when another job can begin.
    """

    def __init__(
        self,
        federation: Federation,
        trainer: Trainer,
        job_writes: JobWrites,
        metrics: Metrics,
        on_change: Callable[[], None],
    ) -> None:
        self.federation = federation
        self._trainer = trainer
        self._job_writes = job_writes
        self._metrics = metrics
        self._on_change = on_change
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    @property
    def ids(self) -> set[str]:
        """Ids of the jobs that take part."""
        return set(self._tasks)

    @property
    def has_capacity(self) -> bool:
        return len(self._tasks) < self.federation.max_jobs

    def begin(self, job: JobRecord) -> None:
        """Begin or continue the participation of a running job."""
        if job.id not in self._tasks:
            self._tasks[job.id] = self._spawn(self._run_to_end(job), job, lambda: self._tasks.pop(job.id, None))

    def stop(self, job_id: str) -> None:
        if (task := self._tasks.get(job_id)) is not None:
            task.cancel()

    async def close(self) -> None:
        """Cancel all tasks, as a crash would; the jobs continue at the next start."""
        tasks = [*self._tasks.values(), *self._leaving]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run_to_end(self, job: JobRecord) -> None:
        while True:
            try:
                result = await self.federation.take_part(job, self._trainer)
            except Exception:
                # For example a full disk. The job continues where it was interrupted.
                self._metrics.task_failures.labels("take-part").inc()
                logger.exception("federated job interrupted", extra={"job_id": job.id, "retry_s": RETRY_S})
                await asyncio.sleep(RETRY_S)
            else:
                return await self._end(job, result)

    async def _end(self, job: JobRecord, result: ParticipationResult) -> None:
        """End a job: ``running -> released | failed``."""

        def step(now: JobRecord) -> tuple[JobRecord, str]:
            if result.code:
                failed = rules.fail(now, result.code, result.detail, result.private_detail, result.facts)
                return failed, "job_failed"
            return rules.depart(now, result.detail, result.facts), "job_departed"

        await self._job_writes.move(job, step, ChargeState.FAILED if result.code else ChargeState.RELEASED)
        self.leave(job)

    def leave(self, job: JobRecord) -> None:
        """Notify the coordinator of an ended job, in the background."""
        task = self._spawn(self.federation.leave(job), job, lambda: self._leaving.discard(task))
        self._leaving.add(task)

    def _spawn(
        self, work: Coroutine[Any, Any, None], job: JobRecord, forget: Callable[[], object]
    ) -> asyncio.Task[None]:
        def done(task: asyncio.Task[None]) -> None:
            forget()
            if not task.cancelled() and (error := task.exception()) is not None:
                self._metrics.task_failures.labels("take-part").inc()
                logger.error("federated job failed", exc_info=error, extra={"job_id": job.id})
            self._on_change()

        task = asyncio.create_task(work, name=f"federated-{job.id}")
        task.add_done_callback(done)
        return task
