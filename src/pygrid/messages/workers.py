"""Messages between a Domain and Workers on other machines, and of those who let them in."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec

MAX_WAIT_S = 60.0
"""How long an answer to `LeaseRequest` may be held at most."""


class TokenRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Let a machine in under a name."""

    name: str


class WorkerInfo(msgspec.Struct, frozen=True):
    """A Worker on another machine that was let in."""

    id: int
    name: str
    created_at: dt.datetime
    last_seen_at: dt.datetime | None
    num_waiting: int
    """Jobs that it could take now."""
    num_running: int


class NewWorker(msgspec.Struct, frozen=True):
    """A Worker that was let in just now; ``token`` is in this answer and never again."""

    id: int
    name: str
    token: str


class WorkerList(msgspec.Struct, frozen=True):
    workers: list[WorkerInfo]


class WorkerRemoved(msgspec.Struct, frozen=True):
    """A Worker that is let in no more."""

    id: int


class LeaseRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A Worker that could take a job."""

    layers: tuple[str, ...]
    """Of its sandbox, those that hold."""
    is_sound: bool
    """Whether they are enough for a stranger's plan."""
    wait_s: float = 0.0
    """Hold the answer so long, at most, until there is a job."""


class LeasedFile(msgspec.Struct, frozen=True):
    """A file that a job needs."""

    hash: str
    """SHA-256 of its bytes: what the specification says in place of a path, and what it is asked for by."""
    num_bytes: int


class Lease(msgspec.Struct, frozen=True):
    """A job for one Worker, until ``expires_in_s`` after it was renewed last; renew it once before anything is done."""

    id: str
    expires_in_s: float
    spec: dict[str, Any]
    """`pygrid.core.job_spec.JobSpec`, with hashes in place of paths."""
    files: list[LeasedFile]


class LeaseAnswer(msgspec.Struct, frozen=True):
    """None: there is no job now."""

    lease: Lease | None = None


class RenewRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The job goes on. ``progress`` (`pygrid.core.job_spec.Progress`) is for exact jobs alone."""

    progress: dict[str, Any] | None = None


class Renewed(msgspec.Struct, frozen=True):
    expires_in_s: float


class LeaseGivenBack(msgspec.Struct, frozen=True):
    """The Worker has the job no more; it runs elsewhere, or has failed."""

    lease: str


class ResultTaken(msgspec.Struct, frozen=True):
    """The Domain has the result; the lease is over."""

    lease: str
