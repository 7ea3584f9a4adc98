"""Jobs in the hands of Workers: those that run once, and the trainings of those that take part elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec

from pygrid.compute.pools import WorkerPlaces, Workers
from pygrid.core import jobs as rules
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
    """Sees a job through that has been started."""

    def __init__(
        self, workers: Workers, specs: SpecBuilder, results: Results, job_writes: JobWrites, signals: Signals
    ) -> None:
        self._workers = workers
        self._specs = specs
        self._results = results
        self._job_writes = job_writes
        self._signals = signals
        self._progress: dict[str, float] = {}

    def progress(self, job_id: str) -> float:
        """How far a running exact job is, 0 to 1; of a private one nothing is told."""
        return self._progress.get(job_id, 0.0)

    async def run(self, job: JobRecord, *, remote: bool) -> None:
        """``running -> released | held | failed``, or back to ``approved``."""
        try:
            await self._run(job, remote=remote)
        finally:
            self._progress.pop(job.id, None)

    async def _run(self, job: JobRecord, *, remote: bool) -> None:
        on_progress = None if job.is_private else self._watch(job)
        bytes_in, has_begun = 0, False
        try:
            spec = await self._specs.spec(job)
            bytes_in = data_bytes(spec)
            await asyncio.to_thread(check_files, spec)
            # Nothing of the data was read so far. From here on it may be.
            if not await self._job_writes.begin(job):
                return
            has_begun = True
            result = await self._workers.run(spec, on_progress, remote=remote)
        except PygridError as error:
            result = JobResult(Facts(), Failure("refused", error.detail, error.code))
        except Exception as error:
            logger.exception("job failed", extra={"job_id": job.id})
            result = JobResult(Facts(), Failure("crashed", f"a fault of the Domain: {type(error).__name__}"))
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
        """A job that was running when its Domain went away: release what was stored, start an exact one again, or fail
        it.
        """
        logger.warning("job was cut off", extra={"job_id": job.id})
        if await self._results.finish(job):
            return
        if rules.may_run_again(job):
            await self._job_writes.move(job, lambda now: (rules.requeue(now), "job_requeued"))
        else:
            has_begun = not job.is_private or await self._job_writes.has_begun(job)
            await self._results.fail(
                job, Failure("lost", "the Domain was stopped while it ran"), None, has_begun=has_begun
            )


class JobTrainer:
    """Runs the Workers of federated jobs: of which each has some, one after the other."""

    def __init__(self, workers: Workers, specs: SpecBuilder, places: WorkerPlaces, database: Database) -> None:
        self._workers = workers
        self._specs = specs
        self._places = places
        self._database = database

    @contextlib.asynccontextmanager
    async def place(self, job: JobRecord, *, may_leave: bool) -> AsyncIterator[bool]:
        """The place of a Worker, once one is free; gives whether it is on another machine.

        Args:
            may_leave: whether it may be, if the dataset's policy allows it, too.
        Raises:
            Unavailable: no Worker can be had here, where a job runs if nobody begins it elsewhere; nothing has begun.
        """
        while True:
            allowed = may_leave and await self._may_leave(job)
            async with self._places.one(may_leave=allowed) as elsewhere:
                if elsewhere and not await self._may_leave(job):
                    continue  # its holder took that back while it waited
                await self._workers.start()
                yield elsewhere
                return

    async def train(self, job: JobRecord, model: Path, number: int, *, elsewhere: bool) -> JobResult:
        """What a Worker of a federated job makes of the model in a file; each has another seed."""
        try:
            spec = await self._specs.spec(job)
            spec = msgspec.structs.replace(
                spec, id=f"{job.id}-cycle-{number}", model_path=str(model), seed=(spec.seed + number) % 2**63
            )
            result = await self._workers.run(spec, remote=elsewhere)
        except PygridError as error:
            return JobResult(Facts(), Failure("refused", error.detail, error.code))
        facts = msgspec.structs.replace(result.facts, bytes_in=data_bytes(spec), bytes_out=len(result.payload))
        return msgspec.structs.replace(result, facts=facts)

    async def _may_leave(self, job: JobRecord) -> bool:
        policy = await self._database.read(lambda connection: rows.find_policy(connection, job.dataset_id))
        return policy is not None and policy.allow_remote_workers
