"""Served models of a Domain: serve them, predict with them, download them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, overload

import numpy as np
import numpy.typing as npt

from pygrid import codes
from pygrid.client.display.tables import Table, TableColumn, html_facts
from pygrid.client.downloads import MAX_MEMORY_BYTES, read_checked, write_checked
from pygrid.client.hosting import FormBody, FormPart
from pygrid.configs import unknown_field
from pygrid.errors import InvalidConfig, InvalidInput
from pygrid.messages.media import TENSORS
from pygrid.messages.models import ModelList, ModelVisibility, ServedModel, ServedModelInfo, ServeRequest
from pygrid.tensors import decode, encode
from pygrid.transport import Api, Request
from pygrid.transport.base import BytesBody
from pygrid.transport.encoding import json_body
from pygrid.units import size

OnnxSource = bytes | str | os.PathLike[str] | Any
"""The bytes of an ONNX model, the path of its file, or an ``onnx.ModelProto``."""
_TIMEOUT_S = 120.0


class ServingOptions(TypedDict, total=False):
    """The optional arguments of `DomainClient.serve` and `Process.serve`."""

    description: str
    """Purpose of the model."""
    allow_remote_inference: bool
    """Other users may predict with the model; you and Owners always may. Default: false."""
    allow_download: bool
    """Other users may download the file; you and Owners always may. Default: false."""
    max_batch_size: int
    """Largest number of examples in one request; the cost of the model is bounded for it. Default: 64."""
    visibility: ModelVisibility
    """``listed``, the default: users with an account can see the model. ``public``: everybody can, and searches at the
    Networks of the Domain find it.
    """


class HostedModel:
    """A model that a Domain serves."""

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
        """The outputs of the model for any number of examples; several requests are sent for more than one batch.

        Args:
            inputs: arrays by the names of the model's inputs, converted to their dtypes; the first axis is that of the
                examples.
        Raises:
            InvalidInput, ShapeMismatch: the arrays do not fit the model, or it cannot compute with their values.
            Forbidden: other users may not predict with it (``inference_not_allowed``). NotFound: it is not served.
            Conflict: another model is now served under its id (``model_changed``).
            Unavailable: it did not answer, also after retries.
        """
        arrays = self._converted(inputs)
        batched = [port.name for port in self.info.inputs if port.shape and isinstance(port.shape[0], str)]
        num_examples = len(arrays[batched[0]]) if batched and arrays[batched[0]].ndim else 1
        most = self.info.max_batch_size
        if num_examples <= most:
            return self._ask(arrays)
        if not self.info.rows_independent:
            raise InvalidInput(
                f"{num_examples:,} examples are too many for model {self.id!r}: it takes {most} at once, and its "
                "outputs for one example may depend on the others, so a request cannot be split",
                code=codes.INFERENCE_BATCH_SIZE,
            )
        parts = [
            self._ask({name: array[begin : begin + most] for name, array in arrays.items()})
            for begin in range(0, num_examples, most)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    @overload
    def download(self, path: None = None) -> bytes: ...
    @overload
    def download(self, path: str | os.PathLike[str]) -> Path: ...
    def download(self, path: str | os.PathLike[str] | None = None) -> bytes | Path:
        """The bytes of the ONNX file, or its path after it was written to ``path``.

        Raises:
            Forbidden: other users may not download it (``download_not_allowed``). NotFound: it is not served.
        """
        request = Request("GET", f"{self._path}/download")
        return bytes(read_checked(self._api, request)) if path is None else write_checked(self._api, request, path)

    def delete(self) -> None:
        """Stop serving the model. Raises Forbidden: it is not yours (``not_your_model``)."""
        self._api.exchange(Request("DELETE", self._path), lambda response: None)

    def _converted(self, inputs: Mapping[str, npt.ArrayLike]) -> dict[str, npt.NDArray[Any]]:
        dtypes = {port.name: np.dtype(port.dtype) for port in self.info.inputs}
        if inputs.keys() != dtypes.keys():
            given, wanted = ", ".join(inputs) or "none", ", ".join(dtypes)
            raise InvalidInput(f"model {self.id!r} has the inputs {wanted}, not {given}", code=codes.INFERENCE_INPUTS)
        arrays = {}
        for name, dtype in dtypes.items():
            array = np.asarray(inputs[name])
            if not np.can_cast(array.dtype, dtype, "same_kind"):
                raise InvalidInput(
                    f"input {name!r} is {array.dtype}, which cannot become {dtype} without loss; convert it first",
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
            TableColumn("inputs", lambda item: ports_in_words(item.inputs), weight=3),
            TableColumn("outputs", lambda item: ports_in_words(item.outputs), weight=2),
            TableColumn("size", lambda item: size(item.size_bytes), align="right"),
            TableColumn("others may", _allowed, weight=4),
        )


def serve_model(api: Api, model_id: str, source: OnnxSource, options: Mapping[str, Any]) -> HostedModel:
    """Serve a model. See `pygrid.client.DomainClient.serve`."""
    known = ServeRequest.__struct_fields__
    for name in options.keys() - set(known):
        raise InvalidConfig(unknown_field("serve", name, known), code=codes.INVALID_CONFIG, field=name)
    request = ServeRequest(model_id, **options)
    # Here, because onnx costs 0.1 s, and few users of the SDK serve a model.
    from pygrid.plans.export_cleanup import tidy_model

    parts = [
        FormPart("config", "application/json", json_body(request)),
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
    """A served model by its id. Raises InvalidInput: the id is not valid. NotFound: there is no such model."""
    if not model_id.isascii() or not model_id or set(model_id) & set("/?#%"):
        raise InvalidInput(
            f"{model_id!r} is not a valid id of a model; use letters, digits and any of _ . -",
            code=codes.INVALID_CONFIG,
        )
    return HostedModel(api, api.get(f"/data-centric/models/{model_id}", ServedModelInfo))


def onnx_bytes(source: OnnxSource) -> bytes:
    """The bytes of the ONNX model, loaded if the source is a path.

    Raises:
        InvalidInput: there is no such file (``file_not_found``), or it is not an ONNX model (``not_a_model``).
    """
    if isinstance(source, bytes):
        return source
    if hasattr(source, "SerializeToString"):
        return bytes(source.SerializeToString())
    if not isinstance(source, (str, os.PathLike)):
        raise InvalidInput(
            f"a {type(source).__name__} is not an ONNX model; pass its bytes, the path of its file, or an "
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
        # Includes weights in external files.
        return bytes(onnx.load(path).SerializeToString())
    except (DecodeError, onnx.checker.ValidationError, ValueError, OSError) as error:
        raise InvalidInput(f"{path} can't be read as an ONNX model: {error}", code=codes.NOT_A_MODEL) from error


def ports_in_words(ports: Any) -> str:
    """Inputs or outputs of a model, for people: ``x: float32[batch, 784]``."""
    return ", ".join(f"{port.name}: {port.dtype}[{', '.join(map(str, port.shape))}]" for port in ports)


def _rows(info: ServedModelInfo) -> dict[str, str]:
    return {
        "model": info.id,
        "description": info.description,
        "inputs": ports_in_words(info.inputs),
        "outputs": ports_in_words(info.outputs),
        "parameters": f"{info.num_parameters:,}",
        "examples at once": str(info.max_batch_size),
        "others may": _allowed(info),
    }


def _allowed(info: ServedModelInfo) -> str:
    may = [what for what, yes in (("predict", info.allow_remote_inference), ("download", info.allow_download)) if yes]
    return " and ".join(may) or "not use it"
