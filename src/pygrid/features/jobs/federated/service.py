"""Takes part in trainings at other Domains for federated jobs, and leaves these trainings."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from pygrid.clock import Clock
from pygrid.core.federated import ParticipationResult, RoundAttempt, Trainer
from pygrid.core.jobs import JobRecord
from pygrid.errors import PygridError
from pygrid.features.jobs.federated.coordinator import MODEL_SLACK_BYTES, Connect, CoordinatorConnection, ModelFiles
from pygrid.features.jobs.federated.participation import FederatedParticipation, Given, ParticipationTimings
from pygrid.storage import datasets as dataset_rows
from pygrid.storage import federated as rows
from pygrid.storage.audit import AuditedWrites
from pygrid.storage.blobs.files import BlobFiles
from pygrid.storage.hosted_processes import read_layout_of
from pygrid.storage.job_files import JobFiles
from pygrid.storage.sql.database import Database

logger = logging.getLogger(__name__)

MAX_JOBS = 64
"""Federated jobs that take part at once, each with a thread for its coordinator."""


@dataclass(frozen=True)
class FederationServices:
    """The services of a Domain that federated jobs use."""

    database: Database
    writes: AuditedWrites
    files: JobFiles
    clock: Clock
    notify: Callable[[str], None]
    """Notifies the followers of a job, by its id, of a change."""
    timings: ParticipationTimings


class FederatedService:
    """Takes part in trainings at other Domains.

    Args:
        connect: returns a client of the process in a request.
        may_dial: whether this Domain calls an address that no person has reviewed.
    """

    def __init__(
        self, services: FederationServices, connect: Connect, may_dial: Callable[[str], Awaitable[bool]]
    ) -> None:
        self._services = services
        self._connect = connect
        self._may_dial = may_dial
        self._executor = ThreadPoolExecutor(2 * MAX_JOBS, thread_name_prefix="federation")
        self._taking_part: dict[str, FederatedParticipation] = {}

    @property
    def max_jobs(self) -> int:
        """The number of jobs that can take part at once."""
        return MAX_JOBS

    def doing(self, job_id: str) -> str:
        """Return the present step of a job as text; empty if it does not take part now."""
        found = self._taking_part.get(job_id)
        return "" if found is None else found.doing

    async def may_dial(self, job: JobRecord) -> bool:
        """Whether this Domain calls the job's coordinator without a review by a person."""
        assert job.request.federation is not None
        return await self._may_dial(job.request.federation.coordinator)

    async def take_part(self, job: JobRecord, trainer: Trainer) -> ParticipationResult:
        """Run a job to its end, or continue it. Cancelling the call interrupts it as a crash would.

        Raises:
            OSError: an error of this Domain; the call can be repeated.
        """
        services = self._services

        def load(connection: sa.Connection) -> tuple[list[RoundAttempt], int]:
            schema = dataset_rows.get_schema(connection, job.version_id)
            return rows.list_parts(connection, job.id), schema.num_records

        parts, num_records = await services.database.read(load)
        folder = services.files.cycle_folder(job.id)
        approved = await asyncio.to_thread(read_layout_of, services.files.inputs(job.id).path(job.model_hash))
        models = ModelFiles(folder / "models", approved.total_bytes + MODEL_SLACK_BYTES)
        reports = await asyncio.to_thread(BlobFiles, folder / "reports")
        coordinator = await asyncio.to_thread(self._open, job, parts[-1].client_id if parts else None, models)
        given = Given(
            job,
            approved,
            num_records,
            models,
            reports,
            coordinator,
            trainer,
            lambda: services.notify(job.id),
            services.timings,
        )
        participation = FederatedParticipation(given, services.database, services.writes, services.clock, parts)
        self._taking_part[job.id] = participation
        try:
            return await participation.run()
        finally:
            del self._taking_part[job.id]
            coordinator.close()

    async def leave(self, job: JobRecord) -> None:
        """Notify the coordinator of an ended job that it must not wait for it.

        If this fails, the coordinator notices at its deadline.
        """
        coordinator = await asyncio.to_thread(self._open, job, None, ModelFiles(Path(), 0))
        try:
            await coordinator.call(coordinator.client.authenticate)
            await coordinator.call(coordinator.client.leave)
        except PygridError as error:
            logger.info("coordinator not notified", extra={"job_id": job.id, "code": error.code})
        finally:
            coordinator.close()

    def close(self) -> None:
        """End the threads."""
        self._executor.shutdown()

    def _open(self, job: JobRecord, client_id: str | None, models: ModelFiles) -> CoordinatorConnection:
        federation = job.request.federation
        assert federation is not None
        is_guarded = job.decided_by is None
        return CoordinatorConnection(
            lambda sleep: self._connect(
                federation, client_id=client_id, cache=models, is_guarded=is_guarded, sleep=sleep
            ),
            self._executor,
        )
