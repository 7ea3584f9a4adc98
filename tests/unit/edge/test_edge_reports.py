"""The bytes of a report are those of the encoder, made piece by piece."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pygrid.edge.reports import ReportBody
from pygrid.errors import InvalidInput, NonFinite, ShapeMismatch
from pygrid.tensors import decode, encode, make_diff
from pygrid.tensors.params import Difference
from pygrid.transport.base import CHUNK_BYTES

values = st.floats(-8, 8, width=16)
shapes = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
model = st.dictionaries(
    st.text("abc.", min_size=1, max_size=5), arrays.arrays(np.float32, shapes, elements=values), max_size=4
)


@given(original=model, num=st.integers(1, 10**9), loss=st.floats(allow_nan=False, allow_infinity=False))
def test_the_pieces_are_the_encoded_file(original: dict[str, np.ndarray], num: int, loss: float) -> None:
    trained = {name: array / 2 for name, array in original.items()}
    body = ReportBody(Difference(original, trained), num, {"loss": loss})
    data = b"".join(body)
    assert len(data) == body.num_bytes
    assert data == encode(make_diff(original, trained), {"num_examples": str(num), "metric.loss": repr(loss)})
    assert data == b"".join(body)  # a second walk, for a retry
    assert data == b"".join(ReportBody(make_diff(original, trained), num, {"loss": loss}))
    assert float(decode(data)[1]["metric.loss"]) == loss


def test_pieces_are_small_however_large_the_model() -> None:
    body = ReportBody({"w": np.ones((1000, 1000), np.float32)}, 1, {})
    assert max(len(piece) for piece in body) <= CHUNK_BYTES


def test_a_difference_computes_an_array_only_when_it_is_asked_for() -> None:
    original = {"a": np.ones(3, np.float32), "b": np.ones(3, np.float32)}
    difference = Difference(original, {name: np.zeros(3, np.float32) for name in original})
    assert difference["a"] is not difference["a"]
    assert {name: array.tolist() for name, array in difference.items()} == {"a": [1, 1, 1], "b": [1, 1, 1]}


@pytest.mark.parametrize("trained", [{}, {"a": np.zeros(2)}, {"a": np.zeros(3), "b": np.zeros(1)}])
def test_models_that_do_not_match_have_no_difference(trained: dict[str, np.ndarray]) -> None:
    with pytest.raises(ShapeMismatch, match=r"array '[ab]' is not in both"):
        Difference({"a": np.zeros(3)}, trained)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_metric_that_is_no_number_stops_the_report(value: float) -> None:
    with pytest.raises(NonFinite, match="learning rate") as caught:
        ReportBody({}, 1, {"accuracy": 1.0, "loss": value})
    assert caught.value.fields == {"metric": "loss"}


def test_a_report_has_examples_behind_it() -> None:
    with pytest.raises(InvalidInput):
        ReportBody({}, 0, {})
