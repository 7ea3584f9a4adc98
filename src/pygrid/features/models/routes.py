"""Routes of served models, with both published spellings of their prefix."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Response, Router, delete, get, post
from litestar.datastructures import State
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import HeaderParameter, PathParameter

from pygrid.core.access import Permission
from pygrid.features.models.forms import MAX_FORM_BYTES, MAX_TEXT_FORM_BYTES, read_published_form, read_serve_form
from pygrid.features.models.service import ModelsService
from pygrid.messages import media
from pygrid.messages.models import ModelIds, ModelList, ServedModel, ServedModelInfo
from pygrid.web.auth import SESSION, anyone, find_principal, require
from pygrid.web.blobs import ServedModelBlobs, describe_blob
from pygrid.web.forms import is_text_form
from pygrid.web.idempotency import repeatable
from pygrid.web.message_memory import MessageMemory
from pygrid.web.problems import describe_problems
from pygrid.web.published import Area, exception_handlers
from pygrid.web.requests import AppRequest, stream_body
from pygrid.web.responses import bytes_response
from pygrid.web.services import service

ModelId = Annotated[str, PathParameter(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.\-]{0,99}$")]


@post(
    "/serve-model",
    status_code=200,
    request_max_body_size=None,
    guards=[require(Permission.HOST_MODELS)],
    security=SESSION,
    responses=describe_problems(400, 401, 403, 408, 409, 413, 507),
)
@repeatable(form=True, shape=lambda _request, info: _served(info))
async def serve_model(request: AppRequest, state: State) -> ServedModel:
    """Serve a model: a multipart form with ``config`` (JSON) and ``model`` (ONNX).

    Clients of 2020 send the fields of ``config`` as parts, or an ordinary form with the model as ISO-8859-1 text.
    """
    models, content_type = service(state, ModelsService), request.headers.get("content-type", "")
    async with models.receive(request.user) as model:
        if is_text_form(content_type):
            with service(state, MessageMemory).hold(MAX_TEXT_FORM_BYTES):
                form = await read_published_form(stream_body(request, MAX_TEXT_FORM_BYTES), model)
        else:
            form = await read_serve_form(content_type, stream_body(request, MAX_FORM_BYTES), model, {})
        info = await models.serve(request.user, model, form)
    return _served(info)


def _served(info: ServedModelInfo) -> ServedModel:
    return ServedModel(f"Model saved with id: {info.id}", info)


@get("/models", guards=[anyone], responses=describe_problems(401))
async def list_model_ids(request: AppRequest, state: State) -> ModelIds:
    """List the ids of the served models; to callers without an account, those of public ones."""
    return ModelIds(await service(state, ModelsService).list_ids(find_principal(request)))


@get("/detailed-models-list", guards=[anyone], responses=describe_problems(401))
async def list_models(request: AppRequest, state: State) -> ModelList:
    """List the served models, with the permissions of each; to callers without an account, the public ones."""
    return ModelList(await service(state, ModelsService).list_models(find_principal(request)))


@get("/models/{model_id:str}", guards=[require()], security=SESSION, responses=describe_problems(400, 401, 404))
async def get_model(request: AppRequest, state: State, model_id: ModelId) -> ServedModelInfo:
    """Show a model."""
    return await service(state, ModelsService).get(request.user, model_id)


@delete(
    "/models/{model_id:str}",
    status_code=204,
    guards=[require()],
    security=SESSION,
    responses=describe_problems(400, 401, 403, 404),
)
async def delete_model(request: AppRequest, state: State, model_id: ModelId) -> None:
    """Stop serving a model and delete it."""
    await service(state, ModelsService).delete(request.user, model_id)


@get(
    "/models/{model_id:str}/download",
    guards=[require()],
    security=SESSION,
    responses={**describe_blob(), **describe_problems(400, 401, 403, 404)},
)
async def download_model(request: AppRequest, state: State, model_id: ModelId) -> Response[Any]:
    """Download the ONNX file of a model, as its owner uploaded it."""
    file = await service(state, ModelsService).find_file(request.user, model_id)
    return await service(state, ServedModelBlobs).respond(request, file)


@post(
    "/models/{model_id:str}/predict",
    status_code=200,
    request_max_body_size=None,
    guards=[require()],
    security=SESSION,
    responses={
        200: ResponseSpec(
            bytes, generate_examples=False, description="Outputs as safetensors", media_type=media.TENSORS
        ),
        **describe_problems(400, 401, 403, 404, 408, 409, 413, 503),
    },
)
async def predict(
    request: AppRequest,
    state: State,
    model_id: ModelId,
    if_match: Annotated[str | None, HeaderParameter(name="If-Match", max_length=100)] = None,
) -> Response[Any]:
    """Predict: the body has the inputs by name, the answer has the outputs by name, both as safetensors.

    ``If-Match``: the SHA-256 of the expected model, in quotes.
    """
    models = service(state, ModelsService)
    model = await models.check_may_predict(request.user, model_id, None if if_match is None else if_match.strip('"'))
    announced = request.headers.get("content-length", "")
    is_number = announced.isascii() and announced.isdigit() and len(announced) <= 20
    with models.reserve_bytes(request.user, model, int(announced) if is_number else None) as max_bytes:
        inputs = [piece async for piece in stream_body(request, max_bytes)]
        return bytes_response(await models.predict(request.user, model, inputs))


_ON_ERROR = exception_handlers(Area.DATA)
_HANDLERS = [serve_model, list_model_ids, list_models, get_model, delete_model, download_model, predict]

model_routes = [
    Router("/data-centric", route_handlers=_HANDLERS, tags=["models"], exception_handlers=_ON_ERROR),
    # The spelling of clients of 2020.
    Router(
        "/data_centric",
        route_handlers=_HANDLERS,
        tags=["models"],
        exception_handlers=_ON_ERROR,
        include_in_schema=False,
    ),
]
