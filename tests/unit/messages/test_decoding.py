"""Decoding of JSON from outside.

Should happen: what a JSON library writes is read back, whatever its texts hold.
Should not happen: another failure than the four codes, a text that is costly to decode, a name that counts twice, a NUL
that nobody asked for.
"""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pygrid.errors import InvalidInput
from pygrid.messages.decoding import MAX_CONTAINERS, MAX_DEPTH, MAX_ESCAPES, MAX_TEXTS, MAX_VALUES, decode_json

# Quotes, backslashes and brackets within texts are what a scan of the bytes could mistake for structure.
texts = st.text() | st.text(alphabet='"\\[]{},: ab', max_size=12)
leaves = (
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts
)
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4))


def holds_nul(value: object) -> bool:
    """Whether a text in the value, or the name of a member, holds a NUL character."""
    if isinstance(value, dict):
        return any(holds_nul(name) or holds_nul(member) for name, member in value.items())
    if isinstance(value, list):
        return any(map(holds_nul, value))
    return isinstance(value, str) and "\0" in value


@given(values)
@example("\0")
@example({"\0": [1]})
@example(["\\u0000", "\\\0"])
def test_what_json_writes_is_read_back(value: object) -> None:
    for ensure_ascii in (True, False):
        body = json.dumps(value, ensure_ascii=ensure_ascii).encode()
        assert decode_json(body, may_hold_nul=True) == value
        if holds_nul(value):
            with pytest.raises(InvalidInput) as caught:
                decode_json(body)
            assert caught.value.code == "invalid_text"
        else:
            assert decode_json(body) == value


@given(st.binary() | texts.map(lambda text: text.encode(errors="ignore")))
@example(b"")
@example(b"\xff")
@example(b'"\xed\xa0\x80"')
@example(b'"\\ud800"')
@example(b"NaN")
@example(b'"\\u0000"')
@example(b"[" * 10_000)
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
@example(b"1" * 5000)
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    code = "invalid_json"
    try:
        decode_json(body)
    except InvalidInput as refused:
        code = refused.code
    assert code in ("invalid_json", "invalid_text", "json_too_complex", "duplicate_key")


@given(st.dictionaries(texts, values, min_size=1, max_size=3), st.data())
def test_a_name_that_occurs_twice_is_refused_wherever_it_stands(
    members: dict[str, object], data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(members)))
    inner = json.dumps(members)[:-1] + f", {json.dumps(name)}: 1}}"
    for text in (inner, f"[1, {inner}]", f'{{"a": [{{}}, {inner}], "b": {{"c": 1}}}}'):
        with pytest.raises(InvalidInput) as caught:
            decode_json(text.encode())
        assert caught.value.code == "duplicate_key"


def test_a_name_counts_twice_however_it_is_written() -> None:
    with pytest.raises(InvalidInput) as caught:
        decode_json(b'{"role": 1, "r\\u006fle": 4}')
    assert caught.value.code == "duplicate_key"


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_nesting_is_bounded(opening: str, closing: str) -> None:
    def nested(depth: int) -> bytes:
        return (opening * depth + "0" + closing * depth).encode()

    decode_json(nested(MAX_DEPTH))
    decode_json(b"[" + b",".join([nested(MAX_DEPTH - 1)] * 100) + b"]")
    with pytest.raises(InvalidInput, match="deeper than 32"):
        decode_json(nested(MAX_DEPTH + 1))


@pytest.mark.parametrize(
    ("piece", "most"),
    [("[]", MAX_CONTAINERS - 1), ('{"a":1}', MAX_CONTAINERS - 1), ("1", MAX_VALUES + 1), ('"abc"', MAX_TEXTS)],
)
def test_the_number_of_parts_is_bounded(piece: str, most: int) -> None:
    assert len(decode_json(f"[{','.join([piece] * most)}]".encode())) == most
    with pytest.raises(InvalidInput) as caught:
        decode_json(f"[{','.join([piece] * (most + 1))}]".encode())
    assert caught.value.code == "json_too_complex"


def test_a_long_text_is_one_value() -> None:
    text = '[{",' * MAX_ESCAPES
    assert decode_json(json.dumps([text]).encode()) == [text]


def test_the_number_of_backslashes_is_bounded() -> None:
    with pytest.raises(InvalidInput, match="backslashes") as caught:
        decode_json(json.dumps(['"' * (MAX_ESCAPES + 1)]).encode())
    assert caught.value.code == "json_too_complex"
