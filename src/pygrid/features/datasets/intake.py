"""Receives an upload: the form, its files, their columns, the mock dataset.

The upload is durable as a whole, or nothing of it is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from pygrid.core.datasets import ColumnDeclaration, DatasetLimits, Schema, declarations_of
from pygrid.core.mocks import draw_mock, num_mock_records
from pygrid.errors import InvalidInput, PayloadTooLarge, StorageFull, from_problem
from pygrid.features.datasets.conversion import Conversion, Converter, check_alike
from pygrid.lifecycle import unless_gone
from pygrid.messages.datasets import VersionRequest
from pygrid.storage import datasets as rows
from pygrid.storage.columns import ColumnDraft, ColumnFiles, hash_content
from pygrid.storage.sql.failures import may_be_done

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


@dataclass(frozen=True)
class UploadDraft(Generic[R]):
    """A checked request, and the place for its files and columns."""

    request: R
    folder: Path
    """For the files, as they arrive."""
    data: ColumnDraft
    mock: ColumnDraft


class Receiver:
    """Receives uploads into the folder of all columns."""

    def __init__(self, files: ColumnFiles) -> None:
        self._files = files
        self._converter = Converter()

    @contextlib.asynccontextmanager
    async def receive(
        self, request: R, announced_bytes: int | None, limits: DatasetLimits
    ) -> AsyncIterator[UploadDraft[R]]:
        """Yield the place for an upload; it is removed at the end of the block.

        Args:
            announced_bytes: length of the form, if the client announced it.
        Raises:
            StorageFull: the disk has too little space for the announced length.
        """
        with self._files.draft() as folder, self._files.draft() as data, self._files.draft() as mock:
            # The files are kept until their columns are stored, which are usually of the same size.
            await self._check_room(2 * (announced_bytes or 0), limits)
            yield UploadDraft(request, folder.path, data, mock)

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
        committed: list[str] = []
        await self._check_room(files.data.stat().st_size, limits)
        schema, mock_kind = await unless_gone(departed, self._make_columns(draft, files, limits))
        await asyncio.to_thread(shutil.rmtree, draft.folder)
        content_hash = await asyncio.to_thread(hash_content, draft.data.path)
        try:
            for columns in (draft.data, draft.mock) if mock_kind != "none" else (draft.data,):
                committed.append(await asyncio.to_thread(self._files.commit, columns))
            name, mock_name = committed[0], committed[1] if len(committed) > 1 else None
            yield rows.NewVersion(name, mock_name, mock_kind, schema, draft.request.note, content_hash)
        except Exception as error:
            # Not if the caller is cancelled or the outcome is unknown: the transaction can still be committed, and a
            # row can name these files. If no row does, the next start removes them.
            for name in () if may_be_done(error) else committed:
                await asyncio.to_thread(self._files.drop, name)
            raise

    async def _check_room(self, num_bytes: int, limits: DatasetLimits) -> None:
        free = (await asyncio.to_thread(shutil.disk_usage, self._files.folder)).free
        if num_bytes + limits.min_free_bytes > free:
            raise StorageFull(
                f"the disk of this Domain has {free:,} free bytes; this upload needs about {num_bytes:,}, and "
                f"{limits.min_free_bytes:,} must stay free",
                free_bytes=free,
            )

    async def _make_columns(
        self, draft: UploadDraft[R], files: UploadedFiles, limits: DatasetLimits
    ) -> tuple[Schema, rows.Mock]:
        schema = await self._convert(files.data, draft.data, draft.request, limits)
        return schema, await self._make_mock(files, draft.mock, draft.request, schema, limits)

    async def _convert(
        self, source: Path, draft: ColumnDraft, request: VersionRequest, limits: DatasetLimits
    ) -> Schema:
        conversion = Conversion(
            str(source),
            str(draft.path),
            request.format,
            request.columns,
            request.skip,
            request.subject,
            request.max_records_per_subject,
            limits,
        )
        return await self._converter.convert(conversion)

    async def _make_mock(
        self, files: UploadedFiles, draft: ColumnDraft, request: VersionRequest, schema: Schema, limits: DatasetLimits
    ) -> rows.Mock:
        if files.mock is not None:
            like = msgspec.structs.replace(
                request, columns=_with_sources(declarations_of(schema), request), format=None
            )
            # A mock dataset is downloaded as a whole and is not part of the quota, so it must be small.
            small = msgspec.structs.replace(limits, max_total_bytes=min(MAX_MOCK_BYTES, limits.max_total_bytes))
            try:
                check_alike(await self._convert(files.mock, draft, like, small), schema)
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
    """Return the declarations with the sources of the request: a mock dataset has the form of the data.

    Missing values are not declared but found, so that they can be compared with those of the data.
    """
    sources = {column.name: column.source for column in request.columns}
    return tuple(
        msgspec.structs.replace(column, source=sources.get(column.name, ()), has_missing=None) for column in declared
    )
