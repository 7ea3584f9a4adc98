"""A bound on the norm of diffs that honest clients do not reach.

A diff whose L2 norm exceeds ``factor`` times the median of the accepted norms is scaled down to that bound. The median is taken
over the norms of the cycle and of the last `WINDOW_CYCLES` cycles: norms shrink as training converges, so an older norm would
let a late attacker through. A norm of zero is left out: else clients that learned nothing would switch the bound off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

WINDOW_CYCLES = 5
"""Earlier cycles whose reports count for the medians of norms and of examples."""
WINDOW_REPORTS = 10_000
"""Once the newest of these cycles hold this many reports, older ones are left out, so that a median stays cheap."""
FIRST_REPORTS = 3
"""With fewer norms above zero than this, and none of an earlier cycle, a median is no protection; see `norm_bound`."""
FIRST_FACTOR = 1.0
"""In that case: the largest diff that counts in full, in multiples of the model's own norm (at least 1)."""


def norm_bound(
    earlier: Sequence[float], current: Sequence[float], factor: float | None, model_norm: Callable[[], float]
) -> float:
    """The largest norm that is left alone; infinite with ``factor`` None, or if no norm is above 0.

    Args:
        earlier: accepted norms of the last `WINDOW_CYCLES` cycles: those after clipping.
        current: norms of the cycle's own diffs.
        model_norm: L2 norm of the model. Called only if nothing else limits the first reports of a process.
    """
    known, own = positive(earlier), positive(current)
    if factor is None or not (known or own):
        return float("inf")
    bound = factor * lower_median([*known, *own])
    if not known and len(own) < FIRST_REPORTS:
        bound = min(bound, FIRST_FACTOR * max(model_norm(), 1.0))
    return bound


def clip_scale(norm: float, bound: float) -> float:
    """What a diff of this norm is multiplied with: 1.0 within the bound, else ``bound / norm``."""
    return 1.0 if norm <= bound else bound / norm


def positive(values: Sequence[float]) -> list[float]:
    """The values above zero."""
    return [value for value in values if value > 0]


def lower_median(values: Sequence[float]) -> float:
    """The median; of an even number the smaller of the middle two, so that one of two values cannot raise it."""
    return sorted(values)[(len(values) - 1) // 2]
