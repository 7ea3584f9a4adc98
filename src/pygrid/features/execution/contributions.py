"""What each unit of a private job contributes: one vector, from a call of the plan that sees this unit alone.

`PlanRows` computes it record by record, or, where the graph can be rewritten (`pygrid.features.execution.batching`), for many
records in one call in which no record can reach another.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pygrid.errors import InvalidPlan
from pygrid.features.execution.batching import batched_graph
from pygrid.plans.archive import Plan
from pygrid.plans.batches import convert, draw_noise
from pygrid.plans.costs import analyse
from pygrid.plans.hyper import resolve_hyper
from pygrid.plans.independence import judge
from pygrid.plans.sessions import Session
from pygrid.plans.structure import read_graph

Array = npt.NDArray[Any]

_CHUNK_BYTES = 1536 * 1024
"""Of contributions made in one call: what stays in the cache until they are summed ..."""
_MIN_CHUNK, _MAX_CHUNK = 8, 128
"""... but enough of them that a call pays, ..."""
_MOST_BYTES = 256 * 1024**2
"""... and never more than this."""


class Contributions(Protocol):
    """The vectors of all units, made on demand."""

    num_units: int
    size: int
    """Entries of each vector."""
    chunk: int
    """How many units to ask for at once, at most."""
    names: tuple[str, ...]
    """Of the arrays or numbers that a vector is made of, in its order."""

    def set_params(self, params: Mapping[str, Array]) -> None:
        """Use this model from now on."""

    def rows(self, units: Array) -> tuple[Array, int]:
        """The vectors of some units, ``[len(units), size]``, not yet clipped; and how many failed and are zero."""


class PlanRows:
    """The outputs ``grads/`` (or ``metrics/``) of a graph, for one unit at a time, each flattened to one vector.

    Args:
        failed: the entries of the vector of a unit that failed.
    Raises:
        InvalidPlan: ``plan_mixes_examples``: called one by one, the plan would not mean what it means in a batch.
    """

    def __init__(
        self,
        plan: Plan,
        graph: str,
        params: Mapping[str, Array],
        data: Mapping[str, Array],
        *,
        groups: Sequence[Array] | None = None,
        hyper: Mapping[str, float] | None = None,
        num_threads: int = 1,
        failed: float = 0.0,
    ) -> None:
        manifest = plan.manifest
        entry = manifest.graphs[graph]
        model = read_graph(graph, plan.graph(graph), entry)
        verdict = judge(analyse(model.graph, name=graph, max_n=manifest.max_batch_size))
        if not verdict.independent:
            raise InvalidPlan(
                f"the plan can't be used for a private job, because {verdict.reason}. Private training calls it on one record "
                "at a time; layers such as BatchNorm, which look at a whole batch, have to be replaced (by GroupNorm)",
                code="plan_mixes_examples",
            )
        prefix = "grads/" if graph == "grads" else "metrics/"
        ports = [port for port in entry.outputs if port.name.startswith(prefix)]
        self.names = tuple(port.name.removeprefix(prefix) for port in ports)
        self._sizes = [int(np.prod([int(size) for size in port.shape], dtype=np.int64)) for port in ports]
        self.size = sum(self._sizes)
        self._outputs = [port.name for port in ports]
        # Beyond its largest batch the gate promised nothing about the plan.
        self._groups = None if groups is None else [group[: manifest.max_batch_size] for group in groups]
        self._manifest, self._data, self._failed = manifest, data, failed
        self.num_units = len(next(iter(data.values()))) if groups is None else len(groups)
        self._takes = {port.name for port in entry.inputs}
        self._noise = {name: port for name, port in manifest.noise.items() if f"noise/{name}" in self._takes}
        # Not secret and not part of the guarantee: it feeds the plan's own noise ports, such as those of dropout.
        self._generator = np.random.Generator(np.random.PCG64(int.from_bytes(os.urandom(16), "little")))
        self._feed: dict[str, Array] = {
            f"hyper/{name}": np.array(value, np.float32)
            for name, value in resolve_hyper(manifest, hyper).items()
            if f"hyper/{name}" in self._takes
        }
        self._single = Session(plan.graph(graph), name=graph, num_threads=num_threads)
        many = batched_graph(model, keep=self._outputs) if groups is None else None
        self._many = None if many is None else Session(many, name=graph, num_threads=num_threads)
        row_bytes = 4 * self.size
        self.chunk = min(_MAX_CHUNK, max(_MIN_CHUNK, _CHUNK_BYTES // row_bytes), max(1, _MOST_BYTES // row_bytes))
        self._ones = np.ones(self.size, np.float32)
        self.set_params(params)

    @property
    def is_batched(self) -> bool:
        """Whether many records are computed in one call."""
        return self._many is not None

    def set_params(self, params: Mapping[str, Array]) -> None:
        for name, array in params.items():
            for prefix in ("params", "buffers"):
                if f"{prefix}/{name}" in self._takes:
                    self._feed[f"{prefix}/{name}"] = np.require(array, np.float32, ("C", "A"))

    def rows(self, units: Array) -> tuple[Array, int]:
        if self._groups is not None:
            return self._one_by_one([self._batch(self._groups[unit]) for unit in units])
        batch, usable = self._batch(units)
        if self._many is None:
            return self._one_by_one([self._take(batch, usable, index) for index in range(len(units))])
        try:
            outputs = self._many.run(self._outputs, self._feed | batch)
        except InvalidPlan:
            # One record made the call fail, or the call was too large: find out which.
            return self._one_by_one([self._take(batch, usable, index) for index in range(len(units))])
        rows = np.concatenate([output.reshape(len(units), -1) for output in outputs], axis=1, dtype=np.float32)
        rows[~usable] = self._failed
        return rows, int(np.count_nonzero(~self._finite(rows) | ~usable))

    def _one_by_one(self, batches: Sequence[tuple[dict[str, Array], npt.NDArray[np.bool_]]]) -> tuple[Array, int]:
        rows = np.zeros((len(batches), self.size), np.float32)
        num_failed = 0
        for row, (batch, usable) in zip(rows, batches, strict=True):
            try:
                if not usable.all():
                    raise InvalidPlan("a value that the plan does not take", code="plan_run_failed")
                outputs = self._single.run(self._outputs, self._feed | batch)
                np.concatenate([output.reshape(-1) for output in outputs], out=row)
            except InvalidPlan:
                row[:] = self._failed
                num_failed += 1
        return rows, num_failed + int(np.count_nonzero(~self._finite(rows)))

    def _finite(self, rows: Array) -> npt.NDArray[np.bool_]:
        """Which rows are finite, by their sums: only to count them, so that a sum beyond float32 does not matter."""
        with np.errstate(over="ignore", invalid="ignore"):
            finite: npt.NDArray[np.bool_] = np.isfinite(rows @ self._ones)
        return finite

    @staticmethod
    def _take(
        batch: dict[str, Array], usable: npt.NDArray[np.bool_], index: int
    ) -> tuple[dict[str, Array], npt.NDArray[np.bool_]]:
        part = slice(index, index + 1)
        return {name: array[part] for name, array in batch.items()}, usable[part]

    def _batch(self, rows: Array) -> tuple[dict[str, Array], npt.NDArray[np.bool_]]:
        """The data of some records in the plan's dtypes, and which records hold only values that the plan takes."""
        usable = np.ones(len(rows), np.bool_)
        columns = {name: array[rows] for name, array in self._data.items()}
        for name, values in columns.items():
            port = self._manifest.data[name]
            if port.num_classes is not None:
                wrong = (values < 0) | (values >= port.num_classes)
                if wrong.any():
                    usable &= ~wrong.reshape(len(rows), -1).any(axis=1)
                    columns[name] = np.where(wrong, 0, values)
        with np.errstate(over="ignore", invalid="ignore"):
            batch = {f"data/{name}": array for name, array in convert(self._manifest.data, columns).items()}
        for name, array in draw_noise(self._noise, len(rows), self._generator).items():
            batch[f"noise/{name}"] = array
        return batch, usable


def subject_groups(subjects: Array, max_rows: int) -> list[Array]:
    """The rows of each subject, in the order of the data, cut to the first ``max_rows``."""
    order = np.argsort(subjects, kind="stable")
    borders = np.flatnonzero(np.diff(subjects[order])) + 1
    return [group[:max_rows] for group in np.split(order, borders) if len(group)]
