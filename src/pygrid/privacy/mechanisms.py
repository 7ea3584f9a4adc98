"""The noisy sum: a sum of vectors that reveals little about any one of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from pygrid import codes
from pygrid.errors import InvalidInput, ShapeMismatch
from pygrid.privacy.clipping import ClippedSum, Grid
from pygrid.privacy.noise import DiscreteGaussian, SecretBits


class GaussianSum:
    """One noisy sum: contributions are clipped and added as integers, then discrete Gaussian noise is added once.

    The largest change that the presence or absence of one contribution makes to the sum, before noise, is exactly
    ``clip`` in L2 norm (`clipping`). The noise has a standard deviation of ``noise_multiplier * clip`` in each entry.
    So one sum is the event ``Gaussian(noise_multiplier)``, or ``PoissonSampledGaussian`` if secret coins chose the
    contributors.

    The unit of privacy is what one call of `add` adds: a record, the sum of all records of a subject, or a whole
    Domain.

    Args:
        size: number of entries of each vector.
        clip: C > 0, the bound on the L2 norm of a contribution.
        noise_multiplier: z > 0, the standard deviation of the noise in units of C.
        bits: the source of the noise; the default is a new `SecretBits`.
    Raises:
        InvalidInput: a value is out of range; the error names it.
    """

    def __init__(self, size: int, clip: float, noise_multiplier: float, bits: SecretBits | None = None) -> None:
        self.grid = Grid.fit(clip, size)
        check_noise_multiplier(noise_multiplier)
        self.size = size
        self.noise_multiplier = float(noise_multiplier)
        self._noise = DiscreteGaussian(self.noise_multiplier * self.grid.sensitivity, bits)
        self._sum: ClippedSum | None = ClippedSum(self.grid, size)
        self._rows_left = (1 << 52) // self.grid.sensitivity

    @property
    def sensitivity(self) -> float:
        """The largest L2 norm of a contribution, in the units of the vectors: ``clip``."""
        return self.grid.clip

    def add(self, vector: npt.NDArray[np.floating[Any]] | None) -> None:
        """Add one contribution, of shape (size,).

        A contribution that failed (None), or with a value that is not finite, counts as zeros: the result must not show
        whether a record makes the computation fail.

        Raises:
            ShapeMismatch: the vector has another shape, or is not floating-point; nothing was added.
            RuntimeError: `finish` was called before.
        """
        if vector is None:
            self._open()
            return
        self.add_rows(vector[np.newaxis])

    def add_rows(self, rows: npt.NDArray[np.floating[Any]]) -> None:
        """Add one contribution for each row of shape (n, size). Each row is clipped on its own. Raises as `add`."""
        total = self._open()
        if rows.ndim != 2 or rows.shape[1] != self.size or rows.dtype.kind != "f":
            raise ShapeMismatch(
                f"contributions must be floating-point of {self.size} entries each, these are {rows.dtype} "
                f"{rows.shape[1:]}",
                expected=[self.size],
            )
        self._count_rows(len(rows))
        total.add(rows)

    def add_clipped(self, integers: npt.NDArray[np.floating[Any]], num_rows: int) -> None:
        """Add the sum of contributions that were clipped to `grid` elsewhere.

        Args:
            integers: shape (size,), whole numbers in steps of the grid.
            num_rows: number of contributions in the sum.
        Raises:
            InvalidInput: ``too_many_contributions``.
            RuntimeError: `finish` was called before; or ``integers`` cannot be the sum of ``num_rows`` contributions on
                this grid, which is a fault of the caller.
        """
        total = self._open()
        self._count_rows(num_rows)
        wide = integers.astype(np.float64)
        # A product of large numbers is rounded: equal contributions of the largest norm can seem to be longer.
        most = 1.000001 * (num_rows * self.grid.sensitivity) ** 2
        if not (np.rint(wide) == wide).all() or float(wide @ wide) > most:
            raise RuntimeError("the values cannot be a sum of contributions on the grid")
        total.add_integers(wide)

    def finish(self) -> npt.NDArray[np.float32]:
        """The sum with noise, of shape (size,). Afterwards the sum is closed.

        Raises:
            RuntimeError: `finish` was called before. A second draw of noise would need a second charge.
        """
        total, self._sum = self._open().total(), None
        noisy = self._noise.add(total)
        return (noisy * self.grid.step).astype(np.float32)

    def _count_rows(self, num_rows: int) -> None:
        if num_rows > self._rows_left:
            raise InvalidInput("too many contributions for one sum; make another", code=codes.TOO_MANY_CONTRIBUTIONS)
        self._rows_left -= num_rows

    def _open(self) -> ClippedSum:
        if self._sum is None:
            raise RuntimeError("this sum is finished: its noise is drawn once; make a new sum for another release")
        return self._sum


def check_noise_multiplier(noise_multiplier: float) -> None:
    """Check that the multiplier is from 0.01 to 10 000. Raises InvalidInput: ``invalid_noise_multiplier``."""
    if not (math.isfinite(noise_multiplier) and 0.01 <= noise_multiplier <= 10_000):
        raise InvalidInput(
            f"the noise multiplier is {noise_multiplier}: use 0.01 to 10000, for training about 1",
            code=codes.INVALID_NOISE_MULTIPLIER,
        )
