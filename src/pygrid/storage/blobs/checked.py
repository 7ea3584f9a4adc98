"""Notices stored bytes that have changed on the disk, before they are used.

A file is read once and compared with its checksum; after that it is only looked at (inode, size, times) for `TRUST_S`
seconds, while its bytes are most likely in memory anyway. So a blob that many devices download is hashed once.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from pygrid import codes
from pygrid.errors import Unavailable

TRUST_S = 600.0
"""A file that was found whole, and has not changed since by what the file system says, is read again after this time.
"""
_MAX_KNOWN = 50_000
_READ_BYTES = 1024 * 1024

_Seen = tuple[int, int, int, int]


class DamagedReportError(Exception):
    """The stored bytes of an accepted report are not those that were received."""

    def __init__(self, report_id: int) -> None:
        super().__init__(f"report {report_id} is damaged on the disk")
        self.report_id = report_id


class CheckedFiles:
    """Remembers which files were found whole. Threads may share it; a file is read by one of them at a time."""

    def __init__(self, elapsed_s: Callable[[], float] = time.monotonic) -> None:
        self._elapsed_s = elapsed_s
        self._lock = threading.Lock()
        self._known: OrderedDict[Path, tuple[_Seen, float]] = OrderedDict()
        self._reading: dict[Path, threading.Lock] = {}

    def is_whole(self, path: Path, check: Callable[[Path], bool]) -> bool:
        """Whether the bytes of a file are what they should be; ``check`` reads them if that is not known yet.

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
        """Take a file for whole that this process has just written."""
        self._remember(path, _look(path))

    def touch(self, path: Path) -> None:
        """Set the times of a file to now; that alone does not have it read again."""
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


def has_name(path: Path, name: str) -> bool:
    """Whether the SHA-256 of a file's bytes is ``name``."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == name


def crc_of(path: Path, offset: int = 0, length: int | None = None) -> int:
    """CRC-32 of bytes of a file: it tells damage, not forgery. Of fewer bytes if the file ends before."""
    crc = 0
    descriptor = os.open(path, os.O_RDONLY)
    try:
        end = os.fstat(descriptor).st_size if length is None else offset + length
        while offset < end and (piece := os.pread(descriptor, min(_READ_BYTES, end - offset), offset)):
            crc = zlib.crc32(piece, crc)
            offset += len(piece)
    finally:
        os.close(descriptor)
    return crc


def damaged(what: str, name: str) -> Unavailable:
    """The error for stored bytes that have changed: they are neither served nor used."""
    return Unavailable(
        f"{what} is damaged on the disk of the Domain: its bytes do not match its checksum ({name}). Its operator can "
        "take the file from a backup",
        code=codes.BLOB_DAMAGED,
        name=name,
    )


def is_damage(error: BaseException) -> bool:
    """Whether an error is of stored bytes that have changed: it lasts until an operator acts, so nobody should try
    again.
    """
    return isinstance(error, Unavailable) and error.code == "blob_damaged"


def _look(path: Path) -> _Seen:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
