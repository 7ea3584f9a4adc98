"""Messages of model owners about hosted processes."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal

import msgspec


class HostRequest(msgspec.Struct):
    """The ``config`` part of the form that hosts a process (multipart).

    The other parts are ``model`` (safetensors bytes), one ``plan:NAME`` for each plan, and at most one
    ``averaging_plan``. ``client_config`` needs ``name`` and ``version``; clients receive it unchanged. The fields of
    ``server_config`` are those of `pygrid.configuration.ServerConfig`.
    """

    client_config: dict[str, Any]
    server_config: dict[str, Any]


class DraftRequest(HostRequest):
    """The ``config`` part of a draft. The other parts are as for hosting."""

    notes: dict[str, Any] = {}
    """Any notes of its creator; at most 128 KiB as JSON."""


class NotesRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Replaces the notes of a draft."""

    notes: dict[str, Any]


class HostDraftRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Hosts a draft with this configuration instead of its own."""

    server_config: dict[str, Any]
    client_config: dict[str, Any] | None = None
    """Settings of devices. The name and the version stay those of the draft. Null: those of the draft."""


class DraftFile(msgspec.Struct, frozen=True):
    """A file of a draft: a part of its form."""

    part: str
    """``model``, ``plan:NAME`` or ``averaging_plan``."""
    hash: str
    size_bytes: int


class DraftInfo(msgspec.Struct):
    """A process for later hosting. Only its creator sees it, with its secrets."""

    id: int
    name: str
    version: str
    client_config: dict[str, Any]
    server_config: dict[str, Any]
    notes: dict[str, Any]
    files: list[DraftFile]
    """Empty after the draft was hosted."""
    process: int | None
    """Id of the process after the draft was hosted."""
    created_at: dt.datetime


class DraftList(msgspec.Struct):
    drafts: list[DraftInfo]


class DraftRemoved(msgspec.Struct):
    id: int


class PlanInfo(msgspec.Struct):
    """A plan of a process; ``plan_hash`` is its identity.

    A kind that ends with ``_2020`` is a plan of PySyft 0.2 in protobuf, without an ONNX graph.
    """

    id: int
    name: str
    kind: Literal["training", "averaging", "training_2020", "averaging_2020"]
    plan_hash: str
    size_bytes: int


class RestoreRequest(msgspec.Struct):
    """The checkpoint from which a process continues."""

    checkpoint: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]


class MetricSpread(msgspec.Struct, frozen=True):
    """The distribution of a metric over the reports of a cycle, each with the same weight."""

    min: float
    median: float
    max: float
    num_reports: int
    """Reports that have the metric."""


class CycleInfo(msgspec.Struct):
    """A cycle and its result.

    ``metrics`` are the reported metrics, averaged with the weights of the reports. ``bytes_received`` counts the
    accepted reports. ``num_late`` counts clients that had not reported when the cycle closed or was reopened.
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
    num_late: int = 0
    grace_until: dt.datetime | None = None
    """End of the grace period, once it has begun."""
    scheduled: dict[str, float] = {}
    """The values of this cycle that ``server_config.schedules`` sets."""
    metric_spread: dict[str, MetricSpread] = {}
    """How the metrics differ between devices. Empty for users who do not manage the process: it has values of single
    devices."""


class Contribution(msgspec.Struct, frozen=True):
    """An accepted report and its client."""

    id: int
    cycle: int
    client: str
    """Name of the client from its token. Empty if clients have no names."""
    num_examples: int
    weight: int
    """Weight of the report in the average."""
    norm: float
    scale: float
    """Factor of the clipping: below 1 if the report was clipped. It is 1 until the cycle is completed."""
    metrics: dict[str, float]
    received_at: dt.datetime


class ContributionList(msgspec.Struct, frozen=True):
    contributions: list[Contribution]


class CheckpointInfo(msgspec.Struct):
    """A state of the model. ``alias`` is ``latest`` for the newest checkpoint, otherwise empty."""

    number: int
    alias: str
    model_hash: str
    size_bytes: int
    created_at: dt.datetime


class EvaluationRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The metrics of a checkpoint on held-out data; they replace earlier ones."""

    metrics: dict[str, float]
    """1 to 32 finite numbers by printable names of up to 64 characters."""


class EvaluationInfo(msgspec.Struct, frozen=True):
    """The metrics of a checkpoint on held-out data."""

    checkpoint: int
    cycle: int
    """The cycle that made the checkpoint; 0: the hosted model, or a copy of an earlier checkpoint."""
    source: Literal["owner", "domain"]
    """``owner``: computed by the model owner on data of their own. ``domain``: on a dataset of the Domain."""
    metrics: dict[str, float]
    at: dt.datetime


class EvaluationList(msgspec.Struct, frozen=True):
    evaluations: list[EvaluationInfo]


class ProcessInfo(msgspec.Struct):
    """A hosted process."""

    id: int
    name: str
    version: str
    state: Literal["active", "paused", "finished"]
    created_at: dt.datetime
    num_parameters: int
    model_bytes: int
    num_checkpoints: int
    plans: list[PlanInfo]
    client_config: dict[str, Any]
    server_config: dict[str, Any]
    """The configuration with all defaults, without secrets."""
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
        "cycle_grace",
        "cycle_closing",
        "cycle_expired",
        "cycle_completed",
        "checkpoint_evaluated",
        "evaluation_failed",
        "checkpoint_restored",
        "process_finished",
        "process_paused",
        "process_resumed",
    ]
    at: dt.datetime
    cycle: int
    data: dict[str, Any]
