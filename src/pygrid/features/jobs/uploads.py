"""The multipart form that brings a job, read as it arrives: ``config`` and ``plan`` into memory, ``model`` into a file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from multipart import MultipartSegment

from pygrid.errors import PayloadTooLarge
from pygrid.plans.archive import MAX_PLAN_BYTES
from pygrid.storage.files import BlobWriter
from pygrid.tensors.flat import check_model
from pygrid.tensors.safetensors import Layout
from pygrid.tensors.stream import StreamCheck
from pygrid.web.forms import FormEvent, form_events, invalid_form

MAX_CONFIG_BYTES = 256 * 1024
MAX_MODEL_BYTES = 256 * 1024**2
MAX_FORM_BYTES = MAX_MODEL_BYTES + MAX_PLAN_BYTES + 1024**2


@dataclass
class JobForm:
    """The parts of the form. The model's bytes are in the blob writer, checked, not committed."""

    config: bytes | None = None
    plan: bytes | None = None
    model: Layout | None = None


async def read_job_form(content_type: str, body: AsyncIterator[bytes], model: BlobWriter) -> JobForm:
    """Read the form; the model goes to ``model`` while it is checked.

    Raises:
        InvalidInput: ``invalid_form``: not such a form, a part missing, twice or unknown.
        PayloadTooLarge: a part is over its limit.
        InvalidTensors, NonFinite: the model is not a safetensors file of finite float32 arrays.
    """
    reader = _Reader(model)
    async for event in form_events(content_type, body, parts="the parts config, plan and model", max_parts=8):
        await reader.take(event)
    if reader.form.config is None:
        raise invalid_form("the form has no part 'config'")
    return reader.form


class _Reader:
    """Sorts what comes."""

    def __init__(self, model: BlobWriter) -> None:
        self.form = JobForm()
        self._model = model
        self._check = StreamCheck(MAX_MODEL_BYTES, check_model)
        self._name = ""
        self._data = bytearray()

    async def take(self, event: FormEvent) -> None:
        if isinstance(event, MultipartSegment):
            self._begin(event.name or "")
        elif event is None:
            self._end()
        elif self._name == "model":
            await asyncio.to_thread(self._take_model, bytes(event))
        else:
            self._data += event
            limit = MAX_CONFIG_BYTES if self._name == "config" else MAX_PLAN_BYTES
            if len(self._data) > limit:
                raise PayloadTooLarge(f"part {self._name!r} has more than {limit:,} bytes", max_bytes=limit)

    def _begin(self, name: str) -> None:
        if name not in ("config", "plan", "model"):
            raise invalid_form(f"the form has an unknown part {name[:100]!r}; it takes config, plan and model")
        if getattr(self.form, name) is not None:
            raise invalid_form(f"the form has part {name!r} twice")
        self._name, self._data = name, bytearray()

    def _take_model(self, data: bytes) -> None:
        self._check.add(data)
        self._model.write(data)

    def _end(self) -> None:
        if self._name == "config":
            self.form.config = bytes(self._data)
        elif self._name == "plan":
            self.form.plan = bytes(self._data)
        else:
            self.form.model = self._check.finish().layout
