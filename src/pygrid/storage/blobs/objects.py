"""A store of objects: bytes under keys, as in a bucket of S3."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pygrid import codes
from pygrid.durable import Bytes
from pygrid.errors import Unavailable

RETRY_AFTER_S = 2


@dataclass(frozen=True)
class ObjectInfo:
    """An object, without its bytes."""

    key: str
    size: int
    modified_at: dt.datetime


class ObjectMissing(Exception):
    """There is no object under this key."""


class Objects(Protocol):
    """Bytes under keys like ``blobs/ab/NAME``. What a method has written, every later call sees.

    Every method can wait for a network, so call it in a thread. Each raises Unavailable, ``storage_failed``, if the
    store does not do it; then it can have done it, or a part of it.
    """

    def put(self, key: str, data: Bytes) -> None:
        """Create or replace an object; readers see the old bytes or the new ones."""
        ...

    def create(self, key: str, data: Bytes) -> bool:
        """Create an object; False if there is one."""
        ...

    def upload(self, key: str, path: Path) -> None:
        """As `put`, for a file of any size."""
        ...

    def replace(self, key: str, data: Bytes, etag: str | None) -> bool:
        """Replace the version of an object that `get_version` returned; None: create it. False: it has changed."""
        ...

    def get_version(self, key: str) -> tuple[bytes, str]:
        """The bytes of a small object and its version. Raises ObjectMissing."""
        ...

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Bytes of an object from an offset, fewer if it ends before. Raises ObjectMissing."""
        ...

    def download(self, key: str, path: Path) -> None:
        """Write an object to a new file. Raises ObjectMissing."""
        ...

    def find(self, key: str) -> ObjectInfo | None:
        """An object without its bytes; None: there is none."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """The objects whose key begins with a prefix that ends with a slash; all for an empty one."""
        ...

    def delete(self, keys: Collection[str]) -> None:
        """Delete objects; missing ones are ignored."""
        ...


def store_failed(reason: str) -> Unavailable:
    """The error for a store that did not do what it was asked for."""
    return Unavailable(
        f"the store of files did not answer as expected ({reason}); try again in a moment",
        code=codes.STORAGE_FAILED,
        retry_after_s=RETRY_AFTER_S,
    )
