"""What drives jobs beside the requests: tries them on the mock twin, starts what is approved, takes in what Workers
return.

    checking --dry_run.py--> waiting | approved | rejected
    approved --queue.py: debit and start in one transaction--> running --runs.py, results.py--> released | held | failed
                                                                       --../federated--> released | failed

A private job is started once. Its charge is debited before its Worker starts and stands whatever becomes of it; the one
thing that a restart may still do with it is to release a result that was stored before.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Any

from pygrid.compute.pools import Workers
from pygrid.core.jobs import JobRecord, JobState
from pygrid.errors import Unavailable
from pygrid.features.jobs.federated.tasks import FederatedTasks
from pygrid.features.jobs.running.dry_run import DryRun
from pygrid.features.jobs.running.queue import JobQueue
from pygrid.features.jobs.running.runs import JobRuns
from pygrid.metrics import Metrics
from pygrid.storage.job_files import JobFiles

logger = logging.getLogger(__name__)

LOOK_S = 5.0
"""The queue is looked at this often, even if nothing woke it."""
RETRY_S = 30.0
"""After no Worker could be had."""


class JobScheduler:
    """Sees to it that every job goes on until a person has to decide, or it has ended.

    Args:
        max_concurrent: how many jobs are run at once, and how many are tried on their mock twins beside them.
        changed: set when there may be something to do.
    """

    def __init__(
        self,
        queue: JobQueue,
        trials: DryRun,
        runs: JobRuns,
        federated: FederatedTasks,
        workers: Workers,
        files: JobFiles,
        metrics: Metrics,
        changed: asyncio.Event,
        *,
        max_concurrent: int,
    ) -> None:
        self._queue = queue
        self._trials = trials
        self._runs = runs
        self._federated = federated
        self._workers = workers
        self._files = files
        self._metrics = metrics
        self._changed = changed
        self._max_concurrent = max_concurrent
        self._checking: dict[str, asyncio.Task[None]] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._remote: set[str] = set()
        """Those that run on other machines; they take no room here."""
        self._stopped: set[str] = set()

    # What requests ask of it

    async def ready(self) -> None:
        """Have a Worker ready. Raises Unavailable."""
        await self._workers.start()

    def poke(self) -> None:
        """Look at the queue now."""
        self._changed.set()

    def stop(self, job_id: str) -> None:
        """End what runs of a job here; its Worker goes with the task that waits for it."""
        for task in (self._checking.get(job_id), self._running.get(job_id)):
            if task is not None:
                self._stopped.add(job_id)
                task.cancel()
        self._federated.stop(job_id)

    def doing(self, job_id: str) -> str:
        """What a federated job does now, in words; empty if it takes no part now."""
        return self._federated.doing(job_id)

    def leave(self, job: JobRecord) -> None:
        """Tell the coordinator of a federated job that has ended."""
        self._federated.leave(job)

    def progress(self, job_id: str) -> float:
        """How far a running exact job is, 0 to 1; of a private one nothing is told."""
        return self._runs.progress(job_id)

    # Its life

    async def recover(self) -> None:
        """Take up what was left at the last stop; called once, before the first request."""
        await self._queue.recover()
        for job in await self._queue.list_running():
            if not job.is_federated:  # those go on with their next cycle
                await self._end_lost(job)
        await asyncio.to_thread(self._files.sweep, *await self._queue.list_kept_ids())

    async def run(self) -> None:
        """Work until cancelled; what runs then is cut off, as by a crash."""
        try:
            for job in await self._queue.list_running():
                if job.is_federated:
                    self._federated.begin(job)
            while True:
                self._changed.clear()
                try:
                    pause_s = await self._tick()
                except Exception:
                    # Jobs that run go on: theirs is not this fault.
                    self._metrics.task_failures.labels("look-for-jobs").inc()
                    logger.exception("jobs not looked at", extra={"retry_s": RETRY_S})
                    pause_s = RETRY_S
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._changed.wait()
        finally:
            tasks = [*self._checking.values(), *self._running.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._federated.close()

    async def _end_lost(self, job: JobRecord) -> None:
        try:
            await self._runs.end_lost(job)
        except Exception:
            # One that can't be ended, as its charge is not what it should be, say, holds up no other.
            self._metrics.task_failures.labels("end-lost-job").inc()
            logger.exception("lost job not ended", extra={"job_id": job.id})

    async def _tick(self) -> float:
        """Do everything that is due now; gives how long to wait at most until the next look."""
        await self._queue.keep_leases({*self._running, *self._federated.ids})
        for job in await self._queue.list_lost():
            if job.is_federated:
                self._federated.begin(job)
            elif job.id not in self._running:
                await self._end_lost(job)
        self._give_places()
        waiting = await self._queue.list_checking()
        if not waiting and not await self._queue.has_approved():
            return LOOK_S
        try:
            await self._workers.start()
        except Unavailable as error:
            logger.warning("no Worker", extra={"code": error.code, "detail": error.detail})
            return RETRY_S
        for job in waiting:
            if len(self._checking) < self._max_concurrent and job.id not in self._checking:
                self._spawn(self._checking, job, self._trials.run(job))
        for start in (
            (self._start_remote, self._start_here)
            if self._workers.prefer_remote
            else (self._start_here, self._start_remote)
        ):
            await start()
        while self._federated.has_room and (taken := await self._queue.take_next(federated=True)) is not None:
            self._begin(taken)
        return LOOK_S

    def _give_places(self) -> None:
        places = self._federated.places
        if self._workers.prefer_remote:
            places.give_elsewhere(self._num_free_elsewhere)
        places.give(self._num_free)
        places.give_elsewhere(self._num_free_elsewhere)

    @property
    def _num_free(self) -> int:
        """Places for Workers on this machine."""
        return self._max_concurrent - (len(self._running) - len(self._remote)) - self._federated.places.num_here

    @property
    def _num_free_elsewhere(self) -> int:
        """Places on Workers of other machines."""
        return self._workers.num_remote - len(self._remote) - self._federated.places.num_elsewhere

    # Who waits for a place has a cycle that waits for them, and so comes first.

    async def _start_here(self) -> None:
        while self._federated.places.give(self._num_free) > 0 and (taken := await self._queue.take_next()) is not None:
            self._begin(taken)

    async def _start_remote(self) -> None:
        places = self._federated.places
        while (
            places.give_elsewhere(self._num_free_elsewhere) > 0
            and (taken := await self._queue.take_next(remote=True)) is not None
        ):
            self._begin(taken, remote=True)

    def _begin(self, taken: JobRecord, *, remote: bool = False) -> None:
        if taken.state is JobState.RUNNING and taken.is_federated:
            self._federated.begin(taken)
        elif taken.state is JobState.RUNNING:
            if remote:
                self._remote.add(taken.id)
            self._spawn(self._running, taken, self._runs.run(taken, remote=remote))

    def _spawn(self, among: dict[str, asyncio.Task[None]], job: JobRecord, work: Coroutine[Any, Any, None]) -> None:
        task = among[job.id] = asyncio.create_task(work, name=f"job-{job.id}")

        def done(task: asyncio.Task[None]) -> None:
            among.pop(job.id, None)
            self._remote.discard(job.id)
            if job.id in self._stopped:
                self._stopped.discard(job.id)
                self._files.drop_result(job.id)
            if not task.cancelled() and (error := task.exception()) is not None:
                self._metrics.task_failures.labels("run-job").inc()
                logger.error("job not seen through", exc_info=error, extra={"job_id": job.id})
            self._changed.set()

        task.add_done_callback(done)
