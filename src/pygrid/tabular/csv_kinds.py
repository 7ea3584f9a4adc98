"""The kind of a column of a CSV file: the first of int64, float64, bool and text that fits all its values.

A value is missing (empty, ``NA`` and the like), a word of bool, a whole number that int64 holds, another number, or
anything else. The kinds of values that a column has, in any order, decide what it holds:

    whole numbers                                   int64
    numbers, whole or not, or missing               float64, where NaN stands for a missing value
    ``true`` and ``false``, none missing            bool
    any other mixture                               text, as in the file

``007`` is not a number, because it would not come back the same; nor is ``inf``, or ``1e400``, which would become
infinity. A number is the one nearest to its text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from pygrid.tabular.column_writers import Categorical, Piece

Kind = Literal["int64", "float64", "bool", "text"]

NOTHING, MISSING, BOOL, INT, FLOAT, OTHER = 0, 1, 2, 4, 8, 16
"""The kinds of values that a column has: a sum of these. FLOAT can stand for an INT, and OTHER for anything."""
MISSING_WORDS = ("", "NA", "N/A", "nan", "NaN", "null")
TRUE_WORDS = ("true", "True", "TRUE")
FALSE_WORDS = ("false", "False", "FALSE")
_SEEN: dict[Kind, int] = {"int64": INT, "float64": FLOAT, "bool": BOOL, "text": OTHER}
_INT_CHARS = b"0123456789+-"
_FLOAT_CHARS = _INT_CHARS + b".eE"
_MISSING = pa.array(MISSING_WORDS, pa.string())
_EDGE, _ZERO, _DIGIT, _SIGN, _SPACE = (np.uint8(1 << bit) for bit in range(5))
_AT_ONCE = 64 * 1024
"""Characters that are compared at once; they fit in the processor's cache."""


@dataclass(frozen=True)
class ColumnStats:
    """The values of a column in a part of the file, as the wanted kind; they are valid if all of the column is of that
    kind.
    """

    seen: int
    values: Piece


def kind_of(seen: int) -> Kind:
    """The kind of a column that has these kinds of values."""
    if seen & OTHER or (seen & BOOL and seen != BOOL):
        return "text"
    if seen == BOOL:
        return "bool"
    return "int64" if seen == INT else "float64"


def has_odd_spellings(data: bytes, delimiter: bytes) -> bool:
    """Whether a field may begin with ``00`` or ``0x``, or be next to a space: pyarrow reads numbers there, `look`
    texts.
    """
    classes = bytearray(256)
    for characters, bits in ((b" \t", _SPACE), (b"\r\n" + delimiter, _EDGE), (b"123456789xX", _DIGIT), (b"+-", _SIGN)):
        for character in characters:
            classes[character] = bits
    classes[ord("0")] = _ZERO | _DIGIT
    text = np.frombuffer((b"\n" + data + b"\n").translate(classes), np.uint8)
    return any(_is_odd(text[begin : begin + _AT_ONCE + 3]) for begin in range(0, len(text), _AT_ONCE))


def _is_odd(text: npt.NDArray[np.uint8]) -> bool:
    """Whether classes of characters have the order edge, zero, digit; edge, sign, zero, digit; edge, space; or space,
    edge.
    """
    edges, zeros = text * _ZERO, text[:-1] & text[1:] // 2 & _ZERO
    return bool(
        (edges[:-2] & zeros[1:]).any()
        or (edges[:-3] & text[1:-2] // 4 & zeros[2:]).any()
        or (edges[:-1] & text[1:] // 8 & _ZERO).any()
        or (text[:-1] // 8 & edges[1:] & _ZERO).any()
    )


def options_for(types: dict[str, Any]) -> pa_csv.ConvertOptions:
    """Options with which pyarrow reads these columns as these types, missing values as null (except among texts)."""
    return pa_csv.ConvertOptions(
        column_types=types,
        include_columns=list(types),
        null_values=MISSING_WORDS,
        strings_can_be_null=False,
        true_values=TRUE_WORDS,
        false_values=FALSE_WORDS,
        check_utf8=False,
    )


def stats_of(array: Any, kind: Kind) -> ColumnStats:
    """The values of an array that pyarrow read as ``kind``; an infinity or NaN that it made of a text is a text."""
    if kind == "text":
        return ColumnStats(OTHER, _categorical(array))
    if array.null_count == len(array):
        return ColumnStats(MISSING, np.full(len(array), np.nan))
    values = array.to_numpy(zero_copy_only=False)
    if kind == "float64" and np.count_nonzero(np.isfinite(values)) != len(array) - array.null_count:
        return ColumnStats(OTHER, [])
    return ColumnStats(_SEEN[kind] | (MISSING if array.null_count else NOTHING), values)


def look(array: Any, kind: Kind) -> ColumnStats:
    """The values of an array of one or more texts."""
    if kind == "text":
        return ColumnStats(OTHER, _categorical(array))
    is_missing = pc.is_in(array, value_set=_MISSING)
    present = array.filter(pc.invert(is_missing))
    missing = MISSING if len(present) < len(array) else NOTHING
    if not len(present):
        return ColumnStats(MISSING, np.full(len(array), np.nan))
    characters = _characters(present)
    if characters.translate(None, _FLOAT_CHARS):
        if not pc.all(pc.is_in(present, value_set=pa.array(TRUE_WORDS + FALSE_WORDS))).as_py():
            return ColumnStats(OTHER, [])
        return ColumnStats(
            BOOL | missing, pc.is_in(array, value_set=pa.array(TRUE_WORDS)).to_numpy(zero_copy_only=False)
        )
    if pc.any(pc.match_substring_regex(present, "^[+-]?0[0-9]")).as_py():
        return ColumnStats(OTHER, [])
    whole = None if characters.translate(None, _INT_CHARS) else _cast(present, pa.int64(), int)
    if whole is not None and kind == "int64" and not missing:
        return ColumnStats(INT, whole)
    numbers = _cast(present, pa.float64(), float)
    if numbers is None or np.isinf(numbers).any():
        return ColumnStats(OTHER, [])
    values = np.full(len(array), np.nan)
    values[~is_missing.to_numpy(zero_copy_only=False)] = numbers
    return ColumnStats((FLOAT if whole is None else INT) | missing, values)


def _cast(array: Any, to: Any, parse: Callable[[str], object]) -> npt.NDArray[Any] | None:
    """The numbers that stand in an array of texts; None if one of them is not such a number."""
    try:
        return array.cast(to).to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]
    except pa.ArrowInvalid:
        pass  # perhaps because of a plus sign, which pyarrow does not accept everywhere
    try:
        return np.fromiter(map(parse, array.to_pylist()), to.to_pandas_dtype(), len(array))
    except (ValueError, OverflowError):
        return None


def _categorical(array: Any) -> Categorical:
    encoded = array.dictionary_encode()
    return Categorical(encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False))


def _characters(array: Any) -> bytes:
    """All texts, one after the other."""
    _, offsets, data = array.buffers()
    begin, end = np.frombuffer(offsets, np.int32)[[array.offset, array.offset + len(array)]]
    return b"" if data is None else bytes(memoryview(data)[begin:end])
