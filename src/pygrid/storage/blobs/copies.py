"""Local copies of objects, for what needs a file: to map it, to hand it to a sandbox, to stream it many times.

    <folder>/<key of the object>      a copy, complete
    <folder>/.parts/<32 hex digits>   a download or a new file in progress

The least recently used copies make room for new ones. A copy that is held, or was used in the last minute, stays.
Removing a copy loses nothing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
import time
import uuid
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

from pygrid import codes
from pygrid.durable import CheckedFiles, lock_folder
from pygrid.errors import Unavailable
from pygrid.storage.blobs.checked import damaged
from pygrid.storage.blobs.objects import Objects

logger = logging.getLogger(__name__)

STAYS_S = 60.0
"""Seconds for which a copy stays after a use, so that a caller can open the path that it got."""
_PARTS = ".parts"
_KINDS = ("blobs", "served", "drafts", "columns", "jobs", "diffs")


class LocalCopies:
    """The copies of one app, in a folder that it locks until `close`.

    Args:
        max_bytes: total size of the copies.
    Raises:
        Conflict: ``folder_in_use``: another process uses the folder. OSError.
    """

    def __init__(
        self, objects: Objects, folder: Path, max_bytes: int, elapsed_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._objects, self._folder, self._max_bytes, self._elapsed_s = objects, folder, max_bytes, elapsed_s
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._held_folder = lock_folder(folder)
        shutil.rmtree(folder / _PARTS, ignore_errors=True)
        (folder / _PARTS).mkdir(mode=0o700)
        self._lock = threading.Lock()
        self._fetching: dict[str, threading.Lock] = {}
        self._holds: Counter[str] = Counter()
        self._checked = CheckedFiles()
        self._copies: OrderedDict[str, tuple[int, float]] = OrderedDict(self._scan())
        """Key -> size and time of the last use, the least recently used first."""
        self._total = sum(size for size, _ in self._copies.values())

    @property
    def folder(self) -> Path:
        """The folder of all copies."""
        return self._folder

    def part(self) -> Path:
        """A new path for a file that `adopt` will take; the caller removes it otherwise."""
        return self._folder / _PARTS / uuid.uuid4().hex

    def path(self, key: str) -> Path:
        """Path of the copy of an object, whether it is there or not."""
        return self._folder / key

    @contextlib.contextmanager
    def hold(self, prefix: str) -> Iterator[None]:
        """Keep the copies whose key begins with this, also those that are made in the meantime."""
        self._holds[prefix] += 1
        try:
            yield
        finally:
            self._holds[prefix] -= 1
            if not self._holds[prefix]:
                del self._holds[prefix]

    def fetch(self, key: str, check: Callable[[Path], bool]) -> Path:
        """An undamaged copy of an object; simultaneous calls download it once.

        Args:
            check: reads a file; whether its bytes are what they should be.
        Raises:
            ObjectMissing. Unavailable: ``blob_damaged``: the object is not what it should be; ``cache_full``: what is
            in use leaves no room; ``storage_failed``.
        """
        path = self.path(key)
        with self._lock:
            fetching = self._fetching.setdefault(key, threading.Lock())
        with fetching:
            try:
                if self._checked.is_whole(path, check):
                    self._note(key, path.stat().st_size)
                    return path
                logger.error("local copy is damaged; it is fetched again", extra={"key": key})
                self.forget(key)
            except FileNotFoundError:
                pass
            part = self.part()
            try:
                self._download(key, part)
                if not check(part):
                    logger.error("object is damaged", extra={"key": key})
                    raise damaged("a file in the store", key)
                self._move(part, key)
            finally:
                part.unlink(missing_ok=True)
        with self._lock:
            self._fetching.pop(key, None)
        return path

    def adopt(self, part: Path, key: str) -> None:
        """Take a file of this process, whose bytes were stored under a key, as its copy. Without room it is removed."""
        size = part.stat().st_size
        try:
            self._evict(size)
        except Unavailable:
            part.unlink()
            return
        self._move(part, key)

    def forget(self, prefix: str) -> None:
        """Remove the copy of an object, or all those whose key begins with a prefix that ends with a slash."""
        with self._lock:
            found = [key for key in self._copies if key == prefix or (prefix.endswith("/") and key.startswith(prefix))]
            for key in found:
                self._remove(key)
        if prefix.endswith("/"):
            shutil.rmtree(self.path(prefix), ignore_errors=True)
        else:
            self.path(prefix).unlink(missing_ok=True)

    def close(self) -> None:
        """Unlock the folder. A second call does nothing."""
        if self._held_folder >= 0:
            os.close(self._held_folder)
            self._held_folder = -1

    def _download(self, key: str, part: Path) -> None:
        found = self._objects.find(key)
        self._evict(0 if found is None else found.size)
        self._objects.download(key, part)

    def _move(self, part: Path, key: str) -> None:
        path = self.path(key)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        size = part.stat().st_size
        part.replace(path)
        self._checked.trust(path)
        self._note(key, size)

    def _note(self, key: str, size: int) -> None:
        with self._lock:
            self._total += size - self._copies.get(key, (0, 0.0))[0]
            self._copies[key] = size, self._elapsed_s()
            self._copies.move_to_end(key)

    def _evict(self, num_bytes: int) -> None:
        """Remove the least recently used copies. Raises Unavailable: ``cache_full``."""
        with self._lock:
            now = self._elapsed_s()
            for key, (_, used_at) in list(self._copies.items()):
                if self._total + num_bytes <= self._max_bytes:
                    return
                if now - used_at >= STAYS_S and not any(key.startswith(prefix) for prefix in self._holds):
                    self._remove(key)
                    self.path(key).unlink(missing_ok=True)
            if self._total + num_bytes > self._max_bytes:
                raise Unavailable(
                    f"the folder for local copies has no room for {num_bytes:,} bytes: {self._total:,} of "
                    f"{self._max_bytes:,} are in use. Try again later, or raise PYGRID_CACHE_MB",
                    code=codes.CACHE_FULL,
                    retry_after_s=STAYS_S,
                )

    def _remove(self, key: str) -> None:
        self._total -= self._copies.pop(key)[0]

    def _scan(self) -> list[tuple[str, tuple[int, float]]]:
        """The copies that an earlier process left, the oldest first. They are checked at their first use.

        Other files in the folder are not touched.
        """
        found = []
        for path in (path for kind in _KINDS for path in (self._folder / kind).rglob("*")):
            key = path.relative_to(self._folder).as_posix()
            if path.is_file() and "/." not in key:
                stat = path.stat()
                found.append((stat.st_mtime, key, stat.st_size))
        long_ago = self._elapsed_s() - STAYS_S
        return [(key, (size, long_ago)) for _, key, size in sorted(found)]
