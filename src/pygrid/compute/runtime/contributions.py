"""What each unit of a private job contributes: one vector, a bit-exact function of this unit and the model.

A plan can compare a result with a known bit pattern, and turn one different last bit into its largest contribution. So
only the unit and the model may affect a bit of the vector: not the position of the unit, not the other units, not a
failure, not earlier runs. `PlanRows` evaluates one unit at a time, always by the same `ExactSession`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from pygrid import codes
from pygrid.compute.runtime.sum_graph import (
    AFTER,
    BEFORE,
    NORM,
    ROW,
    SQUARES,
    plan_inputs,
    plan_name,
    sum_dtype,
    sum_graph,
    without_names,
)
from pygrid.compute.runtime.watch import Watch, estimate_s, failure_s, measure
from pygrid.core.job_spec import JobLimits
from pygrid.errors import InvalidPlan
from pygrid.plans.archive import Plan
from pygrid.plans.batches import convert, invalid_values
from pygrid.plans.costs import Analysis, analyse
from pygrid.plans.exact import ExactSession, flat_outputs
from pygrid.plans.hyper import resolve_hyper
from pygrid.plans.independence import judge
from pygrid.plans.manifest import Graph, Port
from pygrid.plans.structure import read_graph
from pygrid.privacy.clipping import Grid
from pygrid.privacy.mechanisms import GaussianSum
from pygrid.privacy.noise import SecretBits
from pygrid.tensors.aligned import aligned_zeros

Array = npt.NDArray[Any]

_CHUNK = 128
"""Number of records that are read at once, and of vectors in a block."""
_MISS_S = 150e-9
"""Time of a read that misses every cache and the table of pages."""
SLOW_S = 60e-9
"""Time of an operation on the values that take longest; ``benchmarks/operator_times.py`` finds at most 27e-9."""
_EXCEPTION_SHARE = 0.5
"""How much of the time of an exception is part of the usual time of a unit, of which `VARIATION` times is planned."""


class ContributionBlock(NamedTuple):
    """The vectors of some units."""

    rows: Array
    """Shape ``[units, size]``, floating-point; valid until the next block is requested."""
    failed: npt.NDArray[np.bool_]
    """The units that failed: their rows are zeros."""


class Contributions(Protocol):
    """The vectors of all units, made on demand."""

    num_units: int
    size: int
    """Entries of each vector."""
    names: tuple[str, ...]
    """Names of the arrays or numbers that a vector is made of, in its order."""
    is_trusted: bool
    """Whether code of pygrid alone makes the vectors, so that no unit can take long."""

    def set_params(self, params: Mapping[str, Array]) -> None:
        """Use this model from now on."""

    def unit_s(self) -> float:
        """CPU seconds to add one unit, found without reading the data; with `VARIATION`, enough for any values."""

    def add_to(self, total: GaussianSum, units: Array, watch: Watch) -> int:
        """Add the vectors of these units, each clipped; returns the number of units that failed.

        A unit that fails, or is ended by ``watch``, or has a vector that is not finite, adds zeros.
        """


def add_blocks(total: GaussianSum, blocks: Iterable[ContributionBlock]) -> int:
    """Add the vectors of all blocks; returns the number of units that failed."""
    num_failed = 0
    for rows, failed in blocks:
        total.add_rows(rows)
        num_failed += int(np.count_nonzero(failed))
    return num_failed


def add_s(size: int) -> float:
    """CPU seconds that `GaussianSum.add_rows` takes for a vector whose square float32 does not hold, the longest."""
    rows = np.full((1, size), 3e38, np.float32)
    total = GaussianSum(size, 1.0, 1.0)
    return measure(lambda: total.add_rows(rows))


class _PlanUnits:
    """The units of a job, as inputs of a graph of its plan.

    Args:
        groups: the records of each unit; None: each record is a unit.
        max_rows: the largest number of records of a unit.
        memory_bytes: memory of the job. An evaluation must fit twice, so that none depends on what else takes memory.
        bits: fills the noise ports of the plan, with new words for each unit.
    Raises:
        InvalidPlan: ``plan_mixes_examples``: called one by one, the plan would not mean what it means in a batch.
            ``plan_time_unbounded``: it has an operator whose time depends on values. ``plan_memory_too_large``.
    """

    is_trusted = False
    size: int
    _session: ExactSession

    def __init__(
        self,
        plan: Plan,
        graph: str,
        params: Mapping[str, Array],
        data: Mapping[str, Array],
        *,
        bits: SecretBits,
        groups: Sequence[Array] | None = None,
        hyper: Mapping[str, float] | None = None,
        max_rows: int = 1,
        memory_bytes: int = JobLimits().memory_bytes,
    ) -> None:
        manifest = plan.manifest
        entry = manifest.graphs[graph]
        model = read_graph(graph, plan.graph(graph), entry)
        self._analysis = analyse(model.graph, name=graph, max_n=manifest.max_batch_size)
        _check_fit(self._analysis)
        self._max_rows = 1 if groups is None else min(max_rows, manifest.max_batch_size)
        _check_memory(self._analysis.peak_bytes(self._max_rows), memory_bytes)
        reads, slow = self._analysis.scattered_reads(self._max_rows), self._analysis.slow_operations(self._max_rows)
        self._values_s = _MISS_S * reads + SLOW_S * slow
        """By how much an evaluation can take longer because of its values."""
        prefix = "grads/" if graph == "grads" else "metrics/"
        outputs = [port for port in entry.outputs if port.name.startswith(prefix)]
        self.names = tuple(port.name.removeprefix(prefix) for port in outputs)
        # The gate checked the plan for batches up to its largest one only.
        self._groups = None if groups is None else [group[: self._max_rows] for group in groups]
        self._manifest, self._data, self._bits = manifest, data, bits
        self.num_units = len(next(iter(data.values()))) if groups is None else len(groups)
        self._inputs = self._open(graph, model, entry, outputs)
        """The buffer of each input of the plan."""
        self._noise = [buffer for name, buffer in self._inputs.items() if name.startswith("noise/")]
        for name, value in resolve_hyper(manifest, hyper).items():
            if (buffer := self._inputs.get(f"hyper/{name}")) is not None:
                buffer[...] = value
        self.set_params(params)

    def _open(self, name: str, model: ModelProto, entry: Graph, outputs: Sequence[Port]) -> Mapping[str, Array]:
        raise NotImplementedError

    def set_params(self, params: Mapping[str, Array]) -> None:
        for name, array in params.items():
            for prefix in ("params", "buffers"):
                if (buffer := self._inputs.get(f"{prefix}/{name}")) is not None:
                    np.copyto(buffer, array, casting="same_kind")

    def _evaluation_s(self) -> float:
        """CPU seconds of a run on made-up data, with the largest number of records of a unit, and of slow values."""
        for name, buffer in self._inputs.items():
            if name.startswith("data/"):
                buffer[...] = 0 if buffer.dtype.kind in "ib" else 1
        try:
            return self._values_s + measure(lambda: self._session.run(self._max_rows))
        except InvalidPlan:  # the plan fails on made-up values
            return self._values_s + estimate_s(self._analysis, self._max_rows)

    def _exception_s(self) -> float:
        """By how much a unit can take longer if the plan fails on it, or if its vector is clipped outside of a graph.

        Both were measured at their longest, so that 1.5 times them is enough within `VARIATION` times the usual time.
        """
        return _EXCEPTION_SHARE * max(failure_s(), add_s(self.size))

    def _evaluations(self, units: Array, watch: Watch) -> Iterator[bool]:
        """Evaluate the units one after the other; yields whether each succeeded, with its outputs in the session."""
        for begin in range(0, len(units), _CHUNK):
            part = units[begin : begin + _CHUNK]
            if self._groups is not None:
                for unit in part:
                    records = self._groups[unit]
                    batch, usable = self._batch(records)
                    self._draw(len(records))
                    for name, array in batch.items():
                        self._inputs[name][: len(records)] = array
                    yield bool(usable.all()) and watch.run(self._session, len(records))
                continue
            batch, usable = self._batch(part)
            pairs = [(self._inputs[name][:1], array) for name, array in batch.items()]
            run, session, has_noise = watch.run, self._session, bool(self._noise)
            for index, ok in enumerate(usable.tolist()):
                if has_noise:
                    self._draw(1)
                for buffer, array in pairs:
                    buffer[0] = array[index]
                yield ok and run(session, 1)

    def _draw(self, num_rows: int) -> None:
        """Fill the noise ports, for every unit, so that no unit's words depend on whether another unit is usable."""
        for buffer in self._noise:
            buffer[:num_rows] = self._bits.uniform(buffer[:num_rows].shape)

    def _batch(self, records: Array) -> tuple[dict[str, Array], npt.NDArray[np.bool_]]:
        """The data of some records in the dtypes of the plan, and which records hold only accepted values."""
        usable = np.ones(len(records), np.bool_)
        columns = {name: array[records] for name, array in self._data.items()}
        for name, values in columns.items():
            wrong = invalid_values(self._manifest.data[name], values)
            usable &= ~wrong.reshape(len(records), -1).any(axis=1)
        with np.errstate(over="ignore", invalid="ignore"):
            converted = convert(self._manifest.data, columns)
        return {f"data/{name}": array for name, array in converted.items()}, usable


class PlanRows(_PlanUnits):
    """The outputs ``grads/`` (or ``metrics/``) of a graph, for one unit at a time, each flattened to one vector."""

    def _open(self, name: str, model: ModelProto, entry: Graph, outputs: Sequence[Port]) -> Mapping[str, Array]:
        self._row, buffers = flat_outputs(outputs)
        self.size = self._row.size
        graph = without_names(model).SerializeToString()
        self._session = ExactSession(graph, name=name, inputs=entry.inputs, outputs=buffers, max_rows=self._max_rows)
        return self._session.inputs

    def unit_s(self) -> float:
        return self._evaluation_s() + add_s(self.size) + self._exception_s()

    def add_to(self, total: GaussianSum, units: Array, watch: Watch) -> int:
        return add_blocks(total, self.blocks(units, watch))

    def blocks(self, units: Array, watch: Watch) -> Iterator[ContributionBlock]:
        """The vectors of these units, in their order, before clipping."""
        evaluations = self._evaluations(units, watch)
        while True:
            rows: list[Array] = []
            failed: list[bool] = []
            for is_good in itertools.islice(evaluations, _CHUNK):
                failed.append(not (is_good and np.isfinite(self._row).all()))
                rows.append(np.zeros(self.size, np.float32) if failed[-1] else self._row.copy())
            if not rows:
                return
            yield ContributionBlock(np.stack(rows), np.array(failed))


class PlanSums(_PlanUnits):
    """As `PlanRows`; a vector is clipped and added in the same call that makes it (`sum_graph`).

    Args:
        clip: bound of the L2 norm of a vector.
        more: arguments of `PlanRows`.
    """

    def __init__(self, clip: float, *arguments: Any, **more: Any) -> None:
        self._clip = clip
        super().__init__(*arguments, **more)

    def _open(self, name: str, model: ModelProto, entry: Graph, outputs: Sequence[Port]) -> Mapping[str, Array]:
        self._row, _ = flat_outputs(outputs)
        self.size = self._row.size
        grid = Grid.fit(self._clip, self.size)
        dtype = sum_dtype(grid)
        self._norm, self._squares = aligned_zeros((1,), dtype), aligned_zeros((1,), dtype)
        self._largest = grid.sensitivity**2
        sum_after = aligned_zeros((self.size,), dtype)
        self._most = (1 << 24 if sum_after.dtype == np.float32 else 1 << 52) // grid.sensitivity
        """Contributions whose sum the dtype holds exactly."""
        self._session = ExactSession(
            sum_graph(model, outputs, grid),
            name=name,
            inputs=plan_inputs(entry),
            outputs={ROW: self._row, NORM: self._norm, SQUARES: self._squares},
            max_rows=self._max_rows,
            carried=(BEFORE, AFTER, sum_after),
        )
        return {port.name: self._session.inputs[plan_name(port.name)] for port in entry.inputs}

    def unit_s(self) -> float:
        return self._evaluation_s() + self._exception_s()

    def add_to(self, total: GaussianSum, units: Array, watch: Watch) -> int:
        num_failed = num_carried = 0
        self._session.carried[:] = 0
        for is_good in self._evaluations(units, watch):
            if not is_good:
                num_failed += 1
            elif self._squares[0] <= self._largest and self._norm[0] < np.inf:
                self._session.carry()
                num_carried += 1
                if num_carried == self._most:
                    total.add_clipped(self._session.carried, num_carried)
                    self._session.carried[:] = num_carried = 0
            elif np.isfinite(self._row).all():
                total.add(self._row)
            else:
                num_failed += 1
        total.add_clipped(self._session.carried, num_carried)
        return num_failed


def _check_fit(analysis: Analysis) -> None:
    verdict = judge(analysis)
    if not verdict.independent:
        raise InvalidPlan(
            f"the plan cannot be used for a private job, because {verdict.reason}. Private training calls it on one "
            "record at a time; layers such as BatchNorm, which look at a whole batch, have to be replaced (by "
            "GroupNorm)",
            code=codes.PLAN_MIXES_EXAMPLES,
        )
    if where := analysis.value_dependent_time:
        raise InvalidPlan(
            f"the plan cannot be used for a private job, because the time of {where} depends on the values of a "
            "record: it takes the remainder of a division of floats. Write the remainder as x - floor(x / y) * y",
            code=codes.PLAN_TIME_UNBOUNDED,
        )


def _check_memory(peak_bytes: int, memory_bytes: int) -> None:
    if 2 * peak_bytes > memory_bytes:
        raise InvalidPlan(
            f"an evaluation of the plan takes up to {peak_bytes:,} bytes, and a private job may take half of the "
            f"{memory_bytes:,} bytes of a job. Use a smaller model or fewer records of each subject, or ask the "
            "operator to raise PYGRID_JOB_MEMORY_MB",
            code=codes.PLAN_MEMORY_TOO_LARGE,
        )


def subject_groups(subjects: Array, max_rows: int) -> list[Array]:
    """The rows of each subject, in the order of the data, cut to the first ``max_rows``."""
    order = np.argsort(subjects, kind="stable")
    borders = np.flatnonzero(np.diff(subjects[order])) + 1
    return [group[:max_rows] for group in np.split(order, borders) if len(group)]
