"""Mock datasets: records generated from the schema alone, to try a program without seeing the data."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from pygrid.core.column_times import DAY_US
from pygrid.core.datasets import CODED, MISSING_CODE, TIMES, Column, Schema, bounds_of, stored_dtype, visible_schema
from pygrid.core.preparation import file_columns, preparations_in, prepared_columns, with_prepared

_PLACEHOLDERS = ("a", "b", "c")
"""Categories of a text column whose categories are not public."""
_WIDEST_INT = 100
_FIRST_DAY, _LAST_DAY = 10_957, 21_914
"""2000-01-01 and 2029-12-31: bounds of dates without declared ones."""
MAX_MOCK_VALUES = 4_000_000
"""Maximum number of values in a generated mock dataset. Wide records are fewer."""


def num_mock_records(schema: Schema, wanted: int) -> int:
    """Number of generated records for a wanted number. 0: a single record is too wide for a mock dataset."""
    width = sum(column.num_values for column in schema.columns)
    return min(wanted, MAX_MOCK_VALUES // width)


def draw_mock(
    schema: Schema, num_records: int, seed: int, *, within: Schema | None = None
) -> tuple[Schema, dict[str, npt.NDArray[Any]]]:
    """Generate a table with the same columns and meaningless values.

    Values are uniform within declared bounds, otherwise standard normal or small integers. In a column with missing
    values every tenth record has some. Prepared columns are computed from the generated ones. Only the public part of
    the schema is used: not the number of records, and no category that comes from the data.

    Args:
        within: the same columns with other bounds, which the values of the columns of the file have.
        num_records: maximum number. There are fewer, but at least one, if the values would exceed
            `MAX_MOCK_VALUES`.
    Returns:
        The schema of the mock dataset, and its columns by name as stored (texts as int32 codes); each ``[num_records,
        *shape]``.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    num_records = min(num_records, max(1, num_mock_records(schema, num_records)))
    shown = visible_schema(schema, to_owner=False)
    public = file_columns(shown if within is None else visible_schema(within, to_owner=False))
    columns: list[Column] = []
    arrays: dict[str, npt.NDArray[Any]] = {}
    for column in public.columns:
        if column.name == shown.subject:
            columns.append(msgspec.structs.replace(column, categories=None, num_categories=None))
            arrays[column.name] = _subjects(column, shown, num_records, generator)
            continue
        if column.dtype in CODED and column.categories is None:
            column = msgspec.structs.replace(column, categories=_PLACEHOLDERS, num_categories=len(_PLACEHOLDERS))
        columns.append(column)
        arrays[column.name] = _values(column, num_records, generator)
        if column.may_have_missing and column.has_missing:
            missing = MISSING_CODE if column.dtype in CODED else np.nan
            arrays[column.name].reshape(num_records, -1)[::10, ::2] = missing
    num_subjects = None if shown.subject is None else len(np.unique(arrays[shown.subject]))
    prepared = prepared_columns(file_columns(shown), preparations_in(shown))
    for one in prepared:
        arrays[one.column.name] = one.compute(arrays[one.source])
    schema = msgspec.structs.replace(shown, columns=tuple(columns), num_records=num_records, num_subjects=num_subjects)
    return with_prepared(schema, prepared), arrays


def _subjects(column: Column, schema: Schema, num_records: int, generator: np.random.Generator) -> npt.NDArray[Any]:
    each = schema.max_records_per_subject or 1
    codes = generator.integers(0, max(1, -(-num_records // each)), num_records)
    return codes.astype(stored_dtype(column))


def _values(column: Column, num_records: int, generator: np.random.Generator) -> npt.NDArray[Any]:
    shape = (num_records, *column.shape)
    if column.dtype in CODED:
        assert column.categories is not None
        return generator.integers(0, len(column.categories), shape, dtype=np.int32)
    if column.dtype == "bool":
        return generator.integers(0, 2, shape, dtype=np.uint8).astype(np.bool_)
    low, high = bounds_of(column)
    if column.dtype in TIMES:
        unit = 1 if column.dtype == "date" else DAY_US
        low = low if low is not None else min(_FIRST_DAY * unit, high if high is not None else math.inf)
        high = high if high is not None else max(_LAST_DAY * unit, low)
        return np.floor(generator.uniform(low, high + 1, shape)).clip(math.ceil(low), math.floor(high))
    if column.dtype in ("float32", "float64"):
        values = (
            generator.standard_normal(shape) if low is None or high is None else generator.uniform(low, high, shape)
        )
        return (
            np.clip(values, low, high).astype(column.dtype)
            if low is not None or high is not None
            else values.astype(column.dtype)
        )
    widest = np.iinfo(column.dtype)
    first = int(np.ceil(low)) if low is not None else 0 if high is None else int(high) - _WIDEST_INT
    last = int(np.floor(high)) if high is not None else first + _WIDEST_INT
    first, last = max(first, int(widest.min)), min(last, int(widest.max))
    return generator.integers(min(first, last), last, shape, dtype=np.int64, endpoint=True).astype(column.dtype)
