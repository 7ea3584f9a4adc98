"""Counts, sums, means, variances, quantiles and histograms as one vector for each record: one noisy sum answers all.

For each statistic, a record has a piece of the vector with an L2 norm of at most one. The pieces are concatenated and
divided by the root of their number, so that the whole has a norm of at most one for any request. Everything after the
sum is post-processing. Bounds, edges and keys are declared, so nothing about the vector's form comes from the data.

    count                1
    sum                  clamp(x) / max(|lower|, |upper|), or (1, that) / sqrt(2) for a column with missing values
    mean                 (1, t) / sqrt(2)          t = (clamp(x) - middle) / half width
    variance             (1, t, t^2) / sqrt(3)
    histogram, quantile  1 at the bin of x

A missing value (NaN, or the code -1 of a category) makes the piece zeros, so that every answer is about the values that
are present, and the first entry, or the sum of the bins, counts them. Infinity is clamped by its sign. A subject
contributes the sum over its records, clipped.

Each entry is computed from one record by comparisons, clamping, +, -, *, / and constants, which IEEE 754 rounds in one
way; a subject's records are added one after the other. So a vector is a bit-exact function of its unit, whatever units
it is computed with.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pygrid import codes
from pygrid.compute.runtime import intervals
from pygrid.compute.runtime.contributions import ContributionBlock, add_blocks
from pygrid.compute.runtime.watch import Watch
from pygrid.core.datasets import MISSING_CODE
from pygrid.core.job_spec import Statistic
from pygrid.errors import InvalidInput
from pygrid.privacy.mechanisms import GaussianSum

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]

_MAX_WIDTH = 100_000
_CHUNK_ENTRIES = 1 << 18
_UNIT_S, _ENTRY_S = 1e-6, 3e-8


class StatisticRows:
    """The contributions of records (or of groups of them) to a list of statistics."""

    names: tuple[str, ...] = ()
    is_trusted = True

    def __init__(
        self,
        statistics: Sequence[Statistic],
        columns: Mapping[str, Array],
        groups: Sequence[Array] | None = None,
        max_records: int = 1,
    ) -> None:
        self._statistics, self._columns, self._groups = statistics, columns, groups
        self.num_units = len(next(iter(columns.values()))) if groups is None else len(groups)
        self.size = sum(_width(statistic) * max(1, statistic.num_groups) for statistic in statistics)
        if self.size > _MAX_WIDTH:
            raise InvalidInput(
                f"the statistics have {self.size:,} numbers; at most {_MAX_WIDTH:,} are allowed", code=codes.INVALID_JOB
            )
        self._most_records = 1 if groups is None else max_records
        self._chunk = max(1, _CHUNK_ENTRIES // self.size)

    def set_params(self, params: Mapping[str, Array]) -> None:
        """Statistics have no model."""

    def unit_s(self) -> float:
        """An upper estimate from the number of entries: no operation's time depends on values."""
        return _UNIT_S + _ENTRY_S * self.size * self._most_records

    def add_to(self, total: GaussianSum, units: Array, _watch: Watch) -> int:
        """As `Contributions.add_to`; no unit fails."""
        return add_blocks(total, self.blocks(units))

    def blocks(self, units: Array) -> Iterator[ContributionBlock]:
        """The vectors of these units, in their order."""
        for begin in range(0, len(units), self._chunk):
            part = units[begin : begin + self._chunk]
            columns = (
                self._records(part) if self._groups is None else self._subjects([self._groups[unit] for unit in part])
            )
            yield ContributionBlock(columns.T, np.zeros(len(part), np.bool_))

    def _subjects(self, groups: Sequence[Array]) -> Float64:
        """The sums over the records of each subject, added one record after the other. One column for each subject."""
        lengths = np.array([len(group) for group in groups])
        sums = np.zeros((self.size, len(groups)))
        for position in range(int(lengths.max(initial=0))):
            longer = np.flatnonzero(lengths > position)
            sums[:, longer] += self._records(np.array([groups[index][position] for index in longer.tolist()]))
        return sums

    def _records(self, rows: Array) -> Float64:
        """The vectors of some records, one column for each: operations on whole columns take less time."""
        pieces = [self._piece(statistic, rows) for statistic in self._statistics]
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate(pieces) / math.sqrt(len(pieces))

    def _piece(self, statistic: Statistic, rows: Array) -> Float64:
        column = self._columns[statistic.column] if statistic.column else None
        values = np.zeros(len(rows)) if column is None else column[rows].astype(np.float64)
        encoded = _encode(statistic, values)
        if column is not None and column.dtype.kind == "f":
            np.copyto(encoded, 0.0, where=np.isnan(values))
        elif column is not None and statistic.has_missing:  # of whole numbers, only the codes of categories
            np.copyto(encoded, 0.0, where=values == MISSING_CODE)
        if not statistic.by:
            return encoded
        found = self._columns[statistic.by][rows]
        members = [(low <= found) & (found < high) for low, high in statistic.spans] or [
            found == key for key in statistic.keys
        ]
        return np.concatenate([np.where(member, encoded, 0.0) for member in members])


def _width(statistic: Statistic) -> int:
    widths = {"count": 1, "sum": 1 + statistic.has_missing, "mean": 2, "variance": 3}
    return widths.get(statistic.kind) or len(statistic.edges) + (1 if statistic.kind == "quantile" else -1)


def _encode(statistic: Statistic, values: Float64) -> Float64:
    """The pieces of values that are present, one column for each; of a missing one, anything."""
    kind, lower, upper = statistic.kind, statistic.lower, statistic.upper
    if kind == "count":
        return np.ones((1, len(values)))
    if kind in ("histogram", "quantile"):
        bins = np.searchsorted(statistic.edges, values, side="left" if kind == "quantile" else "right")
        if kind == "histogram":
            bins = np.clip(bins - 1, 0, len(statistic.edges) - 2)
        found = np.zeros((_width(statistic), len(values)))
        found[bins, np.arange(len(values))] = 1.0
        return found
    clamped = np.clip(values, lower, upper)
    ones = np.ones(len(values))
    if kind == "sum":
        share = clamped / max(abs(lower), abs(upper))
        return np.stack((ones, share)) / math.sqrt(2) if statistic.has_missing else share[np.newaxis]
    t = (clamped - (lower + upper) / 2) / ((upper - lower) / 2)
    parts = (ones, t) if kind == "mean" else (ones, t, t * t)
    return np.stack(parts) / math.sqrt(len(parts))


def read_answers(statistics: Sequence[Statistic], sums: Float64, noise_std: float) -> list[dict[str, Any]]:
    """The answers in the order of the questions; the format is in ``docs/reference/protocol.md``.

    Args:
        sums: of the vectors, with noise or without.
        noise_std: of each entry; 0 for exact sums.
    """
    scale = math.sqrt(len(statistics))
    answers, position = [], 0
    for statistic in statistics:
        width = _width(statistic)
        pieces = []
        for _ in range(max(1, statistic.num_groups)):
            pieces.append(sums[position : position + width] * scale)
            position += width
        answers.append(_answer(statistic, pieces, noise_std * scale))
    return answers


def _answer(statistic: Statistic, pieces: Sequence[Float64], noise_std: float) -> dict[str, Any]:
    """One answer from the piece of each group.

    Args:
        noise_std: of each entry of a piece.
    """
    kind, num_entries = statistic.kind, _width(statistic)
    groups = [_decode(statistic, piece, is_exact=noise_std == 0) for piece in pieces]
    answer: dict[str, Any] = {"kind": kind, "column": statistic.column}
    if kind in ("count", "sum", "histogram"):
        unit = max(abs(statistic.lower), abs(statistic.upper)) if kind == "sum" else 1.0
        answer["noise_std"] = noise_std * unit * (math.sqrt(num_entries) if kind == "sum" else 1.0)
    if has_count := kind != "count" and groups[0][1] is not None:
        # One entry that was divided by the root of the number of entries; or the sum of independent bins.
        answer["count_noise_std"] = noise_std * math.sqrt(num_entries)
    if statistic.by:
        answer["by"] = statistic.by
        keys = [low for low, _ in statistic.spans] or statistic.keys
        answer["groups"] = [[key, value] for key, (value, _) in zip(keys, groups, strict=True)]
        answer |= {"counts": [count for _, count in groups]} if has_count else {}
    else:
        answer["value"] = groups[0][0]
        answer |= {"count": groups[0][1]} if has_count else {}
    if noise_std:
        found = [_interval(statistic, piece, noise_std) for piece in pieces]
        answer["interval"] = found if statistic.by else found[0]
    return answer


def _interval(statistic: Statistic, piece: Float64, noise_std: float) -> list[Any]:
    """The 95% interval of the value of one group; for a histogram, one for each bin."""
    kind, lower, upper = statistic.kind, statistic.lower, statistic.upper
    if kind == "histogram":
        return [intervals.around(float(value), noise_std) for value in piece]
    if kind == "quantile":
        return intervals.of_quantile(statistic.edges, statistic.quantile, piece, noise_std)
    parts = [float(part) for part in piece * math.sqrt(len(piece))]
    std = noise_std * math.sqrt(len(piece))
    if kind == "count":
        return intervals.around(parts[0], std)
    if kind == "sum":
        unit = max(abs(lower), abs(upper))
        return intervals.around(parts[-1] * unit, std * unit)
    middle, half = (lower + upper) / 2, (upper - lower) / 2
    if kind == "mean":
        return [middle + half * end for end in intervals.of_mean(parts[0], parts[1], std)]
    return [half * half * end for end in intervals.of_variance(parts[0], parts[1], parts[2], std)]


def _decode(statistic: Statistic, piece: Float64, *, is_exact: bool) -> tuple[Any, float | None]:
    """The answer for one group, and how many values it is of; None if the piece does not count them."""
    kind, lower, upper = statistic.kind, statistic.lower, statistic.upper
    if kind in ("histogram", "quantile"):
        count = _whole(float(piece.sum()), is_exact)
        bins = [_whole(float(value), is_exact) for value in piece]
        return bins if kind == "histogram" else _quantile(statistic, piece) if count or not is_exact else None, count
    piece = piece * math.sqrt(len(piece))
    count = _whole(float(piece[0]), is_exact)
    if kind == "count":
        return count, count
    if kind == "sum":
        return float(piece[-1]) * max(abs(lower), abs(upper)), count if statistic.has_missing else None
    if is_exact and not count:
        return None, count
    # A noisy count may come out as nothing or less; a mean of fewer than one record says nothing anyway.
    size = max(float(count), 1.0)
    middle, half = (lower + upper) / 2, (upper - lower) / 2
    mean = min(1.0, max(-1.0, float(piece[1]) / size))
    if kind == "mean":
        return middle + half * mean, count
    return half * half * min(1.0, max(0.0, float(piece[2]) / size - mean * mean)), count


def _whole(value: float, is_exact: bool) -> float:
    return round(value) if is_exact else value


def _quantile(statistic: Statistic, bins: Float64) -> float:
    """The first candidate at or below which the wanted part of the records lies."""
    counts = np.maximum(bins, 0.0)
    below = np.cumsum(counts)[:-1]
    found = int(np.searchsorted(below, statistic.quantile * counts.sum(), side="left"))
    return statistic.edges[min(found, len(statistic.edges) - 1)]
