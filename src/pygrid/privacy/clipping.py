"""Bounds the L2 norm of contributions and rounds them to a grid of integers, row by row.

The grid divides the clipping bound C into S = 2^k steps: a contribution becomes a vector of integers of norm at most S.
If zeros replace a contribution, an integer sum changes by at most S, which is C after multiplication by the step C / S.
If another contribution replaces it, the sum changes by at most 2 S.

**Why the norm holds.** The vector is scaled to a radius r a little below S, each entry is rounded to the nearest
integer, and the sum of squares of the result is *computed*. The entries are integers in float64 whose squares add up to
less than 2^53, where float64 adds integers without rounding, in any order: the sum is exact. If it is above S^2
(because entries were rounded up), the entries are truncated towards zero instead. Truncation makes no entry larger in
magnitude, so the norm stays within r. This is checked in the same exact way, and a row that failed the check would
count as zero. So the bound depends on integers, not on the rounding of floats.

**Why a row depends on itself only.** The only sum of floats is the squared norm. Its bits must not depend on the
position of the row or on the rows next to it. Otherwise a plan could choose a row at a rounding edge, and its neighbors
would decide the result. The length of a row selects one of two methods:

- Short rows, many at once: only elementwise +, *, /, sqrt and rint, which IEEE 754 defines to the last bit for each
  entry, and a sum in the fixed order of `_sum_columns`.
- Long rows, one at a time: the row is copied to a buffer at a fixed address, and the same calls work on the buffer.
  They use float32 first, where it holds the integers exactly (squares up to 2^24). A row whose square is too large for
  float32, or whose integers exceed the bound, is computed again in float64.

The radius: r^2 = S^2 - size / 8 for short rows, so that a count stays a count. For long rows r^2 = S^2 - size / 12 - 2
S: rounding adds size / 12 to the squared norm on average, with a standard deviation of at most S / sqrt(3). That makes
truncation rare. Rounding to nearest moves a vector by at most sqrt(size) / 2 steps. S is at least 16 sqrt(size), by
`Grid.fit`, so that is 3% of C for one contribution in the worst case, and 0.03% of its squared norm on average, far
below the noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pygrid import codes
from pygrid.errors import InvalidInput
from pygrid.tensors.aligned import aligned_zeros

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

_MIN_BITS = 10
_MAX_BITS = 24
"""2^24 steps: the sum of squares stays below 2^53."""
MIN_CLIP, MAX_CLIP = 1e-30, 1e30
"""Far from the limits of float32, the dtype of released sums."""
MAX_SIZE = 1 << 2 * (_MAX_BITS - 4)
LONG_ROW = 512
"""Rows of at least this many entries are quantised one at a time."""
FLOAT32_INTEGERS = 1 << 24
"""float32 adds whole numbers below this without rounding, and a sum that reaches it never falls below it again."""
_MIN_NARROW_CLIP = 1e-12
"""Far above the magnitudes whose squares are 0 in float32."""
_TOGETHER = 1 << 15
"""Entries of short rows that are quantised per step: 256 KiB in float64."""


@dataclass(frozen=True, slots=True)
class Grid:
    """A grid of integers: ``clip`` is the bound on the L2 norm, which is ``2 ** bits`` steps."""

    clip: float
    bits: int

    @classmethod
    def fit(cls, clip: float, size: int) -> Self:
        """The grid for vectors of ``size`` entries: S is at least 1024 and at least 16 sqrt(size).

        Raises:
            InvalidInput: ``invalid_clip`` or ``invalid_size``; the error names the valid range.
        """
        if not MIN_CLIP <= clip <= MAX_CLIP:
            raise InvalidInput(
                f"the clipping bound is {clip}: use {MIN_CLIP:g} to {MAX_CLIP:g}, such as 1.0", code=codes.INVALID_CLIP
            )
        if not 1 <= size <= MAX_SIZE:
            raise InvalidInput(f"a vector has {size} entries: use 1 to {MAX_SIZE}", code=codes.INVALID_SIZE)
        return cls(float(clip), max(_MIN_BITS, 4 + math.ceil(math.log2(size) / 2)))

    @property
    def sensitivity(self) -> int:
        """S: the largest L2 norm of a contribution, in steps."""
        return 1 << self.bits

    @property
    def step(self) -> float:
        """The size of a step, in the units of ``clip``."""
        return math.ldexp(self.clip, -self.bits)


def long_radius(grid: Grid, size: int) -> float:
    """The norm, in steps, to which a long row is scaled down before rounding, which rarely takes it beyond S."""
    return math.sqrt(grid.sensitivity**2 - size / 12 - 2 * grid.sensitivity)


def holds_float32(grid: Grid) -> bool:
    """Whether float32 can round contributions and check their norm exactly; it takes half the time of float64."""
    return grid.sensitivity**2 < FLOAT32_INTEGERS and grid.clip >= _MIN_NARROW_CLIP


class ClippedSum:
    """The exact sum of rows of one length, each clipped and rounded to a grid. For one thread at a time.

    Args:
        grid: the grid.
        size: number of entries of a row.
    """

    def __init__(self, grid: Grid, size: int) -> None:
        self._grid, self._size = grid, size
        self._largest = grid.sensitivity**2
        self._total: Float64 = np.zeros(size)
        is_long = size >= LONG_ROW
        self._radius = long_radius(grid, size) if is_long else math.sqrt(self._largest - size / 8)
        self._row: Float64 = aligned_zeros((size if is_long else 0,), np.float64)
        # float32 holds integers up to 2^24. Where that is sufficient for the squared norm, it takes half the time.
        has_narrow = is_long and self._largest < FLOAT32_INTEGERS and grid.clip >= _MIN_NARROW_CLIP
        self._narrow: Float32 = aligned_zeros((size if has_narrow else 0,), np.float32)
        self._partial: Float32 = np.zeros(self._narrow.size, np.float32)
        self._num_partial = 0

    def add(self, rows: npt.NDArray[np.floating[Any]]) -> None:
        """Add the integers of each row. A row with a value that is not finite adds zeros.

        Args:
            rows: shape (n, size); float16, float32 or float64. It is not changed.
        """
        if not self._row.size:
            together = max(1, _TOGETHER // self._size)
            for start in range(0, len(rows), together):
                self._total += self._short(rows[start : start + together]).sum(axis=1)
        elif self._narrow.size and rows.dtype == np.float32:
            for row in rows:
                if self._quantise_narrow(row):
                    self._partial += self._narrow
                    self._num_partial += 1
                    if self._num_partial * self._grid.sensitivity >= FLOAT32_INTEGERS:
                        self._flush()
                else:
                    self._total += self._long(row)
        else:
            for row in rows:
                self._total += self._long(row)

    def add_integers(self, integers: npt.NDArray[np.floating[Any]]) -> None:
        """Add whole numbers in steps of the grid, of shape (size,)."""
        self._total += integers

    def total(self) -> npt.NDArray[np.int64]:
        """The sum, in steps of the grid, of shape (size,)."""
        self._flush()
        return self._total.astype(np.int64)

    def quantise(self, rows: npt.NDArray[np.floating[Any]]) -> Float64:
        """The integers that `add` would add for each row: L2 norm at most ``grid.sensitivity``, shape (n, size)."""
        if not self._row.size:
            return self._short(rows).T
        is_narrow = self._narrow.size > 0 and rows.dtype == np.float32
        quantised = [
            self._narrow.astype(np.float64) if is_narrow and self._quantise_narrow(row) else self._long(row).copy()
            for row in rows
        ]
        return np.array(quantised).reshape(rows.shape)

    def _flush(self) -> None:
        if self._num_partial:
            self._total += self._partial
            self._partial[:] = 0.0
            self._num_partial = 0

    def _quantise_narrow(self, row: npt.NDArray[np.floating[Any]]) -> bool:
        """Write the integers of a float32 row to the narrow buffer. False if that needs float64."""
        values = self._narrow
        np.copyto(values, row)
        with np.errstate(over="ignore", invalid="ignore"):
            square = float(np.dot(values, values))
        if not math.isfinite(square):
            return False
        np.multiply(values, np.float32(self._factor(square)), out=values)
        np.rint(values, out=values)
        return float(np.dot(values, values)) <= self._largest

    def _long(self, row: npt.NDArray[np.floating[Any]]) -> Float64:
        """The integers of one row, in a buffer that the next call overwrites."""
        values = self._row
        factor = self._factor(self._load(row))
        np.multiply(values, factor, out=values)
        np.rint(values, out=values)
        if not float(np.dot(values, values)) <= self._largest:
            self._load(row)
            self._cut(values, factor)
        return values

    def _load(self, row: npt.NDArray[np.floating[Any]]) -> float:
        """Copy a row to the buffer, make it finite, and return its squared norm."""
        values = self._row
        np.copyto(values, row)
        with np.errstate(over="ignore", invalid="ignore"):
            square = float(np.dot(values, values))
        if not math.isfinite(square):
            values[:] = _tamed(values)
            square = float(np.dot(values, values))
        return square

    def _short(self, rows: npt.NDArray[np.floating[Any]]) -> Float64:
        """The integers of rows, one row for each column of the result: operations on whole columns take less time."""
        values = np.array(rows.T, np.float64, order="C")
        with np.errstate(over="ignore", invalid="ignore"):
            squares = _sum_columns(values * values)
        if not math.isfinite(squares.max(initial=0.0)):
            for index in np.flatnonzero(~np.isfinite(squares)):
                values[:, index] = _tamed(values[:, index])
                squares[index] = _sum_columns(values[:, index : index + 1] ** 2)[0]
        factors = self._radius / np.maximum(np.sqrt(squares), self._grid.clip)
        scaled = values * factors
        np.rint(scaled, out=scaled)
        # These sums of integers are exact in any order.
        lengths = np.einsum("ij,ij->j", scaled, scaled)
        if lengths.max(initial=0.0) > self._largest:
            beyond = np.flatnonzero(lengths > self._largest)
            cut = np.trunc(values[:, beyond] * factors[beyond])
            scaled[:, beyond] = np.where(np.einsum("ij,ij->j", cut, cut) <= self._largest, cut, 0.0)
        return scaled

    def _factor(self, square: float) -> float:
        """The factor from a row to the grid: a row within the bound keeps its length, a longer one is scaled down."""
        return self._radius / max(math.sqrt(square), self._grid.clip)

    def _cut(self, values: Float64, factor: float) -> None:
        """Scale in place and truncate towards zero. If the result exceeded the bound, it would become zeros."""
        np.multiply(values, factor, out=values)
        np.trunc(values, out=values)
        if not float(np.dot(values, values)) <= self._largest:
            values[:] = 0.0


def quantise(rows: npt.NDArray[np.floating[Any]], grid: Grid) -> Float64:
    """`ClippedSum.quantise` for rows of shape (n, size)."""
    return ClippedSum(grid, rows.shape[1]).quantise(rows)


def _sum_columns(values: Float64) -> Float64:
    """The sum of each column, in an order that depends only on the number of its entries. Overwrites ``values``.

    The upper half of the entries is added to the lower half until one is left: elementwise additions only.
    """
    width = len(values)
    while width > 1:
        half = width // 2
        np.add(values[:half], values[width - half : width], out=values[:half])
        width -= half
    total: Float64 = values[0]
    return total


def _tamed(row: Float64) -> Float64:
    """A finite row.

    A row with NaN or infinity becomes zeros. A row whose squared norm is beyond float64 becomes a shorter vector of the
    same direction.
    """
    peak = float(np.abs(row).max())
    if not math.isfinite(peak):
        return np.zeros_like(row)
    # Still far above any clipping bound (at most 1e30), so clipping returns the same vector.
    return row * (1e100 / peak) if peak > 1e100 else row
