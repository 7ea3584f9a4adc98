"""Routes of Workers on other machines: Owners authorize them, and they lease jobs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from litestar import Response, Router, delete, get, post
from litestar.datastructures import State
from litestar.params import JSONBody

from pygrid.core.access import Permission
from pygrid.core.known_nodes import KnownNodes
from pygrid.features.workers.service import LeaseHolder, WorkersService
from pygrid.messages import workers as messages
from pygrid.storage.workers import Worker
from pygrid.web.auth import find_bearer, require
from pygrid.web.blobs import BlobResponses, describe_blob
from pygrid.web.idempotency import repeatable
from pygrid.web.parameters import FileHash, HexId, PathId
from pygrid.web.problems import describe_problems
from pygrid.web.published import Area, exception_handlers
from pygrid.web.requests import AppRequest, stream_body, wait_until_gone
from pygrid.web.services import service

_may = require(Permission.MANAGE_INFRASTRUCTURE)


async def _worker(request: AppRequest, state: State) -> Worker:
    return await service(state, WorkersService).authenticate(find_bearer(request))


async def _holder(request: AppRequest, state: State) -> LeaseHolder:
    return await service(state, WorkersService).authenticate_holder(find_bearer(request))


@post("/workers", status_code=201, guards=[_may], responses=describe_problems(400, 401, 403, 409, 413))
@repeatable(keeps_answer=False)
async def create_worker(request: AppRequest, state: State, data: JSONBody[messages.TokenRequest]) -> messages.NewWorker:
    """Authorize a Worker on another machine; only this answer contains its token."""
    return await service(state, WorkersService).create(request.user, data.name)


@get("/workers", sync_to_thread=False)
def list_nodes(state: State) -> messages.NodeWorkers:
    """List the ids of the nodes that clients of 2020 connected; they call these nodes workers."""
    return messages.NodeWorkers(True, service(state, KnownNodes).list_ids())


@get("/workers/authorized", guards=[_may], responses=describe_problems(401, 403))
async def list_workers(request: AppRequest, state: State) -> messages.WorkerList:
    """List the authorized Workers on other machines."""
    return messages.WorkerList(await service(state, WorkersService).list_workers(request.user))


@delete("/workers/{worker_id:int}", status_code=200, guards=[_may], responses=describe_problems(400, 401, 403, 404))
async def revoke_worker(request: AppRequest, state: State, worker_id: PathId) -> messages.WorkerRemoved:
    """Revoke the authorization of a Worker; it loses its jobs at once."""
    await service(state, WorkersService).revoke(request.user, worker_id)
    return messages.WorkerRemoved(worker_id)


@post("/workers/lease", status_code=200, responses=describe_problems(400, 401, 403, 413))
async def lease_job(request: AppRequest, state: State, data: JSONBody[messages.LeaseRequest]) -> messages.LeaseAnswer:
    """Lease a job; with ``wait_s`` the answer waits until there is one."""
    worker = await _worker(request, state)
    return await service(state, WorkersService).lease(worker, data, partial(wait_until_gone, request))


@post("/workers/claim", status_code=200, responses=describe_problems(400, 401, 403, 410, 413, 503))
async def claim_job(request: AppRequest, state: State, data: JSONBody[messages.ClaimRequest]) -> messages.ClaimAnswer:
    """Lease the job of a start token, once; the answer has the credential for all requests under the lease."""
    return await service(state, WorkersService).claim(find_bearer(request), data)


@post(
    "/workers/leases/{lease_id:str}/renew", status_code=200, responses=describe_problems(400, 401, 409, 410, 413, 503)
)
async def renew_lease(
    request: AppRequest, state: State, lease_id: HexId, data: JSONBody[messages.RenewRequest]
) -> messages.Renewed:
    """Extend a lease, and report the progress of its job."""
    return await service(state, WorkersService).renew(await _holder(request, state), lease_id, data)


@get(
    "/workers/leases/{lease_id:str}/files/{file_hash:str}",
    responses={**describe_blob(), **describe_problems(400, 401, 404, 409, 410, 503)},
)
async def download_leased_file(
    request: AppRequest, state: State, lease_id: HexId, file_hash: FileHash
) -> Response[Any]:
    """Download a file that the leased job needs."""
    path = await service(state, WorkersService).find_file(await _holder(request, state), lease_id, file_hash)
    return await BlobResponses(_OneFile(path)).respond(request, file_hash)


@post(
    "/workers/leases/{lease_id:str}/result",
    status_code=200,
    request_max_body_size=None,
    responses=describe_problems(400, 401, 408, 409, 410, 413, 503),
)
async def finish_lease(request: AppRequest, state: State, lease_id: HexId) -> messages.ResultTaken:
    """Finish a job: the body has two frames, the outcome and the result (`pygrid.core.job_spec`)."""
    worker = await _holder(request, state)
    workers = service(state, WorkersService)
    pieces = [piece async for piece in stream_body(request, await workers.max_answer_bytes(worker, lease_id))]
    return await workers.finish(worker, lease_id, b"".join(pieces))


@delete("/workers/leases/{lease_id:str}", status_code=200, responses=describe_problems(400, 401, 410))
async def give_lease_back(request: AppRequest, state: State, lease_id: HexId) -> messages.LeaseGivenBack:
    """Return a job, because this Worker stops: a non-private job runs again elsewhere, a private one has failed."""
    return await service(state, WorkersService).give_back(await _holder(request, state), lease_id)


class _OneFile:
    """A store with one blob."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextlib.contextmanager
    def local(self, _name: str) -> Iterator[Path]:
        yield self._path


router = Router(
    "/data-centric",
    route_handlers=[
        create_worker,
        list_workers,
        list_nodes,
        revoke_worker,
        lease_job,
        claim_job,
        renew_lease,
        download_leased_file,
        finish_lease,
        give_lease_back,
    ],
    tags=["workers"],
    exception_handlers=exception_handlers(Area.DATA),
)
