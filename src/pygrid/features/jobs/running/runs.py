"""Runs of jobs on Workers: of jobs that run once, and of the trainings of federated jobs."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec

from pygrid.compute.pools import Needs, Pools, Slot
from pygrid.core import jobs as rules
from pygrid.core.federated import Train
from pygrid.core.job_spec import Facts, Failure, JobResult, Progress
from pygrid.core.jobs import JobRecord
from pygrid.errors import PygridError
from pygrid.features.jobs.running.job_writes import JobWrites
from pygrid.features.jobs.running.results import Results, until_stored
from pygrid.features.jobs.running.spec_builder import SpecBuilder, check_files, data_bytes
from pygrid.storage import jobs as rows
from pygrid.storage.signals import Signals, job_topic
from pygrid.storage.sql.database import Database

logger = logging.getLogger(__name__)


class JobRuns:
    """Runs started jobs to their end."""

    def __init__(self, specs: SpecBuilder, results: Results, job_writes: JobWrites, signals: Signals) -> None:
        self._specs = specs
        self._results = results
        self._job_writes = job_writes
        self._signals = signals
        self._progress: dict[str, float] = {}

    def progress(self, job_id: str) -> float:
        """Return the progress of a running non-private job, 0 to 1; that of a private job is not shown."""
        return self._progress.get(job_id, 0.0)

    async def run(self, job: JobRecord, slot: Slot) -> None:
        """Run a job: ``running -> released | held | failed``, or back to ``approved``."""
        try:
            await self._run(job, slot)
        finally:
            self._progress.pop(job.id, None)

    async def _run(self, job: JobRecord, slot: Slot) -> None:
        on_progress = None if job.is_private else self._watch(job)
        bytes_in, has_begun = 0, False
        try:
            spec = await self._specs.spec(job)
            bytes_in = data_bytes(spec)
            await asyncio.to_thread(check_files, spec)
            # No record was read so far. From here on, records may be read.
            if not await self._job_writes.begin(job):
                return
            has_begun = True
            result = await slot.run(spec, on_progress)
        except PygridError as error:
            result = JobResult(Facts(), Failure("refused", error.detail, error.code))
        except Exception as error:
            logger.exception("job failed", extra={"job_id": job.id})
            result = JobResult(Facts(), Failure("crashed", f"an error of the Domain: {type(error).__name__}"))
        if result.failure is None:
            await self._results.keep(job, result, bytes_in)
        elif result.failure.kind == "lost" and rules.may_run_again(job):
            await self._requeue(job)
        else:
            await self._results.fail(job, result.failure, result.facts, has_begun=has_begun)

    async def _requeue(self, job: JobRecord) -> None:
        async def store() -> None:
            await self._job_writes.move(job, lambda now: (rules.requeue(now), "job_requeued"))

        await until_stored(job, store)

    def _watch(self, job: JobRecord) -> Callable[[Progress], None]:
        def on_progress(progress: Progress) -> None:
            self._progress[job.id] = min(1.0, progress.done / max(1, progress.total))
            self._signals.notify(job_topic(job.id))

        return on_progress

    async def end_lost(self, job: JobRecord) -> None:
        """End a job that ran at the stop of the Domain: release its result, requeue a non-private job, or fail it."""
        logger.warning("job was interrupted", extra={"job_id": job.id})
        if await self._results.finish(job):
            return
        if rules.may_run_again(job):
            await self._job_writes.move(job, lambda now: (rules.requeue(now), "job_requeued"))
        else:
            has_begun = not job.is_private or await self._job_writes.has_begun(job)
            await self._results.fail(
                job, Failure("lost", "the Domain stopped while the job ran"), None, has_begun=has_begun
            )


class JobTrainer:
    """Runs the Workers of federated jobs; a job uses several, one after the other."""

    def __init__(self, pools: Pools, specs: SpecBuilder, database: Database) -> None:
        self._pools = pools
        self._specs = specs
        self._database = database

    @contextlib.asynccontextmanager
    async def place(self, job: JobRecord, *, may_leave: bool) -> AsyncIterator[Train]:
        """Wait for a slot, hold it for the length of the block, and yield the function that trains in it.

        Args:
            may_leave: whether the Worker may be on another machine, if the dataset's policy also allows it.
        Raises:
            Unavailable: this machine cannot start a Worker, and a job that no other machine starts runs here; nothing
                has begun.
        """
        while True:
            needs = Needs(may_leave=may_leave and await self._may_leave(job))
            async with await self._pools.acquire(needs) as slot:
                if not slot.allows(Needs()) and not await self._may_leave(job):
                    continue  # the data owner revoked the permission while the job waited
                await self._pools.start()
                yield functools.partial(self.train, job, slot=slot)
                return

    async def train(self, job: JobRecord, model: Path, number: int, *, slot: Slot) -> JobResult:
        """Train the model of a file in a Worker, and return the result; each training of a job has its own seed."""
        try:
            spec = await self._specs.spec(job)
            spec = msgspec.structs.replace(
                spec, id=f"{job.id}-cycle-{number}", model_path=str(model), seed=(spec.seed + number) % 2**63
            )
            result = await slot.run(spec)
        except PygridError as error:
            return JobResult(Facts(), Failure("refused", error.detail, error.code))
        facts = msgspec.structs.replace(result.facts, bytes_in=data_bytes(spec), bytes_out=len(result.payload))
        return msgspec.structs.replace(result, facts=facts)

    async def _may_leave(self, job: JobRecord) -> bool:
        policy = await self._database.read(lambda connection: rows.find_policy(connection, job.dataset_id))
        return policy is not None and policy.allow_remote_workers
