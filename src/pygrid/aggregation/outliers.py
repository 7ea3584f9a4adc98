"""A bound on the norm of diffs that honest clients never feel.

A diff whose L2 norm exceeds ``factor`` times the median of the accepted norms is scaled down to that bound. The median is
taken over a window of earlier norms and those of the cycle itself, so that an outlier cannot hide in the first cycle.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

WINDOW = 1000
"""Earlier norms that count for the median."""


def norm_bound(earlier: Sequence[float], current: Sequence[float], factor: float | None) -> float:
    """The largest norm that is left alone; infinite with ``factor`` None, without any norm, or if most norms are 0.

    Args:
        earlier: norms accepted in earlier cycles, newest last; the last `WINDOW` of them count.
        current: norms of the cycle's own diffs.
    """
    norms = [*earlier[-WINDOW:], *current]
    if factor is None or not norms:
        return float("inf")
    median = float(np.median(norms))
    # Where most clients had nothing to learn from, their zeros say nothing about the others.
    return factor * median if median > 0 else float("inf")


def clip_scale(norm: float, bound: float) -> float:
    """What a diff of this norm is multiplied with: 1.0 within the bound, else ``bound / norm``."""
    return 1.0 if norm <= bound else bound / norm
