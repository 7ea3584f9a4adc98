"""Statistics of a column, for `DomainClient.statistics`.

    queries = [count(by="sex", keys=["f", "m"]), mean("age", lower=0, upper=120)]
    domain.statistics("patients", queries, epsilon=1, delta=1e-6, ...)

The requester declares bounds, edges and keys. They are never read from the data, which would reveal something about it.
Values beyond the bounds count as the bound. Records with other keys are left out, and so are missing values: each
answer is about the values that are present, and ``count`` is their number.

Bounds, edges and keys of dates are dates: ``count(by="visit", per="month", keys=["2020-11", "2020-12"])``. Answers
about dates are numbers: days (date) or microseconds (datetime) since 1970-01-01.
"""

from __future__ import annotations

import datetime as dt
import decimal
from collections.abc import Sequence
from typing import Any, Literal, Required, TypedDict

import numpy as np

from pygrid.messages.jobs import StatisticRequest

Keys = Sequence[int | str | dt.date]
Limit = float | decimal.Decimal | str | dt.date
"""A number, or for a column of dates a date: ``2020-12-31`` or a `datetime.date`."""
Per = Literal["", "year", "month"]
Figure = float | list[float] | None
"""A number, one for each bin of a histogram, or None: there was no value."""


class StatisticAnswer(TypedDict, total=False):
    """One answer; see ``docs/reference/protocol.md``. Standard errors come from the noise of a private job."""

    kind: Required[Literal["count", "sum", "mean", "variance", "quantile", "histogram"]]
    column: Required[str]
    value: Figure
    """Without ``by``."""
    by: str
    groups: list[tuple[int | str, Figure]]
    """With ``by``: each key with its value."""
    count: float
    """How many values are present."""
    counts: list[float]
    """With ``by``: as ``count``, in the order of the groups."""
    noise_std: float
    count_noise_std: float
    interval: list[Any]
    """``[low, high]``, which contains the value without noise in 95% of all cases; one for each bin or group."""


def count(column: str = "", *, by: str = "", keys: Keys = (), per: Per = "") -> StatisticRequest:
    """The number of records, or of the values of a column that are present; with ``by``, for each key."""
    return StatisticRequest("count", column, by=by, keys=_keys(keys), per=per)


def sum(column: str, *, lower: Limit, upper: Limit, by: str = "", keys: Keys = (), per: Per = "") -> StatisticRequest:
    """The sum of a column, with its values clipped to ``lower`` and ``upper``."""
    return StatisticRequest("sum", column, _limit(lower), _limit(upper), by=by, keys=_keys(keys), per=per)


def mean(column: str, *, lower: Limit, upper: Limit, by: str = "", keys: Keys = (), per: Per = "") -> StatisticRequest:
    """The mean of a column, with its values clipped to ``lower`` and ``upper``."""
    return StatisticRequest("mean", column, _limit(lower), _limit(upper), by=by, keys=_keys(keys), per=per)


def variance(
    column: str, *, lower: Limit, upper: Limit, by: str = "", keys: Keys = (), per: Per = ""
) -> StatisticRequest:
    """The variance (of the population) of a column, with its values clipped to ``lower`` and ``upper``."""
    return StatisticRequest("variance", column, _limit(lower), _limit(upper), by=by, keys=_keys(keys), per=per)


def quantile(
    column: str, q: float = 0.5, *, candidates: Sequence[Limit], by: str = "", keys: Keys = (), per: Per = ""
) -> StatisticRequest:
    """The candidate (of at least two, rising) nearest to the value that a share ``q`` of records does not exceed."""
    return StatisticRequest(
        "quantile", column, edges=tuple(map(_limit, candidates)), quantile=q, by=by, keys=_keys(keys), per=per
    )


def histogram(column: str, *, edges: Sequence[Limit], by: str = "", keys: Keys = (), per: Per = "") -> StatisticRequest:
    """The number of records between each two edges (at least two, rising); values beyond count in the outer bins."""
    return StatisticRequest("histogram", column, edges=tuple(map(_limit, edges)), by=by, keys=_keys(keys), per=per)


def _limit(value: Limit) -> float | str:
    if isinstance(value, decimal.Decimal):
        return float(value)
    return value.isoformat() if isinstance(value, dt.date) else value


def _keys(keys: Keys) -> tuple[int | str, ...]:
    """Keys as texts and whole numbers. ``2.0`` and ``True``, also of numpy, are whole numbers."""
    shown = [key.item() if isinstance(key, np.bool_ | np.number) else key for key in keys]
    whole = [int(key) if isinstance(key, bool | float) and key == key // 1 else key for key in shown]
    return tuple(key.isoformat() if isinstance(key, dt.date) else key for key in whole)
