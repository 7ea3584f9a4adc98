"""A request in one sentence, and its answers as tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from pygrid.messages.jobs import JobInfo, StatisticRequest
from pygrid.units import decimal

MAX_STATISTICS_SHOWN = 3
MAX_ROWS = 200
_STATISTICS = {
    "count": "the number of records",
    "sum": "the sum of",
    "mean": "the mean of",
    "variance": "the variance of",
    "quantile": "a quantile of",
    "histogram": "a histogram of",
}
_KINDS = {
    "train": "to train a model on",
    "evaluate": "to evaluate a model on",
    "predict": "for an answer of a model for each record of",
}
SURE = 1.96
"""Standard deviations within which 95% of the noise lies."""


class AnswerRow(msgspec.Struct, frozen=True):
    group: str
    value: float | None
    error: float | None
    """Half the width of the interval that holds the value without noise, with a certainty of 95%."""
    share: float
    """Length of its bar, 0 to 1."""


class AnswerTable(msgspec.Struct, frozen=True):
    """One answer of a statistics job."""

    title: str
    group_name: str
    rows: list[AnswerRow]
    has_error: bool
    num_hidden: int


def name_statistic(one: StatisticRequest) -> str:
    """Return a statistic in words: ``the mean of age by sex``."""
    words = _STATISTICS[one.kind]
    if one.kind == "quantile":
        words = "the median of" if one.quantile == 0.5 else f"the {one.quantile:.0%} quantile of"
    if one.kind == "count" and one.column:
        words = f"the number of values of {one.column}"
    elif one.column:
        words = f"{words} {one.column}"
    return f"{words} by {one.per + ' of ' if one.per else ''}{one.by}" if one.by else words


def ask_in_words(info: JobInfo) -> str:
    """Return who asks for what, in one sentence."""
    terms = f", with epsilon {decimal(info.privacy.epsilon)}" if info.privacy else ", without noise"
    where = f"{info.dataset_name} version {info.version}"
    if info.kind == "statistics" and info.request is not None:
        names = [name_statistic(one) for one in info.request.statistics]
        more = len(names) - MAX_STATISTICS_SHOWN
        shown = names[:MAX_STATISTICS_SHOWN] + ([f"{more} more statistics"] if more > 0 else [])
        what = shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
        return f"{info.requested_by_email} asks for {what} in {where}{terms}."
    return f"{info.requested_by_email} asks {_KINDS.get(info.kind, 'for an answer from')} {where}{terms}."


def answer_tables(answers: Sequence[Mapping[str, Any]], asked: Sequence[StatisticRequest]) -> list[AnswerTable]:
    """Return the answers of a statistics job as tables. The answers come from a Worker: unreadable ones are empty.

    Args:
        asked: the statistics of the request, in the order of the answers.
    """
    return [_table(answer, one) for answer, one in zip(answers, asked, strict=False)]


def _table(answer: Mapping[str, Any], asked: StatisticRequest) -> AnswerTable:
    std = _number(answer.get("noise_std")) or None  # exact answers have 0
    pairs = _pairs(answer, asked)
    most = max((abs(value) for _, value in pairs if value is not None), default=0.0)
    rows = [
        AnswerRow(
            group,
            value,
            None if std is None else SURE * std,
            0.0 if value is None or not most else max(0.0, value) / most,
        )
        for group, value in pairs[:MAX_ROWS]
    ]
    name = asked.by or (asked.column if asked.kind == "histogram" else "")
    title = name_statistic(asked)
    return AnswerTable(title[0].upper() + title[1:], name, rows, std is not None, max(0, len(pairs) - MAX_ROWS))


def _pairs(answer: Mapping[str, Any], asked: StatisticRequest) -> list[tuple[str, float | None]]:
    groups = answer.get("groups")
    if isinstance(groups, list):
        found: list[tuple[str, float | None]] = []
        for item in groups:
            if isinstance(item, list | tuple) and len(item) == 2:
                found += _values(str(item[0]), item[1], asked)
        return found
    return _values("", answer.get("value"), asked)


def _values(group: str, value: Any, asked: StatisticRequest) -> list[tuple[str, float | None]]:
    if not isinstance(value, list):
        return [(group, _number(value))]
    names = [f"{low} to {high}" for low, high in zip(asked.edges[:-1], asked.edges[1:], strict=True)]
    prefix = f"{group}: " if group else ""
    return [(f"{prefix}{name}", _number(one)) for name, one in zip(names, value, strict=False)]


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None
