"""Cuts the records of a CSV file into blocks that every CSV reader understands in the same way.

A block begins and ends with a record. It is UTF-8 without NUL, its lines end in LF or CR LF, and each quote begins or
ends a field or stands for a quote within a field. `csv_faults` reads records that form no such block.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pygrid.errors import InvalidDataset
from pygrid.tabular.csv_faults import CsvRows, Header, RowReader, TextFile

MAX_RECORD_BYTES = 130_000
"""Longest record of a block. Python's ``csv`` refuses a field of more than 131,072 characters."""
MAX_VALUE_BYTES = 4 * 1024**2
"""Largest memory for the values of a block: a field of one byte takes eight bytes as a number."""
_LF, _CR, _QUOTE = 10, 13, 34


@dataclass(frozen=True)
class CsvBlock:
    """Whole records; ``num_lines`` lines of the file are before them."""

    data: bytes
    num_lines: int
    has_quotes: bool


@dataclass(frozen=True)
class CsvPiece:
    """Records of the file, or the fault that ends it. It was cut from ``position``, after ``num_lines`` lines."""

    content: CsvBlock | CsvRows | InvalidDataset
    position: int
    num_lines: int


def rows_of(block: CsvBlock, header: Header) -> Iterator[CsvRows]:
    """The records of a block, as Python's ``csv`` reads them; raises as `RowReader.rows`."""
    return RowReader(io.BytesIO(block.data), header.delimiter, len(header.names), block.num_lines).chunks()


def cut(file: TextFile, header: Header, num_bytes: int) -> Iterator[CsvPiece]:
    """All records of the file, in order, in blocks of at most ``num_bytes``; then the fault that ends it, if any."""
    delimiter = header.delimiter.encode()
    others = bytes(set(range(256)) - {_LF, *delimiter})
    position, num_lines = header.position, header.num_lines
    while True:
        file.seek(position)
        data = file.read(num_bytes)
        if not data:
            return
        is_last = len(data) < num_bytes
        value_bytes = 8 * len(data.translate(None, others))
        if value_bytes > MAX_VALUE_BYTES:
            data, is_last = data[: len(data) * MAX_VALUE_BYTES // value_bytes], False
        skips = [line - num_lines for line in header.skip_lines if line > num_lines]
        if skips and (before := _lines_before(data, min(skips))) is not None:
            data, is_last = before, False
        block = _block(data, delimiter, num_lines, is_last=is_last)
        if block is not None:
            yield CsvPiece(block, position, num_lines)
            position, num_lines = position + len(block.data), num_lines + block.data.count(b"\n")
        else:
            file.seek(position)
            reader = RowReader(file, header.delimiter, len(header.names), num_lines, header.skip_lines)
            try:
                for rows in reader.chunks(len(data)):
                    yield CsvPiece(rows, position, num_lines)
            except InvalidDataset as error:
                yield CsvPiece(error, position, num_lines)
                return
            position, num_lines = position + reader.position, reader.num_lines


def _lines_before(data: bytes, number: int) -> bytes | None:
    """The lines before line ``number`` of the data, counted from 1; None: the data ends before that line."""
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == _LF)
    if number == 1:
        return b""
    return data[: int(ends[number - 2]) + 1] if len(ends) >= number - 1 else None


def _block(data: bytes, delimiter: bytes, num_lines: int, *, is_last: bool) -> CsvBlock | None:
    """The whole records at the beginning of the data; None if they do not form a block."""
    text = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(text == _LF)
    quotes = np.flatnonzero(text == _QUOTE) if b'"' in data else ends[:0]
    if quotes.size:  # a line end after an odd number of quotes is within a field
        ends = ends[np.searchsorted(quotes, ends) % 2 == 0]
    end = len(data) if is_last else int(ends[-1]) + 1 if ends.size else 0
    data, quotes = data[:end], quotes[: np.searchsorted(quotes, end)]
    if not data or b"\0" in data or (b"\r" in data and data.count(b"\r") != data.count(b"\r\n")):
        return None
    try:
        data.decode()
    except UnicodeDecodeError:
        return None
    is_long = np.max(np.diff(ends, prepend=-1, append=end)) > MAX_RECORD_BYTES
    if is_long or (quotes.size and not _has_good_quotes(data, quotes, delimiter)):
        return None
    return CsvBlock(data, num_lines, bool(quotes.size))


def _has_good_quotes(data: bytes, quotes: npt.NDArray[Any], delimiter: bytes) -> bool:
    """Whether quotes come in pairs that enclose fields, or parts of fields between doubled quotes."""
    text = np.frombuffer(b"\n" + data + b"\n", np.uint8)
    around = np.concatenate([text[quotes[0::2]], text[quotes[1::2] + 2]])
    return quotes.size % 2 == 0 and bool(np.isin(around, [_LF, _CR, _QUOTE, *delimiter]).all())
