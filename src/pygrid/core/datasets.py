"""The rules of datasets: valid descriptions, access, and the parts that others may see.

A dataset keeps its id through all versions, so its spent budget stays spent. The visibility decides who sees the
description:

    private   the data owner, and users with the role Owner
    listed    all accounts
    public    everybody

Only callers that may change the dataset can see its records.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import msgspec

from pygrid import codes
from pygrid.core.access import OWNER, Permission, Principal, not_permitted
from pygrid.core.columns import (
    MAX_DESCRIPTION,
    MAX_NAME,
    Understood,
    bound_number,
    bounds_of,
    check_column_name,
    check_declaration,
    declarations_of,
    invalid_description,
    stored_dtype,
    understand,
)
from pygrid.core.csv_options import check_csv_options
from pygrid.core.sql_origins import check_origin
from pygrid.errors import Forbidden, NotFound
from pygrid.messages.datasets import (
    CODED,
    MISSING_CODE,
    NULLABLE,
    STORED_DTYPES,
    TIMES,
    Bound,
    Column,
    ColumnDeclaration,
    Dtype,
    Schema,
    UpdateDataset,
    UploadRequest,
    VersionRequest,
    Visibility,
)

__all__ = [
    "CODED",
    "MAX_NAME",
    "MISSING_CODE",
    "NULLABLE",
    "STORED_DTYPES",
    "TIMES",
    "Bound",
    "Column",
    "ColumnDeclaration",
    "DatasetLimits",
    "Dtype",
    "Schema",
    "Understood",
    "Visibility",
    "bound_number",
    "bounds_of",
    "check_column_name",
    "declarations_of",
    "stored_dtype",
    "understand",
]

MAX_TAGS = 50
MAX_TAG = 50
MAX_MOCK_RECORDS = 10_000


class DatasetLimits(msgspec.Struct, frozen=True):
    """Limits of uploads. An upload above a limit is refused and leaves nothing behind."""

    max_upload_bytes: int = 64 * 1024**3
    """Bytes of an uploaded file."""
    max_total_bytes: int = 256 * 1024**3
    """Stored bytes of all datasets of the Domain."""
    max_columns: int = 4096
    max_records: int = 2**31 - 1
    max_categories: int = 10_000
    """Different texts in one column."""
    max_subjects: int = 2_000_000
    max_text_chars: int = 4096
    """Characters of a text value."""
    max_ratio: int = 20
    """Stored bytes for each uploaded byte. A higher ratio indicates a decompression bomb."""
    free_bytes: int = 16 * 1024**2
    """Stored bytes that are allowed at any ratio, for small compressed files."""
    max_text_ratio: int = 100
    """Bytes of a compressed CSV text for each uploaded byte."""
    free_text_bytes: int = 256 * 1024**2
    """Bytes of a compressed CSV text that are allowed at any ratio. They are read in pieces and not stored as such."""
    min_free_bytes: int = 512 * 1024**2
    """Bytes that an upload leaves free on the disk, for the other data of a Domain."""

    @classmethod
    def from_mb(cls, *, max_upload_mb: int, max_datasets_mb: int, max_columns: int, min_free_mb: int) -> DatasetLimits:
        """The limits that an operator sets, in MiB, with the defaults of the others."""
        mb = 1024**2
        return cls(
            max_upload_bytes=max_upload_mb * mb,
            max_total_bytes=max_datasets_mb * mb,
            max_columns=max_columns,
            min_free_bytes=min_free_mb * mb,
        )

    def max_stored_bytes(self, uploaded_bytes: int) -> int:
        """Maximum stored bytes of an upload of this size."""
        return min(self.max_total_bytes, max(self.free_bytes, self.max_ratio * uploaded_bytes))

    def max_unpacked_bytes(self, uploaded_bytes: int) -> int:
        """Maximum bytes of the text in a compressed CSV file of this size."""
        return min(self.max_upload_bytes, max(self.free_text_bytes, self.max_text_ratio * uploaded_bytes))


@dataclass(frozen=True)
class SchemaQuery:
    """A search for a column. None matches everything."""

    column: str | None = None
    dtype: str | None = None
    meaning: str | None = None

    def __bool__(self) -> bool:
        return (self.column, self.dtype, self.meaning) != (None, None, None)

    def fits(self, schema: Schema) -> bool:
        """Whether one column matches all fields."""
        return any(
            (self.column is None or column.name.casefold() == self.column.casefold())
            and (self.dtype is None or column.dtype == self.dtype)
            and (self.meaning is None or self.meaning.casefold() in column.meaning.casefold())
            for column in schema.columns
        )


class DatasetRefusal(enum.StrEnum):
    """Why a dataset may not be changed."""

    INVISIBLE = "dataset_not_found"
    """The caller may not know that the dataset exists."""
    MISSING_PERMISSION = "not_permitted"
    NOT_YOURS = "not_your_dataset"


@dataclass(frozen=True)
class Holding:
    """The fields of a dataset that decide about access."""

    created_by: int | None
    visibility: Visibility


def can_see(principal: Principal | None, dataset: Holding) -> bool:
    """Whether the caller (None: without an account) may see the dataset."""
    if dataset.visibility == "public":
        return True
    if principal is None:
        return False
    return dataset.visibility == "listed" or is_holder(principal, dataset.created_by)


def can_manage(principal: Principal | None, dataset: Holding) -> DatasetRefusal | None:
    """Whether the caller may change the dataset, add versions, delete it and see its records."""
    if not can_see(principal, dataset):
        return DatasetRefusal.INVISIBLE
    if principal is None or not principal.may(Permission.UPLOAD_DATA):
        return DatasetRefusal.MISSING_PERMISSION
    return None if is_holder(principal, dataset.created_by) else DatasetRefusal.NOT_YOURS


def check_manage(principal: Principal | None, dataset: Holding, dataset_id: int) -> None:
    """Refuse a caller that may not change the dataset.

    Raises:
        NotFound: ``dataset_not_found``: the caller may not see it. Forbidden: ``not_permitted``, ``not_your_dataset``.
    """
    match can_manage(principal, dataset):
        case DatasetRefusal.INVISIBLE:
            raise dataset_not_found(dataset_id)
        case DatasetRefusal.MISSING_PERMISSION:
            raise not_permitted(Permission.UPLOAD_DATA)
        case DatasetRefusal.NOT_YOURS:
            raise Forbidden(
                "another user uploaded this dataset; only that user and an Owner may change it",
                code=str(DatasetRefusal.NOT_YOURS),
            )


def dataset_not_found(dataset_id: int) -> NotFound:
    """The refusal for a dataset that is not there, or that the caller may not see."""
    return NotFound(f"there is no dataset {dataset_id}", code=codes.DATASET_NOT_FOUND, id=dataset_id)


def is_holder(principal: Principal, created_by: int | None) -> bool:
    """Whether a dataset of this user is the caller's own; an Owner has all."""
    return principal.role.id == OWNER.id or principal.user_id == created_by


def visible_schema(schema: Schema, *, to_owner: bool) -> Schema:
    """The part of the schema that the caller may see. Others do not see categories that come from the data, nor their
    number.
    """
    if to_owner:
        return schema
    columns = tuple(
        column
        if column.categories is None or column.declared
        else msgspec.structs.replace(column, categories=None, num_categories=None)
        for column in schema.columns
    )
    return msgspec.structs.replace(schema, columns=columns, origin=None, skipped=())


def check_name(name: str) -> str:
    """Check the name of a dataset, and strip white space.

    Raises:
        InvalidConfig: empty, longer than 100 characters, not printable, or with a slash.
    """
    name = name.strip()
    if not 0 < len(name) <= MAX_NAME or not name.isprintable() or "/" in name or "\\" in name:
        raise invalid_description("name", name, f"use 1 to {MAX_NAME} printable characters without slashes")
    return name


def check_description(text: str) -> str:
    """Raises InvalidConfig: longer than 20,000 characters."""
    if len(text) > MAX_DESCRIPTION:
        raise invalid_description("description", text, f"use at most {MAX_DESCRIPTION:,} characters")
    return text


def check_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Check tags, strip white space and remove repeated ones. The order stays.

    Raises:
        InvalidConfig: names the tag that is empty, longer than 50 characters or not printable; or there are more than
            50.
    """
    found = dict.fromkeys(tag.strip() for tag in tags)
    for tag in found:
        if not 0 < len(tag) <= MAX_TAG or not tag.isprintable():
            raise invalid_description("tags", tag, f"use 1 to {MAX_TAG} printable characters for each tag")
    if len(found) > MAX_TAGS:
        raise invalid_description("tags", f"{len(found)} tags", f"use at most {MAX_TAGS}")
    return tuple(found)


def check_upload(request: UploadRequest) -> UploadRequest:
    """The request with name and tags in their stored form. Raises InvalidConfig: names the field."""
    check_version_request(request)
    if request.fresh_budget:
        raise invalid_description("fresh_budget", True, "set it in the policy, which opens the budget of a new dataset")
    return msgspec.structs.replace(
        request,
        name=check_name(request.name),
        description=check_description(request.description),
        tags=check_tags(request.tags),
    )


def check_update(update: UpdateDataset) -> UpdateDataset:
    """As `check_upload`, for the changed fields."""
    changes: dict[str, object] = {}
    if isinstance(update.name, str):
        changes["name"] = check_name(update.name)
    if isinstance(update.description, str):
        check_description(update.description)
    if isinstance(update.tags, tuple):
        changes["tags"] = check_tags(update.tags)
    return msgspec.structs.replace(update, **changes)


def check_note(note: str) -> None:
    """Raises InvalidConfig: longer than 20,000 characters."""
    if len(note) > MAX_DESCRIPTION:
        raise invalid_description("note", note, f"use at most {MAX_DESCRIPTION:,} characters")


def check_version_request(request: VersionRequest) -> None:
    """Check what does not depend on the file.

    Raises:
        InvalidConfig: names the column, or another field, and the fault.
    """
    if len(request.columns) > DatasetLimits().max_columns:
        raise invalid_description(
            "columns", f"{len(request.columns)} columns", f"use at most {DatasetLimits().max_columns}"
        )
    names = [column.name for column in request.columns]
    for column in request.columns:
        check_declaration(column)
    if twice := {name for name in names if names.count(name) > 1}:
        raise invalid_description("columns", min(twice), "declare each column once")
    if not 1 <= request.num_mock_records <= MAX_MOCK_RECORDS:
        raise invalid_description("num_mock_records", request.num_mock_records, f"use 1 to {MAX_MOCK_RECORDS:,}")
    if not 0 <= request.mock_seed < 2**63:
        raise invalid_description("mock_seed", request.mock_seed, "use a number from 0 to 2^63 - 1")
    check_csv_options(request)
    for name in (*request.names, *(() if request.index is None else (request.index,))):
        check_column_name(name)
    check_note(request.note)
    if request.origin is not None:
        check_origin(request.origin)
    if request.max_records_per_subject is not None:
        if request.subject is None:
            raise invalid_description(
                "max_records_per_subject", request.max_records_per_subject, "name the subject column too"
            )
        if not 1 <= request.max_records_per_subject < 2**31:
            raise invalid_description("max_records_per_subject", request.max_records_per_subject, "use 1 or more")
    elif request.subject is not None:
        raise invalid_description(
            "subject", request.subject, "set max_records_per_subject, the number of records of one subject in a job"
        )


def search_text(name: str, description: str, tags: Sequence[str], schema: Schema) -> str:
    """The text that a search matches, in lower case: names and descriptions of the dataset and its columns."""
    said = [name, description, *tags]
    for column in schema.columns:
        said += [column.name, column.meaning, column.unit, column.description]
    return "\n".join(part for part in said if part).casefold()


def expand_source(patterns: Sequence[str], names: Sequence[str]) -> list[str] | None:
    """The columns of a file that match the ``source`` of a declaration. None if a pattern matches no column."""
    found: list[str] = []
    for pattern in patterns:
        if pattern in names:
            found.append(pattern)
            continue
        if not pattern.endswith("*"):
            return None
        prefix = pattern[:-1]
        matching = [name for name in names if name.startswith(prefix)]
        if not matching:
            return None
        found += matching
    return found


def looks_like_path(name: str) -> bool:
    """Whether a name from an archive would leave its folder if it were used as a path. pygrid never uses it as one."""
    return (
        name in (".", "..")
        or "\\" in name
        or "/" in name
        or "\0" in name
        or PurePosixPath(name).name != name
        or ":" in name[:2]
    )


SCHEMA_FILE = "schema.json"


def column_file(index: int) -> str:
    """The name of the file of column number ``index`` of a schema."""
    return f"{index}.bin"
