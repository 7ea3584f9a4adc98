"""How far the answer to a statistic can be from the exact one, because of the noise of a private job.

A mean is a ratio of two noisy sums: for small noise, its error is linear in theirs (the delta method). With ``n``
values, noise of standard deviation ``s`` in each sum, and ``t`` the mean scaled to -1..1,

    std(mean)     = half * s / n * sqrt(1 + t^2)
    std(variance) = half^2 * s / n * sqrt(1 + 4 t^2 + (2 t^2 - a)^2)       a = the mean of the squares of t

The variance does not contain ``t``, so the largest possible one is used. The sampling of people is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pygrid.core.job_spec import PrivacyTerms, Statistic
from pygrid.units import decimal

Z95 = 1.96
"""Standard deviations on each side of a normal value that hold 95% of the probability."""


@dataclass(frozen=True)
class AnswerCell:
    """A number of an answer: of a group, of a bin, or alone."""

    key: str
    """Group and bin in words; empty: the answer is one number."""
    value: float | None
    margin: float | None
    """Half of the 95% interval; None: it is not known, or the answer is exact."""
    count: float | None


def expected_margin(statistic: Statistic, num_statistics: int, terms: PrivacyTerms, num_units: float) -> float | None:
    """Return half of the 95% interval of an answer, before it is asked. None: not known, as for quantiles.

    Args:
        num_statistics: number of statistics of the job, which share its privacy cost.
        num_units: published number of values; the mean is taken in the middle of its bounds.
    """
    noise = terms.noise_multiplier * terms.clip * math.sqrt(num_statistics)
    half = (statistic.upper - statistic.lower) / 2
    size = max(1.0, num_units / max(1, statistic.num_groups))
    match statistic.kind:
        case "count" | "histogram":
            return Z95 * noise
        case "sum":
            width = math.sqrt(2.0) if statistic.has_missing else 1.0
            return Z95 * noise * width * max(abs(statistic.lower), abs(statistic.upper))
        case "mean":
            return Z95 * half * noise * math.sqrt(2.0) / size
        case "variance":
            return Z95 * half * half * noise * math.sqrt(3.0) / size
    return None


def read_answer(answer: Mapping[str, Any], lower: float, upper: float, edges: Sequence[float] = ()) -> list[AnswerCell]:
    """Return the numbers of an answer with their margins.

    Args:
        answer: as in a result of kind ``statistics``; see ``docs/reference/protocol.md``.
        lower, upper, edges: of its request.
    """
    groups = answer.get("groups") or [["", answer.get("value")]]
    counts = answer.get("counts") or [answer.get("count")] * len(groups)
    cells = []
    for (key, value), count in zip(groups, counts, strict=True):
        if isinstance(value, list):
            for at, one in enumerate(value):
                bin_words = (
                    f"{decimal(edges[at])} to {decimal(edges[at + 1])}" if at + 1 < len(edges) else f"bin {at + 1}"
                )
                words = f"{key}: {bin_words}" if key != "" else bin_words
                cells.append(AnswerCell(words, one, _margin(answer, one, None, 0.0), None))
        else:
            half = (upper - lower) / 2
            scaled = 0.0 if value is None or not half else (value - (lower + upper) / 2) / half
            cells.append(AnswerCell(str(key), value, _margin(answer, scaled, count, half), count))
    return cells


def _margin(answer: Mapping[str, Any], value: float | None, count: float | None, half: float) -> float | None:
    if answer["kind"] in ("count", "sum", "histogram"):
        noise = float(answer.get("noise_std", 0.0))
        return Z95 * noise or None
    noise = float(answer.get("count_noise_std", 0.0))
    if not noise or value is None or answer["kind"] == "quantile":
        return None
    size = max(1.0, count or 0.0)
    if answer["kind"] == "mean":
        return Z95 * half * noise / size * math.sqrt(1 + value * value)
    share = min(1.0, max(0.0, value))
    most = 1.0 - share
    return Z95 * half * half * noise / size * math.sqrt(1 + 4 * most + (most - share) ** 2)
