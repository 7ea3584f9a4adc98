"""The use cases of uploads: a new dataset, a version of one, prepared columns, and a trial that stores nothing."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import msgspec
import sqlalchemy as sa

from pygrid import codes
from pygrid.clock import Clock
from pygrid.core.access import Permission, Principal, require
from pygrid.core.datasets import (
    DatasetLimits,
    Schema,
    check_note,
    check_upload,
    check_version_request,
    declarations_of,
    search_text,
)
from pygrid.core.job_terms import unit_of
from pygrid.core.preparation import changed_preparations, preparations_in
from pygrid.errors import Conflict, PayloadTooLarge, PreconditionFailed
from pygrid.features.datasets.changes import DatasetChanges
from pygrid.features.datasets.descriptions import describe, get_managed, name_taken
from pygrid.features.datasets.intake import OnDisconnect, Receiver, StoredTable, UploadDraft, UploadedFiles, never
from pygrid.messages.datasets import DatasetInfo, UploadRequest, UploadTrial, VersionRequest
from pygrid.messages.preparations import PrepareRequest
from pygrid.storage import budgets
from pygrid.storage import datasets as rows
from pygrid.storage.content import confirm_content
from pygrid.storage.store import Store


class UploadsService:
    """The use cases of uploads.

    Args:
        limits: bounds on uploads.
    """

    def __init__(self, store: Store, changes: DatasetChanges, clock: Clock, limits: DatasetLimits) -> None:
        self.limits = limits
        self._database = store.database
        self._changes = changes
        self._clock = clock
        self._receiver = Receiver(store.columns)

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
            raise name_taken(request.name)
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
                        request,
                        search_text=search_text(request.name, request.description, request.tags, version.schema),
                        created_by=principal.user_id,
                        now=now,
                    )
                except sa.exc.IntegrityError:
                    raise name_taken(request.name) from None
                rows.put_version(connection, dataset_id, version, principal.user_id, now)
                data = {"visibility": request.visibility, "size_bytes": version.schema.num_bytes}
                self._changes.record(connection, principal, "dataset_uploaded", dataset_id=dataset_id, **data)
                info = describe(connection, principal, rows.get_dataset(connection, dataset_id))
                info.notes = version.notes
                return info

            return await self._changes.add("dataset uploaded", transaction)

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
            get_managed(connection, principal, dataset_id)
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
            get_managed(connection, principal, dataset_id)
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
            dataset = get_managed(connection, principal, dataset_id)
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
                    principal=principal,
                    now=self._clock.now(),
                )
            rows.put_version(connection, dataset_id, version, principal.user_id, self._clock.now())
            tags = rows.list_tags(connection, [dataset_id])[dataset_id]
            words = search_text(dataset.name, dataset.description, tags, version.schema)
            rows.update_dataset(connection, dataset_id, search_text=words)
            info = describe(connection, principal, rows.get_dataset(connection, dataset_id))
            info.notes = version.notes
            data = {"version": info.version, "size_bytes": version.schema.num_bytes}
            self._changes.record(connection, principal, "dataset_version_added", dataset_id=dataset_id, **data)
            return info

        return await self._changes.add("dataset version added", transaction)

    def _check_quota(self, connection: sa.Connection, num_bytes: int) -> None:
        stored = rows.stored_bytes(connection)
        if stored + num_bytes > self.limits.max_total_bytes:
            # Not how many are in use: that reveals the sizes of private datasets of others.
            raise PayloadTooLarge(
                f"the datasets of this Domain may take {self.limits.max_total_bytes:,} bytes together, and this one "
                f"needs {num_bytes:,}, which are not left: delete a dataset of yours, or ask an Owner for space",
                code=codes.DATASET_QUOTA,
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
