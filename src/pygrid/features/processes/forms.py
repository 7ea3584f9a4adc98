"""Reads the multipart form of a process as it arrives: small parts go to memory, the model to the store.

Model owners of 2020 send JSON, which is read as a whole.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec

from pygrid.features.processes.hosting import PLAN_PREFIX, HostForm, split_parts
from pygrid.messages.decoding import decode_json, invalid_form, read_struct
from pygrid.plans.variants import DIALECTS, MAX_VARIANT_BYTES
from pygrid.storage.blobs.protocol import BlobWriter
from pygrid.tensors.flat import check_model
from pygrid.tensors.stream import StreamCheck
from pygrid.web.forms import PartTarget, body_pieces, read_form, unknown_part
from pygrid.web.message_memory import HeldText

MAX_CONFIG_BYTES = 256 * 1024
MAX_PLAN_BYTES = 8 * 1024 * 1024
MAX_PLANS = 16
MAX_VARIANTS_BYTES = 48 * 1024 * 1024
"""Size of all variants of a form together."""
MAX_MODEL_BYTES = 4 * 1024**3
MAX_MESSAGE_BYTES = 64 * 1024**2
"""Longest JSON of a process, with its files as hexadecimal text."""
MAX_FORM_BYTES = MAX_MODEL_BYTES + 256 * 1024**2
_PARTS = "config, model, plan:NAME, plan:NAME:DIALECT and averaging_plan"
_PLAN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


class HostMessage(msgspec.Struct):
    """The fields of the message; ``protocols`` has no effect, because processes have no protocols."""

    model: str
    plans: dict[str, str]
    client_config: dict[str, Any]
    server_config: dict[str, Any]
    averaging_plan: str = ""
    protocols: Any = None


async def read_host_message(body: AsyncIterator[bytes], held: HeldText) -> HostMessage:
    """Read the JSON of a process, in memory that ``held`` counts while it arrives.

    Raises:
        InvalidInput: ``missing_field``, or as `decode_json`. Unavailable: ``server_busy``.
    """
    data = bytearray()
    async for piece in body_pieces(body):
        data += piece
        held.grow(len(data))
    return await asyncio.to_thread(_read_message, bytes(data))


def _read_message(data: bytes) -> HostMessage:
    return read_struct(decode_json(data), HostMessage)


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
            plan, dialect = _split(name)
            check_plan_name(plan, before)
            if dialect:
                used = sum(len(data) for part, data in before.items() if ":" in part.removeprefix(PLAN_PREFIX))
                return PartTarget(min(MAX_VARIANT_BYTES, MAX_VARIANTS_BYTES - used))
        elif name not in ("config", "averaging_plan"):
            raise unknown_part(name, _PARTS)
        return PartTarget(MAX_CONFIG_BYTES if name == "config" else MAX_PLAN_BYTES)

    found = await read_form(
        content_type, body, begin, parts=f"the parts {_PARTS}", max_parts=MAX_PLANS * (1 + len(DIALECTS)) + 8
    )
    plans, variants = split_parts({name: data for name, data in found.items() if name.startswith(PLAN_PREFIX)})
    return HostForm(
        config=found.get("config", b""),
        plans=plans,
        variants=variants,
        averaging_plan=found.get("averaging_plan"),
        model=check.finish().layout if "model" in found else None,
    )


def _split(part: str) -> tuple[str, str]:
    """The plan of a part, and the dialect of its variant; empty for the plan itself.

    Raises:
        InvalidInput: the dialect is not known.
    """
    plan, separator, dialect = part.removeprefix(PLAN_PREFIX).partition(":")
    if separator and dialect not in DIALECTS:
        raise invalid_form(f"the part {part[:100]!r} has an unknown dialect; known are {', '.join(DIALECTS)}")
    return plan, dialect


def check_plan_name(name: str, before: Mapping[str, object]) -> None:
    """Check the name of another plan, after the parts ``before``. Raises InvalidInput: ``invalid_form``."""
    if not _PLAN_NAME.fullmatch(name):
        raise invalid_form(f"the plan name {name[:100]!r} is not valid: use up to 100 letters, digits and any of _ . -")
    if len({_split(other)[0] for other in before if other.startswith(PLAN_PREFIX)} - {name}) >= MAX_PLANS:
        raise invalid_form(f"the form has more than {MAX_PLANS} plans, the most that a process can have")
