"""Messages about datasets: what a data owner says of one, and what others may know of it.

A dataset is a table of records. Its first version is made by an upload; later uploads make later versions of the same
dataset.
"""

from __future__ import annotations

import datetime as dt
import math
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

Dtype = Literal["float32", "float64", "int32", "int64", "uint8", "bool", "text"]
Visibility = Literal["private", "listed", "public"]
Format = Literal["csv", "parquet", "arrow", "npz", "safetensors"]

ITEM_BYTES: dict[str, int] = {"float32": 4, "float64": 8, "int32": 4, "int64": 8, "uint8": 1, "bool": 1, "text": 4}
"""Bytes of one stored value; a text is stored as its int32 code."""


class Column(msgspec.Struct, frozen=True, omit_defaults=True):
    """One column of a dataset: for each record an array of ``shape``, or a single value if that is empty."""

    name: str
    dtype: Dtype
    shape: tuple[int, ...] = ()
    unit: str = ""
    meaning: str = ""
    """What the values stand for; two forms are also understood: ``image 1x28x28`` and ``label 0..9``."""
    description: str = ""
    min: float | None = None
    max: float | None = None
    """Bounds that the owner declared; each value was checked against them."""
    categories: tuple[str, ...] | None = None
    """Of a text column: code -> text. None where they are not told, or were not kept (the subject column)."""
    num_categories: int | None = None
    declared: bool = False
    """Whether the owner named the categories. Else they were found in the data, and only the owner is told them."""
    has_missing: bool | None = None
    """Whether values can be missing: NaN in a float32 or float64 column. Public, as the dtype is. None for other
    dtypes, which have no missing values, and for versions of pygrid 0.1 whose records are not on the disk."""

    @property
    def num_values(self) -> int:
        """Values of one record."""
        return math.prod(self.shape)

    @property
    def may_have_missing(self) -> bool:
        """Whether a computation must expect missing values."""
        return self.dtype in ("float32", "float64") and self.has_missing is not False

    @property
    def record_bytes(self) -> int:
        """Bytes of one record as stored."""
        return self.num_values * ITEM_BYTES[self.dtype]


class Schema(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a version of a dataset consists of. Column number i is stored in the file ``i.bin``."""

    columns: tuple[Column, ...]
    num_records: int
    subject: str | None = None
    """The column that says whom a record is about, where one person can have several."""
    max_records_per_subject: int | None = None
    """At most so many records of one subject are used by a computation."""
    num_subjects: int | None = None
    """How many different subjects there are. Public, as the number of records is. None without a subject column."""

    def find(self, name: str) -> Column | None:
        """The column of a name, or None."""
        return next((column for column in self.columns if column.name == name), None)

    @property
    def is_complete(self) -> bool:
        """Whether it says of each column whether values can be missing, and how many subjects there are."""
        known = all(column.has_missing is not None for column in self.columns if column.dtype in ("float32", "float64"))
        return known and (self.subject is None or self.num_subjects is not None)

    @property
    def num_bytes(self) -> int:
        """Bytes of all columns as stored."""
        return self.num_records * sum(column.record_bytes for column in self.columns)


class ColumnDeclaration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the owner says of a column; all but the name may be left out."""

    name: str
    dtype: Dtype | None = None
    """To store the values as; None: as they come."""
    unit: str = ""
    meaning: str = ""
    description: str = ""
    min: float | None = None
    max: float | None = None
    categories: tuple[str, ...] | None = None
    source: tuple[str, ...] = ()
    """Columns of the file that make up this one, in order, if it is not the one of the same name: ``pixel0``,
    ``pixel1`` ...; ``pixel*`` stands for all that begin so, in the order of the file."""
    has_missing: bool | None = None
    """Of a float column. True: publish that values can be missing; False: refuse an upload with missing values; None:
    publish whether the data has any."""


class VersionRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ``config`` part of an upload (multipart form), which comes first; then ``data``, and perhaps ``mock``."""

    format: Format | None = None
    """None: told from the first bytes."""
    columns: tuple[ColumnDeclaration, ...] = ()
    """Of a later version: none given means those of the version before."""
    skip: tuple[str, ...] = ()
    """Columns of the file that are not stored."""
    subject: str | None = None
    max_records_per_subject: int | None = None
    note: str = ""
    """What is new in this version."""
    draw_mock: bool = True
    """Whether to draw a mock twin from the schema if none is uploaded."""
    num_mock_records: int = 100
    mock_seed: int = 0
    fresh_budget: bool = False
    """Of a later version: add it although another dataset with the same content has a privacy budget. The same records
    are then released within both budgets, so what both allow adds up."""


class UploadRequest(VersionRequest, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`VersionRequest` for a new dataset."""

    name: str
    description: str = ""
    tags: tuple[str, ...] = ()
    visibility: Visibility = "private"


class UpdateDataset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Changes to what is said of a dataset; what is left out stays."""

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
    """A dataset as a list shows it; figures are of the newest version."""

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
    """Whether the caller may change it."""


class DatasetInfo(DatasetSummary):
    """A dataset with the schema of one version, as far as the caller may know it."""

    schema: Schema
    versions: list[VersionInfo]
    """Newest first."""


class DatasetList(msgspec.Struct):
    datasets: list[DatasetSummary]


class Preview(msgspec.Struct):
    """The first records, for those who may change the dataset. Columns by name; a record's array is a nested list."""

    num_records: int
    columns: dict[str, list[object]]
