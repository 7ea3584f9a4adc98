"""The careful reader of CSV text: Python's ``csv``, line by line, so that whatever is wrong has a line number."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from pygrid.errors import InvalidDataset

MAX_LINE_BYTES = 16 * 1024**2
_PIECE_BYTES = 256 * 1024
_DELIMITERS = (",", ";", "\t", "|")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Header:
    """The line of names."""

    names: list[str]
    delimiter: str
    position: int
    """Where the first record begins, in bytes."""
    num_lines: int
    """Lines before it."""


class RowReader:
    """Rows of a file, from where it stands: every line that is not empty.

    Args:
        num_fields: how many fields each row must have; None: any number.
        num_lines: lines of the file before these.
    """

    def __init__(self, file: BinaryIO, delimiter: str | None = None, num_fields: int | None = None, num_lines: int = 0) -> None:
        self._file = file
        self._num_fields = num_fields
        self.delimiter = delimiter
        self.position = 0
        """Bytes up to the end of the last row, from where the file stood."""
        self.num_lines = num_lines
        """Lines up to there, from the beginning of the file."""

    def rows(self) -> Iterator[list[str]]:
        """The rows.

        Raises:
            InvalidDataset: ``dataset_ragged``, ``dataset_encoding``, ``dataset_malformed``: names the line.
        """
        lines = self._lines()
        if self.delimiter is None:
            first = next((line for line in lines if line.strip()), "")
            self.delimiter = _delimiter(first)
            lines = _chained(first, lines)
        reader: Any = csv.reader(lines, delimiter=self.delimiter, strict=True)
        try:
            for row in reader:
                if not row:
                    continue
                if self._num_fields is not None and len(row) != self._num_fields:
                    raise InvalidDataset(
                        f"line {self.num_lines:,} has {len(row):,} fields, the first has {self._num_fields:,}",
                        code="dataset_ragged",
                        line=self.num_lines,
                    )
                yield row
        except csv.Error as error:
            line = self.num_lines
            raise InvalidDataset(f"line {line:,} cannot be read: {error}", code="dataset_malformed", line=line) from error

    def _lines(self) -> Iterator[str]:
        """Line by line, ends included: ``csv`` takes no more of them than the row needs that it is at."""
        rest = b""
        while True:
            piece = self._file.read(_PIECE_BYTES)
            lines = (rest + piece).splitlines(keepends=True)
            # A last line without its end may go on, and one that ends in CR may be half of CR LF.
            rest = lines.pop() if piece and not lines[-1].endswith(b"\n") else b""
            for line in lines:
                yield self._decoded(line)
            if not piece:
                return
            self._check_length(rest)

    def _decoded(self, line: bytes) -> str:
        self._check_length(line)
        self.num_lines += 1
        self.position += len(line)
        if b"\0" in line:
            raise InvalidDataset(
                "the text has NUL characters: is it UTF-16, or no text? Save it as UTF-8", code="dataset_encoding"
            )
        try:
            return line.decode()
        except UnicodeDecodeError as error:
            raise InvalidDataset(
                f"line {self.num_lines:,} is not UTF-8; save the file as UTF-8", code="dataset_encoding", line=self.num_lines
            ) from error

    def _check_length(self, line: bytes) -> None:
        if len(line) > MAX_LINE_BYTES:
            raise InvalidDataset(f"a line has more than {MAX_LINE_BYTES:,} bytes", code="dataset_malformed")


def read_header(file: BinaryIO) -> Header:
    """The names of the columns, from the first line that is not blank; the same errors as of rows."""
    file.seek(0)
    skipped = len(_BOM) if file.read(len(_BOM)) == _BOM else 0
    file.seek(skipped)
    reader = RowReader(file)
    names = next(reader.rows(), [])
    return Header([name.strip() for name in names], reader.delimiter or ",", skipped + reader.position, reader.num_lines)


def _chained(first: str, lines: Iterator[str]) -> Iterator[str]:
    if first:
        yield first
    yield from lines


def _delimiter(first: str) -> str:
    """What separates the fields: of the usual characters the one that the line of names has most of."""
    return max(_DELIMITERS, key=first.count)
