"""Decoding of JSON bodies: any bytes give a value or ``invalid_json``, never another failure."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pygrid.errors import InvalidInput
from pygrid.web.requests import MAX_JSON_DEPTH, decode_json

leaves = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4))


@given(values)
def test_what_json_writes_is_read_back(value: object) -> None:
    assert decode_json(json.dumps(value).encode()) == value


@given(st.binary())
@example(b"")
@example(b"\xff")
@example(b'"\xed\xa0\x80"')
@example(b'"\\ud800"')
@example(b"NaN")
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
@example(b"1" * 5000)
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    code = "invalid_json"
    try:
        decode_json(body)
    except InvalidInput as refused:
        code = refused.code
    assert code == "invalid_json"


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_nesting_is_bounded(opening: str, closing: str) -> None:
    def nested(depth: int) -> bytes:
        return (opening * depth + "0" + closing * depth).encode()

    decode_json(nested(MAX_JSON_DEPTH))
    with pytest.raises(InvalidInput, match="deeper than 32"):
        decode_json(nested(MAX_JSON_DEPTH + 1))
