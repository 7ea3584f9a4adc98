"""Served models: the list, one model with a form that asks it, and serving a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from litestar import Response, get, post
from litestar.datastructures import State

from pygrid import codes
from pygrid.core.access import Permission
from pygrid.errors import InvalidInput, PygridError
from pygrid.features.models.forms import MAX_FORM_BYTES, read_serve_form
from pygrid.features.models.service import ModelsService
from pygrid.messages.models import PortInfo, ServedModelInfo
from pygrid.tensors import decode, encode
from pygrid.ui.access import signed_in
from pygrid.ui.console import console_of, see_other
from pygrid.ui.downloads import BYTES, download_headers
from pygrid.ui.forms import MAX_FORM_BYTES as MAX_FIELDS_BYTES
from pygrid.ui.forms import PathText, read_fields
from pygrid.ui.snippets import literal
from pygrid.units import decimal
from pygrid.web.blobs import ServedModelBlobs
from pygrid.web.requests import AppRequest, stream_body
from pygrid.web.services import service

MAX_SHOWN = 20
"""Examples of an answer, and values of each, that are shown."""


class ModelsView(msgspec.Struct, frozen=True):
    models: list[ServedModelInfo]
    may_serve: bool
    fields: Mapping[str, str]
    """What was typed in a form that was refused."""
    python: str


class PortView(msgspec.Struct, frozen=True):
    """An input of a model, as a field."""

    name: str
    shape: str
    dtype: str
    num_values: int
    value: str


class OutputView(msgspec.Struct, frozen=True):
    """An output of an answer: a row for each example."""

    name: str
    rows: list[list[str]]
    bars: list[tuple[str, float]]
    """The values of the first example, if they are shares of one."""


class ModelView(msgspec.Struct, frozen=True):
    info: ServedModelInfo
    may_predict: bool
    may_download: bool
    facts: list[tuple[str, str]]
    ports: list[PortView]
    outputs: list[OutputView]
    python: str


@get("/models", guards=[signed_in()])
async def models_page(request: AppRequest, state: State) -> Response[bytes]:
    """Show the served models."""
    return await _list_page(request, state)


@post("/models", guards=[signed_in(Permission.HOST_MODELS)], request_max_body_size=None)
async def serve(request: AppRequest, state: State) -> Response[bytes]:
    """Serve a model."""
    models, fields = service(state, ModelsService), dict[str, bytes]()
    try:
        async with models.receive(request.user) as model:
            body = stream_body(request, MAX_FORM_BYTES)
            wanted = await read_serve_form(request.headers.get("content-type", ""), body, model, fields)
            info = await models.serve(request.user, model, wanted)
    except PygridError as error:
        return await _list_page(request, state, error, fields)
    return see_other(f"/admin/models/{info.id}")


async def _list_page(
    request: AppRequest, state: State, error: PygridError | None = None, fields: Mapping[str, bytes] | None = None
) -> Response[bytes]:
    found = await service(state, ModelsService).list_models(request.user)
    view = ModelsView(
        found,
        request.user.may(Permission.HOST_MODELS),
        {name: data.decode(errors="replace") for name, data in (fields or {}).items()},
        'domain.serve("scores", "scores.onnx", allow_remote_inference=True)',
    )
    return await console_of(request).page(request, "models.html", "Models", view, error=error)


@get("/models/{model_id:str}", guards=[signed_in()])
async def model_page(request: AppRequest, state: State, model_id: PathText) -> Response[bytes]:
    """Show a model."""
    return await _page(request, state, model_id, {})


@post("/models/{model_id:str}/predict", guards=[signed_in()], request_max_body_size=MAX_FIELDS_BYTES)
async def predict(request: AppRequest, state: State, model_id: PathText) -> Response[bytes]:
    """Ask a model; the answer is on the page."""
    models, fields = service(state, ModelsService), await read_fields(request)
    try:
        model = await models.check_may_predict(request.user, model_id)
        info = await models.get(request.user, model_id)
        inputs = encode({port.name: _read_input(port, fields.get(f"input-{port.name}", "")) for port in info.inputs})
        with models.reserve_bytes(request.user, model, len(inputs)):
            answer = await models.predict(request.user, model, [inputs])
        outputs = decode(b"".join(answer))[0]
    except PygridError as error:
        return await _page(request, state, model_id, fields, error)
    return await _page(request, state, model_id, fields, outputs=outputs)


@post("/models/{model_id:str}/delete", guards=[signed_in()])
async def withdraw(request: AppRequest, state: State, model_id: PathText) -> Response[bytes]:
    """Stop serving a model."""
    try:
        await service(state, ModelsService).delete(request.user, model_id)
    except PygridError as error:
        return await _page(request, state, model_id, {}, error)
    return see_other("/admin/models")


@get("/models/{model_id:str}/download", guards=[signed_in()])
async def download_model(request: AppRequest, state: State, model_id: PathText) -> Response[Any]:
    """Download the ONNX file of a model."""
    file = await service(state, ModelsService).find_file(request.user, model_id)
    return await service(state, ServedModelBlobs).respond(
        request, file, download_headers(f"model-{file[:16]}.onnx"), BYTES
    )


async def _page(
    request: AppRequest,
    state: State,
    model_id: str,
    fields: dict[str, str],
    error: PygridError | None = None,
    outputs: dict[str, Any] | None = None,
) -> Response[bytes]:
    info = await service(state, ModelsService).get(request.user, model_id)
    facts = [
        ("description", info.description or "none"),
        ("parameters", f"{info.num_parameters:,}"),
        ("operations for each example", f"{info.flops_per_example:,}"),
        ("examples at once", f"at most {info.max_batch_size:,}"),
        ("others may", _rights(info)),
        ("visibility", info.visibility),
        ("SHA-256", info.sha256),
    ]
    view = ModelView(
        info,
        info.mine or info.allow_remote_inference,
        info.mine or info.allow_download,
        facts,
        [_port(port, fields.get(f"input-{port.name}", "")) for port in info.inputs],
        [_output(name, array) for name, array in (outputs or {}).items()],
        f"domain.model({literal(info.id)}).predict({{{', '.join(f'{port.name!r}: ...' for port in info.inputs)}}})",
    )
    return await console_of(request).page(request, "model.html", info.id, view, error=error)


def _rights(info: ServedModelInfo) -> str:
    given = [("ask it", info.allow_remote_inference), ("download it", info.allow_download)]
    return " and ".join(words for words, is_given in given if is_given) or "see it"


def _port(port: PortInfo, value: str) -> PortView:
    sizes = [size for size in port.shape if isinstance(size, int)]
    return PortView(port.name, " x ".join(map(str, port.shape)), port.dtype, int(np.prod(sizes or [1])), value)


def _read_input(port: PortInfo, text: str) -> Any:
    """Return the array of a field: an example on each line, its numbers separated by commas.

    Raises:
        InvalidInput: ``invalid_form``, with ``field``.
    """
    lines = [line for line in text.replace("[", " ").replace("]", " ").splitlines() if line.strip()]
    try:
        rows = [[float(part) for part in line.replace(";", ",").split(",") if part.strip()] for line in lines]
        sizes = [len(rows) if isinstance(size, str) else size for size in port.shape]
        return np.array(rows, np.float64).astype(port.dtype).reshape(sizes)
    except ValueError:
        num_values = int(np.prod([size for size in port.shape if isinstance(size, int)] or [1]))
        raise InvalidInput(
            f"input {port.name!r}: write one example on each line, with {num_values:,} numbers separated by commas",
            code=codes.INVALID_FORM,
            field=f"input-{port.name}",
        ) from None


def _output(name: str, array: Any) -> OutputView:
    rows = array.reshape(len(array), -1) if array.ndim else array.reshape(1, 1)
    first = [float(value) for value in rows[0].tolist()]
    is_share = 2 <= len(first) <= 100 and min(first) >= 0 and abs(sum(first) - 1) < 1e-3
    shown = [[decimal(value, 5) for value in row[:MAX_SHOWN].tolist()] for row in rows[:MAX_SHOWN]]
    return OutputView(name, shown, [(str(at), value) for at, value in enumerate(first)] if is_share else [])
