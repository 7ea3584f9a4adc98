"""Messages of model owners: host a process, look at it."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal

import msgspec


class HostRequest(msgspec.Struct):
    """The ``config`` part of hosting (multipart form): the other parts are ``model`` (safetensors bytes), one
    ``plan:NAME`` for each plan, and at most one ``averaging_plan``.

    ``client_config`` needs ``name`` and ``version``; the rest of it is passed through to clients. ``server_config``:
    `pygrid.core.process_config.ServerConfig`.
    """

    client_config: dict[str, Any]
    server_config: dict[str, Any]


class DraftRequest(HostRequest):
    """The ``config`` part of a draft; the other parts are as for hosting."""

    notes: dict[str, Any] = {}
    """Whatever its maker wants to find there later; at most 128 KiB as JSON."""


class NotesRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Other notes for a draft, in place of those that it has."""

    notes: dict[str, Any]


class HostDraftRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Host a draft, with this configuration in place of the one that it has."""

    server_config: dict[str, Any]


class DraftFile(msgspec.Struct, frozen=True):
    """What is hosted with a draft: a part of its form."""

    part: str
    """``model``, ``plan:NAME`` or ``averaging_plan``."""
    hash: str
    size_bytes: int


class DraftInfo(msgspec.Struct):
    """A process that is to be hosted later, as its maker alone sees it: with secrets."""

    id: int
    name: str
    version: str
    client_config: dict[str, Any]
    server_config: dict[str, Any]
    notes: dict[str, Any]
    files: list[DraftFile]
    """Empty once it is hosted."""
    process: int | None
    """Id of the process, once it is hosted."""
    created_at: dt.datetime


class DraftList(msgspec.Struct):
    drafts: list[DraftInfo]


class DraftRemoved(msgspec.Struct):
    id: int


class PlanInfo(msgspec.Struct):
    """A plan of a process; ``plan_hash`` is its identity."""

    id: int
    name: str
    kind: Literal["training", "averaging"]
    plan_hash: str
    size_bytes: int


class RestoreRequest(msgspec.Struct):
    """Which checkpoint a process goes on from."""

    checkpoint: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]


class CycleInfo(msgspec.Struct):
    """One cycle and what it brought.

    ``metrics``: what clients reported, averaged with their weights. ``bytes_received``: of the accepted reports.
    """

    sequence: int
    state: Literal["hosted", "open", "closing", "completed"]
    attempt: int
    checkpoint: int
    num_assigned: int
    num_reports: int
    num_examples: int
    num_clipped: int
    bytes_received: int
    metrics: dict[str, float]
    created_at: dt.datetime
    opened_at: dt.datetime | None
    deadline_at: dt.datetime | None
    completed_at: dt.datetime | None


class Contribution(msgspec.Struct, frozen=True):
    """One accepted report, and who sent it."""

    id: int
    cycle: int
    client: str
    """Whom its token named; empty where clients have no names."""
    num_examples: int
    weight: int
    """With which it goes into the average."""
    norm: float
    scale: float
    """Below 1 if it was clipped; 1 until its cycle is completed."""
    metrics: dict[str, float]
    received_at: dt.datetime


class ContributionList(msgspec.Struct, frozen=True):
    contributions: list[Contribution]


class CheckpointInfo(msgspec.Struct):
    """One state of the model. ``alias`` is ``latest`` for the newest, else empty."""

    number: int
    alias: str
    model_hash: str
    size_bytes: int
    created_at: dt.datetime


class ProcessInfo(msgspec.Struct):
    """A hosted process as its owner sees it."""

    id: int
    name: str
    version: str
    state: Literal["active", "finished"]
    created_at: dt.datetime
    num_parameters: int
    model_bytes: int
    num_checkpoints: int
    plans: list[PlanInfo]
    client_config: dict[str, Any]
    server_config: dict[str, Any]
    """As the server understood it: with every default filled in, secrets left out."""
    cycle: CycleInfo | None
    """The newest cycle."""


class Event(msgspec.Struct):
    """One change in the life of a process, as sent by the event stream (SSE: ``id``, ``event`` = kind, ``data``
    = this).
    """

    id: int
    kind: Literal[
        "process_hosted",
        "cycle_waiting",
        "cycle_opened",
        "cycle_closing",
        "cycle_expired",
        "cycle_completed",
        "checkpoint_restored",
        "process_finished",
    ]
    at: dt.datetime
    cycle: int
    data: dict[str, Any]
