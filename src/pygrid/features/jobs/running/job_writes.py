"""Changes of jobs that no request makes: each is one transaction with its audit entry, and is announced."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable
from dataclasses import replace

import sqlalchemy as sa

from pygrid.clock import Clock
from pygrid.core.jobs import JobRecord, JobState
from pygrid.features.jobs.charges import end_charge
from pygrid.privacy.ledger import ChargeState
from pygrid.storage import audit, charges
from pygrid.storage import jobs as rows
from pygrid.storage.audit import AuditedWrites
from pygrid.storage.job_files import JobFiles
from pygrid.storage.signals import Signals, notify_job
from pygrid.storage.sql.database import Database
from pygrid.storage.workers import begin_lease

logger = logging.getLogger(__name__)


class JobWrites:
    """Writes changes of jobs, and notifies their followers."""

    def __init__(
        self, database: Database, writes: AuditedWrites, files: JobFiles, signals: Signals, clock: Clock
    ) -> None:
        self._database = database
        self._writes = writes
        self._files = files
        self._signals = signals
        self._clock = clock

    async def move(
        self, job: JobRecord, step: Callable[[JobRecord], tuple[JobRecord, str]], charge: ChargeState | None = None
    ) -> JobRecord | None:
        """Make one transition from the state in which ``job`` was read, and move its charge.

        Args:
            step: returns the job after the transition, and the name of the audit entry.
        Returns:
            The job; None if it had left that state, or it runs under another lease.
        Raises:
            Conflict: ``charge_state``: the state of its charge does not allow the move; nothing was changed.
        """

        def transaction(connection: sa.Connection) -> JobRecord | None:
            now_is = rows.get_job(connection, job.id, lock=True)
            if not _may_move(connection, job, now_is):
                return None
            moved, action = step(now_is)
            if charge is not None:
                end_charge(connection, now_is, charge, self._clock.now())
            return self.write(connection, moved, action)

        moved = await self._writes.write(transaction)
        if moved is not None:
            logger.info("job moved", extra={"job_id": job.id, "state": moved.state.value})
            self.announce(moved)
        return moved

    async def begin(self, job: JobRecord, lease: str = "") -> bool:
        """Record that a Worker receives a running job: from here on its charge stands, with any outcome.

        Args:
            lease: hash of the id of the lease of a Worker on another machine.
        Returns:
            False if the job is not running now, or it runs under another lease, or the Worker has none. The record is
            durable before this returns.
        """

        def transaction(connection: sa.Connection) -> bool:
            if not _may_move(connection, job, rows.get_job(connection, job.id, lock=True)):
                return False
            if lease and not begin_lease(connection, lease):
                return False
            if job.is_private:
                charges.move_charge(connection, job.id, ChargeState.RUNNING, self._clock.now())
            return True

        return await self._writes.write(transaction)

    async def has_begun(self, job: JobRecord) -> bool:
        """Whether a Worker may have received a private job."""
        charge = await self._database.read(lambda connection: charges.get_charge(connection, job.id))
        return charge.state is not ChargeState.RESERVED

    def write(
        self, connection: sa.Connection, moved: JobRecord, action: str, *, lease_s: float | None = None, **more: str
    ) -> JobRecord:
        """Write a moved job and its audit entry in a transaction; the caller announces it after the commit.

        Args:
            more: further fields of the audit entry.
        """
        now = self._clock.now()
        until = None if lease_s is None else now + dt.timedelta(seconds=lease_s)
        stored = rows.update_job(connection, moved, now, lease_until=until)
        data = {"job_id": moved.id, "dataset_id": moved.dataset_id, "request_hash": moved.request_hash, **more}
        if moved.result is not None:
            data |= {"result_hash": moved.result.hash}
        audit.append(connection, action, data, actor=None, now=now)
        return replace(moved, lease_fence=stored.lease_fence)

    def announce(self, job: JobRecord) -> None:
        """Notify the followers of a moved job; the inputs of an ended job are deleted."""
        if job.state in (JobState.FAILED, JobState.REJECTED):
            phrase = "job failed" if job.state is JobState.FAILED else "job rejected"
            logger.warning(phrase, extra={"job_id": job.id, "code": job.code, "reason": job.detail})
        if job.has_ended:
            self._files.drop_inputs(job.id)
        notify_job(self._signals, job.id)


def _may_move(connection: sa.Connection, job: JobRecord, now_is: JobRecord) -> bool:
    """Whether the job is in the state in which it was read; a running one also under the same lease."""
    if now_is.state is not job.state:
        return False
    return now_is.state is not JobState.RUNNING or rows.holds_lease(connection, job)
