"""The answers of a statistics job as a list, as a table with 95% intervals, and as a data frame."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pygrid.client.display.tables import Table, TableColumn
from pygrid.client.statistics import StatisticAnswer
from pygrid.messages.datasets import Schema
from pygrid.messages.jobs import StatisticRequest

if TYPE_CHECKING:
    from pandas import DataFrame

Shown = float | str | dt.date | None
_EPOCH = dt.datetime(1970, 1, 1)


@dataclass(frozen=True)
class AnswerValue:
    """One value of an answer."""

    statistic: str
    """``mean``, or ``quantile 0.5``."""
    column: str
    group: int | str | None
    """A key of ``by``, or the bin of a histogram; None: of all records."""
    value: Shown
    low: Shown
    """The lower end of the 95% interval; the value itself if it has no noise."""
    high: Shown
    count: float | None
    """The number of values that are present; None: not known."""


class AnswerValues(Table[AnswerValue]):
    """The values of a statistics job."""

    def columns(self) -> Sequence[TableColumn[AnswerValue]]:
        return (
            TableColumn("statistic", lambda row: row.statistic, weight=6),
            TableColumn("column", lambda row: row.column, weight=6),
            TableColumn("group", lambda row: row.group, weight=5),
            TableColumn("value", lambda row: _text(row.value), weight=6, align="right"),
            TableColumn("95% from", lambda row: _text(row.low), weight=4, align="right"),
            TableColumn("to", lambda row: _text(row.high), weight=4, align="right"),
            TableColumn("of", lambda row: "" if row.count is None else f"{row.count:,.0f}", weight=3, align="right"),
        )


class Answers(list[StatisticAnswer]):
    """The answers in the order of the request; shown as a table with a row for each value.

    Args:
        schema: of the dataset, so that dates are shown as dates; None: they are shown as numbers.
    """

    def __init__(
        self, answers: Iterable[StatisticAnswer], asked: Sequence[StatisticRequest], schema: Schema | None
    ) -> None:
        super().__init__(answers)
        self._asked, self._schema = tuple(asked), schema

    @property
    def rows(self) -> AnswerValues:
        """The values with their 95% intervals, one row for each group or bin."""
        pairs = zip(self, self._asked, strict=True)
        return AnswerValues(row for answer, asked in pairs for row in _rows(answer, asked, self._dtype(asked.column)))

    def frame(self) -> DataFrame:
        """A frame with a row for each value: statistic, column, group, value, low, high, count. It needs pandas.

        ``low`` and ``high`` are the 95% interval of the value, given the noise.
        """
        import pandas

        return pandas.DataFrame(list(self.rows))

    def _dtype(self, column: str) -> str:
        found = None if self._schema is None else self._schema.find(column)
        return "" if found is None else found.dtype

    def __repr__(self) -> str:
        return repr(self.rows)

    def _repr_html_(self) -> str:
        return f"<div>{self.rows.html()}</div>"


def has_dates(asked: StatisticRequest) -> bool:
    """Whether the answer is about dates: bounds and candidates of others are numbers."""
    return isinstance(asked.lower, str) or any(isinstance(edge, str) for edge in asked.edges)


def _rows(answer: StatisticAnswer, asked: StatisticRequest, dtype: str) -> Iterable[AnswerValue]:
    """The rows of one answer."""
    label = f"quantile {asked.quantile:g}" if asked.kind == "quantile" else asked.kind
    dtype = dtype if asked.kind in ("mean", "quantile") else ""
    interval: Any = answer.get("interval")
    if "groups" in answer:
        groups: list[tuple[Any, Any]] = list(answer["groups"])
        counts: list[float | None] = list(answer.get("counts", ())) or [None] * len(groups)
        spans = interval or [None] * len(groups)
    else:
        groups, counts, spans = [(None, answer["value"])], [answer.get("count")], [interval]
    for (key, value), count, span in zip(groups, counts, spans, strict=True):
        if asked.kind != "histogram":
            low, high = span or (value, value)
            value, low, high = (_shown(one, dtype) for one in (value, low, high))
            yield AnswerValue(label, asked.column, key, value, low, high, count)
            continue
        for place, one in enumerate(value):
            low, high = span[place] if span else (one, one)
            bin_name = f"{asked.edges[place]} to {asked.edges[place + 1]}"
            yield AnswerValue(
                label, asked.column, bin_name if key is None else f"{key}, {bin_name}", one, low, high, None
            )


def _shown(value: float | None, dtype: str) -> Shown:
    """A number; days and microseconds since 1970 as the date or time that they mean."""
    if value is None or dtype not in ("date", "datetime"):
        return value
    days = value if dtype == "date" else value / 86_400e6
    try:
        time = _EPOCH + dt.timedelta(days=days)
    except OverflowError:  # the noise, or the end of an interval
        return value
    return time.date() if dtype == "date" else time.replace(microsecond=0)


def _text(value: Shown) -> str:
    if value is None or isinstance(value, dt.date):
        return "" if value is None else str(value)
    return str(value) if isinstance(value, str) else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
