"""Everything that a person needs to decide on a job, from one read of the store."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import sqlalchemy as sa

from pygrid.core import jobs as rules
from pygrid.core.access import Principal
from pygrid.core.jobs import JobRecord, JobState
from pygrid.errors import NotFound, Unavailable
from pygrid.features.jobs.charges import find_account
from pygrid.features.jobs.result_preview import ResultPreview, preview_result
from pygrid.features.jobs.service import JobsService
from pygrid.messages.jobs import JobInfo, JobRequest
from pygrid.plans.picture import Picture
from pygrid.plans.pictures import PlanPictures
from pygrid.privacy import ledger
from pygrid.storage import job_reviews as rows
from pygrid.storage.job_files import JobFiles
from pygrid.storage.jobs import get_job, get_job_dataset
from pygrid.storage.sql.database import Database


@dataclass(frozen=True, slots=True)
class FieldChange:
    """A field that differs between two requests."""

    name: str
    before: str
    now: str


@dataclass(frozen=True, slots=True)
class RequesterHistory:
    """What the requester has asked of the dataset before."""

    outcomes: Mapping[JobState, int]
    """Number of other requests by their state."""
    epsilon_spent: float | None
    """Spent part of the requester's share; None: no budget is open."""
    approved_job: str
    """The last request that a person approved; empty: none."""
    changes: tuple[FieldChange, ...]
    """How this request differs from it."""


@dataclass(frozen=True, slots=True)
class JobReview:
    """A job, and the evidence for a decision on it."""

    info: JobInfo
    may_decide: bool
    """Whether the caller may approve, deny or release."""
    history: RequesterHistory | None
    """None for a caller who does not see all of the job."""
    result: ResultPreview | None
    """None: there is no result, or the caller may not have it."""
    picture: Picture | None = None
    """The plan; None for a job without one, after its end, and for a caller who does not see all of the job."""


class ReviewService:
    """The use case of looking at a job before a decision."""

    def __init__(self, database: Database, files: JobFiles, jobs: JobsService) -> None:
        self._database = database
        self._files = files
        self._jobs = jobs
        self._pictures = PlanPictures()

    async def review(self, principal: Principal, job_id: str) -> JobReview:
        """Return a job as the caller may see it. Raises NotFound: ``job_not_found``."""

        def load(connection: sa.Connection) -> tuple[JobRecord, JobReview, bool]:
            info = self._jobs.describe(principal, connection, job_id)
            job = get_job(connection, job_id)
            dataset = get_job_dataset(connection, job)
            is_all_seen = rules.sees_all(principal, job.requested_by, dataset.holding)
            may_decide = rules.may_decide(principal, job.requested_by, dataset.holding) is None
            history = _history(connection, job) if is_all_seen else None
            has_result = rules.may_have_result(job, is_all_seen=is_all_seen)
            return job, JobReview(info, may_decide, history, None), has_result

        job, found, has_result = await self._database.read(load)
        result = picture = None
        if has_result and job.result is not None:
            result = await asyncio.to_thread(self._preview, job, job.result.hash)
        if found.history is not None and job.request.kind in ("train", "evaluate"):
            picture = await self._picture(job)
        return replace(found, result=result, picture=picture)

    async def _picture(self, job: JobRecord) -> Picture | None:
        return await self._pictures.get(job.plan_id, lambda: self._files.inputs(job.id).path(job.plan_id).read_bytes())

    def _preview(self, job: JobRecord, name: str) -> ResultPreview | None:
        try:
            return preview_result(job.request.kind, self._files.result(job.id).path(name))
        except (NotFound, Unavailable):
            return None  # removed meanwhile, or damaged: the download says so


def _history(connection: sa.Connection, job: JobRecord) -> RequesterHistory:
    account = find_account(connection, job.dataset_id, job.requested_by)
    spent = None
    if account is not None and account.user_cap is not None:
        spent = ledger.epsilon_spent(account.spent_by_user, account.user_cap)
    earlier = rows.find_approved_of(connection, job)
    return RequesterHistory(
        rows.count_outcomes(connection, job),
        spent,
        "" if earlier is None else earlier.id,
        () if earlier is None else compare_requests(earlier, job),
    )


def compare_requests(before: JobRecord, now: JobRecord) -> tuple[FieldChange, ...]:
    """Return the fields in which two requests differ, without those that every two requests differ in."""
    left, right = _fields(before), _fields(now)
    return tuple(
        FieldChange(name, left.get(name, "-"), right.get(name, "-"))
        for name in sorted(left.keys() | right.keys())
        if left.get(name) != right.get(name)
    )


def _fields(job: JobRecord) -> dict[str, str]:
    fields: dict[str, str] = {"plan": job.plan_id[:12] or "-", "model": job.model_hash[:12] or "-"}
    for name, value in msgspec.to_builtins(_plain(job.request)).items():
        if name in ("dataset", "seed"):
            continue
        if isinstance(value, dict):
            fields |= {f"{name}.{key}": _text(inner) for key, inner in value.items()}
        else:
            fields[name] = _text(value)
    return {name: text for name, text in fields.items() if text}


def _plain(request: JobRequest) -> JobRequest:
    """Return the request without secrets."""
    return msgspec.structs.replace(request, federation=None) if request.federation is not None else request


def _text(value: Any) -> str:
    if value is None or value in ([], {}, ""):
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
