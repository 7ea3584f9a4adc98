"""Sums of diffs that are exact, so they do not depend on the order of the diffs, nor on who adds which of them.

    term = round(factor * value / 2**exponent)     sum = (term + term + ...) modulo 2**64

Each product is rounded once, to a multiple of ``2**exponent``; the multiples are added as integers. Integers modulo
2**64 add up to the same in any order, and a term can be taken out again. The memory does not grow with the number of
diffs.

Source of the mean: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data",
AISTATS 2017, algorithm 1.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]

BLOCK = 65_536
"""Values per step, so that they fit the processor's cache: 512 kB in float64."""
TERM_BITS = 50
"""A term is below ``2**TERM_BITS`` in absolute value."""
SUM_BITS = 62
"""A sum is below ``2**SUM_BITS`` in absolute value, or it is meaningless. Sums on the way to it may be larger."""


class ExactSum:
    """The sum of ``factor * diff``, in multiples of ``2**exponent``.

    Args:
        num_values: length of the flat vector.
        multiples: the sum so far; the array is kept and changed. None: zero.
    """

    def __init__(self, num_values: int, exponent: int, multiples: Int64 | None = None) -> None:
        self._raised = np.zeros(num_values, dtype=np.int64) if multiples is None else multiples
        self._num_added = 0
        """Values of blocks that were added, less those that were taken out."""
        self._exponent = exponent
        # A float64 between 2**52 and 2**53 quanta has a last bit of one quantum. So adding `_rounding` rounds to a
        # multiple, and the difference of the bits is that multiple. It is twice as fast as rint and a conversion.
        # The bits of `_rounding` stay in the sum, which saves a pass over the block: they are the same in each value.
        self._rounding = np.float64(1.5 * 2.0 ** (52 + exponent))
        self._bits = int(self._rounding.view(np.int64))
        self._products = np.empty(min(BLOCK, num_values), dtype=np.float64)

    def add_block(self, start: int, block: npt.NDArray[np.float32], factor: float, *, sign: int = 1) -> None:
        """Add ``factor * block`` to values ``start : start + len(block)`` of the sum.

        The blocks of a diff cover each value once; the sum is read between diffs.

        Args:
            block: part of a diff; float32. Each product is below ``2**(TERM_BITS + exponent)``.
            sign: -1 takes out what was added with the same factor.
        """
        for begin in range(0, len(block), BLOCK):
            piece = block[begin : begin + BLOCK]
            products = self._products[: len(piece)]
            if factor == 1.0:
                np.add(piece, self._rounding, out=products)
            else:
                np.multiply(piece, factor, out=products, dtype=np.float64)
                products += self._rounding
            target = self._raised[start + begin : start + begin + len(piece)]
            if sign > 0:
                target += products.view(np.int64)
            else:
                target -= products.view(np.int64)
        self._num_added += sign * len(block)

    def add_multiples(self, multiples: Int64) -> None:
        """Add another sum with the same exponent."""
        self._raised += multiples

    def multiples(self, start: int = 0, count: int | None = None) -> Int64:
        """A copy of values ``start : start + count`` of the sum, by default of all."""
        num_diffs, rest = divmod(self._num_added, len(self._raised))
        assert not rest, "the blocks of a diff are not complete"
        values = self._raised[start:] if count is None else self._raised[start : start + count]
        return values - np.uint64(num_diffs * self._bits % 2**64).view(np.int64)

    def values(self, start: int, count: int) -> npt.NDArray[np.float64]:
        """Values ``start : start + count`` of the sum, each rounded to float64."""
        return self.multiples(start, count).astype(np.float64) * 2.0**self._exponent
