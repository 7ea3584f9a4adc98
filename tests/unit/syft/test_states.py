"""State in protobuf.

Should happen: arrays come back as they were, floats as views; fields in another order, unknown ones and unpacked floats
are read. Should not happen: a pickle is read, memory grows beyond the bytes, an error other than ``invalid_protobuf``.
"""

from __future__ import annotations

import contextlib
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pygrid.errors import InvalidInput
from pygrid.syft import read_state, write_state
from pygrid.syft.wire import head_of, varint, write_bytes, write_int, write_text


def tensor(*, dims: bytes = b"\x02", dtype: str = "float32", content: bytes = b"", more: bytes = b"") -> bytes:
    """A State with one tensor of these parts."""
    data = write_bytes(1, write_bytes(1, dims)) + write_text(2, dtype) + content
    return state(write_bytes(1, write_int(1, 7)) + write_bytes(2, data) + more + write_int(8, 4))


def state(torch_tensor: bytes) -> bytes:
    return write_bytes(2, write_bytes(1, torch_tensor))


FLOATS = write_bytes(22, struct.pack("<2f", 1.5, -2.0))


@given(
    st.lists(
        arrays.arrays(
            st.sampled_from([np.float32, np.float64, np.int32, np.int64, np.uint8, np.bool_]),
            arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
        ),
        max_size=4,
    )
)
def test_arrays_come_back_as_they_were(given_arrays):
    found = read_state(write_state(given_arrays))
    assert len(found) == len(given_arrays)
    for one, other in zip(given_arrays, found, strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        np.testing.assert_array_equal(one, other)


def test_floats_are_views_of_the_bytes():
    data = write_state([np.arange(1000, dtype=np.float32)])
    (found,) = read_state(data)
    assert np.shares_memory(found, np.frombuffer(data, np.uint8))


def test_fields_may_come_in_another_order_and_unknown_ones_are_skipped():
    inner = FLOATS + write_text(2, "float32") + write_bytes(1, write_bytes(1, b"\x02")) + write_text(60, "later")
    data = write_int(50, 3) + state(write_int(8, 4) + write_bytes(2, inner) + varint(99 << 3 | 5) + b"abcd")
    np.testing.assert_array_equal(read_state(data)[0], np.array([1.5, -2.0], np.float32))


def test_floats_and_sizes_may_be_unpacked():
    unpacked = b"".join(varint(22 << 3 | 5) + struct.pack("<f", value) for value in (1.5, -2.0))
    data = write_bytes(1, write_int(1, 1) + write_int(1, 2)) + write_text(2, "float32") + unpacked
    np.testing.assert_array_equal(read_state(state(write_bytes(2, data)))[0], np.array([[1.5, -2.0]], np.float32))


def chain(depth: int) -> bytes:
    """A tensor whose field ``chain`` has a tensor, and so on; only the last one has contents."""
    found = write_bytes(2, FLOATS) + write_int(8, 4)
    for _ in range(depth):
        found = write_bytes(4, found)
    return found


BAD = {
    "truncated": tensor(content=FLOATS)[:-3],
    "a length beyond the end": head_of(2, 1000) + b"abc",
    "an overlong integer": b"\x10" + b"\x80" * 10 + b"\x01",
    "an integer above 64 bits": b"\x10" + b"\xff" * 9 + b"\x7f",
    "a group": b"\x13abc\x14",
    "field number 0": b"\x02\x00",
    "a hundred thousand dims": tensor(dims=b"\x01" * 100_000, content=FLOATS),
    "a dim of a billion": tensor(dims=varint(10**9), content=FLOATS),
    "dims whose product wraps": tensor(dims=varint(1 << 30) * 5, content=FLOATS),
    "a negative dim": tensor(dims=varint(-2), content=FLOATS),
    "a shape that does not match": tensor(dims=b"\x03", content=FLOATS),
    "half a float": tensor(content=write_bytes(22, b"abcde")),
    "contents of another dtype": tensor(dtype="float64", content=FLOATS),
    "an unknown dtype": tensor(dtype="complex64", content=FLOATS),
    "a pickle": state(write_bytes(3, b"\x80\x02cposix\nsystem\n.") + write_int(8, 1)),
    "contents and a pickle": tensor(content=FLOATS, more=write_bytes(3, b"\x80\x02.")),
    "another serializer": state(write_bytes(2, FLOATS) + write_int(8, 1)),
    "two contents": tensor(content=FLOATS, more=write_bytes(2, FLOATS)),
    "a tensor and a parameter": write_bytes(2, write_bytes(1, b"") + write_bytes(2, b"")),
    "no tensor": write_bytes(2, b""),
    "a quantized tensor": tensor(content=FLOATS + write_int(3, 1)),
    "text that is not UTF-8": state(write_bytes(2, write_bytes(2, b"\xff\xfe"))),
    "tensors 10,000 deep": state(chain(10_000)),
    "too many tensors": write_bytes(2, write_bytes(1, b"")) * 10_001,
}


@pytest.mark.parametrize("name", BAD)
def test_bad_bytes_are_refused(name):
    with pytest.raises(InvalidInput) as caught:
        read_state(BAD[name])
    assert caught.value.code == "invalid_protobuf"


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data):
    with contextlib.suppress(InvalidInput):
        read_state(data)


@given(st.integers(0, 200), st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused(position, value):
    data = bytearray(write_state([np.ones((2, 3), np.float32), np.arange(4, dtype=np.int64)]))
    data[position % len(data)] = value
    with contextlib.suppress(InvalidInput):
        read_state(bytes(data))
