"""Messages about datasets.

A dataset is a table of records. An upload makes its first version, and further uploads make later versions.
"""

from __future__ import annotations

import datetime as dt
import math
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from pygrid.messages.preparations import Preparation, PreparedFrom
from pygrid.messages.sql_origins import SqlOrigin
from pygrid.units import decimal

Dtype = Literal["float32", "float64", "int32", "int64", "uint8", "bool", "text", "category", "date", "datetime"]
"""The type of a column. A text and a category are stored as codes, a date as days and a datetime as microseconds since
1970-01-01 00:00 UTC."""
Visibility = Literal["private", "listed", "public"]
Format = Literal["csv", "parquet", "arrow", "npz", "safetensors"]
Encoding = Literal["utf-8", "latin-1", "windows-1252", "utf-16"]

STORED_DTYPES: dict[Dtype, str] = {
    "float32": "<f4",
    "float64": "<f8",
    "int32": "<i4",
    "int64": "<i8",
    "uint8": "|u1",
    "bool": "|b1",
    "text": "<i4",
    "category": "<i4",
    "date": "<f8",
    "datetime": "<f8",
}
"""The numpy dtype of the stored values. float64 holds every day, and every microsecond from 1684 to 2255, exactly."""
ITEM_BYTES: dict[Dtype, int] = {dtype: int(stored[-1]) for dtype, stored in STORED_DTYPES.items()}
"""Bytes of one stored value."""
CODED: frozenset[Dtype] = frozenset({"text", "category"})
TIMES: frozenset[Dtype] = frozenset({"date", "datetime"})
NULLABLE: frozenset[Dtype] = frozenset({"float32", "float64", "category", "date", "datetime"})
"""Types whose values can be missing: NaN, or the code -1 of a category."""
MISSING_CODE = -1
Bound = float | str
"""A number; for a date or datetime also a text such as ``2020-12-31``."""


class TextTokens(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How the texts of a column become tokens (`pygrid.plans.tokenizers`)."""

    length: int
    """Tokens of each text."""
    words: tuple[str, ...] | None = None
    """The vocabulary. It is not stored. None: the tokens are bytes."""


class Column(msgspec.Struct, frozen=True, omit_defaults=True):
    """A column of a dataset. Each record has an array of ``shape``, or a single value if ``shape`` is empty."""

    name: str
    dtype: Dtype
    shape: tuple[int, ...] = ()
    unit: str = ""
    meaning: str = ""
    """Meaning of the values. pygrid interprets two forms: ``image 1x28x28`` and ``label 0..9``."""
    description: str = ""
    min: float | None = None
    max: float | None = None
    """Bounds that the owner declared, in the unit of the stored values. Every value is within them."""
    categories: tuple[str, ...] | None = None
    """Texts of a text or category column by code.

    None if the caller may not see them, or for the subject column, which keeps none.
    """
    num_categories: int | None = None
    declared: bool = False
    """Whether the owner declared the categories. Otherwise they come from the data, and only the owner sees them."""
    has_missing: bool | None = None
    """Whether values can be missing (`NULLABLE`). Public, as the dtype is. None for other dtypes, which have no missing
    values, and for versions of pygrid 0.1 whose records are not on the disk."""
    prepared: PreparedFrom | None = None
    """How the Domain computes the column from another one; None: it comes from the file."""
    format: str = ""
    """How a date or datetime is written in the file, as `ColumnDeclaration.format`."""
    tokenizer: str = ""
    """The tokenizer that made the values of texts: ``bytes``, or ``words:`` and the SHA-256 of the vocabulary."""

    @property
    def num_values(self) -> int:
        """Number of values in one record."""
        return math.prod(self.shape)

    @property
    def may_have_missing(self) -> bool:
        """Whether a computation must expect missing values."""
        return self.dtype in NULLABLE and self.has_missing is not False

    @property
    def record_bytes(self) -> int:
        """Stored bytes of one record."""
        return self.num_values * ITEM_BYTES[self.dtype]

    @property
    def values_text(self) -> str:
        """Categories, bounds and gaps of the values, in words."""
        bounds = ""
        if self.num_categories is not None:
            bounds = f"{self.num_categories} categories"
        elif self.min is not None or self.max is not None:
            low, high = ("" if bound is None else decimal(bound) for bound in (self.min, self.max))
            bounds = f"{low}..{high}"
        return ", ".join(filter(None, (bounds, "some missing" if self.has_missing else "")))


class Schema(msgspec.Struct, frozen=True, omit_defaults=True):
    """The columns of a version of a dataset, the prepared ones last. Column number i is stored in ``i.bin``."""

    columns: tuple[Column, ...]
    num_records: int
    subject: str | None = None
    """The column with the person that a record is about, if a person can have several records."""
    max_records_per_subject: int | None = None
    """Maximum number of records of one subject in a computation."""
    num_subjects: int | None = None
    """Number of different subjects. It is public, like the number of records. None without a subject column."""
    origin: SqlOrigin | None = None
    """The query that returned the records. Only the owner sees it."""
    skipped: tuple[str, ...] = ()
    """Columns of the file that are not stored. Only the owner sees them."""

    def __str__(self) -> str:
        """A line for each column, as `print` shows it."""
        lines = [f"{self.num_records:,} records"]
        for one in self.columns:
            kind = "x".join([one.dtype, *map(str, one.shape)])
            lines.append(", ".join(filter(None, (f"  {one.name}: {kind}", one.unit, one.meaning, one.values_text))))
        return "\n".join(lines)

    def find(self, name: str) -> Column | None:
        """The column with this name, or None."""
        return next((column for column in self.columns if column.name == name), None)

    @property
    def is_complete(self) -> bool:
        """Whether `Column.has_missing` of all columns and the number of subjects are known."""
        known = all(column.has_missing is not None for column in self.columns if column.dtype in NULLABLE)
        return known and (self.subject is None or self.num_subjects is not None)

    @property
    def num_bytes(self) -> int:
        """Stored bytes of all columns."""
        return self.num_records * sum(column.record_bytes for column in self.columns)


class ColumnDeclaration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The owner's description of a column. Only the name is required."""

    name: str
    dtype: Dtype | None = None
    """Dtype of the stored values. None: the dtype of the file."""
    unit: str = ""
    meaning: str = ""
    description: str = ""
    min: Bound | None = None
    max: Bound | None = None
    categories: tuple[str, ...] | None = None
    """The texts that can occur, in the order of their codes. They are public. Without a dtype, the column is a
    category."""
    source: tuple[str, ...] = ()
    """Columns of the file that make up this column, in order, for example ``pixel0``, ``pixel1`` ... ``pixel*`` means
    all columns with this prefix, in the order of the file. Empty: the column of the same name."""
    has_missing: bool | None = None
    """For a column whose values can be missing. True: publish that values can be missing. False: refuse an upload with
    missing values. None: publish whether the data has missing values."""
    format: str = ""
    """How a date or datetime is written in the file, with the directives of ``strptime``, for example ``%d.%m.%Y``.
    Empty: as ISO 8601."""
    tokens: TextTokens | None = None
    """Stores tokens in place of the texts of a column, which then can be any number of different ones."""


class CsvOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a CSV file is written. Files of other formats accept no such option."""

    header: bool | None = None
    """Whether the first line holds the names of the columns. None: found from the file; a file where that is unclear is
    refused."""
    names: tuple[str, ...] = ()
    """Names of all columns, in the order of the file. With a header, they replace its names."""
    index: str | None = None
    """Name of a first column without a name. None: such a column is left out if it counts the records."""
    delimiter: str | None = None
    """The character between fields. None: comma, semicolon, tab or bar, found from the file."""
    decimal: Literal[".", ","] = "."
    """The decimal mark of numbers."""
    thousands: str | None = None
    """The mark between groups of three digits."""
    missing: tuple[str, ...] = ()
    """Marks of a missing value, in addition to an empty field, ``NA``, ``N/A``, ``nan``, ``NaN`` and ``null``."""
    skip_lines: tuple[int, ...] = ()
    """Numbers of lines that are not read; the first line of the file is 1."""
    encoding: Encoding = "utf-8"


class VersionRequest(CsvOptions, frozen=True, forbid_unknown_fields=True):
    """The ``config`` part of an upload (multipart form), with the fields of `CsvOptions`.

    It is the first part; ``data`` and optionally ``mock`` follow.
    """

    format: Format | None = None
    """None: detected from the first bytes."""
    columns: tuple[ColumnDeclaration, ...] = ()
    """For a later version, empty means the declarations of the previous version."""
    skip: tuple[str, ...] = ()
    """Columns of the file that pygrid does not store. For a later version, empty means those of the previous version
    that the file has; a column that is declared is stored."""
    subject: str | None = None
    max_records_per_subject: int | None = None
    note: str = ""
    """What is new in this version."""
    draw_mock: bool = True
    """Whether to generate a mock dataset from the schema if the form has no ``mock`` part."""
    num_mock_records: int = 100
    mock_seed: int = 0
    prepare: tuple[Preparation, ...] | None = None
    """Columns that the Domain computes from those of the file. None: for a later version, those of the previous one."""
    origin: SqlOrigin | None = None
    """The query that returned the file, for `pygrid dataset refresh`. The Domain stores it and never runs it."""
    fresh_budget: bool = False
    """For a later version: add it even if another dataset with the same content has a privacy budget. The same records
    are then released within both budgets, and the privacy costs of both add up."""

    @property
    def csv(self) -> CsvOptions:
        """The options for a CSV file."""
        return CsvOptions(**{name: getattr(self, name) for name in CsvOptions.__struct_fields__})


class UploadRequest(VersionRequest, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`VersionRequest` for a new dataset."""

    name: str
    description: str = ""
    tags: tuple[str, ...] = ()
    visibility: Visibility = "private"


class UpdateDataset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Changes to the description of a dataset. Absent fields stay as they are."""

    name: str | UnsetType = UNSET
    description: str | UnsetType = UNSET
    tags: tuple[str, ...] | UnsetType = UNSET
    visibility: Visibility | UnsetType = UNSET


class VersionInfo(msgspec.Struct):
    """One version of a dataset."""

    number: int
    note: str
    num_records: int
    size_bytes: int
    mock: Literal["none", "drawn", "uploaded"]
    created_at: dt.datetime


class DatasetSummary(msgspec.Struct):
    """A dataset in a list. The figures are those of the newest version."""

    id: int
    name: str
    description: str
    tags: tuple[str, ...]
    visibility: Visibility
    version: int
    num_records: int
    num_columns: int
    size_bytes: int
    created_at: dt.datetime
    updated_at: dt.datetime
    mine: bool
    """Whether the caller may change the dataset."""


class DatasetInfo(DatasetSummary):
    """A dataset with the part of the schema of one version that the caller may see."""

    schema: Schema
    versions: list[VersionInfo]
    """Newest first."""
    notes: tuple[str, ...] = ()
    """In the answer to an upload: what the Domain decided while it read the file. Empty elsewhere."""


class UploadTrial(msgspec.Struct):
    """What an upload would store. Nothing of it is stored."""

    schema: Schema
    size_bytes: int
    """Size of the records as stored."""
    notes: tuple[str, ...] = ()
    """What the Domain decided while it read the file."""


class DatasetList(msgspec.Struct):
    datasets: list[DatasetSummary]


class Preview(msgspec.Struct):
    """The first records, for callers that may change the dataset. Columns by name; arrays are nested lists."""

    num_records: int
    columns: dict[str, list[object]]
