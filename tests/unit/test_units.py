"""Numbers as people read them: no powers of ten, enough digits, separators."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygrid.units import chance, decimal


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [
        (1e-6, 6, "0.000001"),
        (1.25e-5, 3, "0.0000125"),
        (0.35, 3, "0.35"),
        (2.0, 3, "2"),
        (1e6, 6, "1,000,000"),
        (1234567.8, 4, "1,234,568"),
        (1234.5, 6, "1,234.5"),
        (-0.00002, 6, "-0.00002"),
        (1e-12, 3, "1e-12"),
        (99.96, 3, "100"),
        (999.9, 3, "1,000"),
        (1.5e-7, 3, "0.00000015"),
        (1e20, 3, "1e+20"),
        (0.0, 3, "0"),
        (math.inf, 3, "inf"),
        (math.nan, 3, "nan"),
    ],
)
def test_a_number_is_written_out(value: float, digits: int, shown: str) -> None:
    assert decimal(value, digits) == shown


@given(st.floats(1e-9, 1e14) | st.floats(-1e14, -1e-9), st.integers(1, 6))
def test_what_is_written_is_the_number(value: float, digits: int) -> None:
    shown = decimal(value, digits)  # off by at most half of the last digit
    assert "e" not in shown
    assert float(shown.replace(",", "")) == pytest.approx(value, rel=0.51 * 10 ** (1 - digits))


@pytest.mark.parametrize(
    ("probability", "shown"),
    [(1e-6, "1 in 1,000,000"), (2e-5, "1 in 50,000"), (3e-7, "1 in 3,330,000"), (0.5, "1 in 2")],
)
def test_a_chance_is_one_in_many(probability: float, shown: str) -> None:
    assert chance(probability) == shown
