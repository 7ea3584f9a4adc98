"""Reads the forms of a served model: of a multipart form, the model goes to the disk as it arrives.

Clients of 2020 also send an ordinary form, in which the model is a text with one character for each byte (ISO-8859-1).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from urllib.parse import parse_qsl

import msgspec

from pygrid import codes
from pygrid.core.serving import check_serve_request
from pygrid.errors import InvalidConfig, InvalidInput
from pygrid.messages.decoding import decode_json, invalid_form
from pygrid.messages.models import ServeRequest
from pygrid.plans.serving import MAX_SERVED_BYTES
from pygrid.storage.blobs.protocol import BlobWriter
from pygrid.web.forms import PartTarget, body_pieces, read_form, unknown_part

MAX_CONFIG_BYTES = 64 * 1024
MAX_FORM_BYTES = MAX_SERVED_BYTES + 1024**2
MAX_TEXT_FORM_BYTES = 16 * 1024**2
"""Size of an ordinary form. A byte of the model takes up to six characters there."""
_PARTS = "the parts config (JSON) and model (ONNX)"
_PUBLISHED = frozenset({"model_id", "description", "allow_download", "allow_remote_inference", "max_batch_size"})
_SMALL = _PUBLISHED | {"config", "mpc", "encoding"}
"""Parts in addition to the model. The parts mpc and encoding come from published clients; encoding is ignored."""


async def read_serve_form(
    content_type: str, body: AsyncIterator[bytes], model: BlobWriter, fields: dict[str, bytes]
) -> ServeRequest:
    """Read the form into ``fields``, and write the model to ``model``, unchecked.

    In place of ``config``, its fields can be parts of their own, with ``True`` and ``False`` as published clients write
    them.

    Raises:
        InvalidInput: ``invalid_form``: another form, or a part that is missing, repeated or unknown.
        InvalidConfig: a field is not valid. PayloadTooLarge: a part is over its limit.
    """

    def begin(name: str, before: Mapping[str, bytes]) -> PartTarget:
        if name == "model":
            return PartTarget(MAX_SERVED_BYTES, model.write)
        if name not in _SMALL:
            raise unknown_part(name, "config and model")
        return PartTarget(MAX_CONFIG_BYTES)

    fields.update(await read_form(content_type, body, begin, parts=_PARTS, max_parts=16))
    if not model.size:
        raise invalid_form("the form has no part 'model', or an empty one")
    return check_serve_request(_request(fields))


async def read_published_form(body: AsyncIterator[bytes], model: BlobWriter) -> ServeRequest:
    """Read an ordinary form into memory, and write the model to ``model``, unchecked.

    Args:
        body: at most `MAX_TEXT_FORM_BYTES`.
    Raises:
        InvalidInput: ``invalid_form``; ``unknown_encoding``: the model is not ISO-8859-1. InvalidConfig: a field is not
            valid.
    """
    fields = await asyncio.to_thread(_split_form, b"".join([piece async for piece in body_pieces(body)]))
    if unknown := sorted(fields.keys() - _SMALL - {"model"}):
        raise unknown_part(unknown[0], "model and the fields of a served model")
    text = fields.pop("model", "")
    if not text:
        raise invalid_form("the form has no field 'model', or an empty one")
    try:
        await asyncio.to_thread(model.write, text.encode("ISO-8859-1"))
    except UnicodeEncodeError as error:
        raise InvalidInput(
            "model has characters beyond ISO-8859-1, so it cannot be read as bytes", code=codes.UNKNOWN_ENCODING
        ) from error
    return check_serve_request(_request({name: value.encode() for name, value in fields.items()}))


def _split_form(data: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(data.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=16)
    except ValueError as error:
        raise invalid_form(f"the form is malformed: {error}") from error
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise invalid_form("the form has a field twice")
    return fields


def _request(fields: dict[str, bytes]) -> ServeRequest:
    if "config" in fields:
        try:
            return msgspec.convert(decode_json(fields["config"]), ServeRequest)
        except (InvalidInput, msgspec.ValidationError) as error:
            raise InvalidConfig(f"config does not describe a served model: {error}") from error
    try:
        return read_published_fields({name: data.decode() for name, data in fields.items()})
    except UnicodeDecodeError as error:
        raise InvalidConfig(f"the parts of the form do not describe a served model: {error}") from error


def read_published_fields(fields: Mapping[str, str]) -> ServeRequest:
    """Read the fields that published clients send, without checks of their values. Raises InvalidConfig."""
    texts = {name: text.strip() for name, text in fields.items() if name in _PUBLISHED or name == "mpc"}
    if texts.pop("mpc", "False").lower() not in ("false", "0", ""):
        raise InvalidConfig("mpc is true, but this Domain does not split models into shares; omit it", field="mpc")
    try:
        return msgspec.convert({name: _lower(name, text) for name, text in texts.items()}, ServeRequest, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidConfig(f"these fields do not describe a served model: {error}") from error


def _lower(name: str, text: str) -> str:
    return text.lower() if name.startswith("allow_") else text
