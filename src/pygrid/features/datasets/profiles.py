"""Exact figures of the columns of a dataset, for its data owner alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pygrid.core.column_times import write_time
from pygrid.core.datasets import CODED, TIMES, Column
from pygrid.storage.columns import map_columns
from pygrid.units import decimal

MAX_VALUES = 10_000_000
"""Values of a column that are read; a larger column is profiled from its first records, which the profile says."""
MAX_COLUMNS = 200
NUM_BINS = 20
NUM_TOP = 20
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, slots=True)
class ColumnProfile:
    """The figures of one column. Times are texts."""

    name: str
    num_values: int
    num_missing: int
    facts: tuple[tuple[str, float | str], ...]
    """Minimum, maximum, mean, deviation, and quantiles."""
    bars: tuple[tuple[str, int], ...]
    """A histogram, or the most frequent texts, with the number of records."""
    is_sampled: bool


def profile_columns(folder: Path) -> list[ColumnProfile]:
    """Return the profiles of the first 200 columns of a folder. Blocks; reads all values."""
    schema, arrays = map_columns(folder)
    return [_profile(column, arrays[column.name]) for column in schema.columns[:MAX_COLUMNS]]


def _profile(column: Column, stored: npt.NDArray[Any]) -> ColumnProfile:
    num_records = max(1, MAX_VALUES // max(1, column.num_values))
    values = np.asarray(stored[:num_records]).reshape(-1)
    is_sampled = len(stored) > num_records
    if column.dtype in CODED:
        return _texts(column, values, is_sampled)
    numbers = values.astype(np.float64)
    present = numbers[~np.isnan(numbers)]
    num_missing = len(numbers) - len(present)
    if not len(present):
        return ColumnProfile(column.name, 0, num_missing, (), (), is_sampled)
    low, high = float(present.min()), float(present.max())
    quantiles = np.quantile(present, _QUANTILES)
    named = [("minimum", low), ("maximum", high)]
    named += [(f"{share:.0%} quantile", float(one)) for share, one in zip(_QUANTILES, quantiles, strict=True)]
    facts: list[tuple[str, float | str]] = [(name, _shown(column, value)) for name, value in named]
    if column.dtype not in TIMES:
        facts[2:2] = [("mean", float(present.mean())), ("deviation", float(present.std()))]
    counts, edges = np.histogram(present, NUM_BINS if high > low else 1)
    bars = tuple(
        (f"{_text(column, edges[index])} to {_text(column, edges[index + 1])}", int(count))
        for index, count in enumerate(counts)
    )
    return ColumnProfile(column.name, len(present), num_missing, tuple(facts), bars, is_sampled)


def _texts(column: Column, codes: npt.NDArray[Any], is_sampled: bool) -> ColumnProfile:
    num_missing = int((codes < 0).sum())
    counts = np.bincount(codes[codes >= 0].astype(np.int64)) if len(codes) > num_missing else np.zeros(0, np.int64)
    texts = column.categories or ()
    top = np.argsort(-counts, kind="stable")[:NUM_TOP]
    bars = tuple((texts[code] if code < len(texts) else f"text {code}", int(counts[code])) for code in top)
    facts: tuple[tuple[str, float | str], ...] = (("different texts", float((counts > 0).sum())),)
    return ColumnProfile(column.name, len(codes) - num_missing, num_missing, facts, bars, is_sampled)


def _shown(column: Column, value: float) -> float | str:
    return write_time(value, column.dtype) if column.dtype in TIMES and math.isfinite(value) else value


def _text(column: Column, value: float) -> str:
    shown = _shown(column, float(value))
    return shown if isinstance(shown, str) else decimal(shown, 4)
