"""Descriptions of datasets for a caller, and which datasets a caller may see or change."""

from __future__ import annotations

import msgspec
import sqlalchemy as sa

from pygrid import codes
from pygrid.core.access import Principal
from pygrid.core.datasets import can_manage, can_see, check_manage, dataset_not_found, visible_schema
from pygrid.errors import Conflict
from pygrid.messages.datasets import DatasetInfo, DatasetSummary, VersionInfo
from pygrid.storage import datasets as rows
from pygrid.storage.datasets import DatasetRow, DatasetVersion


def get_seen(connection: sa.Connection, principal: Principal | None, dataset_id: int) -> DatasetRow:
    """Return the dataset, if the caller may see it."""
    dataset = rows.get_dataset(connection, dataset_id)
    if not can_see(principal, dataset.holding):
        raise dataset_not_found(dataset_id)
    return dataset


def get_managed(connection: sa.Connection, principal: Principal, dataset_id: int) -> DatasetRow:
    """Return the dataset, if the caller may change it."""
    dataset = rows.get_dataset(connection, dataset_id)
    check_manage(principal, dataset.holding, dataset_id)
    return dataset


def summarize(
    principal: Principal | None, dataset: DatasetRow, version: DatasetVersion, tags: tuple[str, ...]
) -> DatasetSummary:
    return DatasetSummary(
        id=dataset.id,
        name=dataset.name,
        description=dataset.description,
        tags=tags,
        visibility=dataset.visibility,
        version=version.number,
        num_records=version.num_records,
        num_columns=version.num_columns,
        size_bytes=version.size_bytes,
        created_at=dataset.created_at,
        updated_at=dataset.updated_at,
        mine=can_manage(principal, dataset.holding) is None,
    )


def name_taken(name: str) -> Conflict:
    """The refusal of a name that another dataset of the caller has."""
    return Conflict(
        f"you already have a dataset {name!r}: add a version to it, or choose another name",
        code=codes.DATASET_EXISTS,
        name=name,
    )


def describe(
    connection: sa.Connection, principal: Principal | None, dataset: DatasetRow, number: int | None = None
) -> DatasetInfo:
    """Return a dataset with the schema of one of its versions (None: the newest), as the caller may see it."""
    version = rows.get_version(connection, dataset.id, number)
    schema = rows.get_schema(connection, version.id)
    summary = summarize(principal, dataset, version, rows.list_tags(connection, [dataset.id])[dataset.id])
    return DatasetInfo(
        **msgspec.structs.asdict(summary),
        schema=visible_schema(schema, to_owner=summary.mine),
        versions=[
            VersionInfo(one.number, one.note, one.num_records, one.size_bytes, one.mock, one.created_at)
            for one in rows.list_versions(connection, dataset.id)
        ],
    )
