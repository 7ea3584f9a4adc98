"""Messages between a Domain and Workers on other machines, and about the authorization of Workers."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec

MAX_WAIT_S = 60.0
"""Maximum time that the answer to a `LeaseRequest` is held."""


class TokenRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Authorizes a machine under a name."""

    name: str


class WorkerInfo(msgspec.Struct, frozen=True):
    """An authorized Worker on another machine."""

    id: int
    name: str
    created_at: dt.datetime
    last_seen_at: dt.datetime | None
    num_waiting: int
    """Number of jobs that the Worker could take now."""
    num_running: int


class NewWorker(msgspec.Struct, frozen=True):
    """A newly authorized Worker. ``token`` is in this answer only."""

    id: int
    name: str
    token: str


class NodeWorkers(msgspec.Struct, frozen=True):
    """The ids of the nodes that clients of 2020 connected to the Domain."""

    success: bool
    workers: list[str]


class WorkerList(msgspec.Struct, frozen=True):
    workers: list[WorkerInfo]


class WorkerRemoved(msgspec.Struct, frozen=True):
    """A Worker that is no longer authorized."""

    id: int


class LeaseRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A Worker requests a job."""

    layers: tuple[str, ...]
    """Layers of the sandbox that work on the machine."""
    is_sound: bool
    """Whether these layers suffice for untrusted plans."""
    wait_s: float = 0.0
    """Maximum time to hold the answer until there is a job."""


class LeasedFile(msgspec.Struct, frozen=True):
    """A file that a job needs."""

    hash: str
    """SHA-256 of its bytes. It replaces the path in the specification, and is part of the URL of the file."""
    num_bytes: int


class Lease(msgspec.Struct, frozen=True):
    """A job for one Worker, until ``expires_in_s`` after the last renewal. The Worker renews it before it starts."""

    id: str
    expires_in_s: float
    spec: dict[str, Any]
    """`pygrid.core.job_spec.JobSpec` with hashes instead of paths."""
    files: list[LeasedFile]


class LeaseAnswer(msgspec.Struct, frozen=True):
    """The answer to a `LeaseRequest`. None: there is no job now."""

    lease: Lease | None = None


class ClaimRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A Worker that an engine started requests its job with its start token."""

    layers: tuple[str, ...]
    """Layers of the sandbox that work on the machine."""
    is_sound: bool
    """Whether these layers suffice for untrusted plans."""


class ClaimAnswer(msgspec.Struct, frozen=True):
    """The job of a start token, which is no longer valid."""

    lease: Lease
    secret: str
    """The credential of the Worker for this lease; it is in this answer only."""


class RenewRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Renews a lease. ``progress`` (`pygrid.core.job_spec.Progress`) is for non-private jobs only."""

    progress: dict[str, Any] | None = None


class Renewed(msgspec.Struct, frozen=True):
    expires_in_s: float


class LeaseGivenBack(msgspec.Struct, frozen=True):
    """The Worker has returned the job. The job runs elsewhere, or has failed."""

    lease: str


class ResultTaken(msgspec.Struct, frozen=True):
    """The Domain has stored the result, and the lease has ended."""

    lease: str
