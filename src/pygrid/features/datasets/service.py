"""The use cases of datasets: upload, find, describe, version, delete, and download of the mock dataset."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa

from pygrid import codes
from pygrid.clock import Clock
from pygrid.core.access import Permission, Principal, require
from pygrid.core.datasets import (
    DatasetLimits,
    Schema,
    SchemaQuery,
    Visibility,
    can_manage,
    can_see,
    check_manage,
    check_note,
    check_update,
    check_upload,
    check_version_request,
    dataset_not_found,
    declarations_of,
    search_text,
    told_schema,
)
from pygrid.core.job_terms import unit_of
from pygrid.core.preconditions import ANY, Precondition
from pygrid.core.preparation import changed_preparations, preparations_in
from pygrid.errors import Conflict, NotFound, PayloadTooLarge, PreconditionFailed
from pygrid.features.datasets.changes import DatasetChanges
from pygrid.features.datasets.completion import complete_schema
from pygrid.features.datasets.intake import OnDisconnect, Receiver, StoredTable, UploadDraft, UploadedFiles, never
from pygrid.features.datasets.records import as_safetensors, first_records
from pygrid.messages.datasets import (
    DatasetInfo,
    DatasetSummary,
    Preview,
    UpdateDataset,
    UploadRequest,
    UploadTrial,
    VersionInfo,
    VersionRequest,
)
from pygrid.messages.preparations import PrepareRequest
from pygrid.storage import audit, budgets
from pygrid.storage import datasets as rows
from pygrid.storage.audit import AuditedWrites
from pygrid.storage.columns import ColumnFiles, hash_content
from pygrid.storage.content import confirm_content
from pygrid.storage.datasets import DatasetRow, DatasetVersion
from pygrid.storage.idempotency import once
from pygrid.storage.sql.database import Database

logger = logging.getLogger(__name__)

R = TypeVar("R", bound=VersionRequest)
T = TypeVar("T")

SEARCHED_AT_ONCE = 200


class DatasetsService:
    """The use cases of datasets.

    Args:
        limits: bounds on uploads.
        public: notified of changes to datasets that anonymous callers may see.
        writes: transactions of the audit log.
    """

    def __init__(
        self,
        database: Database,
        files: ColumnFiles,
        clock: Clock,
        limits: DatasetLimits,
        changes: DatasetChanges,
        writes: AuditedWrites,
    ) -> None:
        self.limits = limits
        self._changes = changes
        self._writes = writes
        self._database = database
        self._files = files
        self._clock = clock
        self._receiver = Receiver(files)

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

    @contextlib.asynccontextmanager
    async def receive(
        self, principal: Principal, request: UploadRequest, announced_bytes: int | None
    ) -> AsyncIterator[UploadDraft[UploadRequest]]:
        """Check the request for a new dataset, and yield the place for its files.

        Args:
            announced_bytes: length of the form, if the client announced it.
        Raises:
            InvalidConfig: the request is not valid. Conflict: ``dataset_exists``: the caller has a dataset of this
                name. StorageFull: the disk has too little space.
        """
        require(principal, Permission.UPLOAD_DATA)
        request = check_upload(request)
        if await self._database.read(lambda connection: rows.has_dataset(connection, principal.user_id, request.name)):
            raise _exists(request.name)
        async with self._receiver.receive(request, announced_bytes, self.limits) as draft:
            yield draft

    async def upload(
        self,
        principal: Principal,
        draft: UploadDraft[UploadRequest],
        files: UploadedFiles,
        departed: OnDisconnect = never,
    ) -> DatasetInfo:
        """Create a dataset. It is visible only after all of it was checked.

        Args:
            draft: what `receive` has yielded.
            departed: cancels the conversion of the files.
        Raises:
            PayloadTooLarge: ``dataset_quota``: the datasets of the Domain would take too much space.
            Conflict: ``dataset_exists``. PygridError: as `Receiver.store`.
        """
        require(principal, Permission.UPLOAD_DATA)
        request = draft.request
        async with self._receiver.store(draft, files, self.limits, departed) as version:

            def transaction(connection: sa.Connection) -> DatasetInfo:
                now = self._clock.now()
                self._check_quota(connection, version.schema.num_bytes)
                try:
                    dataset_id = rows.put_dataset(
                        connection,
                        name=request.name,
                        description=request.description,
                        visibility=request.visibility,
                        tags=request.tags,
                        search_text=search_text(request.name, request.description, request.tags, version.schema),
                        created_by=principal.user_id,
                        now=now,
                    )
                except sa.exc.IntegrityError:
                    raise _exists(request.name) from None
                rows.put_version(connection, dataset_id, version, principal.user_id, now)
                data = {
                    "dataset_id": dataset_id,
                    "visibility": request.visibility,
                    "size_bytes": version.schema.num_bytes,
                }
                self._append(connection, "dataset_uploaded", data, principal)
                info = self._describe(connection, principal, rows.get_dataset(connection, dataset_id))
                info.notes = version.notes
                return info

            info = await self._writes.write(once(transaction))
        await self._changes.notify(info.visibility)
        logger.info("dataset uploaded", extra={"dataset_id": info.id, "size_bytes": info.size_bytes})
        return info

    @contextlib.asynccontextmanager
    async def receive_trial(
        self, principal: Principal, request: VersionRequest, announced_bytes: int | None
    ) -> AsyncIterator[UploadDraft[VersionRequest]]:
        """Check the request for a trial of an upload, and yield the place for its files. Raises as `receive`."""
        require(principal, Permission.UPLOAD_DATA)
        check_version_request(request)
        async with self._receiver.receive(request, announced_bytes, self.limits) as draft:
            yield draft

    async def try_upload(
        self, draft: UploadDraft[VersionRequest], files: UploadedFiles, departed: OnDisconnect = never
    ) -> UploadTrial:
        """Return what an upload would store; nothing is kept. Raises PygridError: as `Receiver.store`."""
        converted = await self._receiver.try_out(draft, files, self.limits, departed)
        return UploadTrial(converted.schema, converted.schema.num_bytes, converted.notes)

    async def check_managed(self, principal: Principal, dataset_id: int) -> None:
        """Raises NotFound, Forbidden: as `update`."""
        await self._database.read(lambda connection: _get_managed(connection, principal, dataset_id))

    @contextlib.asynccontextmanager
    async def receive_version(
        self, principal: Principal, dataset_id: int, request: VersionRequest, announced_bytes: int | None
    ) -> AsyncIterator[UploadDraft[VersionRequest]]:
        """Check the request for a version, and yield the place for its files.

        Columns are declared as in the last version, unless the request declares any; so are those that are left out.

        Raises:
            NotFound, Forbidden: as `update`. InvalidConfig, StorageFull: as `receive`.
        """

        def load(connection: sa.Connection) -> Schema:
            _get_managed(connection, principal, dataset_id)
            return rows.get_schema(connection, rows.get_version(connection, dataset_id).id)

        before = await self._database.read(load)
        if not request.columns:
            request = msgspec.structs.replace(request, columns=declarations_of(before))
        if request.prepare is None:
            request = msgspec.structs.replace(request, prepare=preparations_in(before))
        if request.subject is None and before.subject is not None:
            request = msgspec.structs.replace(
                request, subject=before.subject, max_records_per_subject=before.max_records_per_subject
            )
        check_version_request(request)
        async with self._receiver.receive(request, announced_bytes, self.limits, before.skipped) as draft:
            yield draft

    async def add_version(
        self,
        principal: Principal,
        dataset_id: int,
        draft: UploadDraft[VersionRequest],
        files: UploadedFiles,
        departed: OnDisconnect = never,
    ) -> DatasetInfo:
        """Add a version to a dataset; the privacy budget spent on earlier versions stays spent.

        Args:
            draft: what `receive_version` has yielded.
            departed: cancels the conversion of the files.
        Raises:
            NotFound, Forbidden: as `update`. PygridError: as `upload`.
        """
        async with self._receiver.store(draft, files, self.limits, departed) as version:
            return await self._put_version(principal, dataset_id, version, draft.request.fresh_budget)

    async def prepare(self, principal: Principal, dataset_id: int, request: PrepareRequest) -> DatasetInfo:
        """Add a version with the records of the newest one and other prepared columns.

        Raises:
            NotFound, Forbidden: as `update`. InvalidConfig: ``invalid_preparation``.
            PreconditionFailed: another version was added meanwhile. PygridError: as `upload`.
        """

        def load(connection: sa.Connection) -> tuple[int, StoredTable]:
            _get_managed(connection, principal, dataset_id)
            version = rows.get_version(connection, dataset_id)
            schema = rows.get_schema(connection, version.id)
            return version.id, StoredTable(schema, version.folder, version.mock_folder, version.mock)

        version_id, table = await self._database.read(load)
        preparations = changed_preparations(table.schema, request)
        check_note(request.note)
        async with self._receiver.prepare(table, preparations, request.note, self.limits) as version:
            return await self._put_version(principal, dataset_id, version, request.fresh_budget, after=version_id)

    async def _put_version(
        self,
        principal: Principal,
        dataset_id: int,
        version: rows.NewVersion,
        fresh_budget: bool,
        after: int | None = None,
    ) -> DatasetInfo:
        """Add a version whose columns are durable.

        Args:
            after: the id of the version that must be the newest one; None: any.
        """

        def transaction(connection: sa.Connection) -> DatasetInfo:
            dataset = _get_managed(connection, principal, dataset_id)
            if after is not None and rows.get_version(connection, dataset_id).id != after:
                raise PreconditionFailed("another version was added meanwhile; look at it, and try again")
            self._check_quota(connection, version.schema.num_bytes)
            _check_unit(connection, dataset_id, version.schema)
            if budgets.find_budget(connection, dataset_id) is not None:
                confirm_content(
                    connection,
                    dataset_id,
                    {version.content_hash},
                    is_confirmed=fresh_budget,
                    actor=principal.user_id,
                    now=self._clock.now(),
                )
            rows.put_version(connection, dataset_id, version, principal.user_id, self._clock.now())
            tags = rows.list_tags(connection, [dataset_id])[dataset_id]
            words = search_text(dataset.name, dataset.description, tags, version.schema)
            rows.update_dataset(connection, dataset_id, search_text=words)
            info = self._describe(connection, principal, rows.get_dataset(connection, dataset_id))
            info.notes = version.notes
            data = {"dataset_id": dataset_id, "version": info.version, "size_bytes": version.schema.num_bytes}
            self._append(connection, "dataset_version_added", data, principal)
            return info

        info = await self._writes.write(once(transaction))
        await self._changes.notify(info.visibility)
        logger.info("dataset version added", extra={"dataset_id": info.id, "version": info.version})
        return info

    def _append(self, connection: sa.Connection, action: str, data: dict[str, Any], principal: Principal) -> None:
        audit.append(connection, action, data, actor=principal.user_id, now=self._clock.now())

    def _check_quota(self, connection: sa.Connection, num_bytes: int) -> None:
        stored = rows.stored_bytes(connection)
        if stored + num_bytes > self.limits.max_total_bytes:
            raise PayloadTooLarge(
                f"the datasets of this Domain may take {self.limits.max_total_bytes:,} bytes; {stored:,} are in use, "
                f"and this one needs {num_bytes:,}: delete a dataset first",
                code=codes.DATASET_QUOTA,
                stored_bytes=stored,
            )

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
            return [_summary(principal, dataset, version, all_tags[dataset.id]) for dataset, version in found]

        return await self._database.read(load)

    async def get(self, principal: Principal | None, dataset_id: int, number: int | None = None) -> DatasetInfo:
        """Return a dataset with the schema of a version (None: the newest).

        Raises:
            NotFound: ``dataset_not_found``: it does not exist, or the caller may not see it;
                ``dataset_version_not_found``.
        """
        return await self._database.read(
            lambda connection: self._describe(
                connection, principal, _get_seen(connection, principal, dataset_id), number
            )
        )

    async def find_by_name(self, principal: Principal | None, name: str) -> DatasetInfo:
        """Return a dataset as `get` does, by name: the caller's own, else the newest of this name."""

        def load(connection: sa.Connection) -> DatasetInfo:
            dataset = rows.find_dataset_by_name(connection, principal, name)
            if dataset is None:
                raise NotFound(f"there is no dataset {name!r}", code=codes.DATASET_NOT_FOUND, name=name)
            return self._describe(connection, principal, dataset)

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

        def transaction(connection: sa.Connection) -> tuple[Visibility, DatasetInfo]:
            dataset = _get_managed(connection, principal, dataset_id)
            precondition.check(self._describe(connection, principal, dataset))
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
                raise _exists(name) from None
            if name != dataset.name:
                self._append(connection, "dataset_renamed", {"dataset_id": dataset_id, "name": name}, principal)
            return dataset.visibility, self._describe(connection, principal, rows.get_dataset(connection, dataset_id))

        before, info = await self._writes.write(transaction)
        await self._changes.notify(before, info.visibility)
        return info

    async def delete(self, principal: Principal, dataset_id: int, precondition: Precondition = ANY) -> None:
        """Delete a dataset with all its versions. Its id is not used again.

        Raises:
            NotFound, Forbidden, PreconditionFailed: as `update`.
        """

        def transaction(connection: sa.Connection) -> tuple[Visibility, list[str]]:
            dataset = _get_managed(connection, principal, dataset_id)
            precondition.check(self._describe(connection, principal, dataset))
            folders = rows.delete_dataset(connection, dataset_id, self._clock.now())
            self._append(connection, "dataset_deleted", {"dataset_id": dataset_id}, principal)
            return dataset.visibility, folders

        visibility, folders = await self._writes.write(transaction)
        await self._changes.notify(visibility)
        for folder in folders:
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
            dataset = _get_seen(connection, principal, dataset_id)
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
            _get_managed(connection, principal, dataset_id)
            return rows.get_version(connection, dataset_id, number).folder

        folder = await asyncio.to_thread(self._files.checked_path, await self._database.read(load))
        return await asyncio.to_thread(first_records, folder, num_records)

    async def list_tags(self, principal: Principal | None) -> list[str]:
        """Return all tags of the datasets that the caller may see."""
        return await self._database.read(lambda connection: rows.list_all_tags(connection, principal))

    def _describe(
        self, connection: sa.Connection, principal: Principal | None, dataset: DatasetRow, number: int | None = None
    ) -> DatasetInfo:
        version = rows.get_version(connection, dataset.id, number)
        schema = rows.get_schema(connection, version.id)
        summary = _summary(principal, dataset, version, rows.list_tags(connection, [dataset.id])[dataset.id])
        return DatasetInfo(
            **msgspec.structs.asdict(summary),
            schema=told_schema(schema, to_owner=summary.mine),
            versions=[
                VersionInfo(one.number, one.note, one.num_records, one.size_bytes, one.mock, one.created_at)
                for one in rows.list_versions(connection, dataset.id)
            ],
        )


def _get_seen(connection: sa.Connection, principal: Principal | None, dataset_id: int) -> DatasetRow:
    """Return the dataset, if the caller may see it."""
    dataset = rows.get_dataset(connection, dataset_id)
    if not can_see(principal, dataset.holding):
        raise dataset_not_found(dataset_id)
    return dataset


def _get_managed(connection: sa.Connection, principal: Principal, dataset_id: int) -> DatasetRow:
    """Return the dataset, if the caller may change it."""
    dataset = rows.get_dataset(connection, dataset_id)
    check_manage(principal, dataset.holding, dataset_id)
    return dataset


def _summary(
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


def _exists(name: str) -> Conflict:
    return Conflict(
        f"you already have a dataset {name!r}: add a version to it, or choose another name",
        code=codes.DATASET_EXISTS,
        name=name,
    )


def _check_unit(connection: sa.Connection, dataset_id: int, schema: Schema) -> None:
    """Refuse a version that would change the unit that the budget of its dataset protects."""
    budget = budgets.find_budget(connection, dataset_id)
    if budget is None or budget.unit in ("domain", unit_of(schema)):
        return
    has = "has no subject column" if schema.subject is None else f"has the subject column {schema.subject!r}"
    raise Conflict(
        f"this version {has}, but the budget of the dataset protects the unit {budget.unit!r}, which never changes: "
        "upload it as a dataset of its own",
        code=codes.UNIT_FIXED,
        dataset_id=dataset_id,
        unit=budget.unit,
    )
