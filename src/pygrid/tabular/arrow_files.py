"""Parquet and Arrow IPC files, with pyarrow (the extra ``domain``): batch by batch, without pyarrow's threads."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute  # pyarrow imports it later for some casts, which fails inside the sandbox
import pyarrow.parquet as pq

from pygrid import codes
from pygrid.errors import InvalidDataset
from pygrid.tabular.table_writer import Categorical, Field, Piece, TableWriter, check_field_names

# With the first value, pyarrow imports dateutil if it is installed, which fails inside the sandbox.
pa.scalar(None)

BATCH_BYTES = 8 * 1024**2
_MAX_BATCH_RECORDS = 65_536


def read(file: BinaryIO, writer: TableWriter) -> None:
    """Read the file.

    Raises:
        InvalidDataset: the file is damaged, a column type is not stored, or whole numbers have missing values.
    """
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
        check_field_names(parquet.schema_arrow.names, writer.limits)
        columns = _begin(parquet.schema_arrow, writer)
        at_once = _records_at_once(columns)
        for batch in parquet.iter_batches(at_once, columns=[name for name, _ in columns], use_threads=False):
            _add(batch, columns, writer)


def _read_ipc(file: BinaryIO, writer: TableWriter) -> None:
    # Not closed here: it ends with the last of pyarrow's views of it, which the traceback of an error can hold.
    view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    _copy_batches(pa.py_buffer(view), view, writer)


def _copy_batches(buffer: Any, view: mmap.mmap, writer: TableWriter) -> None:
    schema, batches = _ipc_batches(buffer)
    check_field_names(schema.names, writer.limits)
    columns = _begin(schema, writer)
    at_once = _records_at_once(columns)
    for batch in batches:
        for begin in range(0, batch.num_rows, at_once):
            _add(batch.slice(begin, at_once), columns, writer)
            # These pages stay in the page cache, but no longer count as memory of this process.
            view.madvise(mmap.MADV_DONTNEED)


def _ipc_batches(buffer: Any) -> tuple[Any, Iterator[Any]]:
    if bytes(buffer[:6]) == b"ARROW1":
        reader = pa.ipc.open_file(buffer)
        return reader.schema, (reader.get_batch(index) for index in range(reader.num_record_batches))
    stream = pa.ipc.open_stream(buffer)
    return stream.schema, iter(stream)


def _begin(schema: Any, writer: TableWriter) -> list[tuple[str, Field]]:
    fields = [_field(field) if writer.is_wanted(field.name) else Field(field.name, "float64") for field in schema]
    writer.begin(fields)
    return [(field.name, field) for field in fields if writer.is_wanted(field.name)]


def _field(field: Any) -> Field:
    kind: Any = field.type
    shape: tuple[int, ...] = ()
    while pa.types.is_fixed_size_list(kind):
        shape, kind = (*shape, kind.list_size), kind.value_type
    if isinstance(kind, pa.FixedShapeTensorType):
        if kind.permutation is not None and list(kind.permutation) != sorted(kind.permutation):
            raise InvalidDataset(
                f"column {field.name!r} has its axes permuted", code=codes.DATASET_DTYPE, column=field.name
            )
        shape, kind = (*shape, *kind.shape), kind.value_type
    text = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_string(text) or pa.types.is_large_string(text) or pa.types.is_string_view(text):
        return Field(field.name, "text", shape)
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return Field(field.name, np.dtype(kind.to_pandas_dtype()).name, shape)
    raise InvalidDataset(
        f"column {field.name!r} holds {kind}, which is not stored: use numbers, true and false, or texts; for a time, "
        "the seconds since 1970",
        code=codes.DATASET_DTYPE,
        column=field.name,
        dtype=str(kind),
    )


def _records_at_once(columns: list[tuple[str, Field]]) -> int:
    width = sum(
        (64 if field.kind == "text" else np.dtype(field.kind).itemsize) * int(np.prod(field.shape))
        for _, field in columns
    )
    return max(1, min(_MAX_BATCH_RECORDS, BATCH_BYTES // max(1, width)))


def _add(batch: Any, columns: list[tuple[str, Field]], writer: TableWriter) -> None:
    writer.add_rows({name: _piece(batch.column(name), name, field, writer) for name, field in columns})


def _piece(array: Any, name: str, field: Field, writer: TableWriter) -> Piece:
    array.validate(full=field.kind == "text")
    if field.kind == "text":
        # Cast first: a dictionary can have texts that no record has.
        coded = array.cast(pa.large_string()).fill_null("").dictionary_encode()
        return Categorical(coded.dictionary.to_pylist(), coded.indices.to_numpy(zero_copy_only=False))
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if array.null_count and field.shape:
        raise _missing(name)
    while isinstance(array, pa.FixedSizeListArray):
        array = array.flatten()
    if array.null_count:
        is_float = field.kind.startswith("float") or (writer.declared_kind(name) or "").startswith("float")
        if not is_float or field.shape:
            raise _missing(name)
        array = array.cast(pa.float64())
        return np.asarray(array.to_numpy(zero_copy_only=False), np.float64)
    values: npt.NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return values.reshape(-1, *field.shape)


def _missing(name: str) -> InvalidDataset:
    return InvalidDataset(
        f"column {name!r} has missing values; fill them in, or declare its dtype as float64, where they become NaN",
        code=codes.DATASET_MISSING_VALUES,
        column=name,
    )
