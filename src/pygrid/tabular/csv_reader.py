"""CSV files (RFC 4180): usually a line of names, then a line for each record.

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
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.csv as pa_csv

from pygrid import codes
from pygrid.errors import InvalidDataset, PayloadTooLarge, PygridError
from pygrid.messages.datasets import CsvOptions
from pygrid.tabular.csv_blocks import CsvBlock, CsvPiece, cut, rows_of
from pygrid.tabular.csv_diagnosis import MAX_FAULTS, CsvFault, FindFaults, explain, faults_of_numbers
from pygrid.tabular.csv_faults import CsvRows, Header, TextFile
from pygrid.tabular.csv_header import read_header
from pygrid.tabular.csv_kinds import (
    BOOL,
    LONG,
    MISSING,
    NOTHING,
    OTHER,
    ColumnStats,
    Kind,
    Marks,
    has_odd_spellings,
    kind_of,
    look,
    options_for,
    stats_of,
)
from pygrid.tabular.csv_text import ConvertedText, open_text
from pygrid.tabular.table_writer import Field, TableWriter, check_field_names
from pygrid.tabular.typed_texts import FROM_TEXT

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


@dataclass(frozen=True)
class BlockSizes:
    """Bytes of the file that are read at once."""

    prefix: int = PREFIX_BYTES
    """For the first part, which suggests the kinds of the columns."""
    block: int = BLOCK_BYTES


def read(
    binary: BinaryIO, writer: TableWriter, options: CsvOptions | None = None, sizes: BlockSizes | None = None
) -> None:
    """Read the file into the writer.

    Raises:
        InvalidDataset: with the line that has another number of fields, is not UTF-8, or has a quote that does not end;
            and as `read_header`.
    """
    options, sizes = options or CsvOptions(), sizes or BlockSizes()
    file = open_text(binary, options, writer.limits)
    if isinstance(file, ConvertedText) and file.is_unpacked:
        writer.allow_unpacked()
    header = read_header(file, options, writer.known_names)
    check_field_names(header.names, writer.limits)
    writer.notes += header.notes
    marks = Marks.of(options)
    writer.missing_words = marks.missing
    columns = _Columns(header, writer)
    parser = _Parser(header, columns.indices, marks)
    table = _CsvTable(file, columns, parser, writer)
    for place, stats in table.parse_ahead(sizes.prefix):
        table.note(place, stats)
        break
    if columns.has_open:
        for place, stats in table.parse_ahead(sizes.block):
            table.note(place, stats)
    if not table.store(sizes.block):
        writer.start_over()
        table.store(sizes.block)


class _CsvTable:
    """A file on its way to the writer."""

    def __init__(self, file: TextFile, columns: _Columns, parser: _Parser, writer: TableWriter) -> None:
        self._file = file
        self._columns = columns
        self._parser = parser
        self._writer = writer

    def store(self, num_bytes: int) -> bool:
        """Store the columns as the kinds known so far; False: a column is of a wider kind, and all parts were looked
        at.
        """
        refusal, is_wider = None, False
        self._columns.is_storing = True
        try:
            self._writer.begin(self._columns.fields())
        except (InvalidDataset, PayloadTooLarge) as error:
            refusal = error
        refused_at: CsvPiece | None = None
        for place, stats in self.parse_ahead(num_bytes):
            is_wider = self.note(place, stats) or is_wider
            self._columns.is_storing = not is_wider
            if is_wider or refusal is not None:
                continue
            try:
                self._writer.add_rows({name: one.values for name, one in zip(self._columns.names, stats, strict=True)})
            except (InvalidDataset, PayloadTooLarge) as error:
                # Raised at the end only: with a wider kind, the values may be accepted.
                refusal, refused_at = error, place
        if refusal is not None and not is_wider:
            raise refusal if refused_at is None else self._explained(refusal, refused_at, self._refused_values)
        return not is_wider

    def note(self, place: CsvPiece, stats: list[ColumnStats]) -> bool:
        """Note the kinds of a part; whether a column became wider. Raises as `_Columns.note`, with the lines."""
        try:
            return self._columns.note(stats)
        except InvalidDataset as error:
            raise self._explained(error, place, self._other_than_numbers) from error

    def parse_ahead(self, num_bytes: int) -> Iterator[tuple[CsvPiece, list[ColumnStats]]]:
        """The columns of one part of the file after the other, in order; threads parse the next pieces.

        In the main thread pyarrow would make a pipe for signals, which a sandbox refuses.

        Raises:
            InvalidDataset: as `RowReader.rows`, for several lines at once.
        """
        waiting: deque[tuple[CsvPiece, Future[list[list[ColumnStats]]]]] = deque()

        def first() -> Iterator[tuple[CsvPiece, list[ColumnStats]]]:
            place, future = waiting.popleft()
            try:
                yield from ((place, stats) for stats in future.result())
            except InvalidDataset as error:
                raise self._explained(error, place, lambda rows: []) from error

        with ThreadPoolExecutor(NUM_THREADS) as threads:
            for piece in cut(self._file, self._parser.header, num_bytes):
                waiting.append((piece, threads.submit(self._parser.parse, piece.content, self._columns.kinds)))
                if not isinstance(piece.content, CsvBlock):
                    wait([future for _, future in waiting])  # rows take much memory: one list of them at a time
                if len(waiting) > NUM_AHEAD:
                    yield from first()
            while waiting:
                yield from first()

    def _explained(self, refusal: PygridError, place: CsvPiece, find: FindFaults) -> PygridError:
        return explain(refusal, self._file, self._parser.header, place, find)

    def _other_than_numbers(self, rows: CsvRows) -> list[CsvFault]:
        """The values that are not numbers, in columns that are declared as numbers."""
        return [
            fault
            for index, name, declared in self._columns.declared_numbers
            for fault in faults_of_numbers(rows, index, (name, declared), self._parser.marks)
        ]

    def _refused_values(self, rows: CsvRows) -> list[CsvFault]:
        """The values that the writer refuses."""
        stats, kinds = self._parser.look_at(rows, self._columns.kinds), self._columns.kinds
        pieces = {
            name: one.values
            for name, one, kind in zip(self._columns.names, stats, kinds, strict=True)
            if kind == "text" or kind_of(one.seen & ~LONG) == kind
        }
        places = dict(zip(self._columns.names, self._columns.indices, strict=True))
        return [
            CsvFault(
                rows.lines[record],
                column.name,
                rows[record][places[column.name]] if column.name in places else str(error.fields.get("value", "")),
                error,
            )
            for record, column, error in self._writer.find_refused(pieces, MAX_FAULTS)
        ]


class _Columns:
    """The columns that are stored, and what is known of their kinds."""

    def __init__(self, header: Header, writer: TableWriter) -> None:
        kept = [index for index in range(len(header.names)) if index not in header.dropped]
        self._all_names = [header.names[index] for index in kept]
        self.indices = [index for index in kept if writer.is_wanted(header.names[index])]
        self.names = [header.names[index] for index in self.indices]
        self._declared = [writer.declared_kind(name) for name in self.names]
        # Values of these types are read as texts, which the writer converts.
        self._seen = [OTHER if kind in FROM_TEXT else NOTHING for kind in self._declared]
        self.is_storing = False

    @property
    def kinds(self) -> list[Kind]:
        """The kinds known so far; int64, the narrowest, where nothing is known.

        A column of long whole numbers is read as numbers until it is stored, because a number with a fraction decides.
        """
        kinds = self._kinds_of([seen if self.is_storing else seen & ~LONG for seen in self._seen])
        return ["int64" if seen == NOTHING else kind for seen, kind in zip(self._seen, kinds, strict=True)]

    def _kinds_of(self, all_seen: Sequence[int]) -> list[Kind]:
        """As `kind_of`; truth values with gaps are numbers in a column that is declared so."""
        return [
            "float64" if seen == BOOL | MISSING and declared not in (None, *FROM_TEXT) else kind_of(seen)
            for seen, declared in zip(all_seen, self._declared, strict=True)
        ]

    @property
    def has_open(self) -> bool:
        """Whether a later number with a fraction makes a column of long whole numbers one of numbers."""
        return any(kind_of(seen) != kind_of(seen & ~LONG) for seen in self._seen)

    def fields(self) -> list[Field]:
        """All columns of the file; those that are not stored have any kind."""
        kinds = dict(zip(self.names, self._kinds_of(self._seen), strict=True))
        return [Field(name, kinds.get(name, "float64")) for name in self._all_names]

    def note(self, stats: list[ColumnStats]) -> bool:
        """Note the kinds of values in a part of the file; whether a column became wider.

        Raises:
            InvalidDataset: ``dataset_dtype``: a column that was declared as numbers has other values.
        """
        before = self._seen
        self._seen = [
            # A column that is declared as numbers rounds what its type does not hold, or refuses it.
            seen | (column.seen if declared is None else column.seen & ~LONG)
            for seen, column, declared in zip(before, stats, self._declared, strict=True)
        ]
        if self._seen == before:
            return False
        kinds = self._kinds_of(self._seen)
        for name, declared, kind in zip(self.names, self._declared, kinds, strict=True):
            if declared is not None and declared not in FROM_TEXT and kind == "text":
                raise InvalidDataset(
                    f"column {name!r} is declared as {declared}, and not all its values are numbers",
                    code=codes.DATASET_DTYPE,
                    column=name,
                )
        return kinds != self._kinds_of(before)

    @property
    def declared_numbers(self) -> list[tuple[int, str, str]]:
        """Index in the file, name and dtype of the columns that are declared as numbers."""
        return [
            (index, name, declared)
            for index, name, declared in zip(self.indices, self.names, self._declared, strict=True)
            if declared is not None and declared not in FROM_TEXT
        ]


class _Parser:
    """Parses the stored columns in pieces of a file; several threads may use it at once."""

    def __init__(self, header: Header, indices: Sequence[int], marks: Marks) -> None:
        self.header = header
        self._indices = indices
        self.marks = marks
        self._integer = pa.int16()
        """The type of whole numbers so far: narrow values take less memory until they are stored."""
        names = [str(index) for index in range(len(header.names))]
        self._wanted = [names[index] for index in indices]
        self._reading = pa_csv.ReadOptions(column_names=names, block_size=2**30, use_threads=False)

    def parse(self, piece: CsvBlock | CsvRows | InvalidDataset, kinds: Sequence[Kind]) -> list[list[ColumnStats]]:
        """The stored columns of a piece in one or more parts; raises as `RowReader.rows`, or the fault itself."""
        if isinstance(piece, InvalidDataset):
            raise piece
        chunks = iter([piece]) if isinstance(piece, list) else rows_of(piece, self.header)
        if isinstance(piece, CsvBlock):
            if stats := self._numbers(piece, kinds):
                return [stats]
            if arrays := self._arrays(piece, [_TEXT if kind == "text" else pa.string() for kind in kinds]):
                return [self._look(arrays, kinds)]
        return [self.look_at(rows, kinds) for rows in chunks]

    def look_at(self, rows: CsvRows, kinds: Sequence[Kind]) -> list[ColumnStats]:
        """The stored columns of records."""
        return self._look(self._texts(rows), kinds)

    def _look(self, arrays: Sequence[Any], kinds: Sequence[Kind]) -> list[ColumnStats]:
        return [look(array, kind, self.marks) for array, kind in zip(arrays, kinds, strict=True)]

    def _numbers(self, block: CsvBlock, kinds: Sequence[Kind]) -> list[ColumnStats]:
        """The columns of a block, its numbers read as numbers; empty if they must be read as texts first."""
        if block.has_quotes or self.marks.thousands or has_odd_spellings(block.data, self.header.delimiter.encode()):
            return []
        for integer in dict.fromkeys((self._integer, pa.int64())):
            if arrays := self._arrays(block, [_TYPES.get(kind, integer) for kind in kinds]):
                self._integer = integer
                stats = list(map(stats_of, arrays, kinds))
                return [one for one in stats if one is not None] if None not in stats else []
        return []

    def _arrays(self, block: CsvBlock, types: Sequence[Any]) -> list[Any]:
        """The columns of a block as these types; empty if a value or the number of fields does not fit, or there is no
        row.
        """
        parsing = pa_csv.ParseOptions(delimiter=self.header.delimiter, newlines_in_values=block.has_quotes)
        values = options_for(dict(zip(self._wanted, types, strict=True)), self.marks)
        try:
            batches = pa_csv.read_csv(pa.BufferReader(block.data), self._reading, parsing, values).to_batches()
        except pa.ArrowInvalid:
            return []
        assert len(batches) <= 1, "pyarrow reads a block at once"
        return batches[0].columns if batches else []

    def _texts(self, rows: CsvRows) -> list[Any]:
        values = list(zip(*rows, strict=True))
        return [pa.array(values[index], pa.string()) for index in self._indices]
