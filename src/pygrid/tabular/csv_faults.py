"""Reads CSV text line by line with Python's ``csv``: the first line, and the records that pyarrow cannot read.

This reader is slow, and its errors name the line. After a refusal it reads on from the first fault, to name several.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from pygrid import codes
from pygrid.codes import Code
from pygrid.errors import InvalidDataset

MAX_LINE_BYTES = 16 * 1024**2
VALUES_AT_ONCE = 200_000
BYTES_AT_ONCE = 8 * 1024**2
_READ_BYTES = 256 * 1024


class CsvRows(list[list[str]]):
    """Records, with the number of the line in which each ends."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[int] = []


class TextFile(Protocol):
    """A file whose bytes are UTF-8, or are taken for it."""

    def seek(self, position: int, /) -> int: ...

    def read(self, num_bytes: int, /) -> bytes:
        """The next bytes; fewer only at the end."""
        ...


@dataclass(frozen=True)
class Header:
    """The names of the columns; ``position`` bytes and ``num_lines`` lines are before the first record."""

    names: list[str]
    delimiter: str
    position: int
    num_lines: int
    skip_lines: frozenset[int] = frozenset()
    """Numbers of lines that are not read."""
    dropped: frozenset[int] = frozenset()
    """Indices of columns that are not stored."""
    notes: Sequence[str] = ()
    """What was decided about columns without a name, for the owner."""

    def renamed(self, names: list[str], dropped: frozenset[int] = frozenset(), notes: Sequence[str] = ()) -> Header:
        """The header with other names."""
        return replace(self, names=names, dropped=dropped, notes=notes)


class RowReader:
    """The records of a file from its current position; empty lines are skipped.

    Args:
        num_fields: number of fields that each record must have; None: any number.
        num_lines: number of lines before the current position.
        skip_lines: numbers of lines that are not read.
    """

    def __init__(
        self,
        file: TextFile,
        delimiter: str,
        num_fields: int | None = None,
        num_lines: int = 0,
        skip_lines: frozenset[int] = frozenset(),
    ) -> None:
        self._file = file
        self._num_fields = num_fields
        self._delimiter = delimiter
        self._skip_lines = skip_lines
        self.position = 0
        """Bytes from the first position of the file to the end of the last record."""
        self.num_lines = num_lines
        """Lines from the beginning of the file to the end of the last record."""
        self.faults: list[InvalidDataset] | None = None
        """A list to which faults are added, so that the reading goes on behind them; None: the first one is raised."""

    def rows(self) -> Iterator[list[str]]:
        """The records.

        Raises:
            InvalidDataset: ``dataset_ragged``, ``dataset_encoding`` or ``dataset_malformed``, with the line.
        """
        reader: Any = csv.reader(self.lines(), delimiter=self._delimiter, strict=True)
        begin = self.num_lines + 1
        try:
            for row in reader:
                begin = self.num_lines + 1
                if self._num_fields is not None and row and len(row) != self._num_fields:
                    self._refuse(self._ragged(row), codes.DATASET_RAGGED)
                elif row:
                    yield row
        except csv.Error as error:
            line, why = self.num_lines, f"cannot be read: {error}"
            if str(error) == "unexpected end of data":
                line, why = begin, "begins a text in quotes that does not end; a quote within such a text is doubled"
            elif "expected after" in str(error):
                why = "has more text after a quote; a quote within a text in quotes is doubled"
            elif "field larger" in str(error):
                why = f"has a field of more than {csv.field_size_limit():,} characters; skip or shorten it"
            raise InvalidDataset(f"line {line} {why}", code=codes.DATASET_MALFORMED, line=self.num_lines) from error

    def _ragged(self, row: Sequence[str]) -> str:
        """What is wrong with a record that has another number of fields, and what to do."""
        fields = "1 field" if len(row) == 1 else f"{len(row):,} fields"
        told = f"line {self.num_lines} has {fields}, the first has {self._num_fields:,}"
        if len(row) == 1:
            return f"{told}; pass skip_lines=[{self.num_lines}] if it is not a record"
        if self._num_fields == 1:
            return f"{told}; pass skip_lines=[1] if the first line is a title"
        is_longer = len(row) > (self._num_fields or 0)
        return f"{told}; remove the delimiter at its end" if is_longer and not row[-1] else told

    def chunks(self, max_bytes: float = math.inf) -> Iterator[CsvRows]:
        """The records in lists of bounded size, up to the first record that ends after ``max_bytes``; raises as
        `rows`.
        """
        chunk = CsvRows()
        begin = 0
        for row in self.rows():
            chunk.append(row)
            chunk.lines.append(self.num_lines)
            if self.position >= max_bytes:
                break
            if len(chunk) * len(row) >= VALUES_AT_ONCE or self.position - begin > BYTES_AT_ONCE:
                yield chunk
                chunk, begin = CsvRows(), self.position
        if chunk:
            yield chunk

    def lines(self) -> Iterator[str]:
        """The lines with their ends. ``csv`` takes no more of them than its current record needs.

        Raises:
            InvalidDataset: ``dataset_encoding``, with the line; ``dataset_malformed``: a line is too long.
        """
        rest = b""
        while True:
            data = self._file.read(_READ_BYTES)
            lines = (rest + data).splitlines(keepends=True)
            # The next bytes may continue a last line without LF, also one that ends in CR.
            rest = lines.pop() if data and not lines[-1].endswith(b"\n") else b""
            for line in lines:
                text = self._decoded(line)
                if self.num_lines not in self._skip_lines:
                    yield text
            if not data:
                return
            self._check_length(rest)

    def _decoded(self, line: bytes) -> str:
        self._check_length(line)
        self.num_lines += 1
        self.position += len(line)
        if b"\0" in line:
            raise InvalidDataset(
                "the file has NUL characters, so it is UTF-16 or not a text; pass encoding='utf-16', or save it as "
                "UTF-8",
                code=codes.DATASET_ENCODING,
            )
        try:
            return line.decode()
        except UnicodeDecodeError:
            self._refuse(
                f"line {self.num_lines} is not UTF-8; pass encoding='latin-1' or 'windows-1252', or save the file as "
                "UTF-8",
                codes.DATASET_ENCODING,
            )
            return line.decode(errors="replace")

    def _refuse(self, why: str, code: Code) -> None:
        fault = InvalidDataset(why, code=code, line=self.num_lines)
        if self.faults is None:
            raise fault
        self.faults.append(fault)

    def _check_length(self, line: bytes) -> None:
        if len(line) > MAX_LINE_BYTES:
            raise InvalidDataset(f"a line has more than {MAX_LINE_BYTES:,} bytes", code=codes.DATASET_MALFORMED)
