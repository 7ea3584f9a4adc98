"""Uploads in two steps: a file is received and looked at first, and stored as a dataset later.

    receiving ──> staged ──store──> dataset
                  staged ──discard, 24 h──> gone

Only the person who sent a file sees it.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from pygrid import codes
from pygrid.clock import Clock
from pygrid.core.access import Permission, Principal, require
from pygrid.core.column_hints import find_hints
from pygrid.errors import InvalidDataset, InvalidInput, PayloadTooLarge, TooManyRequests
from pygrid.features.datasets.intake import UploadedFiles, check_free
from pygrid.features.datasets.profiles import ColumnProfile, profile_columns
from pygrid.features.datasets.records import first_records
from pygrid.features.datasets.uploads import UploadsService
from pygrid.messages.datasets import DatasetInfo, Preview, UploadRequest, UploadTrial, VersionRequest
from pygrid.storage.staged_files import StagedFiles, StagedUpload
from pygrid.units import size

KEPT = dt.timedelta(hours=24)
MAX_STAGED = 3
NUM_RECORDS = 10
MAX_LOOKS = 8
MAX_LEFT_OUT = 20
"""Columns that are left out by themselves; the file is read again after each."""
UNFIT = frozenset({codes.DATASET_TOO_MANY_CATEGORIES, codes.DATASET_TEXT_TOO_LONG})
"""Why a column of texts cannot be stored. Most files have such a column: an identifier, or notes."""
SWEEP_S = 600.0


@dataclass(frozen=True, slots=True)
class StagedTrial:
    """What a staged upload would be stored as."""

    trial: UploadTrial
    records: Preview
    mock: Preview | None
    hints: dict[str, tuple[str, ...]]
    """By column: what the data owner should look at."""
    left_out: dict[str, str]
    """By column that cannot be stored as it is: the code of the reason."""


class StagingService:
    """The use cases of staged uploads."""

    def __init__(self, files: StagedFiles, uploads: UploadsService, clock: Clock) -> None:
        self._files = files
        self._uploads = uploads
        self._clock = clock
        self._looks: dict[tuple[StagedUpload, bytes, bool], StagedTrial] = {}

    async def recover(self) -> None:
        """Remove what a crash or the time has left; called before the first request."""
        await asyncio.to_thread(self._files.sweep, self._clock.now() - KEPT)

    async def remove_old(self) -> None:
        """Remove uploads that nobody stored within a day."""
        await asyncio.to_thread(self._files.drop_old, self._clock.now() - KEPT)

    async def check_space(self, principal: Principal, announced_bytes: int | None) -> None:
        """Check that the principal can send a file of this size now.

        Raises:
            TooManyRequests: ``too_many_staged``: the caller has three staged uploads.
            PayloadTooLarge: the announced length is over the limit. StorageFull: the disk has too little space.
        """
        require(principal, Permission.UPLOAD_DATA)
        limits = self._uploads.limits
        staged = await asyncio.to_thread(self._files.list_of, principal.user_id)
        if len(staged) >= MAX_STAGED:
            raise TooManyRequests(
                f"you have {MAX_STAGED} uploads that are not stored: store or discard one first",
                code=codes.TOO_MANY_STAGED,
            )
        announced = announced_bytes or 0
        if announced > limits.max_upload_bytes + 64 * 1024:
            raise PayloadTooLarge(
                f"the file has more than {size(limits.max_upload_bytes)}", max_bytes=limits.max_upload_bytes
            )
        await asyncio.to_thread(check_free, self._files.folder, announced, limits)

    @contextlib.asynccontextmanager
    async def receive(self, principal: Principal, announced_bytes: int | None) -> AsyncIterator[Path]:
        """Yield the folder for the file ``data``; it is removed if the block fails. Raises as `check_space`."""
        await self.check_space(principal, announced_bytes)
        with self._files.receive() as path:
            yield path

    @contextlib.asynccontextmanager
    async def receive_mock(self, principal: Principal, staged_id: str, announced_bytes: int) -> AsyncIterator[Path]:
        """Yield the path for the file of a mock dataset, which replaces the one before. Raises as `check_space`."""
        staged = await self.get(principal, staged_id)
        await asyncio.to_thread(check_free, self._files.folder, announced_bytes, self._uploads.limits)
        with self._files.receive_mock(staged) as path:
            yield path
            if not path.stat().st_size:
                raise InvalidInput("choose the file of the mock dataset", code=codes.INVALID_FORM, field="mock")

    async def stage(self, principal: Principal, folder: Path, filename: str) -> StagedUpload:
        """Complete an upload whose file lies in the folder that `receive` has yielded."""
        name = "".join(one for one in filename if one.isprintable())[-200:]
        return await asyncio.to_thread(self._files.commit, folder, principal.user_id, name, self._clock.now())

    async def list_staged(self, principal: Principal) -> list[StagedUpload]:
        """Return the principal's staged uploads, newest first."""
        return await asyncio.to_thread(self._files.list_of, principal.user_id)

    async def get(self, principal: Principal, staged_id: str) -> StagedUpload:
        """Return a staged upload of the principal. Raises NotFound: ``staged_not_found``."""
        return await asyncio.to_thread(self._files.get, principal.user_id, staged_id)

    async def look_at(
        self, principal: Principal, staged_id: str, request: VersionRequest, *, own_mock: bool = False
    ) -> StagedTrial:
        """Return what an upload would be stored as by this request; nothing is stored.

        Columns of texts that cannot be stored are left out. The last answers are kept: a file is read once for a page
        that is loaded again.

        Args:
            own_mock: the mock dataset is the file that the data owner has sent.
        Raises:
            NotFound: as `get`. PygridError: the file or the request is not valid, as `UploadsService.try_upload`.
        """
        staged = await self.get(principal, staged_id)
        key = (staged, msgspec.json.encode(request), own_mock)
        files = self._uploaded(staged, own_mock)
        found = self._looks.pop(key, None) or await self._read_fitting(principal, files, request)
        self._looks[key] = found
        while len(self._looks) > MAX_LOOKS:
            del self._looks[next(iter(self._looks))]
        return found

    async def profile(self, principal: Principal, staged_id: str, request: VersionRequest) -> list[ColumnProfile]:
        """Return exact figures of the columns as they would be stored. Raises as `look_at`."""
        files = self._uploaded(await self.get(principal, staged_id), own_mock=False)
        async with self._uploads.receive_trial(principal, request, None) as draft:
            await self._uploads.try_upload(draft, files)
            return await asyncio.to_thread(profile_columns, draft.data.path)

    def _uploaded(self, staged: StagedUpload, own_mock: bool) -> UploadedFiles:
        return UploadedFiles(self._files.path(staged), self._files.find_mock(staged) if own_mock else None)

    async def _read_fitting(self, principal: Principal, files: UploadedFiles, request: VersionRequest) -> StagedTrial:
        left_out: dict[str, str] = {}
        while True:
            try:
                found = await self._read(principal, files, request)
            except InvalidDataset as error:
                name = str(error.fields.get("column", ""))
                is_new = name not in ("", request.subject, *left_out) and len(left_out) < MAX_LEFT_OUT
                if error.code not in UNFIT or not is_new:
                    raise
                left_out[name] = error.code
                kept = tuple(column for column in request.columns if column.name != name)
                request = msgspec.structs.replace(request, columns=kept, skip=(*request.skip, name))
            else:
                return replace(found, left_out=left_out)

    async def _read(self, principal: Principal, files: UploadedFiles, request: VersionRequest) -> StagedTrial:
        async with self._uploads.receive_trial(principal, request, None) as draft:
            trial = await self._uploads.try_upload(draft, files)
            records = await asyncio.to_thread(first_records, draft.data.path, NUM_RECORDS)
            mock = None
            if any(draft.mock.path.iterdir()):
                mock = await asyncio.to_thread(first_records, draft.mock.path, NUM_RECORDS)
        return StagedTrial(trial, records, mock, find_hints(trial.schema, records.columns), {})

    async def store(
        self, principal: Principal, staged_id: str, request: UploadRequest, *, own_mock: bool = False
    ) -> DatasetInfo:
        """Store a staged upload as a new dataset. Raises as `look_at` and `UploadsService.upload`."""
        staged = await self.get(principal, staged_id)
        async with self._uploads.receive(principal, request, staged.num_bytes) as draft:
            info = await self._uploads.upload(principal, draft, self._uploaded(staged, own_mock))
        await asyncio.to_thread(self._files.drop, staged)
        return info

    async def store_version(
        self, principal: Principal, staged_id: str, dataset_id: int, request: VersionRequest, *, own_mock: bool = False
    ) -> DatasetInfo:
        """Store a staged upload as a new version of a dataset. Raises as `UploadsService.add_version`."""
        staged = await self.get(principal, staged_id)
        async with self._uploads.receive_version(principal, dataset_id, request, staged.num_bytes) as draft:
            info = await self._uploads.add_version(principal, dataset_id, draft, self._uploaded(staged, own_mock))
        await asyncio.to_thread(self._files.drop, staged)
        return info

    async def discard(self, principal: Principal, staged_id: str) -> None:
        """Remove a staged upload. Raises NotFound: as `get`."""
        await asyncio.to_thread(self._files.drop, await self.get(principal, staged_id))
