"""Forms of pages: urlencoded bodies as message structs, with the error of each field."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar
from urllib.parse import parse_qsl

import msgspec
from litestar.params import PathParameter

from pygrid import codes
from pygrid.errors import InvalidInput, UnsupportedMediaType
from pygrid.web.parameters import PathId as PathId
from pygrid.web.requests import AppRequest

T = TypeVar("T")

PathText = Annotated[str, PathParameter(max_length=200)]

MAX_FORM_BYTES = 64 * 1024
MAX_FIELDS = 200
_TYPE = "application/x-www-form-urlencoded"


async def read_fields(request: AppRequest, max_fields: int = MAX_FIELDS) -> dict[str, str]:
    """Return the fields of the form that a page has sent; of a repeated field the last value.

    Raises:
        InvalidInput: ``invalid_form``: the body is malformed, or has over ``max_fields`` fields.
        UnsupportedMediaType: another content type. PayloadTooLarge: over the limit of the route.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _TYPE:
        raise UnsupportedMediaType(f"the content type of a form is {kind[:80]!r}; use {_TYPE}")
    try:
        pairs = parse_qsl(
            (await request.body()).decode(), keep_blank_values=True, errors="strict", max_num_fields=max_fields
        )
    except ValueError as error:
        raise InvalidInput("the form is malformed", code=codes.INVALID_FORM) from error
    fields = dict(pairs)
    if any("\0" in text for pair in fields.items() for text in pair):
        raise InvalidInput("the form contains a NUL character: remove it", code=codes.INVALID_TEXT)
    return fields


async def read_form(request: AppRequest, kind: type[T]) -> T:
    """Return the form as a struct. Numbers and switches are read from their text; an empty field is left out.

    Raises:
        InvalidInput: ``invalid_form``, with ``field``; and as `read_fields`.
    """
    fields: dict[str, Any] = {name: text for name, text in (await read_fields(request)).items() if text != ""}
    try:
        return msgspec.convert(fields, kind, strict=False)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at `$.")
        raise InvalidInput(message, code=codes.INVALID_FORM, field=where.rstrip("`")) from error
