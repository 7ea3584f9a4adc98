"""Statistics that are epsilon-DP: count, sum, mean, variance, quantile, histogram, each also for declared groups.

A statistic says everything that decides its price: bounds, categories and keys are declared, never taken from the data. What
is outside the bounds is moved to them, what is not finite to the lower one, what is in no declared category or group is left
out. Values are put on a grid of integers and summed exactly; noise is added by OpenDP (extra ``stats``), discrete Laplace for
sums and its private quantile for quantiles, both from a cryptographic generator; each scale is checked by OpenDP's own map.

**Sensitivity.** A unit of privacy (a record, or a subject with at most ``max_records`` records: `bound_records`) adds or
removes at most ``max_records`` records. Each record changes one entry of a vector of counts by 1, and one entry of a vector of
sums by at most the largest value on the grid. Groups are disjoint, so declaring many costs no more than one; a statistic made
of several sums divides its epsilon among them. So the price is `PureDp(epsilon)`, whatever the data.

| statistic | parts, each with its share of epsilon |
|---|---|
| Count, Histogram | counts |
| Sum | sums of x |
| Mean | counts; sums of x - m, with m the middle of the bounds |
| Variance | counts; sums of x - m; sums of (x - m)^2 - w^2 / 2, with w half the width |
| Quantile | one private quantile for each group |
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

import msgspec
import numpy as np
import numpy.typing as npt

from pygrid.errors import InvalidInput, Unavailable
from pygrid.privacy.events import PureDp, check_epsilon

Array = npt.NDArray[Any]
Key = int | str | bool
MAX_KEYS = 100_000
MAX_CANDIDATES = 10_000
MAX_RECORDS = 1_000_000
_GRID_BITS = 20
"""A bound is 2^20 steps or fewer: the rounding of a record is below a millionth of it."""
_PIECE = 1 << 18


class GroupBy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One answer for each declared key of a column; records with another key are left out."""

    column: str
    keys: tuple[Key, ...]

    def __post_init__(self) -> None:
        _check_keys(self.keys, "keys")


class Count(msgspec.Struct, frozen=True, tag="count", forbid_unknown_fields=True):
    """The number of records."""

    epsilon: float
    group_by: GroupBy | None = None

    def __post_init__(self) -> None:
        check_epsilon(self.epsilon)


class _Bounded(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    column: str
    lower: float
    upper: float
    epsilon: float
    group_by: GroupBy | None = None

    def __post_init__(self) -> None:
        check_epsilon(self.epsilon)
        if not (_is_real(self.lower) and _is_real(self.upper) and self.upper - self.lower >= 1e-100):
            raise InvalidInput(
                f"the bounds of {self.column!r} are {self.lower} and {self.upper}: declare two numbers, the lower one first, "
                "from what the column means and not from what is in it",
                code="invalid_bounds",
            )


class Sum(_Bounded, frozen=True, tag="sum"):
    """The sum of a column, each value within the bounds."""


class Mean(_Bounded, frozen=True, tag="mean"):
    """The mean of a column, each value within the bounds."""


class Variance(_Bounded, frozen=True, tag="variance"):
    """The variance of a column (the mean squared distance from the mean), each value within the bounds."""


class Quantile(msgspec.Struct, frozen=True, tag="quantile", forbid_unknown_fields=True):
    """The candidate nearest to a quantile of a column; ``alpha`` of 0.5 is the median. Candidates rise."""

    column: str
    alpha: float
    candidates: tuple[float, ...]
    epsilon: float
    group_by: GroupBy | None = None

    def __post_init__(self) -> None:
        check_epsilon(self.epsilon)
        if not 0.0 <= self.alpha <= 1.0:
            raise InvalidInput(
                f"a quantile of {self.alpha} makes no sense: use 0 to 1; 0.5 is the median", code="invalid_alpha"
            )
        if not 2 <= len(self.candidates) <= MAX_CANDIDATES or not all(map(_is_real, self.candidates)):
            raise InvalidInput(
                f"declare 2 to {MAX_CANDIDATES} finite numbers among which the quantile of {self.column!r} is looked for",
                code="invalid_candidates",
            )
        if any(a >= b for a, b in zip(self.candidates, self.candidates[1:], strict=False)):
            raise InvalidInput(
                f"the candidates for {self.column!r} must rise, each above the one before", code="invalid_candidates"
            )


class Histogram(msgspec.Struct, frozen=True, tag="histogram", forbid_unknown_fields=True):
    """Counts of a column: for each declared category, or between rising ``edges``, where a bin has its lower edge in it."""

    column: str
    epsilon: float
    categories: tuple[Key, ...] = ()
    edges: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_epsilon(self.epsilon)
        if bool(self.categories) == bool(self.edges):
            raise InvalidInput(
                f"declare either categories or edges for the histogram of {self.column!r}", code="invalid_histogram"
            )
        if self.categories:
            _check_keys(self.categories, "categories")
        elif not 2 <= len(self.edges) <= MAX_KEYS or not all(map(_is_real, self.edges)):
            raise InvalidInput(f"declare 2 to {MAX_KEYS} finite edges", code="invalid_histogram")
        elif any(a >= b for a, b in zip(self.edges, self.edges[1:], strict=False)):
            raise InvalidInput("the edges of a histogram must rise, each above the one before", code="invalid_histogram")


Statistic = Count | Sum | Mean | Variance | Quantile | Histogram


@dataclass(frozen=True)
class Answer:
    """A statistic of some records, with noise.

    ``keys`` names the entries of ``values``: the declared groups or categories, or the lower edges; empty for a single value.
    ``scale`` is that of the Laplace noise of the counts or sums, in the units of the column; None for a quantile.
    """

    keys: tuple[Key | float, ...]
    values: tuple[float, ...]
    scale: float | None


def price(statistic: Statistic) -> PureDp:
    """What the statistic costs, by what it declares alone."""
    return PureDp(float(statistic.epsilon))


def load_backend() -> None:
    """Import what adds the noise, which takes half a second, so that a Worker has it before it closes itself off.

    Raises:
        Unavailable: ``stats_extra_missing``.
    """
    _opendp()


def bound_records(subjects: Array, max_records: int) -> npt.NDArray[np.bool_]:
    """Which records count: the first ``max_records`` of each subject, in the order of the records.

    A subject that is added or removed changes the choice for no other, so at most ``max_records`` records change.

    Args:
        subjects: shape (n,), whole numbers that tell subjects apart.
    """
    _check_max_records(max_records)
    order = np.argsort(subjects, kind="stable")
    ordered = subjects[order]
    first = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ordered) else np.zeros(0, np.intp)
    rank = np.arange(len(ordered)) - np.repeat(first, np.diff(np.r_[first, len(ordered)]))
    kept = np.zeros(len(subjects), np.bool_)
    kept[order] = rank < max_records
    return kept


def compute(
    statistic: Statistic,
    columns: Mapping[str, Array],
    num_records: int,
    *,
    max_records: int = 1,
    kept: npt.NDArray[np.bool_] | None = None,
    texts: Mapping[str, Sequence[str]] | None = None,
) -> Answer:
    """The statistic with its noise.

    Args:
        columns: those it names, shape (num_records,), of any real dtype; may be maps of files.
        max_records: how many records one unit of privacy has at the most; the noise grows with it.
        kept: which records count; default: all. See `bound_records`.
        texts: for a column of text, whose array holds codes, what each code stands for.
    Raises:
        InvalidInput: ``unknown_column`` or ``invalid_column``: its shape or dtype. Unavailable: ``stats_extra_missing``.
    """
    _check_max_records(max_records)
    opendp = _opendp()
    data = _Records(columns, num_records, kept, texts or {})
    grouped = None if isinstance(statistic, Histogram) else statistic.group_by
    keys: tuple[Key | float, ...] = () if grouped is None else grouped.keys
    groups = data.everything() if grouped is None else data.by_keys(grouped.column, grouped.keys)
    match statistic:
        case Count(epsilon=epsilon):
            counts, scale = _noisy(opendp, groups.count(), 1, epsilon, max_records)
            return Answer(keys, _floats(counts), scale)
        case Histogram(column=column, epsilon=epsilon, categories=categories, edges=edges):
            groups = data.by_keys(column, categories) if categories else data.by_edges(column, edges)
            counts, scale = _noisy(opendp, groups.count(), 1, epsilon, max_records)
            return Answer(categories or edges[:-1], _floats(counts), scale)
        case Sum(column=column, lower=lower, upper=upper, epsilon=epsilon):
            sums, scale = _noisy_sum(opendp, data, groups, _Values(column, lower, upper), epsilon, max_records)
            return Answer(keys, _floats(sums), scale)
        case Mean() | Variance():
            return Answer(keys, *_moments(opendp, data, groups, statistic, max_records))
        case Quantile(column=column, alpha=alpha, candidates=candidates, epsilon=epsilon):
            values = data.quantile_inputs(column, candidates[0])
            measure = _quantile(opendp, candidates, alpha, epsilon, max_records)
            found = [float(measure(values[groups.of == group])) for group in range(groups.num)]
            return Answer(keys, tuple(found), None)
        case _:
            assert_never(statistic)


@dataclass(frozen=True)
class _Groups:
    """The group of each record, -1 for none."""

    of: npt.NDArray[np.int64]
    num: int

    def count(self) -> npt.NDArray[np.int64]:
        return np.bincount(self.of[self.of >= 0], minlength=self.num).astype(np.int64)


@dataclass(frozen=True)
class _Values:
    """A column within bounds, its middle taken off if ``centred``, then as it is or squared, on a grid of integers."""

    column: str
    lower: float
    upper: float
    centred: bool = False
    squared: bool = False

    @property
    def _largest(self) -> float:
        half = (self.upper - self.lower) / 2
        if self.squared:
            return half * half / 2
        return half if self.centred else max(abs(self.lower), abs(self.upper))

    @property
    def step(self) -> float:
        """A power of two, so that going to the grid and back rounds once."""
        return math.ldexp(1.0, math.ceil(math.log2(self._largest)) - _GRID_BITS)

    @property
    def bound(self) -> int:
        """The largest magnitude on the grid."""
        return math.ceil(self._largest / self.step)

    def on_grid(self, values: Array) -> npt.NDArray[np.int64]:
        wide = values.astype(np.float64)
        wide = np.where(np.isfinite(wide), np.clip(wide, self.lower, self.upper), self.lower)
        if self.centred:
            wide = wide - (self.lower + self.upper) / 2
        if self.squared:
            wide = wide * wide - ((self.upper - self.lower) / 2) ** 2 / 2
        # Clipped again as integers: what holds is the bound, however the floats were rounded.
        return np.clip(np.rint(wide / self.step).astype(np.int64), -self.bound, self.bound)


class _Records:
    """The columns that a statistic reads."""

    def __init__(
        self,
        columns: Mapping[str, Array],
        num_records: int,
        kept: npt.NDArray[np.bool_] | None,
        texts: Mapping[str, Sequence[str]],
    ) -> None:
        self._columns, self._num, self._kept, self._texts = columns, num_records, kept, texts

    def _column(self, name: str) -> Array:
        if name not in self._columns:
            raise InvalidInput(
                f"there is no column {name!r}; there are {sorted(self._columns)}", code="unknown_column", column=name
            )
        column = self._columns[name]
        if column.shape != (self._num,) or column.dtype.kind not in "fiub":
            raise InvalidInput(
                f"statistics need one number for each record; column {name!r} is {column.dtype} {list(column.shape)}",
                code="invalid_column",
                column=name,
            )
        return column

    def everything(self) -> _Groups:
        return self._groups(np.zeros(self._num, np.int64), 1)

    def by_keys(self, name: str, keys: tuple[Key, ...]) -> _Groups:
        column = self._column(name)
        wanted: Sequence[Any] = keys
        if name in self._texts:
            codes = {text: code for code, text in enumerate(self._texts[name])}
            wanted = [codes.get(str(key), -1) for key in keys]
        elif any(isinstance(key, str) for key in keys):
            raise InvalidInput(f"column {name!r} holds numbers, and the keys are text", code="invalid_column", column=name)
        group_of = {int(value): group for group, value in enumerate(wanted) if value != -1 or name not in self._texts}
        known = np.array(sorted(group_of), np.int64)
        numbers = np.array([group_of[int(value)] for value in known], np.int64)
        of = np.full(self._num, -1, np.int64)
        if len(known):
            for start in range(0, self._num, _PIECE):
                piece = np.asarray(column[start : start + _PIECE])
                whole = piece.astype(np.float64)
                place = np.minimum(np.searchsorted(known, whole), len(known) - 1)
                of[start : start + _PIECE] = np.where(known[place] == whole, numbers[place], -1)
        return self._groups(of, len(keys))

    def by_edges(self, name: str, edges: tuple[float, ...]) -> _Groups:
        column = self._column(name)
        values = np.asarray(column, np.float64)
        of = np.searchsorted(np.array(edges), values, side="right").astype(np.int64) - 1
        outside = ~np.isfinite(values) | (of < 0) | (of >= len(edges) - 1)
        return self._groups(np.where(outside, -1, of), len(edges) - 1)

    def _groups(self, of: npt.NDArray[np.int64], num: int) -> _Groups:
        if self._kept is not None:
            of = np.where(self._kept, of, -1)
        return _Groups(of, num)

    def sum(self, values: _Values, groups: _Groups) -> npt.NDArray[np.int64]:
        """Exact sums by group."""
        column = self._column(values.column)
        sums = np.zeros(groups.num, np.int64)
        for start in range(0, self._num, _PIECE):
            of = groups.of[start : start + _PIECE]
            inside = of >= 0
            on_grid = values.on_grid(np.asarray(column[start : start + _PIECE]))
            # 2^18 values of at most 2^20 are exact in float64.
            sums += np.bincount(of[inside], weights=on_grid[inside], minlength=groups.num).astype(np.int64)
        return sums

    def quantile_inputs(self, name: str, lowest: float) -> npt.NDArray[np.float64]:
        values = np.asarray(self._column(name), np.float64)
        return np.where(np.isfinite(values), values, lowest)


def _moments(
    opendp: Any, data: _Records, groups: _Groups, statistic: Mean | Variance, max_records: int
) -> tuple[tuple[float, ...], float]:
    """Means or variances of the groups, and the scale of the noise of the sums they come from."""
    share = statistic.epsilon / (2 if isinstance(statistic, Mean) else 3)
    half = (statistic.upper - statistic.lower) / 2
    counts, _ = _noisy(opendp, groups.count(), 1, share, max_records)
    counts = np.maximum(counts, 1.0)
    centred = _Values(statistic.column, statistic.lower, statistic.upper, centred=True)
    sums, scale = _noisy_sum(opendp, data, groups, centred, share, max_records)
    means = np.clip(sums / counts, -half, half)
    if isinstance(statistic, Mean):
        return _floats(means + (statistic.lower + statistic.upper) / 2), scale
    squared = _Values(statistic.column, statistic.lower, statistic.upper, centred=True, squared=True)
    squares, scale = _noisy_sum(opendp, data, groups, squared, share, max_records)
    return _floats(np.clip(squares / counts + half * half / 2 - means * means, 0.0, half * half)), scale


def _noisy_sum(
    opendp: Any, data: _Records, groups: _Groups, values: _Values, epsilon: float, max_records: int
) -> tuple[npt.NDArray[np.float64], float]:
    sums, scale = _noisy(opendp, data.sum(values, groups), values.bound, epsilon, max_records)
    return sums * values.step, scale * values.step


def _noisy(
    opendp: Any, exact: npt.NDArray[np.int64], bound: int, epsilon: float, max_records: int
) -> tuple[npt.NDArray[np.float64], float]:
    """Whole numbers, each with discrete Laplace noise; ``bound`` is what one record changes, in L1 norm."""
    sensitivity = bound * max_records
    # A hair more than needed: the map rounds up, and the price must not be above what was declared.
    scale = sensitivity / epsilon * (1 + 1e-9)
    space = opendp.vector_domain(opendp.atom_domain(T="i64")), opendp.l1_distance(T="i64")
    measure = opendp.m.make_laplace(*space, scale=scale)
    _check_map(measure.map(d_in=sensitivity), epsilon)
    return np.array(measure(exact), np.float64), scale


def _quantile(opendp: Any, candidates: tuple[float, ...], alpha: float, epsilon: float, max_records: int) -> Any:
    space = opendp.vector_domain(opendp.atom_domain(T="f64", nan=False)), opendp.symmetric_distance()

    def make(scale: float) -> Any:
        return opendp.m.make_private_quantile(
            *space, opendp.max_divergence(), candidates=list(candidates), alpha=alpha, scale=scale
        )

    # The loss of this mechanism is what it is at scale 1, divided by the scale.
    scale = make(1.0).map(max_records) / epsilon * (1 + 1e-9)
    measure = make(scale)
    _check_map(measure.map(max_records), epsilon)
    return measure


def _check_map(loss: float, epsilon: float) -> None:
    if not loss <= epsilon:
        raise RuntimeError(f"the mechanism would cost {loss}, more than the {epsilon} that was declared")


def _opendp() -> Any:
    try:
        import opendp.prelude as opendp
    except ImportError as error:
        raise Unavailable(
            "statistics need the extra: pip install 'pygrid[stats]' on the Domain", code="stats_extra_missing"
        ) from error
    opendp.enable_features("contrib")
    return opendp


def _floats(values: npt.NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _is_real(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and abs(value) <= 1e100


def _check_keys(keys: tuple[Key, ...], what: str) -> None:
    if not 1 <= len(keys) <= MAX_KEYS:
        raise InvalidInput(f"declare 1 to {MAX_KEYS} {what}", code="invalid_keys")
    if len({type(key) for key in keys}) > 1 or len(set(keys)) < len(keys):
        raise InvalidInput(f"the {what} must be all different and all of one kind: numbers or text", code="invalid_keys")
    if any(isinstance(key, int) and abs(key) >= 2**53 for key in keys):
        raise InvalidInput(f"{what} must be below 2^53", code="invalid_keys")


def _check_max_records(max_records: int) -> None:
    if not 1 <= max_records <= MAX_RECORDS:
        raise InvalidInput(
            f"{max_records} records of a subject make no sense: use 1 to {MAX_RECORDS}", code="invalid_max_records"
        )
