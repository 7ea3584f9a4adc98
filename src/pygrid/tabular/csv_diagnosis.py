"""Explains why a CSV file is refused: the lines and values of the first faults.

The fast reader knows the part of the file that has the first fault. From its beginning, the careful reader
(`csv_faults`) goes on behind each fault, up to a number of faults and bytes. Only the uploader sees the values.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from pygrid import codes
from pygrid.errors import InvalidDataset, PygridError
from pygrid.tabular.csv_blocks import CsvPiece
from pygrid.tabular.csv_faults import CsvRows, Header, RowReader, TextFile
from pygrid.tabular.csv_kinds import Marks

MAX_FAULTS = 10
_MAX_BYTES = 16 * 1024**2
"""Bytes that are searched for further faults."""
_MAX_CHARS = 80
_LOCAL = frozenset(
    map(
        str,
        (
            codes.DATASET_DTYPE,
            codes.DATASET_ENCODING,
            codes.DATASET_MISSING_VALUES,
            codes.DATASET_OUT_OF_RANGE,
            codes.DATASET_RAGGED,
            codes.DATASET_TEXT_TOO_LONG,
        ),
    )
)
"""Refusals that concern single lines."""
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+|[+-]?\d{1,3}([.' ]\d{3})+,\d+")
_GROUPED = re.compile(r"[+-]?\d{1,3}(?:([,.' _\u00a0\u202f\u2019])\d{3})(?:\1\d{3})*(?:\.\d+)?")


@dataclass(frozen=True)
class CsvFault:
    """A value that cannot be stored, or a line that cannot be read (``column`` is empty)."""

    line: int
    column: str
    value: str
    error: PygridError

    def text(self, *, is_first: bool, after: CsvFault | None) -> str:
        if not self.column:
            return self.error.detail
        if is_first:
            return f"line {self.line}: {self.error.detail}"
        column = "" if after is not None and after.column == self.column else f", column {self.column!r}"
        return f"line {self.line}{column}: {self.value[:_MAX_CHARS]!r}"


FindFaults = Callable[[CsvRows], list[CsvFault]]
"""Finds the values of records that cannot be stored."""


def explain(refusal: PygridError, file: TextFile, header: Header, place: CsvPiece, find: FindFaults) -> PygridError:
    """The refusal, with the lines and values of the first faults.

    Args:
        place: the part of the file with the first fault.
        find: the values of records that cannot be stored.
    """
    if refusal.code not in _LOCAL:
        return refusal
    file.seek(place.position)
    reader = RowReader(file, header.delimiter, len(header.names), place.num_lines, header.skip_lines)
    reader.faults = []
    found: list[CsvFault] = []
    try:
        for rows in reader.chunks(_MAX_BYTES):
            found += find(rows)
            if len(found) + len(reader.faults) >= MAX_FAULTS:
                break
    except InvalidDataset as error:
        if "line" in error.fields:
            reader.faults.append(error)
    found += [CsvFault(int(error.fields["line"]), "", "", error) for error in reader.faults]
    found = sorted(found, key=lambda fault: fault.line)[:MAX_FAULTS]
    return _combined(found) if found else refusal


def _combined(faults: list[CsvFault]) -> InvalidDataset:
    first = faults[0]
    texts = [
        fault.text(is_first=not number, after=faults[number - 1] if number else None)
        for number, fault in enumerate(faults)
    ]
    detail = texts[0] + (f"; also {', '.join(texts[1:])}" if len(texts) > 1 else "")
    if len(faults) == MAX_FAULTS:
        detail += f" (the first {MAX_FAULTS} faults)"
    own = {"column": first.column, "value": first.value[:_MAX_CHARS]} if first.column else {}
    fields = {**first.error.fields, **own, "line": first.line, "lines": [fault.line for fault in faults]}
    return InvalidDataset(detail, code=first.error.code, **fields)


def faults_of_numbers(rows: CsvRows, index: int, declared: tuple[str, str], marks: Marks) -> list[CsvFault]:
    """The first values of a column that are not numbers.

    Args:
        declared: name and dtype of the column.
    """
    found: list[CsvFault] = []
    name, dtype = declared
    for line, row in zip(rows.lines, rows, strict=True):
        text = row[index]
        if marks.is_missing(text) or marks.is_number(text):
            continue
        error = InvalidDataset(
            f"column {name!r} is declared as {dtype}, and {text[:_MAX_CHARS]!r} is not a number{advice(text, marks)}",
            code=codes.DATASET_DTYPE,
        )
        found.append(CsvFault(line, name, text, error))
        if len(found) >= MAX_FAULTS:
            break
    return found


def advice(text: str, marks: Marks) -> str:
    """What to do about a text that stands where a number is wanted."""
    text = text.strip()
    if text.casefold() in ("true", "false"):
        return "; declare the column as bool, or write 1 and 0"
    if marks.decimal == "." and _DECIMAL_COMMA.fullmatch(text):
        return "; pass decimal=',' if the comma is a decimal mark"
    if marks.thousands is None and (grouped := _GROUPED.fullmatch(text)):
        return f"; pass thousands={grouped[1]!r} if it is a mark between groups of digits"
    if re.fullmatch(r"[+-]?0\d+", text):
        return ", because of the zero before it; declare the column as text to keep it"
    if sign := re.fullmatch(r"([$€£%]) ?[\d.,]+|[\d.,]+ ?([$€£%])", text):
        return f"; write the numbers without {sign[1] or sign[2]}"
    if not re.search(r"\d", text):
        return f"; pass missing=[{text[:_MAX_CHARS]!r}] if it stands for a missing value"
    return ""
