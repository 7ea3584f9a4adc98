"""The running sum of a cycle's diffs under any rule, in memory that does not grow with the number of diffs.

The scale of a diff is known only when the cycle closes. Two sums make that cheap. Near diffs are added to the first sum
unchanged. Far diffs are brought to one length and added to the second sum, which is multiplied by the final limit.
Only diffs on the other side of the final limit than expected are read again: they are taken out of one sum and added to
the other one.

Both sums are exact (`ExactSum`). So the result depends only on the diffs, their weights and the last completed cycle:
not on the order of the diffs, on what was expected of them, or on the partial sums in which they came.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pygrid.aggregation.aggregator import Blocks, Float32, Float64, MeanBlock
from pygrid.aggregation.mean import ExactSum, Int64
from pygrid.aggregation.precisions import Expected, Precision, make_precision
from pygrid.aggregation.rules import Vote, Weighed


class _Term(NamedTuple):
    """How a diff is in the sums."""

    is_near: bool
    factor: float
    size: float
    """A bound on the absolute values of ``factor * diff``."""


@dataclass(frozen=True)
class SumValues:
    """The two sums of some diffs of a cycle, as another process can add them."""

    precision: Precision
    near: Int64
    far: Int64 | None
    covered: dict[int, bool]
    """The ids of the diffs that are in the sums -> whether in the first one, with their weight as reported."""


class RunningSum:
    """The `Aggregator` of the weighted mean: the sum of diffs, each of them once.

    Args:
        num_values: length of a diff.
    """

    def __init__(self, num_values: int, expected: Expected | None = None) -> None:
        self.num_values = num_values
        expected = expected or Expected()
        self._limit = expected.limit
        self._near: ExactSum
        self._far: ExactSum | None
        self._terms: dict[int, _Term]
        self._begin(expected.precision())

    @property
    def covered(self) -> dict[int, bool]:
        """The ids of the diffs in the sum; see `SumValues.covered`."""
        return {number: term.is_near for number, term in self._terms.items()}

    @property
    def num_bytes(self) -> int:
        """Bytes of the sums."""
        return 8 * self.num_values * (1 if self._far is None else 2)

    def fold(self, vote: Vote, blocks: Callable[[], Blocks]) -> None:
        """Add a diff, unless it is in the sum already, or too large for it; then `result` adds it.

        Args:
            blocks: returns the values of the diff.
        """
        if vote.id in self._terms:
            return
        term = _term(vote, vote.weight, None if vote.reach <= self._limit else vote.reach, self._precision.reach)
        if self._precision.fits(term.size):
            self._replace(None, term, blocks)
            self._terms[vote.id] = term

    def snapshot(self) -> SumValues:
        """A copy of the sums, before any `absorb` or `result`."""
        far = None if self._far is None else self._far.multiples()
        return SumValues(self._precision, self._near.multiples(), far, self.covered)

    def absorb(self, values: SumValues, votes: Mapping[int, Vote]) -> bool:
        """Add the sums of another process; False: they do not go with these, and nothing was added.

        Args:
            values: covers diffs that are not in this sum.
            votes: has at least the diffs that are covered.
        """
        if values.precision != self._precision or len(values.near) != self.num_values:
            return False
        self._near.add_multiples(values.near)
        if values.far is not None and self._far is None:
            self._far = ExactSum(self.num_values, self._precision.exponent, values.far.copy())
        elif values.far is not None and self._far is not None:
            self._far.add_multiples(values.far)
        for number, is_near in values.covered.items():
            vote = votes[number]
            self._terms[number] = _term(vote, vote.weight, None if is_near else vote.reach, self._precision.reach)
        return True

    def result(self, votes: Mapping[int, Vote], weighed: Weighed, blocks: Callable[[int], Blocks]) -> MeanBlock:
        """The mean of exactly these diffs under a rule, independent of what was folded before.

        Args:
            votes: the diffs, by id.
            blocks: returns the values of the diff with an id.
        """
        if not self._terms.keys() <= votes.keys():
            self._begin(self._precision)
        terms = _final_terms(votes, weighed, self._precision.reach)
        limit = weighed.limit if any(not term.is_near for term in terms.values()) else math.inf
        if not self._precision.suits([term.size for term in terms.values()], limit):
            reach = make_precision(1.0, 1, limit).reach
            terms = _final_terms(votes, weighed, reach)
            self._begin(make_precision(max(term.size for term in terms.values()), len(terms), limit))
        for number, term in terms.items():
            before = self._terms.get(number)
            if before != term:
                self._replace(before, term, lambda number=number: blocks(number))  # type: ignore[misc]
                self._terms[number] = term
        return self._mean_block(weighed)

    def _replace(self, before: _Term | None, term: _Term, blocks: Callable[[], Blocks]) -> None:
        """Take a diff out, and add it in another way. After an error the sums are useless."""
        if not term.size and (before is None or not before.size):
            return
        for start, block in blocks():
            if before is not None:
                self._sum_of(before).add_block(start, block, before.factor, sign=-1)
            self._sum_of(term).add_block(start, block, term.factor)

    def _mean_block(self, weighed: Weighed) -> MeanBlock:
        near, far, total = self._near, self._far, weighed.total
        stretch = math.ldexp(weighed.limit, -self._precision.reach)
        if math.isinf(stretch):
            far = None  # nothing is shortened, so what was in it was taken out

        def mean_block(start: int, count: int, centre: Float32 | None) -> Float64:
            sums = near.values(start, count)
            if far is not None:
                sums += stretch * far.values(start, count)
            if centre is not None and weighed.centre_weight:
                sums += weighed.centre_weight * centre.astype(np.float64)
            return sums / total

        return mean_block

    def _begin(self, precision: Precision) -> None:
        """Start from zero."""
        self._precision = precision
        self._near = ExactSum(self.num_values, precision.exponent)
        self._far, self._terms = None, {}

    def _sum_of(self, term: _Term) -> ExactSum:
        if term.is_near:
            return self._near
        if self._far is None:
            self._far = ExactSum(self.num_values, self._precision.exponent)
        return self._far


def _term(vote: Vote, weight: float, length: float | None, reach: int) -> _Term:
    """How a diff is added that counts in full, or that is shortened from a length."""
    factor = weight if length is None else math.ldexp(weight / length, reach)
    return _Term(length is None, factor, factor * vote.norm)


def _final_terms(votes: Mapping[int, Vote], weighed: Weighed, reach: int) -> dict[int, _Term]:
    def length(number: int, vote: Vote) -> float | None:
        if weighed.scales[number] == 1.0:
            return None
        return vote.reach if weighed.is_by_distance else vote.norm

    return {number: _term(vote, weighed.weights[number], length(number, vote), reach) for number, vote in votes.items()}
