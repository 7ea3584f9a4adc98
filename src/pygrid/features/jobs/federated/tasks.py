"""Federated jobs beside the others: each has a task that sees it through, and takes a Worker only while it trains."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from pygrid.core import jobs as rules
from pygrid.core.federated import Departure, Trainer
from pygrid.core.jobs import JobRecord
from pygrid.features.jobs.running.job_writes import JobWrites
from pygrid.metrics import Metrics
from pygrid.privacy.ledger import ChargeState

logger = logging.getLogger(__name__)

RETRY_S = 30.0
"""After a fault of this Domain."""


class Federation(Protocol):
    """What takes part in trainings at other Domains."""

    @property
    def max_jobs(self) -> int:
        """How many jobs can take part at once."""

    def doing(self, job_id: str) -> str:
        """What a job does now, in words."""

    async def may_dial(self, job: JobRecord) -> bool:
        """Whether its coordinator's address is one that this Domain dials without a person having looked at it."""

    async def take_part(self, job: JobRecord, trainer: Trainer) -> Departure:
        """See a running job through; what an earlier call was cut off from is taken up."""

    async def leave(self, job: JobRecord) -> None:
        """Tell the coordinator of a job that has ended not to wait for it, if it can be told."""

    def close(self) -> None:
        """Let go of everything; nothing takes part any more."""


class FederatedTasks:
    """The tasks of federated jobs.

    Args:
        trainer: runs their Workers.
        on_change: called when there may be room for another.
    """

    def __init__(
        self,
        federation: Federation,
        trainer: Trainer,
        job_writes: JobWrites,
        metrics: Metrics,
        on_change: Callable[[], None],
    ) -> None:
        self._federation = federation
        self._trainer = trainer
        self._job_writes = job_writes
        self._metrics = metrics
        self._on_change = on_change
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    @property
    def ids(self) -> set[str]:
        """Of the jobs that take part."""
        return set(self._tasks)

    @property
    def has_room(self) -> bool:
        return len(self._tasks) < self._federation.max_jobs

    def doing(self, job_id: str) -> str:
        """What a job does now, in words; empty if it takes no part now."""
        return self._federation.doing(job_id)

    def begin(self, job: JobRecord) -> None:
        """Have a running job take part, or go on with it."""
        if job.id not in self._tasks:
            self._tasks[job.id] = self._spawn(self._see_through(job), job, lambda: self._tasks.pop(job.id, None))

    def stop(self, job_id: str) -> None:
        """End what runs of a job."""
        if (task := self._tasks.get(job_id)) is not None:
            task.cancel()

    async def close(self) -> None:
        """Cut off everything, as by a crash; jobs go on at the next start."""
        tasks = [*self._tasks.values(), *self._leaving]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _see_through(self, job: JobRecord) -> None:
        while True:
            try:
                departure = await self._federation.take_part(job, self._trainer)
            except Exception:
                # A full disk, say: the job goes on where it was.
                self._metrics.task_failures.labels("take-part").inc()
                logger.exception("federated job broke off", extra={"job_id": job.id, "retry_s": RETRY_S})
                await asyncio.sleep(RETRY_S)
            else:
                return await self._end(job, departure)

    async def _end(self, job: JobRecord, departure: Departure) -> None:
        """``running -> released | failed``."""

        def step(now: JobRecord) -> tuple[JobRecord, str]:
            if departure.code:
                failed = rules.fail(now, departure.code, departure.detail, departure.private_detail, departure.facts)
                return failed, "job_failed"
            return rules.depart(now, departure.detail, departure.facts), "job_departed"

        await self._job_writes.move(job, step, ChargeState.FAILED if departure.code else ChargeState.RELEASED)
        self.leave(job)

    def leave(self, job: JobRecord) -> None:
        """Tell the coordinator of a job that has ended, beside everything else."""
        task = self._spawn(self._federation.leave(job), job, lambda: self._leaving.discard(task))
        self._leaving.add(task)

    def _spawn(
        self, work: Coroutine[Any, Any, None], job: JobRecord, forget: Callable[[], object]
    ) -> asyncio.Task[None]:
        def done(task: asyncio.Task[None]) -> None:
            forget()
            if not task.cancelled() and (error := task.exception()) is not None:
                self._metrics.task_failures.labels("take-part").inc()
                logger.error("federated job not seen through", exc_info=error, extra={"job_id": job.id})
            self._on_change()

        task = asyncio.create_task(work, name=f"federated-{job.id}")
        task.add_done_callback(done)
        return task
