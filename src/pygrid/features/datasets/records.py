"""Reads stored records: a mock dataset as a file, and the first records of a dataset."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from pygrid.core.column_times import write_time
from pygrid.core.datasets import TIMES, Column
from pygrid.messages.datasets import Preview
from pygrid.storage.columns import map_columns
from pygrid.tensors.safetensors import make_layout

CHUNK_BYTES = 256 * 1024


def as_safetensors(folder: Path) -> tuple[int, Iterator[bytes]]:
    """Return the columns of a folder as a safetensors file: its length in bytes, and the bytes in pieces.

    Text columns are int32 codes; the metadata ``schema`` holds the schema with their categories, as JSON.
    """
    schema, arrays = map_columns(folder)
    metadata = {"schema": msgspec.json.encode(schema).decode()}
    layout, header = make_layout({name: (array.dtype, array.shape) for name, array in arrays.items()}, metadata)

    def pieces() -> Iterator[bytes]:
        yield header
        for entry in layout.entries:
            values = memoryview(np.ascontiguousarray(arrays[entry.name]).reshape(-1).view(np.uint8).data)
            for begin in range(0, len(values), CHUNK_BYTES):
                yield bytes(values[begin : begin + CHUNK_BYTES])

    return layout.total_bytes, pieces()


def first_records(folder: Path, num_records: int) -> Preview:
    """Return the first records of a folder of columns, with texts; dates and infinity as texts; None is a missing
    value.
    """
    schema, arrays = map_columns(folder)
    first = {column.name: _listed(column, arrays[column.name][:num_records]) for column in schema.columns}
    return Preview(schema.num_records, first)


def _listed(column: Column, values: npt.NDArray[Any]) -> list[object]:
    if column.categories is not None:
        return [column.categories[code] if code >= 0 else None for code in values.tolist()]
    if column.dtype in TIMES and not column.shape:
        return [None if math.isnan(value) else write_time(value, column.dtype) for value in values.tolist()]
    if values.dtype.kind == "f" and np.isinf(values).any():  # JSON has no infinity
        texts = np.where(values > 0, "inf", "-inf").astype(object)
        values = np.where(np.isinf(values), texts, values.astype(object))
    listed: list[object] = values.tolist()
    return listed
