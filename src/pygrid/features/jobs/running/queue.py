"""The queue of jobs in the store: waiting jobs, leases, and the next job to start."""

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
    """The jobs that continue without a decision of a person."""

    def __init__(self, database: Database, writes: AuditedWrites, job_writes: JobWrites, clock: Clock) -> None:
        self._database = database
        self._writes = writes
        self._job_writes = job_writes
        self._clock = clock

    async def recover(self) -> None:
        """Check that the log of charges is complete; called once, before the first request."""
        await self._writes.recover()

    async def list_kept_ids(self) -> tuple[set[str], set[str]]:
        """Return the ids of the jobs whose inputs are needed, and of those whose result is needed."""

        def load(connection: sa.Connection) -> tuple[set[str], set[str]]:
            return rows.list_unfinished_ids(connection), rows.list_result_ids(connection)

        return await self._database.read(load)

    async def list_running(self) -> list[JobRecord]:
        """Return the jobs that run, or ran when the Domain stopped."""
        return await self._database.read(lambda connection: rows.list_in_state(connection, JobState.RUNNING))

    async def list_lost(self) -> list[JobRecord]:
        """Return the jobs in the state ``running`` whose lease has expired."""
        now = self._clock.now()
        return await self._database.read(lambda connection: rows.list_lost(connection, now))

    async def list_checking(self) -> list[JobRecord]:
        """Return the jobs that wait for their dry run."""
        return await self._database.read(lambda connection: rows.list_in_state(connection, JobState.CHECKING))

    async def has_approved(self) -> bool:
        """Whether an approved job waits for its start."""
        return bool(await self._database.read(lambda connection: rows.list_in_state(connection, JobState.APPROVED, 1)))

    async def keep_leases(self, job_ids: Collection[str]) -> None:
        """Extend the leases of the jobs that run here by `LEASE_S`."""
        if job_ids:
            until = self._clock.now() + dt.timedelta(seconds=LEASE_S)
            await self._database.write(lambda connection: rows.renew_leases(connection, job_ids, until))

    async def take_next(self, *, remote: bool = False, federated: bool = False) -> JobRecord | None:
        """Start the job that has waited longest, ``approved -> running``, and debit it in the same transaction.

        If the ledger refuses the job, it goes ``-> failed``, and nothing is debited. The debit is reserved, and can be
        refunded, until a Worker receives the job.

        Args:
            remote: take only jobs that may run on other machines.
        Returns:
            The job in its new state; None: no job waits.
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
        return rules.fail(job, "budget_exhausted", f"{whose} has too little left for this job; nothing was charged")
    return rules.fail(job, reason.value, "the privacy budget refused this job; nothing was charged")
