"""Clipping and the noisy sum.

Should happen: a contribution keeps its direction and, within the bound, its length; the sum is that of the clipped
vectors. Should not happen: any vector at all that moves the integer sum by more than the bound; a failure that shows; a
second draw.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pygrid.errors import InvalidInput, ShapeMismatch
from pygrid.privacy.clipping import Grid, quantise
from pygrid.privacy.mechanisms import GaussianSum

ANY_FLOATS = st.floats(width=64, allow_nan=True, allow_infinity=True)


def exact_square(row: np.ndarray) -> int:
    """The squared norm of whole numbers, with Python's integers."""
    return sum(int(value) ** 2 for value in row)


@given(
    hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40), elements=ANY_FLOATS),
    st.floats(1e-20, 1e20),
)
def test_nothing_exceeds_the_sensitivity(rows: np.ndarray, clip: float):
    grid = Grid.fit(clip, rows.shape[1])
    rounded = quantise(rows, grid)
    assert (rounded == np.rint(rounded)).all()
    assert all(exact_square(row) <= grid.sensitivity**2 for row in rounded)


@given(st.integers(1, 3000), st.floats(0.49, 0.52), st.integers(0, 8))
def test_vectors_made_to_round_up_everywhere_stay_within(size: int, offset: float, whole: int):
    """The worst case for rounding to nearest: every entry half a step above a whole number, at the edge of the
    bound.
    """
    grid = Grid.fit(1.0, size)
    rows = np.full((1, size), whole + offset) * grid.step
    rows = np.concatenate([rows, rows * 1.0001 / np.linalg.norm(rows), np.full((1, size), 1e30)])
    assert all(exact_square(row) <= grid.sensitivity**2 for row in quantise(rows, grid))


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 200)), elements=st.floats(-1e6, 1e6, width=32)),
    st.floats(0.1, 100.0),
)
def test_it_is_close_to_clipping_in_floats(rows: np.ndarray, clip: float):
    grid = Grid.fit(clip, rows.shape[1])
    norms = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    clipped = rows * np.minimum(1.0, clip / np.maximum(norms, 1e-300))
    away = np.linalg.norm(quantise(rows, grid) * grid.step - clipped, axis=1)
    # Rounding and, at the worst, cutting: a step for each entry; and the margin of the radius.
    assert (away <= grid.step * math.sqrt(rows.shape[1]) + clip / 1024).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_row_that_is_not_finite_counts_as_zeros_and_spares_the_others(bad: float):
    rows = np.array([[0.5, bad], [0.5, 0.0]])
    assert np.rint(quantise(rows, Grid.fit(1.0, 2))).tolist() == [[0.0, 0.0], [512.0, 0.0]]


def test_a_huge_vector_keeps_its_direction():
    rounded = quantise(np.array([[3e300, -4e300]]), Grid.fit(1.0, 2))[0]
    assert rounded[1] / rounded[0] == pytest.approx(-4 / 3, rel=1e-2)
    assert math.hypot(*rounded) == pytest.approx(1024, rel=2e-3)


@pytest.mark.parametrize(("size", "num_rows"), [(1, 500), (50, 200), (3000, 300)])
def test_the_sum_is_that_of_clipped_vectors_with_the_noise_it_claims(size: int, num_rows: int):
    rng = np.random.default_rng(1)
    rows = (rng.standard_normal((num_rows, size)) * rng.uniform(0.1, 3, (num_rows, 1)) / math.sqrt(size)).astype(
        np.float32
    )
    clip, z = 0.7, 2.0
    clipped = rows * np.minimum(1.0, clip / np.linalg.norm(rows, axis=1, keepdims=True))
    errors = []
    for _ in range(max(1, 3000 // size)):
        total = GaussianSum(size, clip, z)
        total.add_rows(rows)
        errors.append(total.finish() - clipped.sum(axis=0))
    errors = np.concatenate(errors)
    assert errors.std() == pytest.approx(z * clip, rel=0.07)
    assert abs(errors.mean()) < 0.1 * z * clip


def test_rows_together_and_one_by_one_are_the_same_sum():
    rows = np.random.default_rng(2).standard_normal((40, 9)).astype(np.float32)
    together, apart = GaussianSum(9, 1.0, 0.01), GaussianSum(9, 1.0, 0.01)
    together.add_rows(rows)
    for row in rows:
        apart.add(row)
    assert together._open().total().tolist() == apart._open().total().tolist()


def test_a_record_that_failed_is_like_one_of_zeros():
    total = GaussianSum(3, 1.0, 1.0)
    total.add(None)
    total.add(np.array([math.nan, 1.0, 1.0]))
    total.add(np.zeros(3))
    assert total._open().total().tolist() == [0, 0, 0]


@given(hnp.arrays(np.float64, st.integers(1, 60), elements=ANY_FLOATS))
def test_one_contribution_moves_the_sum_by_the_sensitivity_at_most(vector: np.ndarray):
    total = GaussianSum(vector.size, 2.5, 1.0)
    before = total._open().total()
    total.add(vector)
    moved = math.sqrt(exact_square(total._open().total() - before)) * total.grid.step
    assert moved <= total.sensitivity == 2.5


@pytest.mark.parametrize("num_rows", [1_000_003, 1_500_007])
def test_equal_contributions_of_the_largest_norm_are_a_sum(num_rows: int):
    """Rounding takes the squared norm of a million equal rows beyond its bound; one other row would hide it."""
    total = GaussianSum(1 << 16, 1.0, 1.0)
    row = np.random.default_rng(0).permutation(np.repeat([15.0, 17.0], [33_792, 31_744]))
    assert row @ row <= total.grid.sensitivity**2
    total.add_clipped(num_rows * row, num_rows)
    with pytest.raises(RuntimeError, match="cannot be a sum"):
        total.add_clipped(num_rows * row, num_rows - 1)


def test_noise_is_drawn_once():
    total = GaussianSum(2, 1.0, 1.0)
    total.finish()
    for again in (total.finish, lambda: total.add(np.zeros(2)), lambda: total.add(None)):
        with pytest.raises(RuntimeError, match="finished"):
            again()


def test_two_releases_of_the_same_sum_differ():
    releases = []
    for _ in range(2):
        total = GaussianSum(100, 1.0, 1.0)
        total.add(np.ones(100))
        releases.append(total.finish())
    assert (releases[0] != releases[1]).mean() > 0.9
    assert releases[0].dtype == np.float32


@pytest.mark.parametrize("vector", [np.zeros(3), np.zeros((1, 4)), np.zeros(4, np.int64)])
def test_another_shape_or_dtype_is_refused_and_nothing_is_added(vector: np.ndarray):
    total = GaussianSum(4, 1.0, 1.0)
    with pytest.raises(ShapeMismatch):
        total.add(vector)
    assert not total._open().total().any()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((0, 1.0, 1.0), "invalid_size"),
        *(((4, clip, 1.0), "invalid_clip") for clip in (0.0, -1.0, math.nan, math.inf)),
        *(((4, 1.0, z), "invalid_noise_multiplier") for z in (0.0, -1.0, math.nan, math.inf)),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: tuple[int, float, float], code: str):
    with pytest.raises(InvalidInput) as refused:
        GaussianSum(*arguments)
    assert refused.value.code == code
