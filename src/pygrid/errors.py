"""The errors of pygrid: one tree of classes.

    PygridError
    ├── InvalidInput             400  input is malformed or out of range
    │   ├── InvalidTensors       400  the bytes are not a valid file of named arrays
    │   ├── ShapeMismatch        400  names, shapes or dtypes differ from the expected ones
    │   ├── NonFinite            400  a value is NaN or infinite
    │   ├── InvalidPlan          400  the gate rejected a plan
    │   ├── InvalidConfig        400  a configuration value is not valid
    │   └── InvalidDataset       400  a file cannot be read as a table of records
    ├── Unauthenticated          401  credentials are missing, not valid, or expired
    │   └── InvalidCredentials   401  the password is wrong, or the token belongs to no valid session
    ├── Forbidden                403  the caller is known, and lacks the permission
    │   └── IdentityChanged      403  the server is not the Domain that is known; nothing was sent
    ├── NotFound                 404  it does not exist, or the caller may not see it
    ├── Conflict                 409  it exists already, or another request changed it first
    ├── Gone                     410  it existed, and has ended
    ├── PreconditionFailed       412  it changed after the caller read it
    ├── PayloadTooLarge          413  there are more bytes than the limit
    ├── TooSlow                  408  the peer stalled
    ├── UnsupportedMediaType     415  the route does not read this content type
    ├── RangeNotSatisfiable      416  the file ends before the requested range begins
    ├── WrongHost                421  the request names another server
    ├── TooManyRequests          429  retry after `retry_after_s` seconds
    ├── Unavailable              503  the server cannot do this at present
    ├── StorageFull              507  the disk of the server is full
    └── AuthoringError                the source of a plan cannot be turned into a plan (client side only)

Each error has a stable ``code`` (snake_case, part of the public interface), an HTTP ``status``, a ``detail`` for
people, and ``fields``: the ids and values involved. Over HTTP an error is a problem document (RFC 9457), whose title is
the name of the class in words. The SDKs turn the document back into the same class with `from_problem`.
"""

from __future__ import annotations

import errno
from typing import Any, ClassVar

from pygrid import codes


class PygridError(Exception):
    """Base class of every error that pygrid raises on purpose."""

    status: ClassVar[int] = 500
    default_code: ClassVar[str] = codes.INTERNAL

    def __init__(self, detail: str, *, code: str | None = None, **fields: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = str(code or self.default_code)
        self.fields = fields

    @classmethod
    def title_of(cls) -> str:
        """The name of the class in words, for example ``Shape mismatch``. `from_problem` finds the class by it."""
        words = "".join(f" {c.lower()}" if c.isupper() else c for c in cls.__name__).strip()
        return words.capitalize()

    def to_problem(self) -> dict[str, Any]:
        """The problem document (RFC 9457) of this error, ready for JSON."""
        return {
            "type": f"urn:pygrid:error:{self.code}",
            "title": self.title_of(),
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            **self.fields,
        }


class InvalidInput(PygridError):
    status, default_code = 400, codes.INVALID_INPUT


class InvalidTensors(InvalidInput):
    default_code = codes.INVALID_TENSORS


class ShapeMismatch(InvalidInput):
    default_code = codes.SHAPE_MISMATCH


class NonFinite(InvalidInput):
    default_code = codes.NON_FINITE


class InvalidPlan(InvalidInput):
    default_code = codes.INVALID_PLAN


class InvalidConfig(InvalidInput):
    default_code = codes.INVALID_CONFIG


class InvalidDataset(InvalidInput):
    default_code = codes.INVALID_DATASET


class Unauthenticated(PygridError):
    status, default_code = 401, codes.UNAUTHENTICATED


class InvalidCredentials(Unauthenticated):
    default_code = codes.INVALID_CREDENTIALS


class Forbidden(PygridError):
    status, default_code = 403, codes.FORBIDDEN


class IdentityChanged(Forbidden):
    default_code = codes.IDENTITY_CHANGED


class NotFound(PygridError):
    status, default_code = 404, codes.NOT_FOUND


class TooSlow(PygridError):
    status, default_code = 408, codes.TOO_SLOW


class Conflict(PygridError):
    status, default_code = 409, codes.CONFLICT


class Gone(PygridError):
    status, default_code = 410, codes.GONE


class PreconditionFailed(PygridError):
    status, default_code = 412, codes.PRECONDITION_FAILED


class PayloadTooLarge(PygridError):
    status, default_code = 413, codes.PAYLOAD_TOO_LARGE


class UnsupportedMediaType(PygridError):
    status, default_code = 415, codes.UNSUPPORTED_MEDIA_TYPE


class RangeNotSatisfiable(PygridError):
    status, default_code = 416, codes.RANGE_NOT_SATISFIABLE


class WrongHost(PygridError):
    status, default_code = 421, codes.UNKNOWN_HOST


class TooManyRequests(PygridError):
    status, default_code = 429, codes.TOO_MANY_REQUESTS


class Unavailable(PygridError):
    status, default_code = 503, codes.UNAVAILABLE


class StorageFull(PygridError):
    status, default_code = 507, codes.STORAGE_FULL


class AuthoringError(PygridError):
    default_code = codes.AUTHORING_ERROR


STORAGE_RETRY_S = 30
"""Seconds after which to repeat a call that found a full or faulty disk. An operator has to act first."""


def storage_full() -> StorageFull:
    """The error for a full disk."""
    return StorageFull(
        "the disk of this server is full, so nothing was stored; ask its operator to free space",
        retry_after_s=STORAGE_RETRY_S,
    )


def explain_os_error(error: BaseException) -> PygridError | None:
    """The error for a fault of the disk; None: ``error`` is something else.

    A quota and a limit on the size of files (``ulimit -f``) count as a full disk. A disk that reports an I/O error, or
    that the kernel has made read-only after one, is `Unavailable` (``storage_unavailable``).
    """
    if not isinstance(error, OSError):
        return None
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return storage_full()
    if error.errno in (errno.EIO, errno.EROFS):
        return Unavailable(
            "the disk of this server cannot be used now; ask its operator to look at it",
            code=codes.STORAGE_UNAVAILABLE,
            retry_after_s=STORAGE_RETRY_S,
        )
    return None


_PUBLISHED = 400
"""Status of most refusals of the published interface, whatever is refused."""


def _find_class(title: object, code: str, status: int) -> type[PygridError]:
    """The class with this title and status; else, for a published refusal, the one with this title; else the one with
    this default code; else the first with this status.
    """
    classes: list[type[PygridError]] = [PygridError]
    for cls in classes:  # grows while it is read, so that parents come before their children
        classes.extend(cls.__subclasses__())
    for fits in (
        lambda cls: cls.title_of() == title and cls.status == status,
        lambda cls: cls.title_of() == title and status == _PUBLISHED and cls is not PygridError,
        lambda cls: cls.default_code == code and cls is not PygridError,
        lambda cls: cls.status == status,
    ):
        found = next(filter(fits, classes), None)
        if found is not None:
            return found
    return PygridError


_RESERVED = frozenset({"type", "title", "status", "detail", "code", "self"})


def from_problem(problem: dict[str, Any]) -> PygridError:
    """The error that a problem document describes, in the class that it was raised as.

    The title names the class, independent of the code. If no class has the title, the class is found by the code, else
    by the status.
    """
    code = str(problem.get("code", "internal"))
    raw_status = problem.get("status")
    status = raw_status if isinstance(raw_status, int) else 500
    cls = _find_class(problem.get("title"), code, status)
    fields = {k: v for k, v in problem.items() if k not in _RESERVED}
    return cls(str(problem.get("detail", code)), code=code, **fields)
