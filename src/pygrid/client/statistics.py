"""Statistics of a column, for `DomainClient.statistics`.

    queries = [count(by="sex", keys=["f", "m"]), mean("age", lower=0, upper=120)]
    domain.statistics("patients", queries, epsilon=1, delta=1e-6, ...)

The requester declares bounds, edges and keys. They are never read from the data, which would reveal something about it.
Values beyond the bounds count as the bound. Records with other keys are left out, and so are missing values: each
answer is about the values that are present, and ``count`` is their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Required, TypedDict

from pygrid.messages.jobs import StatisticRequest

Keys = Sequence[int | str]
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


def count(column: str = "", *, by: str = "", keys: Keys = ()) -> StatisticRequest:
    """The number of records, or of the values of a column that are present; with ``by``, for each key."""
    return StatisticRequest("count", column, by=by, keys=tuple(keys))


def sum(column: str, *, lower: float, upper: float, by: str = "", keys: Keys = ()) -> StatisticRequest:
    """The sum of a column, with its values clipped to ``lower`` and ``upper``."""
    return StatisticRequest("sum", column, lower, upper, by=by, keys=tuple(keys))


def mean(column: str, *, lower: float, upper: float, by: str = "", keys: Keys = ()) -> StatisticRequest:
    """The mean of a column, with its values clipped to ``lower`` and ``upper``."""
    return StatisticRequest("mean", column, lower, upper, by=by, keys=tuple(keys))


def variance(column: str, *, lower: float, upper: float, by: str = "", keys: Keys = ()) -> StatisticRequest:
    """The variance (of the population) of a column, with its values clipped to ``lower`` and ``upper``."""
    return StatisticRequest("variance", column, lower, upper, by=by, keys=tuple(keys))


def quantile(
    column: str, q: float = 0.5, *, candidates: Sequence[float], by: str = "", keys: Keys = ()
) -> StatisticRequest:
    """The candidate (of at least two, rising) nearest to the value that a share ``q`` of records does not exceed."""
    return StatisticRequest("quantile", column, edges=tuple(candidates), quantile=q, by=by, keys=tuple(keys))


def histogram(column: str, *, edges: Sequence[float], by: str = "", keys: Keys = ()) -> StatisticRequest:
    """The number of records between each two edges (at least two, rising); values beyond count in the outer bins."""
    return StatisticRequest("histogram", column, edges=tuple(edges), by=by, keys=tuple(keys))
