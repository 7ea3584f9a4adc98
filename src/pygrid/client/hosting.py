"""The upload that hosts a process: configuration, model and plans in one streamed form."""

from __future__ import annotations

import mmap
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pygrid import codes
from pygrid.configs import Config
from pygrid.errors import InvalidInput, InvalidTensors
from pygrid.messages.media import PLAN, TENSORS
from pygrid.messages.processes import HostRequest
from pygrid.plans import Plan
from pygrid.tensors import encode, read_layout
from pygrid.transport import Body
from pygrid.transport.base import CHUNK_BYTES, BytesBody
from pygrid.transport.encoding import json_body

ModelSource = Mapping[str, Any] | str | os.PathLike[str] | Any
"""Arrays (or tensors) by name, the path of a safetensors file, or a ``torch.nn.Module``."""
PlanSource = Plan | str | os.PathLike[str]

USUAL_PLAN = "training_plan"


@dataclass(frozen=True)
class FileBody:
    """A file as the body of a request, read while it is sent."""

    path: Path

    @property
    def num_bytes(self) -> int:
        return self.path.stat().st_size

    def __iter__(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk


@dataclass(frozen=True)
class FormPart:
    """One field of a form."""

    name: str
    media_type: str
    body: Body


class FormBody:
    """A multipart form (RFC 7578) whose parts are streamed."""

    def __init__(self, parts: Sequence[FormPart]) -> None:
        self._boundary = f"pygrid-{secrets.token_hex(16)}"
        self._parts = parts

    @property
    def media_type(self) -> str:
        return f"multipart/form-data; boundary={self._boundary}"

    @property
    def num_bytes(self) -> int:
        return sum(len(self._head(part)) + part.body.num_bytes + 2 for part in self._parts) + len(self._end)

    def __iter__(self) -> Iterator[bytes | memoryview]:
        for part in self._parts:
            yield self._head(part)
            yield from part.body
            yield b"\r\n"
        yield self._end

    def _head(self, part: FormPart) -> bytes:
        return (
            f'--{self._boundary}\r\nContent-Disposition: form-data; name="{part.name}"; filename="{part.name}"\r\n'
            f"Content-Type: {part.media_type}\r\n\r\n"
        ).encode()

    @property
    def _end(self) -> bytes:
        return f"--{self._boundary}--\r\n".encode()


def hosting_form(
    request: HostRequest, model: ModelSource, plans: Mapping[str, PlanSource], averaging_plan: PlanSource | None
) -> FormBody:
    """The upload that hosts a process.

    Raises:
        InvalidInput, InvalidTensors, InvalidPlan: a part cannot be hosted; the message names it. Nothing was sent.
    """
    for name in plans:
        if not name.isascii() or not name.replace("_", "").isalnum():
            raise InvalidInput(
                f"{name!r} is not a valid name of a plan; use letters, digits and _, like {USUAL_PLAN!r}"
            )
    parts = [FormPart("config", "application/json", json_body(request))]
    parts.append(FormPart("model", TENSORS, model_body(model)))
    for name, source in plans.items():
        parts += _plan_parts(name, load_plan(source))
    if averaging_plan is not None:
        parts.append(FormPart("averaging_plan", PLAN, BytesBody(load_plan(averaging_plan).data)))
    return FormBody(parts)


def _plan_parts(name: str, plan: Plan) -> list[FormPart]:
    """A plan, and its variants for clients of 2020."""
    parts = [FormPart(f"plan:{name}", PLAN, BytesBody(plan.data))]
    for variant in plan.variants.variants if plan.variants is not None else ():
        parts.append(FormPart(f"plan:{name}:{variant.dialect}", "application/json", BytesBody(variant.to_bytes())))
    return parts


def written(config: Config | Mapping[str, Any] | None) -> dict[str, Any]:
    """The JSON object of a configuration. The Domain checks a mapping; a class has checked itself."""
    return config.written() if isinstance(config, Config) else dict(config or {})


def load_plan(source: PlanSource) -> Plan:
    """The plan, loaded if the source is a path.

    Raises:
        InvalidInput: there is no such file, or the source is neither a plan nor a path.
        InvalidPlan: the file is not a plan file.
    """
    if isinstance(source, Plan):
        return source
    if not isinstance(source, (str, os.PathLike)):
        hint = "; call its build(model) first" if callable(getattr(source, "build", None)) else ""
        raise InvalidInput(f"a {type(source).__name__} is not a plan that can be hosted{hint}", code=codes.NOT_A_PLAN)
    return Plan.load(_existing(source, "plan"))


def model_body(source: ModelSource) -> Body:
    """The safetensors bytes of a model.

    Raises:
        InvalidInput: there is no such file, or the source is not a model.
        InvalidTensors: an array is not float32, or the file is not a safetensors file.
    """
    if isinstance(source, (str, os.PathLike)):
        path = _existing(source, "model")
        try:
            with path.open("rb") as file:
                read_layout(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
        except (InvalidTensors, ValueError) as error:  # ValueError: an empty file can't be mapped
            raise InvalidTensors(f"{path} is not a safetensors file: {error}") from error
        return FileBody(path)
    if hasattr(source, "named_parameters"):
        from pygrid.plans.authoring import initial_params

        source = initial_params(source)
    if not isinstance(source, Mapping):
        raise InvalidInput(
            f"a {type(source).__name__} is not a model that can be hosted; pass arrays by name, the path of a "
            "safetensors file, or a torch.nn.Module",
            code=codes.NOT_A_MODEL,
        )
    return BytesBody(encode({name: _float32(name, value) for name, value in source.items()}))


def _float32(name: str, value: Any) -> np.ndarray[Any, Any]:
    array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    if array.dtype != np.float32:
        raise InvalidTensors(
            f"array {name!r} of the model is {array.dtype}; a model's arrays are float32 (convert it with "
            ".astype('float32'), or leave it out if the plan does not take it)",
            array=name,
        )
    return array


def _existing(source: str | os.PathLike[str], kind: str) -> Path:
    path = Path(source)
    if not path.is_file():
        raise InvalidInput(
            f"there is no {kind} file {os.fspath(source)!r}", code=codes.FILE_NOT_FOUND, path=os.fspath(source)
        )
    return path
