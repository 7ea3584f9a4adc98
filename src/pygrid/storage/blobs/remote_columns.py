"""The columns of datasets in a store of objects, ``columns/NAME/FILE``; files that are needed become local copies."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec

from pygrid.core.datasets import SCHEMA_FILE
from pygrid.storage.blobs.checked import crc_of, damaged
from pygrid.storage.blobs.copies import LocalCopies
from pygrid.storage.blobs.garbage import Garbage
from pygrid.storage.blobs.objects import ObjectMissing, Objects
from pygrid.storage.columns import CHECKSUMS_FILE, ColumnDraft, ColumnFiles, records_missing, write_checksums


class RemoteColumns(ColumnFiles):
    """All folders of columns of a Domain, as objects with local copies."""

    def __init__(self, objects: Objects, copies: LocalCopies, garbage: Garbage) -> None:
        super().__init__(copies.path("columns"))
        self._objects, self._copies, self._garbage = objects, copies, garbage

    def commit(self, draft: ColumnDraft) -> str:
        """Store a draft; returns its name. Raises Unavailable: ``storage_failed``."""
        files = sorted(draft.path.iterdir())
        write_checksums(draft.path, {file.name: crc_of(file) for file in files})
        name = secrets.token_hex(32)
        for file in [*files, draft.path / CHECKSUMS_FILE]:
            self._objects.upload(f"columns/{name}/{file.name}", file)
        for file in [*files, draft.path / CHECKSUMS_FILE]:
            self._copies.adopt(file, f"columns/{name}/{file.name}")
        return name

    def path(self, name: str) -> Path:
        """A folder with copies of all files of that name. Raises as `checked_path`."""
        return self.checked_path(name)

    def checked_path(self, name: str, files: Collection[str] | None = None) -> Path:
        """A folder with checked copies of ``files`` (None: all) and of the schema.

        Raises:
            NotFound: ``records_not_found``. Unavailable: ``blob_damaged``, ``cache_full``, ``storage_failed``.
        """
        try:
            listed = self._copies.fetch(f"columns/{name}/{CHECKSUMS_FILE}", _is_json)
            checksums = msgspec.json.decode(listed.read_bytes(), type=dict[str, int])
            for file in checksums if files is None else {*files, SCHEMA_FILE}:
                if file not in checksums:
                    raise damaged("a column of a dataset", f"{name}/{file}")
                self._copies.fetch(
                    f"columns/{name}/{file}",
                    lambda path, crc=checksums[file]: crc_of(path) == crc,  # type: ignore[misc]
                )
        except ObjectMissing:
            raise records_missing() from None
        return self._copies.path(f"columns/{name}")

    def hold(self, name: str) -> AbstractContextManager[None]:
        """Keep the copies of the files of that name."""
        return self._copies.hold(f"columns/{name}/")

    def drop(self, name: str) -> None:
        """Remove columns that no row names, in a while."""
        self._copies.forget(f"columns/{name}/")
        self._garbage.drop(f"columns/{name}/")

    def sweep(self, referenced: Collection[str]) -> None:
        """Nothing: the nightly look of `Garbage` does it."""


def _is_json(path: Path) -> bool:
    try:
        msgspec.json.decode(path.read_bytes(), type=dict[str, int])
    except msgspec.DecodeError:
        return False
    return True
