"""Messages of data scientists and data owners about jobs: what is asked, what it costs, what became of it."""

from __future__ import annotations

import datetime as dt
from typing import Any, Literal

import msgspec

JobKind = Literal["train", "evaluate", "statistics", "predict"]
Unit = Literal["record", "subject", "domain"]
JobState = Literal[
    "checking",
    "waiting",
    "approved",
    "running",
    "held",
    "released",
    "rejected",
    "denied",
    "revoked",
    "cancelled",
    "failed",
]
"""See the diagram in `pygrid.core.jobs`."""


class PrivacyRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The guarantee that a job asks to run under: (epsilon, delta) for one ``unit``, with contributions clipped to
    ``clip``.

    The noise follows from it; ``sampling_rate`` is the chance of each unit to take part in a round (training only).
    """

    epsilon: float
    delta: float
    clip: float = 1.0
    unit: Unit = "record"
    sampling_rate: float | None = None
    """None: ``batch_size`` over the published number of units (records, or at least so many subjects)."""


class StatisticRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One question about a scalar column; bounds, edges and keys are declared by who asks."""

    kind: Literal["count", "sum", "mean", "variance", "quantile", "histogram"]
    column: str = ""
    lower: float = 0.0
    upper: float = 0.0
    edges: tuple[float, ...] = ()
    quantile: float = 0.5
    by: str = ""
    keys: tuple[int | str, ...] = ()


class FederationRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a federated job takes part: a process at a coordinating Domain, cycle by cycle, as a client of it."""

    coordinator: str
    """The coordinating Domain's address: ``http(s)://...``, or ``grid+http(s)://NETWORK/DOMAIN`` through a
    Network's relay.
    """
    process: str
    version: str
    cycles: int
    """How often the job may train at the most.

    Privacy terms, and what is taken from the budget, are of all together.
    """
    auth_token: str = ""
    """What the process asks its clients for. Only the Domain gets to see it: in a `JobInfo` it is replaced."""


class JobRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ``config`` part of a submission (multipart form); the other parts are ``plan`` and ``model``, none for
    statistics.

    To predict, there is no plan, and ``model`` is an ONNX model, which comes after ``config``.
    """

    dataset: int
    kind: JobKind
    reason: str
    version: int | None = None
    """Of the dataset; None: the newest."""
    binding: dict[str, str] = {}
    """The plan's data port, or the ONNX model's input -> column."""
    hyper: dict[str, float] = {}
    epochs: int = 1
    batch_size: int = 32
    seed: int = 0
    optimizer: dict[str, Any] = {}
    """Private training: `pygrid.aggregation.optimizers.ServerOptimizer`; ``{}``: plain SGD with the plan's ``lr``."""
    statistics: tuple[StatisticRequest, ...] = ()
    metric_bounds: dict[str, tuple[float, float]] = {}
    """Private evaluation: metric -> lower and upper bound of its value for one unit; values beyond count as the bound.
    Metrics without an entry take the defaults of `pygrid.core.metric_bounds`."""
    privacy: PrivacyRequest | None = None
    """None: an exact answer, which always needs a person's sign-off."""
    select: tuple[str, ...] = ()
    """To predict: the outputs that are wanted; none given: all of the model's."""
    max_records: int | None = None
    """To predict: only for the first so many records; None: for all."""
    federation: FederationRequest | None = None
    """Training across Domains; ``epochs`` is then per cycle, and what leaves are the diffs of the cycles, no trained
    model.
    """


class FederationInfo(msgspec.Struct, frozen=True):
    """How far a federated job has come."""

    num_begun: int
    """Cycles that its Worker was started for."""
    num_spent: int
    """Of those that it may take part in, how many it has used up."""
    num_reported: int
    """Cycles whose diff has left."""
    cycle: int | None
    """Number, at the coordinator, of the cycle that it trains or trained for last."""
    doing: str
    """What it does now, in words; empty unless it runs."""


class JobCost(msgspec.Struct, frozen=True):
    """What a job takes from the budget, and how that leaves it; None where no budget is open or the caller may not
    know.
    """

    epsilon: float
    """Of this job alone: what it guarantees by itself.

    What it takes from a budget is in ``price`` and ``your_price``.
    """
    delta: float
    noise_multiplier: float
    rounds: int
    spent_before: float | None = None
    spent_after: float | None = None
    cap: float | None = None
    yours_before: float | None = None
    yours_after: float | None = None
    your_cap: float | None = None
    price: float | None = None
    """What it takes of ``cap``, in the epsilon of that budget: ``spent_after - spent_before``."""
    your_price: float | None = None
    """What it takes of ``your_cap``: ``yours_after - yours_before``."""
    fits: bool | None = None
    """Whether the budget has room for it now."""
    certainty: float | None = None
    """How sure somebody can become which of two contents a unit has, if both were equally likely before: a reading of
    epsilon, up to delta."""


class JobInfo(msgspec.Struct, frozen=True):
    """A job. Fields for the owner's eyes are None for the data scientist."""

    id: str
    dataset: int
    dataset_name: str
    version: int
    kind: JobKind
    state: JobState
    request_hash: str
    """SHA-256 over everything that an approval is bound to: request, plan, model, data version."""
    requested_by: int
    requested_by_email: str
    reason: str
    created_at: dt.datetime
    updated_at: dt.datetime
    privacy: PrivacyRequest | None
    cost: JobCost | None
    detail: str
    """Why it is in this state, where that may be told."""
    progress: float
    """0 to 1."""
    metrics: dict[str, float]
    """Of the mock run, and of an exact job."""
    plan_id: str
    plan_name: str
    result_bytes: int | None
    result_media_type: str
    decided_by: int | None
    plan_summary: str | None = None
    """Owner: the plan, the questions or the model in words."""
    leaves: str | None = None
    """Owner: what leaves in words, where that is a row for each record."""
    bytes_out_ratio: float | None = None
    """Owner: bytes of the result per byte of data."""
    facts: dict[str, Any] | None = None
    """Owner: what the Worker saw."""
    waiting_beside: int | None = None
    """Owner: other requests on this dataset that wait."""
    code: str = ""
    """Why it was rejected or failed, for programs: `budget_exhausted`, `plan_failed` ..."""
    comment: str = ""
    """Of who decided."""
    request: JobRequest | None = None
    """All that was asked, but for the token of a federation."""
    federation: FederationInfo | None = None
    """Of a federated job: how far it has come."""


class JobList(msgspec.Struct, frozen=True):
    jobs: list[JobInfo]


class DecisionRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Approve or deny what is seen: ``request_hash`` must be the job's, so that nobody signs what they did not see."""

    request_hash: str
    comment: str = ""
    state: Literal["waiting", "held"] | None = None
    """The job's when it was looked at; None: ``waiting``. Without it a second approval of a job would release its
    result, which nobody has seen."""


class PolicyInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A dataset's policy and budget. Without one every job waits for a person, and private jobs are refused."""

    epsilon: float
    """Of the dataset in all."""
    delta: float
    epsilon_per_user: float
    auto_approve: bool = False
    """Differentially private jobs within the caps need no person."""
    max_epsilon_per_job: float | None = None
    use: Literal["statistics", "training", "mixed"] = "mixed"
    allow_remote_workers: bool = False
    """The records may be sent to Workers on other machines, which the Owner of the Domain has let in."""
    unit: Unit | None = None
    """What the budget protects, fixed when it is opened. None, when sent: ``subject`` if the dataset has a subject
    column, else ``record``. Only an owner who says so gets ``domain``, which protects nobody within the Domain."""
    fresh_budget: bool = False
    """Only sent: open a budget although another dataset with the same content has one. The same records are then
    released within both budgets, so what both allow adds up."""


class BudgetInfo(msgspec.Struct, frozen=True):
    """How much of a budget is spent, in its own epsilon: what is spent and what is left add up to the cap.

    ``spent``, ``left`` and ``users`` (by id: spent epsilon) are None for who may not see others'.
    """

    dataset: int
    policy: PolicyInfo
    spent: float | None
    yours: float
    your_cap: float
    users: dict[str, float] | None = None
    left: float | None = None
    your_left: float = 0.0
