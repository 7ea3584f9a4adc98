"""A bound on the norm of diffs, above the norms of honest clients.

A diff whose L2 norm is above the bound is scaled down to it. The bound is ``factor`` times the median of the accepted
norms of the cycle and of the last `WINDOW_CYCLES` cycles. Norms shrink as training converges, so a bound from older
norms would accept the diffs of a late attacker. Norms of zero are left out; otherwise clients that learned nothing
could disable the bound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

WINDOW_CYCLES = 5
"""Number of earlier cycles whose reports enter the medians of norms and of examples."""
WINDOW_REPORTS = 10_000
"""Once the newest cycles hold this many reports, older cycles are left out, so that a median stays cheap."""
FIRST_REPORTS = 3
"""With fewer positive norms than this, and none from an earlier cycle, a median does not protect; see `norm_bound`."""
FIRST_FACTOR = 1.0
"""In that case, the bound is at most this multiple of the model's norm, or of 1 if the norm is smaller."""


def norm_bound(
    earlier: Sequence[float], current: Sequence[float], factor: float | None, model_norm: Callable[[], float]
) -> float:
    """The largest norm that is not scaled down. Infinite if ``factor`` is None, or if no norm is above 0.

    Args:
        earlier: accepted norms of the last `WINDOW_CYCLES` cycles, after clipping.
        current: norms of the diffs of this cycle.
        model_norm: returns the L2 norm of the model. Called only for the first reports of a process.
    """
    known, own = positive(earlier), positive(current)
    if factor is None or not (known or own):
        return float("inf")
    bound = factor * lower_median([*known, *own])
    if not known and len(own) < FIRST_REPORTS:
        bound = min(bound, FIRST_FACTOR * max(model_norm(), 1.0))
    return bound


def clip_scale(norm: float, bound: float) -> float:
    """The factor for a diff of this norm: 1.0 within the bound, else ``bound / norm``."""
    return 1.0 if norm <= bound else bound / norm


def positive(values: Sequence[float]) -> list[float]:
    """The values above zero."""
    return [value for value in values if value > 0]


def lower_median(values: Sequence[float]) -> float:
    """The median; of an even number of values, the smaller of the middle two, so one of two values cannot raise it."""
    return sorted(values)[(len(values) - 1) // 2]
