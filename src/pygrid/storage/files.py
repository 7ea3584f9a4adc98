"""Bytes on the local disk: content-addressed blobs, and the diffs of open cycles.

Nothing here is named by a user: blobs by their SHA-256, diffs by the number of their cycle. Everything that was committed is
durable: the file was flushed to the disk, and so was the directory that names it.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import logging
import os
import shutil
import threading
import uuid
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from pygrid.errors import NotFound
from pygrid.storage.checked import CheckedFiles, DamagedReportError, crc_of, damaged, has_name
from pygrid.storage.failures import may_be_done

logger = logging.getLogger(__name__)

Bytes = bytes | bytearray | memoryview

WRITEBACK_BYTES = 4 * 1024 * 1024
_SYNC_FILE_RANGE_WRITE = 2
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)
"""Of Linux; Python's ``os`` does not offer it."""


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: Bytes, offset: int) -> None:
    view = memoryview(data).cast("B")
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _start_writeback(descriptor: int, offset: int, length: int) -> None:
    """Have the kernel begin to write these bytes to the disk, without waiting for it; a hint, so a refusal does not matter."""
    if _sync_file_range is not None:
        _sync_file_range(descriptor, ctypes.c_int64(offset), ctypes.c_int64(length), _SYNC_FILE_RANGE_WRITE)


class BlobFolder:
    """Where blobs lie, and the lock under which one is given its name, or loses it again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()

    def partial(self) -> Path:
        """The path of a blob in the making."""
        return self.path / f".{uuid.uuid4().hex}.part"

    def place(self, partial: Path, name: str) -> int | None:
        """Give a blob its name, durably; its inode, or None if there was one of that name before."""
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
        """As `place`, of a copy; nothing is left of it if it fails."""
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
        """Remove a blob, unless somebody else has put the same one since."""
        target = self.path / name
        with self._lock, contextlib.suppress(FileNotFoundError):
            if target.stat().st_ino == inode:
                target.unlink()


class BlobWriter:
    """A blob in the making; nothing of it is visible before `commit`."""

    def __init__(self, folder: BlobFolder, copies: Sequence[BlobFolder] = (), checked: CheckedFiles | None = None) -> None:
        self._folder = folder
        self._checked = checked
        self._copies = copies
        self._path = folder.partial()
        self._descriptor = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        self._hash = hashlib.sha256()
        self._new: list[tuple[BlobFolder, int]] = []
        """Where it was not before `commit`."""
        self.size = 0

    def write(self, data: Bytes) -> None:
        """Append."""
        _write_all(self._descriptor, data, self.size)
        self._hash.update(data)
        self.size += len(memoryview(data).cast("B"))

    def commit(self) -> str:
        """Make it durable under its name: the SHA-256 of its bytes in hex. Raises OSError: `discard` or `undo` removes it."""
        name = self._hash.hexdigest()
        os.fdatasync(self._descriptor)
        for place in self._copies:
            self._note(place, place.copy(self._path, name))
        self._note(self._folder, self._folder.place(self._path, name))
        self._close()
        if self._checked is not None:
            self._checked.trust(self._folder.path / name)
        return name

    @property
    def path(self) -> Path:
        """Where its bytes lie until `commit`, for who checks them."""
        return self._path

    def discard(self) -> None:
        """Forget it; harmless after `commit`."""
        if self._descriptor >= 0:
            self._close()
            self._path.unlink(missing_ok=True)
            self.undo()

    def undo(self) -> None:
        """Remove it after `commit` too, wherever it was not before."""
        name = self._hash.hexdigest()
        for place, inode in self._new:
            place.remove(name, inode)

    def _note(self, place: BlobFolder, inode: int | None) -> None:
        if inode is not None:
            self._new.append((place, inode))

    def _close(self) -> None:
        os.close(self._descriptor)
        self._descriptor = -1


class BlobBatch:
    """Blobs that one row refers to."""

    def __init__(self, files: BlobFiles) -> None:
        self._files = files
        self._writers: list[BlobWriter] = []

    def commit(self, writer: BlobWriter) -> str:
        """As `BlobWriter.commit`."""
        self._writers.append(writer)
        return writer.commit()

    def put(self, data: Bytes) -> str:
        """As `BlobFiles.put`."""
        with self._files.writer() as writer:
            writer.write(data)
            return self.commit(writer)

    def undo(self) -> None:
        """Remove what was not there before."""
        for writer in self._writers:
            writer.undo()


class BlobFiles:
    """Blobs in one folder, each under the SHA-256 of its bytes: models, plans, the server optimizer's state.

    Args:
        copies: of each blob; those beyond the first lie in ``copy-2``, ``copy-3`` ... below the folder, which may be mounts of
            other disks.
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
    def writer(self) -> Iterator[BlobWriter]:
        """A new blob; what is not committed in the block is discarded."""
        writer = BlobWriter(self._places[0], self._places[1:], self._checked)
        try:
            yield writer
        finally:
            writer.discard()

    @contextlib.contextmanager
    def batch(self) -> Iterator[BlobBatch]:
        """Blobs that go with the row that the block writes: if it fails, those that were not there before are removed.

        Not if the caller is cancelled or the outcome is unknown: a row may come to name them. If none does, the next start
        removes them.
        """
        batch = BlobBatch(self)
        try:
            yield batch
        except Exception as error:
            if not may_be_done(error):
                batch.undo()
            raise

    def put(self, data: Bytes) -> str:
        """Store bytes; gives their name. Storing the same bytes again changes nothing."""
        with self.writer() as writer:
            writer.write(data)
            return writer.commit()

    def path(self, name: str) -> Path:
        """Where a blob lies whole: its first place, or a copy if it is lost or damaged there. Reads it, so call it in a thread.

        Raises:
            NotFound: ``blob_not_found``: it is in no place. Unavailable: ``blob_damaged``: it is whole in no place.
        """
        is_damaged = False
        for place in (self._folder, *self._copies):
            path = place / name
            if not path.is_file():
                continue
            if self._checked.is_whole(path, lambda path: has_name(path, name)):
                return path
            is_damaged = True
            logger.error("stored file is damaged", extra={"path": str(path)})
        if is_damaged:
            raise damaged("a stored file", name)
        raise NotFound("a stored file is missing", code="blob_not_found", name=name)

    def first_path(self, name: str) -> Path:
        """The first place of a blob, whole or not, for who forgets it."""
        return self._folder / name

    def drop(self, name: str) -> None:
        """Remove a blob and its copies, for good. Whoever reads it now may go on."""
        for place in (self._folder, *self._copies):
            (place / name).unlink(missing_ok=True)

    def sweep(self, referenced: Collection[str]) -> None:
        """Remove what a crash left behind: every blob that is not in ``referenced``. Before the first is put."""
        for place in (self._folder, *self._copies):
            for path in place.iterdir():
                if path.is_file() and path.name not in referenced:
                    path.unlink()


class SegmentLog:
    """The small reports of a process's open cycle, one after the other in one file. For the database's writer thread alone."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._end = 0

    def append(self, data: Bytes) -> int:
        """Write at the end; gives the offset of the first byte. Not durable before `sync`."""
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600)
            self._end = os.fstat(self._descriptor).st_size
            sync_directory(self._path.parent)
        offset = self._end
        _write_all(self._descriptor, data, offset)
        self._end = offset + len(memoryview(data).cast("B"))
        return offset

    def sync(self) -> None:
        """Make all that was appended durable."""
        if self._descriptor is not None:
            os.fdatasync(self._descriptor)

    def empty(self) -> None:
        """Forget every report; the file stays, so that the next cycle need not make one."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            self._end = 0

    def close(self) -> None:
        """Let go of the file. Harmless when called twice."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class Spool:
    """A large report as it arrives, in a file of its own.

    Threads may write and discard at the same time (an upload that is cancelled): a write after `discard` does nothing.
    """

    def __init__(self, folder: Path, cycle_id: int) -> None:
        self.name = f"{cycle_id}-{uuid.uuid4().hex}.report"
        self._path = folder / self.name
        self._descriptor = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        self._lock = threading.Lock()
        self._size = 0
        self._started = 0

    def write(self, data: Bytes) -> None:
        """Append. The disk is set to work on the way, so that `commit` has little left to wait for."""
        with self._lock:
            if self._descriptor < 0:
                return
            _write_all(self._descriptor, data, self._size)
            self._size += len(memoryview(data).cast("B"))
            if self._size - self._started >= WRITEBACK_BYTES:
                _start_writeback(self._descriptor, self._started, self._size - self._started)
                self._started = self._size

    def commit(self) -> None:
        """Make it durable."""
        with self._lock:
            if self._descriptor < 0:
                return
            os.fdatasync(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
            sync_directory(self._path.parent)

    def discard(self) -> None:
        """Remove it, committed or not."""
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1
            self._path.unlink(missing_ok=True)


class DiffFiles:
    """The diffs of open cycles, in one folder: ``PROCESS.segment`` for small reports, ``CYCLE-ID.report`` for a large one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._logs: dict[int, SegmentLog] = {}
        folder.mkdir(parents=True, exist_ok=True)

    @staticmethod
    def segment(process_id: int) -> str:
        """The name of the file that holds the small reports of a process's open cycle."""
        return f"{process_id}.segment"

    def log(self, process_id: int) -> SegmentLog:
        """The log of small reports of a process's open cycle."""
        log = self._logs.get(process_id)
        if log is None:
            log = self._logs[process_id] = SegmentLog(self.path(self.segment(process_id)))
        return log

    def spool(self, cycle_id: int) -> Spool:
        """A new file for one large report."""
        return Spool(self._folder, cycle_id)

    def path(self, file: str) -> Path:
        """Where a file lies: a `segment`, or the name of a spool."""
        return self._folder / file

    def check(self, report_id: int, file: str, offset: int, length: int, fingerprint: str) -> None:
        """See that the stored bytes of a report are those that were received.

        Raises:
            DamagedReportError: they are not, or they are cut off.
        """
        try:
            crc = crc_of(self.path(file), offset, length)
        except FileNotFoundError:
            raise DamagedReportError(report_id) from None
        if fingerprint and fingerprint != f"{length:x}-{crc:08x}":
            raise DamagedReportError(report_id)

    def drop(self, process_id: int, cycle_id: int) -> None:
        """Remove all diffs of a completed cycle. In the writer thread, before its process takes reports for the next one."""
        if process_id in self._logs:
            self._logs[process_id].empty()
        for path in self._folder.glob(f"{cycle_id}-*.report"):
            path.unlink(missing_ok=True)

    def sweep(self, referenced: set[str]) -> None:
        """Remove what a crash left behind: every file that is not in ``referenced``. Before the first report is taken."""
        for path in self._folder.iterdir():
            if path.name not in referenced:
                path.unlink()

    def close(self) -> None:
        """Let go of every file."""
        for log in self._logs.values():
            log.close()
        self._logs.clear()
