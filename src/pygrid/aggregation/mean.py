"""The weighted mean of diffs, kept as a running sum so that memory does not grow with their number.

Source: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017, algorithm 1.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BLOCK = 65_536
"""Values handled at a time: small enough for the processor's cache (float64 of it: 512 kB)."""


class WeightedMean:
    """Running sum of ``factor * diff`` in float64, and the sum of weights.

    Args:
        num_values: length of the flat vector.
    """

    def __init__(self, num_values: int) -> None:
        self.sum: npt.NDArray[np.float64] = np.zeros(num_values, dtype=np.float64)
        self.weight = 0.0

    def add_block(self, start: int, block: npt.NDArray[np.float32], factor: float) -> None:
        """Fold values ``start : start + len(block)`` of a diff, times ``factor``, into the sum.

        ``factor`` is the weight, times the scale of a clipped diff. The weight itself is added once, by `add_weight`.
        """
        for begin in range(0, len(block), BLOCK):
            piece = block[begin : begin + BLOCK]
            target = self.sum[start + begin : start + begin + len(piece)]
            if factor == 1.0:
                target += piece
            else:
                target += np.multiply(piece, factor, dtype=np.float64)

    def add_weight(self, weight: float) -> None:
        """Count one diff of this weight."""
        self.weight += weight

    def mean_block(self, start: int, count: int) -> npt.NDArray[np.float64]:
        """Values ``start : start + count`` of the mean. At least one weight must have been added."""
        return self.sum[start : start + count] / self.weight
