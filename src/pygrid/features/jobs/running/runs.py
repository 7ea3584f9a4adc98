"""Runs of jobs on Workers: of jobs that run once, and of the trainings of federated jobs."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec

from pygrid.compute.driver import Begin, NotStarted
from pygrid.compute.pools import Needs, Pools, Slot
from pygrid.core import jobs as rules
from pygrid.core.federated import Train
from pygrid.core.job_pools import BUILT_IN, LOCAL
from pygrid.core.job_spec import Facts, Failure, JobResult, JobSpec, Progress
from pygrid.core.jobs import JobRecord
from pygrid.core.takeovers import LeftBehind, TakeOver, take_over
from pygrid.errors import PygridError
from pygrid.features.jobs.running.job_writes import JobWrites
from pygrid.features.jobs.running.results import Results, until_stored
from pygrid.features.jobs.running.spec_builder import SpecBuilder, check_files, data_bytes
from pygrid.storage.signals import Signals, job_topic

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
            with contextlib.ExitStack() as held:
                await self._run(job, slot, held)
        finally:
            self._progress.pop(job.id, None)

    async def _run(self, job: JobRecord, slot: Slot, held: contextlib.ExitStack) -> None:
        bytes_in = 0
        try:
            spec = await self._specs.spec(job, held)
            bytes_in = data_bytes(spec)
            await asyncio.to_thread(check_files, spec)
            result = await self._run_on(slot, job, spec)
        except NotStarted as error:
            return await self._put_back(job, error)
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
            has_begun = await self._may_have_begun(job)
            await self._results.fail(job, result.failure, result.facts, has_begun=has_begun)

    async def _run_on(self, slot: Slot, job: JobRecord, spec: JobSpec) -> JobResult:
        """Run a job in a slot. Until its Worker begins it, no record was read."""
        on_progress = None if job.is_private else self._watch(job)
        allowed = await self._specs.find_pools(job)
        return await slot.run(
            spec,
            on_progress,
            begin=Begin(functools.partial(self._job_writes.begin, job), slot.is_resumed),
            may_fall_back=LOCAL in allowed,
        )

    async def _put_back(self, job: JobRecord, error: NotStarted) -> None:
        """``running -> approved``: no Worker began the job, so its charge stays reserved for the next start."""

        async def store() -> None:
            await self._job_writes.move(
                job, lambda now: (rules.put_back(now, str(error.code), error.detail), "job_put_back")
            )

        await until_stored(job, store)

    async def _may_have_begun(self, job: JobRecord) -> bool:
        return not job.is_private or await self._job_writes.has_begun(job)

    async def _requeue(self, job: JobRecord) -> None:
        async def store() -> None:
            await self._job_writes.move(job, lambda now: (rules.requeue(now), "job_requeued"))

        await until_stored(job, store)

    def _watch(self, job: JobRecord) -> Callable[[Progress], None]:
        def on_progress(progress: Progress) -> None:
            self._progress[job.id] = min(1.0, progress.done / max(1, progress.total))
            self._signals.notify(job_topic(job.id))

        return on_progress

    async def end_lost(self, job: JobRecord, *, is_worker_alive: bool) -> bool:
        """End a job that ran at the stop of the Domain, or put it back; False: its Worker goes on."""
        if await self._results.finish(job):
            return True
        has_begun = await self._may_have_begun(job)
        decision = take_over(job, LeftBehind(False, has_begun, is_worker_alive))
        if decision is TakeOver.WAIT:
            return False
        logger.warning("job was interrupted", extra={"job_id": job.id})
        if decision is TakeOver.START_AGAIN:
            await self._job_writes.move(job, lambda now: (rules.requeue(now), "job_requeued"))
        elif decision is TakeOver.PUT_BACK:
            why = "the Domain stopped before a Worker received the job; it starts again"
            await self._job_writes.move(job, lambda now: (rules.put_back(now, "", why), "job_put_back"))
        else:
            await self._results.fail(job, Failure("lost", "the Domain stopped while the job ran"), None)
        return True


class JobTrainer:
    """Runs the Workers of federated jobs; a job uses several, one after the other."""

    def __init__(self, pools: Pools, specs: SpecBuilder) -> None:
        self._pools = pools
        self._specs = specs

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
            needs = Needs(await self._find_pools(job, may_leave=may_leave))
            async with await self._pools.acquire(needs) as slot:
                if slot.pool not in await self._find_pools(job, may_leave=may_leave):
                    continue  # the data owner revoked the permission while the job waited
                await self._pools.start()
                yield functools.partial(self.train, job, slot=slot)
                return

    async def train(self, job: JobRecord, model: Path, number: int, *, slot: Slot) -> JobResult:
        """Train the model of a file in a Worker, and return the result; each training of a job has its own seed."""
        try:
            with contextlib.ExitStack() as held:
                spec = await self._specs.spec(job, held)
                spec = msgspec.structs.replace(
                    spec, id=f"{job.id}-cycle-{number}", model_path=str(model), seed=(spec.seed + number) % 2**63
                )
                result = await slot.run(spec, may_fall_back=LOCAL in await self._specs.find_pools(job))
        except PygridError as error:
            return JobResult(Facts(), Failure("refused", error.detail, error.code))
        facts = msgspec.structs.replace(result.facts, bytes_in=data_bytes(spec), bytes_out=len(result.payload))
        return msgspec.structs.replace(result, facts=facts)

    async def _find_pools(self, job: JobRecord, *, may_leave: bool) -> frozenset[str]:
        """Return the pools of a federated job: a training is too short for an engine, which starts a Worker for it."""
        allowed = await self._specs.find_pools(job) & frozenset(BUILT_IN)
        return allowed if may_leave or LOCAL not in allowed else frozenset({LOCAL})
