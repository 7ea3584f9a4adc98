"""Maintenance of jobs: those of deleted accounts or datasets end, those without a pool say so, old results go."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Collection
from dataclasses import dataclass

import sqlalchemy as sa

from pygrid.clock import Clock
from pygrid.core import jobs as rules
from pygrid.core.jobs import JobRecord
from pygrid.features.jobs.charges import end_charge
from pygrid.features.jobs.running.control import JobControl
from pygrid.privacy.ledger import ChargeState
from pygrid.storage import audit
from pygrid.storage import jobs as rows
from pygrid.storage.audit import AuditedWrites
from pygrid.storage.job_files import JobFiles
from pygrid.storage.signals import Signals, notify_job
from pygrid.storage.sql.database import Database

logger = logging.getLogger(__name__)

EVERY_S = 15.0


@dataclass(frozen=True)
class JobUpkeep:
    """Ends abandoned jobs, marks those that no pool can run, and deletes old results.

    Args:
        keep_results_days: days for which a result is kept after its release; 0: for good.
    """

    database: Database
    writes: AuditedWrites
    files: JobFiles
    signals: Signals
    control: JobControl
    clock: Clock
    keep_results_days: int

    async def run_once(self) -> None:
        """Do all maintenance that is due now."""
        for job_id in await self.database.read(rows.list_abandoned_ids):
            await self._end(job_id)
        for job_id in await self.database.read(rows.list_withdrawn_ids):
            await self._withdraw(job_id)
        pools = self.control.pools.names
        for job_id in await self.database.read(lambda connection: rows.list_stranded_ids(connection, pools)):
            await self._strand(job_id, pools)
        if self.keep_results_days:
            before = self.clock.now() - dt.timedelta(days=self.keep_results_days)
            for job_id in await self.database.read(lambda connection: rows.list_old_results(connection, before)):
                await self._delete_result(job_id)

    async def _end(self, job_id: str) -> None:
        """Cancel a job of a deleted account."""

        def transaction(connection: sa.Connection) -> JobRecord | None:
            now = self.clock.now()
            job = rows.get_job(connection, job_id, lock=True)
            if not rules.is_abandoned(job, has_requester=rows.has_account(connection, job.requested_by)):
                return None
            rows.update_job(connection, rules.abandon(job), now)
            end_charge(connection, job, ChargeState.FAILED, now)
            audit.append(connection, "job_cancelled", {"job_id": job_id}, actor=None, now=now)
            return job

        before = await self.writes.write(transaction)
        if before is None:
            return
        logger.info("job of a deleted account cancelled", extra={"job_id": job_id, "state": before.state.value})
        self.control.stop(before)
        self.files.drop_inputs(job_id)
        notify_job(self.signals, job_id)

    async def _withdraw(self, job_id: str) -> None:
        """Deny a job whose dataset was deleted while it waited for a decision.

        The row changes first, as in `_delete_result`.
        """

        def transaction(connection: sa.Connection) -> bool:
            now = self.clock.now()
            job = rows.get_job(connection, job_id, lock=True)
            if job.state not in rules.WITHDRAWN:
                return False
            rows.update_job(connection, rules.withdraw(job), now)
            audit.append(connection, "job_denied", {"job_id": job_id}, actor=None, now=now)
            return True

        if not await self.writes.write(transaction):
            return
        logger.info("job on a deleted dataset denied", extra={"job_id": job_id})
        self.files.drop_inputs(job_id)
        self.files.drop_result(job_id)
        notify_job(self.signals, job_id)

    async def _strand(self, job_id: str, pools: Collection[str]) -> None:
        """Say that no pool can run an approved job, because the one for it was removed."""

        def transaction(connection: sa.Connection) -> None:
            wanted = ", ".join(sorted(rows.find_pools(connection, rows.get_job(connection, job_id, lock=True))))
            why = (
                f"this Domain has no pool {wanted}: an operator can add it to pools.toml again; or cancel the job, and "
                f"submit it for one of the pools {', '.join(pools)}"
            )
            rows.strand(connection, job_id, why)

        await self.database.write(transaction)
        logger.warning("job has no pool", extra={"job_id": job_id})
        notify_job(self.signals, job_id)

    async def _delete_result(self, job_id: str) -> None:
        """Delete the bytes of a result; its job stays.

        The row changes first. The next start removes bytes that no row names.
        """
        days = "a day" if self.keep_results_days == 1 else f"{self.keep_results_days} days"
        detail = f"the result was deleted {days} after its release"

        def transaction(connection: sa.Connection) -> None:
            rows.forget_result(connection, job_id, detail)
            audit.append(connection, "result_deleted", {"job_id": job_id}, actor=None, now=self.clock.now())

        await self.writes.write(transaction)
        self.files.drop_result(job_id)
        logger.info("old result deleted", extra={"job_id": job_id})
