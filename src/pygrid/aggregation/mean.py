"""The weighted sum of diffs. Its memory does not grow with the number of diffs.

Source: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017,
algorithm 1.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BLOCK = 65_536
"""Values per step, so that they fit the processor's cache: 512 kB in float64."""


class WeightedSum:
    """The sum of ``factor * diff`` in float64.

    Args:
        num_values: length of the flat vector.
    """

    def __init__(self, num_values: int) -> None:
        self.sum: npt.NDArray[np.float64] = np.zeros(num_values, dtype=np.float64)

    def add_block(self, start: int, block: npt.NDArray[np.float32], factor: float) -> None:
        """Add ``factor * block`` to values ``start : start + len(block)`` of the sum.

        Args:
            block: part of a diff; float32.
            factor: weight of the diff, times its scale if it is clipped.
        """
        for begin in range(0, len(block), BLOCK):
            piece = block[begin : begin + BLOCK]
            target = self.sum[start + begin : start + begin + len(piece)]
            if factor == 1.0:
                target += piece
            else:
                target += np.multiply(piece, factor, dtype=np.float64)
