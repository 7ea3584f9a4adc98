"""The files of jobs on a Worker's machine, under the SHA-256 of their bytes, so that a column travels once for many
jobs.

    <folder>/<SHA-256>            complete, and what its name says
    <folder>/.<32 hex>.part       on its way

What a job uses stays while it runs. Of the rest, what was used longest ago goes when all of it is larger than the
bound.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from pygrid import codes
from pygrid.errors import Conflict, PygridError
from pygrid.storage.blobs.checked import CheckedFiles, has_name
from pygrid.storage.blobs.files import BlobFolder, BlobWriter

logger = logging.getLogger(__name__)

DEFAULT_MAX_BYTES = 10 * 1024**3
_LOCK = ".lock"


class ReceivedFiles:
    """A folder of such files, for this process alone. Only its user can read it: it holds others' data.

    Args:
        max_bytes: what is kept between jobs; 0: nothing stays on this machine once its job is over.
    Raises:
        Conflict: ``folder_in_use``: another process has it. OSError.
    """

    def __init__(self, folder: Path, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._in_use: Counter[str] = Counter()
        self._checked = CheckedFiles()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        self._lock = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise Conflict(
                f"another Worker keeps its files in {folder}; name another folder with --cache-dir",
                code=codes.FOLDER_IN_USE,
            ) from None
        for leftover in folder.glob(".*.part"):
            leftover.unlink()
        self.make_room()

    @contextlib.contextmanager
    def using(self, names: Iterable[str]) -> Iterator[None]:
        """Keep these files, and those of them that come meanwhile, until the block ends."""
        wanted = list(names)
        self._in_use.update(wanted)
        try:
            yield
        finally:
            self._in_use.subtract(wanted)
            self.make_room()

    def find(self, name: str) -> Path | None:
        """Where a file lies whole; None: it is not here.

        Reads it; a damaged one is removed, so that it is received again.
        """
        path = self._folder / name
        try:
            if self._checked.is_whole(path, lambda path: has_name(path, name)):
                self._checked.touch(path)
                return path
        except FileNotFoundError:
            return None
        logger.error("kept file is damaged; it is removed", extra={"path": str(path)})
        path.unlink(missing_ok=True)
        return None

    def receive(self, name: str, num_bytes: int, chunks: Iterable[bytes]) -> Path:
        """Keep what comes as the file of this name, if it is that.

        Raises:
            PygridError: ``content_mismatch``: it is something else, and was thrown away. And what ``chunks`` raises.
        """
        writer = BlobWriter(BlobFolder(self._folder), checked=self._checked)
        try:
            for chunk in chunks:
                if writer.size + len(chunk) > num_bytes:
                    raise _mismatch(name)
                writer.write(chunk)
            found = writer.commit()
        finally:
            writer.discard()
        if found != name:
            if self._in_use[found] <= 0:
                (self._folder / found).unlink(missing_ok=True)
            raise _mismatch(name)
        return self._folder / name

    def make_room(self) -> None:
        """Remove what is beyond the bound and not in use."""
        kept: list[tuple[float, int, Path]] = []
        for path in self._folder.iterdir():
            if not path.name.startswith(".") and self._in_use[path.name] <= 0:
                stat = path.stat()
                kept.append((min(stat.st_mtime, time.time()), stat.st_size, path))
        total = sum(size for _, size, _ in kept)
        for _, size, path in sorted(kept):
            if total <= self._max_bytes:
                return
            path.unlink(missing_ok=True)
            total -= size

    def close(self) -> None:
        """Let another process have the folder."""
        os.close(self._lock)


def _mismatch(name: str) -> PygridError:
    return PygridError(
        f"what was downloaded is not the content with SHA-256 {name[:12]}... that the Domain announced; it was thrown "
        "away",
        code=codes.CONTENT_MISMATCH,
        expected=name,
    )
