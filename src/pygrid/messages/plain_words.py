"""The decoder's refusals of a value, in words that need no knowledge of Python."""

from __future__ import annotations

import re
import typing
from collections.abc import Sequence
from typing import Any

import msgspec

_WORDS = {
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "object": "an object",
    "array": "a list",
    "null": "null",
    "datetime": "a time",
}
_EXPECTED = re.compile(r"Expected `(?P<kind>[\w| ]+)`(?P<rule> of length| with length)?(?P<bound> [<>]=? ?[-\d.]+)?")
_REFUSED = re.compile(r"Invalid enum value (.+?)(?= - at |$)")
_BOUNDS = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}


def in_plain_words(text: str, choices: Sequence[str] = ()) -> str:
    """A refusal of msgspec in plain words; ``choices`` are the values of the field, if it has only some."""
    text = _EXPECTED.sub(_expected, text)
    text = re.sub(r", got `(\w+)`", lambda found: f", not {_WORDS.get(found[1], found[1])}", text)
    valid = f"; use {' or '.join(choices)}" if choices else ""
    text = _REFUSED.sub(lambda found: f"{found[1]} is not one of its values{valid}", text)
    return text.replace("matching regex", "of the form")


def _expected(found: re.Match[str]) -> str:
    what = " or ".join(_WORDS.get(kind.strip(), kind.strip()) for kind in found["kind"].split("|"))
    if not found["bound"]:
        return f"it must be {what}"
    sign, _, number = found["bound"].strip().partition(" ")
    bound = f"{_BOUNDS[sign]} {number}"
    if found["rule"]:
        unit = "characters" if found["kind"] == "str" else "members"
        return f"it must be {what} of {bound} {unit if number != '1' else unit[:-1]}"
    return f"it must be {what}, {bound}"


def choices_of(kind: Any, field: str) -> tuple[str, ...]:
    """The values of a field of a struct, if it has only some; empty: it has any, or ``kind`` is not a struct."""
    if not isinstance(kind, type) or not issubclass(kind, msgspec.Struct):
        return ()
    annotation = next((each.type for each in msgspec.structs.fields(kind) if each.encode_name == field), None)
    return tuple(map(str, typing.get_args(annotation))) if typing.get_origin(annotation) is typing.Literal else ()
