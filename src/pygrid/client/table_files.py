"""The file that is uploaded for a table, and files of tables for users.

A data frame is sent as an Arrow stream, if pyarrow is installed: any object with `__arrow_c_stream__`, such as a frame
of pandas or polars or a table of pyarrow. Other tables are sent as NPZ, which needs numpy only.
"""

from __future__ import annotations

import contextlib
import csv
import datetime as dt
import decimal
import json
import math
import os
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pygrid import codes
from pygrid.client.hosting import FileBody
from pygrid.client.image_folders import ImageFolder
from pygrid.client.sql_query import SqlQuery
from pygrid.errors import InvalidDataset, InvalidInput
from pygrid.transport import Body

DataSource = Mapping[str, Any] | str | os.PathLike[str] | SqlQuery | ImageFolder | Any
"""The path of a CSV, Parquet, Arrow, NPZ or safetensors file; arrays by the name of their column; a query of a database
(`pygrid.client.SqlQuery`); a folder of images (`pygrid.client.ImageFolder`); or a data frame of pandas, polars or
another library with the Arrow interface."""

_MAX_EXACT = 2**53
_PACKED = {".gz": "gzip", ".zst": "zstd"}
_TEXTS = {".csv", ".tsv", ".txt"}
_KINDS = "numbers, truth values, texts, dates, or arrays of one shape"


def body_of(source: DataSource, stack: contextlib.ExitStack) -> Body:
    """The bytes of a table; a file that is made for them is removed with the stack.

    Raises:
        InvalidInput: there is no such file, or the table has a column that is not stored; the message names it.
    """
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if path.is_dir():
            raise InvalidInput(
                f"{path} is a folder; for a folder of images, pass ImageFolder(folder, shape), or --image SHAPE",
                code=codes.FILE_NOT_FOUND,
            )
        if not path.is_file():
            raise InvalidInput(f"there is no file {path}", code=codes.FILE_NOT_FOUND)
        return FileBody(path)
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pygrid-upload-"))
    path = Path(folder) / "data"
    if isinstance(source, SqlQuery):
        source.save_arrow(path)
    elif isinstance(source, ImageFolder):
        source.save_npz(path)
    elif isinstance(source, Mapping) or not save_arrow(_frame(source), path):
        save_npz(arrays_of(source), path)
    return FileBody(path)


def _frame(source: Any) -> Any:
    """The frame itself. Raises InvalidInput: it is one column, or has no records before it is collected."""
    if hasattr(source, "to_frame"):
        raise InvalidInput("this is one column, not a table: pass column.to_frame()")
    if callable(getattr(source, "collect", None)):
        raise InvalidInput("this frame is lazy: pass frame.collect()")
    return source


def check_packed_name(source: DataSource) -> None:
    """Refuse a compressed file whose name does not say that it is a CSV file: many kinds of files are named ``.gz``.

    Raises:
        InvalidDataset: ``dataset_format_not_read``.
    """
    if not isinstance(source, (str, os.PathLike)):
        return
    path = Path(source)
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes and suffixes[-1] in _PACKED and suffixes[0] not in _TEXTS:
        raise InvalidDataset(
            f"{path.name} is a file compressed with {_PACKED[suffixes[-1]]} ({suffixes[-1]}), and its name does not "
            f"show the format: rename it to {path.stem}.csv{suffixes[-1]} (in Python also format='csv') if it is a "
            "CSV file, otherwise unpack it and upload the table in it",
            code=codes.DATASET_FORMAT_NOT_READ,
        )


def save_arrow(source: Any, path: Path) -> bool:
    """Write a data frame as an Arrow stream, without its index; False: pyarrow or the frame's interface is missing.

    Raises:
        InvalidInput: two columns have one name, or a column mixes kinds of values.
    """
    if not hasattr(source, "__arrow_c_stream__"):
        return False
    try:
        import pyarrow as pa
    except ModuleNotFoundError:
        return False
    if hasattr(source, "columns") and not hasattr(source, "schema"):  # of pandas, whose columns can have any names
        _check_names([str(name) for name in source.columns])
    try:
        with pa.RecordBatchReader.from_stream(source) as reader:
            index = json.loads((reader.schema.metadata or {}).get(b"pandas", b"{}")).get("index_columns", [])
            kept = [name for name in reader.schema.names if name not in index]
            _check_names(kept)
            with pa.OSFile(str(path), "wb") as sink:
                schema = pa.schema([reader.schema.field(name) for name in kept])
                with pa.ipc.new_stream(sink, schema) as writer:
                    for batch in reader:
                        writer.write_batch(batch.select(kept).replace_schema_metadata(None))
    except (pa.ArrowException, TypeError) as error:
        where = f"column {name!r}" if (name := _refused_column(source)) else "the frame"
        raise InvalidInput(
            f"{where} cannot be sent, because {'; '.join(map(str, error.args))}; convert it: a column holds {_KINDS}"
        ) from error
    return True


def _refused_column(frame: Any) -> str | None:
    """The first column of a frame that is not exported; None: each column by itself is."""
    import pyarrow as pa

    for name in getattr(frame, "columns", ()):
        try:
            pa.RecordBatchReader.from_stream(frame[[name]]).close()
        except (pa.ArrowException, TypeError, KeyError):
            return str(name)
    return None


def _check_names(names: Sequence[str]) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidDataset(
            f"the table has two columns {twice[0]!r}; rename one of them", code=codes.DATASET_DUPLICATE_COLUMN
        )


def arrays_of(source: Any) -> dict[str, npt.NDArray[Any]]:
    """The columns of a mapping or a data frame, by name.

    Raises:
        InvalidInput: it is not a table, or has a column that is not stored; the message names it.
    """
    fields = getattr(getattr(source, "dtype", None), "names", None)  # of an array of records
    if fields is None and not isinstance(source, Mapping):
        if not (hasattr(source, "columns") and hasattr(source, "__getitem__")):
            raise InvalidInput("this is not a table: pass the path of a file, arrays by name, or a data frame")
        fields = source.columns
    names = list(source if fields is None else fields)
    _check_names([str(name) for name in names])
    return {str(name): array_of(str(name), source[name]) for name in names}


def array_of(name: str, values: Any) -> npt.NDArray[Any]:
    """The values of a column as an array that NPZ files hold: a missing number is NaN, and a missing text is empty.

    Raises:
        InvalidInput: a value is of another kind, or cannot be stored exactly.
    """
    if hasattr(values, "detach"):  # a tensor of PyTorch
        try:
            values = values.detach().cpu().numpy()
        except TypeError as error:  # of bfloat16, or sparse
            raise InvalidInput(f"column {name!r} cannot be sent: {error}; pass column.float().to_dense()") from error
    if isinstance(values, np.ma.MaskedArray):
        return _masked(name, values)
    if _has_nulls(values):  # numpy would round long numbers, and knows no missing text
        as_list = next(name for name in ("to_pylist", "to_list", "tolist") if hasattr(values, name))
        values = np.fromiter(getattr(values, as_list)(), object)
    try:
        array = np.asarray(values)
        if isinstance(values, (list, tuple)) and array.ndim == 1 and array.dtype.kind in "USf":
            array = np.fromiter(values, object)  # numpy makes texts or floats of a mixture
    except ValueError as error:
        raise InvalidInput(f"column {name!r} has records of different lengths; a column holds {_KINDS}") from error
    if array.dtype.kind in "OT":
        array = _objects(name, array)
    elif array.dtype.kind not in "fiubUSM":
        raise InvalidInput(f"column {name!r} holds {array.dtype}, which is not stored; a column holds {_KINDS}")
    return np.ascontiguousarray(array) if array.ndim else array


def _has_nulls(values: Any) -> bool:
    """Whether a column of pandas, polars or pyarrow has missing values that numpy does not know."""
    if hasattr(values, "isna") and not isinstance(values.dtype, np.dtype):
        return bool(values.isna().any())
    count = getattr(values, "null_count", 0)
    return bool(count() if callable(count) else count)


def _masked(name: str, values: Any) -> npt.NDArray[Any]:
    """The values of a masked array: a masked value is missing."""
    mask, data = np.ma.getmaskarray(values), np.ma.getdata(values)
    if not mask.any():
        return array_of(name, data)
    if data.dtype.kind in "iub":
        return _floats(name, data, ~mask)
    if data.dtype.kind in "fM":
        return np.where(mask, np.array("NaT" if data.dtype.kind == "M" else np.nan, data.dtype), data)
    if data.dtype.kind in "UST":
        return array_of(name, np.where(mask, np.zeros((), data.dtype), data))
    if data.dtype.kind == "O":
        objects = data.astype(object)
        objects[mask] = None
        return array_of(name, objects)
    raise InvalidInput(f"column {name!r} has masked values of {data.dtype}; fill them in: {name}.filled(...)")


def _floats(name: str, values: npt.NDArray[Any], there: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Whole numbers and truth values as float64, exactly; NaN where there is none."""
    long = [value for value in values[there].tolist() if not -_MAX_EXACT <= value <= _MAX_EXACT]
    if long:
        raise InvalidDataset(
            f"column {name!r} has {long[0]}, which float64 cannot hold exactly, and whole numbers with missing ones "
            "are stored as float64; pass texts, or fill in the missing ones",
            code=codes.DATASET_OUT_OF_RANGE,
        )
    return np.where(there, values, 0).astype(np.float64) + np.where(there, 0.0, np.nan)


def _is_missing(value: Any) -> bool:
    return (
        value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value)
    )


def _objects(name: str, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """An array of Python objects as one of numbers, texts, times or arrays."""
    values = array.reshape(-1).tolist()
    there = np.array([not _is_missing(value) for value in values], np.bool_)
    present = [value for value in values if not _is_missing(value)]

    def filled(other: object) -> list[Any]:
        return [value if is_there else other for value, is_there in zip(values, there, strict=True)]

    if present and len(present) == len(values) and array.ndim == 1 and _all(present, (list, tuple, np.ndarray)):
        return array_of(name, [array_of(name, value).tolist() for value in values])
    if not present:
        found: npt.NDArray[Any] = np.full(len(values), np.nan)
    elif _all(present, str):
        found = np.array(filled(""), np.str_)
    elif _all(present, np.datetime64):
        found = np.array(filled(np.datetime64("NaT")))
    elif _all(present, dt.datetime):
        _check_nanoseconds(name, present)
        found = np.array([_utc(value) for value in filled(None)], "M8[us]")
    elif _all(present, dt.date) and not _any(present, dt.datetime):
        found = np.array(filled(None), "M8[D]")
    elif _all(present, (bool, int, np.integer, np.bool_)):
        found = np.array(filled(0))
        if found.dtype.kind not in "iub":
            raise InvalidInput(f"column {name!r} has a whole number of more than 64 bits; pass texts")
        found = found if there.all() else _floats(name, found, there)
    elif _all(present, (int, float, np.integer, np.floating, decimal.Decimal)) and not _any(present, bool):
        whole = np.array([value for value in present if isinstance(value, (int, np.integer))], object)
        _floats(name, whole, np.ones(len(whole), np.bool_))
        found = np.array([float(value) for value in filled(math.nan)])
        _check_decimals(name, present)
    else:
        first = present[0]
        odd = next((value for value in present if type(value) is not type(first)), first)
        both = f"{str(odd)[:50]!r}" + (f" and {str(first)[:50]!r}" if odd is not first else "")
        place = next(place for place, value in enumerate(values) if value is odd)
        raise InvalidInput(f"column {name!r} has {both} (record {place:,}); a column holds {_KINDS}")
    return found.reshape(array.shape)


def _check_nanoseconds(name: str, moments: Iterable[Any]) -> None:
    """Refuse timestamps of pandas that a microsecond does not hold."""
    if odd := [moment for moment in moments if getattr(moment, "nanosecond", 0)]:
        raise InvalidInput(f"column {name!r} has {odd[0]}, which is not a whole number of microseconds; round it")


def _check_decimals(name: str, numbers: Iterable[Any]) -> None:
    """Refuse decimals with more digits than float64 holds."""
    decimals = (number for number in numbers if isinstance(number, decimal.Decimal) and number.is_finite())
    if odd := [number for number in decimals if decimal.Decimal(repr(float(number))) != number]:
        raise InvalidInput(f"column {name!r} has {odd[0]}, which has more digits than float64 holds; round it")


def _all(values: Iterable[Any], kinds: Any) -> bool:
    return all(isinstance(value, kinds) for value in values)


def _any(values: Iterable[Any], kind: type) -> bool:
    return any(isinstance(value, kind) for value in values)


def _utc(moment: dt.datetime | None) -> dt.datetime | None:
    return moment if moment is None or moment.tzinfo is None else moment.astimezone(dt.UTC).replace(tzinfo=None)


def save_npz(arrays: Mapping[str, npt.NDArray[Any]], path: Path) -> None:
    """Write arrays as an NPZ file, whatever their names, in their order.

    Raises:
        ValueError: an array holds Python objects.
    """
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def save_csv(columns: Mapping[str, npt.NDArray[Any]], path: Path) -> None:
    """Write a table, such as a mock dataset, as CSV; formulas of spreadsheets become plain text by a quote mark.

    Raises:
        InvalidInput: a column has an array for each record, which CSV cannot hold.
    """
    for name, values in columns.items():
        if values.ndim != 1:
            raise InvalidInput(
                f"column {name!r} has records of shape {list(values.shape[1:])}, which CSV cannot hold; use .npz"
            )
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([neutralise(name) for name in columns])
        lists = [values.tolist() for values in columns.values()]
        writer.writerows(
            [neutralise(cell) if isinstance(cell, str) else cell for cell in row] for row in zip(*lists, strict=True)
        )


def neutralise(text: str) -> str:
    """The text, with a quote mark before it if a spreadsheet would run it as a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
