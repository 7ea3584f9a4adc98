"""Completes schemas of pygrid 0.1 from the stored records: missing values, and the number of subjects."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from pygrid.core.datasets import Schema
from pygrid.storage.columns import ColumnFiles, map_columns

_BLOCK = 1 << 20
"""Number of values that are checked at once."""


def complete_schema(files: ColumnFiles, folder: str, schema: Schema) -> Schema:
    """Return the schema with `Column.has_missing` and `Schema.num_subjects`. Blocks; reads each float column once.

    Raises:
        NotFound: ``records_not_found``. OSError.
    """
    _, arrays = map_columns(files.path(folder))
    columns = tuple(
        msgspec.structs.replace(column, has_missing=_has_missing(arrays[column.name].reshape(-1)))
        if column.dtype in ("float32", "float64")
        else column
        for column in schema.columns
    )
    num_subjects = None if schema.subject is None else len(np.unique(arrays[schema.subject]))
    return msgspec.structs.replace(schema, columns=columns, num_subjects=num_subjects)


def _has_missing(values: npt.NDArray[np.floating]) -> bool:
    return any(np.isnan(values[begin : begin + _BLOCK]).any() for begin in range(0, len(values), _BLOCK))
