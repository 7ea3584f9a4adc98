"""Computes prepared columns (`pygrid.messages.preparations`) from columns of a dataset.

A step uses the declaration of its column and constants of the data owner, never the records: bounds and categories
that come from the data are refused. So each value is a function of the value of the same record alone, and the
description of a prepared column says nothing about the data.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import msgspec
import numpy as np
import numpy.typing as npt

from pygrid import codes
from pygrid.core.column_times import write_time
from pygrid.core.datasets import (
    CODED,
    MISSING_CODE,
    NULLABLE,
    TIMES,
    Column,
    Schema,
    bound_number,
    bounds_of,
    check_column_name,
    stored_dtype,
)
from pygrid.errors import InvalidConfig
from pygrid.messages.preparations import (
    BucketizeStep,
    ClipStep,
    FillStep,
    OneHotStep,
    Preparation,
    PreparedFrom,
    PrepareRequest,
    StandardizeStep,
    Step,
)

MAX_PREPARED = 256
"""Prepared columns of a dataset."""
MAX_STEPS = 16
MAX_EDGES = 1000
MAX_ONE_HOT = 10_000
"""Values of one record of a one-hot column."""

Array = npt.NDArray[Any]
Compute = Callable[[Array], Array]
"""Stored values ``[n, *shape]`` of one column -> those of another one."""


@dataclass(frozen=True)
class PreparedColumn:
    """A prepared column, and how to compute its values from the stored values of its source."""

    column: Column
    source: str
    compute: Compute


def file_columns(schema: Schema) -> Schema:
    """The schema without its prepared columns."""
    columns = tuple(column for column in schema.columns if column.prepared is None)
    return msgspec.structs.replace(schema, columns=columns)


def preparations_in(schema: Schema) -> tuple[Preparation, ...]:
    """The preparations of a schema, in their order."""
    return tuple(
        Preparation(source=column.prepared.source, steps=column.prepared.steps, name=column.name)
        for column in schema.columns
        if column.prepared is not None
    )


def changed_preparations(schema: Schema, request: PrepareRequest) -> tuple[Preparation, ...]:
    """The preparations of the next version of a dataset with this schema.

    Raises:
        InvalidConfig: ``invalid_preparation``: the request changes nothing, or removes a column that is not prepared.
    """
    there = {preparation.name: preparation for preparation in preparations_in(schema)}
    for name in request.remove:
        if there.pop(name, None) is None:
            listed = ", ".join(there) or "none"
            _refuse(name[:100], f"the dataset has no prepared column of this name to remove; it has {listed}")
    if not request.columns and not request.remove:
        raise InvalidConfig(
            "the request changes nothing: name columns to prepare, or prepared columns to remove",
            code=codes.INVALID_PREPARATION,
        )
    check_preparations(request.columns)
    return tuple((there | {preparation.name: preparation for preparation in request.columns}).values())


def check_preparations(preparations: Sequence[Preparation]) -> None:
    """Check what does not depend on the columns of a file.

    Raises:
        InvalidConfig: ``invalid_preparation``, ``invalid_column_name``.
    """
    names = [preparation.name for preparation in preparations]
    for name in names:
        check_column_name(name)
        if names.count(name) > 1:
            _refuse(name, "it is described twice; describe it once")
    if len(preparations) > MAX_PREPARED:
        _refuse(names[MAX_PREPARED], f"a dataset has at most {MAX_PREPARED} prepared columns")
    for preparation in preparations:
        if not 1 <= len(preparation.steps) <= MAX_STEPS:
            _refuse(preparation.name, f"it has {len(preparation.steps)} steps; use 1 to {MAX_STEPS}")


def prepared_columns(schema: Schema, preparations: Sequence[Preparation]) -> list[PreparedColumn]:
    """The prepared columns of a dataset with the columns of a file.

    Args:
        schema: of the columns of the file.
    Raises:
        InvalidConfig: ``invalid_preparation``: names the prepared column, the step and the fault.
    """
    check_preparations(preparations)
    return [_prepare(schema, preparation) for preparation in preparations]


def with_prepared(schema: Schema, prepared: Sequence[PreparedColumn]) -> Schema:
    """The schema with prepared columns after those of the file."""
    columns = file_columns(schema).columns + tuple(one.column for one in prepared)
    return msgspec.structs.replace(schema, columns=columns)


def _prepare(schema: Schema, preparation: Preparation) -> PreparedColumn:
    name, column = preparation.name, schema.find(preparation.source)
    if schema.find(name) is not None:
        _refuse(name, "the file has a column of that name; choose another one")
    if column is None:
        there = ", ".join(column.name for column in schema.columns[:20])
        _refuse(name, f"the file has no column {preparation.source[:100]!r}; it has {there}")
    if column.name == schema.subject or column.dtype == "text":
        _refuse(name, f"column {column.name!r} holds subjects or texts; declare a category to prepare it")
    low, high = bounds_of(column)
    column = msgspec.structs.replace(column, name=name, meaning="", description="", min=low, max=high, format="")
    computes = []
    for step in preparation.steps:
        column, compute = _follow(column, step)
        computes.append(compute)
    column = msgspec.structs.replace(column, prepared=PreparedFrom(preparation.source, preparation.steps))

    def compute_all(values: Array) -> Array:
        for compute in computes:
            values = compute(values)
        return values

    return PreparedColumn(column, preparation.source, compute_all)


def _follow(column: Column, step: Step) -> tuple[Column, Compute]:
    """The column after a step, and the step."""
    match step:
        case FillStep():
            return _fill(column, step)
        case ClipStep():
            return _clip(column, step)
        case StandardizeStep():
            return _standardize(column, step)
        case BucketizeStep():
            return _bucketize(column, step)
        case OneHotStep():
            return _one_hot(column)


def _fill(column: Column, step: FillStep) -> tuple[Column, Compute]:
    if column.dtype not in NULLABLE:
        _refuse(column.name, f"fill: a column of {column.dtype} has no missing values; leave the step out")
    filled = msgspec.structs.replace(column, has_missing=False)
    if column.dtype in CODED:
        code = _levels(column, "fill").index(_level(column, step.value))
        return filled, lambda values: np.where(values == MISSING_CODE, np.int32(code), values)
    number = _number(column, "fill", step.value)
    if (column.min is not None and number < column.min) or (column.max is not None and number > column.max):
        bounds = f"{_shown(column, column.min)} to {_shown(column, column.max)}"
        _refuse(column.name, f"fill: {step.value} is not within the bounds, {bounds}")
    value = stored_dtype(column).type(number)
    return filled, lambda values: np.where(np.isnan(values), value, values)


def _level(column: Column, value: float | str) -> str:
    text = value if isinstance(value, str) else repr(value).removesuffix(".0")
    levels = _levels(column, "fill")
    if text not in levels:
        _refuse(column.name, f"fill: {text[:80]!r} is not one of its categories: {', '.join(levels[:20])}")
    return text


def _clip(column: Column, step: ClipStep) -> tuple[Column, Compute]:
    if column.dtype in CODED or column.dtype == "bool":
        _refuse(column.name, f"clip: a column of {column.dtype} has no order; clip numbers or dates")
    if step.low is None and step.high is None:
        _refuse(column.name, "clip: name a lower bound, an upper bound, or both")
    dtype = stored_dtype(column)
    low, high = -math.inf, math.inf
    if dtype.kind in "iu":
        low, high = float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)
    given_low = low if step.low is None else _number(column, "clip", step.low)
    given_high = high if step.high is None else _number(column, "clip", step.high)
    if dtype.kind in "iu" or column.dtype in TIMES:
        given_low, given_high = _up(given_low), _down(given_high)
    if not given_low <= given_high or given_low > high or given_high < low:
        _refuse(column.name, f"clip: no value of a column of {column.dtype} is within {step.low} to {step.high}")
    low, high = max(low, given_low), min(high, given_high)
    first, last = _bound_of(dtype, low), _bound_of(dtype, high)
    clipped = msgspec.structs.replace(
        column,
        min=_moved(column.min, low, high, None if step.low is None else low),
        max=_moved(column.max, low, high, None if step.high is None else high),
    )
    return clipped, lambda values: np.clip(values, first, last)


def _bound_of(dtype: np.dtype[Any], bound: float) -> Any:
    """A bound in the dtype of a column; whole numbers exactly."""
    if dtype.kind not in "iu":
        return dtype.type(bound)
    limits = np.iinfo(dtype)
    return dtype.type(max(int(limits.min), min(int(limits.max), int(bound))))


def _moved(bound: float | None, low: float, high: float, unbounded: float | None) -> float | None:
    """A declared bound after a clip; ``unbounded`` where none is declared."""
    return unbounded if bound is None else min(max(bound, low), high)


def _up(bound: float) -> float:
    return bound if math.isinf(bound) else float(math.ceil(bound))


def _down(bound: float) -> float:
    return bound if math.isinf(bound) else float(math.floor(bound))


def _standardize(column: Column, step: StandardizeStep) -> tuple[Column, Compute]:
    if column.dtype in CODED:
        _refuse(column.name, f"standardize: a column of {column.dtype} has no order; use one_hot")
    first, last = (0.0, 1.0) if column.dtype == "bool" else (column.min, column.max)
    if first is None or last is None:
        _refuse(
            column.name,
            "standardize: its bounds are not declared; declare min and max of its source, or put clip=LOW..HIGH before",
        )
    low, high = step.low, step.high
    if not all(map(math.isfinite, (low, high, last - first))) or not low < high or not first < last:
        _refuse(column.name, f"standardize: it cannot map {first:g} to {last:g} to {low:g} to {high:g}; use low < high")
    start, width, target = first, last - first, high - low
    changed = msgspec.structs.replace(
        column,
        dtype="float32",
        unit="",
        min=float(np.float32(low)),
        max=float(np.float32(high)),
        has_missing=column.has_missing if column.dtype in NULLABLE else False,
    )

    def compute(values: Array) -> Array:
        shares = (values.astype(np.float64) - start) / width
        return np.clip(low + shares * target, low, high).astype(np.float32)

    return changed, compute


def _bucketize(column: Column, step: BucketizeStep) -> tuple[Column, Compute]:
    if column.dtype in CODED or column.dtype == "bool" or column.shape:
        _refuse(column.name, "bucketize: it needs one number or one date for each record")
    edges = [_number(column, "bucketize", edge) for edge in step.edges]
    if not 1 <= len(edges) <= MAX_EDGES or any(low >= high for low, high in itertools.pairwise(edges)):
        _refuse(column.name, f"bucketize: name 1 to {MAX_EDGES:,} edges in rising order")
    texts = [_shown(column, edge) for edge in edges]
    levels = (f"<{texts[0]}", *(f"{low}..{high}" for low, high in itertools.pairwise(texts)), f">={texts[-1]}")
    changed = msgspec.structs.replace(
        column,
        dtype="category",
        unit="",
        min=None,
        max=None,
        categories=levels,
        num_categories=len(levels),
        declared=True,
        has_missing=column.has_missing if column.dtype in NULLABLE else False,
    )
    if len(set(levels)) != len(levels):
        _refuse(column.name, "bucketize: two edges are written in the same way; use edges that differ more")

    def compute(values: Array) -> Array:
        found = np.searchsorted(np.array(edges), values, side="right").astype(np.int32)
        return np.where(np.isnan(values), np.int32(MISSING_CODE), found) if values.dtype.kind == "f" else found

    return changed, compute


def _one_hot(column: Column) -> tuple[Column, Compute]:
    if column.shape:
        _refuse(column.name, "one_hot: it needs one value for each record")
    first, last = 0.0, 1.0
    if column.dtype in CODED:
        last = len(_levels(column, "one_hot")) - 1.0
    elif column.dtype in ("int32", "int64", "uint8"):
        if column.min is None or column.max is None:
            _refuse(column.name, "one_hot: its bounds are not declared; declare min and max of its source, or a label")
        first, last = _up(column.min), _down(column.max)
    elif column.dtype != "bool":
        _refuse(column.name, f"one_hot: a column of {column.dtype} has no levels; put bucketize=EDGE|EDGE before")
    width = int(last - first) + 1
    if not 1 <= width <= MAX_ONE_HOT:
        _refuse(column.name, f"one_hot: it would have {width:,} values for each record; use 1 to {MAX_ONE_HOT:,}")
    changed = Column(column.name, "uint8", (width,), min=0.0, max=1.0)

    def compute(values: Array) -> Array:
        places = values.astype(np.int64) - int(first)
        rows = np.flatnonzero((places >= 0) & (places < width))
        hot = np.zeros((len(values), width), np.uint8)
        hot[rows, places[rows]] = 1
        return hot

    return changed, compute


def _levels(column: Column, step: str) -> list[str]:
    if not column.declared or column.categories is None:
        _refuse(column.name, f"{step}: the categories come from the data; declare them (categories) in the upload")
    return list(column.categories)


def _number(column: Column, step: str, value: float | str) -> float:
    """A constant of a step as a stored value of the column; finite."""
    try:
        if isinstance(value, str) and column.dtype not in TIMES:
            value = float(value)
        number = bound_number(value, column.dtype)
    except ValueError:
        number = None
    if number is None or not math.isfinite(number):
        wanted = "a date such as 2020-12-31" if column.dtype in TIMES else "a finite number"
        _refuse(column.name, f"{step}: {str(value)[:80]!r} is not {wanted}")
    return float(number)


def _shown(column: Column, value: float | None) -> str:
    if value is None:
        return "any"
    return write_time(value, column.dtype) if column.dtype in TIMES else repr(value).removesuffix(".0")


def _refuse(name: str, why: str) -> NoReturn:
    raise InvalidConfig(f"prepared column {name!r}: {why}", code=codes.INVALID_PREPARATION, column=name)
