"""Refusals of a value in plain words.

Should happen: the rule and the valid values. Should not happen: names of Python's types, regex, enum.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import pytest

from pygrid.errors import InvalidInput
from pygrid.messages.decoding import read_struct


class Form(msgspec.Struct):
    name: Annotated[str, msgspec.Meta(min_length=1)] = "x"
    days: Annotated[int, msgspec.Meta(ge=1)] = 1
    scope: Literal["all", "read"] = "all"
    tags: Annotated[list[str], msgspec.Meta(max_length=2)] = []
    share: float | None = None


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"name": ""}, "it must be a text of at least 1 character"),
        ({"name": 3}, "it must be a text, not a whole number"),
        ({"days": 0}, "it must be a whole number, at least 1"),
        ({"scope": "raed"}, "'raed' is not one of its values; use all or read"),
        ({"tags": ["a", "b", "c"]}, "it must be a list of at most 2 members"),
        ({"tags": ["a", 2]}, "it must be a text, not a whole number"),
        ({"share": "half"}, "it must be a number or null, not a text"),
    ],
)
def test_a_refusal_says_the_rule(given: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_struct(given, Form)
    assert refused.value.detail.startswith(f"{text} - at `$.")
    assert refused.value.fields["field"] == next(iter(given))
