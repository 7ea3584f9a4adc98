"""The trusted runner: executes a job's specification on mapped columns, and decides what leaves.

An exact job runs the plan as it is. A private job never hands the plan more than one unit's data (a record, a subject's
records, or the Domain's own training run) and takes from it one vector for each; the vector is clipped, put on a grid of
integers and summed here, noise is added here, and only that leaves. So the guarantee holds for any plan:

- a unit on which the plan fails, or gives NaN or infinity, counts as zeros, and so does one whose turn does not come in time;
- who takes part in a round is drawn by secret coins, which nobody learns;
- metrics and losses of a private training run do not leave at all.

Source: Abadi et al., "Deep Learning with Differential Privacy", CCS 2016, algorithm 1, with integer noise (`pygrid.privacy`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from pygrid.aggregation.optimizers import SLOTS, initial_slot, step
from pygrid.core.execution import Facts, JobSpec, Outcome, PrivacyTerms, Progress, check_spec
from pygrid.errors import InvalidInput, InvalidPlan
from pygrid.features.execution.child import Inputs
from pygrid.features.execution.contributions import Contributions, PlanRows, subject_groups
from pygrid.features.execution.metric_rows import MetricRows
from pygrid.features.execution.predicting import predict
from pygrid.features.execution.statistics import StatisticRows, read_answers
from pygrid.plans.archive import Plan
from pygrid.plans.runner import Runner, check_params, model_spec
from pygrid.privacy.mechanisms import GaussianSum
from pygrid.privacy.noise import SecretBits
from pygrid.tensors import Params, decode, encode, make_diff

Array = npt.NDArray[Any]
Report = Callable[[Progress], None]

MEDIA_TENSORS = "application/octet-stream"
MEDIA_JSON = "application/json"

_TIME_FOR_DATA = 0.8
"""The part of a private job's time in which data is looked at; the rest is for noise, so that it ends well in any case."""


@dataclass
class _Tally:
    """What goes into the facts; and the secret bits of the job, which is one release: fresh in this process, used once."""

    num_calls: int = 0
    num_zeroed: int = 0
    num_skipped: int = 0
    bits: SecretBits = field(default_factory=SecretBits)


def run(spec: JobSpec, inputs: Inputs, report: Report, *, started: float) -> tuple[Outcome, bytes]:
    """Run a job to its end.

    Args:
        started: when its time began, by the monotonic clock.
    Returns:
        How it went, and the bytes of the result.
    Raises:
        InvalidInput, InvalidPlan, ...: the job can't be run, or the plan of an exact job failed on the data.
    """
    check_spec(spec)
    tally = _Tally()
    if spec.kind == "statistics":
        media_type, payload = MEDIA_JSON, _statistics(spec, inputs, tally, started)
    elif spec.kind == "predict":
        media_type = MEDIA_TENSORS
        payload, tally.num_calls = predict(spec, inputs, report)
    else:
        plan = Plan.from_bytes(inputs.plan)
        params = {name: np.require(array, np.float32, ("C", "A")) for name, array in decode(inputs.model)[0].items()}
        check_params(model_spec(plan.manifest), params)
        data = _bound(spec, plan, inputs.columns)
        if spec.kind == "evaluate":
            media_type, payload = MEDIA_JSON, _evaluate(spec, plan, params, data, inputs, tally, started)
        else:
            media_type, payload = MEDIA_TENSORS, _train(spec, plan, params, data, inputs, tally, report, started)
    columns = list(inputs.columns.values())
    facts = Facts(
        num_records=len(columns[0]),
        bytes_in=sum(column.nbytes for column in columns),
        bytes_out=len(payload),
        num_calls=tally.num_calls,
        num_zeroed=tally.num_zeroed,
        num_skipped=tally.num_skipped,
    )
    return Outcome(facts, media_type=media_type), payload


def _bound(spec: JobSpec, plan: Plan, columns: Mapping[str, Array]) -> dict[str, Array]:
    """The columns by the plan's ports, after a check of what does not depend on values."""
    ports = plan.manifest.data
    for name in spec.binding:
        if name not in ports:
            raise InvalidInput(f"the binding names a data port {name!r}; the plan takes {', '.join(ports)}", code="invalid_job")
    data = {}
    for name, port in ports.items():
        if name not in spec.binding:
            raise InvalidInput(f"the plan's data port {name!r} is bound to no column", code="invalid_job")
        column = columns[spec.binding[name]]
        if column.shape[1:] != port.shape:
            raise InvalidInput(
                f"column {spec.binding[name]!r} has shape {list(column.shape[1:])} per record; port {name!r} takes "
                f"{list(port.shape)}",
                code="invalid_job",
            )
        if not np.can_cast(column.dtype, port.dtype, "same_kind"):
            raise InvalidInput(
                f"column {spec.binding[name]!r} is {column.dtype}, which port {name!r} ({port.dtype}) can't take",
                code="invalid_job",
            )
        data[name] = column
    return data


def _train(
    spec: JobSpec,
    plan: Plan,
    params: Params,
    data: dict[str, Array],
    inputs: Inputs,
    tally: _Tally,
    report: Report,
    started: float,
) -> bytes:
    if spec.privacy is None:
        trained, metrics = _train_exactly(spec, plan, params, data, tally, report)
        return encode(trained, {"metrics": msgspec.json.encode(metrics).decode()})
    if spec.privacy.unit == "domain":
        contributions: Contributions = _WholeDomain(spec, plan, params, data, _deadline(spec, started))
    else:
        contributions = _plan_rows(spec, plan, "grads", params, data, inputs)
    return encode(_train_privately(spec, spec.privacy, contributions, params, tally, _deadline(spec, started)))


def _train_exactly(
    spec: JobSpec,
    plan: Plan,
    params: Params,
    data: dict[str, Array],
    tally: _Tally,
    report: Report | None,
    *,
    deadline: float | None = None,
) -> tuple[Params, dict[str, float]]:
    def progress(_epoch: int, done: int, total: int | None, metrics: dict[str, float]) -> None:
        tally.num_calls += 1
        if report is not None:
            report(Progress(done, total or done, dict(metrics)))

    result = Runner(plan, num_threads=spec.num_threads).train(
        params,
        data,
        epochs=spec.epochs,
        batch_size=spec.batch_size,
        hyper=spec.hyper,
        seed=spec.seed,
        progress=progress,
        cancel=None if deadline is None else lambda: time.monotonic() > deadline,
    )
    return result.params, result.metrics


def _train_privately(
    spec: JobSpec, terms: PrivacyTerms, contributions: Contributions, params: Params, tally: _Tally, deadline: float
) -> Params:
    """Noisy gradient descent: in each round a sample, a noisy sum of clipped gradients, and a step of the optimizer."""
    names = contributions.names
    flat = np.concatenate([params[name].reshape(-1) for name in names]).astype(np.float32)
    optimizer = spec.optimizer
    state = {slot: np.full(flat.size, initial_slot(optimizer, slot), np.float32) for slot in SLOTS[optimizer.name]}
    result = dict(params)
    for _ in range(terms.rounds):
        mean = _noisy_mean(terms, contributions, result, tally, deadline)
        flat, state = step(optimizer, flat, mean, state)
        result |= _unflatten(flat, names, params)
    return {name: np.array(array) for name, array in result.items()}


def _noisy_mean(
    terms: PrivacyTerms, contributions: Contributions, params: Mapping[str, Array], tally: _Tally, deadline: float
) -> npt.NDArray[np.float64]:
    """The sum of the clipped contributions of a secret sample, with noise, over the expected size; float64."""
    chosen = np.flatnonzero(tally.bits.coins(contributions.num_units, terms.sampling_rate))
    total = GaussianSum(contributions.size, terms.clip, terms.noise_multiplier, tally.bits)
    contributions.set_params(params)
    done = 0
    while done < len(chosen):
        if time.monotonic() > deadline:
            tally.num_skipped += len(chosen) - done
            break
        part = chosen[done : done + contributions.chunk]
        rows, num_failed = contributions.rows(part)
        tally.num_zeroed += num_failed
        tally.num_calls += 1
        total.add_rows(rows)
        done += len(part)
    return total.finish().astype(np.float64) / terms.expected_size


def _evaluate(
    spec: JobSpec, plan: Plan, params: Params, data: dict[str, Array], inputs: Inputs, tally: _Tally, started: float
) -> bytes:
    if spec.privacy is None:
        batch_size = min(max(spec.batch_size, 256), plan.manifest.max_batch_size)
        runner = Runner(plan, num_threads=spec.num_threads)
        metrics = runner.evaluate(params, data, batch_size=batch_size, hyper=spec.hyper)
        num_records = len(next(iter(data.values())))
        return msgspec.json.encode({"metrics": metrics, "unit": "record", "count": num_records})
    rows = MetricRows(
        _plan_rows(spec, plan, "eval", params, data, inputs, failed=np.nan), spec.metric_bounds, plan.manifest.metrics
    )
    # A unit's vector has a norm of at most one by its bounds, and nothing is divided by a number of units but the noisy count.
    terms = msgspec.structs.replace(spec.privacy, clip=1.0, expected_size=spec.privacy.sampling_rate)
    sums = _noisy_mean(terms, rows, params, tally, _deadline(spec, started))
    answer = rows.read_answer(sums, terms.noise_multiplier / terms.sampling_rate)
    return msgspec.json.encode({**answer, "unit": terms.unit})


def _statistics(spec: JobSpec, inputs: Inputs, tally: _Tally, started: float) -> bytes:
    num_records = len(next(iter(inputs.columns.values())))
    rows = StatisticRows(spec.statistics, inputs.columns, _groups(spec, inputs.columns))
    if spec.privacy is None:
        sums = np.zeros(rows.size)
        for begin in range(0, num_records, rows.chunk):
            sums += rows.rows(np.arange(begin, min(begin + rows.chunk, num_records)))[0].sum(axis=0)
        return msgspec.json.encode({"answers": read_answers(spec.statistics, sums, 0.0)})
    # A record's contribution has a norm of at most one, a subject's of at most its number of records: that is the bound, and
    # the scientist's own plays no part.
    clip = float(spec.privacy.max_rows_per_subject) if spec.privacy.unit == "subject" else 1.0
    terms = msgspec.structs.replace(spec.privacy, clip=clip, expected_size=spec.privacy.sampling_rate)
    sums = _noisy_mean(terms, rows, {}, tally, _deadline(spec, started))
    noise = terms.noise_multiplier * clip / terms.sampling_rate
    return msgspec.json.encode({"answers": read_answers(spec.statistics, sums, noise)})


def _plan_rows(
    spec: JobSpec, plan: Plan, graph: str, params: Params, data: dict[str, Array], inputs: Inputs, *, failed: float = 0.0
) -> PlanRows:
    assert spec.privacy is not None
    if graph not in plan.manifest.graphs:
        raise InvalidPlan(
            f"a private job of kind {spec.kind} needs the graph {graph!r}, which the plan lacks", code="plan_kind"
        )
    groups = _groups(spec, inputs.columns)
    return PlanRows(plan, graph, params, data, groups=groups, hyper=spec.hyper, num_threads=spec.num_threads, failed=failed)


def _groups(spec: JobSpec, columns: Mapping[str, Array]) -> list[Array] | None:
    """The rows of each subject, if subjects are what is protected."""
    if spec.privacy is None or spec.privacy.unit != "subject":
        return None
    return subject_groups(columns[spec.subject], spec.privacy.max_rows_per_subject)


class _WholeDomain:
    """One contribution: what training on all of the data changes."""

    num_units, chunk = 1, 1

    def __init__(self, spec: JobSpec, plan: Plan, params: Params, data: dict[str, Array], deadline: float) -> None:
        self._spec, self._plan, self._data, self._deadline = spec, plan, data, deadline
        self._params: Mapping[str, Array] = params
        self.names = tuple(params)
        self.size = sum(array.size for array in params.values())

    def set_params(self, params: Mapping[str, Array]) -> None:
        self._params = params

    def rows(self, units: Array) -> tuple[Array, int]:
        start = dict(self._params)
        try:
            # Training that is not done in time counts as far as it came.
            trained, _ = _train_exactly(self._spec, self._plan, start, self._data, _Tally(), None, deadline=self._deadline)
        except (InvalidInput, InvalidPlan):
            return np.zeros((1, self.size), np.float32), 1
        diff = make_diff(start, trained)
        return np.concatenate([diff[name].reshape(-1) for name in self.names])[np.newaxis].astype(np.float32), 0


def _unflatten(flat: Array, names: tuple[str, ...], like: Mapping[str, Array]) -> Params:
    arrays, position = {}, 0
    for name in names:
        shape = like[name].shape
        size = int(np.prod(shape, dtype=np.int64))
        arrays[name] = flat[position : position + size].reshape(shape)
        position += size
    return arrays


def _deadline(spec: JobSpec, started: float) -> float:
    return started + _TIME_FOR_DATA * spec.limits.wall_s
