"""What a Domain does elsewhere in the name of its federated jobs: takes part, and says when it does not any more."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from pygrid.clock import Clock
from pygrid.core.federated import Departure, RoundAttempt, Trainer
from pygrid.core.jobs import JobRecord
from pygrid.errors import PygridError
from pygrid.features.jobs.federated.coordinator import MODEL_SLACK_BYTES, Connect, Line, ModelFiles
from pygrid.features.jobs.federated.participation import FederatedParticipation, Given
from pygrid.storage import datasets as dataset_rows
from pygrid.storage import federated as rows
from pygrid.storage.audit import AuditedWrites
from pygrid.storage.blobs.files import BlobFiles
from pygrid.storage.hosted_processes import read_layout_of
from pygrid.storage.job_files import JobFiles
from pygrid.storage.sql.database import Database

logger = logging.getLogger(__name__)

MAX_JOBS = 64
"""Federated jobs that take part at once, each with a thread that talks to its coordinator."""


@dataclass(frozen=True)
class FederationServices:
    """What it works with."""

    database: Database
    writes: AuditedWrites
    files: JobFiles
    clock: Clock
    notify: Callable[[str], None]
    """Tells those who follow a job, by its id, that something has changed."""


class FederatedService:
    """Takes part in trainings at other Domains.

    Args:
        connect: makes a client of the process that a request names.
        may_dial: whether an address is one that this Domain dials without a person having looked at it.
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
        """How many jobs can take part at once."""
        return MAX_JOBS

    def doing(self, job_id: str) -> str:
        """What a job does now, in words; empty if it takes no part."""
        found = self._taking_part.get(job_id)
        return "" if found is None else found.doing

    async def may_dial(self, job: JobRecord) -> bool:
        """Whether the coordinator is at an address that anybody may have this Domain dial."""
        assert job.request.federation is not None
        return await self._may_dial(job.request.federation.coordinator)

    async def take_part(self, job: JobRecord, trainer: Trainer) -> Departure:
        """See a running job through, or cut it off by cancelling the call, as by a crash: called again, it goes on.

        Raises:
            OSError and others: faults of this Domain; it can be called again.
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
        line = await asyncio.to_thread(self._open, job, parts[-1].client_id if parts else None, models)
        given = Given(job, approved, num_records, models, reports, line, trainer, lambda: services.notify(job.id))
        participation = FederatedParticipation(given, services.database, services.writes, services.clock, parts)
        self._taking_part[job.id] = participation
        try:
            return await participation.run()
        finally:
            del self._taking_part[job.id]
            line.close()

    async def leave(self, job: JobRecord) -> None:
        """Tell the coordinator of a job that has ended not to wait for it.

        Where that fails it finds out by its deadline.
        """
        line = await asyncio.to_thread(self._open, job, None, ModelFiles(Path(), 0))
        try:
            await line.call(line.client.authenticate)
            await line.call(line.client.leave)
        except PygridError as error:
            logger.info("coordinator not told", extra={"job_id": job.id, "code": error.code})
        finally:
            line.close()

    def close(self) -> None:
        """Let go of the threads."""
        self._executor.shutdown()

    def _open(self, job: JobRecord, client_id: str | None, models: ModelFiles) -> Line:
        federation = job.request.federation
        assert federation is not None
        is_guarded = job.decided_by is None
        return Line(
            lambda sleep: self._connect(
                federation, client_id=client_id, cache=models, is_guarded=is_guarded, sleep=sleep
            ),
            self._executor,
        )
