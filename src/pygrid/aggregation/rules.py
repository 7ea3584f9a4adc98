"""The rules of aggregation: how much each report counts, as a function of norms, distances and weights.

    centred clipping   x = v + mean((d_i - v) * min(1, t / dist_i))
                       dist_i = norm(d_i - v),  t = radius * median(dist_i)
    mean               x = sum(w_i * s_i * d_i) / sum(w_i)
                       s_i = min(1, bound / norm_i)

``v`` is the mean diff of the last completed cycle; it is 0 in the first cycle. Both rules are sums of the diffs times a
factor, plus ``v`` times a factor. So a running sum is sufficient, and no rule needs all diffs at once.

Sources: Karimireddy, He and Jaggi, "Learning from History for Byzantine Robust Optimization", ICML 2021, algorithm 2
(centred clipping); McMahan et al., AISTATS 2017, algorithm 1 (mean).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np

from pygrid.aggregation.outliers import clip_scale, lower_median, norm_bound, positive
from pygrid.configs import Config, FieldFault, Spec

CENTRE = "centre"
"""State slot of a checkpoint that holds ``v``, in float32, for the cycle that starts from the checkpoint."""
MIN_ROBUST = 5
"""Smallest number of non-zero diffs for centred clipping; with fewer, a median of distances does not protect."""
FEW_BOUND = 2.0
"""The bound on diffs in a cycle with fewer, in multiples of the median norm."""


class Aggregation(Config, frozen=True):
    """The rule that combines the diffs of a cycle, and its parameters."""

    name: Annotated[Literal["centred_clipping", "mean"], Spec("mean")] = "centred_clipping"
    """``centred_clipping`` shortens diffs that are far from the last mean diff; ``mean`` shortens long ones."""
    weights: Annotated[Literal["equal", "examples"] | None, Spec("examples")] = None
    """The weight of a report: one vote, or the number of examples that it claims. Null means ``equal`` with
    ``centred_clipping``, which allows no other value, and ``examples`` with ``mean``."""
    radius: Annotated[float, Spec(1.0, 0.01, 1e6)] = 1.0
    """``centred_clipping``: largest distance from the last mean diff, in multiples of the median distance."""
    bound: Annotated[float | None, Spec(2.0, 1.0, 1e6)] = 2.0
    """``mean``: largest norm of a diff, in multiples of the median norm; longer diffs are shortened. Null: no bound."""
    weight_cap: Annotated[float | None, Spec(3.0, 1.0, 1e6)] = 3.0
    """``mean`` with ``examples``: largest weight of a report, in multiples of the median. Null: no cap."""

    def find_faults(self, given: Collection[str]) -> Iterator[FieldFault]:
        if self.is_centred and self.weights == "examples":
            yield FieldFault(
                "weights", "'examples' has no effect with centred_clipping: its votes are equal; use the name mean"
            )
        for field in self.unused & set(given):
            yield FieldFault(field, f"has no effect with {self.name!r}" + (" and equal votes" * (not self.is_centred)))

    @property
    def unused(self) -> set[str]:
        """Names of the fields that have no effect."""
        if self.is_centred:
            return {"bound", "weight_cap"}
        return {"radius", "weight_cap"} if self.has_equal_votes else {"radius"}

    @property
    def is_centred(self) -> bool:
        """Whether distances are measured from the last mean diff."""
        return self.name == "centred_clipping"

    @property
    def has_equal_votes(self) -> bool:
        """Whether all reports have the same weight."""
        return self.is_centred or self.weights == "equal"


@dataclass(frozen=True)
class Vote:
    """The properties of a report that determine how much it counts."""

    id: int
    norm: float
    """L2 norm of the diff."""
    distance: float | None
    """L2 norm of the diff minus ``v``; None if there is no ``v``, when the distance is the norm."""
    weight: float
    """Number of examples, before the cap of the rule."""

    @property
    def reach(self) -> float:
        """The distance from ``v``."""
        return self.norm if self.distance is None else self.distance


@dataclass(frozen=True)
class History:
    """The accepted reports of the last cycles of the process."""

    norms: Sequence[float] = ()
    """L2 norms after clipping."""
    weights: Sequence[float] = ()


@dataclass(frozen=True)
class Weighed:
    """The factors of all reports. The mean is ``(sum(weights[i] * scales[i] * d_i) + centre_weight * v) / total``."""

    scales: dict[int, float]
    """Scale of each report: 1.0, or less if its diff is shortened."""
    weights: dict[int, float]
    centre_weight: float
    limit: float
    """The largest distance (or norm) that is not shortened."""
    num_clipped: int
    """Number of reports far outside: those that were shortened; under centred clipping, to less than half of it."""
    is_by_distance: bool = False
    """Whether the limit is one of distances from ``v``, else of norms."""
    is_robust: bool = True
    """False if there were too few diffs for centred clipping; the mean of equal votes with a norm bound replaces it."""

    @property
    def total(self) -> float:
        """The sum of the weights."""
        return sum(self.weights.values())


def weigh(rule: Aggregation, votes: Sequence[Vote], history: History, model_norm: Callable[[], float]) -> Weighed:
    """The factors of all reports of a cycle under a rule.

    Args:
        model_norm: returns the L2 norm of the model, for the first reports of a process; see `norm_bound`.
    """
    if not rule.is_centred:
        return _weigh_mean(rule, votes, history, model_norm)
    # A diff of zero is a vote for no change. It does not enter the radius; otherwise many of them would shorten all
    # other diffs to nothing.
    reaches = [vote.reach for vote in votes if vote.norm > 0]
    if len(reaches) < MIN_ROBUST:
        few = Aggregation(name="mean", weights="equal", bound=FEW_BOUND)
        return replace(_weigh_mean(few, votes, history, model_norm), is_robust=False)
    limit = rule.radius * float(np.median(reaches))
    scales = {vote.id: clip_scale(vote.reach, limit) for vote in votes}
    return Weighed(
        scales,
        dict.fromkeys(scales, 1.0),
        centre_weight=len(scales) - sum(scales.values()),
        limit=limit,
        num_clipped=sum(scale < 0.5 for scale in scales.values()),
        is_by_distance=True,
    )


def _weigh_mean(rule: Aggregation, votes: Sequence[Vote], history: History, model_norm: Callable[[], float]) -> Weighed:
    limit = norm_bound(history.norms, [vote.norm for vote in votes], rule.bound, model_norm)
    scales = {vote.id: clip_scale(vote.norm, limit) for vote in votes}
    weights = _cap_weights(rule, votes, history)
    return Weighed(
        scales, weights, centre_weight=0.0, limit=limit, num_clipped=sum(scale < 1.0 for scale in scales.values())
    )


def _cap_weights(rule: Aggregation, votes: Sequence[Vote], history: History) -> dict[int, float]:
    """The weights of reports. A number of examples is only a claim, so a multiple of the median claim caps it."""
    if rule.has_equal_votes:
        return {vote.id: 1.0 for vote in votes}
    known = positive([*history.weights, *(vote.weight for vote in votes)])
    cap = float("inf") if rule.weight_cap is None or not known else math.floor(rule.weight_cap * lower_median(known))
    return {vote.id: min(vote.weight, cap) for vote in votes}
