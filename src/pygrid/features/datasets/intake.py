"""Receives an upload: the form, its files, their columns, the mock dataset.

The upload is durable as a whole, or nothing of it is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from pygrid.core.datasets import ColumnDeclaration, DatasetLimits, Schema, declarations_of
from pygrid.core.mocks import draw_mock, num_mock_records
from pygrid.core.preparation import check_preparations, file_columns
from pygrid.errors import InvalidInput, PayloadTooLarge, StorageFull, from_problem
from pygrid.features.datasets.conversion import Conversion, Converted, Converter, check_alike, is_csv
from pygrid.features.datasets.preparation import prepared_schema, write_prepared
from pygrid.lifecycle import unless_gone
from pygrid.messages.datasets import CsvOptions, VersionRequest
from pygrid.messages.preparations import Preparation
from pygrid.storage import datasets as rows
from pygrid.storage.columns import ColumnDraft, ColumnFiles, hash_content, map_columns
from pygrid.storage.sql.failures import may_be_done
from pygrid.units import size

MAX_MOCK_BYTES = 256 * 1024**2
"""Size of an uploaded mock dataset as stored."""

R = TypeVar("R", bound=VersionRequest)

OnDisconnect = Callable[[], Awaitable[None]]
"""Returns once the client has disconnected; called after the body was read."""


async def never() -> None:
    """Do not return; stands for a client whose disconnect is not detected."""
    await asyncio.Event().wait()


@dataclass(frozen=True)
class UploadedFiles:
    """Paths of the files, valid until the folder of the upload is removed."""

    data: Path
    mock: Path | None
    filename: str = ""
    """Name of the file of the data, as the client says."""


@dataclass(frozen=True)
class UploadDraft(Generic[R]):
    """A checked request, and the place for its files and columns."""

    request: R
    folder: Path
    """For the files, as they arrive."""
    data: ColumnDraft
    mock: ColumnDraft
    skipped_before: tuple[str, ...] = ()
    """Columns that the previous version left out, if the request does not name any."""


@dataclass(frozen=True)
class StoredTable:
    """A version whose columns are stored."""

    schema: Schema
    folder: str
    mock_folder: str | None
    mock_kind: rows.Mock


class Receiver:
    """Receives uploads into the folder of all columns."""

    def __init__(self, files: ColumnFiles) -> None:
        self._files = files
        self._converter = Converter()

    @contextlib.asynccontextmanager
    async def receive(
        self, request: R, announced_bytes: int | None, limits: DatasetLimits, skipped_before: tuple[str, ...] = ()
    ) -> AsyncIterator[UploadDraft[R]]:
        """Yield the place for an upload; it is removed at the end of the block.

        Args:
            announced_bytes: length of the form, if the client announced it.
            skipped_before: columns that the previous version left out, if the request does not name any.
        Raises:
            StorageFull: the disk has too little space for the announced length.
            InvalidConfig: ``invalid_preparation``, ``invalid_column_name``.
        """
        check_preparations(request.prepare or ())
        with self._files.draft() as folder, self._files.draft() as data, self._files.draft() as mock:
            # The files are kept until their columns are stored, which are usually of the same size.
            await self._check_space(2 * (announced_bytes or 0), limits)
            yield UploadDraft(request, folder.path, data, mock, skipped_before)

    @contextlib.asynccontextmanager
    async def store(
        self, draft: UploadDraft[R], files: UploadedFiles, limits: DatasetLimits, departed: OnDisconnect
    ) -> AsyncIterator[rows.NewVersion]:
        """Yield the durable columns of the files; if the block fails, nothing of them is kept.

        Raises:
            InvalidInput, PayloadTooLarge: one of the files is not valid.
            StorageFull: the disk has too little space.
            ClientGone: the client disconnected before the outcome.
        """
        await self._check_space(files.data.stat().st_size, limits)
        converted, mock_kind = await unless_gone(departed, self._make_columns(draft, files, limits))
        await asyncio.to_thread(shutil.rmtree, draft.folder)
        drafts = (draft.data, None if mock_kind == "none" else draft.mock)
        async with self._committed(drafts, mock_kind, converted, draft.request.note) as version:
            yield version

    @contextlib.asynccontextmanager
    async def prepare(
        self, table: StoredTable, preparations: Sequence[Preparation], note: str, limits: DatasetLimits
    ) -> AsyncIterator[rows.NewVersion]:
        """Yield the durable columns of a stored table with these prepared columns; if the block fails, nothing of
        them is kept.

        Raises:
            InvalidConfig, InvalidDataset, PayloadTooLarge: as `prepared_schema`.
            StorageFull: the disk has too little space. NotFound, Unavailable: the stored columns are damaged.
        """
        prepared = prepared_schema(table.schema, preparations, limits)
        base = file_columns(table.schema)
        await self._check_space(prepared.num_bytes - base.num_bytes, limits)
        with self._files.draft() as data, self._files.draft() as mock:
            drafts = (data, None if table.mock_folder is None else mock)
            for name, draft in zip((table.folder, table.mock_folder), drafts, strict=True):
                if name is not None and draft is not None:
                    await self._take(name, draft, preparations, limits)
            async with self._committed(drafts, table.mock_kind, Converted(prepared, ()), note) as version:
                yield version

    async def _take(
        self, name: str, draft: ColumnDraft, preparations: Sequence[Preparation], limits: DatasetLimits
    ) -> None:
        """Put the columns of the file of a stored folder into a draft, and prepare columns there."""
        folder = await asyncio.to_thread(self._files.checked_path, name)
        base = file_columns((await asyncio.to_thread(map_columns, folder))[0])
        await asyncio.to_thread(draft.take, folder, base)
        await self._write_prepared(draft, prepared_schema(base, preparations, limits), preparations)

    @contextlib.asynccontextmanager
    async def _committed(
        self, drafts: tuple[ColumnDraft, ColumnDraft | None], mock_kind: rows.Mock, converted: Converted, note: str
    ) -> AsyncIterator[rows.NewVersion]:
        """Make the columns of data and mock dataset durable for the block; if it fails, remove them."""
        committed: list[str] = []
        content_hash = await asyncio.to_thread(hash_content, drafts[0].path)
        try:
            for columns in filter(None, drafts):
                committed.append(await asyncio.to_thread(self._files.commit, columns))
            name, mock_name = committed[0], committed[1] if len(committed) > 1 else None
            yield rows.NewVersion(name, mock_name, mock_kind, converted.schema, note, content_hash, converted.notes)
        except Exception as error:
            # Not if the caller is cancelled or the outcome is unknown: the transaction can still be committed, and a
            # row can name these files. If no row does, the next start removes them.
            for name in () if may_be_done(error) else committed:
                await asyncio.to_thread(self._files.drop, name)
            raise

    async def try_out(
        self, draft: UploadDraft[R], files: UploadedFiles, limits: DatasetLimits, departed: OnDisconnect
    ) -> Converted:
        """Return what `store` would store, and keep nothing. Raises as `store`."""
        await self._check_space(files.data.stat().st_size, limits)
        converted, _ = await unless_gone(departed, self._make_columns(draft, files, limits))
        return converted

    async def _check_space(self, num_bytes: int, limits: DatasetLimits) -> None:
        await asyncio.to_thread(check_free, self._files.folder, num_bytes, limits)

    async def _make_columns(
        self, draft: UploadDraft[R], files: UploadedFiles, limits: DatasetLimits
    ) -> tuple[Converted, rows.Mock]:
        skipped = draft.request.skip or draft.skipped_before
        converted = await self._convert(files.data, draft.data, draft.request, limits, draft.skipped_before)
        preparations = draft.request.prepare or ()
        schema = prepared_schema(converted.schema, preparations, limits)
        await self._check_space(schema.num_bytes - converted.schema.num_bytes, limits)
        await self._write_prepared(draft.data, schema, preparations)
        schema = msgspec.structs.replace(schema, origin=draft.request.origin, skipped=skipped)
        mock_kind = await self._make_mock(files, draft.mock, draft.request, schema, limits)
        return Converted(schema, converted.notes), mock_kind

    async def _write_prepared(self, draft: ColumnDraft, schema: Schema, preparations: Sequence[Preparation]) -> None:
        """Add prepared columns to a draft; if the caller is cancelled, the thread ends before this returns."""
        if not preparations:
            return
        stop = threading.Event()
        work = asyncio.ensure_future(asyncio.to_thread(write_prepared, draft, schema, preparations, stop.is_set))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            stop.set()
            await asyncio.wait([work])
            raise

    async def _convert(
        self,
        source: Path,
        draft: ColumnDraft,
        request: VersionRequest,
        limits: DatasetLimits,
        skip_if_present: tuple[str, ...],
    ) -> Converted:
        conversion = Conversion(
            str(source),
            str(draft.path),
            request.format,
            request.columns,
            request.skip,
            request.subject,
            request.max_records_per_subject,
            limits,
            request.csv,
            () if request.skip else skip_if_present,
        )
        return await self._converter.convert(conversion)

    async def _make_mock(
        self, files: UploadedFiles, draft: ColumnDraft, request: VersionRequest, schema: Schema, limits: DatasetLimits
    ) -> rows.Mock:
        if files.mock is not None:
            like = msgspec.structs.replace(
                request, columns=_with_sources(declarations_of(schema), request), format=None, skip=()
            )
            if not await asyncio.to_thread(is_csv, files.mock):
                like = msgspec.structs.replace(like, **msgspec.structs.asdict(CsvOptions()))
            # A mock dataset is downloaded as a whole and is not part of the quota, so it must be small.
            small = msgspec.structs.replace(limits, max_total_bytes=min(MAX_MOCK_BYTES, limits.max_total_bytes))
            try:
                mock = (await self._convert(files.mock, draft, like, small, schema.skipped)).schema
                check_alike(mock, file_columns(schema))
                preparations = request.prepare or ()
                await self._write_prepared(draft, prepared_schema(mock, preparations, small), preparations)
            except (InvalidInput, PayloadTooLarge) as error:
                raise from_problem({**error.to_problem(), "detail": f"in the mock: {error.detail}"}) from error
            return "uploaded"
        num_records = num_mock_records(schema, request.num_mock_records)
        if not request.draw_mock or not num_records:
            return "none"
        drawn, arrays = await asyncio.to_thread(draw_mock, schema, num_records, request.mock_seed)
        await asyncio.to_thread(draft.put, drawn, arrays)
        return "drawn"


def _with_sources(declared: tuple[ColumnDeclaration, ...], request: VersionRequest) -> tuple[ColumnDeclaration, ...]:
    """Return the declarations with the sources and vocabularies of the request: a mock dataset has the form of
    the data.

    Missing values are not declared but found, so that they can be compared with those of the data.
    """
    given = {column.name: column for column in request.columns}
    return tuple(
        msgspec.structs.replace(
            column,
            source=given[column.name].source if column.name in given else (),
            tokens=given[column.name].tokens if column.name in given else None,
            has_missing=None,
        )
        for column in declared
    )


def check_free(folder: Path, num_bytes: int, limits: DatasetLimits) -> None:
    """Check that the disk of a folder has space for an upload.

    Raises:
        StorageFull: without the number of free bytes, which reveals what others store.
    """
    if num_bytes + limits.min_free_bytes > shutil.disk_usage(folder).free:
        raise StorageFull(
            f"the disk of this Domain has too little space for this upload, which needs about {size(num_bytes)}: send "
            "less, or ask an Owner for space"
        )
