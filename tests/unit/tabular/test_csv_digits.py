"""Short whole numbers, all fields at once.

Should happen: the numbers that stand in the text, or None where a careful reader is needed.
Should not happen: a number for what is none; a row that is made of two.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pygrid.tabular import csv_digits
from pygrid.tabular.csv_digits import short_numbers

NUMBER = re.compile(rb"0|[1-9][0-9]{0,8}")
SHORT = st.integers(0, 300).map(lambda number: b"%d" % number)
LONG = st.integers(0, 10**11).map(lambda number: b"%d" % number)
ODD = st.sampled_from([b"", b"00", b"007", b"-1", b"+1", b"1.5", b"x", b"1\r", b"\xff", b"5;6", b"/", b":"])


def naive(data: bytes, num_fields: int, delimiter: bytes) -> np.ndarray | None:
    lines = data.removesuffix(b"\n").replace(b"\r\n", b"\n").removesuffix(b"\r").split(b"\n")
    rows = [line.split(delimiter) for line in lines]
    if any(len(row) != num_fields or not all(map(NUMBER.fullmatch, row)) for row in rows):
        return None
    return np.array([[int(value) for value in row] for row in rows]).T


@settings(max_examples=400, deadline=None)
@given(
    st.integers(1, 4).flatmap(
        lambda width: st.lists(
            st.lists(st.one_of(SHORT, SHORT, SHORT, LONG, ODD), min_size=width, max_size=width)
            | st.lists(SHORT, min_size=1, max_size=5),
            min_size=1,
            max_size=12,
        )
    ),
    st.sampled_from([b",", b";", b"\t", b"|"]),
    st.sampled_from([b"\n", b"\r\n"]),
    st.booleans(),
    st.sampled_from([4, 30, 10**6]),
)
def test_numbers_are_those_that_stand_there(
    rows: list[list[bytes]], delimiter: bytes, end: bytes, has_last_end: bool, at_once: int
) -> None:
    data = end.join(delimiter.join(row) for row in rows) + (end if has_last_end else b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_digits, "AT_ONCE", at_once)
        patch.setattr(csv_digits, "MAX_MEAN_BYTES", 100)
        found = short_numbers(data, len(rows[0]), delimiter)
    if found is not None:
        wanted = naive(data, len(rows[0]), delimiter)
        assert wanted is not None, data
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize(("most", "dtype"), [(255, np.int16), (9999, np.int16), (10_000, np.int32), (99_999, np.int32)])
def test_pixels_are_read_at_once(end: bytes, most: int, dtype: type) -> None:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (3000, 300))
    pixels[-1, -1] = most
    data = b"".join(b",".join(b"%d" % value for value in row) + end for row in pixels.tolist())
    assert len(data) > 2 * csv_digits.AT_ONCE
    found = short_numbers(data, 300, b",")
    assert found is not None
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, pixels.T)
    for lost in (b"\n", b",", b"0,"):
        assert short_numbers(data + lost + data, 300, b",") is None
    assert short_numbers(data, 299, b",") is None


def test_long_numbers_are_left_to_others() -> None:
    """They are read faster one column after the other."""
    assert short_numbers(b"123456,654321\n" * 10, 2, b",") is None
    assert short_numbers(b"1234567890,1,1,1,1,1\n" * 10, 6, b",") is None
    assert short_numbers(b"", 1, b",") is None
