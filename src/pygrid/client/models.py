"""Models that a Domain serves: put them there, ask them, take them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from pygrid import codes
from pygrid.client.display.tables import Table, TableColumn, html_facts
from pygrid.client.display.units import size
from pygrid.client.downloads import MAX_MEMORY_BYTES, read_checked, write_checked
from pygrid.client.hosting import FormBody, FormPart
from pygrid.errors import InvalidInput
from pygrid.messages.media import TENSORS
from pygrid.messages.models import ModelList, ServedModel, ServedModelInfo, ServeRequest
from pygrid.tensors import decode, encode
from pygrid.transport import Api, Request
from pygrid.transport.base import BytesBody

OnnxSource = bytes | str | os.PathLike[str] | Any
"""The bytes of an ONNX model, the path of its file, or an ``onnx.ModelProto``."""
_TIMEOUT_S = 120.0


class HostedModel:
    """A model on a Domain that answers."""

    def __init__(self, api: Api, info: ServedModelInfo) -> None:
        self._api = api
        self.info = info

    @property
    def id(self) -> str:
        return self.info.id

    @property
    def _path(self) -> str:
        return f"/data-centric/models/{self.id}"

    def predict(self, inputs: Mapping[str, npt.ArrayLike]) -> dict[str, npt.NDArray[Any]]:
        """The model's outputs for as many examples as one likes; what is more than one batch is asked in parts.

        Args:
            inputs: arrays by the names of the model's inputs, converted to their dtypes; the first axis is the
                examples.
        Raises:
            InvalidInput, ShapeMismatch: the arrays do not fit the model, or it can't compute with their values.
            Forbidden: others may not ask it (``inference_not_allowed``). NotFound: it is not served any more.
            Conflict: another model is served under its id now (``model_changed``).
            Unavailable: it can't answer now, also after some tries.
        """
        arrays = self._converted(inputs)
        batched = [port.name for port in self.info.inputs if port.shape and isinstance(port.shape[0], str)]
        num_examples = len(arrays[batched[0]]) if batched and arrays[batched[0]].ndim else 1
        most = self.info.max_batch_size
        if num_examples <= most:
            return self._ask(arrays)
        if not self.info.rows_independent:
            raise InvalidInput(
                f"these are {num_examples:,} examples; model {self.id!r} takes {most} at once, and what it says of one "
                "may depend on the others, so they can't be asked in parts",
                code=codes.INFERENCE_BATCH_SIZE,
            )
        parts = [
            self._ask({name: array[begin : begin + most] for name, array in arrays.items()})
            for begin in range(0, num_examples, most)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def download(self, path: str | os.PathLike[str] | None = None) -> bytes | Path:
        """The ONNX file as it was served: its bytes, or with ``path`` written there.

        Raises:
            Forbidden: others may not take it (``download_not_allowed``). NotFound: it is not served any more.
        """
        request = Request("GET", f"{self._path}/download")
        return bytes(read_checked(self._api, request)) if path is None else write_checked(self._api, request, path)

    def delete(self) -> None:
        """Stop serving it. Raises Forbidden: it is not yours (``not_your_model``)."""
        self._api.exchange(Request("DELETE", self._path), lambda response: None)

    def _converted(self, inputs: Mapping[str, npt.ArrayLike]) -> dict[str, npt.NDArray[Any]]:
        dtypes = {port.name: np.dtype(port.dtype) for port in self.info.inputs}
        if inputs.keys() != dtypes.keys():
            given, wanted = ", ".join(inputs) or "none", ", ".join(dtypes)
            raise InvalidInput(
                f"model {self.id!r} takes the inputs {wanted}; given: {given}", code=codes.INFERENCE_INPUTS
            )
        arrays = {}
        for name, dtype in dtypes.items():
            array = np.asarray(inputs[name])
            if not np.can_cast(array.dtype, dtype, "same_kind"):
                raise InvalidInput(
                    f"input {name!r} is {array.dtype}, which is no {dtype} without loss; convert it first",
                    code=codes.INFERENCE_INPUTS,
                )
            arrays[name] = array.astype(dtype, copy=False)
        return arrays

    def _ask(self, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        headers = {"Content-Type": TENSORS, "If-Match": f'"{self.info.sha256}"'}
        body = BytesBody(encode(arrays))
        request = Request("POST", f"{self._path}/predict", headers=headers, body=body, timeout_s=_TIMEOUT_S)

        return decode(
            self._api.exchange(request, lambda response: response.collect(MAX_MEMORY_BYTES), idempotent=True)
        )[0]

    def __repr__(self) -> str:
        return f"HostedModel({self.id!r})"

    def _repr_html_(self) -> str:
        return html_facts(_rows(self.info).items())


class ModelTable(Table[ServedModelInfo]):
    """The models that a Domain serves."""

    def columns(self) -> Sequence[TableColumn[ServedModelInfo]]:
        return (
            TableColumn("id", lambda item: item.id, weight=5),
            TableColumn("description", lambda item: item.description, min=20),
            TableColumn("inputs", lambda item: _ports(item.inputs), weight=3),
            TableColumn("outputs", lambda item: _ports(item.outputs), weight=2),
            TableColumn("size", lambda item: size(item.size_bytes), align="right"),
            TableColumn("others may", _allowed, weight=4),
        )


def serve_model(api: Api, request: ServeRequest, source: OnnxSource) -> HostedModel:
    """Put a model on a Domain. See `pygrid.client.DomainClient.serve`."""
    # Here, because onnx takes a tenth of a second, and hardly anybody who uses the SDK serves a model.
    from pygrid.plans.export_cleanup import tidy_model

    parts = [
        FormPart("config", "application/json", BytesBody(msgspec.json.encode(request))),
        FormPart("model", TENSORS, BytesBody(tidy_model(onnx_bytes(source)))),
    ]
    form = FormBody(parts)
    headers = {"Content-Type": form.media_type}
    answer = api.send_body("/data-centric/serve-model", ServedModel, form, headers=headers, once=True)
    return HostedModel(api, answer.model)


def list_served(api: Api) -> ModelTable:
    """The models that a Domain serves."""
    return ModelTable(api.get("/data-centric/detailed-models-list", ModelList).models)


def get_served(api: Api, model_id: str) -> HostedModel:
    """A model by its id. Raises InvalidInput: it is no id. NotFound: it is not served."""
    if not model_id.isascii() or not model_id or set(model_id) & set("/?#%"):
        raise InvalidInput(
            f"{model_id!r} is no id of a model; use letters, digits and any of _ . -", code=codes.INVALID_CONFIG
        )
    return HostedModel(api, api.get(f"/data-centric/models/{model_id}", ServedModelInfo))


def onnx_bytes(source: OnnxSource) -> bytes:
    """The ONNX model itself, from a file if need be.

    Raises:
        InvalidInput: no such file (``file_not_found``), or no ONNX model (``not_a_model``).
    """
    if isinstance(source, bytes):
        return source
    if hasattr(source, "SerializeToString"):
        return bytes(source.SerializeToString())
    if not isinstance(source, (str, os.PathLike)):
        raise InvalidInput(
            f"a {type(source).__name__} is not an ONNX model; give its bytes, the path of its file, or an "
            "onnx.ModelProto",
            code=codes.NOT_A_MODEL,
        )
    path = Path(source)
    if not path.is_file():
        raise InvalidInput(
            f"there is no model file {os.fspath(source)!r}", code=codes.FILE_NOT_FOUND, path=os.fspath(source)
        )
    import onnx
    from google.protobuf.message import DecodeError

    try:
        # Weights in files beside it come along.
        return bytes(onnx.load(path).SerializeToString())
    except (DecodeError, onnx.checker.ValidationError, ValueError, OSError) as error:
        raise InvalidInput(f"{path} can't be read as an ONNX model: {error}", code=codes.NOT_A_MODEL) from error


def _ports(ports: Any) -> str:
    return ", ".join(f"{port.name}: {port.dtype}[{', '.join(map(str, port.shape))}]" for port in ports)


def _rows(info: ServedModelInfo) -> dict[str, str]:
    return {
        "model": info.id,
        "description": info.description,
        "inputs": _ports(info.inputs),
        "outputs": _ports(info.outputs),
        "parameters": f"{info.num_parameters:,}",
        "examples at once": str(info.max_batch_size),
        "others may": _allowed(info),
    }


def _allowed(info: ServedModelInfo) -> str:
    may = [what for what, yes in (("predict", info.allow_remote_inference), ("download", info.allow_download)) if yes]
    return " and ".join(may) or "not use it"
