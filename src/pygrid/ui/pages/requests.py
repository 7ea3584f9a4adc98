"""Requests: the queue, and the page on which a person decides on one of them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

import msgspec
from litestar import Response, get, post
from litestar.datastructures import State

from pygrid import codes
from pygrid.core.access import Permission, Principal
from pygrid.errors import InvalidInput, PygridError
from pygrid.features.jobs.result_preview import ResultPreview
from pygrid.features.jobs.reviews import FieldChange, JobReview, RequesterHistory, ReviewService
from pygrid.features.jobs.service import JobsService
from pygrid.messages.jobs import DecisionRequest, JobInfo
from pygrid.summaries.jobs import decision_in_words, leaves_in_words, privacy_in_words, request_rows
from pygrid.ui.access import signed_in
from pygrid.ui.console import console_of, see_other
from pygrid.ui.forms import MAX_FORM_BYTES, PathText, read_fields
from pygrid.ui.pages.job_parts import (
    COLUMNS,
    JOB_TONES,
    Bar,
    FlagView,
    JobLine,
    certainty_of,
    cost_bars,
    flags_of,
    line_of,
)
from pygrid.ui.pages.jobs import own_job_page
from pygrid.ui.pages.paging import PAGE_ROWS, Paging, make_paging
from pygrid.ui.request_words import AnswerTable, answer_tables, ask_in_words
from pygrid.ui.svg import PlanDrawing, draw_plan
from pygrid.ui.tables import answer_rows, find_format
from pygrid.ui.words import JOB_STATES
from pygrid.units import decimal
from pygrid.web.requests import AppRequest
from pygrid.web.services import service

MAX_DENIED = 50


class QueueView(msgspec.Struct, frozen=True):
    jobs: list[JobLine]
    paging: Paging


class DecisionView(msgspec.Struct, frozen=True):
    """The box at the end of the page."""

    state: str
    request_hash: str
    approve: str
    """Words of the button that approves."""
    deny: str
    question: str
    comment: str


class RequestView(msgspec.Struct, frozen=True):
    id: str
    sentence: str
    words: str
    tone: str
    detail: str
    progress: float | None
    created_at: dt.datetime
    flags: list[FlagView]
    requester: str
    reason: str
    dataset: int
    dataset_name: str
    computes: list[str]
    terms: list[tuple[str, str]]
    drawing: PlanDrawing | None
    leaves: list[tuple[str, str]]
    privacy: str
    budgets: list[Bar]
    certainty: str
    trial: list[tuple[str, str]]
    history: list[tuple[str, str]]
    changes: tuple[FieldChange, ...]
    compared_with: str
    identity: list[tuple[str, str]]
    decided: list[tuple[str, str]]
    answers: list[AnswerTable]
    result: ResultPreview | None
    decision: DecisionView | None
    may_revoke: bool
    next: str
    """The request that has waited longest, after this one is decided; empty: none waits."""
    python: str


async def list_requests(state: State, principal: Principal, limit: int = PAGE_ROWS) -> list[JobInfo]:
    """Return jobs of others that wait for a decision which the caller may take, oldest first."""
    if not (principal.may(Permission.TRIAGE_REQUESTS) or principal.may(Permission.UPLOAD_DATA)):
        return []
    found, _ = await _page_of_requests(state, principal, "", limit)
    return found


async def _page_of_requests(
    state: State, principal: Principal, after: str, limit: int
) -> tuple[list[JobInfo], str | None]:
    """Return the requests after one in the queue, and the last job that was read if there are more."""
    read = await service(state, JobsService).list_queue(principal, after or None, limit + 1)
    shown = read[:limit]
    decidable = [job for job in shown if job.requested_by != principal.user_id and job.plan_summary is not None]
    return decidable, shown[-1].id if len(read) > limit else None


@get("/requests", guards=[signed_in(Permission.TRIAGE_REQUESTS, Permission.UPLOAD_DATA)])
async def requests_page(request: AppRequest, state: State) -> Response[bytes]:
    """Show what waits for a decision, oldest first."""
    return await _queue(request, state)


@post(
    "/requests/deny",
    guards=[signed_in(Permission.TRIAGE_REQUESTS, Permission.UPLOAD_DATA)],
    request_max_body_size=MAX_FORM_BYTES,
)
async def deny_several(request: AppRequest, state: State) -> Response[bytes]:
    """Deny the chosen requests with one reason. Several are never approved together."""
    fields = await read_fields(request)
    chosen = {name.removeprefix("deny_"): value for name, value in fields.items() if name.startswith("deny_")}
    comment = fields.get("comment", "").strip()
    try:
        if not chosen:
            raise InvalidInput("choose at least one request", code=codes.INVALID_FORM)
        if len(chosen) > MAX_DENIED:
            raise InvalidInput(f"choose at most {MAX_DENIED} requests", code=codes.INVALID_FORM)
        if not comment:
            raise InvalidInput("write a reason: the requesters read it", code=codes.INVALID_FORM, field="comment")
        for job_id, request_hash in chosen.items():
            await service(state, JobsService).deny(
                request.user, job_id, DecisionRequest(request_hash, comment, "waiting")
            )
    except PygridError as error:
        return await _queue(request, state, error)
    return see_other("/admin/requests")


@get("/jobs/{job_id:str}", guards=[signed_in()])
async def job_page(request: AppRequest, state: State, job_id: PathText) -> Response[bytes]:
    """Show a job: the evidence to a person who decides, progress and result to the requester."""
    return await request_page(request, state, job_id)


@post("/jobs/{job_id:str}/decide", guards=[signed_in()], request_max_body_size=MAX_FORM_BYTES)
async def decide(request: AppRequest, state: State, job_id: PathText) -> Response[bytes]:
    """Approve, release or deny a job, bound to the request and the state that the page showed."""
    jobs, fields = service(state, JobsService), await read_fields(request)
    try:
        info = await jobs.get(request.user, job_id)
        shown = fields.get("state")
        if shown not in ("waiting", "held"):
            raise InvalidInput("the page showed no state in which a decision is possible", code=codes.INVALID_FORM)
        wanted = DecisionRequest(
            fields.get("request_hash", ""), fields.get("comment", ""), "waiting" if shown == "waiting" else "held"
        )
        if fields.get("decision") == "approve":
            _check_flags_seen(info, fields)
            await jobs.approve(request.user, job_id, wanted)
        elif fields.get("decision") == "deny":
            await jobs.deny(request.user, job_id, wanted)
        else:
            raise InvalidInput("choose Approve or Deny", code=codes.INVALID_FORM, field="decision")
    except PygridError as error:
        if error.status == 404:
            raise
        return await request_page(request, state, job_id, error, comment=fields.get("comment", ""))
    return see_other(f"/admin/jobs/{job_id}")


@post("/jobs/{job_id:str}/revoke", guards=[signed_in()])
async def revoke(request: AppRequest, state: State, job_id: PathText) -> Response[bytes]:
    """Take an approval back before the job runs."""
    try:
        await service(state, JobsService).revoke(request.user, job_id)
    except PygridError as error:
        if error.status == 404:
            raise
        return await request_page(request, state, job_id, error)
    return see_other(f"/admin/jobs/{job_id}")


def _check_flags_seen(info: JobInfo, fields: Mapping[str, str]) -> None:
    for flag in flags_of(info):
        if flag.tone == "bad" and fields.get(f"seen_{flag.code}") != "1":
            raise InvalidInput(
                f"confirm that you have read: {flag.sentence}", code=codes.INVALID_FORM, field=f"seen_{flag.code}"
            )


async def request_page(
    request: AppRequest, state: State, job_id: str, error: PygridError | None = None, *, comment: str = ""
) -> Response[bytes]:
    """Show a job to a person who sees all of it; to its requester as `pygrid.ui.pages.jobs` does."""
    found = await service(state, ReviewService).review(request.user, job_id)
    if found.history is None or found.info.requested_by == request.user.user_id:
        return await own_job_page(request, found, error)
    view = _view(found, comment)
    if view.decision is None and found.may_decide:
        waiting = await list_requests(state, request.user, limit=20)
        view = msgspec.structs.replace(view, next=waiting[0].id if waiting else "")
    return await console_of(request).page(request, "request.html", f"Request {found.info.id[:8]}", view, error=error)


async def _queue(request: AppRequest, state: State, error: PygridError | None = None) -> Response[bytes]:
    wanted = find_format(request)
    after = request.query_params.get("after", "")[:64]
    found, last = await _page_of_requests(state, request.user, after, PAGE_ROWS)
    lines = [line_of(job) for job in found]
    if wanted:
        return answer_rows(wanted, "requests", lines, COLUMNS)
    paging = make_paging(request, last, "after", has_files=bool(lines), path="/admin/requests")
    view = QueueView(lines, paging)
    return await console_of(request).page(request, "requests.html", "Requests", view, error=error)


def _view(found: JobReview, comment: str) -> RequestView:
    info, history = found.info, found.history
    assert history is not None, "the caller sees all of the job"
    statistics = info.request.statistics if info.request is not None else ()
    return RequestView(
        id=info.id,
        sentence=ask_in_words(info),
        words=JOB_STATES[info.state],
        tone=JOB_TONES.get(info.state, "off"),
        detail=info.detail,
        progress=info.progress if info.state == "running" else None,
        created_at=info.created_at,
        flags=flags_of(info),
        requester=info.requested_by_email,
        reason=info.reason,
        dataset=info.dataset,
        dataset_name=info.dataset_name,
        computes=(info.plan_summary or "").splitlines(),
        terms=request_rows(info.request) if info.request is not None else [],
        drawing=None if found.picture is None else draw_plan(found.picture),
        leaves=_leaves(info),
        privacy=privacy_in_words(info),
        budgets=cost_bars(info),
        certainty=certainty_of(info),
        trial=_trial(info),
        history=_history(info, history),
        changes=history.changes,
        compared_with=history.approved_job,
        identity=_identity(info),
        decided=_decided(info),
        answers=answer_tables(found.result.answers, statistics) if found.result is not None else [],
        result=found.result,
        decision=_decision(found, comment),
        may_revoke=found.may_decide and (info.state == "approved" or _is_federation_running(info)),
        next="",
        python=f'job = domain.job("{info.id}")\nprint(job.sheet())\njob.approve()  # or job.deny("reason")',
    )


def _is_federation_running(info: JobInfo) -> bool:
    return info.state == "running" and info.federation is not None


def _decision(found: JobReview, comment: str) -> DecisionView | None:
    info = found.info
    if not found.may_decide or info.state not in ("waiting", "held"):
        return None
    if info.state == "held":
        question = "Does this result leave the Domain?"
        return DecisionView("held", info.request_hash, "Release", "Deny and delete", question, comment)
    question = "May this job run on the real records?"
    return DecisionView("waiting", info.request_hash, "Approve", "Deny", question, comment)


def _leaves(info: JobInfo) -> list[tuple[str, str]]:
    rows = [("what", leaves_in_words(info))]
    if info.expected_ratio is not None:
        rows.append(("expected size", f"{decimal(info.expected_ratio, 2)} times the data that is read"))
    rows.append(("noise", "yes" if info.privacy is not None else "no"))
    return rows


def _trial(info: JobInfo) -> list[tuple[str, str]]:
    if info.state in ("held", "released") or not info.metrics:
        return []
    return [(name, decimal(value, 4)) for name, value in sorted(info.metrics.items())]


def _history(info: JobInfo, history: RequesterHistory) -> list[tuple[str, str]]:
    outcomes = [f"{count} {state.value}" for state, count in sorted(history.outcomes.items())]
    rows = [("earlier requests", ", ".join(outcomes) if outcomes else "none on this dataset")]
    if history.epsilon_spent is not None:
        rows.append(("epsilon spent so far", decimal(history.epsilon_spent, 3)))
    if info.waiting_beside:
        rows.append(("also waiting", f"{info.waiting_beside:,} on this dataset"))
    return rows


def _identity(info: JobInfo) -> list[tuple[str, str]]:
    rows = [("job", info.id), ("data", f"{info.dataset_name}, version {info.version}")]
    if info.plan_id:
        rows.append(("model file" if info.kind == "predict" else "plan", f"{info.plan_name} {info.plan_id}".strip()))
    return [*rows, ("request hash", info.request_hash)]


def _decided(info: JobInfo) -> list[tuple[str, str]]:
    if info.decided_by is None:
        return []
    rows = [(decision_in_words(info), info.decided_by)]
    return rows if info.state == "revoked" else [*rows, ("comment", info.comment or "none")]
