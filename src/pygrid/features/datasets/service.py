"""What people can do with the datasets of a Domain: upload, find, describe, version, delete, and take the mock twin."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from pygrid.clock import Clock
from pygrid.core.access import Permission, Principal
from pygrid.core.datasets import (
    Column,
    ColumnDeclaration,
    DatasetLimits,
    DatasetRefusal,
    Schema,
    SchemaQuery,
    Visibility,
    can_manage,
    can_see,
    check_update,
    check_upload,
    check_version_request,
    declarations_of,
    search_text,
    told_schema,
)
from pygrid.core.mocks import draw_mock, num_mock_records
from pygrid.errors import (
    Conflict,
    Forbidden,
    InvalidConfig,
    InvalidInput,
    NotFound,
    PayloadTooLarge,
    Unavailable,
    from_problem,
)
from pygrid.features.datasets.conversion import Conversion, Converter, check_alike
from pygrid.features.datasets.uploads import UploadedFiles, read_upload_form
from pygrid.messages.datasets import (
    DatasetInfo,
    DatasetSummary,
    Preview,
    UpdateDataset,
    UploadRequest,
    VersionInfo,
    VersionRequest,
)
from pygrid.storage import datasets as rows
from pygrid.storage.columns import ColumnFiles, Draft, map_columns
from pygrid.storage.database import Database
from pygrid.storage.datasets import Dataset, DatasetVersion
from pygrid.storage.public import PublicContent
from pygrid.tensors.safetensors import make_layout
from pygrid.web.auth import not_permitted

logger = logging.getLogger(__name__)

R = TypeVar("R", bound=VersionRequest)

MAX_MOCK_BYTES = 256 * 1024**2
"""Of an uploaded mock twin as stored."""
CHUNK_BYTES = 256 * 1024
SEARCHED_AT_ONCE = 200


class DatasetsService:
    """The use cases of datasets.

    Args:
        limits: how large uploads may be.
        public: told of changes to what strangers may know.
    """

    def __init__(
        self,
        database: Database,
        files: ColumnFiles,
        clock: Clock,
        limits: DatasetLimits | None = None,
        public: PublicContent | None = None,
    ) -> None:
        self.limits = limits or DatasetLimits()
        self._public = public or PublicContent()
        self._database = database
        self._files = files
        self._clock = clock
        self._converter = Converter()

    async def recover(self) -> None:
        """Remove what a crash left behind. Call it before the first request."""
        referenced = set(await self._database.read(rows.list_folders))
        await asyncio.to_thread(self._files.sweep, referenced)

    async def upload(self, principal: Principal, content_type: str, body: AsyncIterator[bytes]) -> DatasetInfo:
        """Make a dataset from the form in ``body``: all of it is checked before anything of it can be seen.

        Raises:
            InvalidInput and its subclasses, PayloadTooLarge: what is wrong with the form or its files; nothing is left of it.
            Conflict: ``dataset_exists``: the caller has a dataset of that name.
        """

        async def check(config: bytes) -> UploadRequest:
            request = check_upload(_decode(config, UploadRequest))
            if await self._database.read(lambda connection: rows.has_dataset(connection, principal.user_id, request.name)):
                raise _exists(request.name)
            return request

        async with self._receive(content_type, body, check) as (request, version):

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
                return self._describe(connection, principal, rows.get_dataset(connection, dataset_id))

            info = await self._database.write(transaction)
        await self._tell_change(info.visibility)
        logger.info("dataset uploaded", extra={"dataset_id": info.id, "size_bytes": info.size_bytes})
        return info

    async def add_version(
        self, principal: Principal, dataset_id: int, content_type: str, body: AsyncIterator[bytes]
    ) -> DatasetInfo:
        """Add a version to a dataset; what was spent on the versions before stays spent.

        Columns are declared as in the version before, unless the request declares any.

        Raises:
            As `upload`; NotFound, Forbidden: as `update`.
        """

        def load(connection: sa.Connection) -> Schema:
            self._get_managed(connection, principal, dataset_id)
            return rows.get_schema(connection, rows.get_version(connection, dataset_id).id)

        before = await self._database.read(load)

        async def check(config: bytes) -> VersionRequest:
            request = _decode(config, VersionRequest)
            if not request.columns:
                request = msgspec.structs.replace(request, columns=declarations_of(before))
            if request.subject is None and before.subject is not None:
                request = msgspec.structs.replace(
                    request, subject=before.subject, max_records_per_subject=before.max_records_per_subject
                )
            check_version_request(request)
            return request

        async with self._receive(content_type, body, check) as (_, version):

            def transaction(connection: sa.Connection) -> DatasetInfo:
                dataset = self._get_managed(connection, principal, dataset_id)
                self._check_quota(connection, version.schema.num_bytes)
                rows.put_version(connection, dataset_id, version, principal.user_id, self._clock.now())
                tags = rows.list_tags(connection, [dataset_id])[dataset_id]
                words = search_text(dataset.name, dataset.description, tags, version.schema)
                rows.update_dataset(connection, dataset_id, search_text=words)
                return self._describe(connection, principal, rows.get_dataset(connection, dataset_id))

            info = await self._database.write(transaction)
        await self._tell_change(info.visibility)
        logger.info("dataset version added", extra={"dataset_id": info.id, "version": info.version})
        return info

    @contextlib.asynccontextmanager
    async def _receive(
        self, content_type: str, body: AsyncIterator[bytes], check: Callable[[bytes], Awaitable[R]]
    ) -> AsyncIterator[tuple[R, rows.NewVersion]]:
        """The checked request and its columns, durable; if the block fails, nothing is left of them."""
        committed: list[str] = []
        with self._files.draft() as upload, self._files.draft() as data, self._files.draft() as mock:
            asked: list[R] = []

            async def on_config(config: bytes) -> Path:
                asked.append(await check(config))
                return upload.path

            try:
                form = await read_upload_form(content_type, body, on_config, self.limits.max_upload_bytes)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise Unavailable(
                    "the disk of this Domain is full; nothing of the upload was kept", code="storage_full"
                ) from error
            request = asked[0]
            schema = await self._convert(form.data, data, request)
            mock_kind = await self._make_mock(form, mock, request, schema)
            await asyncio.to_thread(shutil.rmtree, upload.path)
            try:
                for draft in (data, mock) if mock_kind != "none" else (data,):
                    committed.append(await asyncio.to_thread(self._files.commit, draft))
                folder, mock_folder = committed[0], committed[1] if len(committed) > 1 else None
                yield request, rows.NewVersion(folder, mock_folder, mock_kind, schema, request.note)
            except Exception:
                # Not if the caller is cancelled: the database goes on with what it was given, and a row may come to name them.
                # If none does, the next start removes them.
                for name in committed:
                    await asyncio.to_thread(self._files.drop, name)
                raise

    @property
    def _mock_limits(self) -> DatasetLimits:
        """A mock twin is downloaded whole and lies outside the quota, so it is kept small."""
        return msgspec.structs.replace(self.limits, max_total_bytes=min(MAX_MOCK_BYTES, self.limits.max_total_bytes))

    async def _convert(
        self, source: Path, draft: Draft, request: VersionRequest, limits: DatasetLimits | None = None
    ) -> Schema:
        conversion = Conversion(
            str(source),
            str(draft.path),
            request.format,
            request.columns,
            request.skip,
            request.subject,
            request.max_records_per_subject,
            limits or self.limits,
        )
        return await self._converter.convert(conversion)

    async def _make_mock(self, form: UploadedFiles, draft: Draft, request: VersionRequest, schema: Schema) -> rows.Mock:
        if form.mock is not None:
            like = msgspec.structs.replace(request, columns=_with_sources(declarations_of(schema), request), format=None)
            try:
                check_alike(await self._convert(form.mock, draft, like, self._mock_limits), schema)
            except (InvalidInput, PayloadTooLarge) as error:
                raise from_problem({**error.to_problem(), "detail": f"in the mock: {error.detail}"}) from error
            return "uploaded"
        num_records = num_mock_records(schema, request.num_mock_records)
        if not request.draw_mock or not num_records:
            return "none"
        drawn, arrays = await asyncio.to_thread(draw_mock, schema, num_records, request.mock_seed)
        await asyncio.to_thread(draft.put, drawn, arrays)
        return "drawn"

    async def _tell_change(self, *visibilities: Visibility) -> None:
        """Tell that a dataset has changed which is, or was, of this visibility."""
        if "public" in visibilities:
            await self._public.changed()

    def _check_quota(self, connection: sa.Connection, num_bytes: int) -> None:
        stored = rows.stored_bytes(connection)
        if stored + num_bytes > self.limits.max_total_bytes:
            raise PayloadTooLarge(
                f"the datasets of this Domain may take {self.limits.max_total_bytes:,} bytes; {stored:,} are taken, and this "
                f"one needs {num_bytes:,}. Delete a dataset first",
                code="dataset_quota",
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
        """Datasets that the caller may know of, newest first.

        Args:
            text: each of its words must occur in what is said of the dataset and its columns.
            tags: the dataset must have all of them.
            before: only those with a smaller id, to go on where the last list ended.
        """
        query = columns or SchemaQuery()

        def load(connection: sa.Connection) -> list[DatasetSummary]:
            found: list[tuple[Dataset, DatasetVersion]] = []
            position = before
            # The query on columns is not one that the database can answer, so it is asked for more until there are enough.
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
        """A dataset with the schema of a version (None: the newest).

        Raises:
            NotFound: ``dataset_not_found``: there is none, or the caller may not know of it; ``dataset_version_not_found``.
        """
        return await self._database.read(
            lambda connection: self._describe(connection, principal, _get_seen(connection, principal, dataset_id), number)
        )

    async def find_by_name(self, principal: Principal | None, name: str) -> DatasetInfo:
        """As `get`, by name: the caller's own, else the newest of that name."""

        def load(connection: sa.Connection) -> DatasetInfo:
            dataset = rows.find_dataset_by_name(connection, principal, name)
            if dataset is None:
                raise NotFound(f"there is no dataset {name!r}", code="dataset_not_found", name=name)
            return self._describe(connection, principal, dataset)

        return await self._database.read(load)

    async def update(self, principal: Principal, dataset_id: int, update: UpdateDataset) -> DatasetInfo:
        """Change what is said of a dataset.

        Raises:
            NotFound: the caller may not know of it. Forbidden: ``not_permitted``, ``not_your_dataset``.
            InvalidConfig: a value that makes no sense. Conflict: ``dataset_exists``: the new name is taken.
        """
        update = check_update(update)

        def transaction(connection: sa.Connection) -> tuple[Visibility, DatasetInfo]:
            dataset = self._get_managed(connection, principal, dataset_id)
            given = {name: value for name, value in msgspec.structs.asdict(update).items() if value is not msgspec.UNSET}
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
            return dataset.visibility, self._describe(connection, principal, rows.get_dataset(connection, dataset_id))

        before, info = await self._database.write(transaction)
        await self._tell_change(before, info.visibility)
        return info

    async def delete(self, principal: Principal, dataset_id: int) -> None:
        """Remove a dataset with all its versions. Its id is not given again.

        Raises:
            NotFound, Forbidden: as `update`.
        """

        def transaction(connection: sa.Connection) -> tuple[Visibility, list[str]]:
            dataset = self._get_managed(connection, principal, dataset_id)
            return dataset.visibility, rows.delete_dataset(connection, dataset_id, self._clock.now())

        visibility, folders = await self._database.write(transaction)
        await self._tell_change(visibility)
        for folder in folders:
            await asyncio.to_thread(self._files.drop, folder)
        logger.info("dataset deleted", extra={"dataset_id": dataset_id})

    async def mock(
        self, principal: Principal | None, dataset_id: int, number: int | None = None
    ) -> tuple[int, Iterator[bytes]]:
        """The mock twin as a safetensors file: its length in bytes, and the bytes in pieces.

        Texts are int32 codes; the metadata ``schema`` holds the mock's schema as JSON, with their categories.

        Raises:
            NotFound: as `get`; ``mock_not_found``: the version has no mock twin.
        """

        def load(connection: sa.Connection) -> str | None:
            dataset = _get_seen(connection, principal, dataset_id)
            return rows.get_version(connection, dataset.id, number).mock_folder

        folder = await self._database.read(load)
        if folder is None:
            raise NotFound(f"dataset {dataset_id} has no mock twin", code="mock_not_found", id=dataset_id)
        return await asyncio.to_thread(_as_safetensors, self._files.path(folder))

    async def preview(self, principal: Principal, dataset_id: int, number: int | None, num_records: int) -> Preview:
        """The first records of a version, for those who may change the dataset.

        Raises:
            NotFound, Forbidden: as `update`.
        """

        def load(connection: sa.Connection) -> str:
            self._get_managed(connection, principal, dataset_id)
            return rows.get_version(connection, dataset_id, number).folder

        folder = self._files.path(await self._database.read(load))
        return await asyncio.to_thread(_first_records, folder, num_records)

    async def list_tags(self, principal: Principal | None) -> list[str]:
        """Every tag of the datasets that the caller may know of."""
        return await self._database.read(lambda connection: rows.list_all_tags(connection, principal))

    def _get_managed(self, connection: sa.Connection, principal: Principal, dataset_id: int) -> Dataset:
        """The dataset, if the caller may change it."""
        dataset = rows.get_dataset(connection, dataset_id)
        refusal = can_manage(principal, dataset.holding)
        if refusal is DatasetRefusal.INVISIBLE:
            raise rows.dataset_not_found(dataset_id)
        if refusal is DatasetRefusal.MISSING_PERMISSION:
            raise not_permitted(Permission.UPLOAD_DATA)
        if refusal is not None:
            raise Forbidden("somebody else uploaded this dataset; they and an Owner may change it", code=str(refusal))
        return dataset

    def _describe(
        self, connection: sa.Connection, principal: Principal | None, dataset: Dataset, number: int | None = None
    ) -> DatasetInfo:
        version = rows.get_version(connection, dataset.id, number)
        schema = rows.get_schema(connection, version.id)
        summary = _summary(principal, dataset, version, rows.list_tags(connection, [dataset.id])[dataset.id])
        return DatasetInfo(
            **msgspec.structs.asdict(summary),
            schema=told_schema(schema, to_holder=summary.mine),
            versions=[
                VersionInfo(one.number, one.note, one.num_records, one.size_bytes, one.mock, one.created_at)
                for one in rows.list_versions(connection, dataset.id)
            ],
        )


def _get_seen(connection: sa.Connection, principal: Principal | None, dataset_id: int) -> Dataset:
    """The dataset, if the caller may know of it."""
    dataset = rows.get_dataset(connection, dataset_id)
    if not can_see(principal, dataset.holding):
        raise rows.dataset_not_found(dataset_id)
    return dataset


def _summary(principal: Principal | None, dataset: Dataset, version: DatasetVersion, tags: tuple[str, ...]) -> DatasetSummary:
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


def _decode(config: bytes, kind: type[R]) -> R:
    try:
        return msgspec.json.decode(config, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidConfig(f"config is not what describes an upload: {error}", code="invalid_dataset_config") from error


def _with_sources(declared: tuple[ColumnDeclaration, ...], request: VersionRequest) -> tuple[ColumnDeclaration, ...]:
    """The declarations with the sources that the request names: a mock twin comes in the form of the data."""
    sources = {column.name: column.source for column in request.columns}
    return tuple(msgspec.structs.replace(column, source=sources.get(column.name, ())) for column in declared)


def _exists(name: str) -> Conflict:
    return Conflict(
        f"you have a dataset {name!r} already; add a version to it, or choose another name", code="dataset_exists", name=name
    )


def _as_safetensors(folder: Path) -> tuple[int, Iterator[bytes]]:
    schema, arrays = map_columns(folder)
    metadata = {"schema": msgspec.json.encode(schema).decode()}
    layout, header = make_layout({name: (array.dtype, array.shape) for name, array in arrays.items()}, metadata)

    def pieces() -> Iterator[bytes]:
        yield header
        for entry in layout.entries:
            values = memoryview(np.ascontiguousarray(arrays[entry.name]).reshape(-1).view(np.uint8).data)
            for begin in range(0, len(values), CHUNK_BYTES):
                yield bytes(values[begin : begin + CHUNK_BYTES])

    return layout.total_bytes, pieces()


def _first_records(folder: Path, num_records: int) -> Preview:
    schema, arrays = map_columns(folder)
    first = {column.name: _listed(column, arrays[column.name][:num_records]) for column in schema.columns}
    return Preview(schema.num_records, first)


def _listed(column: Column, values: npt.NDArray[Any]) -> list[object]:
    if column.categories is not None:
        return [column.categories[code] for code in values.tolist()]
    listed: list[object] = values.tolist()
    return listed
