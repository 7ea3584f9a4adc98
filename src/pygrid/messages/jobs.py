"""Messages about jobs: the request, its privacy cost, its state and its policy."""

from __future__ import annotations

import datetime as dt
from typing import Any, Literal

import msgspec

from pygrid.messages.datasets import Bound

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
    """The requested guarantee of a job: (epsilon, delta) for one ``unit``, with contributions clipped to ``clip``.

    The noise is computed from it. ``sampling_rate`` is the probability that a unit takes part in a round (training
    only).
    """

    epsilon: float
    delta: float
    clip: float = 1.0
    unit: Unit = "record"
    sampling_rate: float | None = None
    """None: ``batch_size`` divided by the published number of units (records, or a lower bound of the subjects)."""


class StatisticRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A statistic of a scalar column. The requester declares bounds, edges and keys.

    Those of dates and datetimes are texts such as ``2020-12-31``.
    """

    kind: Literal["count", "sum", "mean", "variance", "quantile", "histogram"]
    column: str = ""
    lower: Bound = 0.0
    upper: Bound = 0.0
    edges: tuple[Bound, ...] = ()
    quantile: float = 0.5
    by: str = ""
    keys: tuple[int | str, ...] = ()
    """Values of ``by`` that get a group. For a date or datetime: days, or what ``per`` says."""
    per: Literal["", "year", "month"] = ""
    """For dates in ``by``: the keys are years (``2020``) or months (``2020-12``)."""


class FederationRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The process of a coordinating Domain in which a federated job takes part as a client, cycle by cycle."""

    coordinator: str
    """The coordinating Domain's address: ``http(s)://...``, or ``grid+http(s)://NETWORK/DOMAIN`` through a
    Network's relay.
    """
    process: str
    version: str
    cycles: int
    """Maximum number of cycles in which the job trains. The privacy terms and the privacy cost cover all of them
    together."""
    auth_token: str = ""
    """The token that the process requires from clients. Only the Domain sees it; a `JobInfo` has a placeholder."""


class JobRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ``config`` part of a submission (multipart form). The other parts are ``plan`` and ``model``.

    A job of kind ``statistics`` has neither. A job of kind ``predict`` has only ``model``, an ONNX model that follows
    ``config``.
    """

    dataset: int
    kind: JobKind
    reason: str
    version: int | None = None
    """Version of the dataset. None: the newest."""
    binding: dict[str, str] = {}
    """Column of each data port of the plan, or of each input of the ONNX model."""
    hyper: dict[str, float] = {}
    epochs: int = 1
    batch_size: int = 32
    seed: int = 0
    optimizer: dict[str, Any] = {}
    """For private training: `pygrid.aggregation.optimizers.ServerOptimizer`. ``{}``: SGD with the ``lr`` of the plan.
    """
    statistics: tuple[StatisticRequest, ...] = ()
    metric_bounds: dict[str, tuple[float, float]] = {}
    """For private evaluation: lower and upper bound of each metric for one unit. Values beyond a bound count as the
    bound. Metrics without an entry take the defaults of `pygrid.core.metric_bounds`."""
    privacy: PrivacyRequest | None = None
    """None: a non-private job, whose result a person must always release."""
    select: tuple[str, ...] = ()
    """For ``predict``: the requested outputs. Empty: all outputs of the model."""
    max_records: int | None = None
    """For ``predict``: number of records from the start. None: all records."""
    pool: str = ""
    """Name of the pool in which the job runs. Empty: the first pool with a free place that the dataset's policy allows.
    """
    federation: FederationRequest | None = None
    """Training across Domains. ``epochs`` is then per cycle, and the diffs of the cycles leave instead of a trained
    model."""


class FederationInfo(msgspec.Struct, frozen=True):
    """Progress of a federated job."""

    num_begun: int
    """Cycles for which a Worker was started."""
    num_spent: int
    """Cycles that count as used."""
    num_reported: int
    """Cycles whose diff was reported."""
    cycle: int | None
    """Number of the current or last cycle at the coordinator."""
    doing: str
    """Current activity in words. Empty unless the job runs."""


class JobCost(msgspec.Struct, frozen=True):
    """The privacy cost of a job and the budget before and after it.

    Fields about the budget are None if no budget is open or the caller may not see it.
    """

    epsilon: float
    """The guarantee of this job by itself. Its privacy cost within a budget is ``price`` and ``your_price``."""
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
    """Cost within ``cap``, in the epsilon of that budget: ``spent_after - spent_before``."""
    your_price: float | None = None
    """Cost within ``your_cap``: ``yours_after - yours_before``."""
    fits: bool | None = None
    """Whether the budget covers the cost at this time."""
    certainty: float | None = None
    """The highest certainty that somebody can reach about which of two contents a unit has, if both were equally likely
    before. It restates epsilon, up to delta."""


FlagSeverity = Literal["red", "amber", "info"]


class JobFlag(msgspec.Struct, frozen=True):
    """A fact that a person who decides on a job must not miss. Red: the console asks to confirm that it was read."""

    severity: FlagSeverity
    code: str
    """For example ``result_can_hold_records``."""
    sentence: str


class JobInfo(msgspec.Struct, frozen=True):
    """A job. Fields marked "Owner" are None for the data scientist."""

    id: str
    dataset: int
    dataset_name: str
    version: int
    kind: JobKind
    state: JobState
    request_hash: str
    """SHA-256 of everything that an approval covers: request, plan, model, version of the dataset."""
    requested_by: int
    requested_by_email: str
    reason: str
    created_at: dt.datetime
    updated_at: dt.datetime
    privacy: PrivacyRequest | None
    cost: JobCost | None
    detail: str
    """Reason of the state, if the caller may know it."""
    progress: float
    """0 to 1."""
    metrics: dict[str, float]
    """Metrics of the run on the mock dataset, and of a non-private job."""
    plan_id: str
    plan_name: str
    result_bytes: int | None
    result_media_type: str
    decided_by: str | None
    """E-mail of the person that decided."""
    plan_summary: str | None = None
    """Owner: the plan, the statistics or the model in words."""
    leaves: str | None = None
    """Owner: the result in words, if it has a row for each record."""
    bytes_out_ratio: float | None = None
    """Owner: bytes of the result for each byte of data."""
    facts: dict[str, Any] | None = None
    """Owner: the observations of the Worker."""
    waiting_beside: int | None = None
    """Owner: number of other requests on this dataset that wait."""
    code: str = ""
    """Error code of a rejection or failure, for example ``budget_exhausted`` or ``plan_failed``."""
    comment: str = ""
    """Comment of the person that decided."""
    request: JobRequest | None = None
    """The request, without the token of a federation."""
    federation: FederationInfo | None = None
    """Progress of a federated job; None for other jobs."""
    flags: tuple[JobFlag, ...] = ()
    """Owner: what a decision must take into account, while the job waits for one."""
    expected_ratio: float | None = None
    """Owner: of a training that has not run, bytes of its model for each byte of the columns that it reads."""


class JobList(msgspec.Struct, frozen=True):
    jobs: list[JobInfo]


class DecisionRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Approve or deny a job. ``request_hash`` must be that of the job, so that nobody decides on an unseen request."""

    request_hash: str
    comment: str = ""
    state: Literal["waiting", "held"] | None = None
    """State in which the person saw the job. None: ``waiting``. Without this check, a repeated approval would release a
    result that nobody has seen."""


class PolicyInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The policy and budget of a dataset.

    Without a policy every job waits for a person, and private jobs are refused.
    """

    epsilon: float
    """Total budget of the dataset."""
    delta: float
    epsilon_per_user: float
    auto_approve: bool = False
    """Whether differentially private jobs within the caps are approved without a person."""
    max_epsilon_per_job: float | None = None
    use: Literal["statistics", "training", "mixed"] = "mixed"
    allow_remote_workers: bool = False
    """Whether the records may be sent to Workers on other machines that the Owner of the Domain has authorized: the
    pool ``leased``."""
    pools: tuple[str, ...] | None = None
    """Names of the pools in which jobs may run, and so of the machines that the records may be sent to. None in a
    request: ``local``, and ``leased`` if `allow_remote_workers`. If given, it has ``leased`` exactly if
    `allow_remote_workers` is set."""
    unit: Unit | None = None
    """The unit that the budget protects, fixed when it is opened. None in a request: ``subject`` if the dataset has a
    subject column, otherwise ``record``. ``domain`` protects nobody within the Domain and is never a default."""
    fresh_budget: bool = False
    """In requests only: open a budget even if another dataset with the same content has one. The same records are then
    released within both budgets, and the privacy costs of both add up."""


class BudgetInfo(msgspec.Struct, frozen=True):
    """The state of a budget, in its own epsilon. The spent and the remaining part add up to the cap.

    ``spent``, ``left`` and ``users`` (spent epsilon by e-mail) are None for callers that may not see those of others.
    """

    dataset: int
    policy: PolicyInfo
    spent: float | None
    yours: float
    your_cap: float
    users: dict[str, float] | None = None
    left: float | None = None
    your_left: float = 0.0
