"""Reads CSV text line by line with Python's ``csv``: the header, and the records that pyarrow cannot read.

This reader is slow, and its errors name the line.
"""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from pygrid import codes
from pygrid.errors import InvalidDataset

MAX_LINE_BYTES = 16 * 1024**2
VALUES_AT_ONCE = 200_000
BYTES_AT_ONCE = 8 * 1024**2
_READ_BYTES = 256 * 1024
_DELIMITERS = (",", ";", "\t", "|")
_BOM = b"\xef\xbb\xbf"

Rows = list[list[str]]


@dataclass(frozen=True)
class Header:
    """The line of names; ``position`` bytes and ``num_lines`` lines are before the first record."""

    names: list[str]
    delimiter: str
    position: int
    num_lines: int


class RowReader:
    """The records of a file from its current position; empty lines are skipped.

    Args:
        delimiter: None: the usual one that the first line has most of.
        num_fields: number of fields that each record must have; None: any number.
        num_lines: number of lines before the current position.
    """

    def __init__(
        self, file: BinaryIO, delimiter: str | None = None, num_fields: int | None = None, num_lines: int = 0
    ) -> None:
        self._file = file
        self._num_fields = num_fields
        self.delimiter = delimiter
        self.position = 0
        """Bytes from the first position of the file to the end of the last record."""
        self.num_lines = num_lines
        """Lines from the beginning of the file to the end of the last record."""

    def rows(self) -> Iterator[list[str]]:
        """The records.

        Raises:
            InvalidDataset: ``dataset_ragged``, ``dataset_encoding`` or ``dataset_malformed``, with the line.
        """
        lines = self._lines()
        if self.delimiter is None:
            first = next((line for line in lines if line.strip()), "")
            self.delimiter = max(_DELIMITERS, key=first.count)
            lines = itertools.chain([first], lines)
        reader: Any = csv.reader(lines, delimiter=self.delimiter, strict=True)
        try:
            for row in reader:
                if self._num_fields is not None and row and len(row) != self._num_fields:
                    raise InvalidDataset(
                        f"line {self.num_lines:,} has {len(row):,} fields, the first has {self._num_fields:,}",
                        code=codes.DATASET_RAGGED,
                        line=self.num_lines,
                    )
                if row:
                    yield row
        except csv.Error as error:
            line = self.num_lines
            raise InvalidDataset(
                f"line {line:,} cannot be read: {error}", code=codes.DATASET_MALFORMED, line=line
            ) from error

    def chunks(self, max_bytes: float = math.inf) -> Iterator[Rows]:
        """The records in lists of bounded size, up to the first record that ends after ``max_bytes``; raises as
        `rows`.
        """
        chunk: Rows = []
        begin = 0
        for row in self.rows():
            chunk.append(row)
            if self.position >= max_bytes:
                break
            if len(chunk) * len(row) >= VALUES_AT_ONCE or self.position - begin > BYTES_AT_ONCE:
                yield chunk
                chunk, begin = [], self.position
        if chunk:
            yield chunk

    def _lines(self) -> Iterator[str]:
        """The lines with their ends. ``csv`` takes no more of them than its current record needs."""
        rest = b""
        while True:
            data = self._file.read(_READ_BYTES)
            lines = (rest + data).splitlines(keepends=True)
            # The next bytes may continue a last line without LF, also one that ends in CR.
            rest = lines.pop() if data and not lines[-1].endswith(b"\n") else b""
            for line in lines:
                yield self._decoded(line)
            if not data:
                return
            self._check_length(rest)

    def _decoded(self, line: bytes) -> str:
        self._check_length(line)
        self.num_lines += 1
        self.position += len(line)
        if b"\0" in line:
            raise InvalidDataset(
                "the file has NUL characters, so it is UTF-16 or not a text; save it as UTF-8",
                code=codes.DATASET_ENCODING,
            )
        try:
            return line.decode()
        except UnicodeDecodeError as error:
            raise InvalidDataset(
                f"line {self.num_lines:,} is not UTF-8; save the file as UTF-8",
                code=codes.DATASET_ENCODING,
                line=self.num_lines,
            ) from error

    def _check_length(self, line: bytes) -> None:
        if len(line) > MAX_LINE_BYTES:
            raise InvalidDataset(f"a line has more than {MAX_LINE_BYTES:,} bytes", code=codes.DATASET_MALFORMED)


def read_header(file: BinaryIO) -> Header:
    """The names of the columns, from the first line that is not blank; raises as `RowReader.rows`."""
    file.seek(0)
    skipped = len(_BOM) if file.read(len(_BOM)) == _BOM else 0
    file.seek(skipped)
    reader = RowReader(file)
    names = next(reader.rows(), [])
    return Header(
        [name.strip() for name in names], reader.delimiter or ",", skipped + reader.position, reader.num_lines
    )
