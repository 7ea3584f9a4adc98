"""The bound on norms.

Should happen: a norm far above the median is scaled to the bound, in the first cycle of a process too.
Should not happen: an honest norm is touched; a minority moves the bound far; norms of zero take part in the median.
"""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygrid.aggregation.outliers import FIRST_FACTOR, FIRST_REPORTS, clip_scale, lower_median, norm_bound

norms = st.lists(st.just(0.0) | st.floats(1e-6, 1e6), max_size=30)


def no_model() -> float:
    raise AssertionError("the model's norm is not needed here")


@given(norms, norms, st.floats(1.0, 100.0))
def test_the_bound_is_so_many_times_the_median(earlier: list[float], current: list[float], factor: float) -> None:
    """Over the norms above zero; the model is so large that it limits nothing."""
    known = [norm for norm in [*earlier, *current] if norm > 0]
    bound = norm_bound(earlier, current, factor, lambda: 1e12)
    assert bound == (factor * statistics.median_low(known) if known else math.inf)


@given(norms, norms)
def test_off_is_off(earlier: list[float], current: list[float]) -> None:
    assert norm_bound(earlier, current, None, no_model) == math.inf


@given(st.floats(0.0, 1e30), st.floats(1e-6, 1e30))
def test_a_clipped_norm_is_the_bound_and_another_is_as_it_was(norm: float, bound: float) -> None:
    scale = clip_scale(norm, bound)
    assert 0 < scale <= 1
    assert norm * scale == (norm if norm <= bound else pytest.approx(bound))
    assert clip_scale(norm, math.inf) == 1.0


@given(st.lists(st.floats(1.0, 1.9), min_size=3, max_size=30))
def test_honest_norms_within_the_factor_of_each_other_are_never_touched(honest: list[float]) -> None:
    bound = norm_bound([], honest, 2.0, no_model)
    assert all(clip_scale(norm, bound) == 1.0 for norm in honest)


@given(st.lists(st.floats(0.5, 2.0), min_size=3, max_size=20), st.floats(1e3, 1e30), st.data())
def test_a_minority_cannot_move_the_bound_beyond_the_honest(
    honest: list[float], hostile: float, data: st.DataObject
) -> None:
    """However many zeros come with it: they used to switch the bound off."""
    num_hostile = data.draw(st.integers(1, len(honest)))
    zeros = data.draw(st.integers(0, 100))
    bound = norm_bound([], [*honest, *[hostile] * num_hostile, *[0.0] * zeros], 4.0, no_model)
    assert bound <= 4.0 * max(honest)
    assert clip_scale(hostile, bound) * hostile == pytest.approx(bound)


@pytest.mark.parametrize("zeros", [2, 3, 50])
def test_clients_that_changed_nothing_do_not_silence_the_others(zeros: int) -> None:
    bound = norm_bound([], [*[0.0] * zeros, 1.0], 4.0, lambda: 5.0)
    assert clip_scale(1.0, bound) == 1.0


@pytest.mark.parametrize("zeros", [0, 6])
@pytest.mark.parametrize("model_norm", [0.0, 0.5, 30.0])
def test_the_first_reports_of_a_process_are_held_to_the_size_of_the_model(zeros: int, model_norm: float) -> None:
    largest = FIRST_FACTOR * max(model_norm, 1.0)
    for num_huge in range(1, FIRST_REPORTS):
        assert norm_bound([], [*[0.0] * zeros, *[1e30] * num_huge], 2.0, lambda: model_norm) == largest
    # One honest report is enough of a measure for one that is not.
    assert norm_bound([], [0.25, 1e30], 2.0, lambda: model_norm) == 0.5


def test_accepted_reports_are_the_measure_for_one_that_comes_alone() -> None:
    assert norm_bound([0.25, 0.0], [1e30], 2.0, no_model) == 0.5


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_the_lower_median_is_one_of_the_values(values: list[float]) -> None:
    assert lower_median(values) == statistics.median_low(values)


def test_the_largest_norm_that_can_be_is_clipped_to_the_bound() -> None:
    largest = float(np.finfo(np.float32).max) * math.sqrt(1e9)
    assert clip_scale(largest, 1.0) * largest == pytest.approx(1.0)
