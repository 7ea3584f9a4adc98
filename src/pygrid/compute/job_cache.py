"""The files of jobs on a Worker's machine, by their SHA-256, so that a column is downloaded once for many jobs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from pygrid.durable import ContentCache, content_mismatch

DEFAULT_MAX_BYTES = 10 * 1024**3


class JobCache(ContentCache):
    """A folder of such files, locked by this process. Only its user can read it: it holds the data of others.

    Args:
        max_bytes: total size of the files kept between jobs; 0: nothing stays on this machine after its job.
    Raises:
        Conflict: ``folder_in_use``: another process has locked the folder. OSError.
    """

    def __init__(self, folder: Path, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        super().__init__(folder, max_bytes=max_bytes, is_shared=False)
        self.make_space()

    def receive_chunks(self, digest: str, num_bytes: int, chunks: Iterable[bytes]) -> Path:
        """Keep a file as it arrives.

        Raises:
            PygridError: ``content_mismatch``: the content is longer or different; it was not kept. Also what ``chunks``
                raises.
        """

        def write(file: BinaryIO) -> None:
            for chunk in chunks:
                if file.tell() + len(chunk) > num_bytes:
                    raise content_mismatch(digest)
                file.write(chunk)

        return self.receive(digest, write)
