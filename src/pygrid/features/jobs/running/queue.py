"""The queue of jobs in the store: waiting jobs, leases, and the next job to start."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection

import sqlalchemy as sa

from pygrid.clock import Clock
from pygrid.core import jobs as rules
from pygrid.core.job_terms import events_of
from pygrid.core.jobs import JobRecord, JobState
from pygrid.features.jobs.charges import end_charge
from pygrid.features.jobs.running.job_writes import JobWrites
from pygrid.privacy.ledger import BudgetRefusal, ChargeState, Rejected
from pygrid.storage import charges
from pygrid.storage import jobs as rows
from pygrid.storage.audit import AuditedWrites
from pygrid.storage.engine_starts import find_pool_at_work
from pygrid.storage.sql.database import Database

LEASE_S = 60.0


class JobQueue:
    """The jobs that continue without a decision of a person."""

    def __init__(self, database: Database, writes: AuditedWrites, job_writes: JobWrites, clock: Clock) -> None:
        self._database = database
        self._writes = writes
        self._job_writes = job_writes
        self._clock = clock
        self._fences: dict[str, int] = {}
        """Fences of the running jobs that this process holds."""

    async def recover(self) -> None:
        """Check that the log of charges is complete, unless that was checked; called before the first request.

        If the store of the exported head does not answer, another call checks it again.
        """
        if self._writes.is_unread:
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

    async def acquire(self, job: JobRecord, *, is_start: bool = False) -> JobRecord | None:
        """Take over a running job whose holder is lost; None if its holder has renewed the lease.

        Args:
            is_start: the Domain starts, so no job has another holder.
        """
        now = self._clock.now()
        until = now + dt.timedelta(seconds=LEASE_S)
        lost_before = None if is_start else now
        taken = await self._database.write(lambda connection: rows.acquire_lease(connection, job, until, lost_before))
        if taken is not None:
            self._fences[taken.id] = taken.lease_fence
        return taken

    async def find_pool_at_work(self, job: JobRecord) -> str | None:
        """Return the pool of the Worker on another machine that has a running job, or that is about to start for it."""
        return await self._database.read(lambda connection: find_pool_at_work(connection, job.id))

    async def keep_leases(self, job_ids: Collection[str]) -> set[str]:
        """Extend the leases of the jobs that run here by `LEASE_S`.

        Returns:
            The ids of those that another process has taken over.
        """
        self._fences = {job_id: fence for job_id, fence in self._fences.items() if job_id in job_ids}
        if not self._fences:
            return set()
        until, fences = self._clock.now() + dt.timedelta(seconds=LEASE_S), self._fences
        return await self._database.write(lambda connection: rows.renew_leases(connection, fences, until))

    async def take_next(self, pool: str | None = None, *, federated: bool = False) -> JobRecord | None:
        """Start the job that has waited longest, ``approved -> running``, and debit it in the same transaction.

        If the ledger refuses the job, it goes ``-> failed``, and nothing is debited. The debit is reserved, and can be
        refunded, until a Worker receives the job.

        Args:
            pool: take only jobs that may run in this pool.
        Returns:
            The job in its new state; None: no job waits.
        """

        def transaction(connection: sa.Connection) -> JobRecord | None:
            exact_only = self._writes.is_rolled_back
            job = rows.find_next(connection, exact_only=exact_only, pool=pool, federated=federated)
            if job is None:
                return None
            now = self._clock.now()
            if rows.get_job_dataset(connection, job).is_deleted:
                gone = rules.fail(job, "dataset_not_found", "the dataset was deleted; nothing was charged")
                end_charge(connection, job, ChargeState.FAILED, now)
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
            where = {} if pool is None else {"pool": pool}
            return self._job_writes.write(connection, rules.start(job), "job_started", lease_s=LEASE_S, **where)

        taken = await self._writes.write(transaction)
        if taken is not None:
            self._fences[taken.id] = taken.lease_fence
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
