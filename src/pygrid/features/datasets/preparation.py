"""Writes prepared columns into a folder of columns, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pygrid import codes
from pygrid.core.datasets import DatasetLimits, Schema
from pygrid.core.preparation import file_columns, prepared_columns, with_prepared
from pygrid.errors import InvalidDataset, PayloadTooLarge
from pygrid.messages.preparations import Preparation
from pygrid.storage.columns import ColumnDraft, map_columns

_VALUES_AT_ONCE = 1 << 20


def prepared_schema(schema: Schema, preparations: Sequence[Preparation], limits: DatasetLimits) -> Schema:
    """The schema of a table with these prepared columns, and no others.

    Raises:
        InvalidConfig: ``invalid_preparation``. InvalidDataset: ``dataset_too_many_columns``.
        PayloadTooLarge: ``dataset_too_large``: the table would take more bytes than the Domain stores.
    """
    base = file_columns(schema)
    prepared = with_prepared(base, prepared_columns(base, preparations))
    if len(prepared.columns) > limits.max_columns:
        raise InvalidDataset(
            f"the dataset would have {len(prepared.columns):,} columns; at most {limits.max_columns:,} are allowed",
            code=codes.DATASET_TOO_MANY_COLUMNS,
            num_columns=len(prepared.columns),
        )
    if prepared.num_bytes > limits.max_total_bytes:
        raise PayloadTooLarge(
            f"the prepared columns would take {prepared.num_bytes - base.num_bytes:,} bytes, more than this Domain "
            "stores; prepare fewer columns",
            code=codes.DATASET_TOO_LARGE,
        )
    return prepared


def write_prepared(
    draft: ColumnDraft, schema: Schema, preparations: Sequence[Preparation], is_stopped: Callable[[], bool]
) -> None:
    """Compute prepared columns from the columns in a folder, and replace its schema.

    Args:
        schema: what `prepared_schema` has returned.
        is_stopped: asked before each piece; the work then ends, and the folder is incomplete.
    """
    base, arrays = map_columns(draft.path)
    for index, one in enumerate(prepared_columns(base, preparations), len(base.columns)):
        values = arrays[one.source]
        widest = max(one.column.num_values, values[:1].size)
        at_once = max(1, _VALUES_AT_ONCE // widest)
        file = draft.create_column(index)
        try:
            for begin in range(0, len(values), at_once):
                if is_stopped():
                    return
                file.write(one.compute(values[begin : begin + at_once]))
        finally:
            file.close()
    draft.write_schema(schema)
