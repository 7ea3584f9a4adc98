"""The errors of pygrid, one tree.

    PygridError
    ├── InvalidInput             400  malformed or out-of-range input
    │   ├── InvalidTensors       400  bytes that are not a valid named-array file
    │   ├── ShapeMismatch        400  names, shapes or dtypes differ from what is expected
    │   ├── NonFinite            400  NaN or infinity where a number is needed
    │   ├── InvalidPlan          400  a plan that the gate refuses
    │   ├── InvalidConfig        400  a configuration value that makes no sense
    │   └── InvalidDataset       400  a file that cannot be read as a table of records
    ├── Unauthenticated          401  no credentials, or credentials that are not (or no longer) good
    │   └── InvalidCredentials   401  a wrong password, or a token of no session that is good now
    ├── Forbidden                403  known, but not permitted
    │   └── IdentityChanged      403  another answers than the Domain that is known; nothing was sent
    ├── NotFound                 404  no such thing, or not visible to the caller
    ├── Conflict                 409  it exists already, or another request won
    ├── Gone                     410  it was there, and is over
    ├── PayloadTooLarge          413  more bytes than the limit
    ├── TooSlow                  408  the peer stalled
    ├── TooManyRequests          429  come back after `retry_after_s`
    ├── Unavailable              503  the server cannot do this now
    └── AuthoringError           a plan's source that cannot be turned into a plan (client side only)

Each error carries a stable ``code`` (snake_case, part of the published interface), an HTTP ``status``, a ``detail`` for people,
and ``fields``: the ids and values involved. Over HTTP it is a problem document (RFC 9457); the SDKs turn ``code`` back into the
same class through `from_problem`.
"""

from __future__ import annotations

from typing import Any, ClassVar


class PygridError(Exception):
    """Base of every error that pygrid raises on purpose."""

    status: ClassVar[int] = 500
    default_code: ClassVar[str] = "internal"

    def __init__(self, detail: str, *, code: str | None = None, **fields: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or self.default_code
        self.fields = fields

    @property
    def title(self) -> str:
        """The class name in words, e.g. ``Shape mismatch``."""
        name = type(self).__name__
        words = "".join(f" {c.lower()}" if c.isupper() else c for c in name).strip()
        return words.capitalize()

    def to_problem(self) -> dict[str, Any]:
        """The problem document (RFC 9457) of this error, ready for JSON."""
        return {
            "type": f"urn:pygrid:error:{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            **self.fields,
        }


class InvalidInput(PygridError):
    status, default_code = 400, "invalid_input"


class InvalidTensors(InvalidInput):
    default_code = "invalid_tensors"


class ShapeMismatch(InvalidInput):
    default_code = "shape_mismatch"


class NonFinite(InvalidInput):
    default_code = "non_finite"


class InvalidPlan(InvalidInput):
    default_code = "invalid_plan"


class InvalidConfig(InvalidInput):
    default_code = "invalid_config"


class InvalidDataset(InvalidInput):
    default_code = "invalid_dataset"


class Unauthenticated(PygridError):
    status, default_code = 401, "unauthenticated"


class InvalidCredentials(Unauthenticated):
    default_code = "invalid_credentials"


class Forbidden(PygridError):
    status, default_code = 403, "forbidden"


class IdentityChanged(Forbidden):
    default_code = "identity_changed"


class NotFound(PygridError):
    status, default_code = 404, "not_found"


class TooSlow(PygridError):
    status, default_code = 408, "too_slow"


class Conflict(PygridError):
    status, default_code = 409, "conflict"


class Gone(PygridError):
    status, default_code = 410, "gone"


class PayloadTooLarge(PygridError):
    status, default_code = 413, "payload_too_large"


class TooManyRequests(PygridError):
    status, default_code = 429, "too_many_requests"


class Unavailable(PygridError):
    status, default_code = 503, "unavailable"


class AuthoringError(PygridError):
    default_code = "authoring_error"


def _by_code_and_status() -> tuple[dict[str, type[PygridError]], dict[int, type[PygridError]]]:
    codes: dict[str, type[PygridError]] = {}
    statuses: dict[int, type[PygridError]] = {}
    todo = list(PygridError.__subclasses__())
    while todo:
        cls = todo.pop(0)
        codes[cls.default_code] = cls
        statuses.setdefault(cls.status, cls)
        todo.extend(cls.__subclasses__())
    return codes, statuses


_RESERVED = frozenset({"type", "title", "status", "detail", "code"})


def from_problem(problem: dict[str, Any]) -> PygridError:
    """The error that a problem document describes: by its code if that names a class, else by its status."""
    codes, statuses = _by_code_and_status()
    code = str(problem.get("code", "internal"))
    raw_status = problem.get("status")
    status = raw_status if isinstance(raw_status, int) else 500
    cls = codes.get(code) or statuses.get(status, PygridError)
    fields = {k: v for k, v in problem.items() if k not in _RESERVED}
    return cls(str(problem.get("detail", code)), code=code, **fields)
