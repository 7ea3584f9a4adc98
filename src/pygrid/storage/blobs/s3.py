"""Objects in a bucket of S3, or of another store that speaks its protocol."""

from __future__ import annotations

import configparser
import contextlib
import logging
import os
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pygrid import codes
from pygrid.durable import Bytes
from pygrid.errors import InvalidConfig
from pygrid.storage.blobs.objects import ObjectInfo, ObjectMissing, store_failed

logger = logging.getLogger(__name__)

T = TypeVar("T")

MULTIPART_BYTES = 16 * 1024 * 1024
"""Size from which a file is sent in parts."""
PART_BYTES = 8 * 1024 * 1024
_PARTS_AT_ONCE = 4
_LARGE_BYTES = 1024 * 1024
"""Size from which a request has more time to be sent."""
_CONNECT = timedelta(seconds=5)
_SILENT = timedelta(seconds=4)
"""Longest time until the first byte of an answer, in which the request is sent, and between two bytes of it."""
_REQUEST = timedelta(seconds=60)
_LARGE_REQUEST = timedelta(seconds=30)
_RETRIES = 3
_RETRY_FOR = timedelta(seconds=10)
"""A bucket that accepts connections and never answers fails a small request after three attempts, in 12 seconds."""
_BACKOFF = timedelta(seconds=0.1), timedelta(seconds=2)


@dataclass(frozen=True)
class S3Address:
    """Where a bucket is, and how it is called.

    Args:
        url: ``s3://BUCKET/PREFIX``; the prefix can be absent.
        endpoint: address of the store; empty: that of AWS.
        sse: ``AES256`` or ``aws:kms:KEY``, sent with each write; empty: the bucket's own default.
    """

    url: str
    endpoint: str = ""
    region: str = "us-east-1"
    is_path_style: bool = False
    sse: str = ""

    @property
    def bucket(self) -> str:
        return urlsplit(self.url).netloc

    @property
    def prefix(self) -> str:
        """Beginning of every key, without a slash at the end."""
        return urlsplit(self.url).path.strip("/")


def open_bucket(address: S3Address) -> S3Objects:
    """The objects of a bucket; nothing is sent. Credentials come from ``AWS_*``, files, or the role of the machine.

    Raises:
        InvalidConfig: ``driver_missing``: the extra ``s3`` is not installed; ``invalid_store``.
    """
    try:
        from obstore.store import S3Store
    except ModuleNotFoundError as error:
        raise InvalidConfig("a store needs obstore: pip install 'pygrid[s3]'", code=codes.DRIVER_MISSING) from error
    options: dict[str, Any] = {
        "region": address.region,
        "virtual_hosted_style_request": not address.is_path_style,
        **_encryption(address.sse),
        **_kept_credentials(),
    }
    if address.endpoint:
        # A virtual-hosted address has the bucket in its host, which obstore expects in the endpoint.
        parts = urlsplit(address.endpoint)
        host = parts.netloc if address.is_path_style else f"{address.bucket}.{parts.netloc}"
        options["endpoint"] = f"{parts.scheme}://{host}{parts.path.rstrip('/')}"

    def open_store(**timeouts: timedelta) -> Any:
        is_plain = address.endpoint.startswith("http://")
        return S3Store(
            address.bucket,
            prefix=address.prefix or None,
            client_options={"connect_timeout": _CONNECT, "allow_http": is_plain, **timeouts},
            retry_config={
                "max_retries": _RETRIES,
                "retry_timeout": _RETRY_FOR,
                "backoff": {"init_backoff": _BACKOFF[0], "max_backoff": _BACKOFF[1], "base": 2},
            },
            **options,
        )

    try:
        return S3Objects(open_store(timeout=_REQUEST, read_timeout=_SILENT), open_store(timeout=_LARGE_REQUEST))
    except Exception as error:
        raise InvalidConfig(f"the store {address.url} cannot be opened: {error}", code=codes.INVALID_STORE) from error


class S3Objects:
    """An `Objects` in a bucket. Threads may share it.

    Args:
        large: the same bucket, for requests that may take longer: with a large body, or a condition.
    """

    def __init__(self, store: Any, large: Any) -> None:
        import obstore
        from obstore import exceptions

        self._api: Any = obstore
        self._missing = (FileNotFoundError, exceptions.NotFoundError)
        self._conflict = (exceptions.AlreadyExistsError, exceptions.PreconditionError)
        self._failed = (exceptions.BaseError, OSError, ValueError)
        self._store, self._large = store, large
        self._parts = ThreadPoolExecutor(_PARTS_AT_ONCE, thread_name_prefix="s3-parts")

    def put(self, key: str, data: Bytes) -> None:
        """Create or replace an object."""
        store = self._store if len(data) < _LARGE_BYTES else self._large
        self._call(key, lambda: self._api.put(store, key, bytes(data), use_multipart=False))

    def create(self, key: str, data: Bytes) -> bool:
        """Create an object; False if there is one."""
        return self.replace(key, data, None)

    def upload(self, key: str, path: Path) -> None:
        """As `put`, for a file of any size; a large one is sent in parts."""
        is_large = path.stat().st_size >= MULTIPART_BYTES
        self._call(
            key,
            lambda: self._api.put(
                self._large, key, path, use_multipart=is_large, chunk_size=PART_BYTES, max_concurrency=_PARTS_AT_ONCE
            ),
        )

    def replace(self, key: str, data: Bytes, etag: str | None) -> bool:
        """Replace a version of an object; None: create it. False: it has changed."""
        mode = "create" if etag is None else {"e_tag": etag}
        try:
            # The client does not repeat it after a timeout, because the first attempt could have done it.
            self._call(key, lambda: self._api.put(self._large, key, bytes(data), mode=mode))
        except _Conflict:
            return False
        return True

    def get_version(self, key: str) -> tuple[bytes, str]:
        """The bytes of a small object and its ETag. Raises ObjectMissing."""

        def get() -> tuple[bytes, str]:
            found = self._api.get(self._store, key)
            return bytes(found.bytes()), str(found.meta["e_tag"])

        return self._call(key, get)

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Bytes of an object from an offset, fewer if it ends before. Raises ObjectMissing."""
        found = self.find(key)
        if found is None:
            raise ObjectMissing(key)
        end = found.size if length is None else min(found.size, start + length)
        begins = range(start, end, PART_BYTES)
        return b"".join(self._parts.map(lambda begin: self._range(key, begin, min(end, begin + PART_BYTES)), begins))

    def download(self, key: str, path: Path) -> None:
        """Write an object to a new file, part by part. Raises ObjectMissing."""
        found = self.find(key)
        if found is None:
            raise ObjectMissing(key)
        with path.open("wb") as file:
            for begin in range(0, found.size, PART_BYTES):
                file.write(self._range(key, begin, min(found.size, begin + PART_BYTES)))

    def find(self, key: str) -> ObjectInfo | None:
        """An object without its bytes; None: there is none."""
        try:
            return _info(self._call(key, lambda: self._api.head(self._store, key)))
        except ObjectMissing:
            return None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """The objects whose key begins with a prefix that ends with a slash; all for an empty one."""
        stream = self._call(prefix, lambda: self._api.list(self._store, prefix.rstrip("/") or None))
        while True:
            page = self._call(prefix, lambda: next(stream, None))
            if page is None:
                return
            yield from map(_info, page)

    def delete(self, keys: Collection[str]) -> None:
        """Delete objects; missing ones are ignored."""
        for key in keys:
            with contextlib.suppress(ObjectMissing):
                self._call(key, partial(self._api.delete, self._store, key))

    def _range(self, key: str, start: int, end: int) -> Bytes:
        found: Bytes = self._call(key, lambda: self._api.get_range(self._store, key, start=start, end=end))
        return found

    def _call(self, key: str, fn: Callable[[], T]) -> T:
        try:
            return fn()
        except self._missing:
            raise ObjectMissing(key) from None
        except self._conflict:
            raise _Conflict from None
        except self._failed as error:
            reason = str(error).strip().split("\n")[0]
            # The client counts its retries in the text, which has no secrets: it signs, but never shows the signature.
            logger.error("store failed", extra={"key": key, "reason": reason[:500]})
            raise store_failed(type(error).__name__) from error


class _Conflict(Exception):
    """The object is there already, or is not the version that was expected."""


def _info(meta: dict[str, Any]) -> ObjectInfo:
    return ObjectInfo(meta["path"], meta["size"], meta["last_modified"])


def _encryption(sse: str) -> dict[str, str]:
    if not sse:
        return {}
    kind, _, key = sse.removeprefix("aws:").partition(":")
    if kind == "kms":
        return {"server_side_encryption": "aws:kms", **({"sse_kms_key_id": key} if key else {})}
    return {"server_side_encryption": sse}


def _kept_credentials() -> dict[str, str]:
    """Credentials in the shared file of the AWS tools, which count if ``AWS_ACCESS_KEY_ID`` is not set."""
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        return {}
    path = Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")).expanduser()
    parser = configparser.RawConfigParser()
    try:
        parser.read(path)
        found = parser[os.environ.get("AWS_PROFILE", "default")]
    except (KeyError, configparser.Error, OSError):
        return {}
    names = {"access_key_id": "aws_access_key_id", "secret_access_key": "aws_secret_access_key"}
    names["session_token"] = "aws_session_token"
    return {name: found[field] for name, field in names.items() if field in found}
