"""The messages between a Domain and a Worker: the specification of a job, its result, and its failures.

Kinds of frames (`pygrid.sandbox.frames`):

    Domain -> Worker   S  a JobSpec as JSON
    Worker -> Domain   P  a Progress as JSON, any number of times, never for a private job
                       T  seconds as JSON, before a private job reads its data: when its end may be seen
                       O  an Outcome as JSON, once, at the end
                       B  the bytes of the result, once, after a successful Outcome
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from pygrid import codes
from pygrid.aggregation.optimizers import ServerOptimizer
from pygrid.errors import InvalidInput
from pygrid.messages.datasets import CODED, TIMES, Dtype
from pygrid.messages.jobs import JobKind, Unit
from pygrid.plans.manifest import Port
from pygrid.units import decimal

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
"""Bytes of a Progress or an Outcome."""

_MAX_ROUNDS = 1_000_000
_SHORTEST_HOLD_S = 0.25
_SHORTEST_LIMIT_S, _LIMIT_FACTOR = 0.002, 50.0
_UNLIKELY = 21.0
"""Slightly more than -log(1e-9)."""
_MAX_BOUND = 1e100
"""Bound of added values, so that their sums and squares stay finite."""


class ColumnRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file of the raw little-endian values of a column. ``shape`` is that of one record."""

    path: str
    dtype: Dtype
    shape: tuple[int, ...]
    num_records: int
    offset: int = 0
    """Offset of the first value in the file, in bytes."""


class Statistic(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A statistic of a scalar column. Bounds and keys are declared and never depend on the data."""

    kind: StatisticKind
    column: str = ""
    """For ``count``, the column whose present values are counted; "" counts records."""
    lower: float = 0.0
    upper: float = 0.0
    """Values are clamped to ``lower..upper`` for sum, mean and variance."""
    edges: tuple[float, ...] = ()
    """Increasing numbers. histogram: edges of the bins; quantile: candidates. Values beyond the ends count in the outer
    bins."""
    quantile: float = 0.5
    by: str = ""
    """A column of integers, texts, categories or dates for groups."""
    keys: tuple[int, ...] = ()
    """Values of ``by`` (for texts: codes) that get a group. Records with other values are left out."""
    spans: tuple[tuple[float, float], ...] = ()
    """For dates, in place of ``keys``: the first number of each group, and the first one after it."""
    has_missing: bool = False
    """Whether the column can have missing values, by its schema. Then a sum also counts the values that are present."""

    @property
    def num_groups(self) -> int:
        """Number of groups; 0 without ``by``."""
        return len(self.spans or self.keys)


class PrivacyTerms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The privacy terms of a job. No field depends on the data.

    In each of ``rounds`` rounds every unit takes part with probability ``sampling_rate``. Each contributes a vector of
    L2 norm at most ``clip``. Gaussian noise of standard deviation ``noise_multiplier * clip`` is added to the sum,
    which is then divided by ``expected_size``.
    """

    clip: float
    noise_multiplier: float
    rounds: int
    delta: float
    expected_size: float
    """Average number of units in a round, from public numbers: ``sampling_rate`` times the published size."""
    sampling_rate: float = 1.0
    unit: Unit = "record"
    max_rows_per_subject: int = 1
    """For the unit subject: further records of the same subject are left out."""
    cycles: int = 1
    """Maximum number of cycles of a federated job. It runs all rounds in each cycle, with one start of a Worker."""


class JobLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits of a job, in addition to the mapped columns and the needs of the Worker at its start."""

    memory_bytes: int = 2 * 1024**3
    cpu_s: int = 3600
    wall_s: float = 3600.0
    max_result_bytes: int = 256 * 1024**2


class JobSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The complete specification of a job. The plan must have passed the gate."""

    id: str
    kind: JobKind
    columns: dict[str, ColumnRef]
    plan_path: str = ""
    model_path: str = ""
    """A safetensors file with exactly the arrays of the plan. For ``predict``: an ONNX file."""
    binding: dict[str, str] = {}
    """Column of each data port of the plan, or of each input of the model."""
    inputs: tuple[Port, ...] = ()
    """For ``predict``: all inputs of the model. The first axis of each is the records."""
    outputs: tuple[Port, ...] = ()
    """For ``predict``: the outputs in the result. The first axis of each is the records."""
    hyper: dict[str, float] = {}
    epochs: int = 1
    batch_size: int = 32
    seed: int = 0
    """Seed of the order and the noise ports of a non-private job. A private job draws its sample and its noise from the
    random source of the system."""
    optimizer: ServerOptimizer = ServerOptimizer()
    """For private training: how the trusted runner applies the noisy mean gradient."""
    statistics: tuple[Statistic, ...] = ()
    metric_bounds: dict[str, tuple[float, float]] = {}
    """For private evaluation: lower and upper bound of each metric of the plan for one unit."""
    subject: str = ""
    """The column with the subject of a record; required for the unit ``subject``."""
    privacy: PrivacyTerms | None = None
    limits: JobLimits = JobLimits()
    num_threads: int = 1
    """Threads of an operator. With one, the sandbox forbids all threads."""


class Progress(msgspec.Struct, frozen=True):
    """Progress of a non-private job."""

    done: int
    total: int
    metrics: dict[str, float | None] = {}
    """Metrics of the latest batch. None: NaN or infinite, which JSON does not have."""


class Facts(msgspec.Struct, frozen=True):
    """Observations of a run, for the data owner only: the numbers may depend on single records."""

    num_records: int = 0
    bytes_in: int = 0
    """Bytes of the bound columns."""
    bytes_out: int = 0
    num_calls: int = 0
    """Calls of the graphs of the plan."""
    num_zeroed: int = 0
    """Contributions that counted as zero, because the plan failed on them or returned NaN or infinity."""
    unit_s: float = 0.0
    """For private jobs: CPU seconds for one unit of generated data, measured before the data was read."""
    planned_s: float = 0.0
    """For private jobs: seconds from the start after which the end may be seen, fixed before the data was read."""
    sandbox: tuple[str, ...] = ()
    """The active layers of the sandbox."""
    worker: str = ""
    """Name of the Worker on another machine. Empty: the job ran on this machine."""
    wall_s: float = 0.0
    cpu_s: float = 0.0
    max_rss_bytes: int = 0

    @property
    def bytes_out_ratio(self) -> float:
        """Bytes of the result for each byte of data. Near or above 1, the result may contain the data."""
        return self.bytes_out / self.bytes_in if self.bytes_in else math.inf


class Failure(msgspec.Struct, frozen=True):
    """Why there is no result. ``detail`` may depend on the data; for a private job it is for the data owner only."""

    kind: FailureKind
    detail: str
    code: str = ""


class InferenceSettings(msgspec.Struct, frozen=True):
    """The settings of a warm Worker for one served model."""

    model_path: str
    outputs: tuple[str, ...]
    memory_bytes: int
    cpu_s: int
    """CPU seconds over the lifetime of the Worker."""
    max_request_bytes: int
    allow_weak_sandbox: bool = False


class Outcome(msgspec.Struct, frozen=True):
    """The end of a job, reported by the Worker."""

    facts: Facts
    failure: Failure | None = None
    media_type: str = ""


class JobResult(msgspec.Struct, frozen=True):
    """The end of a job at the Domain: the bytes of the result, or the failure."""

    facts: Facts
    failure: Failure | None = None
    media_type: str = ""
    payload: bytes = b""


def list_paths(spec: JobSpec) -> set[str]:
    """All files that a job needs."""
    return {spec.plan_path, spec.model_path, *(column.path for column in spec.columns.values())} - {""}


def move_paths(spec: JobSpec, moved: Callable[[str], str]) -> JobSpec:
    """The same job with other paths. ``moved`` returns the new path of each path."""
    return msgspec.structs.replace(
        spec,
        columns={
            name: msgspec.structs.replace(column, path=moved(column.path)) for name, column in spec.columns.items()
        },
        plan_path=spec.plan_path and moved(spec.plan_path),
        model_path=spec.model_path and moved(spec.model_path),
    )


def check_spec(spec: JobSpec) -> None:
    """Check that a Worker can run a specification, before its privacy cost is charged.

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
            raise _invalid("a prediction for each record can't be private")
        if (
            not spec.model_path
            or not spec.inputs
            or not spec.outputs
            or {port.name for port in spec.inputs} != set(spec.binding)
        ):
            raise _invalid("a job of kind predict needs a model with inputs and outputs, and a column for each input")
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
        raise _invalid(f"{kind} of {statistic.column!r} needs finite, declared bounds with lower < upper")
    if kind in ("sum", "mean", "variance") and (
        max(abs(lower), abs(upper)) > _MAX_BOUND or upper - lower < 1 / _MAX_BOUND
    ):
        raise _invalid(
            f"{kind} of {statistic.column!r}: the bounds {decimal(lower)} .. {decimal(upper)} are not usable; they "
            f"must be at most {decimal(_MAX_BOUND)} in size, and at least {decimal(1 / _MAX_BOUND)} apart"
        )
    rising = all(a < b for a, b in zip(statistic.edges, statistic.edges[1:], strict=False))
    if kind in ("quantile", "histogram") and (
        len(statistic.edges) < 2 or not rising or not all(map(math.isfinite, statistic.edges))
    ):
        raise _invalid(f"{kind} of {statistic.column!r} needs at least two finite, increasing edges")
    if kind == "quantile" and not 0 <= statistic.quantile <= 1:
        raise _invalid(f"the quantile is {statistic.quantile}; it lies between 0 and 1")
    if statistic.by:
        _check_groups(statistic, spec.columns[statistic.by].dtype)


def _check_groups(statistic: Statistic, dtype: Dtype) -> None:
    if dtype not in ("int32", "int64", "uint8", "bool", *CODED, *TIMES):
        raise _invalid(
            f"column {statistic.by!r} is {dtype}; only whole numbers, truth values, texts, categories and dates can be "
            "used in by. Its owner can declare whole numbers with gaps as a category"
        )
    spans = sorted(statistic.spans)
    groups: Sequence[object] = spans if dtype in TIMES else statistic.keys
    if not groups or len(groups) != len(statistic.keys) + len(spans) or len(set(groups)) != len(groups):
        raise _invalid(f"to group by {statistic.by!r}, declare its keys, each once")
    # A record that counts in two groups would have a vector of more than the norm that the noise is for.
    if any(not low < high for low, high in spans) or any(
        end > begin for (_, end), (begin, _) in itertools.pairwise(spans)
    ):
        raise _invalid(f"the keys of {statistic.by!r} overlap; each record can be in one group only")


def _check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise _invalid(f"{name} is {value}; it must be a finite number above 0")


def _invalid(detail: str) -> InvalidInput:
    return InvalidInput(detail, code=codes.INVALID_JOB)


def held_s(elapsed_s: float, planned_s: float) -> float:
    """When the end of a private job may be seen, in seconds from its start.

    ``planned_s`` was fixed before the data was read, and should suffice for any data. If a job takes longer, for
    example on a busy machine, its end is held until twice that time, or four times, and so on.
    """
    held = max(_SHORTEST_HOLD_S, planned_s)
    while held < elapsed_s:
        held *= 2
    return held


def max_evaluations(terms: PrivacyTerms, num_units: float) -> int:
    """Maximum number of evaluated units in all rounds of a private job. With sampling it is exceeded with a probability
    below 1e-9.
    """
    return terms.rounds if terms.unit == "domain" else _most(terms.rounds * num_units, terms.sampling_rate)


def max_participations(terms: PrivacyTerms) -> int:
    """Maximum number of rounds in which a unit takes part.

    With sampling it is exceeded with a probability below 1e-9.
    """
    return min(terms.rounds, _most(terms.rounds, terms.sampling_rate))


def unit_limit_s(unit_s: float) -> float:
    """Limit of CPU seconds for one evaluation that usually takes ``unit_s``."""
    return max(_SHORTEST_LIMIT_S, _LIMIT_FACTOR * unit_s)


def _most(trials: float, probability: float) -> int:
    """Upper bound of a binomial variable (Bernstein's inequality), exceeded with a probability below 1e-9. For
    probability 1 it is ``trials``.
    """
    if probability >= 1:
        return math.ceil(trials)
    mean = trials * probability
    return math.ceil(min(trials, mean + math.sqrt(2 * mean * _UNLIKELY) + _UNLIKELY))
