"""The use cases of datasets: find, describe, change, delete, and download of the mock dataset."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from functools import partial

import msgspec
import sqlalchemy as sa

from pygrid import codes
from pygrid.clock import Clock
from pygrid.core.access import Principal
from pygrid.core.datasets import SchemaQuery, Visibility, check_update, search_text
from pygrid.core.preconditions import ANY, Precondition
from pygrid.errors import NotFound
from pygrid.features.datasets.changes import DatasetChanges
from pygrid.features.datasets.completion import complete_schema
from pygrid.features.datasets.descriptions import describe, get_managed, get_seen, name_taken, summarize
from pygrid.features.datasets.records import as_safetensors, first_records
from pygrid.messages.datasets import DatasetInfo, DatasetSummary, Preview, UpdateDataset
from pygrid.storage import datasets as rows
from pygrid.storage.columns import hash_content
from pygrid.storage.datasets import DatasetRow, DatasetVersion
from pygrid.storage.store import Store

logger = logging.getLogger(__name__)

SEARCHED_AT_ONCE = 200


class DatasetsService:
    """The use cases of datasets."""

    def __init__(self, store: Store, changes: DatasetChanges, clock: Clock) -> None:
        self._database, self._files = store.database, store.columns
        self._changes = changes
        self._clock = clock

    async def recover(self) -> None:
        """Remove files of a crash and complete the schemas of pygrid 0.1; called before the first request."""
        referenced = set(await self._database.read(rows.list_folders))
        await asyncio.to_thread(self._files.sweep, referenced)
        for version_id, folder, schema in await self._database.read(rows.list_incomplete_schemas):
            try:
                complete = await asyncio.to_thread(complete_schema, self._files, folder, schema)
            except (NotFound, OSError) as error:
                logger.warning("schema not completed", extra={"version_id": version_id, "reason": str(error)})
                continue
            await self._database.write(partial(rows.put_schema, version_id=version_id, schema=complete))
        for version_id, folder in (await self._database.read(rows.list_unhashed)).items():
            await self._hash_version(version_id, folder)

    async def _hash_version(self, version_id: int, folder: str) -> None:
        """Hash the content of a version that was uploaded to pygrid 0.1."""
        try:
            content_hash = await asyncio.to_thread(hash_content, self._files.path(folder))
        except (NotFound, OSError):
            logger.exception("records not hashed", extra={"version_id": version_id})
            return
        await self._database.write(lambda connection: rows.put_content_hash(connection, version_id, content_hash))

    async def check_managed(self, principal: Principal, dataset_id: int) -> None:
        """Raises NotFound, Forbidden: as `update`."""
        await self._database.read(lambda connection: get_managed(connection, principal, dataset_id))

    async def list_datasets(
        self,
        principal: Principal | None,
        *,
        text: str = "",
        tags: tuple[str, ...] = (),
        columns: SchemaQuery | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[DatasetSummary]:
        """Return the datasets that the caller may see, newest first.

        Args:
            text: each of its words must occur in the name, description, tags or columns of the dataset.
            tags: the dataset must have all of them.
            before: return only datasets with a smaller id, to continue the last list.
        """
        query = columns or SchemaQuery()

        def load(connection: sa.Connection) -> list[DatasetSummary]:
            found: list[tuple[DatasetRow, DatasetVersion]] = []
            position = before
            # The database cannot search columns, so pages are read until there are enough hits.
            while len(found) < limit:
                page = rows.list_datasets(
                    connection,
                    principal,
                    words=text.split(),
                    tags=tags,
                    before=position,
                    limit=SEARCHED_AT_ONCE if query else limit,
                )
                found += [item for item in page if not query or query.fits(rows.get_schema(connection, item[1].id))]
                if not query or len(page) < SEARCHED_AT_ONCE:
                    break
                position = page[-1][0].id
            found = found[:limit]
            all_tags = rows.list_tags(connection, [dataset.id for dataset, _ in found])
            return [summarize(principal, dataset, version, all_tags[dataset.id]) for dataset, version in found]

        return await self._database.read(load)

    async def get(self, principal: Principal | None, dataset_id: int, number: int | None = None) -> DatasetInfo:
        """Return a dataset with the schema of a version (None: the newest).

        Raises:
            NotFound: ``dataset_not_found``: it does not exist, or the caller may not see it;
                ``dataset_version_not_found``.
        """
        return await self._database.read(
            lambda connection: describe(connection, principal, get_seen(connection, principal, dataset_id), number)
        )

    async def find_by_name(self, principal: Principal | None, name: str) -> DatasetInfo:
        """Return a dataset as `get` does, by name: the caller's own, else the newest of this name."""

        def load(connection: sa.Connection) -> DatasetInfo:
            dataset = rows.find_dataset_by_name(connection, principal, name)
            if dataset is None:
                raise NotFound(f"there is no dataset {name!r}", code=codes.DATASET_NOT_FOUND, name=name)
            return describe(connection, principal, dataset)

        return await self._database.read(load)

    async def update(
        self, principal: Principal, dataset_id: int, update: UpdateDataset, precondition: Precondition = ANY
    ) -> DatasetInfo:
        """Change the name, description, tags or visibility of a dataset.

        Args:
            precondition: checked against the answer of `get` to the caller.
        Raises:
            NotFound: the caller may not see the dataset. Forbidden: ``not_permitted``, ``not_your_dataset``.
            InvalidConfig: a value is not valid. Conflict: ``dataset_exists``: the caller uses the new name already.
            PreconditionFailed: the dataset has changed since the caller read it.
        """
        update = check_update(update)

        def transaction(connection: sa.Connection) -> tuple[DatasetInfo, tuple[Visibility, ...]]:
            dataset = get_managed(connection, principal, dataset_id)
            precondition.check(describe(connection, principal, dataset))
            given = {
                name: value for name, value in msgspec.structs.asdict(update).items() if value is not msgspec.UNSET
            }
            tags = given.pop("tags", None)
            if tags is not None:
                rows.put_tags(connection, dataset_id, tags)
            tags = rows.list_tags(connection, [dataset_id])[dataset_id]
            name, description = given.get("name", dataset.name), given.get("description", dataset.description)
            schema = rows.get_schema(connection, rows.get_version(connection, dataset_id).id)
            given["search_text"] = search_text(name, description, tags, schema)
            try:
                rows.update_dataset(connection, dataset_id, **given, updated_at=self._clock.now())
            except sa.exc.IntegrityError:
                raise name_taken(name) from None
            if name != dataset.name:
                self._changes.record(connection, principal, "dataset_renamed", dataset_id=dataset_id, name=name)
            info = describe(connection, principal, rows.get_dataset(connection, dataset_id))
            return info, (dataset.visibility, info.visibility)

        return await self._changes.write(transaction)

    async def delete(self, principal: Principal, dataset_id: int, precondition: Precondition = ANY) -> None:
        """Delete a dataset with all its versions. Its id is not used again.

        Raises:
            NotFound, Forbidden, PreconditionFailed: as `update`.
        """

        def transaction(connection: sa.Connection) -> tuple[list[str], tuple[Visibility, ...]]:
            dataset = get_managed(connection, principal, dataset_id)
            precondition.check(describe(connection, principal, dataset))
            folders = rows.delete_dataset(connection, dataset_id, self._clock.now())
            self._changes.record(connection, principal, "dataset_deleted", dataset_id=dataset_id)
            return folders, (dataset.visibility,)

        for folder in await self._changes.write(transaction):
            await asyncio.to_thread(self._files.drop, folder)
        logger.info("dataset deleted", extra={"dataset_id": dataset_id})

    async def mock(
        self, principal: Principal | None, dataset_id: int, number: int | None = None
    ) -> tuple[int, Iterator[bytes]]:
        """Return the mock dataset as a safetensors file: its length in bytes, and the bytes in pieces.

        Text columns are int32 codes; the metadata ``schema`` holds the mock's schema with their categories, as JSON.

        Raises:
            NotFound: as `get`; ``mock_not_found``: the version has no mock dataset.
        """

        def load(connection: sa.Connection) -> str | None:
            dataset = get_seen(connection, principal, dataset_id)
            return rows.get_version(connection, dataset.id, number).mock_folder

        folder = await self._database.read(load)
        if folder is None:
            raise NotFound(f"dataset {dataset_id} has no mock dataset", code=codes.MOCK_NOT_FOUND, id=dataset_id)
        path = await asyncio.to_thread(self._files.checked_path, folder)
        return await asyncio.to_thread(as_safetensors, path)

    async def preview(self, principal: Principal, dataset_id: int, number: int | None, num_records: int) -> Preview:
        """Return the first records of a version, for callers who may change the dataset.

        Raises:
            NotFound, Forbidden: as `update`.
        """

        def load(connection: sa.Connection) -> str:
            get_managed(connection, principal, dataset_id)
            return rows.get_version(connection, dataset_id, number).folder

        folder = await asyncio.to_thread(self._files.checked_path, await self._database.read(load))
        return await asyncio.to_thread(first_records, folder, num_records)

    async def list_tags(self, principal: Principal | None) -> list[str]:
        """Return all tags of the datasets that the caller may see."""
        return await self._database.read(lambda connection: rows.list_all_tags(connection, principal))
