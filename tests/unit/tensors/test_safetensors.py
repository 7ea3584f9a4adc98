"""The safetensors format: what is written can be read by anybody, and what is read is exactly what the format allows.

Should happen: a round trip gives the same arrays; equal content means equal bytes; a reader written here from the
format's description agrees.
Should not happen: a header that lies about lengths, offsets, shapes or types is believed.
"""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pygrid.errors import InvalidTensors
from pygrid.tensors import Params, decode, encode, parse_header, read_layout
from pygrid.tensors.safetensors import MAX_ARRAYS, MAX_HEADER_BYTES, header_length, make_layout

DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(lambda name: name != "__metadata__")
metadata = st.dictionaries(names, st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=4)
arrays = st.dictionaries(
    names,
    st.sampled_from(sorted(DTYPES.values())).flatmap(
        lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0, min_side=0, max_side=4))
    ),
    max_size=5,
)


def read_independently(data: bytes) -> tuple[Params, dict[str, str]]:
    """A reader from the format's description, with nothing of pygrid's."""
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    texts = header.pop("__metadata__", {})
    body = data[8 + length :]
    found, covered = {}, 0
    for name, info in header.items():
        begin, end = info["data_offsets"]
        found[name] = np.frombuffer(body[begin:end], DTYPES[info["dtype"]]).reshape(info["shape"])
        covered += end - begin
    assert covered == len(body)
    return found, texts


def assert_same(left: Params, right: Params) -> None:
    assert set(left) == set(right)
    for name, array in left.items():
        assert (array.dtype, array.shape) == (right[name].dtype, right[name].shape)
        assert array.tobytes() == right[name].tobytes()


@given(arrays, metadata)
def test_what_is_written_is_read(content: Params, texts: dict[str, str]) -> None:
    data = encode(content, texts)
    for read in (decode, read_independently):
        found, found_texts = read(data)
        assert_same(found, content)
        assert found_texts == texts


@given(arrays, metadata, st.randoms())
def test_equal_content_means_equal_bytes(content: Params, texts: dict[str, str], random: Any) -> None:
    def shuffled(mapping: Any) -> Any:
        items = list(mapping.items())
        random.shuffle(items)
        return dict(items)

    assert encode(shuffled(content), shuffled(texts)) == encode(content, texts)


def test_the_order_in_memory_does_not_matter() -> None:
    array = np.arange(24, dtype=np.float32).reshape(4, 6)
    for same in (np.asfortranarray(array), array[::-1][::-1], array.astype(">f4"), np.repeat(array, 2, axis=1)[:, ::2]):
        assert encode({"a": same}) == encode({"a": array})


def test_the_header_is_padded_so_that_arrays_are_aligned() -> None:
    for length in range(20):
        data = encode({"x" * length: np.zeros(3, np.float64)})
        assert header_length(data) % 8 == 0


def test_arrays_are_views_of_the_data() -> None:
    data = bytearray(encode({"a": np.zeros(2, np.float32)}))
    found, _ = decode(data)
    data[-4:] = struct.pack("<f", 7.0)
    assert found["a"].tolist() == [0.0, 7.0]


@pytest.mark.parametrize("dtype", ["c8", "U3", "O", "M8[s]", "u2", "u8"])
def test_a_dtype_that_the_format_lacks_is_refused(dtype: str) -> None:
    with pytest.raises(InvalidTensors, match="'odd'"):
        encode({"odd": np.zeros(2, dtype)})


# -- malformed ---------------------------------------------------------------------------------------------------------


def file_of(header: Any, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def f32(begin: int, end: int, *shape: int, **changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end], **changes}


MALFORMED: dict[str, bytes] = {
    "empty": b"",
    "no prefix": b"\0" * 7,
    "no header": struct.pack("<Q", 0),
    "a header of one byte": file_of(b"{"),
    "a header cut off": file_of({"a": f32(0, 4, 1)}, b"\0" * 4)[:20],
    "a header beyond the limit": struct.pack("<Q", MAX_HEADER_BYTES + 1) + b"{}",
    "a header of 2^64 - 1": b"\xff" * 8 + b"{}",
    "no JSON": file_of(b"{nonsense}"),
    "JSON and more": file_of(b"{}{}"),
    "a list": file_of(b"[]"),
    "a number": file_of(b"12"),
    "not UTF-8": file_of(b'{"\xff":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}', b"\0" * 4),
    "nested deeply": file_of(b'{"a":' + b"[" * 50_000),
    "a hole at the start": file_of({"a": f32(4, 8, 1)}, b"\0" * 8),
    "a hole in the middle": file_of({"a": f32(0, 4, 1), "b": f32(8, 12, 1)}, b"\0" * 12),
    "an overlap": file_of({"a": f32(0, 8, 2), "b": f32(4, 12, 2)}, b"\0" * 12),
    "the same place twice": file_of({"a": f32(0, 4, 1), "b": f32(0, 4, 1)}, b"\0" * 4),
    "negative offsets": file_of({"a": f32(-4, 0, 1)}, b"\0" * 4),
    "an end before the begin": file_of({"a": f32(4, 0, 1)}, b"\0" * 4),
    "offsets too far apart": file_of({"a": f32(0, 8, 1)}, b"\0" * 8),
    "offsets too close": file_of({"a": f32(0, 4, 2)}, b"\0" * 4),
    "three offsets": file_of({"a": {**f32(0, 4, 1), "data_offsets": [0, 4, 8]}}, b"\0" * 4),
    "one offset": file_of({"a": {**f32(0, 4, 1), "data_offsets": [4]}}, b"\0" * 4),
    "offsets of text": file_of({"a": {**f32(0, 4, 1), "data_offsets": ["0", "4"]}}, b"\0" * 4),
    "offsets with a fraction": file_of({"a": {**f32(0, 4, 1), "data_offsets": [0, 4.5]}}, b"\0" * 4),
    "a negative dimension": file_of({"a": f32(0, 4, -1, -1)}, b"\0" * 4),
    "a huge dimension": file_of({"a": f32(0, 4, 2**62, 4)}, b"\0" * 4),
    "dimensions that overflow to the right size": file_of({"a": f32(0, 4, 2**32, 2**32)}, b"\0" * 4),
    "too many dimensions": file_of({"a": f32(0, 4, *([1] * 17))}, b"\0" * 4),
    "a shape of text": file_of({"a": f32(0, 4, shape=["1"])}, b"\0" * 4),
    "a shape of booleans": file_of({"a": f32(0, 4, shape=[True])}, b"\0" * 4),
    "an unknown dtype": file_of({"a": f32(0, 4, 1, dtype="F128")}, b"\0" * 4),
    "a dtype of a number": file_of({"a": f32(0, 4, 1, dtype=32)}, b"\0" * 4),
    "an unknown field": file_of({"a": f32(0, 4, 1, extra=1)}, b"\0" * 4),
    "a missing field": file_of({"a": {"dtype": "F32", "shape": [1]}}, b"\0" * 4),
    "metadata that are none": file_of({"__metadata__": {"a": 1}}),
    "metadata of lists": file_of({"__metadata__": []}),
    "bytes missing": file_of({"a": f32(0, 8, 2)}, b"\0" * 7),
    "no bytes": file_of({"a": f32(0, 8, 2)}),
    "bytes too many": file_of({"a": f32(0, 8, 2)}, b"\0" * 9),
    "bytes without arrays": file_of({}, b"\0"),
    "a name twice": file_of(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b"\0" * 4,
    ),
    "a name twice, once escaped": file_of(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"\\u0061":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b"\0" * 4,
    ),
    "metadata twice": file_of(b'{"__metadata__":{"num_examples":"1"},"__metadata__":{"num_examples":"9"}}'),
    "a key of metadata twice": file_of(b'{"__metadata__":{"num_examples":"1","num_examples":"9"}}'),
}


@pytest.mark.parametrize("malformed", MALFORMED)
def test_a_malformed_file_is_refused(malformed: str) -> None:
    with pytest.raises(InvalidTensors):
        read_layout(MALFORMED[malformed])


def test_more_arrays_than_allowed_are_refused() -> None:
    header = {str(number): f32(0, 0, 0) for number in range(MAX_ARRAYS + 1)}
    with pytest.raises(InvalidTensors, match="at most"):
        read_layout(file_of(header))


def test_names_of_fields_may_be_names_of_arrays() -> None:
    """Nothing in the look for names that come twice takes these for one."""
    content = {name: np.zeros(1, np.float32) for name in ("data_offsets", "dtype", '"data_offsets":', "a\\b", "shape")}
    found, texts = decode(encode(content, {"data_offsets": '"data_offsets"', "\\": "\\"}))
    assert_same(found, content)
    assert texts == {"data_offsets": '"data_offsets"', "\\": "\\"}


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        layout = read_layout(data)
    except InvalidTensors:
        return
    assert layout.total_bytes == len(data)


@given(arrays, metadata, st.data())
def test_a_file_with_one_byte_changed_is_still_a_file_or_refused(
    content: Params, texts: dict[str, str], data: st.DataObject
) -> None:
    whole = bytearray(encode(content, texts))
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] = data.draw(st.integers(0, 255))
    try:
        layout = read_layout(whole)
    except InvalidTensors:
        return
    ends = [0]
    for entry in layout.entries:
        assert entry.begin == ends[-1]
        assert entry.end - entry.begin == math.prod(entry.shape) * entry.dtype.itemsize
        ends.append(entry.end)
    assert layout.header_bytes + ends[-1] == len(whole)


@given(arrays, metadata)
def test_a_layout_is_known_before_the_arrays_are(content: Params, texts: dict[str, str]) -> None:
    layout, header = make_layout({name: (array.dtype, array.shape) for name, array in content.items()}, texts)
    data = encode(content, texts)
    assert data.startswith(header)
    assert parse_header(header) == read_layout(data)
    assert (layout.header_bytes, layout.total_bytes) == (len(header), len(data))
