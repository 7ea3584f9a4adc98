"""Downloads, checked against the SHA-256 that the Domain sends as ``ETag``."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from pygrid import codes
from pygrid.errors import PygridError
from pygrid.transport import Api, Request, Response

MAX_MEMORY_BYTES = 4 * 1024**3
"""Limit of a download to memory."""
MAX_FILE_BYTES = 64 * 1024**3
"""Limit of a download to a file."""


def read_checked(api: Api, request: Request) -> bytearray:
    """The bytes of an answer.

    Raises:
        PygridError: the Domain's refusal, ``content_mismatch`` or ``answer_too_large``.
    """
    return api.exchange(request, _read)


def write_checked(api: Api, request: Request, path: str | os.PathLike[str]) -> Path:
    """Write an answer to a file, completely or not at all, and return its path.

    Raises:
        As `read_checked`, or OSError if the file cannot be written. Then the file is unchanged.
    """
    target = Path(path)
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    draft = Path(name)
    try:
        os.close(descriptor)
        api.exchange(request, lambda response: _write(response, draft))
        draft.chmod(0o644)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    return target


def _read(response: Response) -> bytearray:
    data = response.collect(MAX_MEMORY_BYTES)
    _check_etag(response, hashlib.sha256(data).hexdigest())
    return data


def _write(response: Response, path: Path) -> None:
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for chunk in response.chunks():
            digest.update(chunk)
            file.write(chunk)
            if file.tell() > MAX_FILE_BYTES:
                raise PygridError(f"the download is longer than {MAX_FILE_BYTES:,} bytes", code=codes.ANSWER_TOO_LARGE)
    _check_etag(response, digest.hexdigest())


def _check_etag(response: Response, digest: str) -> None:
    announced = response.headers.get("etag", "").strip('"')
    if announced and announced != digest:
        raise PygridError("the download has another SHA-256 than the Domain announced", code=codes.CONTENT_MISMATCH)
