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
from typing import TypeVar

import msgspec

from pygrid.core.datasets import ColumnDeclaration, DatasetLimits, Schema, declarations_of
from pygrid.core.mocks import draw_mock, num_mock_records
from pygrid.errors import InvalidInput, PayloadTooLarge, StorageFull, from_problem
from pygrid.features.datasets.conversion import Conversion, Converter, check_alike
from pygrid.features.datasets.forms import UploadedFiles, read_upload_form
from pygrid.lifecycle import unless_gone
from pygrid.messages.datasets import VersionRequest
from pygrid.storage import datasets as rows
from pygrid.storage.columns import ColumnDraft, ColumnFiles, hash_content
from pygrid.storage.sql.failures import may_be_done

MAX_MOCK_BYTES = 256 * 1024**2
"""Size of an uploaded mock dataset as stored."""

R = TypeVar("R", bound=VersionRequest)


async def never() -> None:
    """Do not return; stands for a client whose disconnect is not detected."""
    await asyncio.Event().wait()


@dataclass(frozen=True)
class Upload:
    """A form that is being received."""

    content_type: str
    body: AsyncIterator[bytes]
    announced_bytes: int | None = None
    """Length of the body, if the client announced it."""
    departed: Callable[[], Awaitable[None]] = never
    """Returns once the client has disconnected; called after the body was read."""


class Receiver:
    """Receives uploads into the folder of all columns."""

    def __init__(self, files: ColumnFiles) -> None:
        self._files = files
        self._converter = Converter()

    @contextlib.asynccontextmanager
    async def receive(
        self, upload: Upload, check: Callable[[bytes], Awaitable[R]], limits: DatasetLimits
    ) -> AsyncIterator[tuple[R, rows.NewVersion]]:
        """Yield the checked request and its durable columns; if the block fails, nothing of them is kept.

        Args:
            check: called with the ``config`` part before any file is read.
        Raises:
            InvalidInput, PayloadTooLarge: the form or one of its files is not valid.
            StorageFull: the disk has too little space; raised before the files are read, if their length was announced.
            ClientGone: the client disconnected before the outcome.
        """
        committed: list[str] = []
        with self._files.draft() as folder, self._files.draft() as data, self._files.draft() as mock:
            asked: list[R] = []

            async def on_config(config: bytes) -> Path:
                asked.append(await check(config))
                # The files are kept until their columns are stored, which are usually of the same size.
                await self._check_room(2 * (upload.announced_bytes or 0), limits)
                return folder.path

            form = await read_upload_form(upload.content_type, upload.body, on_config, limits.max_upload_bytes)
            request = asked[0]
            await self._check_room(form.data.stat().st_size, limits)
            schema, mock_kind = await unless_gone(
                upload.departed, self._make_columns(form, data, mock, request, limits)
            )
            await asyncio.to_thread(shutil.rmtree, folder.path)
            content_hash = await asyncio.to_thread(hash_content, data.path)
            try:
                for draft in (data, mock) if mock_kind != "none" else (data,):
                    committed.append(await asyncio.to_thread(self._files.commit, draft))
                name, mock_name = committed[0], committed[1] if len(committed) > 1 else None
                yield request, rows.NewVersion(name, mock_name, mock_kind, schema, request.note, content_hash)
            except Exception as error:
                # Not if the caller is cancelled or the outcome is unknown: the transaction can still be committed, and
                # a row can name these files. If no row does, the next start removes them.
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
        self, form: UploadedFiles, data: ColumnDraft, mock: ColumnDraft, request: VersionRequest, limits: DatasetLimits
    ) -> tuple[Schema, rows.Mock]:
        schema = await self._convert(form.data, data, request, limits)
        return schema, await self._make_mock(form, mock, request, schema, limits)

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
        self, form: UploadedFiles, draft: ColumnDraft, request: VersionRequest, schema: Schema, limits: DatasetLimits
    ) -> rows.Mock:
        if form.mock is not None:
            like = msgspec.structs.replace(
                request, columns=_with_sources(declarations_of(schema), request), format=None
            )
            # A mock dataset is downloaded as a whole and is not part of the quota, so it must be small.
            small = msgspec.structs.replace(limits, max_total_bytes=min(MAX_MOCK_BYTES, limits.max_total_bytes))
            try:
                check_alike(await self._convert(form.mock, draft, like, small), schema)
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
