"""The use cases of jobs: submit, follow, decide, download the result."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import sqlalchemy as sa

from pygrid import codes
from pygrid.clock import Clock
from pygrid.core import jobs as rules
from pygrid.core.access import Principal, require
from pygrid.core.datasets import Schema, can_see, dataset_not_found
from pygrid.core.job_checks import check_request
from pygrid.core.job_pools import check_asked as check_pool
from pygrid.core.job_terms import make_terms
from pygrid.core.jobs import JobRecord, JobState
from pygrid.errors import Conflict, Gone, InvalidConfig, InvalidInput, NotFound
from pygrid.features.jobs.charges import Account, check_fits, end_charge, get_account
from pygrid.features.jobs.checks import CheckedRequest, Submission, check_asked
from pygrid.features.jobs.presenter import Describer
from pygrid.features.jobs.quotas import check_quotas
from pygrid.features.jobs.running.control import JobControl
from pygrid.features.jobs.running.spec_builder import RunLimits
from pygrid.lifecycle import Stopping
from pygrid.messages.decoding import decode_json
from pygrid.messages.jobs import DecisionRequest, JobInfo, JobRequest
from pygrid.privacy.ledger import ChargeState
from pygrid.storage import accounts, audit
from pygrid.storage import datasets as dataset_rows
from pygrid.storage import jobs as rows
from pygrid.storage.audit import AuditedWrites
from pygrid.storage.blobs.protocol import Blobs, BlobWriter
from pygrid.storage.idempotency import once
from pygrid.storage.job_files import JobFolder, new_job_id
from pygrid.storage.jobs import JobDataset, JobFilter
from pygrid.storage.policies import list_allowed_pools
from pygrid.storage.signals import job_topic, notify_job, wait_for_any
from pygrid.storage.store import Store
from pygrid.transport.address import parse_address

logger = logging.getLogger(__name__)

MAX_COMMENT = 5_000
REFRESH_S = 10.0
"""Longest time between two reads of an event stream from the store."""


Decide = Callable[[sa.Connection, JobRecord], tuple[JobRecord, str]]
"""`(connection, job) -> (job after the decision, name of the audit entry)`."""


@dataclass(frozen=True)
class JobDraft:
    """The place for what a job comes with, before it is submitted."""

    job_id: str
    inputs: Blobs
    model: BlobWriter


class JobsService:
    """The use cases of jobs."""

    def __init__(
        self,
        store: Store,
        writes: AuditedWrites,
        control: JobControl,
        clock: Clock,
        stopping: Stopping,
        limits: RunLimits,
    ) -> None:
        self._database, self._files, self._signals = store.database, store.job_files, store.signals
        self._writes = writes
        self._control = control
        self._clock = clock
        self._stopping = stopping
        self.limits = limits

    @contextlib.asynccontextmanager
    async def receive(self, principal: Principal) -> AsyncIterator[JobDraft]:
        """Submit a job by the form in ``body``. All of it is checked before anything is stored.

        The files are removed if the block fails. Raises Unavailable: this Domain can run no jobs.
        """
        require(principal)
        await self._control.pools.start()
        job_id = new_job_id()
        with self._files.receive(job_id) as inputs, inputs.writer() as model:
            yield JobDraft(job_id, inputs, model)

    async def submit(self, principal: Principal, draft: JobDraft, submission: Submission) -> JobInfo:
        """Ask for a job: all of it is checked before anything is stored.

        Args:
            draft: what `receive` has yielded.
        Raises:
            InvalidInput, PayloadTooLarge: the form is not valid.
            NotFound: ``dataset_not_found``, ``dataset_version_not_found``: it does not exist, or the caller may not see
                it.
            InvalidInput: ``pool_unknown``. Conflict: ``pool_not_allowed``;
                ``no_budget``, ``no_grant``: there is no privacy budget for a private job;
                ``budget_exhausted``: the budget has too little left; ``federation_exists``.
            TooManyRequests: ``too_many_jobs``, ``too_many_federated_jobs``.
            Unavailable: this Domain cannot run private jobs.
        """
        request = _read_request(submission)
        if request.privacy is not None:
            self._writes.check()
        job, asked = await self._make_job(principal, draft.job_id, request, submission, draft.model.path)
        model_hash = await asyncio.to_thread(draft.model.commit) if submission.has_model else ""
        if submission.plan is not None:
            await asyncio.to_thread(draft.inputs.put, submission.plan)
        if asked.report:
            await asyncio.to_thread(self._files.put_report, job.id, asked.report)
        job = _seal(job, model_hash)

        def transaction(connection: sa.Connection) -> JobInfo:
            check_quotas(connection, job, max_federated=self.limits.max_federated)
            check_fits(connection, job)
            rows.put_job(connection, job)
            data = {"job_id": job.id, "dataset_id": job.dataset_id, "request_hash": job.request_hash}
            audit.append(connection, "job_submitted", data, actor=principal.user_id, now=job.created_at)
            return self._describe(connection, principal, job)

        info = await self._writes.write(once(transaction))
        logger.info("job submitted", extra={"job_id": job.id, "dataset_id": job.dataset_id, "kind": request.kind})
        self._control.wake.set()
        notify_job(self._signals, job.id)
        return info

    async def _make_job(
        self, principal: Principal, job_id: str, request: JobRequest, submission: Submission, model: Path
    ) -> tuple[JobRecord, CheckedRequest]:
        """Return the job of a form, without the hash of its model and the hash of the request."""

        def load(connection: sa.Connection) -> tuple[int, Schema, Account | None]:
            dataset = dataset_rows.get_dataset(connection, request.dataset)
            if not can_see(principal, dataset.holding):
                raise dataset_not_found(request.dataset)
            version = dataset_rows.get_version(connection, dataset.id, request.version)
            allowed = list_allowed_pools(connection, dataset.id)
            is_federated = request.federation is not None
            check_pool(request.pool, allowed, self._control.pools.names, is_federated=is_federated)
            schema = dataset_rows.get_schema(connection, version.id)
            account = None if request.privacy is None else get_account(connection, dataset.id, principal.user_id)
            return version.id, schema, account

        version_id, schema, account = await self._database.read(load)
        asked = await check_asked(request, submission, schema, model, max_result_bytes=self.limits.max_answers_bytes)
        caps, unit = ((), None) if account is None else (account.caps, account.unit)
        terms = await asyncio.to_thread(make_terms, request, schema, caps, unit)
        now = self._clock.now()
        job = JobRecord(
            id=job_id,
            dataset_id=request.dataset,
            version_id=version_id,
            state=JobState.CHECKING,
            request=request,
            request_hash="",
            requested_by=principal.user_id,
            plan_id=asked.plan_id,
            plan_name=asked.plan_name,
            plan_summary=asked.summary,
            model_hash="",
            terms=terms,
            created_at=now,
            updated_at=now,
            detail="it is being checked on the mock dataset",
        )
        return job, asked

    async def get(self, principal: Principal, job_id: str) -> JobInfo:
        """Return a job. Raises NotFound: ``job_not_found``: it does not exist, or the caller may not see it."""

        return await self._database.read(lambda connection: self.describe(principal, connection, job_id))

    def describe(self, principal: Principal, connection: sa.Connection, job_id: str) -> JobInfo:
        """Return a job within a transaction of the caller. Raises as `get`."""
        job, _ = _get_seen(connection, principal, job_id)
        return self._describe(connection, principal, job)

    async def list_jobs(self, principal: Principal, wanted: JobFilter) -> list[JobInfo]:
        """Return the caller's jobs and those on their datasets, newest first."""

        def load(connection: sa.Connection) -> list[JobInfo]:
            found = rows.list_jobs(connection, principal, wanted)
            describer = self._describer(connection, principal)
            return [describer.describe(job) for job in found]

        return await self._database.read(load)

    async def list_queue(self, principal: Principal, after: str | None, limit: int) -> list[JobInfo]:
        """Return the jobs that wait for a decision and that the caller may see, oldest first.

        Args:
            after: only jobs submitted after the one of this id.
        """

        def load(connection: sa.Connection) -> list[JobInfo]:
            states = (JobState.WAITING, JobState.HELD)
            found = rows.list_queue(connection, principal, states, after, limit)
            describer = self._describer(connection, principal)
            return [describer.describe(job) for job in found]

        return await self._database.read(load)

    async def follow(
        self, principal: Principal, job_id: str, after: int | None = None
    ) -> AsyncIterator[tuple[int, JobInfo]]:
        """Yield a job now and after each change and progress, until it has ended or the caller may not see it.

        Each item has the number of its change.

        Args:
            after: number of the last change that the caller has seen; later ones are yielded first.
        Raises:
            NotFound: ``job_not_found``.
        """
        await self.get(principal, job_id)
        return self._changes(principal, job_id, after)

    async def _changes(
        self, principal: Principal, job_id: str, after: int | None
    ) -> AsyncIterator[tuple[int, JobInfo]]:
        def load(connection: sa.Connection) -> tuple[JobRecord, JobInfo] | None:
            try:
                # A caller can follow for days, so their present role decides what they may see.
                now_is = accounts.get_principal(connection, principal.user_id)
                job, _ = _get_seen(connection, now_is, job_id)
            except NotFound:
                return None
            return job, self._describe(connection, now_is, job)

        last, progress = after, -1.0
        while not self._stopping.is_set():
            changed = self._signals.next(job_topic(job_id))
            found = await self._database.read(load)
            if found is None:
                return
            job, info = found
            for number in range(job.sequence if last is None else last + 1, job.sequence):
                # Several changes came between two reads; the earlier ones are in the history.
                missed = job.history[number]
                yield number, msgspec.structs.replace(info, state=missed.state.value, updated_at=missed.at)
            if (job.sequence, info.progress) != (last, progress):
                last, progress = job.sequence, info.progress
                yield job.sequence, info
            if job.has_ended:
                return
            await wait_for_any([changed], REFRESH_S)

    async def find_result(self, principal: Principal, job_id: str) -> tuple[JobFolder, str, str]:
        """Return the location of a result: the job's folder, the SHA-256 of the result, its media type.

        Raises:
            NotFound: ``job_not_found``; ``result_not_found``: the job ended without one. Gone: ``result_expired``.
            Conflict: ``result_not_released``: the job has no result so far, or it is not released to the caller.
        """

        def load(connection: sa.Connection) -> tuple[JobRecord, bool]:
            job, dataset = _get_seen(connection, principal, job_id)
            return job, rules.sees_all(principal, job.requested_by, dataset.holding)

        job, is_all_seen = await self._database.read(load)
        if rules.may_have_result(job, is_all_seen=is_all_seen):
            assert job.result is not None
            return self._files.result(job.id), job.result.hash, job.result.media_type
        if job.code == rules.RESULT_EXPIRED:
            raise Gone(job.detail, code=job.code, job_id=job_id)
        if job.has_ended:
            raise NotFound(f"the job is {job.state}: it has no result", code=codes.RESULT_NOT_FOUND, job_id=job_id)
        raise Conflict(
            f"the job is {job.state}: its result is not released", code=codes.RESULT_NOT_RELEASED, job_id=job_id
        )

    async def approve(self, principal: Principal, job_id: str, decision: DecisionRequest) -> JobInfo:
        """Approve a waiting job, or approve the release of a held result.

        Raises:
            NotFound: ``job_not_found``. Forbidden: ``own_request``, ``not_your_dataset``.
            Conflict: ``request_changed``, ``state_changed``, ``job_decided``, ``dataset_deleted``,
                ``budget_exhausted``: the privacy budget has too little left.
        """

        def decide(connection: sa.Connection, job: JobRecord) -> tuple[JobRecord, str]:
            rules.check_seen(job, decision.state)
            rules.check_deletion(job, is_deleted=rows.get_job_dataset(connection, job).is_deleted)
            if job.state is JobState.HELD:
                moved = rules.release(job, principal.user_id, decision.request_hash, decision.comment)
                return moved, "job_released"
            approved = rules.approve(job, principal.user_id, decision.request_hash, decision.comment)
            check_fits(connection, job)
            return approved, "job_approved"

        return await self._decide(principal, job_id, decision.comment, decide)

    async def deny(self, principal: Principal, job_id: str, decision: DecisionRequest) -> JobInfo:
        """Deny a waiting job, or the release of a held result, which is deleted. Raises as `approve`."""

        def decide(connection: sa.Connection, job: JobRecord) -> tuple[JobRecord, str]:
            rules.check_seen(job, decision.state)
            return rules.deny(job, principal.user_id, decision.request_hash, decision.comment), "job_denied"

        info = await self._decide(principal, job_id, decision.comment, decide)
        self._files.drop_result(job_id)
        return info

    async def revoke(self, principal: Principal, job_id: str) -> JobInfo:
        """Revoke an approval before the job runs; for a federated job, until it has ended. Raises as `approve`."""
        ended: list[JobRecord] = []

        def decide(connection: sa.Connection, job: JobRecord) -> tuple[JobRecord, str]:
            moved = rules.revoke(job, principal.user_id)
            end_charge(connection, job, ChargeState.FAILED, self._clock.now())
            if job.state is JobState.RUNNING:
                ended[:] = [job]
            return moved, "job_revoked"

        info = await self._decide(principal, job_id, "", decide)
        for job in ended:
            self._control.stop(job)
        return info

    async def cancel(self, principal: Principal, job_id: str) -> JobInfo:
        """Cancel the caller's own job. What was charged for it stays charged.

        Raises:
            NotFound: ``job_not_found``. Forbidden: ``not_your_dataset``: another user's job. Conflict: ``job_decided``.
        """

        def transaction(connection: sa.Connection) -> tuple[JobInfo, JobRecord]:
            now = self._clock.now()
            job, dataset = _get_seen(connection, principal, job_id, lock=True)
            if refusal := rules.may_cancel(principal, job.requested_by, dataset.holding):
                raise rules.refusal_error(refusal, job_id)
            moved = rules.cancel(job)
            rows.update_job(connection, moved, now)
            end_charge(connection, job, ChargeState.FAILED, now)
            audit.append(connection, "job_cancelled", {"job_id": job_id}, actor=principal.user_id, now=now)
            return self._describe(connection, principal, moved), job

        info, before = await self._writes.write(once(transaction, lambda found: found[0]))
        self._control.stop(before)
        self._announce(job_id, has_ended=True)
        return info

    async def _decide(self, principal: Principal, job_id: str, comment: str, decide: Decide) -> JobInfo:
        if len(comment) > MAX_COMMENT or "\0" in comment:
            raise InvalidInput(f"the comment must have at most {MAX_COMMENT:,} characters, and no NUL")

        def transaction(connection: sa.Connection) -> tuple[JobInfo, bool]:
            now = self._clock.now()
            job, dataset = _get_seen(connection, principal, job_id, lock=True)
            if refusal := rules.may_decide(principal, job.requested_by, dataset.holding):
                raise rules.refusal_error(refusal, job_id)
            moved, action = decide(connection, job)
            rows.update_job(connection, moved, now)
            data = {"job_id": job_id, "dataset_id": job.dataset_id, "request_hash": job.request_hash}
            if moved.result is not None:
                data["result_hash"] = moved.result.hash
            audit.append(connection, action, data, actor=principal.user_id, now=now)
            return self._describe(connection, principal, moved), moved.has_ended

        info, has_ended = await self._writes.write(once(transaction, lambda found: found[0]))
        logger.info("job decided", extra={"job_id": job_id, "state": info.state})
        self._announce(job_id, has_ended=has_ended)
        self._control.wake.set()
        return info

    def _announce(self, job_id: str, *, has_ended: bool) -> None:
        if has_ended:
            self._files.drop_inputs(job_id)
        notify_job(self._signals, job_id)

    def _describe(self, connection: sa.Connection, principal: Principal, job: JobRecord) -> JobInfo:
        return self._describer(connection, principal).describe(job)

    def _describer(self, connection: sa.Connection, principal: Principal) -> Describer:
        progress, doing = self._control.runs.progress, self._control.federated.federation.doing
        return Describer(connection, principal, progress, doing, self.limits.review, self._files.model_bytes)


def _get_seen(
    connection: sa.Connection, principal: Principal, job_id: str, *, lock: bool = False
) -> tuple[JobRecord, JobDataset]:
    """Return a job with its dataset, if the caller may see it."""
    job = rows.get_job(connection, job_id, lock=lock)
    dataset = rows.get_job_dataset(connection, job)
    if not rules.may_see(principal, job.requested_by, dataset.holding):
        raise rows.job_not_found(job_id)
    return job, dataset


def _read_request(submission: Submission) -> JobRequest:
    try:
        request = msgspec.convert(decode_json(submission.config), JobRequest)
    except (InvalidInput, msgspec.ValidationError) as error:
        raise InvalidConfig(f"config does not describe a job: {error}", code=codes.INVALID_JOB) from error
    check_request(request)
    if request.federation is not None:
        parse_address(request.federation.coordinator)
    return request


def _seal(job: JobRecord, model_hash: str) -> JobRecord:
    """Return the job with the hash to which an approval is bound. For predictions, the model replaces the plan."""
    plan_id = model_hash if job.request.kind == "predict" else job.plan_id
    request_hash = rules.hash_request(
        job.request,
        requested_by=job.requested_by,
        version_id=job.version_id,
        plan_id=plan_id,
        model_hash=model_hash,
        terms=job.terms,
    )
    return replace(job, plan_id=plan_id, model_hash=model_hash, request_hash=request_hash)
