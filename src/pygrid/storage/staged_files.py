"""Staged uploads: files that a data owner has sent and not yet stored as a dataset.

    <folder>/<id>/data         the file, as it was sent
    <folder>/<id>/mock         the file of its mock dataset, if the data owner has sent one
    <folder>/<id>/about.json   who sent it, when, under which name; written after the file

A staged upload without ``about.json`` is incomplete. It is removed at the next start.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from pygrid import codes
from pygrid.durable import write_atomically
from pygrid.errors import NotFound

ID_CHARS = 32
_ABOUT = "about.json"


class StagedUpload(msgspec.Struct, frozen=True):
    id: str
    user_id: int
    filename: str
    num_bytes: int
    created_at: dt.datetime
    num_mocks: int = 0
    """Files of a mock dataset that were sent, each in place of the one before."""


class StagedFiles:
    """The staged uploads of a Domain."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def folder(self) -> Path:
        return self._folder

    @contextlib.contextmanager
    def receive(self) -> Iterator[Path]:
        """Yield a new folder; it is removed if the block fails."""
        path = self._folder / secrets.token_hex(ID_CHARS // 2)
        path.mkdir(mode=0o700)
        try:
            yield path
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise

    def commit(self, path: Path, user_id: int, filename: str, now: dt.datetime) -> StagedUpload:
        """Complete a staged upload whose file ``data`` has been written."""
        staged = StagedUpload(path.name, user_id, filename, (path / "data").stat().st_size, now)
        write_atomically(path / _ABOUT, msgspec.json.encode(staged))
        return staged

    def get(self, user_id: int, staged_id: str) -> StagedUpload:
        """A staged upload of a user. Raises NotFound: ``staged_not_found``."""
        found = next((one for one in self.list_of(user_id) if one.id == staged_id), None)
        if found is None:
            raise NotFound(
                "there is no such upload: it was stored, discarded, or removed after a day; send the file again",
                code=codes.STAGED_NOT_FOUND,
            )
        return found

    def list_of(self, user_id: int) -> list[StagedUpload]:
        """The staged uploads of a user, newest first."""
        return [one for one in self._all() if one.user_id == user_id]

    def path(self, staged: StagedUpload) -> Path:
        return self._folder / staged.id / "data"

    def find_mock(self, staged: StagedUpload) -> Path | None:
        return self._folder / staged.id / "mock" if staged.num_mocks else None

    @contextlib.contextmanager
    def receive_mock(self, staged: StagedUpload) -> Iterator[Path]:
        """Yield a path for the file of a mock dataset. After the block, it replaces the one before."""
        with self.receive() as folder:
            yield folder / "mock"
            (folder / "mock").replace(self._folder / staged.id / "mock")
            folder.rmdir()
        later = msgspec.structs.replace(staged, num_mocks=staged.num_mocks + 1)
        write_atomically(self._folder / staged.id / _ABOUT, msgspec.json.encode(later))

    def drop(self, staged: StagedUpload) -> None:
        shutil.rmtree(self._folder / staged.id, ignore_errors=True)

    def sweep(self, before: dt.datetime) -> None:
        """Remove incomplete uploads, and those from before this time; called while none is being received."""
        kept = {one.id for one in self._all() if one.created_at >= before}
        for path in self._folder.iterdir():
            if path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)

    def drop_old(self, before: dt.datetime) -> None:
        """Remove the uploads from before this time."""
        for staged in self._all():
            if staged.created_at < before:
                self.drop(staged)

    def _all(self) -> list[StagedUpload]:
        found = []
        for path in self._folder.glob(f"*/{_ABOUT}"):
            with contextlib.suppress(OSError, msgspec.DecodeError):
                found.append(msgspec.json.decode(path.read_bytes(), type=StagedUpload))
        return sorted(found, key=lambda one: one.created_at, reverse=True)
