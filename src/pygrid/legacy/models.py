"""Served models over the WebSocket of clients of 2020.

The types are ``list-models``, ``host-model``, ``delete-model`` and ``run-inference``. PySyft wrapped tensors in its own
format, parts of which are Python objects that run when they are read. Here, ``data`` has numbers: a nested list for a
model with one input, or lists by the names of several inputs. It can also be safetensors bytes, as text in the
``encoding`` (ISO-8859-1, one byte for each character). A model's ONNX bytes have the same encoding.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np

from pygrid import codes
from pygrid.core.access import Permission
from pygrid.core.serving import check_serve_request
from pygrid.errors import Forbidden, InvalidInput
from pygrid.features.models.forms import read_published_fields
from pygrid.features.models.service import ModelsService
from pygrid.legacy.websocket import Answer, Handler, LegacyCaller, Message, refusal, text_field
from pygrid.plans.manifest import Port
from pygrid.storage.models import StoredModel
from pygrid.tensors import Params, decode, encode

MAX_ANSWER_BYTES = 1024**2
"""Size of a prediction's arrays; their text is several times as large."""
_ENCODINGS = frozenset({"iso-8859-1", "latin-1", "latin1"})


def model_messages(models: ModelsService) -> dict[str, Handler]:
    async def list_models(caller: LegacyCaller, message: Message) -> Answer:
        principal = await caller.principal(message)
        return {"success": True, "models": await models.list_ids(principal)}

    async def host_model(caller: LegacyCaller, message: Message) -> Answer:
        principal = await caller.principal(message, Permission.HOST_MODELS)
        fields = {name: str(value) for name, value in message.items() if isinstance(value, str | bool | int)}
        request, data = read_published_fields(fields), _bytes(message, "model")
        check_serve_request(request)
        async with models.receive(principal) as model:
            await asyncio.to_thread(model.write, data)
            info = await models.serve(principal, model, request)
        return {"success": True, "message": f"Model saved with id: {info.id}"}

    async def delete_model(caller: LegacyCaller, message: Message) -> Answer:
        principal = await caller.principal(message)
        await models.delete(principal, text_field(message, "model_id"))
        return {"success": True, "message": "Model deleted with success!"}

    async def run_inference(caller: LegacyCaller, message: Message) -> Answer:
        principal = await caller.principal(message)
        try:
            model = await models.check_may_predict(principal, text_field(message, "model_id"))
        except Forbidden as error:
            return {**refusal(error), "not_allowed": True}
        inputs = encode(_arrays(message, model))
        with models.reserve_bytes(principal, model, len(inputs)):
            pieces = await models.predict(principal, model, [inputs], max_answer_bytes=MAX_ANSWER_BYTES)
        outputs = {name: array.tolist() for name, array in decode(b"".join(pieces))[0].items()}
        return {"success": True, "prediction": outputs if len(outputs) > 1 else next(iter(outputs.values()))}

    return {
        "list-models": list_models,
        "host-model": host_model,
        "delete-model": delete_model,
        "run-inference": run_inference,
    }


def _arrays(message: Message, model: StoredModel) -> Params:
    """Return the data of a message as arrays of the inputs' dtypes."""
    data = message.get("data")
    if isinstance(data, str):
        return decode(_bytes(message, "data"))[0]
    ports = {port.name: port for port in model.report.inputs}
    if isinstance(data, list) and len(ports) == 1:
        data = {next(iter(ports)): data}
    if not isinstance(data, Mapping) or not data.keys() <= ports.keys():
        raise InvalidInput(
            f"data must be a list of numbers, or lists by the names of the model's inputs: {', '.join(ports)}",
            code=codes.INFERENCE_INPUTS,
        )
    return {name: _array(ports[name], values) for name, values in data.items()}


def _array(port: Port, values: Any) -> np.ndarray[Any, Any]:
    try:
        array = np.array(values)
    except ValueError as error:
        raise _no_array(port) from error
    if array.size == 0:
        array = array.astype(port.dtype)
    if array.dtype.kind not in "bif" or not np.can_cast(array.dtype, port.dtype, "same_kind"):
        raise _no_array(port)
    converted = array.astype(port.dtype)
    if converted.dtype.kind == "i" and not np.array_equal(converted, array):
        raise _no_array(port)
    return converted


def _no_array(port: Port) -> InvalidInput:
    shape = ", ".join(map(str, port.shape))
    return InvalidInput(
        f"the data of input {port.name!r} must be nested lists of numbers for {port.dtype} [{shape}]",
        code=codes.INFERENCE_INPUTS,
    )


def _bytes(message: Message, name: str) -> bytes:
    encoding = message.get("encoding", "ISO-8859-1")
    if str(encoding).lower() not in _ENCODINGS:
        raise InvalidInput(
            f"encoding {str(encoding)[:40]!r} is not supported; use ISO-8859-1", code=codes.UNKNOWN_ENCODING
        )
    try:
        return text_field(message, name).encode("ISO-8859-1")
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"{name} has characters beyond ISO-8859-1, so it cannot be read as bytes", code=codes.UNKNOWN_ENCODING
        ) from error
