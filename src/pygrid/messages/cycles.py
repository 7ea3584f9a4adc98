"""Messages between an edge client and a Domain; the published API calls the client ``worker``.

The clients of 2020 read answers strictly, so what is native is left out (`msgspec.UNSET`) unless the request was
native: it has ``wait_s``.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

MAX_WAIT_S = 120.0


class AuthenticateRequest(msgspec.Struct):
    """Become a client of a process: ``model_version`` absent means the newest process of that name."""

    model_name: str
    model_version: str | None = None
    auth_token: str | None = None


class AuthenticateResponse(msgspec.Struct):
    status: Literal["success"]
    worker_id: str
    requires_speed_test: bool


class CycleRequest(msgspec.Struct):
    """Ask to take part in the current cycle of a process.

    ``ping`` in milliseconds, ``download`` and ``upload`` in Mbit/s. ``wait_s``: hold the answer up to that many seconds
    until there is work; 0 asks for an answer at once; present at all, it marks a native client.
    """

    worker_id: str
    model: str
    version: str | None = None
    ping: float | None = None
    download: float | None = None
    upload: float | None = None
    wait_s: float | None = None


class CycleAccepted(msgspec.Struct):
    """Admission: download model and plans with the key, train, report with the key."""

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
    max_report_bytes: int | UnsetType = UNSET


RefusalReason = Literal[
    "cycle_full",
    "already_assigned",
    "waiting_for_workers",
    "resting",
    "too_slow",
    "not_drawn",
    "between_cycles",
    "training_finished",
]


class CycleRejected(msgspec.Struct, omit_defaults=True):
    """Not now. ``timeout``: whole seconds after which to ask again; absent: training is over."""

    status: Literal["rejected"]
    timeout: int | UnsetType = UNSET
    reason: RefusalReason | UnsetType = UNSET
    detail: str | UnsetType = UNSET


class ReportAccepted(msgspec.Struct):
    """The report is durable and will be in exactly one checkpoint. The answer to a repeated report is the same."""

    status: Literal["success"]


class LeaveRequest(msgspec.Struct):
    """A client takes no further part in a process."""

    worker_id: str
    model: str
    version: str | None = None


class LeaveResponse(msgspec.Struct):
    """Of a process with ``named_clients`` the present cycle, and all later ones, do not wait for the client any
    more.
    """

    status: Literal["success"]
