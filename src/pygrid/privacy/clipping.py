"""Contributions bounded in L2 norm and put on a grid of integers, row by row.

The grid divides the clipping bound C into S = 2^k steps: a contribution becomes a vector of integers of norm at most S. So
replacing a contribution by zeros changes an integer sum by at most S, which is C after multiplication by the step C / S;
replacing it by another contribution changes the sum by at most 2 S.

**Why the norm holds.** The vector is scaled to a radius r a little below S, each entry is rounded to the nearest
integer, and the sum of squares of the result is *computed*. Entries are integers in float64 whose squares add up to less than
2^53, where float64 adds integers without rounding, in any order: the sum is exact. If it is above S^2 (entries that all round
up), the entries are cut towards zero instead, which makes none larger in magnitude, so the norm stays within r. That is checked
in the same exact way, and a row that failed it would count as zero. So the bound rests on integers, not on how floats round.

**Why a row depends on itself alone.** The one sum of floats is the squared norm. Its bits must not depend on where the row
lies, or which rows stand next to it, or a plan could choose a row on a rounding edge and let its neighbors decide. Which of two
ways is taken depends on the length of the row:

- short rows, many at once: only elementwise +, *, /, sqrt and rint, which IEEE 754 defines to the last bit for each entry, and
  a sum in the fixed order of `_sum_columns`;
- long rows, one at a time: copied to a buffer at a fixed address, and one and the same calls on it. In float32 first, where
  that holds the integers exactly (squares up to 2^24); a row whose square is too large for float32, or whose integers exceed
  the bound, is done again in float64.

The radius: r^2 = S^2 - size / 8 for short rows, so that a count stays a count; r^2 = S^2 - size / 12 - 2 S for long rows, since
rounding adds size / 12 to the squared norm on average with a standard deviation of at most S / sqrt(3), and few rows are cut.
Rounding to nearest moves a vector by at most sqrt(size) / 2 steps. S is at least 16 sqrt(size), by `Grid.fit`, so that is 3% of
C for one contribution in the worst case and 0.03% of its squared norm on average, far below the noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pygrid.errors import InvalidInput
from pygrid.tensors.aligned import aligned_zeros

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

_MIN_BITS = 10
_MAX_BITS = 24
"""2^24 steps: the sum of squares stays below 2^53."""
MIN_CLIP, MAX_CLIP = 1e-30, 1e30
"""Far from the ends of float32, in which sums are released."""
MAX_SIZE = 1 << 2 * (_MAX_BITS - 4)
LONG_ROW = 512
"""Entries from which rows are quantised one at a time."""
FLOAT32_INTEGERS = 1 << 24
"""float32 adds whole numbers below this without rounding, and no sum that reaches it falls below again."""
_MIN_NARROW_CLIP = 1e-12
"""Far above the magnitudes whose squares vanish in float32."""
_TOGETHER = 1 << 17
"""Entries of short rows that are quantised at a time: 1 MiB in float64."""


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
            raise InvalidInput(f"the clipping bound is {clip}: use a number above 0, such as 1.0", code="invalid_clip")
        if not 1 <= size <= MAX_SIZE:
            raise InvalidInput(f"a vector has {size} entries: use 1 to {MAX_SIZE}", code="invalid_size")
        return cls(float(clip), max(_MIN_BITS, 4 + math.ceil(math.log2(size) / 2)))

    @property
    def sensitivity(self) -> int:
        """S: the largest L2 norm of a contribution, in steps."""
        return 1 << self.bits

    @property
    def step(self) -> float:
        """The size of a step in the units of ``clip``."""
        return math.ldexp(self.clip, -self.bits)


def long_radius(grid: Grid, size: int) -> float:
    """The norm, in steps, to which a long row is scaled down before it is rounded: rounding seldom takes it beyond S."""
    return math.sqrt(grid.sensitivity**2 - size / 12 - 2 * grid.sensitivity)


def holds_float32(grid: Grid) -> bool:
    """Whether float32 is enough to round contributions and to check their norm exactly; it takes half the time of float64."""
    return grid.sensitivity**2 < FLOAT32_INTEGERS and grid.clip >= _MIN_NARROW_CLIP


class ClippedSum:
    """The exact sum of rows of one length, each clipped and put on a grid. Not for two threads at once.

    Args:
        grid: the grid.
        size: entries of a row.
    """

    def __init__(self, grid: Grid, size: int) -> None:
        self._grid, self._size = grid, size
        self._largest = grid.sensitivity**2
        self._total: Float64 = np.zeros(size)
        is_long = size >= LONG_ROW
        self._radius = long_radius(grid, size) if is_long else math.sqrt(self._largest - size / 8)
        self._row: Float64 = aligned_zeros((size if is_long else 0,), np.float64)
        # float32 holds integers up to 2^24. It takes half the time, where that is enough for the squared norm.
        has_narrow = is_long and self._largest < FLOAT32_INTEGERS and grid.clip >= _MIN_NARROW_CLIP
        self._narrow: Float32 = aligned_zeros((size if has_narrow else 0,), np.float32)
        self._partial: Float32 = np.zeros(self._narrow.size, np.float32)
        self._num_partial = 0

    def add(self, rows: npt.NDArray[np.floating[Any]]) -> None:
        """Add the integers of each row; a row with a value that is not finite adds zeros.

        Args:
            rows: shape (n, size), float16, float32 or float64; left as it is.
        """
        if not self._row.size:
            together = max(1, _TOGETHER // self._size)
            for start in range(0, len(rows), together):
                self._total += self._short(rows[start : start + together]).sum(axis=0)
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
        """Add whole numbers that are on the grid already; shape (size,)."""
        self._total += integers

    def total(self) -> npt.NDArray[np.int64]:
        """The sum in steps of the grid, shape (size,)."""
        self._flush()
        return self._total.astype(np.int64)

    def quantise(self, rows: npt.NDArray[np.floating[Any]]) -> Float64:
        """What each row adds: integers of L2 norm at most ``grid.sensitivity``; shape (n, size). Adds nothing."""
        if not self._row.size:
            return self._short(rows)
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
        """Write the integers of a float32 row to the narrow buffer; False: it takes float64 to do so."""
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
        """The integers of one row, in a buffer that the next call writes to."""
        values = self._row
        factor = self._factor(self._load(row))
        np.multiply(values, factor, out=values)
        np.rint(values, out=values)
        if not float(np.dot(values, values)) <= self._largest:
            self._load(row)
            self._cut(values, factor)
        return values

    def _load(self, row: npt.NDArray[np.floating[Any]]) -> float:
        """Copy a row to the buffer, all finite; its squared norm."""
        values = self._row
        np.copyto(values, row)
        with np.errstate(over="ignore", invalid="ignore"):
            square = float(np.dot(values, values))
        if not math.isfinite(square):
            _tame(values)
            square = float(np.dot(values, values))
        return square

    def _short(self, rows: npt.NDArray[np.floating[Any]]) -> Float64:
        values = rows.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            squares = _sum_columns(values * values)
        for index in np.flatnonzero(~np.isfinite(squares)):
            _tame(values[index])
            squares[index] = _sum_columns(values[index : index + 1] ** 2)[0]
        factors = self._radius / np.maximum(np.sqrt(squares), self._grid.clip)
        scaled = values * factors[:, np.newaxis]
        np.rint(scaled, out=scaled)
        # Exact in any order, because it adds integers.
        for index in np.flatnonzero(np.einsum("ij,ij->i", scaled, scaled) > self._largest):
            scaled[index] = values[index]
            self._cut(scaled[index], float(factors[index]))
        return scaled

    def _factor(self, square: float) -> float:
        """What is within the bound keeps its length; what is beyond is scaled down to it."""
        return self._radius / max(math.sqrt(square), self._grid.clip)

    def _cut(self, values: Float64, factor: float) -> None:
        """Scale in place and cut towards zero; zeros, should even this exceed the bound."""
        np.multiply(values, factor, out=values)
        np.trunc(values, out=values)
        if not float(np.dot(values, values)) <= self._largest:
            values[:] = 0.0


def quantise(rows: npt.NDArray[np.floating[Any]], grid: Grid) -> Float64:
    """As `ClippedSum.quantise`, for rows of shape (n, size)."""
    return ClippedSum(grid, rows.shape[1]).quantise(rows)


def _sum_columns(values: Float64) -> Float64:
    """The sum of each row, in an order that only the number of columns decides. Overwrites ``values``.

    The upper half of the columns is added to the lower half until one column is left: elementwise additions only.
    """
    width = values.shape[1]
    while width > 1:
        half = width // 2
        np.add(values[:, :half], values[:, width - half : width], out=values[:, :half])
        width -= half
    return values[:, 0].copy()


def _tame(row: Float64) -> None:
    """Make a row finite in place: zeros for one with NaN or infinity; a shorter vector of the same direction for one whose
    squared norm is beyond float64."""
    peak = float(np.abs(row).max())
    if not math.isfinite(peak):
        row[:] = 0.0
    elif peak > 1e100:
        # Still far above any clipping bound (at most 1e30), so that clipping gives the same vector.
        np.multiply(row, 1e100 / peak, out=row)
