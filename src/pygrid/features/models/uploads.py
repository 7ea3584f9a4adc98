"""The multipart form that serves a model, read as it arrives: small parts into memory, the model to the disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
from multipart import MultipartSegment

from pygrid.core.serving import check_serve_request
from pygrid.errors import InvalidConfig, InvalidInput, PayloadTooLarge
from pygrid.messages.models import ServeRequest
from pygrid.plans.serving import MAX_SERVED_BYTES
from pygrid.storage.files import BlobWriter
from pygrid.web.forms import form_events, invalid_form
from pygrid.web.requests import decode_json

MAX_CONFIG_BYTES = 64 * 1024
MAX_FORM_BYTES = MAX_SERVED_BYTES + 1024**2
_PARTS = "the parts config (JSON) and model (ONNX)"
_PUBLISHED = frozenset({"model_id", "description", "allow_download", "allow_remote_inference", "max_batch_size"})
_IGNORED = frozenset({"encoding"})
_WRITE_BYTES = 1024**2


async def read_serve_form(content_type: str, body: AsyncIterator[bytes], model: BlobWriter) -> ServeRequest:
    """Read the form; the model goes to ``model``, unchecked.

    In place of ``config``, its fields may be parts of their own, with ``True`` and ``False`` as published clients write them.

    Raises:
        InvalidInput: ``invalid_form``: not such a form, a part missing, twice or unknown.
        InvalidConfig: what is said of the model makes no sense. PayloadTooLarge: a part is over its limit.
    """
    fields: dict[str, bytes] = {}
    name, pending, size = "", bytearray(), 0
    async for event in form_events(content_type, body, parts=_PARTS, max_parts=16):
        if isinstance(event, MultipartSegment):
            name, pending, size = _checked_name(event.name or "", fields), bytearray(), 0
            fields[name] = b""
        elif event is None:
            if name == "model":
                await asyncio.to_thread(model.write, pending)
            else:
                fields[name] = bytes(pending)
        else:
            size += len(event)
            limit = MAX_SERVED_BYTES if name == "model" else MAX_CONFIG_BYTES
            if size > limit:
                raise PayloadTooLarge(f"part {name!r} has more than {limit:,} bytes", max_bytes=limit)
            pending += event
            if name == "model" and len(pending) >= _WRITE_BYTES:
                await asyncio.to_thread(model.write, pending)
                pending = bytearray()
    if "model" not in fields or not model.size:
        raise invalid_form("the form has no part 'model', or an empty one")
    return check_serve_request(_request(fields))


def _checked_name(name: str, taken: dict[str, bytes]) -> str:
    if name == "mpc" or name in _IGNORED or name in _PUBLISHED or name in ("config", "model"):
        if name in taken:
            raise invalid_form(f"the form has part {name!r} twice")
        return name
    raise invalid_form(f"the form has an unknown part {name[:100]!r}")


def _request(fields: dict[str, bytes]) -> ServeRequest:
    if "config" in fields:
        try:
            return msgspec.convert(decode_json(fields["config"]), ServeRequest)
        except (InvalidInput, msgspec.ValidationError) as error:
            raise InvalidConfig(f"config is not the JSON that describes a served model: {error}") from error
    try:
        texts = {name: data.decode().strip() for name, data in fields.items() if name in _PUBLISHED or name == "mpc"}
        if texts.pop("mpc", "False").lower() not in ("false", "0", ""):
            raise InvalidConfig("models are not shared out here; leave mpc away", field="mpc")
        return msgspec.convert({name: _lower(name, text) for name, text in texts.items()}, ServeRequest, strict=False)
    except (UnicodeDecodeError, msgspec.ValidationError) as error:
        raise InvalidConfig(f"the parts of the form do not describe a served model: {error}") from error


def _lower(name: str, text: str) -> str:
    return text.lower() if name.startswith("allow_") else text
