"""Jobs on private data: requested, checked on the mock dataset, decided, charged, run by a Worker, released."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable

from pygrid.attempts import AttemptSketch
from pygrid.compute.pools import Pools
from pygrid.core.cycles import Cycle
from pygrid.core.job_review import ReviewThresholds
from pygrid.features.jobs.evaluations import EVERY_S as EVALUATE_EVERY_S
from pygrid.features.jobs.evaluations import CheckpointEvaluations
from pygrid.features.jobs.federated.service import FederatedService
from pygrid.features.jobs.federated.tasks import FederatedTasks
from pygrid.features.jobs.policies import PoliciesService
from pygrid.features.jobs.quotes import QuotesService
from pygrid.features.jobs.reviews import ReviewService
from pygrid.features.jobs.routes import router
from pygrid.features.jobs.running.control import JobControl, JobTasks
from pygrid.features.jobs.running.dry_run import DryRun
from pygrid.features.jobs.running.job_writes import JobWrites
from pygrid.features.jobs.running.maintenance import EVERY_S, JobUpkeep
from pygrid.features.jobs.running.queue import JobQueue
from pygrid.features.jobs.running.results import Results
from pygrid.features.jobs.running.runs import JobRuns, JobTrainer
from pygrid.features.jobs.running.scheduler import JobScheduler
from pygrid.features.jobs.running.spec_builder import RunLimits, SpecBuilder
from pygrid.features.jobs.service import JobsService
from pygrid.features.jobs.spending import SpendingService
from pygrid.lifecycle import AppContext, BackgroundTask, Feature
from pygrid.settings import DomainSettings
from pygrid.storage.audit import AuditedWrites
from pygrid.storage.job_files import JobFiles
from pygrid.storage.signals import job_topic
from pygrid.storage.store import Store

MakeFederation = Callable[[JobFiles, Callable[[str], None]], FederatedService]
"""Makes the federated jobs, from the files of jobs and a function that wakes the followers of a job by its id."""


def build(
    app: AppContext,
    store: Store,
    writes: AuditedWrites,
    pools: Pools,
    federate: MakeFederation,
    wake: asyncio.Event,
    watch_cycle: Callable[[Cycle], None],
    settings: DomainSettings,
) -> Feature:
    """Build the feature.

    Args:
        wake: set when there may be something to do for the scheduler.
        watch_cycle: called with a cycle that closes because its training is ended here.
    """
    clock, database, signals = app.clock, store.database, store.signals
    limits = _limits(settings)
    files = store.job_files
    federation = federate(files, lambda job_id: signals.notify(job_topic(job_id)))
    job_writes = JobWrites(database, writes, files, signals, clock)
    specs = SpecBuilder(database, store.columns, files, limits)
    control = JobControl(
        pools,
        wake,
        JobTasks(files, app.metrics),
        JobRuns(specs, Results(files, job_writes), job_writes, signals),
        FederatedTasks(federation, JobTrainer(pools, specs), job_writes, app.metrics, wake.set),
    )
    dry_run = DryRun(specs, store.columns, writes, job_writes, federation)
    queue = JobQueue(database, writes, job_writes, clock)
    scheduler = JobScheduler(queue, dry_run, control, files, app.metrics, app.stopping)
    jobs = JobsService(store, writes, control, clock, app.stopping, limits)
    evaluations = CheckpointEvaluations(store, writes, pools, limits, clock, watch_cycle)
    upkeep = JobUpkeep(database, writes, files, signals, control, clock, settings.keep_results_days)

    async def close() -> None:
        await pools.close()
        federation.close()

    return Feature(
        services=(
            jobs,
            ReviewService(database, files, jobs),
            PoliciesService(database, writes, clock, pools.names),
            SpendingService(database, writes, clock),
            QuotesService(database, AttemptSketch(clock)),
            upkeep,
        ),
        routes=(router,),
        tasks=(
            BackgroundTask("run-jobs", scheduler.run),
            BackgroundTask.every(EVERY_S, "look-after-jobs", upkeep.run_once),
            BackgroundTask.every(EVALUATE_EVERY_S, "evaluate-checkpoints", evaluations.run_once),
        ),
        start=scheduler.recover,
        close=close,
    )


def _limits(settings: DomainSettings) -> RunLimits:
    return RunLimits(
        memory_bytes=settings.job_memory_mb * 1024**2,
        wall_s=settings.job_wall_s,
        max_answers_bytes=settings.job_answers_mb * 1024**2,
        max_federated=settings.federated_jobs_per_user,
        review=ReviewThresholds(
            result_ratio=settings.review_result_percent / 100,
            budget_share=settings.review_budget_percent / 100,
            num_similar=settings.review_similar_requests,
            account_age=dt.timedelta(hours=settings.review_account_h),
            num_groups=settings.review_groups,
        ),
    )
