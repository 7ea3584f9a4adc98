"""Blobs in a store of objects, with local copies.

The key of a blob ends with the SHA-256 of its bytes, so writing it twice writes the same bytes. Only `Garbage` deletes.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from pygrid import codes
from pygrid.durable import Bytes, has_digest
from pygrid.errors import NotFound
from pygrid.storage.blobs.copies import LocalCopies
from pygrid.storage.blobs.files import HashedFile
from pygrid.storage.blobs.garbage import Garbage
from pygrid.storage.blobs.objects import ObjectMissing, Objects, store_failed
from pygrid.storage.blobs.protocol import BlobWriter
from pygrid.storage.blobs.s3 import MULTIPART_BYTES

logger = logging.getLogger(__name__)

_ATTEMPTS = 3


class RemoteWriter(HashedFile):
    """A blob that is written to a local file, and sent by `commit`."""

    def __init__(self, blobs: RemoteBlobs, path: Path) -> None:
        super().__init__(path)
        self._blobs = blobs

    def commit(self) -> str:
        """Store it under its name: the SHA-256 of its bytes in hex.

        Raises Unavailable: ``storage_failed``.
        """
        name = self._hash.hexdigest()
        self._blobs.store(name, self.path)
        return name

    def discard(self) -> None:
        """Remove the local file, unless it has become a copy."""
        os.close(self._descriptor)
        self.path.unlink(missing_ok=True)


class RemoteBatch:
    """Blobs that one row refers to."""

    def __init__(self, blobs: RemoteBlobs) -> None:
        self._blobs = blobs

    def commit(self, writer: BlobWriter) -> str:
        """As `RemoteWriter.commit`."""
        return writer.commit()

    def put(self, data: Bytes) -> str:
        """As `RemoteBlobs.put`."""
        with self._blobs.writer() as writer:
            writer.write(data)
            return writer.commit()


class RemoteBlobs:
    """Blobs, each under the SHA-256 of its bytes, in a store of objects.

    Args:
        key_of: the key of a name.
    """

    def __init__(self, objects: Objects, copies: LocalCopies, garbage: Garbage, key_of: Callable[[str], str]) -> None:
        self._objects, self._copies, self._garbage, self._key_of = objects, copies, garbage, key_of

    @contextlib.contextmanager
    def writer(self) -> Iterator[RemoteWriter]:
        """A new blob; what is not committed in the block is discarded."""
        writer = RemoteWriter(self, self._copies.part())
        try:
            yield writer
        finally:
            writer.discard()

    @contextlib.contextmanager
    def batch(self) -> Iterator[RemoteBatch]:
        """Blobs that go with the row that the block writes. If it writes none, the nightly look finds them."""
        yield RemoteBatch(self)

    def put(self, data: Bytes) -> str:
        """Store bytes durably; returns their name. Storing the same bytes again changes nothing."""
        with self.writer() as writer:
            writer.write(data)
            return writer.commit()

    def store(self, name: str, path: Path) -> None:
        """Send a file whose SHA-256 is ``name``, and keep it as a local copy.

        Raises Unavailable: ``storage_failed``.
        """
        key = self._key_of(name)
        for _ in range(_ATTEMPTS):
            if self._create(key, path):
                break
            # It is there, and can be garbage that is about to be deleted: no row names it. `spare` ends that, and
            # after it the object is there to stay, or is sent again.
            self._garbage.spare(key)
            if self._objects.find(key) is not None:
                break
        else:
            raise store_failed("an object vanishes")
        self._copies.adopt(path, key)

    def _create(self, key: str, path: Path) -> bool:
        size = path.stat().st_size
        if size < MULTIPART_BYTES:
            return self._objects.create(key, path.read_bytes())
        found = self._objects.find(key)
        if found is not None and found.size == size:
            return False
        self._objects.upload(key, path)
        return True

    @contextlib.contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """A local copy of a blob, which stays until the block ends.

        Raises:
            NotFound: ``blob_not_found``. Unavailable: ``blob_damaged``, ``cache_full``, ``storage_failed``.
        """
        with self._copies.hold(self._key_of(name)):
            yield self._fetch(name)

    def read(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """Bytes of a blob from an offset; None: up to the end. Raises as `local`."""
        with self.local(name) as path, path.open("rb") as file:
            file.seek(start)
            return file.read(length)

    def size(self, name: str) -> int:
        """Number of bytes of a blob. Raises as `local`."""
        with self.local(name) as path:
            return path.stat().st_size

    def drop(self, name: str) -> None:
        """Remove a blob that no row names, in a while."""
        self._garbage.drop(self._key_of(name))

    def sweep(self, referenced: Collection[str], before: float | None = None) -> None:
        """Nothing: other apps can be writing. The nightly look of `Garbage` does it."""

    def _fetch(self, name: str) -> Path:
        try:
            return self._copies.fetch(self._key_of(name), lambda path: has_digest(path, name))
        except ObjectMissing:
            raise NotFound("a stored file is missing", code=codes.BLOB_NOT_FOUND, name=name) from None
