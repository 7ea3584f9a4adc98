"""Routes of jobs, and of the policies and privacy budgets of datasets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
from litestar import Response, Router, get, post, put
from litestar.datastructures import State
from litestar.params import FromQuery, HeaderParameter, JSONBody, QueryParameter
from litestar.response import Stream

from pygrid.core.jobs import JobState
from pygrid.core.preconditions import Precondition
from pygrid.features.jobs.forms import MAX_FORM_BYTES, read_job_form
from pygrid.features.jobs.policies import PoliciesService
from pygrid.features.jobs.service import JobsService
from pygrid.messages.jobs import BudgetInfo, DecisionRequest, JobInfo, JobList, PolicyInfo
from pygrid.messages.jobs import JobState as JobStateName
from pygrid.storage.jobs import JobFilter
from pygrid.web.auth import require
from pygrid.web.blobs import BlobResponses, describe_blob
from pygrid.web.idempotency import repeatable
from pygrid.web.parameters import HexId, PageSize, PathId
from pygrid.web.preconditions import IfMatch, IfNoneMatch, tagged
from pygrid.web.problems import describe_problems
from pygrid.web.published import Area, exception_handlers
from pygrid.web.requests import AppRequest, stream_body
from pygrid.web.services import service
from pygrid.web.sessions import watch_session
from pygrid.web.sse import ServerEvent, event_stream

_FOUND = describe_problems(400, 401, 404)
_CHANGED = describe_problems(400, 401, 403, 404, 409)


@post(
    "/jobs",
    status_code=201,
    request_max_body_size=None,
    guards=[require()],
    responses=describe_problems(400, 401, 404, 408, 409, 413, 429, 503, 507),
)
@repeatable(form=True)
async def submit_job(request: AppRequest, state: State) -> JobInfo:
    """Submit a job: a multipart form with ``config`` (JSON), and ``plan`` and ``model`` except for statistics."""
    jobs = service(state, JobsService)
    content_type, body = request.headers.get("content-type", ""), stream_body(request, MAX_FORM_BYTES)
    async with jobs.receive(request.user) as draft:
        return await jobs.submit(request.user, draft, await read_job_form(content_type, body, draft.model))


@get("/jobs", guards=[require()], responses=describe_problems(400, 401))
async def list_jobs(
    request: AppRequest,
    state: State,
    dataset: Annotated[int | None, QueryParameter(ge=1, le=2**31 - 1)] = None,
    job_state: Annotated[list[JobStateName] | None, QueryParameter(name="state", max_items=20)] = None,
    mine: FromQuery[bool] = False,
    before: Annotated[str | None, QueryParameter(pattern="^[0-9a-f]{32}$")] = None,
    limit: PageSize = 100,
) -> JobList:
    """List the caller's jobs and those on the caller's datasets, newest first."""
    states = [JobState(name) for name in job_state or ()]
    wanted = JobFilter(dataset, states, mine, before, limit)
    return JobList(await service(state, JobsService).list_jobs(request.user, wanted))


@get("/jobs/{job_id:str}", guards=[require()], responses=_FOUND)
async def get_job(request: AppRequest, state: State, job_id: HexId) -> JobInfo:
    """Show a job."""
    return await service(state, JobsService).get(request.user, job_id)


@get("/jobs/{job_id:str}/events", guards=[require()], responses=_FOUND)
async def stream_job(
    request: AppRequest,
    state: State,
    job_id: HexId,
    last_event_id: Annotated[int | None, HeaderParameter(name="Last-Event-ID", ge=0, le=2**31 - 1)] = None,
) -> Stream:
    """Stream a job, its changes and its progress as Server-Sent Events, until it has ended."""
    changes = await service(state, JobsService).follow(request.user, job_id, last_event_id)
    return event_stream(_encode(changes), state.stopping, watch_session(request))


async def _encode(changes: AsyncIterator[tuple[int, JobInfo]]) -> AsyncIterator[ServerEvent]:
    async for sequence, info in changes:
        yield ServerEvent(sequence, info.state, msgspec.json.encode(info))


@get(
    "/jobs/{job_id:str}/result",
    guards=[require()],
    responses={**describe_blob(), **describe_problems(400, 401, 404, 409, 410)},
)
async def download_result(request: AppRequest, state: State, job_id: HexId) -> Response[Any]:
    """Download a result; each download has the same bytes."""
    folder, name, media_type = await service(state, JobsService).find_result(request.user, job_id)
    return await BlobResponses(folder).respond(request, name, media_type=media_type)


async def _may_see(request: AppRequest, state: State, job_id: str, **_: object) -> None:
    """Raise NotFound if the caller may no longer see the job."""
    await service(state, JobsService).get(request.user, job_id)


@post("/jobs/{job_id:str}/approve", status_code=200, guards=[require()], responses=_CHANGED)
@repeatable(check=_may_see)
async def approve_job(request: AppRequest, state: State, job_id: HexId, data: JSONBody[DecisionRequest]) -> JobInfo:
    """Approve a waiting job, or the release of a held result."""
    return await service(state, JobsService).approve(request.user, job_id, data)


@post("/jobs/{job_id:str}/deny", status_code=200, guards=[require()], responses=_CHANGED)
@repeatable(check=_may_see)
async def deny_job(request: AppRequest, state: State, job_id: HexId, data: JSONBody[DecisionRequest]) -> JobInfo:
    """Deny a waiting job, or the release of a held result."""
    return await service(state, JobsService).deny(request.user, job_id, data)


@post("/jobs/{job_id:str}/revoke", status_code=200, guards=[require()], responses=_CHANGED)
@repeatable(check=_may_see)
async def revoke_job(request: AppRequest, state: State, job_id: HexId) -> JobInfo:
    """Revoke an approval before the job runs."""
    return await service(state, JobsService).revoke(request.user, job_id)


@post("/jobs/{job_id:str}/cancel", status_code=200, guards=[require()], responses=_CHANGED)
@repeatable(check=_may_see)
async def cancel_job(request: AppRequest, state: State, job_id: HexId) -> JobInfo:
    """Cancel the caller's own job."""
    return await service(state, JobsService).cancel(request.user, job_id)


@get("/datasets/{dataset_id:int}/policy", guards=[require()], responses=_FOUND)
async def get_policy(request: AppRequest, state: State, dataset_id: PathId) -> Response[PolicyInfo]:
    """Show the policy of a dataset: its privacy budget, and the jobs that need no decision. It has an ``ETag``."""
    return tagged(await service(state, PoliciesService).get(request.user, dataset_id))


@put("/datasets/{dataset_id:int}/policy", guards=[require()], responses=describe_problems(400, 401, 403, 404, 409, 412))
async def put_policy(
    request: AppRequest,
    state: State,
    dataset_id: PathId,
    data: JSONBody[PolicyInfo],
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> Response[PolicyInfo]:
    """Set the policy of a dataset that the caller may change; the first policy opens its privacy budget."""
    precondition = Precondition(if_match, if_none_match)
    return tagged(await service(state, PoliciesService).put(request.user, dataset_id, data, precondition))


@get("/datasets/{dataset_id:int}/budget", guards=[require()], responses=_FOUND)
async def get_budget(request: AppRequest, state: State, dataset_id: PathId) -> BudgetInfo:
    """Show the spent part of a dataset's privacy budget."""
    return await service(state, PoliciesService).budget(request.user, dataset_id)


router = Router(
    "/data-centric",
    route_handlers=[
        submit_job,
        list_jobs,
        get_job,
        stream_job,
        download_result,
        approve_job,
        deny_job,
        revoke_job,
        cancel_job,
        get_policy,
        put_policy,
        get_budget,
    ],
    tags=["jobs"],
    exception_handlers=exception_handlers(Area.DATA),
)
