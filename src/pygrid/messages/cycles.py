"""Messages between an edge client and a Domain; the published API calls the client ``worker``.

The clients of 2020 reject unknown fields. The fields that pygrid adds are therefore absent (`msgspec.UNSET`) unless
the request has ``wait_s``, which marks a client of pygrid.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

MAX_WAIT_S = 120.0


class AuthenticateRequest(msgspec.Struct):
    """Become a client of a process. Without ``model_version`` it is the newest process of that name."""

    model_name: str
    model_version: str | None = None
    auth_token: str | None = None


class AuthenticateResponse(msgspec.Struct):
    status: Literal["success"]
    worker_id: str
    requires_speed_test: bool


class CycleRequest(msgspec.Struct):
    """Ask to take part in the current cycle of a process.

    ``ping`` is in milliseconds, ``download`` and ``upload`` are in Mbit/s. With ``wait_s`` the Domain holds the answer
    up to that many seconds until there is work; 0 asks for an immediate answer.
    """

    worker_id: str
    model: str
    version: str | None = None
    ping: float | None = None
    download: float | None = None
    upload: float | None = None
    wait_s: float | None = None


class CycleAccepted(msgspec.Struct):
    """The client is admitted: it downloads the model and plans with the key, trains, and reports with the key."""

    status: Literal["accepted"]
    request_key: str
    version: str
    model: str
    plans: dict[str, int]
    protocols: dict[str, int]
    client_config: dict[str, Any]
    model_id: int
    cycle: int | UnsetType = UNSET
    """Number of the cycle, from 1."""
    checkpoint: int | UnsetType = UNSET
    """Number of the checkpoint that this cycle starts from."""
    model_hash: str | UnsetType = UNSET
    """SHA-256 of the model's bytes, as in the ``ETag`` of its download."""
    plan_hashes: dict[str, str] | UnsetType = UNSET
    """SHA-256 of each plan's bytes: the plan id."""
    deadline_s: float | UnsetType | None = UNSET
    """Seconds until the cycle ends; null: no limit."""
    grace_s: float | UnsetType = UNSET
    """Seconds after the end of the cycle in which this client may still report."""
    max_report_bytes: int | UnsetType = UNSET


RefusalReason = Literal[
    "cycle_full",
    "already_assigned",
    "waiting_for_workers",
    "resting",
    "too_slow",
    "not_drawn",
    "places_kept",
    "between_cycles",
    "training_finished",
    "process_paused",
]


class CycleRejected(msgspec.Struct, omit_defaults=True):
    """The client is not admitted. ``timeout``: seconds until the next request; absent: the training has ended."""

    status: Literal["rejected"]
    error: str | UnsetType = UNSET
    """The fault in the request of a client of 2020, which gets it with the status 200."""
    timeout: int | UnsetType = UNSET
    reason: RefusalReason | UnsetType = UNSET
    detail: str | UnsetType = UNSET


class ReportRefused(msgspec.Struct):
    """The report of a client of 2020 was refused; the HTTP status is 200."""

    error: str


class ReportAccepted(msgspec.Struct):
    """The report is durable and will be in exactly one checkpoint. The answer to a repeated report is the same."""

    status: Literal["success"]


class LeaveRequest(msgspec.Struct):
    """A client leaves a process."""

    worker_id: str
    model: str
    version: str | None = None


class LeaveResponse(msgspec.Struct):
    """The client has left. Cycles of a process with ``named_clients`` no longer wait for it."""

    status: Literal["success"]
