"""Messages about datasets.

A dataset is a table of records. An upload makes its first version, and further uploads make later versions.
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
"""Bytes of one stored value. A text is stored as its int32 code."""


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
    """Bounds that the owner declared. Every value is within them."""
    categories: tuple[str, ...] | None = None
    """Texts of a text column by code.

    None if the caller may not see them, or for the subject column, which keeps none.
    """
    num_categories: int | None = None
    declared: bool = False
    """Whether the owner declared the categories. Otherwise they come from the data, and only the owner sees them."""
    has_missing: bool | None = None
    """Whether values can be missing: NaN in a float32 or float64 column. Public, as the dtype is. None for other
    dtypes, which have no missing values, and for versions of pygrid 0.1 whose records are not on the disk."""

    @property
    def num_values(self) -> int:
        """Number of values in one record."""
        return math.prod(self.shape)

    @property
    def may_have_missing(self) -> bool:
        """Whether a computation must expect missing values."""
        return self.dtype in ("float32", "float64") and self.has_missing is not False

    @property
    def record_bytes(self) -> int:
        """Stored bytes of one record."""
        return self.num_values * ITEM_BYTES[self.dtype]


class Schema(msgspec.Struct, frozen=True, omit_defaults=True):
    """The columns of a version of a dataset. Column number i is stored in the file ``i.bin``."""

    columns: tuple[Column, ...]
    num_records: int
    subject: str | None = None
    """The column with the person that a record is about, if a person can have several records."""
    max_records_per_subject: int | None = None
    """Maximum number of records of one subject in a computation."""
    num_subjects: int | None = None
    """Number of different subjects. It is public, like the number of records. None without a subject column."""

    def find(self, name: str) -> Column | None:
        """The column with this name, or None."""
        return next((column for column in self.columns if column.name == name), None)

    @property
    def is_complete(self) -> bool:
        """Whether `Column.has_missing` of all columns and the number of subjects are known."""
        known = all(column.has_missing is not None for column in self.columns if column.dtype in ("float32", "float64"))
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
    min: float | None = None
    max: float | None = None
    categories: tuple[str, ...] | None = None
    source: tuple[str, ...] = ()
    """Columns of the file that make up this column, in order, for example ``pixel0``, ``pixel1`` ... ``pixel*`` means
    all columns with this prefix, in the order of the file. Empty: the column of the same name."""
    has_missing: bool | None = None
    """For a float column. True: publish that values can be missing. False: refuse an upload with missing values. None:
    publish whether the data has missing values."""


class VersionRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ``config`` part of an upload (multipart form).

    It is the first part; ``data`` and optionally ``mock`` follow.
    """

    format: Format | None = None
    """None: detected from the first bytes."""
    columns: tuple[ColumnDeclaration, ...] = ()
    """For a later version, empty means the declarations of the previous version."""
    skip: tuple[str, ...] = ()
    """Columns of the file that pygrid does not store."""
    subject: str | None = None
    max_records_per_subject: int | None = None
    note: str = ""
    """What is new in this version."""
    draw_mock: bool = True
    """Whether to generate a mock dataset from the schema if the form has no ``mock`` part."""
    num_mock_records: int = 100
    mock_seed: int = 0
    fresh_budget: bool = False
    """For a later version: add it even if another dataset with the same content has a privacy budget. The same records
    are then released within both budgets, and the privacy costs of both add up."""


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


class DatasetList(msgspec.Struct):
    datasets: list[DatasetSummary]


class Preview(msgspec.Struct):
    """The first records, for callers that may change the dataset. Columns by name; arrays are nested lists."""

    num_records: int
    columns: dict[str, list[object]]
