"""States that are read in pieces.

Should happen: any split gives the values that `read_state` gives; values pass on before the tensor ends.
Should not happen: a State that `read_state` refuses is accepted, values beyond the model pass.
"""

from __future__ import annotations

import contextlib
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygrid.errors import InvalidInput, InvalidTensors, PygridError, ShapeMismatch
from pygrid.syft import read_state, write_state
from pygrid.syft.state_stream import StateStream
from pygrid.syft.wire import varint, write_bytes, write_int, write_text
from unit.syft.test_states import BAD, FLOATS, state, tensor

SHAPES = [("a", (2, 3)), ("b", ()), ("empty", (0,)), ("c", (5,))]
ARRAYS = [np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape) for _, shape in SHAPES]
WHOLE = write_state(ARRAYS)
VALUES = b"".join(one.tobytes() for one in ARRAYS)


def read(data: bytes, shapes: list[tuple[str, tuple[int, ...]]], cuts: list[int]) -> bytes:
    stream, found = StateStream(shapes), b""
    ends = sorted({min(cut, len(data)) for cut in cuts} | {len(data)})
    for begin, end in zip([0, *ends], ends, strict=False):
        found += b"".join(stream.add(data[begin:end]))
    stream.finish()
    return found


@given(st.lists(st.integers(0, len(WHOLE)), max_size=8))
def test_any_split_gives_the_same_values(cuts):
    assert read(WHOLE, SHAPES, cuts) == VALUES


def test_a_state_that_arrives_byte_by_byte():
    assert read(WHOLE, SHAPES, list(range(len(WHOLE)))) == VALUES


def test_values_pass_before_their_tensor_ends():
    big = write_state([np.ones(10_000, np.float32)])
    assert len(b"".join(StateStream([("w", (10_000,))]).add(big[:20_000]))) > 19_000


def test_other_orders_parameters_and_unpacked_floats():
    inner = FLOATS + write_text(2, "float32") + write_bytes(1, write_bytes(1, b"\x02")) + write_text(60, "later")
    other = write_int(50, 3) + state(write_int(8, 4) + write_bytes(2, inner) + varint(99 << 3 | 5) + b"abcd")
    parameter = write_bytes(2, write_bytes(2, write_bytes(2, write_bytes(2, inner)) + write_int(3, 1)))
    single = b"".join(varint(22 << 3 | 5) + struct.pack("<f", value) for value in (1.5, -2.0))
    unpacked = state(write_bytes(2, write_bytes(1, write_int(1, 2)) + write_text(2, "float32") + single))
    for data in (other, parameter, unpacked):
        assert np.frombuffer(read(data, [("w", (2,))], [5, 9, 11]), "<f4").tolist() == [1.5, -2.0]


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused_whole_is_refused_in_pieces(name):
    with pytest.raises((InvalidInput, InvalidTensors, ShapeMismatch)):
        read(BAD[name], [("w", (2,))], [3, 20])


@pytest.mark.parametrize(
    ("arrays", "error", "words"),
    [
        ([np.ones(2, np.float64)], InvalidTensors, "array 0 of the diff is float64"),
        ([np.ones(2, np.int32)], InvalidTensors, "array 0 of the diff is int32"),
        ([np.ones((1, 2), np.float32)], ShapeMismatch, r"has shape \[1, 2\]; 'w' of the model has \[2\]"),
        ([np.ones(3, np.float32)], ShapeMismatch, r"has shape \[3\]"),
        ([], ShapeMismatch, "has 0 arrays; the model has 1"),
        ([np.ones(2, np.float32)] * 3, ShapeMismatch, "has 3 arrays"),
    ],
)
def test_a_diff_of_another_model_names_the_array(arrays, error, words):
    with pytest.raises(error, match=words):
        read(write_state(arrays), [("w", (2,))], [7])


def test_no_more_values_pass_than_the_model_has():
    stream = StateStream([("w", (2,))])
    passed = 0
    with contextlib.suppress(PygridError):
        for piece in (write_state([np.ones(1000, np.float32)]), write_state([np.ones(5, np.float32)])):
            passed += sum(map(len, stream.add(piece)))
    assert passed <= 8


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=4))
def test_arbitrary_bytes_are_read_as_read_state_reads_them(data, cuts):
    data = tensor(content=FLOATS)[: len(data) // 3] + data if len(data) % 2 else data
    try:
        whole = [one for one in read_state(data) if one.dtype == np.float32]
    except InvalidInput:
        whole = None
    shapes = [(str(number), one.shape) for number, one in enumerate(whole or [])]
    try:
        found = read(data, shapes, cuts)
    except (InvalidInput, InvalidTensors, ShapeMismatch):
        found = None
    if found is not None:
        assert whole is not None
        assert found == b"".join(one.tobytes() for one in whole)


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
def test_a_changed_byte_is_never_read_differently(at, byte):
    data = WHOLE[:at] + bytes([byte]) + WHOLE[at + 1 :]
    try:
        found = read(data, SHAPES, [at])
    except (InvalidInput, InvalidTensors, ShapeMismatch):
        return
    assert found == b"".join(one.tobytes() for one in read_state(data))
