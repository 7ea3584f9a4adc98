"""Jobs on private data: requested, checked on the mock dataset, decided, charged, run by a Worker, released."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pygrid.clock import Clock
from pygrid.compute.pools import Pools
from pygrid.features.jobs.federated.tasks import FederatedTasks, Federation
from pygrid.features.jobs.policies import PoliciesService
from pygrid.features.jobs.running.control import JobControl, JobTasks
from pygrid.features.jobs.running.dry_run import DryRun
from pygrid.features.jobs.running.job_writes import JobWrites
from pygrid.features.jobs.running.maintenance import JobUpkeep
from pygrid.features.jobs.running.queue import JobQueue
from pygrid.features.jobs.running.results import Results
from pygrid.features.jobs.running.runs import JobRuns, JobTrainer
from pygrid.features.jobs.running.scheduler import JobScheduler
from pygrid.features.jobs.running.spec_builder import RunLimits, SpecBuilder
from pygrid.features.jobs.service import JobsService
from pygrid.lifecycle import Stopping
from pygrid.metrics import Metrics
from pygrid.storage.audit import HEAD_FILE, AuditedWrites
from pygrid.storage.job_files import JobFiles
from pygrid.storage.signals import job_topic
from pygrid.storage.store import Store

MakeFederation = Callable[[AuditedWrites, JobFiles, Callable[[str], None]], Federation]
"""`(audited writes, job files, notify by job id) -> federation`."""


@dataclass(frozen=True)
class Jobs:
    """The connected parts of this feature."""

    service: JobsService
    policies: PoliciesService
    scheduler: JobScheduler
    writes: AuditedWrites
    federation: Federation
    upkeep: JobUpkeep


def build_jobs(
    store: Store,
    folder: Path,
    pools: Pools,
    clock: Clock,
    stopping: Stopping,
    metrics: Metrics,
    federate: MakeFederation,
    wake: asyncio.Event,
    *,
    limits: RunLimits,
    keep_results_days: int = 0,
) -> Jobs:
    """Build the feature.

    Args:
        folder: the data folder of the Domain.
        keep_results_days: days for which a result is kept after its release; 0: for good.
        federate: builds the part of federated jobs.
        wake: set when there may be something to do for the scheduler.
    """
    writes = AuditedWrites(store.database, folder / HEAD_FILE)
    files = JobFiles(folder / "jobs")
    federation = federate(writes, files, lambda job_id: store.signals.notify(job_topic(job_id)))
    job_writes = JobWrites(store.database, writes, files, store.signals, clock)
    specs = SpecBuilder(store.database, store.columns, files, limits)
    control = JobControl(
        pools,
        wake,
        JobTasks(files, metrics),
        JobRuns(specs, Results(files, job_writes), job_writes, store.signals),
        FederatedTasks(federation, JobTrainer(pools, specs, store.database), job_writes, metrics, wake.set),
    )
    dry_run = DryRun(specs, store.columns, writes, job_writes, federation)
    scheduler = JobScheduler(JobQueue(store.database, writes, job_writes, clock), dry_run, control, files, metrics)
    service = JobsService(store.database, writes, files, store.signals, control, clock, stopping, limits)
    upkeep = JobUpkeep(
        store.database, writes, files, store.signals, control, clock, keep_results_days=keep_results_days
    )
    return Jobs(service, PoliciesService(store.database, writes, clock), scheduler, writes, federation, upkeep)
