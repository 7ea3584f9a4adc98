"""Models and plans that were downloaded, by the SHA-256 of their bytes.

A file is written under a temporary name and renamed when it is complete and right, and its hash is checked each time it
is read. So any number of processes may share a folder, and a damaged file is only a file to download again.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import mmap
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from pygrid import codes
from pygrid.errors import PayloadTooLarge, PygridError

DEFAULT_MAX_BYTES = 1024 * 1024 * 1024
_STALE_S = 24 * 3600
_HEX = re.compile(r"[0-9a-f]{64}")

Fetch = Callable[[BinaryIO], None]
"""Writes the content to a file; may be called again, and then begins with `start_over`."""


class Cache(Protocol):
    """Content by its hash, and a short note beside each."""

    def get(self, digest: str, fetch: Fetch) -> memoryview:
        """The content with this SHA-256: what is kept, if it is intact; else what ``fetch`` writes, which is then kept.

        Raises:
            PygridError: what was fetched has another hash (``content_mismatch``); it is not kept.
            PayloadTooLarge: the content is larger than the whole cache may be (``cache_too_small``).
        """
        ...

    def note(self, digest: str, text: str) -> None:
        """Keep a short text beside a content, replacing the one before."""
        ...

    def find_note(self, digest: str) -> str | None:
        """The text kept beside a content, if there is one."""
        ...


def default_cache_dir() -> Path:
    """The user's cache folder for pygrid: ``$XDG_CACHE_HOME/pygrid``, else ``~/.cache/pygrid``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "pygrid"


def start_over(file: BinaryIO) -> None:
    """Empty a file that a fetch that broke off has written to."""
    file.seek(0)
    file.truncate()


class MemoryCache:
    """A `Cache` that keeps only the newest ``max_entries`` contents, in memory; for devices without a disk to
    write to.
    """

    def __init__(self, max_entries: int = 2) -> None:
        self._max_entries = max_entries
        self._contents: dict[str, bytes] = {}
        self._notes: dict[str, str] = {}

    def get(self, digest: str, fetch: Fetch) -> memoryview:
        if digest not in self._contents:
            buffer = io.BytesIO()
            fetch(buffer)
            content = buffer.getvalue()
            _require_hash(content, digest)
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
    """A `Cache` in a folder that only this user can read; many processes may share it.

    Contents are mapped, not read: their pages are shared by all processes and can be dropped under memory pressure.
    What was used longest ago is deleted when the files together exceed ``max_bytes``; a content in use stays readable
    all the same.
    """

    def __init__(self, folder: str | os.PathLike[str], *, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.folder = Path(folder)
        self.max_bytes = max_bytes

    def get(self, digest: str, fetch: Fetch) -> memoryview:
        path = self._path(digest)
        content = _map(path)
        if content is not None and hashlib.sha256(content).hexdigest() == digest:
            with contextlib.suppress(FileNotFoundError):
                os.utime(path)
            return content
        return self._fetch(digest, path, fetch)

    def note(self, digest: str, text: str) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._draft() as (draft, file):
            file.write(text.encode())
            file.flush()
            draft.replace(self._note_path(digest))

    def find_note(self, digest: str) -> str | None:
        try:
            return self._note_path(digest).read_text()
        except FileNotFoundError:
            return None

    def _fetch(self, digest: str, path: Path, fetch: Fetch) -> memoryview:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._draft() as (draft, file):
            fetch(file)
            file.flush()
            self._require_room(draft.stat().st_size)
            content = _map(draft)
            if content is None:
                raise _mismatch(digest)
            _require_hash(content, digest)
            draft.replace(path)
        self._make_room(keep=path)
        return content

    @contextlib.contextmanager
    def _draft(self) -> Iterator[tuple[Path, BinaryIO]]:
        descriptor, name = tempfile.mkstemp(prefix=".part-", dir=self.folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield Path(name), file
        finally:
            Path(name).unlink(missing_ok=True)

    def _require_room(self, num_bytes: int) -> None:
        if num_bytes > self.max_bytes:
            raise PayloadTooLarge(
                f"a download of {num_bytes:,} bytes does not fit into the cache in {self.folder}, which may have "
                f"{self.max_bytes:,}; give a larger max_cache_bytes",
                code=codes.CACHE_TOO_SMALL,
                max_bytes=self.max_bytes,
            )

    def _make_room(self, keep: Path) -> None:
        kept: list[tuple[float, int, Path]] = []
        for path in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process tidies up as well
                stat = path.stat()
                if path.name.startswith(".part-"):
                    if stat.st_mtime < time.time() - _STALE_S:
                        path.unlink()
                elif _HEX.fullmatch(path.name) and path != keep:
                    kept.append((stat.st_mtime, stat.st_size, path))
        total = sum(size for _, size, _ in kept) + keep.stat().st_size
        for _, size, path in sorted(kept):
            if total <= self.max_bytes:
                return
            path.unlink(missing_ok=True)
            self._note_path(path.name).unlink(missing_ok=True)
            total -= size

    def _path(self, digest: str) -> Path:
        if not _HEX.fullmatch(digest):
            raise PygridError(f"{digest[:80]!r} is not a SHA-256", code=codes.UNEXPECTED_ANSWER)
        return self.folder / digest

    def _note_path(self, digest: str) -> Path:
        return self._path(digest).with_suffix(".note")


def _map(path: Path) -> memoryview | None:
    try:
        with path.open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (FileNotFoundError, ValueError):  # ValueError: an empty file can't be mapped
        return None


def _require_hash(content: bytes | memoryview, digest: str) -> None:
    if hashlib.sha256(content).hexdigest() != digest:
        raise _mismatch(digest)


def _mismatch(digest: str) -> PygridError:
    return PygridError(
        f"what was downloaded is not the content with SHA-256 {digest[:12]}... that the Domain announced; it was "
        "thrown away",
        code=codes.CONTENT_MISMATCH,
        expected=digest,
    )
