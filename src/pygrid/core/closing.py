"""What a checkpoint adds up: the partial sums of several processes, and the reports that none of them covers.

Each process folds the reports that it accepted into a sum of its own, after their transaction was committed. From time
to time it stores the whole sum as a **partial sum**, under a new name, in place of its earlier one. A partial sum
states which reports it **covers**. A report is accepted by one process, so those of a cycle are disjoint, and

    total = own sum + sum(partial sums of others) + sum(reports that none of them covers, read back)

The process that completes a cycle adds the partial sums of others to its own sum. After that it stores that sum never
again: it would cover reports that the others cover.

All functions are pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PartialSum:
    """A stored sum of some reports of a cycle."""

    cycle_id: int
    instance: str
    """The process that folded it. It has at most one for each cycle."""
    key: str
    """Name of the object with the values; used once, so its bytes never change."""
    covered: frozenset[int]
    """Ids of the reports in it."""


@dataclass(frozen=True, slots=True)
class Summands:
    """What a total consists of, in addition to the own sum. Each report of the cycle is in exactly one of them."""

    partials: tuple[PartialSum, ...]
    """In the order of their instances."""
    read: tuple[int, ...]
    """Ids of the reports that are read back, in ascending order."""
    unusable: tuple[PartialSum, ...]
    """Partial sums that are left out, although they cover reports that are not in the own sum: they also cover some
    that are elsewhere, or not in the cycle."""


def choose_summands(accepted: Collection[int], folded: Collection[int], partials: Iterable[PartialSum]) -> Summands:
    """What the total of a closing cycle consists of.

    Args:
        accepted: ids of the reports of the cycle.
        folded: ids of those in the own sum.
        partials: the stored partial sums of the cycle, in any order.
    """
    open_reports, known = set(accepted) - set(folded), set(folded)
    used: list[PartialSum] = []
    unusable: list[PartialSum] = []
    for partial in sorted(partials, key=lambda partial: partial.instance):
        if partial.covered <= open_reports:
            used.append(partial)
            open_reports -= partial.covered
        elif not partial.covered <= known:
            unusable.append(partial)
    return Summands(tuple(used), tuple(sorted(open_reports)), tuple(unusable))
