"""Reads blocks of CSV text with pyarrow, to the letter as `csv_kinds` does: what pyarrow takes for a number and we don't is
looked for beforehand.

Numbers are those nearest to the text with both, so nothing depends on which of them has read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from pygrid.tabular.csv_blocks import Block
from pygrid.tabular.csv_digits import short_numbers
from pygrid.tabular.csv_faults import Header
from pygrid.tabular.csv_kinds import (
    BOOLS,
    FLOAT,
    FLOAT_CHARS,
    INT,
    INT_CHARS,
    MISSING,
    MISSING_WORDS,
    NOTHING,
    OTHER,
    ColumnStats,
    Kind,
    look,
)
from pygrid.tabular.table_writer import Categorical

_MISSING = pa.array(sorted(MISSING_WORDS), pa.string())
_BOOLS = pa.array(sorted(BOOLS), pa.string())
_CATEGORICAL = pa.dictionary(pa.int32(), pa.string())
_TYPES: dict[Kind, Any] = {"int64": pa.int64(), "float64": pa.float64(), "bool": pa.string(), "text": _CATEGORICAL}
_ZERO, _PLUS, _MINUS, _LF = 48, 43, 45, 10

Array = npt.NDArray[Any]


class ArrowReader:
    """Reads blocks of one file. May be used by several threads at once.

    Args:
        wanted: which columns to read, by their place in the file.
    """

    def __init__(self, header: Header, wanted: Sequence[int]) -> None:
        self._delimiter = header.delimiter
        self._names = [str(index) for index in range(len(header.names))]
        self._indices = list(wanted)
        self._wanted = [str(index) for index in wanted]

    def read(self, block: Block, kinds: Sequence[Kind]) -> list[ColumnStats] | None:
        """The wanted columns of a block; None: rows of different lengths, or no rows."""
        if not block.has_quotes and "text" not in kinds:
            numbers = short_numbers(block.data, len(self._names), self._delimiter.encode())
            if numbers is not None:
                return [ColumnStats(INT, numbers[index]) for index in self._indices]
        is_plain = _is_plain(block, self._delimiter.encode())
        if is_plain and "bool" not in kinds:
            table = self._table(block, [_TYPES[kind] for kind in kinds])
            if table is not None:
                return [_plain(table.column(at).combine_chunks(), kind) for at, kind in enumerate(kinds)]
        table = self._table(block, [_CATEGORICAL if kind == "text" else pa.string() for kind in kinds])
        if table is None:
            return None
        return [_look(table.column(at).combine_chunks(), kind) for at, kind in enumerate(kinds)]

    def _table(self, block: Block, types: Sequence[Any]) -> Any:
        """None: it has rows of different lengths, no rows, or a value that is not of its column's type."""
        try:
            table = pa_csv.read_csv(
                pa.BufferReader(block.data),
                read_options=pa_csv.ReadOptions(column_names=self._names, block_size=len(block.data) + 1024, use_threads=False),
                parse_options=pa_csv.ParseOptions(delimiter=self._delimiter, newlines_in_values=block.has_quotes),
                convert_options=pa_csv.ConvertOptions(
                    column_types=dict(zip(self._wanted, types, strict=True)),
                    include_columns=self._wanted,
                    null_values=[""],
                    strings_can_be_null=False,
                    check_utf8=False,
                ),
            )
        except pa.ArrowInvalid:
            return None
        return table if table.num_rows else None


def _is_plain(block: Block, delimiter: bytes) -> bool:
    """Whether all fields are numbers or empty as far as their characters tell, and none begins with a needless zero."""
    if block.has_quotes or block.data.translate(None, FLOAT_CHARS + delimiter + b"\r\n"):
        return False
    text = np.frombuffer(block.data, np.uint8)
    zeros = np.flatnonzero((text[:-1] == _ZERO) & (text[1:] - np.uint8(_ZERO) < 10))
    before = _before(text, zeros)
    signed = (before == _PLUS) | (before == _MINUS)
    before = np.where(signed, _before(text, zeros - 1), before)
    return not bool(np.any((before == ord(delimiter)) | (before == _LF)))


def _before(text: npt.NDArray[np.uint8], places: Array) -> Array:
    """The characters before these; before the first is the end of a line."""
    return np.where(places > 0, text[np.maximum(places - 1, 0)], np.uint8(_LF))


def _plain(array: Any, kind: Kind) -> ColumnStats:
    """A column of a plain block that pyarrow read as its kind."""
    if kind == "text":
        return _texts(array)
    missing = MISSING if array.null_count else NOTHING
    if array.null_count == len(array):
        return ColumnStats(MISSING, np.full(len(array), np.nan))
    if kind == "int64" and missing:
        return ColumnStats(INT | MISSING, array)
    values = array.to_numpy(zero_copy_only=False)
    if kind == "int64":
        return ColumnStats(missing | INT, values)
    return ColumnStats(OTHER, []) if np.isinf(values).any() else ColumnStats(missing | FLOAT, values)


def _look(array: Any, kind: Kind) -> ColumnStats:
    """A column of texts (of any kind but text: not coded), one or more; as `csv_kinds.look`."""
    if kind == "text":
        return _texts(array)
    missing, present = NOTHING, array
    if not _has_only(array, FLOAT_CHARS) or bool(np.any(_lengths(array) == 0)):
        is_missing = pc.is_in(array, value_set=_MISSING)
        if pc.any(is_missing).as_py():
            missing, present = MISSING, array.filter(pc.invert(is_missing))
    if not len(present):
        return ColumnStats(missing, np.full(len(array), np.nan))
    if not _has_only(present, FLOAT_CHARS):
        if pc.all(pc.is_in(present, value_set=_BOOLS)).as_py():
            return look(array.to_pylist(), kind)
        return ColumnStats(OTHER, [])
    if _has_leading_zero(present):
        return ColumnStats(OTHER, [])
    if _has_only(present, INT_CHARS):
        whole = _cast(present, pa.int64())
        if whole is None:  # a plus sign, which pyarrow takes for none
            return look(array.to_pylist(), kind)
        if kind == "int64" and not missing:
            return ColumnStats(INT, whole)
        return ColumnStats(INT | missing, _floats(array, missing))
    numbers = _cast(present, pa.float64())
    if numbers is None or np.isinf(numbers).any():
        return ColumnStats(OTHER, [])
    return ColumnStats(FLOAT | missing, _floats(array, missing))


def _floats(array: Any, missing: int) -> Array:
    if missing:
        array = pc.if_else(pc.is_in(array, value_set=_MISSING), pa.scalar("nan"), array)
    values = _cast(array, pa.float64())
    assert values is not None, "it was looked at"
    return values


def _cast(array: Any, to: Any) -> Array | None:
    try:
        values: Array = array.cast(to).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        return None
    return values


def _texts(array: Any) -> ColumnStats:
    return ColumnStats(OTHER, Categorical(array.dictionary.to_pylist(), array.indices.to_numpy(zero_copy_only=False)))


def _offsets(array: Any) -> Array:
    offsets = np.frombuffer(array.buffers()[1], np.int32)
    return offsets[array.offset : array.offset + len(array) + 1]


def _lengths(array: Any) -> Array:
    return np.diff(_offsets(array))


def _bytes(array: Any) -> bytes:
    """All texts, one after the other."""
    offsets, data = _offsets(array), array.buffers()[2]
    return b"" if data is None else bytes(memoryview(data)[offsets[0] : offsets[-1]])


def _has_only(array: Any, characters: bytes) -> bool:
    return not _bytes(array).translate(None, characters)


def _has_leading_zero(array: Any) -> bool:
    """Of texts that are not empty."""
    text, offsets = np.frombuffer(_bytes(array) + b"..", np.uint8), _offsets(array)
    begin, lengths = offsets[:-1] - offsets[0], np.diff(offsets)
    signed = (text[begin] == _PLUS) | (text[begin] == _MINUS)
    begin, lengths = begin + signed, lengths - signed
    return bool(np.any((lengths > 1) & (text[begin] == _ZERO) & (text[begin + 1] - np.uint8(_ZERO) < 10)))
