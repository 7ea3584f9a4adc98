"""Contributions bounded in L2 norm and put on a grid of integers, row by row.

The grid divides the clipping bound C into S = 2^k steps: a contribution becomes a vector of integers of norm S at the most, so
the largest change that one contribution makes to an integer sum is S, and C after multiplying by the step C / S.

**Why the norm holds.** `quantise` scales the vector to a radius r with r^2 = S^2 - size / 8, rounds each entry to the nearest
integer, and *computes* the sum of squares of what came out. Entries are integers of float64 whose squares add up to less than
2^53, where float64 adds integers without rounding: the sum is exact. If it is above S^2 (entries that all round up), the
entries are cut towards zero instead, which makes none larger in magnitude, so the norm stays within r. That is checked in the
same exact way, and a row that failed it would count as zero. So the bound rests on integers, not on how floats were rounded.

Rounding to nearest moves a vector by sqrt(size) / 2 steps at the most. S is at least 16 sqrt(size), by `Grid.fit`, so that is
3 % of C for one contribution in the worst case and 0.03 % of its squared norm on average, far below the noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pygrid.errors import InvalidInput

_MIN_BITS = 10
_MAX_BITS = 24
"""2^24 steps: the sum of squares stays below 2^53."""
MIN_CLIP, MAX_CLIP = 1e-30, 1e30
"""Far from the ends of float32, in which sums are told."""
MAX_SIZE = 1 << 2 * (_MAX_BITS - 4)


@dataclass(frozen=True, slots=True)
class Grid:
    """How floats become integers: ``clip`` is the bound in L2 norm, ``bits`` its size in steps, as a power of two."""

    clip: float
    bits: int

    @classmethod
    def fit(cls, clip: float, size: int) -> Self:
        """The grid for vectors of ``size`` entries: S is at least 1024 and at least 16 sqrt(size).

        Raises:
            InvalidInput: ``invalid_clip`` or ``invalid_size``, with the range wanted.
        """
        if not MIN_CLIP <= clip <= MAX_CLIP:
            raise InvalidInput(
                f"a clipping bound of {clip} makes no sense: use a number above 0, such as 1.0", code="invalid_clip"
            )
        if not 1 <= size <= MAX_SIZE:
            raise InvalidInput(f"a vector of {size} entries cannot be protected: use 1 to {MAX_SIZE}", code="invalid_size")
        return cls(float(clip), max(_MIN_BITS, 4 + math.ceil(math.log2(size) / 2)))

    @property
    def sensitivity(self) -> int:
        """S: the largest L2 norm of a contribution, in steps."""
        return 1 << self.bits

    @property
    def step(self) -> float:
        """The size of a step in the units of ``clip``."""
        return math.ldexp(self.clip, -self.bits)


def quantise(rows: npt.NDArray[np.floating[Any]], grid: Grid) -> npt.NDArray[np.float64]:
    """Each row clipped to ``grid.clip`` and put on the grid: integers of L2 norm ``grid.sensitivity`` at the most.

    A row with a value that is not finite becomes zeros: it must not be told from one that says nothing.

    Args:
        rows: shape (n, size), float16, float32 or float64; left as it is.
    Returns:
        Shape (n, size), float64 that holds whole numbers only.
    """
    values, squares = _finite(rows)
    largest = grid.sensitivity**2
    radius = math.sqrt(largest - rows.shape[1] / 8)
    # What is within the bound keeps its length; what is not is scaled down to it.
    factors = radius / np.maximum(np.sqrt(squares), grid.clip)
    values *= factors[:, np.newaxis]
    np.rint(values, out=values)
    for row in np.flatnonzero(_squares(values) > largest):
        again, _ = _finite(rows[row : row + 1])
        np.trunc(again[0] * factors[row], out=values[row])
        if not float(values[row] @ values[row]) <= largest:
            values[row] = 0.0
    return values


def _finite(rows: npt.NDArray[np.floating[Any]]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The rows in float64, all finite, and the squares of their norms."""
    values = rows.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        squares = _squares(values)
        if not np.isfinite(squares).all():
            squares = _tame(values, squares)
    return values, squares


def _squares(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    if len(rows) == 1:  # the quickest by far for a long row
        return np.array([rows[0] @ rows[0]])
    squares: npt.NDArray[np.float64] = np.einsum("ij,ij->i", rows, rows)
    return squares


def _tame(rows: npt.NDArray[np.float64], squares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Make the rows finite in place: zeros for one with NaN or infinity, a shorter vector of the same direction for one whose
    square is beyond float64. Gives the squares of their norms."""
    for row in np.flatnonzero(~np.isfinite(squares)):
        peak = float(np.abs(rows[row]).max())
        if math.isfinite(peak):
            # Still far above any clipping bound (at most 1e30), so that clipping gives the same vector.
            rows[row] *= 1e100 / peak
        else:
            rows[row] = 0.0
    return _squares(rows)
