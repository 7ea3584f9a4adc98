"""The multipart form that hosts a process, read as it arrives: small parts into memory, the model into the store."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from multipart import MultipartSegment

from pygrid.errors import InvalidInput, PayloadTooLarge
from pygrid.storage.files import BlobWriter
from pygrid.tensors.flat import check_model
from pygrid.tensors.safetensors import Layout
from pygrid.tensors.stream import StreamCheck
from pygrid.web.forms import FormEvent, form_events

MAX_CONFIG_BYTES = 256 * 1024
MAX_PLAN_BYTES = 8 * 1024 * 1024
MAX_PLANS = 16
MAX_MODEL_BYTES = 4 * 1024**3
PLAN_PREFIX = "plan:"
_PLAN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


@dataclass
class HostForm:
    """The parts of the form. The model's bytes are in the blob writer, checked, not committed."""

    config: bytes = b""
    plans: dict[str, bytes] = field(default_factory=dict)
    averaging_plan: bytes | None = None
    model: Layout | None = None


async def read_host_form(content_type: str, body: AsyncIterator[bytes], model: BlobWriter) -> HostForm:
    """Read the form; the model goes to ``model`` while it is checked.

    Raises:
        InvalidInput: not such a form, a part twice or unknown. PayloadTooLarge: a part is over its limit.
        InvalidTensors, NonFinite: the model is not a safetensors file of finite float32 arrays.
    """
    reader = _Reader(model)
    parts = "config, model and plan:NAME parts"
    async for event in form_events(content_type, body, parts=parts, max_parts=MAX_PLANS + 8):
        await reader.take(event)
    return reader.form


class _Reader:
    """Sorts what the parser gives: a segment's head, its pieces, None at its end."""

    def __init__(self, model: BlobWriter) -> None:
        self.form = HostForm()
        self._model = model
        self._check = StreamCheck(MAX_MODEL_BYTES, check_model)
        self._name = ""
        self._data = bytearray()
        self._limit = 0

    async def take(self, event: FormEvent) -> None:
        if isinstance(event, MultipartSegment):
            self._begin(event.name or "")
        elif event is None:
            self._end()
        elif self._name == "model":
            await asyncio.to_thread(self._take_model, bytes(event))
        else:
            self._data += event
            if len(self._data) > self._limit:
                raise PayloadTooLarge(f"part {self._name!r} has more than {self._limit} bytes", max_bytes=self._limit)

    def _begin(self, name: str) -> None:
        form = self.form
        plan_name = name.removeprefix(PLAN_PREFIX) if name.startswith(PLAN_PREFIX) else None
        if plan_name is not None and not _PLAN_NAME.fullmatch(plan_name):
            raise InvalidInput(
                f"{plan_name[:100]!r} is not a name for a plan: use up to 100 letters, digits and any of _ . -",
                code="invalid_form",
            )
        if plan_name is None and name not in ("config", "model", "averaging_plan"):
            raise InvalidInput(f"the form has an unknown part {name[:100]!r}", code="invalid_form", part=name[:100])
        taken = (
            (name == "config" and form.config)
            or (name == "model" and form.model is not None)
            or (name == "averaging_plan" and form.averaging_plan is not None)
            or plan_name in form.plans
        )
        if taken:
            raise InvalidInput(f"the form has part {name!r} twice", code="invalid_form", part=name)
        if plan_name is not None and len(form.plans) >= MAX_PLANS:
            raise InvalidInput(f"a process has at most {MAX_PLANS} plans", code="invalid_form")
        self._name, self._data = name, bytearray()
        self._limit = MAX_CONFIG_BYTES if name == "config" else MAX_PLAN_BYTES

    def _take_model(self, data: bytes) -> None:
        self._check.add(data)
        self._model.write(data)

    def _end(self) -> None:
        form, data = self.form, bytes(self._data)
        if self._name == "config":
            form.config = data
        elif self._name == "model":
            form.model = self._check.finish().layout
        elif self._name == "averaging_plan":
            form.averaging_plan = data
        else:
            form.plans[self._name.removeprefix(PLAN_PREFIX)] = data
