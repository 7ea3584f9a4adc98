"""A scientist's own jobs, and the result of a job: table, plot, download."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from litestar import Response, get, post
from litestar.datastructures import State

from pygrid.errors import PygridError
from pygrid.features.jobs.service import JobsService
from pygrid.messages.jobs import JobInfo
from pygrid.ui.access import signed_in
from pygrid.ui.console import console_of, see_other
from pygrid.ui.downloads import BYTES, download_headers
from pygrid.ui.forms import PathText
from pygrid.ui.request_words import ask_in_words
from pygrid.ui.results import ResultView, read_result
from pygrid.web.blobs import BlobResponses
from pygrid.web.requests import AppRequest
from pygrid.web.services import service

_TAKE = {"statistics": "job.answers()", "evaluate": "job.result()", "train": "job.params()", "predict": "job.params()"}


class ResultPage(msgspec.Struct, frozen=True):
    """The page of a result; without one, why there is none."""

    problem: dict[str, Any] | None
    id: str
    sentence: str
    result: ResultView | None
    python: str


@get("/jobs/{job_id:str}/result", guards=[signed_in()])
async def result_page(request: AppRequest, state: State, job_id: PathText) -> Response[bytes]:
    """Show the result of a job."""
    jobs = service(state, JobsService)
    info = await jobs.get(request.user, job_id)
    try:
        result, problem = await _read(jobs, request, info), None
    except PygridError as error:
        result, problem = None, error
    python = f'job = domain.job("{info.id}")\njob.wait()\n{_TAKE[info.kind]}'
    view = ResultPage(None if problem is None else problem.to_problem(), info.id, ask_in_words(info), result, python)
    status = 200 if problem is None else problem.status
    return await console_of(request).page(request, "result.html", f"Result of job {info.id[:8]}", view, status=status)


async def _read(jobs: JobsService, request: AppRequest, info: JobInfo) -> ResultView:
    folder, name, _ = await jobs.find_result(request.user, info.id)
    return await asyncio.to_thread(lambda: read_result(folder.path(name), info))


@get("/jobs/{job_id:str}/result/download", guards=[signed_in()])
async def download_result(request: AppRequest, state: State, job_id: PathText) -> Response[Any]:
    """Download the result of a job."""
    info = await service(state, JobsService).get(request.user, job_id)
    folder, name, _ = await service(state, JobsService).find_result(request.user, info.id)
    kind = "json" if info.kind in ("statistics", "evaluate") else "safetensors"
    return await BlobResponses(folder).respond(request, name, download_headers(f"job-{info.id}.{kind}"), BYTES)


@post("/jobs/{job_id:str}/cancel", guards=[signed_in()])
async def cancel(request: AppRequest, state: State, job_id: PathText) -> Response[bytes]:
    """Cancel a job of the caller."""
    await service(state, JobsService).cancel(request.user, job_id)
    return see_other(f"/admin/jobs/{job_id}")
