"""The caller's own jobs: the list, and one job with its progress and result."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from litestar import Response, get
from litestar.datastructures import State

from pygrid.core.access import Permission
from pygrid.core.jobs import JobState
from pygrid.errors import PygridError
from pygrid.features.jobs.result_preview import ResultPreview
from pygrid.features.jobs.reviews import JobReview
from pygrid.features.jobs.service import JobsService
from pygrid.storage.jobs import JobFilter
from pygrid.summaries.jobs import sheet
from pygrid.ui.access import signed_in
from pygrid.ui.console import console_of
from pygrid.ui.pages.job_parts import COLUMNS, JOB_TONES, Bar, JobLine, certainty_of, cost_bars, line_of
from pygrid.ui.pages.paging import PAGE_ROWS, Paging, make_paging
from pygrid.ui.request_words import AnswerTable, answer_tables, ask_in_words
from pygrid.ui.tables import answer_rows, find_format
from pygrid.ui.words import JOB_STATES
from pygrid.web.requests import AppRequest
from pygrid.web.services import service

_SHOWN_ABOVE = frozenset({"job", "state", "asked by", "reason", "asks to", "what leaves"})
"""Rows of the review summary that the page shows in another place, or that only interest a person who decides."""
_SHOWN_FIRST = frozenset({"approved by", "denied by", "released by", "revoked by", "so far"})


class JobsView(msgspec.Struct, frozen=True):
    jobs: list[JobLine]
    states: Mapping[str, str]
    state: str
    sees_others: bool
    is_all: bool
    """Whether jobs of others are shown too."""
    paging: Paging


class JobView(msgspec.Struct, frozen=True):
    id: str
    sentence: str
    words: str
    tone: str
    detail: str
    progress: float | None
    reason: str
    decided: list[tuple[str, str]]
    """By whom, and how far a federated job is."""
    rows: list[tuple[str, str]]
    budgets: list[Bar]
    certainty: str
    answers: list[AnswerTable]
    result: ResultPreview | None
    why_not: str
    has_result: bool
    may_cancel: bool
    python: str


@get("/jobs", guards=[signed_in()])
async def jobs_page(request: AppRequest, state: State) -> Response[bytes]:
    """Show jobs, newest first: the caller's own, or all that the caller may see."""
    wanted, query = find_format(request), request.query_params
    sees_others = any(map(request.user.may, (Permission.TRIAGE_REQUESTS, Permission.UPLOAD_DATA)))
    chosen = query.get("state", "") if query.get("state") in JOB_STATES else ""
    is_all = sees_others and query.get("whose") == "all"
    filtered = JobFilter(
        mine=not is_all,
        states=(JobState(chosen),) if chosen else (),
        before=query.get("before", "")[:64] or None,
        limit=PAGE_ROWS + 1,
    )
    found = await service(state, JobsService).list_jobs(request.user, filtered)
    lines = [line_of(job) for job in found[:PAGE_ROWS]]
    if wanted:
        return answer_rows(wanted, "jobs", lines, COLUMNS)
    paging = make_paging(request, lines[-1].id if len(found) > PAGE_ROWS else None, has_files=bool(lines))
    view = JobsView(lines, JOB_STATES, chosen, sees_others, is_all, paging)
    return await console_of(request).page(request, "jobs.html", "Jobs", view)


async def own_job_page(request: AppRequest, found: JobReview, error: PygridError | None = None) -> Response[bytes]:
    view = _view(found)
    return await console_of(request).page(request, "job.html", f"Job {found.info.id[:8]}", view, error=error)


def _view(found: JobReview) -> JobView:
    info = found.info
    is_pending = info.state in ("waiting", "held")
    statistics = info.request.statistics if info.request is not None else ()
    return JobView(
        id=info.id,
        sentence=ask_in_words(info),
        words=JOB_STATES[info.state],
        tone=JOB_TONES.get(info.state, "off"),
        detail=info.detail,
        progress=info.progress if info.state == "running" else None,
        reason=info.reason,
        decided=[row for row in sheet(info) if row[0] in _SHOWN_FIRST],
        rows=[row for row in sheet(info) if row[0] not in _SHOWN_ABOVE | _SHOWN_FIRST],
        budgets=cost_bars(info),
        certainty=certainty_of(info),
        answers=answer_tables(found.result.answers, statistics) if found.result is not None else [],
        result=found.result,
        why_not="You asked for this job, so somebody else decides on it." if is_pending else "",
        has_result=found.result is not None or info.result_bytes is not None,
        may_cancel=info.state in ("checking", "waiting", "approved", "running", "held"),
        python=f'job = domain.job("{info.id}")\nprint(job)',
    )
