"""Calls that may be sent twice and are done once: what identifies such a call, and what its answer is.

A client gives a call a name of its own (`Idempotency-Key`). A second call with the same name gets the answer of the
first.

    key arrives --> claimed --> effect and answer in one transaction --> answered
                      |                                                     |
                      | a second call meanwhile: in progress                | a second call later: the same answer,
                      |                                                     | or refused if its body is another
                      +--> refused or crashed: nothing is kept, the next call begins again

`current_call` is the call that this task works on; `pygrid.storage.idempotency.once` reads it.
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
"""An answer is repeated for this time; then its key is free again."""
MAX_ANSWERS = 1000
"""Answers kept for one user; the oldest ones are dropped first."""
MAX_ANSWERS_BYTES = 32 * 1024**2
"""Bytes of the answers kept for one user; the oldest ones are dropped first."""


@dataclass(frozen=True)
class CallScope:
    """What a key is unique within."""

    user_id: int
    route: str
    """Method and template of the path, ``POST /data-centric/jobs``."""
    key_hash: str
    """SHA-256 of the key, in hex."""


@dataclass(frozen=True)
class KeptAnswer:
    """The answer to a call that was done."""

    fingerprint: str
    body_bytes: int
    """Of the call's body: the contents of its parts."""
    status: int
    answer: bytes | None
    """JSON; None: it held a secret, so it was not kept."""


class BodyHash:
    """The identity of a body, computed while it arrives.

    A form is the set of its parts by name: their order and the boundary between them do not count. Any other body is
    its bytes.
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
        """SHA-256 in hex of the body and of ``target``, the path and query that it was sent to."""
        return hashlib.sha256(msgspec.json.encode([target, sorted(self._parts.items())])).hexdigest()


@dataclass
class RepeatableCall:
    """A call with a key, while it is worked on."""

    scope: CallScope
    target: str
    """Path and query."""
    status: int
    """Of its answer, if it is done."""
    shape: Callable[[Any], object]
    """From what the use case returns to the message that is the answer."""
    keeps_answer: bool
    now: dt.datetime
    body: BodyHash = field(default_factory=BodyHash)
    answer: bytes | None = None
    """JSON, once the call is done."""

    def encode(self, result: object) -> bytes:
        """The answer, when the use case has returned ``result``."""
        self.answer = msgspec.json.encode(self.shape(result))
        return self.answer

    def keep(self, answer: bytes) -> KeptAnswer:
        """What is kept of the call."""
        kept = answer if self.keeps_answer else None
        return KeptAnswer(self.body.digest(self.target), self.body.num_bytes, self.status, kept)


def in_progress() -> Conflict:
    """The refusal of a call while another one with its key is worked on."""
    return Conflict(
        "a call with this Idempotency-Key is in progress: send the same call again in a moment to get its answer",
        code=codes.IDEMPOTENCY_IN_PROGRESS,
        retry_after_s=1,
    )


current_call: ContextVar[RepeatableCall | None] = ContextVar("current_call", default=None)
"""The call that this task works on; None: it has no key."""
