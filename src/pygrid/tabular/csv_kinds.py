"""The kind of a column of a CSV file: the first of int64, float64, bool and text that fits all its values.

A value is missing (empty, ``NA`` and the like), a word of bool, a whole number that int64 holds, another number, or
anything else. The kinds of values that a column has, in any order, decide what it holds:

    whole numbers                                   int64
    numbers, whole or not, or missing               float64, where NaN stands for a missing value
    whole numbers that float64 would round, with
    missing values or beyond int64                  text, as in the file
    ``true`` and ``false``, none missing            bool
    any other mixture                               text, as in the file

``007`` is not a number, because it would not come back the same; nor is ``1e400``, which would become infinity. ``inf``
and ``Infinity`` are numbers. A number with a point or an exponent is the one nearest to its text.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from pygrid.messages.datasets import CsvOptions
from pygrid.tabular.column_writers import MAX_EXACT, Categorical, Piece
from pygrid.tabular.typed_texts import MISSING_WORDS

Kind = Literal["int64", "float64", "bool", "text"]

NOTHING, MISSING, BOOL, INT, FLOAT, OTHER, LONG, FRACTION = 0, 1, 2, 4, 8, 16, 32, 64
"""The kinds of values that a column has: a sum of these. FLOAT can stand for an INT, and OTHER for anything. A number
can also be LONG: a whole number that float64 would round; or FRACTION: not whole."""
TRUE_WORDS = ("true", "True", "TRUE")
FALSE_WORDS = ("false", "False", "FALSE")
_SEEN: dict[Kind, int] = {"int64": INT, "float64": FLOAT, "bool": BOOL, "text": OTHER}
_INT_CHARS = b"0123456789+-"
_FLOAT_CHARS = _INT_CHARS + b".eE"
_INFINITY_CHARS = b"infityINFITY"
_INFINITIES = pa.array(
    [
        sign + form
        for sign, word in itertools.product(("", "+", "-"), ("inf", "infinity"))
        for form in (word, word.capitalize(), word.upper())
    ],
    pa.string(),
)
_NUMBER = re.compile(r"[+-]?(?:(?!0\d)\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[+-]?(?i:inf|infinity)", re.ASCII)
_EDGE, _ZERO, _DIGIT, _SIGN, _SPACE = (np.uint8(1 << bit) for bit in range(5))
SPACES = " \t\u00a0"
"""Characters around a number that are not read."""
_AT_ONCE = 64 * 1024
"""Characters that are compared at once; they fit in the processor's cache."""


@dataclass(frozen=True)
class Marks:
    """How numbers and missing values are written in a file."""

    missing: tuple[str, ...] = MISSING_WORDS
    decimal: str = "."
    thousands: str | None = None

    @classmethod
    def of(cls, options: CsvOptions) -> Marks:
        """The marks that the owner named; a whole number also stands for itself with zeros after the decimal mark."""
        whole = [mark for mark in options.missing if re.fullmatch(r"[+-]?\d+", mark)]
        zeros = [f"{mark}{options.decimal}{zeros}" for mark in whole for zeros in ("0", "00")]
        return cls((*MISSING_WORDS, *options.missing, *zeros), options.decimal, options.thousands)

    @cached_property
    def missing_array(self) -> Any:
        return pa.array(self.missing, pa.string())

    @cached_property
    def _grouped(self) -> str:
        decimal, thousands = re.escape(self.decimal), re.escape(self.thousands or "")
        return f"^[+-]?[1-9][0-9]{{0,2}}({thousands}[0-9]{{3}})+({decimal}[0-9]*)?$"

    def is_missing(self, text: str) -> bool:
        """Whether a text stands for a missing number."""
        return text in self.missing or text.strip(SPACES) in self.missing

    def is_number(self, text: str) -> bool:
        """Whether a text is a number, as `look` reads it."""
        text = text.strip(SPACES)
        if self.thousands is not None and re.match(self._grouped, text):
            text = text.replace(self.thousands, "")
        if self.decimal != ".":
            text = text.replace(".", "?").replace(self.decimal, ".")
        return bool(_NUMBER.fullmatch(text)) and (math.isfinite(float(text)) or "n" in text.casefold())

    def normalized(self, array: Any) -> Any:
        """The texts, with numbers in the notation of programs; other texts stay other texts."""
        if self.thousands is not None:
            is_grouped = pc.match_substring_regex(array, self._grouped)
            array = pc.if_else(is_grouped, pc.replace_substring(array, self.thousands, ""), array)
        if self.decimal != ".":
            array = pc.replace_substring(pc.replace_substring(array, ".", "?"), self.decimal, ".")
        return array


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
    if seen & ~LONG == INT:
        return "int64"
    return "text" if seen & LONG and not seen & FRACTION else "float64"


def has_odd_spellings(data: bytes, delimiter: bytes) -> bool:
    """Whether a field may begin with ``00`` or ``0x``, where pyarrow reads a number and `look` a text, or be next to a
    space, which only `look` leaves out around marks of missing values.
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


def options_for(types: dict[str, Any], marks: Marks) -> pa_csv.ConvertOptions:
    """Options with which pyarrow reads these columns as these types, missing values as null (except among texts)."""
    return pa_csv.ConvertOptions(
        column_types=types,
        include_columns=list(types),
        null_values=marks.missing,
        decimal_point=marks.decimal,
        strings_can_be_null=False,
        true_values=TRUE_WORDS,
        false_values=FALSE_WORDS,
        check_utf8=False,
    )


def stats_of(array: Any, kind: Kind) -> ColumnStats | None:
    """The values of an array that pyarrow read as ``kind``; None: it made infinity or NaN of a text, or perhaps rounded
    a whole number.
    """
    if kind == "text":
        return ColumnStats(OTHER, _categorical(array))
    if array.null_count == len(array):
        return ColumnStats(MISSING, np.full(len(array), np.nan))
    values = array.to_numpy(zero_copy_only=False)
    if kind == "float64" and np.count_nonzero(np.isfinite(values)) != len(array) - array.null_count:
        return None
    if values.dtype.kind == "f" and (np.abs(values) >= MAX_EXACT).any():
        return None
    seen = _SEEN[kind] | (MISSING if array.null_count else NOTHING)
    if values.dtype == np.int64 and _has_long(values):
        seen |= LONG
    if kind == "float64" and _has_fraction(values):
        seen |= FRACTION
    return ColumnStats(seen, values)


def look(array: Any, kind: Kind, marks: Marks) -> ColumnStats:
    """The values of an array of one or more texts."""
    if kind == "text":
        return ColumnStats(OTHER, _categorical(array))
    is_missing = pc.is_in(array, value_set=marks.missing_array)
    data = _characters(array)
    if any(space.encode() in data for space in SPACES):
        array = pc.utf8_trim(array, characters=SPACES)
        is_missing = pc.or_(is_missing, pc.is_in(array, value_set=marks.missing_array))
    present = array.filter(pc.invert(is_missing))
    missing = MISSING if len(present) < len(array) else NOTHING
    if not len(present):
        return ColumnStats(MISSING, np.full(len(array), np.nan))
    texts = marks.normalized(present)
    characters = _characters(texts)
    if letters := characters.translate(None, _FLOAT_CHARS):
        if pc.all(pc.is_in(present, value_set=pa.array(TRUE_WORDS + FALSE_WORDS))).as_py():
            truths = pc.is_in(array, value_set=pa.array(TRUE_WORDS)).to_numpy(zero_copy_only=False)
            gaps = is_missing.to_numpy(zero_copy_only=False)
            return ColumnStats(BOOL | missing, np.where(gaps, np.nan, truths) if missing else truths)
        if letters.translate(None, _INFINITY_CHARS):
            return ColumnStats(OTHER, [])
    if pc.any(pc.match_substring_regex(texts, "^[+-]?0[0-9]")).as_py():
        return ColumnStats(OTHER, [])
    whole = None if characters.translate(None, _INT_CHARS) else _cast(texts, pa.int64(), int)
    is_long = _has_long_text(texts) if whole is None else _has_long(whole)
    long = LONG if is_long else NOTHING
    if whole is not None and kind == "int64" and not missing:
        return ColumnStats(INT | long, whole)
    numbers = _floats(texts, has_infinities=bool(letters))
    if numbers is None:
        return ColumnStats(OTHER, [])
    values = np.full(len(array), np.nan)
    values[~is_missing.to_numpy(zero_copy_only=False)] = numbers
    fraction = FRACTION if whole is None and _has_fraction(numbers) else NOTHING
    return ColumnStats((FLOAT if whole is None else INT) | missing | long | fraction, values)


def _has_fraction(numbers: npt.NDArray[np.float64]) -> bool:
    """Whether one of the numbers, some of which may be missing, is not whole."""
    return bool(((np.trunc(numbers) != numbers) & ~np.isnan(numbers)).any())


def _has_long(numbers: npt.NDArray[np.int64]) -> bool:
    """Whether float64 would round one of the numbers."""
    large = numbers[(numbers > MAX_EXACT) | (numbers < -MAX_EXACT)]
    return any(int(float(number)) != number for number in large.tolist())


def _has_long_text(texts: Any) -> bool:
    """Whether one of the texts is a whole number that float64 would round, or that is beyond it."""
    large = texts.filter(pc.match_substring_regex(texts, "^[+-]?[0-9]{16,}$"))
    return any(len(text) > 300 or int(float(text)) != int(text) for text in large.to_pylist())


def _floats(texts: Any, *, has_infinities: bool) -> npt.NDArray[Any] | None:
    """The numbers that stand in an array of texts; None if one of them is not a number, or beyond float64."""
    infinite: npt.NDArray[Any] | None = None
    if has_infinities:
        is_infinite = pc.is_in(texts, value_set=_INFINITIES)
        infinite = is_infinite.to_numpy(zero_copy_only=False)
        signs = pc.starts_with(texts, "-").to_numpy(zero_copy_only=False)
        texts = pc.if_else(is_infinite, "0", texts)
    numbers = _cast(texts, pa.float64(), float)
    if numbers is None or not np.isfinite(numbers).all():
        return None
    if infinite is not None:
        numbers = np.where(infinite, np.where(signs, -np.inf, np.inf), numbers)
    return numbers


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
