"""CSV files (RFC 4180): a line of names, then a line for each record.

A column is stored as the narrowest kind that all its values fit (`csv_kinds`). Its first records suggest the kind, and
the column is stored as that kind while the rest is read. If a later value does not fit, the file is read to its end and
then stored again from its beginning. So a file is read at most three times, and what is stored does not depend on where
blocks end.

The text is cut into blocks (`csv_blocks`), which pyarrow reads. Records that form no block, and blocks that pyarrow
refuses, are read by Python's own ``csv`` (`csv_faults`), which names the line of a fault.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.csv as pa_csv

from pygrid import codes
from pygrid.errors import InvalidDataset, PayloadTooLarge
from pygrid.tabular.csv_blocks import CsvBlock, cut, rows_of
from pygrid.tabular.csv_faults import Header, Rows, read_header
from pygrid.tabular.csv_kinds import (
    NOTHING,
    OTHER,
    ColumnStats,
    Kind,
    has_odd_spellings,
    kind_of,
    look,
    options_for,
    stats_of,
)
from pygrid.tabular.table_writer import Field, TableWriter, check_field_names

# With the first value, pyarrow imports dateutil where that is installed, which fails behind a sandbox.
pa.scalar(None)

PREFIX_BYTES = 256 * 1024
"""Size of the part whose values suggest the kinds of the columns."""
BLOCK_BYTES = 3 * 512 * 1024
NUM_THREADS = 2
NUM_AHEAD = 2
"""Blocks that are read while an earlier one is stored."""
_TEXT = pa.dictionary(pa.int32(), pa.string())
_TYPES: dict[Kind, Any] = {"float64": pa.float64(), "bool": pa.bool_(), "text": _TEXT}


def read(
    file: BinaryIO, writer: TableWriter, *, prefix_bytes: int = PREFIX_BYTES, block_bytes: int = BLOCK_BYTES
) -> None:
    """Read the file into the writer.

    Raises:
        InvalidDataset: with the line that has another number of fields, is not UTF-8, or has a quote that does not end.
    """
    header = read_header(file)
    check_field_names(header.names, writer.limits)
    columns = _Columns(header, writer)
    parser = _Parser(header, columns.indices)
    for stats in _parse_ahead(file, columns, parser, prefix_bytes):
        columns.note(stats)
        break
    if not _store(_parse_ahead(file, columns, parser, block_bytes), columns, writer):
        writer.start_over()
        _store(_parse_ahead(file, columns, parser, block_bytes), columns, writer)


def _store(parts: Iterator[list[ColumnStats]], columns: _Columns, writer: TableWriter) -> bool:
    """Store the columns as the kinds known so far; False: all parts were looked at, and a column is of a wider kind."""
    refusal, is_wider = None, False
    try:
        writer.begin(columns.fields())
    except (InvalidDataset, PayloadTooLarge) as error:
        refusal = error
    for stats in parts:
        is_wider = columns.note(stats) or is_wider
        if is_wider or refusal is not None:
            continue
        try:
            writer.add_rows({name: column.values for name, column in zip(columns.names, stats, strict=True)})
        except (InvalidDataset, PayloadTooLarge) as error:
            refusal = error  # raised at the end only: with a wider kind, the values may be accepted
    if refusal is not None and not is_wider:
        raise refusal
    return not is_wider


def _parse_ahead(file: BinaryIO, columns: _Columns, parser: _Parser, num_bytes: int) -> Iterator[list[ColumnStats]]:
    """The columns of one part of the file after the other, in order; threads parse the next pieces.

    In the main thread pyarrow would make a pipe for signals, which a sandbox refuses.
    """
    waiting: deque[Future[list[list[ColumnStats]]]] = deque()
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        for piece in cut(file, parser.header, num_bytes):
            waiting.append(threads.submit(parser.parse, piece, columns.kinds))
            if not isinstance(piece, CsvBlock):
                wait(waiting)  # rows take much memory: one list of them at a time
            if len(waiting) > NUM_AHEAD:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


class _Columns:
    """The columns that are stored, and what is known of their kinds."""

    def __init__(self, header: Header, writer: TableWriter) -> None:
        self._all_names = header.names
        self.indices = [index for index, name in enumerate(header.names) if writer.is_wanted(name)]
        self.names = [header.names[index] for index in self.indices]
        self._declared = [writer.declared_kind(name) for name in self.names]
        self._seen = [OTHER if kind == "text" else NOTHING for kind in self._declared]

    @property
    def kinds(self) -> list[Kind]:
        """The kinds known so far; int64, the narrowest, where nothing is known."""
        return ["int64" if seen == NOTHING else kind_of(seen) for seen in self._seen]

    def fields(self) -> list[Field]:
        """All columns of the file; those that are not stored have any kind."""
        kinds = {name: kind_of(seen) for name, seen in zip(self.names, self._seen, strict=True)}
        return [Field(name, kinds.get(name, "float64")) for name in self._all_names]

    def note(self, stats: list[ColumnStats]) -> bool:
        """Note the kinds of values in a part of the file; whether a column became wider.

        Raises:
            InvalidDataset: ``dataset_dtype``: a column that was declared as numbers has other values.
        """
        before = self._seen
        self._seen = [seen | column.seen for seen, column in zip(before, stats, strict=True)]
        if self._seen == before:
            return False
        for name, declared, seen in zip(self.names, self._declared, self._seen, strict=True):
            if declared not in (None, "text") and kind_of(seen) == "text":
                raise InvalidDataset(
                    f"column {name!r} is declared as {declared}, and not all its values are numbers",
                    code=codes.DATASET_DTYPE,
                    column=name,
                )
        return list(map(kind_of, self._seen)) != list(map(kind_of, before))


class _Parser:
    """Parses the stored columns in pieces of a file; several threads may use it at once."""

    def __init__(self, header: Header, indices: Sequence[int]) -> None:
        self.header = header
        self._indices = indices
        self._integer = pa.int16()
        """The type of whole numbers so far: narrow values take less memory until they are stored."""
        names = [str(index) for index in range(len(header.names))]
        self._wanted = [names[index] for index in indices]
        self._reading = pa_csv.ReadOptions(column_names=names, block_size=2**30, use_threads=False)

    def parse(self, piece: CsvBlock | Rows | InvalidDataset, kinds: Sequence[Kind]) -> list[list[ColumnStats]]:
        """The stored columns of a piece in one or more parts; raises as `RowReader.rows`, or the fault itself."""
        if isinstance(piece, InvalidDataset):
            raise piece
        chunks = iter([piece]) if isinstance(piece, list) else rows_of(piece, self.header)
        if isinstance(piece, CsvBlock):
            if not piece.has_quotes and not has_odd_spellings(piece.data, self.header.delimiter.encode()):
                for integer in dict.fromkeys((self._integer, pa.int64())):
                    if arrays := self._arrays(piece, [_TYPES.get(kind, integer) for kind in kinds]):
                        self._integer = integer
                        return [list(map(stats_of, arrays, kinds))]
            if arrays := self._arrays(piece, [_TEXT if kind == "text" else pa.string() for kind in kinds]):
                return [list(map(look, arrays, kinds))]
        return [list(map(look, self._texts(rows), kinds)) for rows in chunks]

    def _arrays(self, block: CsvBlock, types: Sequence[Any]) -> list[Any]:
        """The columns of a block as these types; empty if a value or the number of fields does not fit, or there is no
        row.
        """
        parsing = pa_csv.ParseOptions(delimiter=self.header.delimiter, newlines_in_values=block.has_quotes)
        values = options_for(dict(zip(self._wanted, types, strict=True)))
        try:
            batches = pa_csv.read_csv(pa.BufferReader(block.data), self._reading, parsing, values).to_batches()
        except pa.ArrowInvalid:
            return []
        assert len(batches) <= 1, "pyarrow reads a block at once"
        return batches[0].columns if batches else []

    def _texts(self, rows: Rows) -> list[Any]:
        values = list(zip(*rows, strict=True))
        return [pa.array(values[index], pa.string()) for index in self._indices]
