"""Reads the multipart form of a process as it arrives: small parts go to memory, the model to the store."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping

from pygrid.features.processes.hosting import PLAN_PREFIX, HostForm
from pygrid.messages.decoding import invalid_form
from pygrid.storage.blobs.files import BlobWriter
from pygrid.tensors.flat import check_model
from pygrid.tensors.stream import StreamCheck
from pygrid.web.forms import PartTarget, read_form, unknown_part

MAX_CONFIG_BYTES = 256 * 1024
MAX_PLAN_BYTES = 8 * 1024 * 1024
MAX_PLANS = 16
MAX_MODEL_BYTES = 4 * 1024**3
MAX_FORM_BYTES = MAX_MODEL_BYTES + 256 * 1024**2
_PARTS = "config, model, plan:NAME and averaging_plan"
_PLAN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


async def read_host_form(content_type: str, body: AsyncIterator[bytes], model: BlobWriter) -> HostForm:
    """Read the form, and write the model to ``model`` while it is checked.

    Raises:
        InvalidInput: another form, or a repeated or unknown part. PayloadTooLarge: a part is over its limit.
        InvalidTensors, NonFinite: the model is not a safetensors file of finite float32 arrays.
    """
    check = StreamCheck(MAX_MODEL_BYTES, check_model)

    def take_model(data: bytearray) -> None:
        check.add(data)
        model.write(data)

    def begin(name: str, before: Mapping[str, bytes]) -> PartTarget:
        if name == "model":
            return PartTarget(MAX_MODEL_BYTES, take_model)
        if name.startswith(PLAN_PREFIX):
            _check_plan_name(name.removeprefix(PLAN_PREFIX), before)
        elif name not in ("config", "averaging_plan"):
            raise unknown_part(name, _PARTS)
        return PartTarget(MAX_CONFIG_BYTES if name == "config" else MAX_PLAN_BYTES)

    found = await read_form(content_type, body, begin, parts=f"the parts {_PARTS}", max_parts=MAX_PLANS + 8)
    return HostForm(
        config=found.get("config", b""),
        plans={name.removeprefix(PLAN_PREFIX): data for name, data in found.items() if name.startswith(PLAN_PREFIX)},
        averaging_plan=found.get("averaging_plan"),
        model=check.finish().layout if "model" in found else None,
    )


def _check_plan_name(name: str, before: Mapping[str, bytes]) -> None:
    if not _PLAN_NAME.fullmatch(name):
        raise invalid_form(f"the plan name {name[:100]!r} is not valid: use up to 100 letters, digits and any of _ . -")
    if sum(other.startswith(PLAN_PREFIX) for other in before) >= MAX_PLANS:
        raise invalid_form(f"the form has more than {MAX_PLANS} plans, the most that a process can have")
