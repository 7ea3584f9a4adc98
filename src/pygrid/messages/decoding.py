"""Decodes JSON from outside. A scan of the bytes first refuses texts that cost much more to decode than to send.

Every request body, WebSocket message and frame between apps is decoded here. The scan runs at the speed of
`bytes.count` and `bytes.replace`, about 1 ms for a megabyte of text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import chain
from typing import Any, NoReturn, TypeVar

import msgspec

from pygrid import codes
from pygrid.errors import InvalidInput
from pygrid.messages.plain_words import choices_of, in_plain_words

T = TypeVar("T")

MAX_DEPTH = 32
MAX_CONTAINERS = 20_000
"""Lists and objects in one text. Each costs about 60 bytes and 100 times the time of a number."""
MAX_VALUES = 200_000
"""Numbers and other values in one text."""
MAX_TEXTS = 50_000
"""Quoted texts, including the names of members."""
MAX_ESCAPES = 200_000
"""Backslashes in one text. Each costs 30 times the time of another character."""
MAX_EXPLAINED = 4096
"""Longest invalid JSON that is decoded a second time, for Python's words about it."""

_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_FIELD = re.compile(r"missing required field `([\w-]+)`|\$\.([\w-]+)")


def decode_json(body: bytes, *, may_hold_nul: bool = False, max_values: int = MAX_VALUES) -> Any:
    """Decode a JSON text.

    Args:
        may_hold_nul: allow NUL characters, for texts of legacy clients that carry one byte in each character.
        max_values: fewer than `MAX_VALUES`; the limits of containers and texts are lower in proportion.
    Raises:
        InvalidInput: ``invalid_json``: malformed, not UTF-8, or with half of a surrogate pair. ``invalid_text``: a
            text, or a name, with a NUL character. ``json_too_complex``: nested deeper than 32 levels, or with more
            lists, values or texts than the limits of this module. ``duplicate_key``: an object has a member twice.
    """
    share = max_values / MAX_VALUES
    max_containers = round(MAX_CONTAINERS * share)
    structure = _structure(body, round(MAX_TEXTS * share))
    num_objects = structure.count(b"{")
    num_containers = num_objects + structure.count(b"[")
    if num_containers > max_containers:
        _refuse(f"more than {max_containers:,} lists and objects")
    if structure.count(b",") > max_values:
        _refuse(f"more than {max_values:,} values")
    if num_containers > MAX_DEPTH and _is_deeper(structure):
        _refuse(f"levels nested deeper than {MAX_DEPTH}")
    try:
        value = msgspec.json.decode(body)
    except RecursionError:
        _refuse(f"levels nested deeper than {MAX_DEPTH}")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"the text is not JSON: {error}", code=codes.INVALID_JSON) from None
    if num_objects and _count_members(value, num_objects) != structure.count(b":"):
        raise InvalidInput("the JSON has an object with two members of one name", code=codes.DUPLICATE_KEY)
    # JSON has no other spelling of NUL. The backslash may itself be escaped, so the decoded value decides.
    if not may_hold_nul and b"\\u0000" in body and holds_nul(value):
        raise InvalidInput("a text in the JSON holds a NUL character (\\u0000); remove it", code=codes.INVALID_TEXT)
    return value


def holds_nul(value: Any) -> bool:
    """Return whether a text in a decoded value, or the name of a member, has a NUL character."""
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, Mapping):
        return any("\0" in name or holds_nul(item) for name, item in value.items())
    return isinstance(value, list) and any(map(holds_nul, value))


def _structure(body: bytes, max_texts: int) -> bytes:
    """The text without its quoted parts. If the text is not JSON, the result is some part of it.

    Raises:
        InvalidInput: ``json_too_complex``: it has too many texts.
    """
    if b"\\" in body:
        if body.count(b"\\") > MAX_ESCAPES:
            _refuse(f"more than {MAX_ESCAPES:,} backslashes")
        # Outside of quotes a backslash is not JSON. Within them, each run of backslashes pairs up from the left.
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    if body.count(b'"') > 2 * max_texts:
        _refuse(f"more than {max_texts:,} texts")
    return b"".join(body.split(b'"')[::2])


def _is_deeper(structure: bytes) -> bool:
    """Whether brackets remain after the innermost pairs were removed `MAX_DEPTH` times."""
    brackets = structure.translate(_BRACKETS, _NO_BRACKETS)
    for _ in range(MAX_DEPTH):
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"")
    # The decoder reports unpaired brackets with their position.
    return b"[]" in brackets


def _count_members(value: Any, num_objects: int) -> int:
    """The number of members of all objects in a value. The search goes level by level and ends with the last object."""
    count, level = 0, [value]
    while True:
        objects = [item for item in level if type(item) is dict]
        count += sum(map(len, objects))
        num_objects -= len(objects)
        if not (num_objects and level):
            return count
        lists = [item for item in level if type(item) is list]
        inner = chain(chain.from_iterable(map(dict.values, objects)), chain.from_iterable(lists))
        level = [item for item in inner if type(item) is dict or type(item) is list]


def _refuse(what: str) -> NoReturn:
    raise InvalidInput(f"the JSON has {what}, which is the limit", code=codes.JSON_TOO_COMPLEX)


def read_struct(value: Any, kind: type[T]) -> T:
    """Return a decoded value as a struct.

    Raises:
        InvalidInput: ``missing_field``, or a field has another type or value; ``field`` is its name.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        text = str(error)
        code = codes.MISSING_FIELD if "missing required field" in text else codes.INVALID_INPUT
        name = find_field(text)
        plain = in_plain_words(text, choices_of(kind, name))
        raise InvalidInput(plain, code=code, **({"field": name} if name else {})) from None


def find_field(text: str) -> str:
    """Return the name of the field in an error of the decoder; empty: it names none."""
    found = _FIELD.search(text)
    return "" if found is None else found[1] or found[2]


def in_pythons_words(text: str) -> str:
    """Return Python's error for invalid JSON, which published answers contain; empty: there is none, or it is long."""
    if len(text) > MAX_EXPLAINED:
        return ""
    try:
        json.loads(text)
    except ValueError as error:
        return str(error)
    except RecursionError:
        pass
    return ""


def invalid_form(why: str, **fields: Any) -> InvalidInput:
    """The error for a form that is not valid."""
    return InvalidInput(why, code=codes.INVALID_FORM, **fields)
