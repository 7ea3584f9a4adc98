"""Idempotent calls: a call that is sent twice takes effect once.

A client sends a key with a call (`Idempotency-Key`). A second call with the same key gets the answer of the first.

    key arrives --> claimed --> effect and answer in one transaction --> answered
                      |                                                     |
                      | a second call now: ``in_progress``                  | a second call later: the same answer,
                      |                                                     | or an error if its body differs
                      +--> refused or crashed: nothing is stored, the next call starts again

`current_call` is the call of the current task; `pygrid.storage.idempotency.once` reads it.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import msgspec

from pygrid import codes
from pygrid.errors import Conflict

KEEP = dt.timedelta(hours=48)
"""Time for which an answer is repeated. Then the key is free again."""
MAX_ANSWERS = 1000
"""Stored answers of a user; the oldest ones are deleted first."""
MAX_ANSWERS_BYTES = 32 * 1024**2
"""Bytes of the stored answers of a user; the oldest ones are deleted first."""


@dataclass(frozen=True)
class CallScope:
    """The scope in which a key is unique."""

    user_id: int
    route: str
    """Method and template of the path, ``POST /data-centric/jobs``."""
    key_hash: str
    """SHA-256 of the key, in hex."""


@dataclass(frozen=True)
class KeptAnswer:
    """The stored answer to a finished call."""

    fingerprint: str
    body_bytes: int
    """Bytes of the request body, or of the contents of its parts."""
    status: int
    answer: bytes | None
    """JSON. None: the answer had a secret, so it was not stored."""


class BodyHash:
    """The hash of a body, computed while it arrives.

    For a form it covers the parts by name, not their order or boundary. For any other body it covers the bytes.
    """

    def __init__(self) -> None:
        self.num_bytes = 0
        self._parts: dict[str, str] = {}
        self._name = ""
        self._hash = hashlib.sha256()

    def begin(self, name: str) -> None:
        """A part of a form begins."""
        self._name, self._hash = name, hashlib.sha256()

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """More bytes of the body, or of the part that has begun."""
        self._hash.update(data)
        self.num_bytes += len(data)

    def end(self) -> None:
        """The part, or the body, is complete."""
        self._parts[self._name] = self._hash.hexdigest()

    def digest(self, target: str) -> str:
        """SHA-256 in hex of the body and of ``target``, the path and query of the request."""
        return hashlib.sha256(msgspec.json.encode([target, sorted(self._parts.items())])).hexdigest()


@dataclass
class RepeatableCall:
    """A call with a key, during its execution."""

    scope: CallScope
    target: str
    """Path and query."""
    status: int
    """Status of the answer after success."""
    shape: Callable[[Any], object]
    """Makes the answer from the result of the use case."""
    keeps_answer: bool
    now: dt.datetime
    body: BodyHash = field(default_factory=BodyHash)
    answer: bytes | None = None
    """JSON, after the call."""

    def encode(self, result: object) -> bytes:
        """The answer for the result of the use case."""
        self.answer = msgspec.json.encode(self.shape(result))
        return self.answer

    def keep(self, answer: bytes) -> KeptAnswer:
        """The stored form of the call and its answer."""
        kept = answer if self.keeps_answer else None
        return KeptAnswer(self.body.digest(self.target), self.body.num_bytes, self.status, kept)


def in_progress() -> Conflict:
    """The error of a call while another one with its key is executed."""
    return Conflict(
        "a call with this Idempotency-Key is in progress: send the same call again in a moment to get its answer",
        code=codes.IDEMPOTENCY_IN_PROGRESS,
        retry_after_s=1,
    )


current_call: ContextVar[RepeatableCall | None] = ContextVar("current_call", default=None)
"""The call of the current task. None: it has no key."""
