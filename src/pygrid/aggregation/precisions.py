"""The precision of a sum: which multiples it counts, chosen so that its largest terms fit.

A sum that several processes build needs one precision for all of them, before they know the diffs. They derive it from
the last completed cycle (`Expected`). The precision of the result depends only on that and on the diffs of the cycle:
if the expected one does not suit them, it is replaced, and all diffs are read again.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from pygrid.aggregation.mean import SUM_BITS, TERM_BITS

HEADROOM_BITS = 3
"""Terms of the next cycle may be larger by this."""
SLACK_BITS = 6
"""Terms may be smaller than expected by this; the largest one still has 41 bits, when float32 has 24."""
MAX_STRETCH_BITS = 4
"""Largest difference between the limit of a cycle and the expected one, as a power of two."""


class Precision(NamedTuple):
    """Terms are multiples of ``2**exponent``."""

    exponent: int
    reach: int
    """Diffs that are shortened are added with length ``2**reach``, and the sum of them is multiplied later."""

    def fits(self, size: float) -> bool:
        """Whether a diff whose values are at most ``size`` can be added."""
        return math.ldexp(size, -self.exponent) < 2.0**TERM_BITS

    def suits(self, sizes: Collection[float], limit: float) -> bool:
        """Whether the sum of these diffs is below its largest value, and precise.

        Args:
            sizes: for each diff, a bound on the absolute values of its terms.
            limit: length of the diffs that are shortened; infinite if there are none.
        """
        most = max(sizes, default=0.0)
        if most == 0.0:
            return True
        best = make_precision(most, len(sizes), limit)
        is_near = math.isinf(limit) or abs(best.reach - self.reach) <= MAX_STRETCH_BITS
        is_precise = self.exponent - best.exponent <= SLACK_BITS
        fits = self.fits(most) and math.ldexp(math.fsum(sizes), -self.exponent) < 2.0**SUM_BITS
        return is_near and is_precise and fits


@dataclass(frozen=True)
class Expected:
    """What the last completed cycle of a process lets expect. By default, what is expected of the first one."""

    limit: float = math.inf
    """Diffs with a larger distance (or norm) are probably shortened."""
    size: float = 1.0
    """The largest weighted norm of a diff, after it was shortened."""
    count: int = 1
    """Number of diffs."""

    def precision(self) -> Precision:
        return make_precision(self.size, self.count, self.limit)


def make_precision(size: float, count: int, limit: float) -> Precision:
    """The precision for ``count`` diffs whose terms are at most ``size``.

    Args:
        limit: length of the diffs that are shortened; infinite if there are none.
    """
    top = exponent_of(size)
    bits = min(TERM_BITS - HEADROOM_BITS, SUM_BITS - HEADROOM_BITS - math.ceil(math.log2(max(1, count))))
    return Precision(top - bits, 0 if math.isinf(limit) else exponent_of(limit))


def exponent_of(value: float) -> int:
    """``e`` with ``2**(e - 1) <= value < 2**e``; 0 for zero."""
    return math.frexp(value)[1]
