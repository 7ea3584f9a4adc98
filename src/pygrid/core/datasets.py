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
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import msgspec
import numpy as np

from pygrid import codes
from pygrid.core.access import OWNER, Permission, Principal, not_permitted
from pygrid.errors import Forbidden, InvalidConfig, NotFound
from pygrid.messages.datasets import (
    Column,
    ColumnDeclaration,
    Dtype,
    Schema,
    UpdateDataset,
    UploadRequest,
    VersionRequest,
    Visibility,
)

__all__ = ["Column", "ColumnDeclaration", "DatasetLimits", "Dtype", "Schema", "Visibility"]

MAX_NAME = 100
MAX_DESCRIPTION = 20_000
MAX_TAGS = 50
MAX_TAG = 50
MAX_SHORT_TEXT = 200
MAX_MOCK_RECORDS = 10_000
MAX_DECLARED_CATEGORIES = 10_000
_RESERVED_NAMES = frozenset({"__metadata__"})


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
    return dataset.visibility == "listed" or _is_owner(principal, dataset)


def can_manage(principal: Principal | None, dataset: Holding) -> DatasetRefusal | None:
    """Whether the caller may change the dataset, add versions, delete it and see its records."""
    if not can_see(principal, dataset):
        return DatasetRefusal.INVISIBLE
    if principal is None or not principal.may(Permission.UPLOAD_DATA):
        return DatasetRefusal.MISSING_PERMISSION
    return None if _is_owner(principal, dataset) else DatasetRefusal.NOT_YOURS


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


def _is_owner(principal: Principal, dataset: Holding) -> bool:
    return principal.role.id == OWNER.id or principal.user_id == dataset.created_by


def told_schema(schema: Schema, *, to_owner: bool) -> Schema:
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
    return msgspec.structs.replace(schema, columns=columns)


def check_name(name: str) -> str:
    """Check the name of a dataset, and strip white space.

    Raises:
        InvalidConfig: empty, longer than 100 characters, not printable, or with a slash.
    """
    name = name.strip()
    if not 0 < len(name) <= MAX_NAME or not name.isprintable() or "/" in name or "\\" in name:
        raise _invalid("name", name, f"use 1 to {MAX_NAME} printable characters without slashes")
    return name


def check_description(text: str) -> str:
    """Raises InvalidConfig: longer than 20,000 characters."""
    if len(text) > MAX_DESCRIPTION:
        raise _invalid("description", text, f"use at most {MAX_DESCRIPTION:,} characters")
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
            raise _invalid("tags", tag, f"use 1 to {MAX_TAG} printable characters for each tag")
    if len(found) > MAX_TAGS:
        raise _invalid("tags", f"{len(found)} tags", f"use at most {MAX_TAGS}")
    return tuple(found)


def check_column_name(name: str) -> str:
    """Check the name of a column in a file or a declaration. It is a label, never a path.

    Raises:
        InvalidConfig: empty, too long, not printable, or reserved by the file formats.
    """
    if not 0 < len(name) <= MAX_NAME or not name.isprintable() or name != name.strip() or name in _RESERVED_NAMES:
        raise InvalidConfig(
            f"{name[:MAX_NAME]!r} cannot be the name of a column: use 1 to {MAX_NAME} printable characters, without "
            "spaces at either end",
            code=codes.INVALID_COLUMN_NAME,
            column=name[:MAX_NAME],
        )
    return name


def check_upload(request: UploadRequest) -> UploadRequest:
    """The request with name and tags in their stored form. Raises InvalidConfig: names the field."""
    check_version_request(request)
    if request.fresh_budget:
        raise _invalid("fresh_budget", True, "set it in the policy, which opens the budget of a new dataset")
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


def check_version_request(request: VersionRequest) -> None:
    """Check what does not depend on the file.

    Raises:
        InvalidConfig: names the column, or another field, and the fault.
    """
    if len(request.columns) > DatasetLimits().max_columns:
        raise _invalid("columns", f"{len(request.columns)} columns", f"use at most {DatasetLimits().max_columns}")
    names = [column.name for column in request.columns]
    for column in request.columns:
        _check_declaration(column)
    if twice := {name for name in names if names.count(name) > 1}:
        raise _invalid("columns", min(twice), "declare each column once")
    if not 1 <= request.num_mock_records <= MAX_MOCK_RECORDS:
        raise _invalid("num_mock_records", request.num_mock_records, f"use 1 to {MAX_MOCK_RECORDS:,}")
    if not 0 <= request.mock_seed < 2**63:
        raise _invalid("mock_seed", request.mock_seed, "use a number from 0 to 2^63 - 1")
    if len(request.note) > MAX_DESCRIPTION:
        raise _invalid("note", request.note, f"use at most {MAX_DESCRIPTION:,} characters")
    if request.max_records_per_subject is not None:
        if request.subject is None:
            raise _invalid("max_records_per_subject", request.max_records_per_subject, "name the subject column too")
        if not 1 <= request.max_records_per_subject < 2**31:
            raise _invalid("max_records_per_subject", request.max_records_per_subject, "use 1 or more")
    elif request.subject is not None:
        raise _invalid(
            "subject", request.subject, "set max_records_per_subject, the number of records of one subject in a job"
        )


def _check_declaration(column: ColumnDeclaration) -> None:
    check_column_name(column.name)
    where = f"columns: {column.name!r}"
    for field in ("unit", "meaning", "description"):
        if len(getattr(column, field)) > (MAX_DESCRIPTION if field == "description" else MAX_SHORT_TEXT):
            raise _invalid(f"{where}.{field}", getattr(column, field), "it is too long")
    for bound in (column.min, column.max):
        if bound is not None and not math.isfinite(bound):
            raise _invalid(f"{where}: min and max", bound, "use finite numbers")
    if column.min is not None and column.max is not None and column.min > column.max:
        raise _invalid(f"{where}: min", column.min, f"it must not be above max, {column.max}")
    if column.categories is not None:
        if column.dtype not in (None, "text"):
            raise _invalid(
                f"{where}: categories", column.dtype, "only a text column has them; leave dtype out, or use text"
            )
        if not 0 < len(column.categories) <= MAX_DECLARED_CATEGORIES or len(set(column.categories)) != len(
            column.categories
        ):
            raise _invalid(f"{where}: categories", f"{len(column.categories)} texts", "name each of 1 to 10,000 once")
    if (column.categories is not None or column.dtype == "text") and (column.min is not None or column.max is not None):
        raise _invalid(f"{where}: min and max", column.dtype, "a text column has none")
    if column.has_missing is not None and column.dtype not in (None, "float32", "float64"):
        raise _invalid(
            f"{where}: has_missing", column.dtype, "only float32 and float64 columns have missing values; leave it out"
        )
    understand(column.meaning)


@dataclass(frozen=True)
class Understood:
    """The parts of a meaning that pygrid can check. None: the meaning has no such part."""

    shape: tuple[int, ...] | None = None
    bounds: tuple[int, int] | None = None


_IMAGE = re.compile(r"image (\d{1,6}(?:x\d{1,6}){1,3})")
_LABEL = re.compile(r"label (-?\d{1,15})\.\.(-?\d{1,15})")


def understand(meaning: str) -> Understood:
    """Parse a meaning: ``image 1x28x28`` sets the shape, ``label 0..9`` the bounds. Other meanings are for people.

    Raises:
        InvalidConfig: the meaning begins like one of the two forms but is malformed.
    """
    if match := _IMAGE.fullmatch(meaning):
        shape = tuple(int(part) for part in match[1].split("x"))
        if 0 not in shape:
            return Understood(shape=shape)
    elif match := _LABEL.fullmatch(meaning):
        low, high = int(match[1]), int(match[2])
        if low <= high:
            return Understood(bounds=(low, high))
    elif not re.match(r"(image|label) -?\d", meaning):
        return Understood()
    raise _invalid("meaning", meaning, "write an image like 'image 1x28x28' and labels like 'label 0..9'")


def bounds_of(column: Column | ColumnDeclaration) -> tuple[float | None, float | None]:
    """The declared bounds of the values: ``min`` and ``max``, or those of a label."""
    label = understand(column.meaning).bounds
    low = column.min if column.min is not None or label is None else float(label[0])
    high = column.max if column.max is not None or label is None else float(label[1])
    return low, high


def stored_dtype(column: Column) -> np.dtype[Any]:
    """The dtype of the values in the file of the column. Text is stored as int32 codes."""
    return np.dtype("int32" if column.dtype == "text" else column.dtype).newbyteorder("<")


def declarations_of(schema: Schema) -> tuple[ColumnDeclaration, ...]:
    """Declarations for a table like this one: its next version, or an uploaded mock dataset."""
    return tuple(
        ColumnDeclaration(
            column.name,
            column.dtype,
            column.unit,
            column.meaning,
            column.description,
            column.min,
            column.max,
            column.categories if column.declared else None,
            has_missing=True if column.has_missing else None,
        )
        for column in schema.columns
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


def _invalid(field: str, value: object, wanted: str) -> InvalidConfig:
    shown = str(value)[:100]
    return InvalidConfig(f"{field} is {shown!r}: {wanted}", code=codes.INVALID_DATASET_CONFIG, field=field, value=shown)


SCHEMA_FILE = "schema.json"


def column_file(index: int) -> str:
    """The name of the file of column number ``index`` of a schema."""
    return f"{index}.bin"
