"""Objects in memory, for tests: the twin of a bucket."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Collection, Iterator
from pathlib import Path

from pygrid.durable import Bytes
from pygrid.storage.blobs.objects import ObjectInfo, ObjectMissing


class MemoryObjects:
    """An `Objects` of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._objects: dict[str, tuple[bytes, int, dt.datetime]] = {}
        self._versions = 0

    def put(self, key: str, data: Bytes) -> None:
        """Create or replace an object."""
        with self._lock:
            self._set(key, data)

    def create(self, key: str, data: Bytes) -> bool:
        """Create an object; False if there is one."""
        return self.replace(key, data, None)

    def upload(self, key: str, path: Path) -> None:
        """As `put`, for a file."""
        self.put(key, path.read_bytes())

    def replace(self, key: str, data: Bytes, etag: str | None) -> bool:
        """Replace a version of an object; None: create it. False: it has changed."""
        with self._lock:
            found = self._objects.get(key)
            if (None if found is None else str(found[1])) != etag:
                return False
            self._set(key, data)
            return True

    def get_version(self, key: str) -> tuple[bytes, str]:
        """The bytes of an object and its version. Raises ObjectMissing."""
        data, version, _ = self._get(key)
        return data, str(version)

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Bytes of an object from an offset. Raises ObjectMissing."""
        return self._get(key)[0][start : None if length is None else start + length]

    def download(self, key: str, path: Path) -> None:
        """Write an object to a file. Raises ObjectMissing."""
        path.write_bytes(self._get(key)[0])

    def find(self, key: str) -> ObjectInfo | None:
        """An object without its bytes; None: there is none."""
        found = self._objects.get(key)
        return None if found is None else ObjectInfo(key, len(found[0]), found[2])

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """The objects whose key begins with a prefix."""
        for key, (data, _, at) in sorted(self._objects.items()):
            if key.startswith(prefix):
                yield ObjectInfo(key, len(data), at)

    def delete(self, keys: Collection[str]) -> None:
        """Delete objects."""
        with self._lock:
            for key in keys:
                self._objects.pop(key, None)

    def _get(self, key: str) -> tuple[bytes, int, dt.datetime]:
        try:
            return self._objects[key]
        except KeyError:
            raise ObjectMissing(key) from None

    def _set(self, key: str, data: Bytes) -> None:
        self._versions += 1
        self._objects[key] = bytes(data), self._versions, dt.datetime.now(dt.UTC)
