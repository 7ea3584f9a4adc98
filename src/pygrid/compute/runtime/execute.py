"""The trusted runner: executes a job's specification on mapped columns, and decides what leaves.

A non-private job runs the plan as it is. A private job never hands the plan more than one unit's data (a record, a
subject's records, or the Domain's own training run) and takes one vector for each unit. This code clips the vector,
puts it on a grid of integers, adds it up and adds noise, and only that leaves. So the guarantee holds for any plan:

- a vector is a bit-exact function of its unit and the model (`contributions`, `pygrid.privacy.clipping`);
- a unit on which the plan fails, or returns NaN or infinity, or takes too long, counts as zeros, and changes no other
  unit;
- no deadline leaves units out, and the time after which the result is seen is fixed before the data is read
  (`schedule`);
- secret coins decide which units take part in a round;
- metrics and losses of a private training run do not leave.

Source: Abadi et al., "Deep Learning with Differential Privacy", CCS 2016, algorithm 1, with integer noise
(`pygrid.privacy`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from pygrid import codes
from pygrid.aggregation.optimizers import SLOTS, initial_slot, step
from pygrid.compute.runtime.contributions import Contributions, PlanRows, PlanSums, subject_groups
from pygrid.compute.runtime.denormals import denormals_as_zero
from pygrid.compute.runtime.inputs import MappedColumns
from pygrid.compute.runtime.metric_rows import MetricRows
from pygrid.compute.runtime.prediction import predict
from pygrid.compute.runtime.schedule import RunSchedule
from pygrid.compute.runtime.statistics import StatisticRows, read_answers
from pygrid.compute.runtime.watch import Watch, measure
from pygrid.core.job_spec import Facts, JobSpec, Outcome, PrivacyTerms, Progress, check_spec
from pygrid.errors import InvalidInput, InvalidPlan
from pygrid.plans.archive import Plan
from pygrid.plans.runner import Runner, check_params, model_spec
from pygrid.privacy.mechanisms import GaussianSum
from pygrid.privacy.noise import SecretBits
from pygrid.tensors import Params, decode, encode, make_diff

Array = npt.NDArray[Any]
Report = Callable[[Progress], None]

MEDIA_TENSORS = "application/octet-stream"
MEDIA_JSON = "application/json"


@dataclass
class _Tally:
    """Counts for the facts, and the secret bits of the job, which is one release: fresh in this process, used once."""

    num_calls: int = 0
    num_zeroed: int = 0
    bits: SecretBits = field(default_factory=SecretBits)


@dataclass(frozen=True)
class _PlanJob:
    spec: JobSpec
    plan: Plan
    params: Params
    data: dict[str, Array]
    """By the plan's ports."""


def run(
    spec: JobSpec,
    inputs: MappedColumns,
    report: Report,
    *,
    started: float,
    announce: Callable[[float], None] = lambda _: None,
) -> tuple[Outcome, bytes]:
    """Run a job to its end.

    Args:
        started: start of its time, by the monotonic clock.
        announce: called before the data of a private job is read, with the seconds after ``started`` until which its
            end must be held.
    Returns:
        The outcome, and the bytes of the result.
    Raises:
        InvalidInput, InvalidPlan, ...: the job cannot run, or the plan of a non-private job failed on the data.
    """
    check_spec(spec)
    if spec.privacy is None:
        return _run(spec, inputs, report, RunSchedule(spec, started, announce))
    with denormals_as_zero():
        return _run(spec, inputs, report, RunSchedule(spec, started, announce))


def _run(spec: JobSpec, inputs: MappedColumns, report: Report, schedule: RunSchedule) -> tuple[Outcome, bytes]:
    tally = _Tally()
    if spec.kind == "statistics":
        media_type, payload = MEDIA_JSON, _statistics(spec, inputs, tally, schedule)
    elif spec.kind == "predict":
        media_type = MEDIA_TENSORS
        payload, tally.num_calls = predict(spec, inputs, report)
    else:
        plan = Plan.from_bytes(inputs.plan)
        params = {name: np.require(array, np.float32, ("C", "A")) for name, array in decode(inputs.model)[0].items()}
        check_params(model_spec(plan.manifest), params)
        job = _PlanJob(spec, plan, params, _bound(spec, plan, inputs.columns))
        if spec.kind == "evaluate":
            media_type, payload = MEDIA_JSON, _evaluate(job, inputs, tally, schedule)
        else:
            media_type, payload = MEDIA_TENSORS, _train(job, inputs, tally, report, schedule)
    columns = list(inputs.columns.values())
    facts = Facts(
        num_records=len(columns[0]),
        bytes_in=sum(column.nbytes for column in columns),
        bytes_out=len(payload),
        num_calls=tally.num_calls,
        num_zeroed=tally.num_zeroed,
        unit_s=schedule.unit_s,
    )
    return Outcome(facts, media_type=media_type), payload


def _bound(spec: JobSpec, plan: Plan, columns: Mapping[str, Array]) -> dict[str, Array]:
    """The columns by the plan's ports, after a check of what does not depend on values."""
    ports = plan.manifest.data
    for name in spec.binding:
        if name not in ports:
            raise InvalidInput(
                f"the binding names a data port {name!r}; the plan takes {', '.join(ports)}", code=codes.INVALID_JOB
            )
    data = {}
    for name, port in ports.items():
        if name not in spec.binding:
            raise InvalidInput(f"the plan's data port {name!r} is bound to no column", code=codes.INVALID_JOB)
        column = columns[spec.binding[name]]
        if column.shape[1:] != port.shape:
            raise InvalidInput(
                f"column {spec.binding[name]!r} has shape {list(column.shape[1:])} per record; port {name!r} takes "
                f"{list(port.shape)}",
                code=codes.INVALID_JOB,
            )
        if not np.can_cast(column.dtype, port.dtype, "same_kind"):
            raise InvalidInput(
                f"column {spec.binding[name]!r} is {column.dtype}, which port {name!r} ({port.dtype}) cannot take",
                code=codes.INVALID_JOB,
            )
        data[name] = column
    return data


def _train(job: _PlanJob, inputs: MappedColumns, tally: _Tally, report: Report, schedule: RunSchedule) -> bytes:
    terms = job.spec.privacy
    if terms is None:
        trained, metrics = _train_exactly(job, tally, report)
        return encode(trained, {"metrics": msgspec.json.encode(metrics).decode()})
    if terms.unit == "domain":
        contributions: Contributions = _WholeDomain(job)
    else:
        options = _options(job, "grads", inputs, tally)
        contributions = PlanSums(terms.clip, job.plan, "grads", job.params, job.data, **options)
    return encode(_train_privately(job.spec, terms, contributions, job.params, tally, schedule))


def _train_exactly(
    job: _PlanJob, tally: _Tally, report: Report | None, *, cancel: Callable[[], bool] | None = None
) -> tuple[Params, dict[str, float]]:
    spec = job.spec

    def progress(_epoch: int, done: int, total: int | None, metrics: dict[str, float]) -> None:
        tally.num_calls += 1
        if report is not None:
            report(Progress(done, total or done, dict(metrics)))

    result = Runner(job.plan, num_threads=spec.num_threads).train(
        job.params,
        job.data,
        epochs=spec.epochs,
        batch_size=spec.batch_size,
        hyper=spec.hyper,
        seed=spec.seed,
        progress=progress,
        cancel=cancel,
    )
    return result.params, result.metrics


def _train_privately(
    spec: JobSpec,
    terms: PrivacyTerms,
    contributions: Contributions,
    params: Params,
    tally: _Tally,
    schedule: RunSchedule,
) -> Params:
    """Noisy gradient descent: in each round a sample, a noisy sum of clipped gradients, and a step of the optimizer."""
    names = contributions.names
    flat = np.concatenate([params[name].reshape(-1) for name in names]).astype(np.float32)
    optimizer = spec.optimizer
    state = {slot: np.full(flat.size, initial_slot(optimizer, slot), np.float32) for slot in SLOTS[optimizer.name]}
    result = dict(params)
    with schedule.begin(terms, contributions) as watch:
        for _ in range(terms.rounds):
            mean = _noisy_mean(terms, contributions, result, tally, watch)
            flat, state = step(optimizer, flat, mean, state)
            result |= _unflatten(flat, names, params)
    return {name: np.array(array) for name, array in result.items()}


def _noisy_mean(
    terms: PrivacyTerms, contributions: Contributions, params: Mapping[str, Array], tally: _Tally, watch: Watch
) -> npt.NDArray[np.float64]:
    """The sum of the clipped contributions of a secret sample, with noise, over the expected size; float64."""
    chosen = np.flatnonzero(tally.bits.coins(contributions.num_units, terms.sampling_rate))
    total = GaussianSum(contributions.size, terms.clip, terms.noise_multiplier, tally.bits)
    contributions.set_params(params)
    tally.num_zeroed += contributions.add_to(total, chosen, watch)
    tally.num_calls += len(chosen)
    return total.finish().astype(np.float64) / terms.expected_size


def _evaluate(job: _PlanJob, inputs: MappedColumns, tally: _Tally, schedule: RunSchedule) -> bytes:
    spec, plan = job.spec, job.plan
    if spec.privacy is None:
        batch_size = min(max(spec.batch_size, 256), plan.manifest.max_batch_size)
        runner = Runner(plan, num_threads=spec.num_threads)
        metrics = runner.evaluate(job.params, job.data, batch_size=batch_size, hyper=spec.hyper)
        num_records = len(next(iter(job.data.values())))
        return msgspec.json.encode({"metrics": metrics, "unit": "record", "count": num_records})
    found = PlanRows(plan, "eval", job.params, job.data, **_options(job, "eval", inputs, tally))
    rows = MetricRows(found, spec.metric_bounds, plan.manifest.metrics)
    # A unit's vector has a norm of at most one by its bounds, and the only number of units that divides is the noisy
    # count.
    terms = msgspec.structs.replace(spec.privacy, clip=1.0, expected_size=spec.privacy.sampling_rate)
    with schedule.begin(terms, rows) as watch:
        sums = _noisy_mean(terms, rows, job.params, tally, watch)
    answer = rows.read_answer(sums, terms.noise_multiplier / terms.sampling_rate)
    return msgspec.json.encode({**answer, "unit": terms.unit})


def _statistics(spec: JobSpec, inputs: MappedColumns, tally: _Tally, schedule: RunSchedule) -> bytes:
    num_records = len(next(iter(inputs.columns.values())))
    most = 1 if spec.privacy is None else spec.privacy.max_rows_per_subject
    rows = StatisticRows(spec.statistics, inputs.columns, _groups(spec, inputs.columns), most)
    if spec.privacy is None:
        sums = np.zeros(rows.size)
        for block in rows.blocks(np.arange(num_records)):
            sums += block.rows.sum(axis=0)
        return msgspec.json.encode({"answers": read_answers(spec.statistics, sums, 0.0)})
    # A record's contribution has a norm of at most one, a subject's of at most its number of records: that is the
    # bound, and the scientist's own plays no part.
    clip = float(spec.privacy.max_rows_per_subject) if spec.privacy.unit == "subject" else 1.0
    terms = msgspec.structs.replace(spec.privacy, clip=clip, expected_size=spec.privacy.sampling_rate)
    with schedule.begin(terms, rows) as watch:
        sums = _noisy_mean(terms, rows, {}, tally, watch)
    noise = terms.noise_multiplier * clip / terms.sampling_rate
    return msgspec.json.encode({"answers": read_answers(spec.statistics, sums, noise)})


def _options(job: _PlanJob, graph: str, inputs: MappedColumns, tally: _Tally) -> dict[str, Any]:
    """Arguments of `PlanRows` and `PlanSums` about the units of a job."""
    spec = job.spec
    assert spec.privacy is not None
    if graph not in job.plan.manifest.graphs:
        raise InvalidPlan(
            f"a private job of kind {spec.kind} needs the graph {graph!r}, which the plan lacks", code=codes.PLAN_KIND
        )
    groups, max_rows = _groups(spec, inputs.columns), spec.privacy.max_rows_per_subject
    memory = spec.limits.memory_bytes
    return {"bits": tally.bits, "groups": groups, "hyper": spec.hyper, "max_rows": max_rows, "memory_bytes": memory}


def _groups(spec: JobSpec, columns: Mapping[str, Array]) -> list[Array] | None:
    """The rows of each subject, if the job protects subjects."""
    if spec.privacy is None or spec.privacy.unit != "subject":
        return None
    return subject_groups(columns[spec.subject], spec.privacy.max_rows_per_subject)


class _WholeDomain:
    """One contribution: what training on all of the data changes.

    The limit of its one evaluation ends the training where it stands. That depends on this unit alone, as it is the
    only one.
    """

    num_units = 1
    is_trusted = False

    def __init__(self, job: _PlanJob) -> None:
        self._job = job
        self.names = tuple(job.params)
        self.size = sum(array.size for array in job.params.values())

    def set_params(self, params: Mapping[str, Array]) -> None:
        self._job = replace(self._job, params=dict(params))

    def unit_s(self) -> float:
        """From a training on one batch of made-up data, for as many batches as there are."""
        job = self._job
        num_records = len(next(iter(job.data.values())))
        batch_size = max(1, min(job.spec.batch_size, num_records))
        made_up = {
            name: np.full((batch_size, *port.shape), 0 if np.dtype(port.dtype).kind in "ib" else 1, port.dtype)
            for name, port in job.plan.manifest.data.items()
        }
        spec = msgspec.structs.replace(job.spec, epochs=1, batch_size=batch_size)
        short = replace(job, spec=spec, data=made_up)
        num_batches = job.spec.epochs * -(-num_records // batch_size)
        with contextlib.suppress(InvalidInput, InvalidPlan):  # the plan fails on made-up values
            return num_batches * measure(lambda: _train_exactly(short, _Tally(), None))
        graph = job.plan.manifest.graphs["train"]
        return num_batches * (graph.flops_fixed + batch_size * graph.flops_per_example) / 1e9

    def add_to(self, total: GaussianSum, units: Array, watch: Watch) -> int:
        start = self._job.params
        try:
            trained, _ = _train_exactly(self._job, _Tally(), None, cancel=watch.timer())
        except (InvalidInput, InvalidPlan):
            return 1
        diff = make_diff(start, trained)
        total.add(np.concatenate([diff[name].reshape(-1) for name in self.names]).astype(np.float32))
        return 0


def _unflatten(flat: Array, names: tuple[str, ...], like: Mapping[str, Array]) -> Params:
    arrays, position = {}, 0
    for name in names:
        shape = like[name].shape
        size = int(np.prod(shape, dtype=np.int64))
        arrays[name] = flat[position : position + size].reshape(shape)
        position += size
    return arrays
