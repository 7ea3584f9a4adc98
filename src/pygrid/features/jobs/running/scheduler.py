"""Drives jobs: runs them on the mock dataset, starts approved ones, stores the results of Workers.

    checking --dry_run.py--> waiting | approved | rejected
    approved --queue.py: debit and start in one transaction--> running --runs.py, results.py--> released | held | failed
                                                                       --../federated--> released | failed

A private job begins once. Its charge is debited before its Worker starts, and stands with any outcome after that. After
a restart, the Domain waits for Workers of other machines, which go on, and releases results that were stored before.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence

from pygrid.compute.pools import Needs
from pygrid.core.jobs import JobRecord, JobState
from pygrid.errors import Unavailable
from pygrid.features.jobs.running.control import JobControl
from pygrid.features.jobs.running.dry_run import DryRun
from pygrid.features.jobs.running.queue import JobQueue
from pygrid.lifecycle import Stopping
from pygrid.metrics import Metrics
from pygrid.storage.job_files import JobFiles

logger = logging.getLogger(__name__)

LOOK_S = 5.0
"""Longest pause between two looks at the queue, if nothing sets `JobControl.wake`."""
RETRY_S = 30.0
"""Pause after no Worker was available."""


class JobScheduler:
    """Moves every job on until a person must decide, or the job has ended."""

    def __init__(
        self,
        queue: JobQueue,
        dry_run: DryRun,
        control: JobControl,
        files: JobFiles,
        metrics: Metrics,
        stopping: Stopping,
    ) -> None:
        self._queue = queue
        self._stopping = stopping
        self._dry_run = dry_run
        self._control = control
        self._pools, self._tasks, self._federated = control.pools, control.tasks, control.federated
        self._files = files
        self._metrics = metrics

    async def recover(self) -> None:
        """End the jobs of the last run that nobody works at; called once, before the first request."""
        await self._queue.recover()
        for job in await self._queue.list_running():
            taken = await self._queue.acquire(job, is_start=True)
            if taken is not None and not taken.is_federated:  # those go on with their next cycle
                await self._end_lost(taken)
        await asyncio.to_thread(self._files.sweep, *await self._queue.list_kept_ids())

    async def run(self) -> None:
        """Work until cancelled, which interrupts running jobs as a crash would."""
        wake = self._control.wake
        try:
            for job in await self._queue.list_running():
                await self._resume(job)
            while True:
                wake.clear()
                try:
                    pause_s = await self._tick()
                except Exception:
                    # Jobs that run go on: they did not cause this error.
                    self._metrics.task_failures.labels("look-for-jobs").inc()
                    logger.exception("jobs not looked at", extra={"retry_s": RETRY_S})
                    pause_s = RETRY_S
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await wake.wait()
        finally:
            await self._tasks.close()
            await self._federated.close()

    async def _resume(self, job: JobRecord) -> None:
        """Continue or end a running job that another process has left."""
        if job.is_federated:
            self._federated.begin(job)
        elif (pool := await self._end_lost(job)) is not None:
            slot = self._pools.hold(pool)
            self._tasks.run(job, slot, self._control.runs.run(job, slot))

    async def _end_lost(self, job: JobRecord) -> str | None:
        """End a job that nobody works at; returns the pool of the Worker that does."""
        try:
            pool = await self._queue.find_pool_at_work(job)
            is_worker_alive = pool in self._pools.names
            return None if await self._control.runs.end_lost(job, is_worker_alive=is_worker_alive) else pool
        except Exception:
            # A job that cannot be ended, for example because its charge is in a wrong state, does not block the others.
            self._metrics.task_failures.labels("end-lost-job").inc()
            logger.exception("lost job not ended", extra={"job_id": job.id})
            return None

    async def _tick(self) -> float:
        """Do everything that is due now; returns the longest time to wait until the next look."""
        await self._queue.recover()
        for job_id in await self._queue.keep_leases({*self._tasks.running_ids, *self._federated.ids}):
            logger.warning("lease of a job lost", extra={"job_id": job_id})
            self._tasks.abandon(job_id)
            self._federated.stop(job_id)
        for job in await self._queue.list_lost():
            taken = await self._queue.acquire(job)
            if taken is not None:
                await self._resume(taken)
        self._pools.grant()
        if self._stopping.is_draining:
            return LOOK_S  # jobs that run get the time of the drain to end
        waiting = await self._queue.list_checking()
        if not waiting and not await self._queue.has_approved():
            return LOOK_S
        try:
            await self._pools.start()
        except Unavailable as error:
            logger.warning("no Worker", extra={"code": error.code, "detail": error.detail})
            return RETRY_S
        self._start_dry_runs(waiting)
        for pool in self._pools.list_pools():
            while not pool.is_trial and await self._start_next(pool.name):
                pass
        while self._federated.has_capacity and (taken := await self._queue.take_next(federated=True)) is not None:
            if taken.state is JobState.RUNNING:
                self._federated.begin(taken)
        return LOOK_S

    def _start_dry_runs(self, waiting: Sequence[JobRecord]) -> None:
        for job in waiting:
            if job.id in self._tasks.checking_ids:
                continue
            slot = self._pools.try_acquire(Needs(is_trial=True))
            if slot is None:
                return
            self._tasks.check(job, slot, self._dry_run.run(job, slot))

    async def _start_next(self, pool: str) -> bool:
        """Start the job that has waited longest for a slot of this pool; False: there is no such slot, or no job."""
        slot = self._pools.try_acquire(Needs(frozenset({pool})))
        if slot is None:
            return False
        with contextlib.ExitStack() as stack:
            stack.callback(slot.release, is_unused=True)
            taken = await self._queue.take_next(pool)
            if taken is not None and taken.state is JobState.RUNNING:
                stack.pop_all()
                self._tasks.run(taken, slot, self._control.runs.run(taken, slot))
        return taken is not None
