"""What a checkpoint adds up: the partial sums of several processes, and the reports that none of them covers.

Each process folds the reports that it accepted into a sum of its own, after their transaction was committed. It stores
that sum from time to time as a **partial sum**, under a new name, and starts from zero. A partial sum states which
reports it **covers**. So the partial sums of a cycle are disjoint, and

    total = sum(partial sums) + sum(reports that are not covered, read back) + sum(corrections)

A correction is the difference between the final scale of a report and the scale with which it was folded. It is needed
for reports that turn out to be outliers.

All functions are pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

AWAIT_S = 2.0
"""Longest time for which a completion waits for the partial sums of other processes."""


@dataclass(frozen=True, slots=True)
class PartialSum:
    """A stored sum of some reports of a cycle."""

    cycle_id: int
    instance: str
    """The process that folded it."""
    number: int
    """1, 2, ...: the partial sums of an instance. A number is used once, so the bytes of a name never change."""
    key: str
    """Name of the object with the values."""
    covered: Mapping[int, float]
    """Scale with which each report was folded, by the id of the report."""


@dataclass(frozen=True, slots=True)
class Summands:
    """What a total consists of. Each report of the cycle is in exactly one of ``partials`` and ``read``."""

    partials: tuple[PartialSum, ...]
    """In the order of instance and number, so that each process that adds them up gets the same sum."""
    read: tuple[int, ...]
    """Ids of the reports that are read back, in ascending order."""
    corrections: Mapping[int, float]
    """Final scale minus folded scale of each covered report where they differ, by id."""
    unusable: tuple[PartialSum, ...]
    """Partial sums that are left out: they cover a report that another one covers, or that is not in the cycle. There
    are none, unless a process has a fault."""


def next_number(partials: Iterable[PartialSum], instance: str) -> int:
    """The number of the next partial sum of an instance."""
    return 1 + max((partial.number for partial in partials if partial.instance == instance), default=0)


def choose_summands(scales: Mapping[int, float], partials: Iterable[PartialSum]) -> Summands:
    """What the total of a closing cycle consists of.

    Args:
        scales: the final scale of each accepted report, by id: 1.0, or less for an outlier.
        partials: the stored partial sums of the cycle, in any order.
    """
    used: list[PartialSum] = []
    unusable: list[PartialSum] = []
    covered: dict[int, float] = {}
    for partial in sorted(partials, key=lambda partial: (partial.instance, partial.number)):
        if partial.covered.keys() <= scales.keys() and covered.keys().isdisjoint(partial.covered):
            used.append(partial)
            covered.update(partial.covered)
        else:
            unusable.append(partial)
    read = tuple(sorted(scales.keys() - covered.keys()))
    corrections = {number: scales[number] - scale for number, scale in covered.items() if scales[number] != scale}
    return Summands(tuple(used), read, corrections, tuple(unusable))


def awaited_instances(
    accepted_by: Mapping[int, str], partials: Iterable[PartialSum], live: Collection[str]
) -> frozenset[str]:
    """The live instances that have not stored a partial sum of all their reports.

    A completion waits for them up to `AWAIT_S`, because reading their reports back takes longer.

    Args:
        accepted_by: the instance that accepted each report of the cycle, by the id of the report.
        live: the instances whose processes run.
    """
    covered: set[int] = set()
    for partial in partials:
        covered.update(partial.covered)
    return frozenset(who for number, who in accepted_by.items() if number not in covered and who in live)
