"""Routes of draft processes."""

from __future__ import annotations

from typing import Any

from litestar import Response, Router, delete, get, post, put
from litestar.datastructures import State
from litestar.params import FromQuery, JSONBody

from pygrid.core.access import Permission
from pygrid.features.processes.drafts import MAX_NOTES_BYTES, DraftsService
from pygrid.features.processes.forms import MAX_FORM_BYTES, read_host_form
from pygrid.messages.processes import DraftInfo, DraftList, DraftRemoved, HostDraftRequest, NotesRequest, ProcessInfo
from pygrid.web.auth import require
from pygrid.web.blobs import DraftBlobs, describe_blob
from pygrid.web.idempotency import repeatable
from pygrid.web.parameters import FileHash, PathId
from pygrid.web.problems import describe_problems
from pygrid.web.published import Area, exception_handlers
from pygrid.web.requests import AppRequest, stream_body
from pygrid.web.services import service

_may = require(Permission.HOST_MODELS)


_FOUND = describe_problems(400, 401, 403, 404)


@post(
    "/drafts",
    status_code=201,
    request_max_body_size=None,
    guards=[_may],
    responses=describe_problems(400, 401, 403, 408, 409, 413, 429, 507),
)
@repeatable(form=True)
async def create_draft(request: AppRequest, state: State) -> DraftInfo:
    """Create a draft process, by the form of ``host-training`` with ``notes`` in its ``config``."""
    drafts = service(state, DraftsService)
    content_type, body = request.headers.get("content-type", ""), stream_body(request, MAX_FORM_BYTES)
    async with drafts.receive(request.user) as model:
        return await drafts.create(request.user, model, await read_host_form(content_type, body, model))


@get("/drafts", guards=[_may], responses=describe_problems(400, 401, 403))
async def list_drafts(
    request: AppRequest, state: State, name: FromQuery[str | None] = None, version: FromQuery[str | None] = None
) -> DraftList:
    """List the caller's drafts, hosted or not, newest first."""
    return DraftList(await service(state, DraftsService).list_drafts(request.user, name, version))


@get("/drafts/{draft_id:int}", guards=[_may], responses=_FOUND)
async def get_draft(request: AppRequest, state: State, draft_id: PathId) -> DraftInfo:
    """Show one of the caller's drafts."""
    return await service(state, DraftsService).get(request.user, draft_id)


@get("/drafts/{draft_id:int}/files/{file_hash:str}", guards=[_may], responses={**describe_blob(), **_FOUND})
async def download_draft_file(
    request: AppRequest, state: State, draft_id: PathId, file_hash: FileHash
) -> Response[Any]:
    """Download the model or a plan of a draft that was not hosted."""
    file = await service(state, DraftsService).find_file(request.user, draft_id, file_hash)
    return await service(state, DraftBlobs).respond(request, file)


@put(
    "/drafts/{draft_id:int}/notes",
    request_max_body_size=2 * MAX_NOTES_BYTES,
    guards=[_may],
    responses=describe_problems(400, 401, 403, 404, 413),
)
async def set_notes(request: AppRequest, state: State, draft_id: PathId, data: JSONBody[NotesRequest]) -> DraftInfo:
    """Replace the notes of a draft."""
    return await service(state, DraftsService).set_notes(request.user, draft_id, data.notes)


@post(
    "/drafts/{draft_id:int}/host",
    status_code=200,
    guards=[_may],
    responses=describe_problems(400, 401, 403, 404, 409, 413, 507),
)
@repeatable()
async def host_draft(
    request: AppRequest, state: State, draft_id: PathId, data: JSONBody[HostDraftRequest]
) -> ProcessInfo:
    """Host a draft. A repeated call returns the same process."""
    return await service(state, DraftsService).host(request.user, draft_id, data.server_config, data.client_config)


@delete("/drafts/{draft_id:int}", status_code=200, guards=[_may], responses=_FOUND)
async def delete_draft(request: AppRequest, state: State, draft_id: PathId) -> DraftRemoved:
    """Delete a draft."""
    await service(state, DraftsService).delete(request.user, draft_id)
    return DraftRemoved(draft_id)


router = Router(
    "/model-centric",
    route_handlers=[create_draft, list_drafts, get_draft, download_draft_file, set_notes, host_draft, delete_draft],
    tags=["drafts"],
    exception_handlers=exception_handlers(Area.DATA),
)
