"""Reads the multipart form of a served model as it arrives: small parts go to memory, the model to the disk."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import msgspec

from pygrid.core.serving import check_serve_request
from pygrid.errors import InvalidConfig, InvalidInput
from pygrid.messages.decoding import decode_json, invalid_form
from pygrid.messages.models import ServeRequest
from pygrid.plans.serving import MAX_SERVED_BYTES
from pygrid.storage.blobs.files import BlobWriter
from pygrid.web.forms import PartTarget, read_form, unknown_part

MAX_CONFIG_BYTES = 64 * 1024
MAX_FORM_BYTES = MAX_SERVED_BYTES + 1024**2
_PARTS = "the parts config (JSON) and model (ONNX)"
_PUBLISHED = frozenset({"model_id", "description", "allow_download", "allow_remote_inference", "max_batch_size"})
_SMALL = _PUBLISHED | {"config", "mpc", "encoding"}
"""Parts in addition to the model. The parts mpc and encoding come from published clients; encoding is ignored."""


async def read_serve_form(content_type: str, body: AsyncIterator[bytes], model: BlobWriter) -> ServeRequest:
    """Read the form, and write the model to ``model``, unchecked.

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

    fields = await read_form(content_type, body, begin, parts=_PARTS, max_parts=16)
    if not model.size:
        raise invalid_form("the form has no part 'model', or an empty one")
    return check_serve_request(_request(fields))


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
