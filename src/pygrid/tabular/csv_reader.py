"""CSV files (RFC 4180): a line of names, then a line for each record.

A column is stored as the narrowest that all its values fit (`csv_kinds`). What it holds is told from the first records, and it
is stored as that while the rest is looked at. If a later value does not fit, the file is looked through to its end and stored
once more from its beginning; so no file is read more than three times, and what comes of it never depends on where pieces end.

The text is cut into pieces at the ends of records. Pieces that are plain to see through go to pyarrow, where that is installed;
any other, and all without pyarrow, are read by Python's own `csv`, which also finds the words for what is wrong with a file.
"""

from __future__ import annotations

import importlib
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, BinaryIO, Protocol

import numpy as np

from pygrid.errors import InvalidDataset, PayloadTooLarge
from pygrid.tabular.csv_blocks import Block, Rows, pieces, rows, rows_of
from pygrid.tabular.csv_faults import Header, read_header
from pygrid.tabular.csv_kinds import NOTHING, OTHER, ColumnStats, Kind, kind_of, look
from pygrid.tabular.table_writer import Field, TableWriter, check_field_names

PREFIX_BYTES = 256 * 1024
"""What columns hold is told from so much first."""
PIECE_BYTES = 2 * 1024**2
MIN_PIECE_BYTES = 128 * 1024
VALUE_BYTES = 6 * 1024**2
"""What the values of a piece take, about: an empty field is one byte, and eight as a number."""
SMALL_BYTES = 1024**2
"""Of a smaller file pyarrow would take longer to load than to read it."""
NUM_THREADS = 2
_FAST = "pygrid.tabular.csv_arrow"
_AHEAD = 1
"""Pieces that are read while others are stored, beside those of the threads."""


class BlockReader(Protocol):
    """Reads a well-formed piece of text."""

    def read(self, block: Block, kinds: Sequence[Kind]) -> list[ColumnStats] | None:
        """The wanted columns of a block; None: it takes the careful reader to tell."""
        ...


@dataclass
class _Columns:
    """What is known so far of the columns that are stored."""

    header: Header
    indices: list[int]
    seen: list[int]
    writer: TableWriter
    expansion: float = 1.0
    """Bytes of values for each byte of the last block."""

    @property
    def kinds(self) -> list[Kind]:
        """What to read them as: of what was not seen yet, the narrowest, so that it is told if it is wider."""
        return ["int64" if seen == NOTHING else kind_of(seen) for seen in self.seen]

    def piece_bytes(self, at_most: int) -> int:
        """How much text to read at once, so that its values don't take too much."""
        return min(at_most, max(MIN_PIECE_BYTES, int(VALUE_BYTES / max(1.0, self.expansion))))

    def note(self, looked: list[ColumnStats]) -> bool:
        """Take note of what a piece holds; whether it made a kind wider.

        Raises:
            InvalidDataset: ``dataset_dtype``: a column that was declared as numbers has something else.
        """
        is_wider = False
        for place, (before, found) in enumerate(zip(self.seen, looked, strict=True)):
            after = before | found.seen
            if after == before:
                continue
            self.seen[place] = after
            if kind_of(after) != kind_of(before):
                is_wider = True
                self._check(place)
        return is_wider

    def _check(self, place: int) -> None:
        name = self.header.names[self.indices[place]]
        wanted = self.writer.declared_kind(name)
        if wanted not in (None, "text") and kind_of(self.seen[place]) == "text":
            raise InvalidDataset(
                f"column {name!r} is declared as {wanted}, and not all its values are numbers",
                code="dataset_dtype",
                column=name,
            )

    def fields(self) -> list[Field]:
        """All columns of the file; of those that are not stored the kind is anything."""
        kinds = {index: kind_of(seen) for index, seen in zip(self.indices, self.seen, strict=True)}
        return [Field(name, kinds.get(index, "float64")) for index, name in enumerate(self.header.names)]


def load_for(num_bytes: int) -> None:
    """Import what reads a file of this size, where that is installed."""
    if num_bytes >= SMALL_BYTES and find_spec("pyarrow") is not None:
        importlib.import_module(_FAST)


def read(file: BinaryIO, writer: TableWriter) -> None:
    """Read the file; with pyarrow if `load_for` was called for one that is worth it.

    Raises:
        InvalidDataset: names the line that has another number of fields, is not UTF-8, or has a quote that does not end.
    """
    header = read_header(file)
    check_field_names(header.names, writer.limits)
    wanted = [index for index, name in enumerate(header.names) if writer.is_wanted(name)]
    declared = [writer.declared_kind(header.names[index]) for index in wanted]
    seen = [OTHER if kind == "text" else NOTHING for kind in declared]
    columns = _Columns(header, wanted, seen, writer)
    fast: Any = sys.modules.get(_FAST)
    reader: BlockReader | None = None if fast is None or not wanted else fast.ArrowReader(header, wanted)
    for first in _looked(file, columns, reader, PREFIX_BYTES):
        columns.note(first)
        break
    if not _store(file, columns, reader):
        writer.start_over()
        _store(file, columns, reader)


def _store(file: BinaryIO, columns: _Columns, reader: BlockReader | None) -> bool:
    """Store everything as what it is known to hold; False: it was looked through to its end, and turned out to hold more."""
    writer, refusal, is_wider = columns.writer, None, False
    names = [columns.header.names[index] for index in columns.indices]
    try:
        writer.begin(columns.fields())
    except (InvalidDataset, PayloadTooLarge) as error:
        refusal = error
    for looked in _looked(file, columns, reader, PIECE_BYTES):
        is_wider = columns.note(looked) or is_wider
        if is_wider or refusal is not None:
            continue
        try:
            writer.add_rows({name: found.values for name, found in zip(names, looked, strict=True)})
        except (InvalidDataset, PayloadTooLarge) as error:
            # Perhaps no more than a wrong idea of what the column holds: only its end tells.
            refusal = error
    if refusal is not None and not is_wider:
        raise refusal
    return not is_wider


def _looked(file: BinaryIO, columns: _Columns, reader: BlockReader | None, at_once: int) -> Iterator[list[ColumnStats]]:
    """The columns of one piece after the other, in order; blocks are read ahead, by threads."""
    header = columns.header
    if reader is None:
        yield from (_look_at(piece, columns) for piece in rows(file, header))
        return
    waiting: deque[tuple[Block, Future[list[ColumnStats] | None]] | Rows | InvalidDataset] = deque()
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        try:
            for piece in _with_their_end(pieces(file, header, lambda: columns.piece_bytes(at_once))):
                is_block = isinstance(piece, Block)
                waiting.append(
                    (piece, threads.submit(reader.read, piece, columns.kinds)) if isinstance(piece, Block) else piece
                )
                while waiting and (len(waiting) > NUM_THREADS + _AHEAD or not is_block):
                    yield from _taken(waiting.popleft(), columns)
            while waiting:
                yield from _taken(waiting.popleft(), columns)
        finally:
            for item in waiting:
                if isinstance(item, tuple):
                    item[1].cancel()


def _with_their_end(found: Iterator[Block | Rows]) -> Iterator[Block | Rows | InvalidDataset]:
    """What is found, and at last what went wrong, so that it comes up after what is before it in the file."""
    try:
        yield from found
    except InvalidDataset as error:
        yield error


def _taken(
    item: tuple[Block, Future[list[ColumnStats] | None]] | Rows | InvalidDataset, columns: _Columns
) -> Iterator[list[ColumnStats]]:
    if isinstance(item, InvalidDataset):
        raise item
    if isinstance(item, list):
        yield _look_at(item, columns)
        return
    block, future = item
    looked = future.result()
    if looked is not None:
        num_bytes = sum(found.values.nbytes for found in looked if isinstance(found.values, np.ndarray))
        columns.expansion = num_bytes / len(block.data)
        yield looked
    else:
        yield from (_look_at(piece, columns) for piece in rows_of(block, columns.header))


def _look_at(piece: Rows, columns: _Columns) -> list[ColumnStats]:
    values = list(zip(*piece, strict=True))
    return [look(values[index], kind) for index, kind in zip(columns.indices, columns.kinds, strict=True)]
