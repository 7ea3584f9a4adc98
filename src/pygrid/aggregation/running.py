"""The running sum of a cycle's diffs under any rule, in memory that does not grow with the number of diffs.

The scale of a diff is known only when the cycle closes. Two sums make that cheap. Near diffs are added to the first sum
unchanged. Far diffs are divided by their distance and added to the second sum, which is multiplied by the final limit.
Only diffs on the other side of the final limit than expected are read again. A very large diff never enters the first
sum, where it would erase the low digits of the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from pygrid.aggregation.aggregator import Blocks, Float32, Float64, MeanBlock
from pygrid.aggregation.mean import WeightedSum
from pygrid.aggregation.rules import Vote, Weighed

MAX_EXCESS = 1000.0
"""If a diff in the first sum is beyond the limit by more than this factor, both sums are computed again."""
_ROUNDING = 4e-16
"""Relative difference of two factors that counts as none: rounding of the limit divided by a distance."""


class RunningSum:
    """The `Aggregator` of the weighted mean: the sum of diffs, each of them once.

    Args:
        num_values: length of a diff.
    """

    def __init__(self, num_values: int) -> None:
        self.num_values = num_values
        self._near = WeightedSum(num_values)
        self._far: WeightedSum | None = None
        # By id of the diff: its factor in each of the two sums.
        self._near_factors: dict[int, float] = {}
        self._far_factors: dict[int, float] = {}

    def fold(self, vote: Vote, limit: float, blocks: Callable[[], Blocks]) -> None:
        """Add a diff, unless it is in the sum already.

        Args:
            limit: the expected limit of this cycle; diffs with a larger distance are shortened.
            blocks: returns the values of the diff.
        """
        if vote.id in self._near_factors:
            return
        is_near = vote.reach <= limit
        self._near_factors[vote.id] = vote.weight if is_near else 0.0
        self._far_factors[vote.id] = 0.0 if is_near else vote.weight / vote.reach
        if vote.norm == 0:
            return
        if is_near:
            self._add(self._near, vote.weight, blocks())
            return
        if self._far is None:
            self._far = WeightedSum(self.num_values)
        self._add(self._far, vote.weight / vote.reach, blocks())

    def result(self, votes: Mapping[int, Vote], weighed: Weighed, blocks: Callable[[int], Blocks]) -> MeanBlock:
        """The mean of exactly these diffs under a rule, independent of what was folded before.

        Args:
            votes: the diffs, by id.
            blocks: returns the values of the diff with an id.
        """
        stretch = weighed.limit if math.isfinite(weighed.limit) else 1.0
        if not self._near_factors.keys() <= votes.keys() or self._is_drowned(votes, weighed):
            self._clear()
        for number, vote in votes.items():
            wanted = weighed.weights[number] * weighed.scales[number]
            near = self._near_factors.get(number, 0.0)
            change = wanted - near - stretch * self._far_factors.get(number, 0.0)
            if vote.norm > 0 and abs(change) > _ROUNDING * wanted:
                self._add(self._near, change, blocks(number))
                self._near_factors[number] = near + change
        return self._mean_block(weighed, stretch)

    def _mean_block(self, weighed: Weighed, stretch: float) -> MeanBlock:
        near, far, total = self._near, self._far, weighed.total

        def mean_block(start: int, count: int, centre: Float32 | None) -> Float64:
            sums = near.sum[start : start + count]
            if far is not None:
                sums = sums + stretch * far.sum[start : start + count]
            if centre is not None and weighed.centre_weight:
                sums = sums + weighed.centre_weight * centre.astype(np.float64)
            return sums / total

        return mean_block

    def _is_drowned(self, votes: Mapping[int, Vote], weighed: Weighed) -> bool:
        """Whether the first sum contains a diff that is far beyond the limit."""
        most = MAX_EXCESS * weighed.limit
        return any(self._near_factors.get(number, 0.0) > 0 and vote.reach > most for number, vote in votes.items())

    def _clear(self) -> None:
        self._near, self._far = WeightedSum(self.num_values), None
        self._near_factors, self._far_factors = {}, {}

    def _add(self, target: WeightedSum, factor: float, blocks: Blocks) -> None:
        for start, block in blocks:
            target.add_block(start, block, factor)
