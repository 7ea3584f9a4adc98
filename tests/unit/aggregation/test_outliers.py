"""The bound on norms.

Should happen: a norm far above the median is scaled to the bound; the window is that of the newest.
Should not happen: an honest norm is touched; a minority moves the bound far; norms of zero bound anything.
"""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygrid.aggregation.outliers import WINDOW, clip_scale, norm_bound

norms = st.lists(st.floats(1e-6, 1e6), max_size=30)


@given(norms, norms, st.floats(1.0, 100.0))
def test_the_bound_is_so_many_times_the_median(earlier: list[float], current: list[float], factor: float) -> None:
    bound = norm_bound(earlier, current, factor)
    if earlier or current:
        assert bound == pytest.approx(factor * statistics.median([*earlier, *current]))
    else:
        assert bound == math.inf


@given(norms, norms)
def test_off_is_off(earlier: list[float], current: list[float]) -> None:
    assert norm_bound(earlier, current, None) == math.inf


@given(st.floats(0.0, 1e30), st.floats(1e-6, 1e30))
def test_a_clipped_norm_is_the_bound_and_another_is_as_it_was(norm: float, bound: float) -> None:
    scale = clip_scale(norm, bound)
    assert 0 < scale <= 1
    assert norm * scale == (norm if norm <= bound else pytest.approx(bound))
    assert clip_scale(norm, math.inf) == 1.0


@given(st.lists(st.floats(1.0, 3.9), min_size=1, max_size=30))
def test_honest_norms_within_the_factor_of_each_other_are_never_touched(honest: list[float]) -> None:
    bound = norm_bound([], honest, 4.0)
    assert all(clip_scale(norm, bound) == 1.0 for norm in honest)


@given(st.lists(st.floats(0.5, 2.0), min_size=3, max_size=20), st.floats(1e3, 1e30), st.data())
def test_a_minority_cannot_move_the_bound_beyond_the_honest(honest: list[float], hostile: float, data: st.DataObject) -> None:
    num_hostile = data.draw(st.integers(1, len(honest) - 1))
    bound = norm_bound([], [*honest, *[hostile] * num_hostile], 4.0)
    assert bound <= 4.0 * max(honest)
    assert clip_scale(hostile, bound) * hostile == pytest.approx(bound)


def test_only_the_newest_of_the_earlier_count() -> None:
    earlier = [1000.0] * 5000 + [1.0] * WINDOW
    assert norm_bound(earlier, [], 2.0) == 2.0


@pytest.mark.parametrize("zeros", [2, 3, 50])
def test_clients_that_changed_nothing_do_not_silence_the_others(zeros: int) -> None:
    bound = norm_bound([], [*[0.0] * zeros, 1.0], 4.0)
    assert clip_scale(1.0, bound) == 1.0


def test_the_largest_norm_that_can_be_is_clipped_to_the_bound() -> None:
    largest = float(np.finfo(np.float32).max) * math.sqrt(1e9)
    assert clip_scale(largest, 1.0) * largest == pytest.approx(1.0)
