"""Takes pieces of columns from a reader, and passes each to its column of the dataset."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pygrid import codes
from pygrid.core.datasets import (
    CODED,
    NULLABLE,
    TIMES,
    Column,
    ColumnDeclaration,
    DatasetLimits,
    Dtype,
    Schema,
    bound_number,
    check_column_name,
    expand_source,
    understand,
)
from pygrid.errors import InvalidDataset, PayloadTooLarge
from pygrid.messages.datasets import TextTokens
from pygrid.plans.tokenizers import Tokenizer
from pygrid.tabular.column_writers import (
    Categorical,
    Codes,
    ColumnFile,
    Piece,
    SourceTraits,
    Subjects,
    Target,
    find_refused,
)
from pygrid.tabular.typed_texts import FROM_TEXT, MISSING_WORDS

__all__ = ["Categorical", "Field", "Piece", "TableWriter", "check_field_names"]

_WIDER: dict[str, Dtype] = {
    "float16": "float32",
    "int8": "int32",
    "int16": "int32",
    "uint16": "int32",
    "uint32": "int64",
    "uint64": "int64",
}
"""The stored dtype of each other dtype that is accepted."""
_STORED = frozenset(("float32", "float64", "int32", "int64", "uint8", "bool", *CODED, *TIMES))


@dataclass(frozen=True)
class Field:
    """A column of the file; ``kind`` is text, category, date, datetime or the name of a numpy dtype."""

    name: str
    kind: str
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class TableDeclaration:
    """What the owner declares about the columns of a file."""

    columns: Sequence[ColumnDeclaration] = ()
    skip: Sequence[str] = ()
    """Columns of the file that are not stored."""
    subject: str | None = None
    """Name of the column of subjects, whose texts are not stored."""
    max_records_per_subject: int | None = None


class TableFiles(Protocol):
    """Where a table is stored: a file for each column, then the schema."""

    def create_column(self, index: int) -> ColumnFile:
        """The file of column number ``index``, which must not exist."""
        ...

    def remove_column(self, index: int) -> None:
        """Delete the file of column number ``index``."""
        ...

    def write_schema(self, schema: Schema) -> None:
        """Write the schema of the columns."""
        ...


class TableWriter:
    """Takes the columns of a reader: first `begin` with all of them, then `add` or `add_rows`, at last `finish`.

    Args:
        files: where the columns and their schema are stored.
        uploaded_bytes: size of the file, which limits the size of the table.

    Attributes:
        missing_words: texts that stand for a missing value in a column that is declared as a category, date, datetime
            or bool. A reader can set it before `begin`.
    """

    def __init__(
        self,
        files: TableFiles,
        declared: TableDeclaration = TableDeclaration(),
        *,
        limits: DatasetLimits | None = None,
        uploaded_bytes: int,
    ) -> None:
        self.limits = limits or DatasetLimits()
        self.missing_words: Collection[str] = MISSING_WORDS
        self._files = files
        self._declared = {declaration.name: declaration for declaration in declared.columns}
        self._skip = frozenset(declared.skip)
        self._skip_if_present: frozenset[str] = frozenset()
        self._subject, self._max_records_per_subject = declared.subject, declared.max_records_per_subject
        self._uploaded_bytes = uploaded_bytes
        self._max_bytes = self.limits.max_stored_bytes(uploaded_bytes)
        self._bytes_left = self._max_bytes
        self._packed = frozenset(name for name, declaration in self._declared.items() if declaration.source)
        self._targets: list[Target] = []
        self._by_source: dict[str, Target] = {}
        self.notes: list[str] = []
        """What the reader decided by itself, for the owner."""

    @property
    def known_names(self) -> frozenset[str]:
        """Names of columns of the file that the owner uses."""
        sources = (source for declaration in self._declared.values() for source in declaration.source)
        own = (name for name, declaration in self._declared.items() if not declaration.source)
        subject = () if self._subject is None else (self._subject,)
        return frozenset((*own, *sources, *self._skip, *self._skip_if_present, *subject))

    def allow_unpacked(self) -> None:
        """Allow the stored bytes of a compressed text, whose ratio can be higher; called before `begin`."""
        allowed = min(self.limits.max_total_bytes, self.limits.max_text_ratio * self._uploaded_bytes)
        self._max_bytes = self._bytes_left = max(self._max_bytes, allowed)

    def skip_if_present(self, names: Iterable[str]) -> None:
        """Also leave out these columns, which the file need not have, if the owner declares nothing of them.

        It is called before `begin`.
        """
        used = [one for name, declaration in self._declared.items() for one in declaration.source or (name,)]
        self._skip_if_present = frozenset(
            name for name in names if not any(expand_source([one], [name]) for one in used)
        ).difference((self._subject,))

    def declared_kind(self, name: str) -> Dtype | None:
        """The dtype that the owner declared for a column of the file; None: the values decide."""
        declaration = self._declared.get(name)
        if declaration is not None and not declaration.source:
            return _declared_dtype(declaration)
        for declaration in self._declared.values():
            if declaration.source and expand_source(declaration.source, [name]):
                return declaration.dtype
        return None

    def is_wanted(self, name: str) -> bool:
        """Whether a column of the file is stored."""
        return name not in self._skip and name not in self._skip_if_present

    def begin(self, fields: Sequence[Field]) -> None:
        """Begin with the columns of the file, in its order.

        Raises:
            InvalidDataset: there are too many columns, two have the same name, a dtype cannot be stored, or a declared
                column is missing. InvalidConfig: a name is not valid.
        """
        check_field_names([field.name for field in fields], self.limits)
        by_name = {field.name: field for field in fields}
        packed: dict[str, str] = {}
        plan: list[tuple[Column, Sequence[str]]] = []
        for declaration in self._declared.values():
            for source in self._sources(declaration, by_name):
                if packed.setdefault(source, declaration.name) != declaration.name:
                    raise _config(f"column {source!r} is a source of two columns", declaration.name)
        for field in fields:
            target, own = packed.get(field.name), self._declared.get(field.name)
            # A column that is declared by its own name is stored also if it is a source of another one.
            if (target is None or (own is not None and not own.source)) and self.is_wanted(field.name):
                plan.append((_describe(field, own), (field.name,)))
            if target is not None and target not in {column.name for column, _ in plan}:
                sources = self._sources(self._declared[target], by_name)
                plan.append((_pack([by_name[name] for name in sources], self._declared[target]), sources))
        self._check_names([column for column, _ in plan], by_name)
        for index, (column, names) in enumerate(plan):
            self._open(index, column, tuple(names), by_name[names[0]].kind)

    def _sources(self, declaration: ColumnDeclaration, fields: Mapping[str, Field]) -> list[str]:
        if not declaration.source:
            return []
        found = expand_source(declaration.source, [name for name in fields if self.is_wanted(name)])
        if found is None:
            raise _config(f"the file has no columns {', '.join(declaration.source)!r} to make it of", declaration.name)
        return found

    def _check_names(self, columns: Sequence[Column], fields: Mapping[str, Field]) -> None:
        names = [column.name for column in columns]
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise _config("the file has another column of that name", twice)
        for name in (*self._declared, *((self._subject,) if self._subject is not None else ())):
            if name not in names:
                raise _config(f"the file has no such column; it has: {', '.join(list(fields)[:20])}", name)
        for name in self._skip - fields.keys():
            raise _config("skip names it, but the file has no such column", name)
        if not names:
            raise InvalidDataset("no column is left to store", code=codes.DATASET_EMPTY)
        for column in columns:
            if column.name == self._subject and (
                column.shape or column.dtype not in ("text", "int32", "int64", "uint8")
            ):
                raise _config("a column of subjects holds one text or whole number for each record", column.name)

    def _open(self, index: int, column: Column, sources: tuple[str, ...], kind: str) -> None:
        codes = None
        if column.dtype in CODED:
            is_subject = column.name == self._subject
            most = self.limits.max_subjects if is_subject else self.limits.max_categories
            fixed = column.categories if column.declared else None
            # A file with categories of its own has gaps of its own: there, "NA" can be a country.
            missing = () if column.dtype != "category" else ("",) if kind == "category" else self.missing_words
            codes = Codes(column.name, most, self.limits.max_text_chars, fixed, missing=missing)
        file = self._files.create_column(index)
        declared = self._declared.get(column.name)
        has_missing = None if declared is None else declared.has_missing
        subjects = Subjects(column.name, self.limits.max_subjects) if column.name == self._subject else None
        tokens = None if declared is None else declared.tokens
        tokenizer = None if tokens is None else Tokenizer(tokens.words)
        traits = SourceTraits(kind, has_missing, self.missing_words, tokenizer)
        target = Target(column, sources, file, codes, traits, subjects)
        self._targets.append(target)
        for source in sources:
            self._by_source[source] = target

    def add(self, name: str, piece: Piece) -> None:
        """Append records to a column of the file, for formats that have one column after the other.

        Raises:
            InvalidDataset, PayloadTooLarge: the values cannot be stored, or are too many.
        """
        target = self._by_source.get(name)
        if target is None:
            return
        if target.sources != (name,):
            raise _config("only tables (CSV, Parquet, Arrow) can combine columns", target.column.name)
        self._count(target.add(piece), target)

    def add_rows(self, pieces: Mapping[str, Piece]) -> None:
        """Append the same records to all columns, for formats that have one record after the other."""
        for target in self._targets:
            self._count(target.add(self._piece_of(target, pieces)), target)

    def find_refused(self, pieces: Mapping[str, Piece], max_count: int) -> list[tuple[int, Column, InvalidDataset]]:
        """The first records that `add_rows` would refuse: index, column, reason. Stores nothing.

        Args:
            pieces: a column that is not among them is left out.
        """
        return [
            (index, target.column, error)
            for target in self._targets
            if pieces.keys() >= set(target.sources)
            for index, error in find_refused(target, self._piece_of(target, pieces), max_count)
        ]

    def _piece_of(self, target: Target, pieces: Mapping[str, Piece]) -> Piece:
        if len(target.sources) == 1 and target.column.name not in self._packed:
            return pieces[target.sources[0]]
        # Transposed when it is written, in the stored dtype, which can be much narrower.
        return np.stack([np.asarray(pieces[name]) for name in target.sources]).T

    def _count(self, num_bytes: int, target: Target) -> None:
        self._bytes_left -= num_bytes
        if self._bytes_left < 0:
            raise PayloadTooLarge(
                f"this file unpacks to more than {self.limits.max_ratio} times its size, or to more than the Domain "
                "stores; send it as safetensors, or in parts",
                code=codes.DATASET_TOO_LARGE,
            )
        if target.num_values > self.limits.max_records * target.column.num_values:
            raise PayloadTooLarge(
                f"a dataset has at most {self.limits.max_records:,} records", code=codes.DATASET_TOO_MANY_RECORDS
            )

    def finish(self) -> Schema:
        """Write the schema of the columns, and return it.

        Raises:
            InvalidDataset: no records, or columns of different lengths.
        """
        columns, lengths = [], {}
        num_subjects = None
        for target in self._targets:
            if target.subjects is not None:
                num_subjects = target.subjects.count()
            column, lengths[target.column.name] = target.finish(keep_categories=target.column.name != self._subject)
            columns.append(column)
        num_records = next(iter(lengths.values()), 0)
        for name, length in lengths.items():
            if length != num_records:
                first = columns[0].name
                raise InvalidDataset(
                    f"column {name!r} has {length:,} records and column {first!r} has {num_records:,}",
                    code=codes.DATASET_RAGGED,
                    column=name,
                )
        if num_records == 0:
            raise InvalidDataset("the file has no records", code=codes.DATASET_EMPTY)
        schema = Schema(tuple(columns), num_records, self._subject, self._max_records_per_subject, num_subjects)
        self._files.write_schema(schema)
        return schema

    def start_over(self) -> None:
        """Forget everything since `begin`, which can be called again."""
        self.close()
        for index in range(len(self._targets)):
            self._files.remove_column(index)
        self._targets, self._by_source, self._bytes_left = [], {}, self._max_bytes

    def close(self) -> None:
        """Close the files. Harmless after `finish`."""
        for target in self._targets:
            target.close()


def check_field_names(names: Sequence[str], limits: DatasetLimits) -> None:
    """Check the names of the columns of a file.

    Raises:
        InvalidDataset: there are too many, two are the same, or there are none at all. InvalidConfig: one is not valid.
    """
    if len(names) > limits.max_columns:
        raise InvalidDataset(
            f"the file has {len(names):,} columns; at most {limits.max_columns:,} are allowed. Many similar columns, "
            "such as pixels, belong in one column of arrays (NPZ, safetensors)",
            code=codes.DATASET_TOO_MANY_COLUMNS,
            num_columns=len(names),
        )
    if not names:
        raise InvalidDataset("the file has no columns", code=codes.DATASET_EMPTY)
    seen: set[str] = set()
    for name in names:
        check_column_name(name)
        if name in seen:
            raise InvalidDataset(f"the file has two columns {name!r}", code=codes.DATASET_DUPLICATE_COLUMN, column=name)
        seen.add(name)


def _describe(field: Field, declaration: ColumnDeclaration | None) -> Column:
    """The column that a field of the file becomes."""
    declared = declaration or ColumnDeclaration(field.name)
    if declared.tokens is not None:
        return _describe_tokens(field, declared, declared.tokens)
    dtype = _declared_dtype(declared) or _dtype(field)
    if not _can_become(field.kind, dtype):
        why = f"it cannot be stored as {dtype}: the file has it as {field.kind}; convert it, or declare another type"
        raise _config(why, field.name)
    if (field.kind in CODED or dtype in CODED) and field.shape:
        raise InvalidDataset(
            f"column {field.name!r} has several texts for each record", code=codes.DATASET_DTYPE, column=field.name
        )
    if 0 in field.shape or len(field.shape) > 8 or math.prod(field.shape) > 2**31:
        raise InvalidDataset(
            f"column {field.name!r} has records of shape {field.shape}", code=codes.DATASET_DTYPE, column=field.name
        )
    if declared.has_missing is not None and dtype not in NULLABLE:
        raise _config(f"has_missing is declared, but the column is {dtype}, where no value can be missing", field.name)
    shape = understand(declared.meaning).shape
    if shape is not None and shape != field.shape and math.prod(shape) != math.prod(field.shape):
        raise _config(
            f"its meaning is {declared.meaning!r}, but the file has records of shape {list(field.shape)}", field.name
        )
    try:
        low, high = (bound_number(bound, dtype) for bound in (declared.min, declared.max))
        if dtype not in TIMES and (isinstance(declared.min, str) or isinstance(declared.max, str)):
            raise ValueError(f"a column of {dtype} has numbers as bounds")
    except ValueError as error:
        raise _config(f"min and max: {error}", field.name) from error
    return Column(
        declared.name,
        dtype,
        shape or field.shape,
        declared.unit,
        declared.meaning,
        declared.description,
        low,
        high,
        declared.categories,
        None if declared.categories is None else len(declared.categories),
        declared=declared.categories is not None,
        format=declared.format,
    )


def _describe_tokens(field: Field, declared: ColumnDeclaration, tokens: TextTokens) -> Column:
    """The column of tokens that a column of texts becomes."""
    if not _can_become(field.kind, "text") or field.shape:
        raise _config(f"it cannot have tokens: the file has it as {field.kind}, not as texts", field.name)
    tokenizer = Tokenizer(tokens.words)
    return Column(
        declared.name,
        "uint8" if tokens.words is None else "int32",
        (tokens.length,),
        declared.unit,
        declared.meaning,
        declared.description,
        0.0,
        tokenizer.num_tokens - 1.0,
        tokenizer=tokenizer.name,
    )


def _declared_dtype(declaration: ColumnDeclaration) -> Dtype | None:
    """The dtype that a declaration sets for the values of the file; None: that of the file."""
    if declaration.tokens is not None:
        return "text"
    return declaration.dtype or ("category" if declaration.categories is not None else None)


def _can_become(kind: str, dtype: Dtype) -> bool:
    """Whether a column of a file can be stored as a dtype, if its values fit."""
    if kind in CODED:
        return dtype in FROM_TEXT
    if kind in TIMES:
        return dtype in TIMES or dtype in ("float32", "float64", "int32", "int64")
    is_whole = not kind.startswith("float")
    return dtype not in FROM_TEXT or dtype == "bool" or (is_whole and (dtype in CODED or kind != "bool"))


def _pack(fields: Sequence[Field], declaration: ColumnDeclaration) -> Column:
    """The column of arrays that several single columns of the file become."""
    if any(field.shape or field.kind in CODED or field.kind in TIMES for field in fields):
        raise _config("its sources must be columns with one number for each record", declaration.name)
    kinds = {_dtype(field) for field in fields}
    kind = np.result_type(*(np.dtype(kind) for kind in kinds)).name
    return _describe(Field(declaration.name, kind, (len(fields),)), declaration)


def _dtype(field: Field) -> Dtype:
    if field.kind in _STORED:
        return field.kind
    if field.kind in _WIDER:
        return _WIDER[field.kind]
    raise _no_dtype(field, f"holds {field.kind}, which is not stored: use numbers, true and false, or texts")


def _no_dtype(field: Field, why: str) -> InvalidDataset:
    return InvalidDataset(f"column {field.name!r} {why}", code=codes.DATASET_DTYPE, column=field.name, dtype=field.kind)


def _config(why: str, column: str) -> InvalidDataset:
    return InvalidDataset(f"column {column!r}: {why}", code=codes.DATASET_COLUMNS_DIFFER, column=column)
