"""Parquet and Arrow IPC files, with pyarrow (the extra ``domain``): batch by batch, without pyarrow's threads."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pygrid import codes
from pygrid.core.datasets import CODED
from pygrid.errors import InvalidDataset
from pygrid.tabular.arrow_columns import ArrowColumn, NeedsFloats
from pygrid.tabular.table_writer import Field, TableWriter, check_field_names

# With the first value, pyarrow imports dateutil if it is installed, which fails inside the sandbox.
pa.scalar(None)

BATCH_BYTES = 8 * 1024**2
_MAX_BATCH_RECORDS = 65_536
_NUM_FIRST = 64
"""Records that show the length of lists."""


def read(file: BinaryIO, writer: TableWriter) -> None:
    """Read the file. Raises InvalidDataset: the file is damaged, or a type or a value is not stored."""
    is_parquet = file.read(4) == b"PAR1"
    file.seek(0)
    try:
        (_read_parquet if is_parquet else _read_ipc)(file, writer)
    except pa.ArrowException as error:
        if isinstance(error, MemoryError):
            raise
        form = "parquet" if is_parquet else "arrow"
        raise InvalidDataset(
            f"this is not a valid {form} file: {error}", code=codes.DATASET_MALFORMED, format=form
        ) from error


def _read_parquet(file: BinaryIO, writer: TableWriter) -> None:
    with pq.ParquetFile(pa.PythonFile(file, "r"), pre_buffer=False, buffer_size=1024**2) as parquet:
        names = [name for name in parquet.schema_arrow.names if writer.is_wanted(name)]
        check_field_names(parquet.schema_arrow.names, writer.limits)
        _copy(
            parquet.schema_arrow,
            lambda num_records: parquet.iter_batches(num_records, columns=names, use_threads=False),
            writer,
        )


def _read_ipc(file: BinaryIO, writer: TableWriter) -> None:
    # Not closed here: it ends with the last of pyarrow's views of it, which the traceback of an error can hold.
    view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    buffer = pa.py_buffer(view)
    schema, _ = _ipc_batches(buffer)
    check_field_names(schema.names, writer.limits)

    def batches(num_records: int) -> Iterator[Any]:
        for batch in _ipc_batches(buffer)[1]:
            for begin in range(0, batch.num_rows, num_records):
                yield batch.slice(begin, num_records)
                # These pages stay in the page cache, but no longer count as memory of this process.
                view.madvise(mmap.MADV_DONTNEED)

    _copy(schema, batches, writer)


def _ipc_batches(buffer: Any) -> tuple[Any, Iterator[Any]]:
    if bytes(buffer[:6]) == b"ARROW1":
        reader = pa.ipc.open_file(buffer)
        return reader.schema, (reader.get_batch(index) for index in range(reader.num_record_batches))
    stream = pa.ipc.open_stream(buffer)
    return stream.schema, iter(stream)


def _copy(schema: Any, batches: Callable[[int], Iterator[Any]], writer: TableWriter) -> None:
    """Write the wanted columns.

    Args:
        batches: reads the records from the beginning, in batches of at most that many records.
    """
    first = next(batches(_NUM_FIRST), None)
    columns = [
        ArrowColumn(field, writer.declared_kind(field.name), None if first is None else first.column(field.name))
        for field in schema
        if writer.is_wanted(field.name)
    ]
    try:
        _write(schema, columns, batches, writer)
    except NeedsFloats:
        for batch in batches(_MAX_BATCH_RECORDS if first is None else _records_at_once(columns)):
            for column in columns:
                if column.needs_floats(batch.column(column.name)):
                    column.widen()
        writer.start_over()
        _write(schema, columns, batches, writer)


def _write(
    schema: Any, columns: list[ArrowColumn], batches: Callable[[int], Iterator[Any]], writer: TableWriter
) -> None:
    fields = {column.name: Field(column.name, column.kind, column.shape) for column in columns}
    writer.begin([fields.get(name, Field(name, "float64")) for name in schema.names])
    for batch in batches(_records_at_once(columns)):
        writer.add_rows({column.name: column.piece(batch.column(column.name)) for column in columns})


def _records_at_once(columns: list[ArrowColumn]) -> int:
    width = sum(
        (64 if column.kind in CODED else 8) * int(np.prod(column.shape, dtype=np.float64)) for column in columns
    )
    return max(1, min(_MAX_BATCH_RECORDS, BATCH_BYTES // max(1, width)))
