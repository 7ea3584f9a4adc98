"""A sum of vectors that says little about any one of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from pygrid.errors import InvalidInput, ShapeMismatch
from pygrid.privacy.clipping import ClippedSum, Grid
from pygrid.privacy.noise import DiscreteGaussian, SecretBits


class GaussianSum:
    """One noisy sum: contributions are clipped and added as integers, then discrete Gaussian noise is added once.

    The largest change that one contribution, there or not there, makes to the sum before noise is exactly ``clip`` in L2 norm
    (`clipping`); the noise has a standard deviation of ``noise_multiplier * clip`` in each entry. So one sum is the event
    ``Gaussian(noise_multiplier)``, and ``PoissonSampledGaussian`` if who contributes was drawn by secret coins.

    The privacy is that of what one call of `add` brings: a record, all records of a subject summed before, or a whole Domain.

    Args:
        size: entries of each vector.
        clip: bound of the L2 norm of a contribution, C > 0.
        noise_multiplier: z > 0, the standard deviation of the noise in units of C.
        bits: where the noise comes from; default: a fresh `SecretBits`.
    Raises:
        InvalidInput: a value out of range, named.
    """

    def __init__(self, size: int, clip: float, noise_multiplier: float, bits: SecretBits | None = None) -> None:
        self.grid = Grid.fit(clip, size)
        check_noise_multiplier(noise_multiplier)
        self.size = size
        self.noise_multiplier = float(noise_multiplier)
        self._noise = DiscreteGaussian(self.noise_multiplier * self.grid.sensitivity, bits)
        self._sum: ClippedSum | None = ClippedSum(self.grid, size)
        self._room = (1 << 52) // self.grid.sensitivity

    @property
    def sensitivity(self) -> float:
        """The L2 norm of the largest contribution, in the units of the vectors; it is ``clip``."""
        return self.grid.clip

    def add(self, vector: npt.NDArray[np.floating[Any]] | None) -> None:
        """Add one contribution, of shape (size,).

        One that failed (None), or with a value that is not finite, counts as zeros: whether a record makes the computation fail
        must not show in the result.

        Raises:
            ShapeMismatch: another shape, or no floats; nothing was added. RuntimeError: `finish` was called before.
        """
        if vector is None:
            self._open()
            return
        self.add_rows(vector[np.newaxis])

    def add_rows(self, rows: npt.NDArray[np.floating[Any]]) -> None:
        """Add many contributions, one for each row of shape (n, size); each is clipped by itself.

        Raises:
            As `add`.
        """
        total = self._open()
        if rows.ndim != 2 or rows.shape[1] != self.size or rows.dtype.kind != "f":
            raise ShapeMismatch(
                f"contributions must be floating-point of {self.size} entries each, these are {rows.dtype} {rows.shape[1:]}",
                expected=[self.size],
            )
        self._take_room(len(rows))
        total.add(rows)

    def add_clipped(self, integers: npt.NDArray[np.floating[Any]], num_rows: int) -> None:
        """Add the sum of contributions that were clipped to `grid` elsewhere.

        Args:
            integers: shape (size,), whole numbers in steps of the grid.
            num_rows: of how many contributions.
        Raises:
            InvalidInput: ``too_many_contributions``. RuntimeError: `finish` was called before, or this is no sum of so many
                contributions on this grid: a fault of the caller.
        """
        total = self._open()
        self._take_room(num_rows)
        wide = integers.astype(np.float64)
        if not (np.rint(wide) == wide).all() or float(wide @ wide) > (num_rows * self.grid.sensitivity) ** 2:
            raise RuntimeError("these are no sums of contributions on the grid")
        total.add_integers(wide)

    def finish(self) -> npt.NDArray[np.float32]:
        """The sum with noise, shape (size,); nothing can be added or drawn afterwards.

        Raises:
            RuntimeError: it was finished before: a second draw of noise would need a second charge.
        """
        total, self._sum = self._open().total(), None
        noisy = self._noise.add(total)
        return (noisy * self.grid.step).astype(np.float32)

    def _take_room(self, num_rows: int) -> None:
        if num_rows > self._room:
            raise InvalidInput("too many contributions for one sum; make another", code="too_many_contributions")
        self._room -= num_rows

    def _open(self) -> ClippedSum:
        if self._sum is None:
            raise RuntimeError("this sum is finished: its noise is drawn once; make a new one for another release")
        return self._sum


def check_noise_multiplier(noise_multiplier: float) -> None:
    """Raises InvalidInput: ``invalid_noise_multiplier`` unless it is a number from 0.01 to 10 000."""
    if not (math.isfinite(noise_multiplier) and 0.01 <= noise_multiplier <= 10_000):
        raise InvalidInput(
            f"a noise multiplier of {noise_multiplier} makes no sense: use 0.01 to 10000, for training about 1",
            code="invalid_noise_multiplier",
        )
