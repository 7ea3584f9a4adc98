"""Cuts the records of a CSV file into pieces: blocks of bytes that are plain to see through, and rows of what is not.

A block begins and ends with a record, and means the same to every reader of CSV: it is UTF-8 without NUL, its lines end in LF
or CR LF, and each of its quotes begins or ends a field or stands for a quote within one.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pygrid.tabular.csv_faults import Header, RowReader

MAX_FIELD_BYTES = 100_000
"""In a block. Python's ``csv`` takes up to 131,072 characters, and refuses longer fields."""
VALUES_AT_ONCE = 200_000
BYTES_AT_ONCE = 8 * 1024**2
_LF, _CR, _QUOTE = 10, 13, 34

Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[Any]


@dataclass(frozen=True)
class Block:
    """Whole records."""

    data: bytes
    num_lines: int
    """Lines of the file before it."""
    num_own_lines: int
    has_quotes: bool


Rows = list[list[str]]


def pieces(file: BinaryIO, header: Header, num_bytes: Callable[[], int]) -> Iterator[Block | Rows]:
    """All records of the file, in order.

    Args:
        num_bytes: of the next block, at most.
    Raises:
        InvalidDataset: as `RowReader`, once what is before was given.
    """
    position, num_lines = header.position, header.num_lines
    while True:
        file.seek(position)
        at_once = num_bytes()
        data = file.read(at_once)
        if not data:
            return
        block = _block(data, header.delimiter.encode(), num_lines, is_last=len(data) < at_once)
        if block is not None:
            position, num_lines = position + len(block.data), num_lines + block.num_own_lines
            yield block
            continue
        file.seek(position)
        reader = RowReader(file, header.delimiter, len(header.names), num_lines)
        yield from _gathered(reader, at_once)
        position, num_lines = position + reader.position, reader.num_lines


def rows(file: BinaryIO, header: Header) -> Iterator[Rows]:
    """As `pieces`, all of them as rows."""
    file.seek(header.position)
    return _gathered(RowReader(file, header.delimiter, len(header.names), header.num_lines), None)


def rows_of(block: Block, header: Header) -> Iterator[Rows]:
    """The records of a block; the same errors."""
    return _gathered(RowReader(io.BytesIO(block.data), header.delimiter, len(header.names), block.num_lines), None)


def _gathered(reader: RowReader, max_bytes: int | None) -> Iterator[Rows]:
    """Rows, some thousand at a time, until so many bytes are read."""
    gathered: Rows = []
    begin = 0
    for row in reader.rows():
        gathered.append(row)
        is_enough = max_bytes is not None and reader.position >= max_bytes
        if is_enough or len(gathered) * len(row) >= VALUES_AT_ONCE or reader.position - begin > BYTES_AT_ONCE:
            yield gathered
            gathered, begin = [], reader.position
            if is_enough:
                return
    if gathered:
        yield gathered


def _block(data: bytes, delimiter: bytes, num_lines: int, *, is_last: bool) -> Block | None:
    """As much of the data as is a block; None if it takes a careful reader to see where records end."""
    text: Bytes = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(text == _LF)
    quotes = np.flatnonzero(text == _QUOTE) if b'"' in data else ends[:0]
    # A line end after an odd number of quotes lies within a field.
    records = ends[np.searchsorted(quotes, ends) % 2 == 0] if quotes.size else ends
    end = len(data) if is_last else int(records[-1]) + 1 if records.size else 0
    data, text, quotes = data[:end], text[:end], quotes[: np.searchsorted(quotes, end)]
    if not data or b"\0" in data or not _has_good_ends(data) or not _is_utf8(data):
        return None
    if quotes.size and not _has_good_quotes(text, quotes, ord(delimiter)):
        return None
    if _longest(records, end) > MAX_FIELD_BYTES:
        separators = np.flatnonzero((text == _LF) | (text == ord(delimiter)))
        if quotes.size or _longest(separators, end) > MAX_FIELD_BYTES:
            return None
    return Block(data, num_lines, int(np.searchsorted(ends, end)), bool(quotes.size))


def _has_good_ends(data: bytes) -> bool:
    return b"\r" not in data or data.count(b"\r") == data.count(b"\r\n")


def _has_good_quotes(text: Bytes, quotes: Places, delimiter: int) -> bool:
    """Whether quotes come in pairs that enclose fields, or parts of fields between doubled quotes."""
    if quotes.size % 2:
        return False
    opening, closing = quotes[0::2], quotes[1::2]
    before = text[np.maximum(opening - 1, 0)]
    is_good_opening = (before == delimiter) | (before == _LF) | (before == _QUOTE) | (opening == 0)
    after = text[np.minimum(closing + 1, text.size - 1)]
    is_good_closing = (after == delimiter) | (after == _LF) | (after == _CR) | (after == _QUOTE) | (closing == text.size - 1)
    return bool(np.all(is_good_opening) and np.all(is_good_closing))


def _longest(ends: Places, size: int) -> int:
    """The longest stretch between these places, and the beginning and end of the text."""
    return int(np.max(np.diff(ends, prepend=-1, append=size)))


def _is_utf8(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
