"""What features need of a store of blobs. `pygrid.storage.blobs.files.BlobFiles` is the one on the local disk."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from pygrid.durable import Bytes
from pygrid.storage.blobs.files import BlobBatch, BlobWriter


class Blobs(Protocol):
    """Blobs, each under the SHA-256 of its bytes."""

    def put(self, data: Bytes) -> str:
        """Store bytes durably; returns their name. Storing the same bytes again changes nothing."""
        ...

    def writer(self) -> AbstractContextManager[BlobWriter]:
        """A new blob; what is not committed in the block is discarded."""
        ...

    def batch(self) -> AbstractContextManager[BlobBatch]:
        """Blobs that go with the row that the block writes. If the block fails, those that are new are removed.

        They stay if the caller is cancelled or the outcome is unknown, because a row may name them. If none does, the
        next start removes them.
        """
        ...

    def path(self, name: str) -> Path:
        """A file with a blob's bytes, checked. Reads it, so call it in a thread.

        Raises:
            NotFound: ``blob_not_found``. Unavailable: ``blob_damaged``.
        """
        ...

    def first_path(self, name: str) -> Path:
        """Path of a blob, unchecked, for callers that forget it."""
        ...

    def drop(self, name: str) -> None:
        """Remove a blob for good. A reader that has it open can go on."""
        ...

    def sweep(self, referenced: Collection[str]) -> None:
        """Remove every blob that is not in ``referenced``: what a crash left behind. Call it before the first `put`."""
        ...
