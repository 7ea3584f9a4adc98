"""The tasks of jobs that are checked or run now, and what requests do with them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from pygrid.compute.pools import Pools, Slot
from pygrid.core.jobs import JobRecord, JobState
from pygrid.features.jobs.federated.tasks import FederatedTasks
from pygrid.features.jobs.running.runs import JobRuns
from pygrid.metrics import Metrics
from pygrid.storage.job_files import JobFiles

logger = logging.getLogger(__name__)


class JobTasks:
    """The tasks of jobs that hold a slot: dry runs, and jobs that run once."""

    def __init__(self, files: JobFiles, metrics: Metrics) -> None:
        self._files = files
        self._metrics = metrics
        self._checking: dict[str, asyncio.Task[None]] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._stopped: set[str] = set()

    @property
    def checking_ids(self) -> set[str]:
        return set(self._checking)

    @property
    def running_ids(self) -> set[str]:
        return set(self._running)

    def check(self, job: JobRecord, slot: Slot, work: Coroutine[Any, Any, None]) -> None:
        """Begin a dry run; the slot is released at its end."""
        self._spawn(self._checking, job, slot, work)

    def run(self, job: JobRecord, slot: Slot, work: Coroutine[Any, Any, None]) -> None:
        """Begin a run; the slot is released at its end."""
        self._spawn(self._running, job, slot, work)

    def stop(self, job_id: str) -> None:
        """Cancel the tasks of a job; its Worker ends with the task that waits for it."""
        for task in (self._checking.get(job_id), self._running.get(job_id)):
            if task is not None:
                self._stopped.add(job_id)
                task.cancel()

    def abandon(self, job_id: str) -> None:
        """Cancel the run of a job whose lease another process has; its result stays."""
        if (task := self._running.get(job_id)) is not None:
            task.cancel()

    async def close(self) -> None:
        """Cancel all tasks, as a crash would."""
        tasks = [*self._checking.values(), *self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _spawn(
        self, among: dict[str, asyncio.Task[None]], job: JobRecord, slot: Slot, work: Coroutine[Any, Any, None]
    ) -> None:
        task = among[job.id] = asyncio.create_task(work, name=f"job-{job.id}")

        def done(task: asyncio.Task[None]) -> None:
            among.pop(job.id, None)
            if job.id in self._stopped:
                self._stopped.discard(job.id)
                self._files.drop_result(job.id)
            slot.release()
            if not task.cancelled() and (error := task.exception()) is not None:
                self._metrics.task_failures.labels("run-job").inc()
                logger.error("job task failed", exc_info=error, extra={"job_id": job.id})

        task.add_done_callback(done)


@dataclass(frozen=True)
class JobControl:
    """Access of requests to the jobs that are checked or run now."""

    pools: Pools
    wake: asyncio.Event
    """Set when there may be something to do for the scheduler."""
    tasks: JobTasks
    runs: JobRuns
    federated: FederatedTasks

    def stop(self, job: JobRecord) -> None:
        """End all tasks of a job that has left the state of `job`, and notify a coordinator that waits for it."""
        self.tasks.stop(job.id)
        self.federated.stop(job.id)
        if job.is_federated and job.state is JobState.RUNNING:
            self.federated.leave(job)
