"""Routes of model owners."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import msgspec
from litestar import Response, Router, delete, get, post
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.handlers import BaseRouteHandler
from litestar.params import FromQuery, HeaderParameter, JSONBody
from litestar.response import Stream

from pygrid.core.access import Permission
from pygrid.features.processes.forms import MAX_FORM_BYTES, MAX_MESSAGE_BYTES, read_host_form, read_host_message
from pygrid.features.processes.published import PublishedHosting
from pygrid.features.processes.service import ProcessesService
from pygrid.messages import media
from pygrid.messages.processes import CheckpointInfo, ContributionList, CycleInfo, Event, ProcessInfo, RestoreRequest
from pygrid.settings import DomainSettings
from pygrid.web.auth import find_principal, require
from pygrid.web.blobs import ProcessBlobs, StateBlobs, describe_blob
from pygrid.web.forms import is_multipart
from pygrid.web.idempotency import repeatable
from pygrid.web.message_memory import MessageMemory
from pygrid.web.parameters import AfterId, PageSize, PathId
from pygrid.web.problems import describe_problems
from pygrid.web.published import Area, exception_handlers
from pygrid.web.requests import AppRequest, stream_body
from pygrid.web.services import service
from pygrid.web.sessions import watch_session
from pygrid.web.sse import ServerEvent, event_stream


class ProcessList(msgspec.Struct):
    processes: list[ProcessInfo]


class Hosted(msgspec.Struct):
    """The published answer."""

    status: str


class CycleList(msgspec.Struct):
    cycles: list[CycleInfo]


class CheckpointList(msgspec.Struct):
    checkpoints: list[CheckpointInfo]


def _unless_open(permission: Permission | None) -> Any:
    """Guard as `require`, but admit all callers if the operator set ``PYGRID_LEGACY_OPEN``."""
    guard = require(permission)

    async def open_guard(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        if service(connection.app.state, DomainSettings).legacy_open:
            connection.scope["user"] = None
        else:
            await guard(connection, handler)

    return open_guard


_may_host = require(Permission.HOST_MODELS)
_FOUND = describe_problems(400, 401, 404)
_CHANGED = describe_problems(400, 401, 403, 404, 409)


@post(
    "/host-training",
    status_code=201,
    request_max_body_size=None,
    guards=[_unless_open(Permission.HOST_MODELS)],
    responses=describe_problems(400, 401, 403, 409, 413, 507),
)
@repeatable(form=True)
async def host_training(request: AppRequest, state: State) -> ProcessInfo | Hosted:
    """Host a process: a multipart form with ``config``, ``model``, ``plan:NAME`` and optionally ``averaging_plan``.

    Model owners of 2020 send JSON: the fields of the message ``model-centric/host-training``.
    """
    processes, principal = service(state, ProcessesService), find_principal(request)
    content_type = request.headers.get("content-type", "")
    if not is_multipart(content_type):
        with service(state, MessageMemory).hold() as held:
            message = await read_host_message(stream_body(request, MAX_MESSAGE_BYTES), held)
            await service(state, PublishedHosting).host(principal, message)
        return Hosted("success")
    body = stream_body(request, MAX_FORM_BYTES)
    async with processes.receive(principal) as model:
        return await processes.host(principal, model, await read_host_form(content_type, body, model))


@get("/processes", guards=[require()], responses=describe_problems(400, 401))
async def list_processes(
    request: AppRequest, state: State, name: FromQuery[str | None] = None, version: FromQuery[str | None] = None
) -> ProcessList:
    """List the hosted processes, newest first."""
    return ProcessList(await service(state, ProcessesService).list_processes(request.user, name, version))


@get("/processes/{process_id:int}", guards=[require()], responses=_FOUND)
async def get_process(request: AppRequest, state: State, process_id: PathId) -> ProcessInfo:
    """Show a process with its newest cycle."""
    return await service(state, ProcessesService).get(request.user, process_id)


@post("/processes/{process_id:int}/finish", status_code=200, guards=[_may_host], responses=_CHANGED)
@repeatable()
async def finish_process(request: AppRequest, state: State, process_id: PathId) -> ProcessInfo:
    """Finish a process: the reports of the open cycle become a last checkpoint."""
    return await service(state, ProcessesService).finish(request.user, process_id)


@post("/processes/{process_id:int}/pause", status_code=200, guards=[_may_host], responses=_CHANGED)
@repeatable()
async def pause_process(request: AppRequest, state: State, process_id: PathId) -> ProcessInfo:
    """Pause a process: nobody is admitted; admitted clients can report."""
    return await service(state, ProcessesService).pause(request.user, process_id)


@post("/processes/{process_id:int}/resume", status_code=200, guards=[_may_host], responses=_CHANGED)
@repeatable()
async def resume_process(request: AppRequest, state: State, process_id: PathId) -> ProcessInfo:
    """End the pause of a process."""
    return await service(state, ProcessesService).resume(request.user, process_id)


@delete("/processes/{process_id:int}", status_code=204, guards=[_may_host], responses=_CHANGED)
async def delete_process(request: AppRequest, state: State, process_id: PathId) -> None:
    """Delete a finished process with its plans, checkpoints and cycles."""
    await service(state, ProcessesService).delete(request.user, process_id)


@post(
    "/processes/{process_id:int}/restore",
    status_code=200,
    guards=[_may_host],
    responses=describe_problems(400, 401, 403, 404, 409, 503),
)
@repeatable()
async def restore_checkpoint(
    request: AppRequest, data: JSONBody[RestoreRequest], state: State, process_id: PathId
) -> ProcessInfo:
    """Restore an earlier checkpoint; a copy becomes the newest one."""
    return await service(state, ProcessesService).restore(request.user, process_id, data.checkpoint)


@get("/processes/{process_id:int}/cycles", guards=[require()], responses=_FOUND)
async def list_cycles(
    request: AppRequest, state: State, process_id: PathId, after: AfterId = 0, limit: PageSize = 100
) -> CycleList:
    """List the cycles with their statistics, oldest first."""
    return CycleList(await service(state, ProcessesService).list_cycles(request.user, process_id, after, limit))


@get("/processes/{process_id:int}/contributions", guards=[_may_host], responses=describe_problems(400, 401, 403, 404))
async def list_contributions(
    request: AppRequest, state: State, process_id: PathId, after: AfterId = 0, limit: PageSize = 1000
) -> ContributionList:
    """List the clients' reports by cycle; ``after``: only reports with a larger id."""
    return ContributionList(
        await service(state, ProcessesService).list_contributions(request.user, process_id, after, limit)
    )


@get("/processes/{process_id:int}/checkpoints", guards=[require()], responses=_FOUND)
async def list_checkpoints(request: AppRequest, state: State, process_id: PathId) -> CheckpointList:
    """List the checkpoints, oldest first."""
    return CheckpointList(await service(state, ProcessesService).list_checkpoints(request.user, process_id))


@get("/processes/{process_id:int}/plans/{plan_id:int}", guards=[require()], responses={**describe_blob(), **_FOUND})
async def download_plan(request: AppRequest, state: State, process_id: PathId, plan_id: PathId) -> Response[Any]:
    """Download a plan archive."""
    plan_hash = await service(state, ProcessesService).find_plan(request.user, process_id, plan_id)
    return await service(state, ProcessBlobs).respond(request, plan_hash)


@get("/processes/{process_id:int}/events", guards=[require()], responses=_FOUND)
async def stream_events(
    request: AppRequest,
    state: State,
    process_id: PathId,
    last_event_id: Annotated[int, HeaderParameter(name="Last-Event-ID", ge=0, le=2**31 - 1)] = 0,
) -> Stream:
    """Stream the past and future events of a process as Server-Sent Events."""
    events = await service(state, ProcessesService).follow(request.user, process_id, last_event_id)
    return event_stream(_encode(events), state.stopping, watch_session(request))


async def _encode(events: AsyncIterator[Event]) -> AsyncIterator[ServerEvent]:
    async for event in events:
        yield ServerEvent(event.id, event.kind, msgspec.json.encode(event))


@get("/retrieve-model", guards=[_unless_open(None)], responses={**describe_blob(), **_FOUND})
async def retrieve_model(
    request: AppRequest,
    state: State,
    name: FromQuery[str],
    version: FromQuery[str | None] = None,
    checkpoint: FromQuery[str] = "latest",
    format: FromQuery[Literal["safetensors", "state"]] = "safetensors",
) -> Response[Any]:
    """Download a checkpoint by number or alias: safetensors bytes, or a protobuf State."""
    processes = service(state, ProcessesService)
    found = await processes.find_checkpoint(find_principal(request), name, version or None, checkpoint or "latest")
    if format == "state":
        return await service(state, StateBlobs).respond(request, await processes.find_state(found))
    return await service(state, ProcessBlobs).respond(
        request, found.model_hash, {media.CHECKPOINT_HEADER: str(found.number)}
    )


router = Router(
    "/model-centric",
    route_handlers=[
        host_training,
        list_processes,
        get_process,
        finish_process,
        pause_process,
        resume_process,
        delete_process,
        restore_checkpoint,
        list_cycles,
        list_contributions,
        list_checkpoints,
        download_plan,
        stream_events,
        retrieve_model,
    ],
    tags=["processes"],
    exception_handlers=exception_handlers(Area.DATA),
)
