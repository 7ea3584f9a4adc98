"""The weighted sum of diffs, and the mean made of it.

Should happen: it is numpy's mean in float64, in whatever order and blocks the diffs come.
Should not happen: the error grows with the number of diffs; float32 sums overflow.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pygrid.aggregation.mean import BLOCK, WeightedSum

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


def _mean(given_diffs: list[Any], block: int = BLOCK) -> npt.NDArray[np.float64]:
    total = WeightedSum(len(given_diffs[0][0]))
    for values, weight, scale in given_diffs:
        for start in range(0, len(values), block):
            total.add_block(start, values[start : start + block], weight * scale)
    return total.sum / sum(weight for _, weight, _ in given_diffs)


@given(diffs, st.randoms(), st.integers(1, 30))
def test_it_is_the_mean_of_numpy_in_any_order_and_blocks(given_diffs: list[Any], random: Any, block: int) -> None:
    shuffled = list(given_diffs)
    random.shuffle(shuffled)
    expected = np.average(
        [values.astype(np.float64) * scale for values, _, scale in given_diffs],
        axis=0,
        weights=[weight for _, weight, _ in given_diffs],
    )
    # Sums of a few float64: some units in the last place of the largest term.
    np.testing.assert_allclose(_mean(shuffled, block), expected, rtol=1e-12, atol=1e-9)


@given(
    st.lists(
        st.tuples(hnp.arrays(np.float32, 5, elements=st.integers(-1000, 1000)), st.integers(1, 1000)),
        min_size=1,
        max_size=8,
    ),
    st.randoms(),
)
def test_sums_of_whole_numbers_do_not_depend_on_the_order_at_all(given_diffs: list[Any], random: Any) -> None:
    shuffled = list(given_diffs)
    random.shuffle(shuffled)
    with_scale = [(values, weight, 1.0) for values, weight in given_diffs]
    np.testing.assert_array_equal(_mean(with_scale), _mean([(values, weight, 1.0) for values, weight in shuffled]))


def test_a_hundred_thousand_diffs_lose_no_digits() -> None:
    """0.1 as float32, summed as float32 so often, would be off by 1 percent; as float64 by less than 1e-12."""
    total = WeightedSum(1)
    value = np.full(1, 0.1, np.float32)
    for _ in range(100_000):
        total.add_block(0, value, 1.0)
    assert total.sum[0] / 100_000 == pytest.approx(float(value[0]), rel=1e-12)


def test_the_largest_values_do_not_overflow() -> None:
    largest = np.full(3, np.finfo(np.float32).max)
    total = WeightedSum(3)
    for _ in range(100):
        total.add_block(0, largest, 10_000.0)
    np.testing.assert_allclose(total.sum / 1e6, largest, rtol=1e-12)


def test_pieces_longer_than_a_block_land_where_they_belong() -> None:
    values = np.arange(2 * BLOCK + 17, dtype=np.float32)
    total = WeightedSum(len(values) + 5)
    total.add_block(5, values, 2.0)
    np.testing.assert_array_equal(total.sum[5:], 2 * values)
    np.testing.assert_array_equal(total.sum[:5], 0.0)


def test_a_diff_can_be_taken_out_and_corrected() -> None:
    """What a completion does when a diff that was folded whole turns out to be an outlier."""
    total = WeightedSum(2)
    total.add_block(0, np.array([8.0, -8.0], np.float32), 3.0)
    total.add_block(0, np.array([8.0, -8.0], np.float32), (0.25 - 1.0) * 3.0)
    np.testing.assert_array_equal(total.sum / 3, [2.0, -2.0])
