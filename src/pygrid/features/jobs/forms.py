"""Reads the multipart form of a job as it arrives: ``config`` and ``plan`` go to memory, ``model`` to a file."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import msgspec

from pygrid.features.jobs.checks import MAX_MODEL_BYTES, Submission
from pygrid.messages.decoding import decode_json, invalid_form
from pygrid.plans.archive import MAX_PLAN_BYTES
from pygrid.storage.blobs.protocol import BlobWriter
from pygrid.tensors.flat import check_model
from pygrid.tensors.stream import StreamCheck
from pygrid.web.forms import PartTarget, read_form, unknown_part

MAX_CONFIG_BYTES = 256 * 1024
MAX_FORM_BYTES = MAX_MODEL_BYTES + MAX_PLAN_BYTES + 1024**2


class _Asked(msgspec.Struct):
    """The part of ``config`` that is necessary before the model is read."""

    kind: object = ""


async def read_job_form(content_type: str, body: AsyncIterator[bytes], model: BlobWriter) -> Submission:
    """Read the form, and write the model to ``model``.

    The model is checked while it arrives, unless an earlier ``config`` has the kind ``predict``.

    Raises:
        InvalidInput: ``invalid_form``: another form, or a part that is missing, repeated or unknown; ``config`` comes
            before the model and is not JSON within the limits of `decode_json`.
        PayloadTooLarge: a part is over its limit.
        InvalidTensors, NonFinite: the model is not a safetensors file of finite float32 arrays.
    """
    check = StreamCheck(MAX_MODEL_BYTES, check_model)
    is_onnx = False

    def take_arrays(data: bytearray) -> None:
        check.add(data)
        model.write(data)

    def begin(name: str, before: Mapping[str, bytes]) -> PartTarget:
        nonlocal is_onnx
        if name == "model":
            is_onnx = _asks_to_predict(before.get("config"))
            return PartTarget(MAX_MODEL_BYTES, model.write if is_onnx else take_arrays)
        if name not in ("config", "plan"):
            raise unknown_part(name, "config, plan and model")
        return PartTarget(MAX_CONFIG_BYTES if name == "config" else MAX_PLAN_BYTES)

    found = await read_form(content_type, body, begin, parts="the parts config, plan and model", max_parts=8)
    if "config" not in found:
        raise invalid_form("the form has no part 'config'")
    has_model = "model" in found
    arrays = check.finish().layout if has_model and not is_onnx else None
    return Submission(found["config"], found.get("plan"), has_model, arrays)


def _asks_to_predict(config: bytes | None) -> bool:
    try:
        return config is not None and msgspec.convert(decode_json(config), _Asked).kind == "predict"
    except msgspec.ValidationError:
        return False  # refused later, when all of `config` is read
