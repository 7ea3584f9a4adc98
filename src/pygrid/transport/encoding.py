"""What the SDK sends as JSON: messages, in which users may write numbers and dates of numpy, pandas and PyTorch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
import numpy as np

from pygrid.errors import InvalidInput
from pygrid.transport.base import BytesBody

T = TypeVar("T")


def json_body(value: object) -> BytesBody:
    """The body of a request. Raises InvalidInput: a value in it has no JSON form, as infinity and NaN."""
    body = msgspec.json.encode(value, enc_hook=_plain)
    if b"null" in body:  # which the encoder also writes for numbers that are not finite
        _check_finite(msgspec.to_builtins(value, enc_hook=_plain), "")
    return BytesBody(body)


def _check_finite(value: Any, name: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidInput(f"{name or 'the value'} is {value}, which cannot be sent: use a finite number")
    if isinstance(value, Mapping):
        for key, member in value.items():
            _check_finite(member, f"{name}.{key}".lstrip("."))
    elif isinstance(value, list | tuple):
        for index, member in enumerate(value):
            _check_finite(member, f"{name}[{index}]")


def to_message(given: Mapping[str, Any], kind: type[T]) -> T:
    """The message with these fields.

    Raises:
        msgspec.ValidationError: a field is unknown, missing, or of another type.
        InvalidInput: as `json_body`.
    """
    return msgspec.convert(msgspec.to_builtins(given, enc_hook=_plain), kind)


def _plain(value: Any) -> Any:
    if isinstance(value, np.datetime64):
        return str(value)
    if hasattr(value, "isoformat"):  # a time of pandas
        return value.isoformat()
    if hasattr(value, "tolist"):  # arrays and scalars of numpy, tensors of PyTorch
        return value.tolist()
    if hasattr(value, "to_list"):  # columns of pandas and polars
        return value.to_list()
    raise InvalidInput(
        f"{str(value)[:80]!r} cannot be sent: use numbers, texts, dates, truth values, lists and dictionaries"
    )
