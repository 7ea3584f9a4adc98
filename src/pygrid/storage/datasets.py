"""Datasets with their versions and tags: tables, and queries inside a transaction of the caller.

    datasets 1--n dataset_versions
    datasets 1--n dataset_tags

The tables hold no records: ``folder`` and ``mock_folder`` name folders of columns. A deleted dataset keeps its row
without a ``name_key``, because charges refer to its id.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import msgspec
import sqlalchemy as sa

from pygrid import codes
from pygrid.core.access import OWNER, Principal
from pygrid.core.datasets import Holding, Schema, Visibility, dataset_not_found
from pygrid.errors import NotFound
from pygrid.messages.datasets import UploadRequest
from pygrid.storage.sql.metadata import UtcDateTime, insert, metadata

datasets = sa.Table(
    "datasets",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    # The case-folded name; equal keys are the same name. NULL after the dataset is deleted.
    sa.Column("name_key", sa.Text, nullable=True, index=True),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("visibility", sa.String(16), nullable=False),
    sa.Column("search_text", sa.Text, nullable=False),
    sa.Column("created_by", sa.Integer, nullable=True, index=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.Column("deleted_at", UtcDateTime, nullable=True),
    # Unique for each user only: a name that is taken must not reveal another user's private dataset.
    sa.UniqueConstraint("created_by", "name_key"),
    sqlite_autoincrement=True,
)


dataset_versions = sa.Table(
    "dataset_versions",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("dataset_id", sa.ForeignKey("datasets.id"), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("folder", sa.String(64), nullable=False),
    sa.Column("mock_folder", sa.String(64), nullable=True),
    sa.Column("mock", sa.String(16), nullable=False),
    sa.Column("schema", sa.JSON, nullable=False),
    sa.Column("num_records", sa.BigInteger, nullable=False),
    sa.Column("num_columns", sa.Integer, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    # Hash of the columns' values (`pygrid.storage.columns.hash_content`), to recognize them in another dataset. NULL:
    # records of 0.1 that were deleted before they were hashed.
    sa.Column("content_hash", sa.String(64), nullable=True, index=True),
    sa.Column("created_by", sa.Integer, nullable=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("dataset_id", "number"),
    sqlite_autoincrement=True,
)


dataset_tags = sa.Table(
    "dataset_tags",
    metadata,
    sa.Column("dataset_id", sa.ForeignKey("datasets.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("tag", sa.Text, nullable=False),
    # The case-folded tag, for searches.
    sa.Column("tag_key", sa.Text, nullable=False, index=True),
)


Mock = Literal["none", "drawn", "uploaded"]


@dataclass(frozen=True)
class DatasetRow:
    """A dataset that is not deleted."""

    id: int
    name: str
    description: str
    visibility: Visibility
    created_by: int | None
    created_at: dt.datetime
    updated_at: dt.datetime

    @property
    def holding(self) -> Holding:
        return Holding(self.created_by, self.visibility)


@dataclass(frozen=True)
class DatasetVersion:
    """One version; ``folder`` and ``mock_folder`` name folders of columns (`pygrid.storage.columns`)."""

    id: int
    dataset_id: int
    number: int
    folder: str
    mock_folder: str | None
    mock: Mock
    num_records: int
    num_columns: int
    size_bytes: int
    note: str
    created_at: dt.datetime


@dataclass(frozen=True)
class NewVersion:
    folder: str
    mock_folder: str | None
    mock: Mock
    schema: Schema
    note: str
    content_hash: str
    """Hash of the columns' values."""
    notes: tuple[str, ...] = ()
    """What the reader decided by itself; they are not stored."""


_DATASET = [datasets.c[field] for field in DatasetRow.__dataclass_fields__]
_VERSION = [dataset_versions.c[field] for field in DatasetVersion.__dataclass_fields__]
_LIVE = datasets.c.deleted_at.is_(None)


def put_dataset(
    connection: sa.Connection, request: UploadRequest, *, search_text: str, created_by: int, now: dt.datetime
) -> int:
    """Add a dataset without versions; returns its id.

    Raises ``sqlalchemy.exc.IntegrityError`` if the user has a dataset of that name.
    """
    statement = datasets.insert().values(
        name=request.name,
        name_key=request.name.casefold(),
        description=request.description,
        visibility=request.visibility,
        search_text=search_text,
        created_by=created_by,
        created_at=now,
        updated_at=now,
    )
    dataset_id = insert(connection, statement)
    put_tags(connection, dataset_id, request.tags)
    return dataset_id


def put_tags(connection: sa.Connection, dataset_id: int, tags: Sequence[str]) -> None:
    connection.execute(dataset_tags.delete().where(dataset_tags.c.dataset_id == dataset_id))
    if tags:
        rows = [
            {"dataset_id": dataset_id, "position": position, "tag": tag, "tag_key": tag.casefold()}
            for position, tag in enumerate(tags)
        ]
        connection.execute(dataset_tags.insert(), rows)


def put_version(
    connection: sa.Connection, dataset_id: int, version: NewVersion, created_by: int | None, now: dt.datetime
) -> DatasetVersion:
    """Add the next version of a dataset."""
    # Under the lock on the dataset's row, so that two concurrent versions get two numbers.
    connection.execute(datasets.update().where(datasets.c.id == dataset_id).values(updated_at=now))
    newest = connection.execute(
        sa.select(sa.func.max(dataset_versions.c.number)).where(dataset_versions.c.dataset_id == dataset_id)
    ).scalar()
    number = (newest or 0) + 1
    values: dict[str, Any] = {
        "dataset_id": dataset_id,
        "number": number,
        "folder": version.folder,
        "mock_folder": version.mock_folder,
        "mock": version.mock,
        "num_records": version.schema.num_records,
        "num_columns": len(version.schema.columns),
        "size_bytes": version.schema.num_bytes,
        "note": version.note,
        "created_at": now,
    }
    statement = dataset_versions.insert().values(
        **values,
        content_hash=version.content_hash,
        created_by=created_by,
        schema=msgspec.to_builtins(version.schema, order="deterministic"),
    )
    return DatasetVersion(id=insert(connection, statement), **values)


def update_dataset(connection: sa.Connection, dataset_id: int, **changes: Any) -> None:
    """Change columns of a dataset's row. Raises ``sqlalchemy.exc.IntegrityError`` if a new name is taken."""
    if "name" in changes:
        changes["name_key"] = changes["name"].casefold()
    connection.execute(datasets.update().where(datasets.c.id == dataset_id).values(changes))


def delete_dataset(connection: sa.Connection, dataset_id: int, now: dt.datetime) -> list[str]:
    """Mark a dataset as deleted and free its name; returns the folders of columns that are no longer used."""
    update_dataset(connection, dataset_id, name_key=None, deleted_at=now)
    connection.execute(dataset_tags.delete().where(dataset_tags.c.dataset_id == dataset_id))
    return _folders(connection, dataset_versions.c.dataset_id == dataset_id)


def list_unhashed(connection: sa.Connection) -> dict[int, str]:
    """Folders of the versions without a content hash, by the id of the version."""
    joined = sa.select(dataset_versions.c.id, dataset_versions.c.folder).join_from(dataset_versions, datasets)
    rows = connection.execute(joined.where(_LIVE, dataset_versions.c.content_hash.is_(None)))
    return {row.id: row.folder for row in rows}


def put_content_hash(connection: sa.Connection, version_id: int, content_hash: str) -> None:
    statement = dataset_versions.update().where(dataset_versions.c.id == version_id)
    connection.execute(statement.values(content_hash=content_hash))


def list_content_hashes(connection: sa.Connection, dataset_id: int) -> set[str]:
    query = sa.select(dataset_versions.c.content_hash).where(dataset_versions.c.dataset_id == dataset_id)
    return {found for found in connection.execute(query).scalars() if found is not None}


def list_same_content(
    connection: sa.Connection, dataset_id: int, hashes: Collection[str]
) -> dict[int, tuple[int | None, bool]]:
    """Other datasets that have or had a version with one of these contents: id -> owner, whether it is deleted."""
    query = (
        sa.select(datasets.c.id, datasets.c.created_by, datasets.c.deleted_at)
        .join_from(datasets, dataset_versions)
        .where(dataset_versions.c.content_hash.in_(hashes), datasets.c.id != dataset_id)
        .order_by(datasets.c.id)
    )
    return {row.id: (row.created_by, row.deleted_at is not None) for row in connection.execute(query)}


def get_dataset(connection: sa.Connection, dataset_id: int) -> DatasetRow:
    """A dataset that is not deleted. Raises NotFound: ``dataset_not_found``."""
    row = connection.execute(sa.select(*_DATASET).where(datasets.c.id == dataset_id, _LIVE)).first()
    if row is None:
        raise dataset_not_found(dataset_id)
    return DatasetRow(*row)


def list_holdings(connection: sa.Connection, dataset_ids: Collection[int]) -> dict[int, Holding]:
    """What decides about access to each of these datasets that is not deleted, by id."""
    columns = (datasets.c.id, datasets.c.created_by, datasets.c.visibility)
    statement = sa.select(*columns).where(datasets.c.id.in_(dataset_ids), _LIVE)
    return {row.id: Holding(row.created_by, row.visibility) for row in connection.execute(statement)}


def find_dataset_by_name(connection: sa.Connection, principal: Principal | None, name: str) -> DatasetRow | None:
    """The dataset of a name, in any case, that the caller may see: the caller's own, else the newest; or None."""
    statement = sa.select(*_DATASET).where(datasets.c.name_key == name.casefold(), _visible(principal))
    if principal is not None:
        statement = statement.order_by(sa.case((datasets.c.created_by == principal.user_id, 0), else_=1))
    row = connection.execute(statement.order_by(datasets.c.id.desc()).limit(1)).first()
    return None if row is None else DatasetRow(*row)


def get_own_dataset(connection: sa.Connection, created_by: int | None, name: str) -> DatasetRow:
    """The dataset of a user by its name, in any case.

    Raises:
        NotFound: ``dataset_not_found``: the user has none of that name, or there is no user.
    """
    statement = sa.select(*_DATASET).where(
        datasets.c.name_key == name.casefold(), datasets.c.created_by == created_by, _LIVE
    )
    # Datasets without a user, because the account was deleted, belong to nobody.
    row = None if created_by is None else connection.execute(statement).first()
    if row is None:
        detail = f"the user who hosts the process has no dataset {name[:100]!r} on this Domain"
        raise NotFound(detail, code=codes.DATASET_NOT_FOUND)
    return DatasetRow(*row)


def has_dataset(connection: sa.Connection, created_by: int, name: str) -> bool:
    """Whether a user has a dataset of that name, in any case."""
    statement = sa.select(datasets.c.id).where(
        datasets.c.name_key == name.casefold(), datasets.c.created_by == created_by
    )
    return connection.execute(statement).first() is not None


def get_version(connection: sa.Connection, dataset_id: int, number: int | None = None) -> DatasetVersion:
    """A version of a dataset by number, or the newest. Raises NotFound: ``dataset_version_not_found``."""
    statement = sa.select(*_VERSION).where(dataset_versions.c.dataset_id == dataset_id)
    if number is None:
        statement = statement.order_by(dataset_versions.c.number.desc()).limit(1)
    else:
        statement = statement.where(dataset_versions.c.number == number)
    row = connection.execute(statement).first()
    if row is None:
        raise NotFound(
            f"dataset {dataset_id} has no version {number}",
            code=codes.DATASET_VERSION_NOT_FOUND,
            id=dataset_id,
            version=number,
        )
    return DatasetVersion(*row)


def list_versions(connection: sa.Connection, dataset_id: int) -> list[DatasetVersion]:
    """All versions of a dataset, newest first."""
    statement = sa.select(*_VERSION).where(dataset_versions.c.dataset_id == dataset_id)
    return [DatasetVersion(*row) for row in connection.execute(statement.order_by(dataset_versions.c.number.desc()))]


def list_incomplete_schemas(connection: sa.Connection) -> list[tuple[int, str, Schema]]:
    """(version id, folder, schema) of the versions with a schema of pygrid 0.1, which lacks fields of later ones."""
    live = dataset_versions.c.dataset_id.in_(sa.select(datasets.c.id).where(_LIVE))
    statement = sa.select(dataset_versions.c.id, dataset_versions.c.folder, dataset_versions.c.schema).where(live)
    found = [(row.id, row.folder, msgspec.convert(row.schema, Schema)) for row in connection.execute(statement)]
    return [(version_id, folder, schema) for version_id, folder, schema in found if not schema.is_complete]


def put_schema(connection: sa.Connection, version_id: int, schema: Schema) -> None:
    values = {"schema": msgspec.to_builtins(schema, order="deterministic")}
    connection.execute(dataset_versions.update().where(dataset_versions.c.id == version_id).values(values))


def get_schema(connection: sa.Connection, version_id: int) -> Schema:
    """The complete schema of a version, with the parts that only its owner may know."""
    raw = connection.execute(
        sa.select(dataset_versions.c.schema).where(dataset_versions.c.id == version_id)
    ).scalar_one()
    return msgspec.convert(raw, Schema)


def list_tags(connection: sa.Connection, dataset_ids: Sequence[int]) -> dict[int, tuple[str, ...]]:
    """The tags of each of these datasets, in order."""
    found: dict[int, tuple[str, ...]] = dict.fromkeys(dataset_ids, ())
    statement = sa.select(dataset_tags.c.dataset_id, dataset_tags.c.tag).where(
        dataset_tags.c.dataset_id.in_(dataset_ids)
    )
    for dataset_id, tag in connection.execute(statement.order_by(dataset_tags.c.dataset_id, dataset_tags.c.position)):
        found[dataset_id] += (tag,)
    return found


def list_datasets(
    connection: sa.Connection,
    principal: Principal | None,
    *,
    words: Sequence[str] = (),
    tags: Sequence[str] = (),
    before: int | None = None,
    limit: int = 100,
) -> list[tuple[DatasetRow, DatasetVersion]]:
    """Datasets that the caller may see, with their newest versions, newest first.

    Args:
        words: each must occur in the dataset's search text.
        tags: the dataset must have each of them, in any case.
        before: only datasets with a smaller id.
    """
    newest = sa.select(dataset_versions.c.dataset_id, sa.func.max(dataset_versions.c.number).label("number"))
    last = newest.group_by(dataset_versions.c.dataset_id).subquery()
    statement = (
        sa.select(*_DATASET, *_VERSION)
        .join(last, last.c.dataset_id == datasets.c.id)
        .join(
            dataset_versions,
            (dataset_versions.c.dataset_id == datasets.c.id) & (dataset_versions.c.number == last.c.number),
        )
        .where(_LIVE, _visible(principal))
        .order_by(datasets.c.id.desc())
        .limit(limit)
    )
    if before is not None:
        statement = statement.where(datasets.c.id < before)
    for word in words:
        statement = statement.where(datasets.c.search_text.contains(word.casefold(), autoescape=True))
    for tag in tags:
        statement = statement.where(
            sa.exists().where(dataset_tags.c.dataset_id == datasets.c.id, dataset_tags.c.tag_key == tag.casefold())
        )
    split = len(_DATASET)
    return [(DatasetRow(*row[:split]), DatasetVersion(*row[split:])) for row in connection.execute(statement)]


def list_names(connection: sa.Connection, principal: Principal | None, dataset_ids: Collection[int]) -> dict[int, str]:
    """The present name of each of these datasets that the caller may see, by id."""
    statement = sa.select(datasets.c.id, datasets.c.name).where(
        _LIVE, _visible(principal), datasets.c.id.in_(dataset_ids)
    )
    return {row.id: row.name for row in connection.execute(statement)}


def list_all_tags(connection: sa.Connection, principal: Principal | None) -> list[str]:
    """Every tag of the datasets that the caller may see, sorted."""
    statement = (
        sa.select(dataset_tags.c.tag)
        .join(datasets, datasets.c.id == dataset_tags.c.dataset_id)
        .where(_LIVE, _visible(principal))
        .distinct()
    )
    return sorted(connection.execute(statement).scalars())


def stored_bytes(connection: sa.Connection) -> int:
    """Size of the columns of all datasets, in bytes."""
    statement = sa.select(sa.func.coalesce(sa.func.sum(dataset_versions.c.size_bytes), 0)).join(datasets).where(_LIVE)
    return int(connection.execute(statement).scalar_one())


def list_folders(connection: sa.Connection) -> list[str]:
    """Every folder of columns that a dataset uses."""
    return _folders(connection, dataset_versions.c.dataset_id.in_(sa.select(datasets.c.id).where(_LIVE)))


def _folders(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> list[str]:
    statement = sa.select(dataset_versions.c.folder, dataset_versions.c.mock_folder).where(condition)
    return [cast(str, name) for row in connection.execute(statement) for name in row if name is not None]


def _visible(principal: Principal | None) -> sa.ColumnElement[bool]:
    """`pygrid.core.datasets.can_see` as a condition."""
    if principal is None:
        return datasets.c.visibility == "public"
    if principal.role.id == OWNER.id:
        return sa.true()
    return datasets.c.visibility.in_(("public", "listed")) | (datasets.c.created_by == principal.user_id)
