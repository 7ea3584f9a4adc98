"""What a report must be; more of it, over HTTP, in ``tests/web/cycles``.

Should happen: content, claims and norm of a good report are read, in pieces of any size, always with the same
fingerprint. Should not happen: two reports that differ have one fingerprint; a claim that cannot be is believed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygrid.configuration import ServerConfig
from pygrid.core.processes import HostedProcess, check_fits
from pygrid.core.reports import MAX_EXAMPLES, MAX_METRICS, ReportCheck, ReportContent
from pygrid.errors import InvalidInput, PayloadTooLarge, ShapeMismatch
from pygrid.tensors import encode, read_layout

MODEL = {"weight": np.zeros((2, 3), np.float32), "bias": np.zeros(2, np.float32)}
LAYOUT = read_layout(encode(MODEL))


def read(data: bytes, piece: int = 10**6) -> ReportContent:
    check = ReportCheck(LAYOUT, 10_000)
    for begin in range(0, len(data), piece):
        check.add(data[begin : begin + piece])
    return check.finish()


def diff(value: float = 0.5) -> dict[str, Any]:
    return {name: np.full(array.shape, value, np.float32) for name, array in MODEL.items()}


def test_a_good_report_is_read() -> None:
    data = encode(diff(), {"num_examples": "32", "metric.loss": "0.25", "metric.accuracy": "1e-1", "note": "ignored"})
    content = read(data)
    assert (content.length, content.num_examples) == (len(data), 32)
    assert content.metrics == {"loss": 0.25, "accuracy": 0.1}
    assert content.norm == pytest.approx(0.5 * 8**0.5)


def test_without_claims_it_stands_for_one_example() -> None:
    content = read(encode(diff()))
    assert (content.num_examples, content.metrics) == (1, {})


@given(st.integers(1, 200), st.floats(-100, 100, width=32))
def test_pieces_do_not_change_what_it_is(piece: int, value: float) -> None:
    data = encode(diff(value))
    whole, cut = read(data), read(data, piece)
    assert (cut.length, cut.num_examples, cut.metrics) == (whole.length, whole.num_examples, whole.metrics)
    assert cut.norm == pytest.approx(whole.norm, rel=1e-5)


def test_the_same_bytes_have_the_same_fingerprint_however_they_come() -> None:
    """A repeated report may come in other pieces than the first, or to a server that was started again."""
    data = encode({name: np.random.default_rng(0).normal(size=a.shape).astype(np.float32) for name, a in MODEL.items()})
    assert len({read(data, piece).fingerprint for piece in (1, 7, 13, 50, 100, 10**6)}) == 1


@given(st.binary(min_size=4, max_size=4), st.integers(0, 7))
def test_other_values_have_another_fingerprint(raw: bytes, place: int) -> None:
    data = encode(diff())
    begin = len(data) - 32 + 4 * place
    changed = data[:begin] + raw + data[begin + 4 :]
    try:
        content = read(changed)
    except InvalidInput:
        return
    assert (content.fingerprint == read(data).fingerprint) == (changed == data)


def test_other_claims_have_another_fingerprint() -> None:
    assert (
        read(encode(diff(), {"num_examples": "1"})).fingerprint
        != read(encode(diff(), {"num_examples": "2"})).fingerprint
    )


@pytest.mark.parametrize("text", ["1", "007", "999999999999", str(MAX_EXAMPLES)])
def test_examples_are_a_whole_number(text: str) -> None:
    assert read(encode(diff(), {"num_examples": text})).num_examples == int(text)


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "+1", "1.0", "1e3", " 1", "1_0", "٣", "²", str(MAX_EXAMPLES + 1), "0" * 14, "9" * 5000]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read(encode(diff(), {"num_examples": text}))
    assert refused.value.fields == {"field": "num_examples"}


@pytest.mark.parametrize("text", ["", "x", "nan", "inf", "-Infinity", "1e999", "0x10", "1,5"])
def test_a_metric_is_a_finite_number(text: str) -> None:
    with pytest.raises(InvalidInput):
        read(encode(diff(), {"metric.loss": text}))


def test_the_number_of_metrics_is_bounded() -> None:
    read(encode(diff(), {f"metric.{number}": "1" for number in range(MAX_METRICS)}))
    with pytest.raises(InvalidInput):
        read(encode(diff(), {f"metric.{number}": "1" for number in range(MAX_METRICS + 1)}))
    for name in ("", "x" * 65, "a\nb", "\x1b[2J"):
        with pytest.raises(InvalidInput):
            read(encode(diff(), {f"metric.{name}": "1"}))


# -- the process -------------------------------------------------------------------------------------------------------


def test_a_report_may_be_somewhat_longer_than_the_model() -> None:
    process = HostedProcess(1, "digits", "1.0", ServerConfig(cycle_length=None), {}, LAYOUT, (), None)
    most = process.max_report_bytes
    assert LAYOUT.total_bytes < most < LAYOUT.total_bytes * 1.1 + 100_000
    padded = encode(diff(), {"note": "x" * 50_000})
    check = ReportCheck(LAYOUT, most)
    check.add(padded)
    assert check.finish().length == len(padded)
    with pytest.raises(PayloadTooLarge):
        ReportCheck(LAYOUT, most).add(encode(diff(), {"note": "x" * most}))


SPEC = {"weight": ("float32", (2, 3)), "bias": ("float32", (2,))}


def test_a_plan_that_fits_fits_in_any_order_but_with_no_dimension_changed() -> None:
    for spec in (SPEC, dict(reversed(SPEC.items()))):
        check_fits(LAYOUT, spec, "training_plan")
        for name, (dtype, shape) in spec.items():
            with pytest.raises(ShapeMismatch):
                check_fits(LAYOUT, {**spec, name: (dtype, (shape[0] + 1, *shape[1:]))}, "training_plan")


@pytest.mark.parametrize(
    ("spec", "array"),
    [
        ({**SPEC, "more": ("float32", (1,))}, "more"),
        ({"weight": SPEC["weight"]}, "bias"),
        ({**SPEC, "bias": ("float32", (3,))}, "bias"),
        ({**SPEC, "bias": ("float32", (2, 1))}, "bias"),
        ({**SPEC, "weight": ("int64", (2, 3))}, "weight"),
        ({}, "bias"),
    ],
)
def test_a_plan_for_another_model_is_refused_by_name(spec: dict[str, Any], array: str) -> None:
    with pytest.raises(ShapeMismatch) as refused:
        check_fits(LAYOUT, spec, "training_plan")
    assert refused.value.fields == {"array": array, "plan": "training_plan"}
