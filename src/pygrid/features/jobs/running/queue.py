"""What there is to do, as the store has it: who waits for what, who holds a lease, who is next."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection

import sqlalchemy as sa

from pygrid.clock import Clock
from pygrid.core import jobs as rules
from pygrid.core.job_terms import events_of
from pygrid.core.jobs import JobRecord, JobState
from pygrid.features.jobs.running.job_writes import JobWrites
from pygrid.privacy.ledger import BudgetRefusal, Rejected
from pygrid.storage import charges
from pygrid.storage import jobs as rows
from pygrid.storage.audit import AuditedWrites
from pygrid.storage.sql.database import Database

LEASE_S = 60.0


class JobQueue:
    """The jobs that go on without a person."""

    def __init__(self, database: Database, writes: AuditedWrites, job_writes: JobWrites, clock: Clock) -> None:
        self._database = database
        self._writes = writes
        self._job_writes = job_writes
        self._clock = clock

    async def recover(self) -> None:
        """See whether the log of what was spent is whole; called once, before the first request."""
        await self._writes.recover()

    async def list_kept_ids(self) -> tuple[set[str], set[str]]:
        """Of the jobs whose inputs are still needed, and of those whose result is."""

        def load(connection: sa.Connection) -> tuple[set[str], set[str]]:
            return rows.list_unfinished_ids(connection), rows.list_result_ids(connection)

        return await self._database.read(load)

    async def list_running(self) -> list[JobRecord]:
        """Those that run, or did when the Domain went away."""
        return await self._database.read(lambda connection: rows.list_in_state(connection, JobState.RUNNING))

    async def list_lost(self) -> list[JobRecord]:
        """Those that run by their rows, but whose lease has run out."""
        now = self._clock.now()
        return await self._database.read(lambda connection: rows.list_lost(connection, now))

    async def list_checking(self) -> list[JobRecord]:
        """Those that wait to be tried on their mock twins."""
        return await self._database.read(lambda connection: rows.list_in_state(connection, JobState.CHECKING))

    async def has_approved(self) -> bool:
        """Whether one waits to be started."""
        return bool(await self._database.read(lambda connection: rows.list_in_state(connection, JobState.APPROVED, 1)))

    async def keep_leases(self, job_ids: Collection[str]) -> None:
        """Hold what runs here for another `LEASE_S`."""
        if job_ids:
            until = self._clock.now() + dt.timedelta(seconds=LEASE_S)
            await self._database.write(lambda connection: rows.renew_leases(connection, job_ids, until))

    async def take_next(self, *, remote: bool = False, federated: bool = False) -> JobRecord | None:
        """``approved -> running`` for the job that has waited longest, debited in the same transaction; ``-> failed``
        if the ledger refuses it, and then nothing is debited. None: nothing to do. ``remote``: only those that may go
        elsewhere.

        The debit is reserved until a Worker is given the job: it can be given back until then.
        """

        def transaction(connection: sa.Connection) -> JobRecord | None:
            exact_only = self._writes.is_rolled_back
            job = rows.find_next(connection, exact_only=exact_only, remote_only=remote, federated=federated)
            if job is None:
                return None
            now = self._clock.now()
            if rows.get_job_dataset(connection, job).is_deleted:
                gone = rules.fail(job, "dataset_not_found", "the dataset was deleted; nothing was charged")
                return self._job_writes.write(connection, gone, "job_failed")
            if job.terms is not None:
                decision = charges.reserve(
                    connection,
                    job_id=job.id,
                    dataset_id=job.dataset_id,
                    user_id=job.requested_by,
                    events=events_of(job.terms),
                    now=now,
                )
                if isinstance(decision, Rejected):
                    return self._job_writes.write(connection, _refused(job, decision.reason), "job_failed")
            return self._job_writes.write(connection, rules.start(job), "job_started", lease_s=LEASE_S)

        taken = await self._writes.write(transaction)
        if taken is not None:
            self._job_writes.announce(taken)
        return taken


def _refused(job: JobRecord, reason: BudgetRefusal) -> JobRecord:
    if reason in (BudgetRefusal.DATASET_EXHAUSTED, BudgetRefusal.USER_EXHAUSTED):
        whose = (
            "the dataset's privacy budget"
            if reason is BudgetRefusal.DATASET_EXHAUSTED
            else "your part of the privacy budget"
        )
        return rules.fail(job, "budget_exhausted", f"{whose} has no room for this job; nothing was charged")
    return rules.fail(job, reason.value, "the privacy budget refused this job; nothing was charged")
