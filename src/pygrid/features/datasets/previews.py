"""Looks into stored records: of the mock dataset for everybody who sees the dataset, of the data for its owner."""

from __future__ import annotations

import asyncio

import sqlalchemy as sa

from pygrid.core.access import Principal
from pygrid.core.datasets import can_see, check_manage, dataset_not_found
from pygrid.features.datasets.profiles import ColumnProfile, profile_columns
from pygrid.features.datasets.records import first_records
from pygrid.messages.datasets import Preview
from pygrid.storage import datasets as rows
from pygrid.storage.columns import ColumnFiles
from pygrid.storage.sql.database import Database

MAX_KEPT = 16


class PreviewsService:
    """The use cases of looking at records."""

    def __init__(self, database: Database, files: ColumnFiles) -> None:
        self._database = database
        self._files = files
        self._profiles: dict[str, list[ColumnProfile]] = {}
        """By the folder of a version, whose content never changes."""

    async def mock(self, principal: Principal | None, dataset_id: int, num_records: int) -> Preview | None:
        """Return the first records of the newest mock dataset; None: the dataset has none.

        Raises:
            NotFound: ``dataset_not_found``.
        """

        def load(connection: sa.Connection) -> str | None:
            if not can_see(principal, rows.get_dataset(connection, dataset_id).holding):
                raise dataset_not_found(dataset_id)
            return rows.get_version(connection, dataset_id).mock_folder

        folder = await self._database.read(load)
        if folder is None:
            return None
        path = await asyncio.to_thread(self._files.checked_path, folder)
        return await asyncio.to_thread(first_records, path, num_records)

    async def profile(self, principal: Principal, dataset_id: int) -> list[ColumnProfile]:
        """Return exact figures of the newest version, which no budget counts, for callers who may change the dataset.

        Raises:
            NotFound: ``dataset_not_found``. Forbidden: ``not_permitted``, ``not_your_dataset``.
        """

        def load(connection: sa.Connection) -> str:
            check_manage(principal, rows.get_dataset(connection, dataset_id).holding, dataset_id)
            return rows.get_version(connection, dataset_id).folder

        folder = await self._database.read(load)
        if folder not in self._profiles:
            path = await asyncio.to_thread(self._files.checked_path, folder)
            found = await asyncio.to_thread(profile_columns, path)
            while len(self._profiles) >= MAX_KEPT:
                self._profiles.pop(next(iter(self._profiles)))
            self._profiles[folder] = found
        return self._profiles[folder]
