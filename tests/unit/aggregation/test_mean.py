"""The exact sum of diffs, and the mean made of it.

Should happen: it is numpy's mean in float64; its bits do not depend on the order and the blocks of the diffs.
Should not happen: the error grows with the number of diffs; sums on the way overflow.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pygrid.aggregation.mean import BLOCK, TERM_BITS, ExactSum

diffs = st.integers(1, 30).flatmap(
    lambda size: st.lists(
        st.tuples(
            hnp.arrays(np.float32, size, elements=st.floats(-1000, 1000, width=32)),
            st.integers(1, 10_000),
            st.floats(0.01, 1.0),
        ),
        min_size=1,
        max_size=8,
    )
)


EXPONENT = -24
"""Terms below 2**24, with 2**-25 as the largest error."""


def _mean(given_diffs: list[Any], block: int = BLOCK) -> npt.NDArray[np.float64]:
    size = len(given_diffs[0][0])
    total = ExactSum(size, EXPONENT)
    for values, weight, scale in given_diffs:
        for start in range(0, len(values), block):
            total.add_block(start, values[start : start + block], weight * scale)
    return total.values(0, size) / sum(weight for _, weight, _ in given_diffs)


@given(diffs, st.randoms(), st.integers(1, 30))
def test_it_is_the_mean_of_numpy_with_the_same_bits_in_any_order_and_blocks(
    given_diffs: list[Any], random: Any, block: int
) -> None:
    shuffled = list(given_diffs)
    random.shuffle(shuffled)
    expected = np.average(
        [values.astype(np.float64) * scale for values, _, scale in given_diffs],
        axis=0,
        weights=[weight for _, weight, _ in given_diffs],
    )
    mean = _mean(shuffled, block)
    # Each of 8 terms is off by at most 2**-25, and the weights are 1 or more.
    np.testing.assert_allclose(mean, expected, rtol=1e-12, atol=8 * 2.0**-25)
    assert mean.tobytes() == _mean(given_diffs).tobytes()


@given(st.integers(-150, 150), st.floats(1.0, 2.0, exclude_max=True, width=32), st.booleans())
def test_a_term_is_the_nearest_multiple(power: int, mantissa: float, is_negative: bool) -> None:
    """Up to the largest term, and for values of any size."""
    value = np.float32(np.ldexp(-mantissa if is_negative else mantissa, max(-120, min(120, power))))
    for bits in (0, 10, 23, TERM_BITS - 1):
        exponent = int(np.frexp(np.float64(value))[1]) - bits
        total = ExactSum(1, exponent)
        total.add_block(0, np.array([value]), 1.0)
        assert total.multiples()[0] == round(float(value) * 2.0**-exponent)


def test_a_hundred_thousand_diffs_lose_no_digits() -> None:
    """0.1 as float32, summed as float32 so often, would be off by 1 percent."""
    total = ExactSum(1, -46)
    value = np.full(1, 0.1, np.float32)
    for _ in range(100_000):
        total.add_block(0, value, 1.0)
    assert total.values(0, 1)[0] / 100_000 == pytest.approx(float(value[0]), rel=1e-12)


def test_a_sum_on_the_way_may_overflow() -> None:
    """Integers modulo 2**64: what counts is the size of the final sum."""
    total = ExactSum(1, 0)
    huge = np.full(1, 2.0**49, np.float32)
    for sign in (1, -1):
        for _ in range(2**16):
            total.add_block(0, huge, 1.0, sign=sign)
    total.add_block(0, np.full(1, 5.0, np.float32), 1.0)
    assert total.values(0, 1)[0] == 5.0


def test_pieces_longer_than_a_block_land_where_they_belong() -> None:
    values = np.arange(2 * BLOCK + 17, dtype=np.float32)
    total = ExactSum(len(values) + 5, -8)
    total.add_block(5, values, 2.0)
    total.add_block(0, np.zeros(5, np.float32), 2.0)
    np.testing.assert_array_equal(total.values(5, len(values)), 2 * values)
    np.testing.assert_array_equal(total.values(0, 5), 0.0)


def test_a_diff_can_be_taken_out() -> None:
    """What a completion does when a diff that was folded whole turns out to be an outlier."""
    total = ExactSum(2, -30)
    for sign in (1, -1):
        total.add_block(0, np.array([0.1, -8.0], np.float32), 1 / 3, sign=sign)
    assert not total.multiples().any()


def test_a_sum_with_half_a_diff_is_not_read() -> None:
    """The terms of a diff are raised by the same number in each value, which is taken out again for whole diffs."""
    total = ExactSum(2, -30)
    total.add_block(0, np.ones(1, np.float32), 1.0)
    with pytest.raises(AssertionError):
        total.multiples()
    total.add_block(1, np.ones(1, np.float32), 1.0)
    np.testing.assert_array_equal(total.values(0, 2), 1.0)


def test_a_sum_goes_on_from_the_multiples_of_another_one() -> None:
    first, value = ExactSum(2, -30), np.array([0.5, -8.0], np.float32)
    first.add_block(0, value, 1.0)
    second = ExactSum(2, -30, first.multiples())
    for _ in range(3):
        second.add_block(0, value, 1.0)
    second.add_multiples(first.multiples())
    np.testing.assert_array_equal(second.values(0, 2), 5 * value)
