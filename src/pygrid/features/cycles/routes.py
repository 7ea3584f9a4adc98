"""Routes of devices, in the native encoding."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Any

from litestar import Request, Response, Router, get, post
from litestar.datastructures import State
from litestar.exceptions import ValidationException
from litestar.params import FromQuery, JSONBody, QueryParameter
from litestar.response import Stream

from pygrid import codes
from pygrid.errors import NotFound, PygridError
from pygrid.features.cycles.clients import ClientRegistry
from pygrid.features.cycles.forms import missing_key
from pygrid.features.cycles.published import PublishedDevices
from pygrid.features.cycles.service import CyclesService, RedeemedKey
from pygrid.messages import media
from pygrid.messages.cycles import (
    AuthenticateRequest,
    AuthenticateResponse,
    CycleAccepted,
    CycleRejected,
    CycleRequest,
    LeaveRequest,
    LeaveResponse,
    ReportAccepted,
    ReportRefused,
)
from pygrid.messages.decoding import read_struct
from pygrid.web.addresses import client_address
from pygrid.web.auth import find_bearer
from pygrid.web.blobs import ProcessBlobs, StateBlobs, describe_blob
from pygrid.web.message_memory import MessageMemory
from pygrid.web.pacing import Pacer
from pygrid.web.problems import describe_problems, problem_response, to_problem
from pygrid.web.published import Area, exception_handlers, find_text, publish, words_about_body
from pygrid.web.requests import ANY_CONTENT_TYPE, AppRequest, stream_body, wait_until_gone
from pygrid.web.services import service

SPEED_TEST_BYTES = 64 * 1024 * 1024
SPEED_TEST_BYTES_PER_S = 1000 * 2**20 / 8
"""The highest speed that clients of 2020 report. A browser tells its page how far an upload is each 50 ms: a faster one
would end before the page can compute its speed."""
_PUBLISHED_REFUSALS = {400, 401, 404, 409, 410}
"""Statuses in place of which clients of 2020 get 200 and the member ``error``, when they request a cycle or report."""
_SPEED_CHUNK = b"x" * (64 * 1024)

Text = Annotated[str, QueryParameter(min_length=1, max_length=200)]


def _key(request: Request[Any, Any, Any]) -> tuple[str, str | None]:
    """Return the request key and, if present, the client's id.

    The key is a bearer token; clients of 2020 send it in the query.
    """
    key = find_bearer(request) or request.query_params.get("request_key")
    if not key:
        raise missing_key()
    return key, request.query_params.get("worker_id")


async def _redeem(request: AppRequest, state: State) -> RedeemedKey:
    """What the key of a download is for. Raises as `CyclesService.redeem_key` and `PublishedDevices.redeem_key`."""
    if find_bearer(request):
        return await service(state, CyclesService).redeem_key(*_key(request))
    return await service(state, PublishedDevices).redeem_key(*_key(request))


def _reject_invalid(request: Request[Any, Any, Any], error: ValidationException) -> Response[Any]:
    """Answer a cycle request with a field of another type: clients of 2020 get 200 with the published text."""
    problem = publish(to_problem(request, error), Area.DEVICES)
    text = request.read_body if isinstance(request, AppRequest) else b""
    if not text or '"wait_s"' in text.decode(errors="replace"):
        problem["error"] = words_about_body(request) or problem["error"]
        return problem_response(problem)
    return Response(CycleRejected("rejected", error=problem["error"]), status_code=200)


@post("/authenticate", status_code=200, responses=describe_problems(400, 401, 404, 429))
async def authenticate(request: AppRequest, data: JSONBody[AuthenticateRequest], state: State) -> AuthenticateResponse:
    """Become a client of a process."""
    return await service(state, ClientRegistry).authenticate(data, client_address(request))


@post("/leave", status_code=200, responses=describe_problems(400, 404, 429))
async def leave(request: AppRequest, data: JSONBody[LeaveRequest], state: State) -> LeaveResponse:
    """Leave a process for good; where clients have names, no cycle waits for this one."""
    await service(state, ClientRegistry).leave(data, client_address(request))
    return LeaveResponse("success")


@get("/speed-test", responses={**describe_blob(), **describe_problems(400, 429)})
async def speed_test_download(
    request: AppRequest,
    state: State,
    worker_id: Text,
    random: Text,
    is_ping: FromQuery[bool] = False,
    size_bytes: Annotated[int, QueryParameter(ge=0, le=SPEED_TEST_BYTES)] = SPEED_TEST_BYTES,
) -> Response[Any]:
    """Answer at once (``is_ping``), or stream bytes while the client measures the time."""
    service(state, CyclesService).take_speed_test(client_address(request), is_ping=is_ping)
    if is_ping:
        return Response(b"{}", media_type="application/json")

    async def sample() -> AsyncIterator[bytes]:
        left, pacer = size_bytes, Pacer(SPEED_TEST_BYTES_PER_S)
        while left > 0:
            yield _SPEED_CHUNK[:left]
            left -= len(_SPEED_CHUNK)
            await pacer.take(len(_SPEED_CHUNK))

    return Stream(sample(), media_type=media.TENSORS, headers={"Content-Length": str(size_bytes)})


@post("/speed-test", status_code=200, request_max_body_size=None, responses=describe_problems(400, 408, 413, 429))
async def speed_test_upload(request: AppRequest, state: State, worker_id: Text, random: Text) -> dict[str, str]:
    """Read and discard bytes while the client measures the time."""
    service(state, CyclesService).take_speed_test(client_address(request))
    pacer = Pacer(SPEED_TEST_BYTES_PER_S)
    async for piece in stream_body(request, SPEED_TEST_BYTES + 64 * 1024):
        await pacer.take(len(piece))
    return {}


@post(
    "/cycle-request",
    status_code=200,
    responses=describe_problems(400, 404, 429),
    exception_handlers={ValidationException: _reject_invalid},
)
async def cycle_request(
    request: AppRequest, data: JSONBody[CycleRequest], state: State
) -> CycleAccepted | CycleRejected:
    """Request admission to the current cycle; with ``wait_s`` the answer waits until there is work."""
    if data.wait_s:
        request.stop_counting()
    try:
        if data.wait_s is None:
            data = read_struct(await request.json(), CycleRequest)  # numbers as text are refused, as published
        answer = await service(state, CyclesService).request_cycle(
            data, client_address(request), partial(wait_until_gone, request)
        )
    except PygridError as error:
        if data.wait_s is not None or error.status not in _PUBLISHED_REFUSALS:
            raise
        return CycleRejected("rejected", error=_published_text(error))
    if isinstance(answer, CycleAccepted) and isinstance(answer.model_hash, str):
        service(state, ProcessBlobs).preload(answer.model_hash)
    return answer


@get("/get-model", responses={**describe_blob(), **describe_problems(400, 401, 404, 410)})
async def get_model(request: AppRequest, state: State, model_id: FromQuery[int]) -> Response[Any]:
    """Download the model that this cycle starts from: safetensors bytes.

    A client of 2020, which sends its request key in the query, gets a protobuf State.
    """
    redeemed = await _redeem(request, state)
    checkpoint = await service(state, CyclesService).find_model(redeemed, model_id)
    if not find_bearer(request):
        name = await service(state, PublishedDevices).find_state(redeemed.process, checkpoint)
        return await service(state, StateBlobs).respond(request, name)
    return await service(state, ProcessBlobs).respond(
        request, checkpoint.model_hash, {media.CHECKPOINT_HEADER: str(checkpoint.number)}
    )


@get("/get-plan", responses={**describe_blob(), **describe_problems(400, 401, 404, 410)})
async def get_plan(
    request: AppRequest, state: State, plan_id: FromQuery[int], receive_operations_as: FromQuery[str | None] = None
) -> Response[Any]:
    """Download a plan of the process: the plan archive, or its variant for clients of 2020 as a protobuf Plan."""
    redeemed = await _redeem(request, state)
    plan = service(state, CyclesService).find_plan(redeemed, plan_id)
    dialect = receive_operations_as or ("list" if plan.is_traced and not find_bearer(request) else "onnx")
    if dialect == "onnx" and not plan.is_traced:
        return await service(state, ProcessBlobs).respond(request, plan.plan_hash)
    variant = service(state, PublishedDevices).find_variant(redeemed, plan, dialect)
    return await service(state, ProcessBlobs).respond(request, variant.blob_hash)


@get("/get-protocol", responses=describe_problems(400, 401, 404))
async def get_protocol(request: AppRequest, state: State, protocol_id: FromQuery[int]) -> None:
    """Download a protocol of the process. Processes have no protocols: ``protocols`` of an acceptance is empty."""
    await _redeem(request, state)
    raise NotFound("Protocol ID not found!", code=codes.PROTOCOL_NOT_FOUND, protocol_id=protocol_id)


@post("/report", status_code=200, request_max_body_size=None, responses=describe_problems(400, 401, 408, 409, 410, 413))
async def report(request: AppRequest, state: State) -> ReportAccepted | ReportRefused:
    """Report the diff of a training. After the answer it is durable and counts once.

    The body is safetensors bytes, and the request key a bearer token. A client of 2020 sends JSON: ``worker_id``,
    ``request_key`` and ``diff``, a protobuf State in base64.
    """
    request.stop_counting()  # many reports wait for one commit
    if not find_bearer(request) and not request.query_params.get("request_key"):
        return await _take_published(request, state)
    await service(state, CyclesService).take_report(*_key(request), partial(stream_body, request))
    return ReportAccepted("success")


async def _take_published(request: AppRequest, state: State) -> ReportAccepted | ReportRefused:
    """Take the report of a client of 2020 while it arrives."""
    published = service(state, PublishedDevices)
    with service(state, MessageMemory).hold() as held:
        length = request.headers.get("content-length", "")
        announced = int(length) if length.isascii() and length.isdigit() and len(length) < 20 else None
        try:
            await published.take_report_body(stream_body(request, None), announced, client_address(request), held)
        except PygridError as error:
            is_no_report = error.code == "missing_request_key" and "field" not in error.fields
            if error.status not in _PUBLISHED_REFUSALS or is_no_report or error.code == "invalid_json":
                raise
            return ReportRefused(_published_text(error))
    return ReportAccepted("success")


def _published_text(error: PygridError) -> str:
    return find_text(Area.DEVICES, error.code, error.detail, error.fields.get("field"))


DEVICE_PATHS = tuple(
    f"/model-centric/{name}"
    for name in (
        *("authenticate", "leave", "speed-test", "cycle-request", "get-model", "get-plan", "get-protocol"),
        "report",
    )
)
"""The routes of this file. Pages of any origin may call them, because only a key in the request authorizes a call."""

router = Router(
    "/model-centric",
    # Clients of 2020 send JSON under any content type.
    opt={ANY_CONTENT_TYPE: True},
    route_handlers=[
        authenticate,
        leave,
        speed_test_download,
        speed_test_upload,
        cycle_request,
        get_model,
        get_plan,
        get_protocol,
        report,
    ],
    tags=["devices"],
    exception_handlers=exception_handlers(Area.DEVICES),
)
