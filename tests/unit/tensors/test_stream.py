"""A file that is checked while it arrives, the norm of its values, and where they belong in the model.

Should happen: the verdict is the same however the bytes were cut; the norm is numpy's; arrays in any order find their
places. Should not happen: NaN or infinity gets through at any place; more is taken in than was allowed.
"""

from __future__ import annotations

import itertools
import json
import zlib
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pygrid.errors import InvalidTensors, NonFinite, PayloadTooLarge, PygridError, ShapeMismatch
from pygrid.tensors import Params, apply_diff, encode, make_diff, read_layout
from pygrid.tensors.flat import VALUE_BYTES, FiniteNorm, check_model, match, num_values
from pygrid.tensors.safetensors import Layout
from pygrid.tensors.stream import Checked, StreamCheck
from support.thorough import examples

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
models = st.dictionaries(
    st.sampled_from(["a", "b", "layer.weight", "é"]),
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=5), elements=finite),
    min_size=1,
)


def _pieces(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[begin:end] for begin, end in itertools.pairwise(places)]


def _verdict(data: bytes, cuts: Sequence[int], on_layout: Callable[[Layout], None], max_bytes: int = 10**6) -> object:
    check = StreamCheck(max_bytes, on_layout)
    try:
        for piece in _pieces(data, cuts):
            check.add(piece)
        checked = check.finish()
    except PygridError as error:
        return error.code
    # The norm is summed in the order of the pieces, so its last digits may differ.
    return checked.layout, checked.crc32, pytest.approx(checked.norm, rel=1e-5)


@given(models, st.lists(st.integers(0, 10**6), max_size=8), st.data())
def test_the_verdict_does_not_depend_on_the_pieces(model: Params, cuts: list[int], data: st.DataObject) -> None:
    """Of good files and of files with a byte changed, cut off or added."""
    whole = encode(model, {"num_examples": "3"})
    change = data.draw(st.sampled_from(["nothing", "a byte", "shorter", "longer"]))
    place = data.draw(st.integers(0, len(whole) - 1))
    if change == "a byte":
        whole = whole[:place] + bytes([data.draw(st.integers(0, 255))]) + whole[place + 1 :]
    elif change == "shorter":
        whole = whole[:place]
    elif change == "longer":
        whole += b"\0" * (place + 1)
    assert _verdict(whole, cuts, check_model) == _verdict(whole, [], check_model)
    assert _verdict(whole, range(len(whole)), check_model) == _verdict(whole, [], check_model)


@given(models)
def test_a_good_file_is_what_it_is(model: Params) -> None:
    data = encode(model)
    check = StreamCheck(len(data), lambda _layout: None)
    check.add(data)
    checked = check.finish()
    assert checked.layout == read_layout(data)
    assert checked.crc32 == zlib.crc32(data)
    values = np.concatenate([array.reshape(-1) for array in model.values()]).astype(np.float64)
    assert checked.norm == pytest.approx(float(np.sqrt((values**2).sum())), rel=1e-5, abs=1e-18)


def test_the_limit_is_on_all_that_comes() -> None:
    data = encode({"a": np.zeros(10, np.float32)})
    check = StreamCheck(len(data) - 1, check_model)
    check.add(data[:-2])
    with pytest.raises(PayloadTooLarge) as refused:
        check.add(data[-2:])
    assert refused.value.fields == {"max_bytes": len(data) - 1}


def test_a_header_longer_than_all_may_be_is_refused_at_once() -> None:
    with pytest.raises(InvalidTensors, match="header"):
        StreamCheck(100, check_model).add((200).to_bytes(8, "little"))


def test_a_layout_can_be_refused_before_a_value_is_looked_at() -> None:
    def refuse(_layout: Layout) -> None:
        raise ShapeMismatch("not this one")

    data = encode({"a": np.full(4, np.nan, np.float32)})
    with pytest.raises(ShapeMismatch):
        StreamCheck(10**6, refuse).add(data)


def test_what_is_kept_does_not_grow_with_the_file() -> None:
    """The last piece of a value at the most, once the header is there."""
    data = encode({"a": np.zeros(1000, np.float32)})
    check = StreamCheck(10**6, check_model)
    for begin in range(0, len(data), 7):
        check.add(data[begin : begin + 7])
        if begin > 200:
            assert len(check._pending) < VALUE_BYTES
    assert isinstance(check.finish(), Checked)


# -- the norm ----------------------------------------------------------------------------------------------------------


def _layout(model: Params) -> Layout:
    return read_layout(encode(model))


@settings(max_examples=examples(50))
@given(
    hnp.arrays(np.float32, st.integers(1, 2000), elements=st.floats(-(2.0**62), 2.0**62, width=32)),
    st.lists(st.integers(0, 2000), max_size=4),
)
def test_the_norm_is_that_of_numpy(values: npt.NDArray[np.float32], cuts: list[int]) -> None:
    norm = FiniteNorm(_layout({"a": values}))
    for block in np.split(values, sorted(cut % (len(values) + 1) for cut in cuts)):
        norm.add(block)
    # A sum of float32 in pairs: relative 1e-5 is some hundred roundings; squares below 1e-38 vanish.
    assert norm.norm == pytest.approx(float(np.linalg.norm(values.astype(np.float64))), rel=1e-5, abs=1e-17)


@pytest.mark.parametrize("value", [1e19, 3e19, 1e30, 1e38, float(np.finfo(np.float32).max)])
def test_values_whose_squares_float32_cannot_hold_have_a_norm(value: float) -> None:
    values = np.full(10_000, value, np.float32)
    norm = FiniteNorm(_layout({"a": values}))
    norm.add(values)
    assert norm.norm == pytest.approx(float(np.float32(value)) * 100, rel=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("block", [1, 3, 100])
def test_no_value_that_is_not_finite_gets_through(bad: float, block: int) -> None:
    """At each place of three arrays, alone or beside values whose squares overflow, the array is named."""
    model = {name: np.full(size, 1e38, np.float32) for name, size in (("a", 2), ("b", 5), ("c", 1))}
    layout = _layout(model)
    flat = np.concatenate([model[entry.name] for entry in layout.entries])
    owners = [entry.name for entry in layout.entries for _ in range(entry.shape[0])]
    for place, owner in enumerate(owners):
        values = flat.copy()
        values[place] = bad
        norm = FiniteNorm(layout)
        before = place - place % block
        for begin in range(0, before, block):
            norm.add(values[begin : begin + block])
        with pytest.raises(NonFinite, match=f"'{owner}'") as refused:
            norm.add(values[before : before + block])
        assert refused.value.fields == {"array": owner}


# -- places ------------------------------------------------------------------------------------------------------------


@given(models, st.randoms())
def test_arrays_in_any_order_find_their_places(model: Params, random: object) -> None:
    """The model's flat vector, put together from the runs of a file that lists the same arrays in another order."""
    names = list(model)
    random.shuffle(names)  # type: ignore[attr-defined]
    position, entries, values = 0, {}, []
    for name in names:
        size = model[name].size * VALUE_BYTES
        entries[name] = {"dtype": "F32", "shape": list(model[name].shape), "data_offsets": [position, position + size]}
        position += size
        values.append(model[name].reshape(-1))
    text = json.dumps(entries).encode()
    diff = read_layout(len(text).to_bytes(8, "little") + text + np.concatenate(values).tobytes())
    own = _layout(model)
    source, target = np.concatenate(values), np.full(num_values(own), np.nan, np.float32)
    for run in match(own, diff):
        assert run.count > 0
        target[run.target : run.target + run.count] = source[run.source : run.source + run.count]
    expected = np.concatenate([model[entry.name].reshape(-1) for entry in own.entries])
    np.testing.assert_array_equal(target, expected)


def test_arrays_in_the_same_order_are_one_run() -> None:
    layout = _layout({name: np.zeros((2, 3), np.float32) for name in "abc"})
    (run,) = match(layout, layout)
    assert (run.source, run.target, run.count) == (0, 0, 18)


@pytest.mark.parametrize(
    ("diff", "array"),
    [
        ({"a": np.zeros(2, np.float32)}, "b"),
        ({"a": np.zeros(2, np.float32), "b": np.zeros(2, np.float32), "c": np.zeros(1, np.float32)}, "c"),
        ({"a": np.zeros(3, np.float32), "b": np.zeros(2, np.float32)}, "a"),
        ({"a": np.zeros((2, 1), np.float32), "b": np.zeros(2, np.float32)}, "a"),
        ({"a": np.zeros(2, np.float32), "b": np.zeros(1, np.float64)}, "b"),
        ({"a": np.zeros(2, np.int32), "b": np.zeros(2, np.float32)}, "a"),
    ],
)
def test_other_arrays_are_refused_by_name(diff: Params, array: str) -> None:
    model = _layout({"a": np.zeros(2, np.float32), "b": np.zeros(2, np.float32)})
    with pytest.raises(ShapeMismatch) as refused:
        match(model, _layout(diff))
    assert refused.value.fields["array"] == array


@pytest.mark.parametrize("model", [{}, {"a": np.zeros(0, np.float32)}, {"a": np.zeros(2, np.float64)}])
def test_a_model_needs_values_of_float32(model: Params) -> None:
    with pytest.raises(InvalidTensors):
        check_model(_layout(model))


# -- diffs -------------------------------------------------------------------------------------------------------------


@given(models)
def test_a_diff_is_what_was_minus_what_is(model: Params) -> None:
    trained = {name: array * np.float32(0.5) for name, array in model.items()}
    diff = make_diff(model, trained)
    for name, array in diff.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, model[name] - trained[name])
    back = apply_diff(model, diff)
    for name, array in back.items():
        np.testing.assert_allclose(array, trained[name], rtol=1e-6)


@pytest.mark.parametrize(
    "other", [{}, {"a": np.zeros(3, np.float32)}, {"a": np.zeros(2, np.float32), "b": np.zeros(1)}]
)
def test_arrays_of_other_names_or_shapes_have_no_diff(other: Params) -> None:
    for function in (make_diff, apply_diff):
        with pytest.raises(ShapeMismatch):
            function({"a": np.zeros(2, np.float32)}, other)
