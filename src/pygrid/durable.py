"""Files that are complete or absent, also after a crash of the machine, and caches of files by their SHA-256."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import io
import logging
import mmap
import os
import re
import sys
import threading
import time
import uuid
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from pygrid import codes
from pygrid.errors import Conflict, PygridError

logger = logging.getLogger(__name__)

Bytes = bytes | bytearray | memoryview

WRITEBACK_BYTES = 4 * 1024 * 1024
TRUST_S = 600.0
"""Seconds after which a checked file is read again, even if the file system reports no change."""
_MAX_KNOWN = 50_000
_STALE_S = 24 * 3600
"""Age from which a draft in a shared folder belongs to a process that crashed."""
_DRAFTS = ".*.part"
_LOCK = ".lock"
_HEX = re.compile(r"[0-9a-f]{64}")

_SYNC_FILE_RANGE_WRITE = 2
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None) if sys.platform == "linux" else None
"""Linux only; Python's ``os`` does not offer it."""

# -- Writes ------------------------------------------------------------------------------------------------------------


def sync_directory(path: Path) -> None:
    """Make the names in a folder durable. Does nothing on Windows, which cannot."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: Bytes, offset: int) -> None:
    view = memoryview(data).cast("B")
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def start_writeback(descriptor: int, offset: int, length: int) -> None:
    """Ask the kernel to start writing these bytes to the disk, without waiting. A refusal has no consequences."""
    if _sync_file_range is not None:
        _sync_file_range(descriptor, ctypes.c_int64(offset), ctypes.c_int64(length), _SYNC_FILE_RANGE_WRITE)


def write_atomically(path: Path, data: Bytes, *, mode: int = 0o600, sync: bool = True) -> None:
    """Create or replace a file; readers see the old content or all of the new one.

    Args:
        mode: permissions, reduced by the umask.
        sync: whether the file is durable when this returns.
    Raises:
        OSError: the old content is still there.
    """
    with _draft(path.parent, mode) as (draft, file):
        _finish(file, data, sync=sync)
        draft.replace(path)
    if sync:
        sync_directory(path.parent)


def make_once(path: Path, data: Bytes) -> bool:
    """Create a file, complete, durable and with mode 0600; False if the path exists already, also if another process
    was faster.
    """
    with _draft(path.parent) as (draft, file):
        _finish(file, data, sync=True)
        try:
            os.link(draft, path)
        except FileExistsError:
            return False
    sync_directory(path.parent)
    return True


@contextlib.contextmanager
def _draft(folder: Path, mode: int = 0o600) -> Iterator[tuple[Path, io.BufferedRandom]]:
    """A new file under a temporary name, which is gone after the block."""
    path = folder / f".{uuid.uuid4().hex}.part"
    try:
        with open(path, "x+b", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            yield path, file
    finally:
        path.unlink(missing_ok=True)


def _finish(file: BinaryIO, data: Bytes, *, sync: bool) -> None:
    file.write(data)
    file.flush()
    if sync:
        os.fsync(file.fileno())
    file.close()


# -- Content by its SHA-256 --------------------------------------------------------------------------------------------

_Seen = tuple[int, int, int, int]


class CheckedFiles:
    """Remembers which files were found whole, so that a blob which many devices download is hashed once.

    A file is read and compared with its checksum. For `TRUST_S` seconds after that, only its inode, size and times are
    compared, because its bytes are most likely in memory. Threads may share this object; one thread at a time reads a
    file.
    """

    def __init__(self, elapsed_s: Callable[[], float] = time.monotonic) -> None:
        self._elapsed_s = elapsed_s
        self._lock = threading.Lock()
        self._known: OrderedDict[Path, tuple[_Seen, float]] = OrderedDict()
        self._reading: dict[Path, threading.Lock] = {}

    def is_whole(self, path: Path, check: Callable[[Path], bool]) -> bool:
        """Whether the bytes of a file are what they should be; ``check`` reads them if that is not known.

        Raises:
            FileNotFoundError.
        """
        if self._is_known(path):
            return True
        with self._lock:
            reading = self._reading.setdefault(path, threading.Lock())
        with reading:
            if self._is_known(path):
                return True
            seen = _look(path)
            if not check(path):
                return False
            self._remember(path, seen)
        with self._lock:
            self._reading.pop(path, None)
        return True

    def trust(self, path: Path) -> None:
        """Take a file that this process has just written as whole."""
        self._remember(path, _look(path))

    def touch(self, path: Path) -> None:
        """Set the times of a file to now, which alone does not cause another check."""
        with self._lock:
            found = self._known.get(path)
            is_unchanged = found is not None and found[0] == _look(path)
            os.utime(path)
            if found is not None and is_unchanged:
                self._known[path] = _look(path), found[1]

    def _is_known(self, path: Path) -> bool:
        found = self._known.get(path)
        return found is not None and self._elapsed_s() - found[1] < TRUST_S and found[0] == _look(path)

    def _remember(self, path: Path, seen: _Seen) -> None:
        with self._lock:
            self._known[path] = seen, self._elapsed_s()
            self._known.move_to_end(path)
            if len(self._known) > _MAX_KNOWN:
                self._known.popitem(last=False)


class ContentCache:
    """Downloaded files in a folder, each named by the SHA-256 of its bytes, which is checked before a file is used.

        <folder>/<SHA-256>            complete
        <folder>/.<32 hex>.part       a download in progress

    Only this user can read the folder. `make_space` removes the least recently used files.

    Args:
        max_bytes: total size of the files that `make_space` leaves, in addition to those in use.
        is_shared: whether other processes may use the folder at the same time. If not, this process locks it until
            `close`.
    Raises:
        Conflict: ``folder_in_use``: another process has locked the folder. OSError.
    """

    def __init__(self, folder: Path, *, max_bytes: int, is_shared: bool) -> None:
        self._folder, self._max_bytes, self._is_shared = folder, max_bytes, is_shared
        self._in_use: Counter[str] = Counter()
        self._checked = CheckedFiles()
        self._lock = -1
        if not is_shared:
            self._make_folder()
            folder.chmod(0o700)
            self._lock = lock_folder(folder)
            self._remove_drafts(0)

    def path(self, digest: str) -> Path:
        """Path of the file with this SHA-256, whether it is there or not.

        Raises:
            PygridError: ``unexpected_answer``: ``digest`` is not a SHA-256.
        """
        if not _HEX.fullmatch(digest):
            raise PygridError(f"{digest[:80]!r} is not a SHA-256", code=codes.UNEXPECTED_ANSWER)
        return self._folder / digest

    def find(self, digest: str) -> Path | None:
        """The file with this SHA-256, checked; None if it is absent or damaged. A damaged file is removed."""
        path = self.path(digest)
        try:
            if self._checked.is_whole(path, lambda path: has_digest(path, digest)):
                self._checked.touch(path)
                return path
        except FileNotFoundError:
            return None
        logger.error("kept file is damaged; it is removed", extra={"path": str(path)})
        path.unlink(missing_ok=True)
        return None

    def receive(self, digest: str, fetch: Callable[[BinaryIO], None]) -> Path:
        """Keep what ``fetch`` writes, if its SHA-256 is ``digest``.

        Raises:
            PygridError: ``content_mismatch``: the content is different; it was not kept. Also what ``fetch`` raises.
        """
        path = self.path(digest)
        self._make_folder()
        with _draft(self._folder) as (draft, file):
            fetch(file)
            file.seek(0)
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise content_mismatch(digest)
            file.close()
            draft.replace(path)
        with contextlib.suppress(FileNotFoundError):  # another process has made room
            self._checked.trust(path)
        return path

    @contextlib.contextmanager
    def using(self, digests: Iterable[str]) -> Iterator[None]:
        """Keep these files until the block ends, also those that are received in the meantime."""
        wanted = list(digests)
        self._in_use.update(wanted)
        try:
            yield
        finally:
            self._in_use.subtract(wanted)
            self.make_space()

    def make_space(self) -> list[str]:
        """Remove the least recently used files until the others fit into ``max_bytes``; returns what was removed."""
        if self._is_shared:
            self._remove_drafts(_STALE_S)
        kept: list[tuple[float, int, Path]] = []
        for path in self._folder.glob("*"):
            if _HEX.fullmatch(path.name) and self._in_use[path.name] <= 0:
                with contextlib.suppress(FileNotFoundError):  # another process makes room too
                    stat = path.stat()
                    kept.append((min(stat.st_mtime, time.time()), stat.st_size, path))
        total, removed = sum(size for _, size, _ in kept), []
        for _, size, path in sorted(kept):
            if total <= self._max_bytes:
                break
            path.unlink(missing_ok=True)
            removed.append(path.name)
            total -= size
        return removed

    def close(self) -> None:
        """Unlock the folder."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _make_folder(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _remove_drafts(self, min_age_s: float) -> None:
        for path in self._folder.glob(_DRAFTS):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime <= time.time() - min_age_s:
                    path.unlink()


def has_digest(path: Path, digest: str) -> bool:
    """Whether the SHA-256 of a file's bytes is ``digest``."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == digest


def map_file(path: Path) -> memoryview:
    """The bytes of a file, mapped: processes share their pages. They stay readable when the file is removed."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return memoryview(b"")  # an empty file cannot be mapped
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def content_mismatch(digest: str) -> PygridError:
    """The error for a download that does not have the announced SHA-256."""
    return PygridError(
        f"what was downloaded is not the content with SHA-256 {digest[:12]}... that the Domain announced; it was "
        "thrown away",
        code=codes.CONTENT_MISMATCH,
        expected=digest,
    )


def lock_folder(folder: Path) -> int:
    """The descriptor that holds the lock of a folder."""
    import fcntl  # not on Windows, where only shared folders are used

    lock = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise Conflict(
            f"another process keeps its files in {folder}; name another folder with --cache-dir",
            code=codes.FOLDER_IN_USE,
        ) from None
    return lock


def _look(path: Path) -> _Seen:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
