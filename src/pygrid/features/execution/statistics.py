"""Counts, sums, means, variances, quantiles and histograms as one vector for each record, so that one noisy sum answers all.

Each statistic gives a record a piece of the vector with an L2 norm of at most one; pieces are laid side by side and divided by
the root of their number, so that the whole has a norm of at most one whatever is asked. Everything after the sum is
post-processing. Bounds, edges and keys are declared, so nothing about the vector's form comes from the data.

    count                1
    sum                  clamp(x) / max(|lower|, |upper|)
    mean                 (1, t) / sqrt(2)          t = (clamp(x) - middle) / half width
    variance             (1, t, t^2) / sqrt(3)
    histogram, quantile  1 at the bin of x

Values that are not finite count as ``lower``, or as the first bin. A subject contributes the sum over its records, clipped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pygrid.core.execution import Statistic
from pygrid.errors import InvalidInput
from pygrid.features.execution.contributions import Block, add_blocks
from pygrid.features.execution.watch import Watch
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
        self.size = sum(_width(statistic) * max(1, len(statistic.keys)) for statistic in statistics)
        if self.size > _MAX_WIDTH:
            raise InvalidInput(
                f"the statistics have {self.size:,} numbers; at most {_MAX_WIDTH:,} are allowed", code="invalid_job"
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

    def blocks(self, units: Array) -> Iterator[Block]:
        """The vectors of these units, in their order."""
        for begin in range(0, len(units), self._chunk):
            part = units[begin : begin + self._chunk]
            if self._groups is None:
                rows = self._records(part)
            else:
                rows = np.stack([self._records(self._groups[unit]).sum(axis=0) for unit in part])
            yield Block(rows, np.zeros(len(part), np.bool_))

    def _records(self, rows: Array) -> Float64:
        pieces = [self._piece(statistic, rows) for statistic in self._statistics]
        return np.concatenate(pieces, axis=1) / math.sqrt(len(pieces))

    def _piece(self, statistic: Statistic, rows: Array) -> Float64:
        values = self._columns[statistic.column][rows].astype(np.float64) if statistic.column else np.zeros(len(rows))
        encoded = _encode(statistic, values)
        if not statistic.by:
            return encoded
        keys = self._columns[statistic.by][rows]
        return np.concatenate([np.where((keys == key)[:, np.newaxis], encoded, 0.0) for key in statistic.keys], axis=1)


def _width(statistic: Statistic) -> int:
    widths = {"count": 1, "sum": 1, "mean": 2, "variance": 3}
    return widths.get(statistic.kind) or len(statistic.edges) + (1 if statistic.kind == "quantile" else -1)


def _encode(statistic: Statistic, values: Float64) -> Float64:
    kind, lower, upper = statistic.kind, statistic.lower, statistic.upper
    if kind == "count":
        return np.ones((len(values), 1))
    if kind in ("histogram", "quantile"):
        known = np.where(np.isfinite(values), values, statistic.edges[0])
        bins = np.searchsorted(statistic.edges, known, side="left" if kind == "quantile" else "right")
        if kind == "histogram":
            bins = np.clip(bins - 1, 0, len(statistic.edges) - 2)
        return np.eye(_width(statistic))[bins]
    clamped = np.clip(np.where(np.isfinite(values), values, lower), lower, upper)
    if kind == "sum":
        return (clamped / max(abs(lower), abs(upper)))[:, np.newaxis]
    t = (clamped - (lower + upper) / 2) / ((upper - lower) / 2)
    parts = (np.ones(len(t)), t) if kind == "mean" else (np.ones(len(t)), t, t * t)
    return np.stack(parts, axis=1) / math.sqrt(len(parts))


def read_answers(statistics: Sequence[Statistic], sums: Float64, noise_std: float) -> list[dict[str, Any]]:
    """The answers in the order of the questions.

    Args:
        sums: of the vectors, with noise or without.
        noise_std: of each entry; 0 for exact sums. Counts, sums and bins are told with their own standard deviation.
    """
    scale = math.sqrt(len(statistics))
    answers, position = [], 0
    for statistic in statistics:
        width = _width(statistic)
        unit = max(abs(statistic.lower), abs(statistic.upper)) if statistic.kind == "sum" else 1.0
        answer: dict[str, Any] = {"kind": statistic.kind, "column": statistic.column}
        if statistic.kind in ("count", "sum", "histogram"):
            answer["noise_std"] = noise_std * scale * unit
        values = []
        for _ in range(max(1, len(statistic.keys))):
            values.append(_decode(statistic, sums[position : position + width] * scale, is_exact=noise_std == 0))
            position += width
        if statistic.by:
            answer |= {"by": statistic.by, "groups": [[key, value] for key, value in zip(statistic.keys, values, strict=True)]}
        else:
            answer["value"] = values[0]
        answers.append(answer)
    return answers


def _decode(statistic: Statistic, piece: Float64, *, is_exact: bool) -> Any:
    kind, lower, upper = statistic.kind, statistic.lower, statistic.upper
    if kind == "count":
        return round(float(piece[0])) if is_exact else float(piece[0])
    if kind == "sum":
        return float(piece[0]) * max(abs(lower), abs(upper))
    if kind == "histogram":
        return [float(value) for value in piece]
    if kind == "quantile":
        return _quantile(statistic, piece)
    # A noisy count may come out as nothing or less; a mean of fewer than one record says nothing anyway.
    size = max(float(piece[0]), 1.0 / math.sqrt(len(piece)))
    middle, half = (lower + upper) / 2, (upper - lower) / 2
    mean = min(1.0, max(-1.0, float(piece[1]) / size))
    if kind == "mean":
        return middle + half * mean
    return half * half * min(1.0, max(0.0, float(piece[2]) / size - mean * mean))


def _quantile(statistic: Statistic, bins: Float64) -> float:
    """The first candidate at or below which the wanted part of the records lies."""
    counts = np.maximum(bins, 0.0)
    below = np.cumsum(counts)[:-1]
    found = int(np.searchsorted(below, statistic.quantile * counts.sum(), side="left"))
    return statistic.edges[min(found, len(statistic.edges) - 1)]
