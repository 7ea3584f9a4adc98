"""CSV files (RFC 4180): a line of names, then a line for each record. Read twice: to tell what columns hold, then to store it.

A column is stored as the narrowest that all its values fit: int64, float64, bool (``true``, ``false``), text. An empty field is
NaN among numbers and the empty text among texts. A formula is a text like any other.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pygrid.errors import InvalidDataset
from pygrid.features.datasets.formats.sink import Field, Piece, Sink, check_field_names

MAX_LINE_CHARS = 16 * 1024**2
VALUES_AT_ONCE = 200_000
CHARS_AT_ONCE = 8 * 1024**2
MANY = 5000
"""So many values make up for loading what reads them faster."""
_DELIMITERS = (",", ";", "\t", "|")
_MISSING = frozenset(("", "NA", "N/A", "nan", "NaN", "null"))
_BOOLS = {"true": True, "false": False, "True": True, "False": False, "TRUE": True, "FALSE": False}
_INT_CHARS = b"0123456789+-\n"
_FLOAT_CHARS = _INT_CHARS + b".eE"
_LEADING_ZERO = re.compile(r"\n[+-]?0[0-9]")
"""``007`` is no number, as it would not come back the same."""


def read(path: Path, sink: Sink) -> None:
    """Read the file.

    Raises:
        InvalidDataset: names the line that has another number of fields, is not UTF-8, or has a quote that does not end.
    """
    names, kinds = _tell_kinds(path, sink)
    sink.begin([Field(name, kind) for name, kind in zip(names, kinds, strict=True)])
    wanted = [(index, name, _PARSERS[kind]) for index, (name, kind) in enumerate(zip(names, kinds, strict=True))]
    wanted = [item for item in wanted if sink.is_wanted(item[1])]
    for block in _blocks(path, sink)[1]:
        columns = list(zip(*block, strict=True))
        sink.add_rows({name: parse(columns[index]) for index, name, parse in wanted})


def _tell_kinds(path: Path, sink: Sink) -> tuple[list[str], list[str]]:
    """Names and kinds of the columns, from all values; a declared kind holds if the values fit it."""
    names, blocks = _blocks(path, sink)
    declared = [sink.declared_kind(name) for name in names]
    kinds: list[str | None] = ["text" if kind == "text" else None for kind in declared]
    for block in blocks:
        for index, values in enumerate(zip(*block, strict=True)):
            if kinds[index] != "text" and sink.is_wanted(names[index]):
                kinds[index] = _kind(values, kinds[index])
    for name, kind, wanted in zip(names, kinds, declared, strict=True):
        if wanted is not None and wanted != "text" and kind == "text":
            raise InvalidDataset(
                f"column {name!r} is declared as {wanted}, and not all its values are numbers",
                code="dataset_dtype",
                column=name,
            )
    return names, [kind or "float64" for kind in kinds]


def _kind(values: Sequence[str], kind: str | None) -> str | None:
    """The narrowest kind of these values and those before, of which ``kind`` is known; None: nothing but missing values."""
    is_complete = _MISSING.isdisjoint(values)
    present = values if is_complete else [value for value in values if value not in _MISSING]
    if not present:
        return {"int64": "float64", "bool": "text"}.get(kind or "", kind)
    if kind in (None, "bool") and is_complete and _BOOLS.keys() >= set(present):
        return "bool"
    if kind == "bool":
        return "text"
    # Looked at all together, as Python's own loop over the values would take most of the time of an upload.
    joined = "\n" + "\n".join(present)
    other = joined.encode().translate(None, _FLOAT_CHARS)
    if other or _LEADING_ZERO.search(joined):
        return "text"
    if kind in (None, "int64") and is_complete and not joined.encode().translate(None, _INT_CHARS) and _parses(_ints, values):
        return "int64"
    return "float64" if _parses(_floats, values) else "text"


def _parses(parse: Callable[[Sequence[str]], object], values: Sequence[str]) -> bool:
    try:
        parse(values)
    except (ValueError, OverflowError):
        return False
    return True


def _ints(values: Sequence[str]) -> npt.NDArray[Any]:
    return np.fromiter(map(int, values), np.int64, len(values))


def _floats(values: Sequence[str]) -> npt.NDArray[Any]:
    if not _MISSING.isdisjoint(values):
        values = ["nan" if value in _MISSING else value for value in values]
    if len(values) >= MANY and (quick := _quick_floats(values)) is not None:
        return quick
    return np.fromiter(map(float, values), np.float64, len(values))


def _quick_floats(values: Sequence[str]) -> npt.NDArray[Any] | None:
    """The same with pyarrow, where that is installed, in a quarter of the time; None: it is not, or does not read them all.

    Both give the float64 that is nearest to the text, so nothing depends on which of them did it.
    """
    try:
        import pyarrow as pa
    except ModuleNotFoundError:
        return None
    try:
        read: npt.NDArray[Any] = pa.array(values, pa.string()).cast(pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        return None
    return read


def _bools(values: Sequence[str]) -> npt.NDArray[Any]:
    return np.fromiter(map(_BOOLS.__getitem__, values), np.bool_, len(values))


def _texts(values: Sequence[str]) -> Piece:
    return values


_PARSERS: dict[str, Callable[[Sequence[str]], Piece]] = {
    "int64": _ints,
    "float64": _floats,
    "bool": _bools,
    "text": _texts,
}


@dataclass
class _Meter:
    """How much text was read so far."""

    num_chars: int = 0


def _blocks(path: Path, sink: Sink) -> tuple[list[str], Iterator[list[list[str]]]]:
    """The names in the first line, and the records after it, some thousands at a time."""
    meter = _Meter()
    rows = _rows(path, meter)
    names = next(rows, [])
    check_field_names(names, sink.limits)
    return names, _gather(rows, max(1, VALUES_AT_ONCE // len(names)), meter)


def _gather(rows: Iterator[list[str]], at_once: int, meter: _Meter) -> Iterator[list[list[str]]]:
    block: list[list[str]] = []
    begin = meter.num_chars
    for row in rows:
        block.append(row)
        if len(block) == at_once or meter.num_chars - begin > CHARS_AT_ONCE:
            yield block
            block, begin = [], meter.num_chars
    if block:
        yield block


def _rows(path: Path, meter: _Meter) -> Iterator[list[str]]:
    """All lines that are not empty, the names first, each with as many fields as there are names."""
    num_fields = 0
    with path.open("rb") as raw, io.TextIOWrapper(raw, "utf-8-sig", errors="strict", newline="") as file:
        reader: Any = None
        try:
            first = _first_line(file)
            reader = csv.reader(_lines(file, first, meter), delimiter=_delimiter(first), strict=True)
            for row in reader:
                if not row:
                    continue
                if not num_fields:
                    num_fields = len(row)
                    row = [name.strip() for name in row]
                elif len(row) != num_fields:
                    raise InvalidDataset(
                        f"line {reader.line_num:,} has {len(row):,} fields, the first has {num_fields:,}",
                        code="dataset_ragged",
                        line=reader.line_num,
                    )
                yield row
        except UnicodeDecodeError as error:
            raise InvalidDataset(
                f"the text is not all UTF-8 (after line {reader.line_num if reader else 0:,}); save the file as UTF-8",
                code="dataset_encoding",
            ) from error
        except csv.Error as error:
            line = reader.line_num if reader else 1
            raise InvalidDataset(f"line {line:,} cannot be read: {error}", code="dataset_malformed", line=line) from error


def _first_line(file: io.TextIOWrapper) -> str:
    line = _bounded(file)
    while line and not line.strip():
        line = _bounded(file)
    return line


def _lines(file: io.TextIOWrapper, first: str, meter: _Meter) -> Iterator[str]:
    line = first
    while line:
        meter.num_chars += len(line)
        yield line
        line = _bounded(file)


def _bounded(file: io.TextIOWrapper) -> str:
    line = file.readline(MAX_LINE_CHARS)
    if len(line) == MAX_LINE_CHARS:
        raise InvalidDataset(f"a line has more than {MAX_LINE_CHARS:,} characters", code="dataset_malformed")
    if "\0" in line:
        raise InvalidDataset("the text has NUL characters: is it UTF-16, or no text? Save it as UTF-8", code="dataset_encoding")
    return line


def _delimiter(first: str) -> str:
    """What separates the fields: of the usual characters the one that the line of names has most of."""
    return max(_DELIMITERS, key=first.count)
