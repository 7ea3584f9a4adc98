"""What a Worker is told and what it answers: a job's specification, its result, the kinds of failure and of frames.

Shared by the Domain, which writes specifications, and the Worker, which reads them; values only.

Kinds of frames (`pygrid.sandbox.frames`):

    Domain -> Worker   S  a JobSpec as JSON
    Worker -> Domain   P  a Progress as JSON, any number of times, never for a private job
                       T  seconds, as JSON: before a private job reads its data, when its end may be seen
                       O  an Outcome as JSON, once, at the end
                       B  the bytes of the result, once, after a good outcome
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import msgspec

from pygrid import codes
from pygrid.aggregation.optimizers import ServerOptimizer
from pygrid.errors import InvalidInput
from pygrid.plans.manifest import Port

JobKind = Literal["train", "evaluate", "statistics", "predict"]
Unit = Literal["record", "subject", "domain"]
ColumnType = Literal["float32", "float64", "int32", "int64", "uint8", "bool", "text"]
StatisticKind = Literal["count", "sum", "mean", "variance", "quantile", "histogram"]
FailureKind = Literal[
    "refused",
    "plan_failed",
    "out_of_memory",
    "out_of_cpu",
    "out_of_time",
    "crashed",
    "cancelled",
    "result_too_large",
    "lost",
]

SPEC, PROGRESS, PLANNED, OUTCOME, RESULT, READY = b"S", b"P", b"T", b"O", b"B", b"R"
MAX_SPEC_BYTES = 16 * 1024**2
MAX_MESSAGE_BYTES = 1024**2
"""Of a progress or an outcome."""

_MAX_ROUNDS = 1_000_000
_SHORTEST_HOLD_S = 0.25
_SHORTEST_LIMIT_S, _LIMIT_FACTOR = 0.002, 50.0
_UNLIKELY = 21.0
"""Minus the logarithm of 1e-9, and a little more."""
_MAX_BOUND = 1e100
"""Of values that are added up: their sums and squares stay numbers."""


class ColumnRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a column's raw little-endian values lie; ``shape`` is that of one record."""

    path: str
    dtype: ColumnType
    shape: tuple[int, ...]
    num_records: int
    offset: int = 0
    """Of the first value in the file, in bytes."""


class Statistic(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One question about a scalar column. Bounds and keys are declared, never read off the data."""

    kind: StatisticKind
    column: str = ""
    """To count: counts the values that are present; "" counts records."""
    lower: float = 0.0
    upper: float = 0.0
    """Values are clamped to ``lower..upper`` for sum, mean and variance."""
    edges: tuple[float, ...] = ()
    """histogram: borders of the bins, rising; quantile: the candidates, rising.

    Values beyond the ends go to the last bins.
    """
    quantile: float = 0.5
    by: str = ""
    """A column of integers or text to group by ..."""
    keys: tuple[int, ...] = ()
    """... and the values (for text: the codes) that get a group; records with other values are left out."""
    has_missing: bool = False
    """Whether the column can have missing values, by its schema. Then a sum also counts the values that are present."""


class PrivacyTerms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a private job promises. All of it is static: nothing here depends on the data.

    In each of ``rounds`` rounds every unit takes part with probability ``sampling_rate``; each contributes a vector of
    L2 norm at most ``clip``; Gaussian noise of standard deviation ``noise_multiplier * clip`` is added to the sum,
    which is then divided by ``expected_size``.
    """

    clip: float
    noise_multiplier: float
    rounds: int
    delta: float
    expected_size: float
    """Units that take part in a round on average, from public numbers: ``sampling_rate`` times the published size."""
    sampling_rate: float = 1.0
    unit: Unit = "record"
    max_rows_per_subject: int = 1
    """unit subject: further records of the same subject are left out."""
    cycles: int = 1
    """A federated job runs its rounds anew in each of so many cycles at the most; its Worker is started once for each.
    """


class JobLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a job may use; beyond what the Worker needs to start and the mapped columns."""

    memory_bytes: int = 2 * 1024**3
    cpu_s: int = 3600
    wall_s: float = 3600.0
    max_result_bytes: int = 256 * 1024**2


class JobSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One job, complete: a Worker needs nothing else. The plan must have passed the gate."""

    id: str
    kind: JobKind
    columns: dict[str, ColumnRef]
    plan_path: str = ""
    model_path: str = ""
    """A safetensors file with exactly the plan's arrays; to predict, an ONNX file."""
    binding: dict[str, str] = {}
    """The plan's data port, or the model's input -> column."""
    inputs: tuple[Port, ...] = ()
    """To predict: all inputs of the model; each begins with the records."""
    outputs: tuple[Port, ...] = ()
    """To predict: the outputs that leave; each begins with the records."""
    hyper: dict[str, float] = {}
    epochs: int = 1
    batch_size: int = 32
    seed: int = 0
    """Of an exact job's order and noise ports.

    A private job draws its sample and its noise from the system's random source.
    """
    optimizer: ServerOptimizer = ServerOptimizer()
    """Private training only: what the trusted runner does with the noisy mean gradient."""
    statistics: tuple[Statistic, ...] = ()
    metric_bounds: dict[str, tuple[float, float]] = {}
    """Private evaluation only: for each metric of the plan the lower and the upper bound of one unit's value."""
    subject: str = ""
    """The column that tells whose a record is; needed for the unit ``subject``."""
    privacy: PrivacyTerms | None = None
    limits: JobLimits = JobLimits()
    num_threads: int = 1
    """Threads of an operator; with one, the sandbox forbids threads altogether."""


class Progress(msgspec.Struct, frozen=True):
    """How far an exact job has come."""

    done: int
    total: int
    metrics: dict[str, float | None] = {}
    """Of the latest batch; None where it is NaN or infinite, which JSON can't say."""


class Facts(msgspec.Struct, frozen=True):
    """For the owner of the data only: what happened, in numbers that may depend on single records."""

    num_records: int = 0
    bytes_in: int = 0
    """Of the bound columns."""
    bytes_out: int = 0
    num_calls: int = 0
    """Of the plan's graphs."""
    num_zeroed: int = 0
    """Contributions that counted as zero, because the plan failed on them or gave NaN or infinity."""
    unit_s: float = 0.0
    """Private jobs: CPU seconds for one unit of made-up data, measured before the data was read."""
    planned_s: float = 0.0
    """Private jobs: seconds from the start after which the end may be seen, fixed before the data was read."""
    sandbox: tuple[str, ...] = ()
    """The layers that held."""
    worker: str = ""
    """Name of the Worker on another machine that ran it; empty: this machine did."""
    wall_s: float = 0.0
    cpu_s: float = 0.0
    max_rss_bytes: int = 0

    @property
    def bytes_out_ratio(self) -> float:
        """Bytes of the result per byte of data: near or above 1, a result may hold the data itself."""
        return self.bytes_out / self.bytes_in if self.bytes_in else math.inf


class Failure(msgspec.Struct, frozen=True):
    """Why there is no result. ``detail`` may depend on the data: it is for the owner only, if the job was private."""

    kind: FailureKind
    detail: str
    code: str = ""


class InferenceSettings(msgspec.Struct, frozen=True):
    """What a warm Worker is told about the one model that it answers with."""

    model_path: str
    outputs: tuple[str, ...]
    memory_bytes: int
    cpu_s: int
    """Over the Worker's life."""
    max_request_bytes: int
    empty_root: str
    allow_weak_sandbox: bool = False


class Outcome(msgspec.Struct, frozen=True):
    """A job's end as the Worker tells it."""

    facts: Facts
    failure: Failure | None = None
    media_type: str = ""


class JobResult(msgspec.Struct, frozen=True):
    """A job's end as the Domain sees it: the bytes of a result, or why there are none."""

    facts: Facts
    failure: Failure | None = None
    media_type: str = ""
    payload: bytes = b""


def list_paths(spec: JobSpec) -> set[str]:
    """Every file that a job needs."""
    return {spec.plan_path, spec.model_path, *(column.path for column in spec.columns.values())} - {""}


def move_paths(spec: JobSpec, moved: Callable[[str], str]) -> JobSpec:
    """The same job with its files elsewhere: ``moved`` gives for each path the new one."""
    return msgspec.structs.replace(
        spec,
        columns={
            name: msgspec.structs.replace(column, path=moved(column.path)) for name, column in spec.columns.items()
        },
        plan_path=spec.plan_path and moved(spec.plan_path),
        model_path=spec.model_path and moved(spec.model_path),
    )


def check_spec(spec: JobSpec) -> None:
    """Refuse a specification that no Worker could run, before anything is charged for it.

    Raises:
        InvalidInput: names the field, its value and what is allowed; ``invalid_job``.
    """
    if spec.kind == "statistics":
        if not spec.statistics:
            raise _invalid("a statistics job needs at least one statistic")
        for statistic in spec.statistics:
            _check_statistic(spec, statistic)
    elif spec.kind == "predict":
        if spec.privacy is not None:
            raise _invalid("an answer for each record can't be private")
        if (
            not spec.model_path
            or not spec.inputs
            or not spec.outputs
            or {port.name for port in spec.inputs} != set(spec.binding)
        ):
            raise _invalid("to predict, a model with inputs and outputs is needed, and a column for each input")
    elif not spec.plan_path or not spec.model_path or not spec.binding:
        raise _invalid(
            f"a job of kind {spec.kind} needs a plan, a model and a binding of the plan's data ports to columns"
        )
    for port, column in spec.binding.items():
        if column not in spec.columns:
            raise _invalid(f"port {port!r} is bound to column {column!r}, which the data set does not have")
    lengths = {column.num_records for column in spec.columns.values()}
    if len(lengths) != 1 or min(lengths) < 0:
        raise _invalid(f"the columns have {sorted(lengths)} records; all columns of a data set have the same number")
    for name, low, value in (
        ("epochs", 0, spec.epochs),
        ("batch_size", 1, spec.batch_size),
        ("seed", 0, spec.seed),
        ("num_threads", 1, spec.num_threads),
        ("memory_bytes", 1, spec.limits.memory_bytes),
        ("cpu_s", 1, spec.limits.cpu_s),
        ("max_result_bytes", 1, spec.limits.max_result_bytes),
    ):
        if value < low:
            raise _invalid(f"{name} is {value}; it must be at least {low}")
    _check_positive("wall_s", spec.limits.wall_s)
    if spec.privacy is not None:
        _check_terms(spec, spec.privacy)


def _check_terms(spec: JobSpec, terms: PrivacyTerms) -> None:
    for name in ("clip", "noise_multiplier", "expected_size"):
        _check_positive(name, getattr(terms, name))
    if not 0 < terms.delta < 1:
        raise _invalid(f"delta is {terms.delta}; it lies between 0 and 1")
    if not 0 < terms.sampling_rate <= 1:
        raise _invalid(f"sampling_rate is {terms.sampling_rate}; it lies above 0 and is at most 1")
    if not 1 <= terms.rounds <= _MAX_ROUNDS:
        raise _invalid(f"rounds is {terms.rounds}; 1 to {_MAX_ROUNDS:,} are allowed")
    if terms.cycles < 1:
        raise _invalid(f"cycles is {terms.cycles}; it must be at least 1")
    if terms.max_rows_per_subject < 1:
        raise _invalid(f"max_rows_per_subject is {terms.max_rows_per_subject}; it must be at least 1")
    if spec.kind != "train" and terms.rounds != 1:
        raise _invalid(f"a private job of kind {spec.kind} has one round, not {terms.rounds}")
    if terms.unit == "subject" and spec.subject not in spec.columns:
        raise _invalid("the unit is subject, but the data set names no subject column")
    if terms.unit == "domain" and (spec.kind != "train" or terms.sampling_rate != 1):
        raise _invalid("the unit domain is for training, and the one Domain always takes part: sampling_rate is 1")


def _check_statistic(spec: JobSpec, statistic: Statistic) -> None:
    kind = statistic.kind
    if kind != "count" and statistic.column not in spec.columns:
        raise _invalid(f"{kind}: the data set has no column {statistic.column!r}")
    for name in filter(None, (statistic.column, statistic.by)):
        if name not in spec.columns or spec.columns[name].shape != ():
            raise _invalid(f"{kind}: column {name!r} must be there and hold one number per record")
    lower, upper = statistic.lower, statistic.upper
    if kind in ("sum", "mean", "variance") and not (math.isfinite(lower) and math.isfinite(upper) and lower < upper):
        raise _invalid(
            f"{kind} of {statistic.column!r} needs finite bounds lower < upper, declared and not read off the data"
        )
    if kind in ("sum", "mean", "variance") and (
        max(abs(lower), abs(upper)) > _MAX_BOUND or upper - lower < 1 / _MAX_BOUND
    ):
        raise _invalid(
            f"{kind} of {statistic.column!r}: no answer can be computed within {lower:g} .. {upper:g}; bounds are at "
            f"most {_MAX_BOUND:g} in size, and at least {1 / _MAX_BOUND:g} apart"
        )
    rising = all(a < b for a, b in zip(statistic.edges, statistic.edges[1:], strict=False))
    if kind in ("quantile", "histogram") and (
        len(statistic.edges) < 2 or not rising or not all(map(math.isfinite, statistic.edges))
    ):
        raise _invalid(f"{kind} of {statistic.column!r} needs at least two finite, rising edges")
    if kind == "quantile" and not 0 <= statistic.quantile <= 1:
        raise _invalid(f"the quantile is {statistic.quantile}; it lies between 0 and 1")
    if statistic.by and (not statistic.keys or len(set(statistic.keys)) != len(statistic.keys)):
        raise _invalid(f"to group by {statistic.by!r}, declare its keys, each once")
    if statistic.by and spec.columns[statistic.by].dtype not in ("int32", "int64", "uint8", "bool", "text"):
        raise _invalid(
            f"column {statistic.by!r} is {spec.columns[statistic.by].dtype}; only integers and text can be grouped by"
        )


def _check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise _invalid(f"{name} is {value}; it must be a finite number above 0")


def _invalid(detail: str) -> InvalidInput:
    return InvalidInput(detail, code=codes.INVALID_JOB)


def held_s(elapsed_s: float, planned_s: float) -> float:
    """When the end of a private job may be seen, in seconds from its start.

    ``planned_s`` was fixed before the data was read, and is meant to be enough whatever the data holds. A job that
    takes longer all the same, on a busy machine, is held until twice that time, or four times, and so on.
    """
    held = max(_SHORTEST_HOLD_S, planned_s)
    while held < elapsed_s:
        held *= 2
    return held


def max_evaluations(terms: PrivacyTerms, num_units: float) -> int:
    """How many units all rounds of a private job look at, at most; with sampling, but for a chance below 1e-9."""
    return terms.rounds if terms.unit == "domain" else _most(terms.rounds * num_units, terms.sampling_rate)


def max_participations(terms: PrivacyTerms) -> int:
    """In how many rounds a unit takes part, at most; with sampling, but for a chance below 1e-9."""
    return min(terms.rounds, _most(terms.rounds, terms.sampling_rate))


def unit_limit_s(unit_s: float) -> float:
    """CPU seconds that one evaluation may take, if it usually takes ``unit_s``."""
    return max(_SHORTEST_LIMIT_S, _LIMIT_FACTOR * unit_s)


def _most(trials: float, probability: float) -> int:
    """More than a binomial variable is, but for a chance below 1e-9 (Bernstein's inequality); ``trials`` for
    probability 1.
    """
    if probability >= 1:
        return math.ceil(trials)
    mean = trials * probability
    return math.ceil(min(trials, mean + math.sqrt(2 * mean * _UNLIKELY) + _UNLIKELY))
