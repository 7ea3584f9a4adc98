"""Where jobs run: this machine and its sandbox, and Workers on other machines."""

from __future__ import annotations

import asyncio

import msgspec
from litestar import Response, get, post
from litestar.datastructures import State

from pygrid.core.access import Permission
from pygrid.errors import PygridError
from pygrid.features.workers.service import WorkersService
from pygrid.messages.workers import NewWorker, WorkerInfo
from pygrid.sandbox.probes import Examination, examine
from pygrid.settings import DomainSettings
from pygrid.ui.access import own_origin, signed_in
from pygrid.ui.console import console_of, see_other
from pygrid.ui.forms import MAX_FORM_BYTES, PathId, read_fields
from pygrid.web.requests import AppRequest
from pygrid.web.services import service


class WorkersView(msgspec.Struct, frozen=True):
    num_workers: int
    prefers_remote: bool
    allows_weak: bool
    workers: list[WorkerInfo]
    new: NewWorker | None
    examination: list[tuple[str, str]]
    url: str
    python: str


class SandboxExamination:
    """Examines the sandbox of this machine, once at a time."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def run(self) -> Examination:
        """Return what test processes in a sandbox could do."""
        async with self._turn:
            return await asyncio.to_thread(examine)


@get("/workers", guards=[signed_in(Permission.MANAGE_INFRASTRUCTURE)])
async def workers_page(request: AppRequest, state: State) -> Response[bytes]:
    """Show where jobs run."""
    return await _page(request, state)


@post("/workers", guards=[signed_in(Permission.MANAGE_INFRASTRUCTURE)], request_max_body_size=MAX_FORM_BYTES)
async def authorize(request: AppRequest, state: State) -> Response[bytes]:
    """Authorize a Worker; this page alone shows its token."""
    fields = await read_fields(request)
    try:
        new = await service(state, WorkersService).create(request.user, fields.get("name", ""))
    except PygridError as error:
        return await _page(request, state, error)
    return await _page(request, state, new=new)


@post("/workers/{worker_id:int}/revoke", guards=[signed_in(Permission.MANAGE_INFRASTRUCTURE)])
async def revoke_worker(request: AppRequest, state: State, worker_id: PathId) -> Response[bytes]:
    """Revoke a Worker."""
    try:
        await service(state, WorkersService).revoke(request.user, worker_id)
    except PygridError as error:
        return await _page(request, state, error)
    return see_other("/admin/workers")


@post("/workers/examine", guards=[signed_in(Permission.MANAGE_INFRASTRUCTURE)])
async def examine_sandbox(request: AppRequest, state: State) -> Response[bytes]:
    """Try to break out of the sandbox, and show the outcome."""
    return await _page(request, state, examined=await service(state, SandboxExamination).run())


async def _page(
    request: AppRequest,
    state: State,
    error: PygridError | None = None,
    new: NewWorker | None = None,
    examined: Examination | None = None,
) -> Response[bytes]:
    settings = service(state, DomainSettings)
    view = WorkersView(
        settings.num_workers,
        settings.prefer_remote_workers,
        settings.allow_weak_sandbox,
        await service(state, WorkersService).list_workers(request.user),
        new,
        [] if examined is None else _outcomes(examined),
        own_origin(request),
        'worker = domain.workers.let_in("worker-1")\nprint(worker.token)',
    )
    return await console_of(request).page(request, "workers.html", "Workers", view, error=error)


def _outcomes(found: Examination) -> list[tuple[str, str]]:
    if found.layers is None:
        return [("The sandbox could not be set up", found.trouble)]
    outcomes = [(one.name, "ALLOWED" if one.allowed else f"refused: {one.detail}") for one in found.findings]
    verdict = "yes" if found.sound else "no: this machine refuses untrusted plans"
    return [("Suffices for untrusted plans", verdict), *outcomes]
