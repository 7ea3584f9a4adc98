"""How much each report of a cycle counts: the rules of aggregation, as functions of norms, distances and weights.

    centred clipping   x = v + mean((d_i - v) * min(1, t / dist_i)),   dist_i = norm(d_i - v),   t = radius * median(dist_i)
    mean               x = sum(w_i * s_i * d_i) / sum(w_i),            s_i = min(1, bound / norm_i)

``v`` is the mean diff of the last completed cycle, 0 in the first. Both are sums of the diffs times a factor, plus ``v`` times
a factor, so a running sum is enough and no rule needs all diffs at once.

Sources: Karimireddy, He and Jaggi, "Learning from History for Byzantine Robust Optimization", ICML 2021, algorithm 2 (centred
clipping); McMahan et al., AISTATS 2017, algorithm 1 (mean).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import msgspec
import numpy as np

from pygrid.aggregation.outliers import clip_scale, lower_median, norm_bound, positive

CENTRE = "centre"
"""Slot of a checkpoint's state that holds ``v``, float32, for the cycle that starts from the checkpoint."""
MIN_ROBUST = 5
"""Diffs above zero that a cycle needs for centred clipping; with fewer a median of distances is no protection."""
FEW_BOUND = 2.0
"""Multiples of the median norm that bound the diffs of a cycle that has fewer."""


class Aggregation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the diffs of a cycle become one."""

    name: Literal["centred_clipping", "mean"] = "centred_clipping"
    weights: Literal["equal", "examples"] | None = None
    """What a report counts with: one vote, or the number of examples that it claims. Null: ``equal`` with
    ``centred_clipping``, which allows nothing else; ``examples`` with ``mean``."""
    radius: float = 1.0
    """``centred_clipping``: multiples of the median distance from the last mean diff beyond which a diff is shortened."""
    bound: float | None = 2.0
    """``mean``: multiples of the median norm beyond which a diff is shortened; null: no bound."""
    weight_cap: float | None = 3.0
    """``mean`` with ``examples``: a report counts with at most this many times the median number of examples; null: no cap."""

    @property
    def is_centred(self) -> bool:
        """Whether diffs are measured from the last mean diff."""
        return self.name == "centred_clipping"

    @property
    def has_equal_votes(self) -> bool:
        """Whether each report counts the same."""
        return self.is_centred or self.weights == "equal"


@dataclass(frozen=True)
class Vote:
    """What decides how much a report counts."""

    id: int
    norm: float
    """L2 norm of the diff."""
    distance: float | None
    """L2 norm of the diff minus ``v``; None: there is no ``v``, so it is the norm."""
    weight: float
    """Examples that count, before the cap of the rule."""

    @property
    def reach(self) -> float:
        """The distance from ``v``."""
        return self.norm if self.distance is None else self.distance


@dataclass(frozen=True)
class History:
    """Accepted reports of the last cycles of the process."""

    norms: Sequence[float] = ()
    """L2 norms after clipping."""
    weights: Sequence[float] = ()


@dataclass(frozen=True)
class Weighed:
    """How much each report counts: the mean is ``(sum(weights[i] * scales[i] * d_i) + centre_weight * v) / total``."""

    scales: dict[int, float]
    """Of each report: 1.0, or less if its diff is shortened."""
    weights: dict[int, float]
    centre_weight: float
    limit: float
    """The largest distance, or norm, that counts in full."""
    num_clipped: int
    """Reports that were far outside: shortened at all, under centred clipping to less than half."""
    is_robust: bool = True
    """False: too few diffs for centred clipping, so it was a mean of equal votes with a bound on norms."""

    @property
    def total(self) -> float:
        """Sum of the weights."""
        return sum(self.weights.values())


def weigh(rule: Aggregation, votes: Sequence[Vote], history: History, model_norm: Callable[[], float]) -> Weighed:
    """How much each of a cycle's reports counts.

    Args:
        model_norm: L2 norm of the model, for the first reports of a process; see `norm_bound`.
    """
    if not rule.is_centred:
        return _weigh_mean(rule, votes, history, model_norm)
    # A diff of zero is a vote for no change. It sets no radius: else many of them would shorten all others to nothing.
    reaches = [vote.reach for vote in votes if vote.norm > 0]
    if len(reaches) < MIN_ROBUST:
        few = Aggregation("mean", weights="equal", bound=FEW_BOUND)
        return replace(_weigh_mean(few, votes, history, model_norm), is_robust=False)
    limit = rule.radius * float(np.median(reaches))
    scales = {vote.id: clip_scale(vote.reach, limit) for vote in votes}
    return Weighed(
        scales,
        dict.fromkeys(scales, 1.0),
        centre_weight=len(scales) - sum(scales.values()),
        limit=limit,
        num_clipped=sum(scale < 0.5 for scale in scales.values()),
    )


def _weigh_mean(rule: Aggregation, votes: Sequence[Vote], history: History, model_norm: Callable[[], float]) -> Weighed:
    limit = norm_bound(history.norms, [vote.norm for vote in votes], rule.bound, model_norm)
    scales = {vote.id: clip_scale(vote.norm, limit) for vote in votes}
    weights = _cap_weights(rule, votes, history)
    return Weighed(scales, weights, centre_weight=0.0, limit=limit, num_clipped=sum(scale < 1.0 for scale in scales.values()))


def _cap_weights(rule: Aggregation, votes: Sequence[Vote], history: History) -> dict[int, float]:
    """Examples are claims: no report counts with more than a few times the median of what the others claim."""
    if rule.has_equal_votes:
        return {vote.id: 1.0 for vote in votes}
    known = positive([*history.weights, *(vote.weight for vote in votes)])
    cap = float("inf") if rule.weight_cap is None or not known else math.floor(rule.weight_cap * lower_median(known))
    return {vote.id: min(vote.weight, cap) for vote in votes}
