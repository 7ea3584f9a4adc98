"""Content-addressed blobs on the local disk.

The name of a blob is its SHA-256, so no name comes from a user. A committed blob is durable: its file and the folder
that names it were flushed to the disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import threading
import uuid
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from pygrid import codes
from pygrid.durable import Bytes, CheckedFiles, has_digest, sync_directory, write_all
from pygrid.errors import NotFound
from pygrid.storage.blobs.checked import damaged
from pygrid.storage.blobs.protocol import BlobWriter
from pygrid.storage.sql.failures import may_be_done

logger = logging.getLogger(__name__)


class BlobFolder:
    """A folder of blobs, and the lock under which a blob gets or loses its name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()

    def partial(self) -> Path:
        """A new path for a blob that is being written."""
        return self.path / f".{uuid.uuid4().hex}.part"

    def place(self, partial: Path, name: str) -> int | None:
        """Rename a blob to its name, durably; returns its inode, or None if the name existed before."""
        target = self.path / name
        with self._lock:
            is_new = not target.exists()
            os.rename(partial, target)
            inode = target.stat().st_ino
        try:
            sync_directory(self.path)
        except OSError:
            if is_new:
                self.remove(name, inode)
            raise
        return inode if is_new else None

    def copy(self, source: Path, name: str) -> int | None:
        """As `place`, for a copy of ``source``. If it fails, nothing is left."""
        partial = self.partial()
        try:
            shutil.copyfile(source, partial)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            return self.place(partial, name)
        except OSError:
            partial.unlink(missing_ok=True)
            raise

    def remove(self, name: str, inode: int) -> None:
        """Remove a blob, unless another caller has put the same one since."""
        target = self.path / name
        with self._lock, contextlib.suppress(FileNotFoundError):
            if target.stat().st_ino == inode:
                target.unlink()


class HashedFile:
    """A new file that is hashed while it is written.

    Args:
        path: of its bytes until they are committed, for checks.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: Bytes) -> None:
        """Append."""
        write_all(self._descriptor, data, self.size)
        self._hash.update(data)
        self.size += len(memoryview(data).cast("B"))


class FileWriter(HashedFile):
    """A blob that is being written. It is not visible before `commit`."""

    def __init__(
        self, folder: BlobFolder, copies: Sequence[BlobFolder] = (), checked: CheckedFiles | None = None
    ) -> None:
        super().__init__(folder.partial())
        self._folder = folder
        self._checked = checked
        self._copies = copies
        self._new: list[tuple[BlobFolder, int]] = []
        """Folders where it did not exist before `commit`."""

    def commit(self) -> str:
        """Make it durable under its name: the SHA-256 of its bytes in hex.

        Raises OSError: `discard` or `undo` removes it.
        """
        name = self._hash.hexdigest()
        os.fdatasync(self._descriptor)
        for place in self._copies:
            self._note(place, place.copy(self.path, name))
        self._note(self._folder, self._folder.place(self.path, name))
        self._close()
        if self._checked is not None:
            self._checked.trust(self._folder.path / name)
        return name

    def discard(self) -> None:
        """Remove it, unless it is committed."""
        if self._descriptor >= 0:
            self._close()
            self.path.unlink(missing_ok=True)
            self.undo()

    def undo(self) -> None:
        """Remove it, also after `commit`, from every folder where it is new."""
        name = self._hash.hexdigest()
        for place, inode in self._new:
            place.remove(name, inode)

    def _note(self, place: BlobFolder, inode: int | None) -> None:
        if inode is not None:
            self._new.append((place, inode))

    def _close(self) -> None:
        os.close(self._descriptor)
        self._descriptor = -1


class FileBatch:
    """Blobs that one row refers to."""

    def __init__(self, files: BlobFiles) -> None:
        self._files = files
        self._writers: list[FileWriter] = []

    def commit(self, writer: BlobWriter) -> str:
        """As `FileWriter.commit`."""
        assert isinstance(writer, FileWriter)
        self._writers.append(writer)
        return writer.commit()

    def put(self, data: Bytes) -> str:
        """As `BlobFiles.put`."""
        with self._files.writer() as writer:
            writer.write(data)
            return self.commit(writer)

    def undo(self) -> None:
        """Remove the blobs that did not exist before."""
        for writer in self._writers:
            writer.undo()


class BlobFiles:
    """Blobs in one folder, each under the SHA-256 of its bytes: models, plans, the server optimizer's state.

    Args:
        copies: number of copies of each blob. Those beyond the first are in ``copy-2``, ``copy-3`` ... below the
            folder, which can be mounts of other disks.
    """

    def __init__(self, folder: Path, copies: int = 1) -> None:
        self._folder = folder
        self._copies = [folder / f"copy-{number}" for number in range(2, copies + 1)]
        self._checked = CheckedFiles()
        for place in (folder, *self._copies):
            place.mkdir(parents=True, exist_ok=True)
            for leftover in place.glob(".*.part"):
                leftover.unlink()
        self._places = [BlobFolder(place) for place in (folder, *self._copies)]

    @contextlib.contextmanager
    def writer(self) -> Iterator[FileWriter]:
        """A new blob; what is not committed in the block is discarded."""
        writer = FileWriter(self._places[0], self._places[1:], self._checked)
        try:
            yield writer
        finally:
            writer.discard()

    @contextlib.contextmanager
    def batch(self) -> Iterator[FileBatch]:
        """Blobs that go with the row that the block writes. If the block fails, those that are new are removed.

        They stay if the caller is cancelled or the outcome is unknown, because a row may name them. If none does, the
        next start removes them.
        """
        batch = FileBatch(self)
        try:
            yield batch
        except Exception as error:
            if not may_be_done(error):
                batch.undo()
            raise

    def put(self, data: Bytes) -> str:
        """Store bytes durably; returns their name. Storing the same bytes again changes nothing."""
        with self.writer() as writer:
            writer.write(data)
            return writer.commit()

    @contextlib.contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """An undamaged file of a blob itself, without a copy: the first one, or one of its copies.

        Raises:
            NotFound: ``blob_not_found``: there is no file. Unavailable: ``blob_damaged``: every file is damaged.
        """
        yield self._find(name)

    def read(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """Bytes of a blob from an offset; None: up to the end. Raises as `local`."""
        with self._find(name).open("rb") as file:
            file.seek(start)
            return file.read(length)

    def size(self, name: str) -> int:
        """Number of bytes of a blob. Raises as `local`."""
        return self._find(name).stat().st_size

    def _find(self, name: str) -> Path:
        is_damaged = False
        for place in (self._folder, *self._copies):
            path = place / name
            if not path.is_file():
                continue
            if self._checked.is_whole(path, lambda path: has_digest(path, name)):
                return path
            is_damaged = True
            logger.error("stored file is damaged", extra={"path": str(path)})
        if is_damaged:
            raise damaged("a stored file", name)
        raise NotFound("a stored file is missing", code=codes.BLOB_NOT_FOUND, name=name)

    def drop(self, name: str) -> None:
        """Remove a blob and its copies for good. A reader that has it open can go on."""
        for place in (self._folder, *self._copies):
            (place / name).unlink(missing_ok=True)

    def sweep(self, referenced: Collection[str], before: float | None = None) -> None:
        """Remove every blob that is not in ``referenced``: what a crash or a deletion left behind.

        Args:
            before: keep files that got their name at this time (of ``time.time``) or later, because the row that refers
                to them can be on its way. None: there are none; call it before the first `put`.
        """
        for place in self._places:
            for path in place.path.iterdir():
                if path.name in referenced or path.name.startswith(".") or not path.is_file():
                    continue
                found = path.stat()
                if before is None or found.st_ctime < before:
                    place.remove(path.name, found.st_ino)
