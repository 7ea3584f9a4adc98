"""A cache of downloaded models and plans, by the SHA-256 of their bytes.

A file is written under a temporary name, and renamed when it is complete and its hash is correct. The hash is checked
again before each use. So any number of processes can share a folder, and a damaged file is downloaded again.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Protocol

from pygrid import codes
from pygrid.durable import ContentCache, content_mismatch, map_file, write_atomically
from pygrid.errors import PayloadTooLarge

logger = logging.getLogger(__name__)

DEFAULT_MAX_BYTES = 1024 * 1024 * 1024

Fetch = Callable[[BinaryIO], None]
"""Writes the content to a file. It can be called again, so it begins with `start_over`."""


class Cache(Protocol):
    """Contents by their hash, each with a short note."""

    def get(self, digest: str, fetch: Fetch) -> memoryview:
        """The content with this SHA-256: the stored one if it is intact, else what ``fetch`` writes, which is stored.

        Raises:
            PygridError: the fetched content has another hash (``content_mismatch``); it is not stored.
            PayloadTooLarge: the content is larger than the limit of the cache (``cache_too_small``).
        """
        ...

    def note(self, digest: str, text: str) -> None:
        """Store the note of a content; it replaces an earlier one. A cache may drop notes, as it may drop contents."""
        ...

    def find_note(self, digest: str) -> str | None:
        """The note of a content; None: it has none."""
        ...


def default_cache_dir() -> Path:
    """The user's cache folder for pygrid: ``$XDG_CACHE_HOME/pygrid``, else ``~/.cache/pygrid``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "pygrid"


def default_cache(max_bytes: int) -> Cache:
    """A cache in the user's folder; in memory if nothing can be written there, as on devices without a disk."""
    try:
        folder = default_cache_dir()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: the user has no home
        reason = error
    else:
        if os.access(folder, os.W_OK | os.X_OK):
            return DiskCache(folder, max_bytes=max_bytes)
        reason = PermissionError(f"{folder} is not writable")
    logger.warning(
        "downloads are not kept: name a writable folder by cache_dir, --cache-dir or XDG_CACHE_HOME",
        extra={"reason": str(reason)},
    )
    return MemoryCache()


def start_over(file: BinaryIO) -> None:
    """Empty the file of a fetch that was interrupted."""
    file.seek(0)
    file.truncate()


class MemoryCache:
    """A `Cache` of the newest ``max_entries`` contents in memory, for devices without a writable disk."""

    def __init__(self, max_entries: int = 2) -> None:
        self._max_entries = max_entries
        self._contents: dict[str, bytes] = {}
        self._notes: dict[str, str] = {}

    def get(self, digest: str, fetch: Fetch) -> memoryview:
        if digest not in self._contents:
            buffer = io.BytesIO()
            fetch(buffer)
            content = buffer.getvalue()
            if hashlib.sha256(content).hexdigest() != digest:
                raise content_mismatch(digest)
            self._contents[digest] = content
        self._contents[digest] = self._contents.pop(digest)  # the newest is last
        while len(self._contents) > self._max_entries:
            del self._contents[next(iter(self._contents))]
        return memoryview(self._contents[digest])

    def note(self, digest: str, text: str) -> None:
        self._notes[digest] = text

    def find_note(self, digest: str) -> str | None:
        return self._notes.get(digest)


class DiskCache:
    """A `Cache` in a folder that only this user can read; many processes can share it.

    Contents are memory-mapped, so processes share their pages, and the system can drop these under memory pressure. If
    the files together exceed ``max_bytes``, the least recently used are deleted. A content in use stays readable.
    """

    def __init__(self, folder: str | os.PathLike[str], *, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.folder = Path(folder).absolute()
        self.max_bytes = max_bytes
        self._files = ContentCache(self.folder, max_bytes=max_bytes, is_shared=True)

    def get(self, digest: str, fetch: Fetch) -> memoryview:
        def fetch_within_bound(file: BinaryIO) -> None:
            fetch(file)
            self._require_space(file.tell())

        while True:
            found = self._files.find(digest)
            path = found or self._files.receive(digest, fetch_within_bound)
            try:
                content = map_file(path)
            except FileNotFoundError:
                continue  # another process has just removed it to make room
            if found is None:
                for removed in self._files.make_space():
                    self._note_path(removed).unlink(missing_ok=True)
            return content

    def note(self, digest: str, text: str) -> None:
        path = self._note_path(digest)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(path, text.encode(), sync=False)

    def find_note(self, digest: str) -> str | None:
        try:
            return self._note_path(digest).read_text()
        except FileNotFoundError:
            return None

    def _require_space(self, num_bytes: int) -> None:
        if num_bytes > self.max_bytes:
            raise PayloadTooLarge(
                f"a download of {num_bytes:,} bytes does not fit into the cache in {self.folder}, whose limit is "
                f"{self.max_bytes:,}; pass a larger max_cache_bytes",
                code=codes.CACHE_TOO_SMALL,
                max_bytes=self.max_bytes,
            )

    def _note_path(self, digest: str) -> Path:
        return self._files.path(digest).with_suffix(".note")
