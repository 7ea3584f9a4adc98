"""Runs an untrusted model on all records, batch by batch; the outputs are in the order of the records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pygrid import codes
from pygrid.compute.runtime.inputs import MappedColumns
from pygrid.core.job_spec import JobSpec, Progress
from pygrid.errors import InvalidInput, InvalidPlan
from pygrid.plans.manifest import Port
from pygrid.plans.sessions import OnnxSession
from pygrid.tensors import encode

Array = npt.NDArray[Any]


def predict(spec: JobSpec, inputs: MappedColumns, report: Callable[[Progress], None]) -> tuple[bytes, int]:
    """Run a job of kind ``predict``.

    Returns:
        The chosen outputs as safetensors, ``[records, ...]`` each, in the dtypes of the model; and the number of
        calls.
    Raises:
        InvalidInput: ``invalid_job``: a column does not fit its input.
        InvalidPlan: the model cannot be loaded, fails on the data, or returns other arrays than the gate determined
            (``model_output``).
    """
    columns = {
        port.name: _fitting(port, inputs.columns[spec.binding[port.name]], spec.binding[port.name])
        for port in spec.inputs
    }
    num_records = len(next(iter(columns.values())))
    session = OnnxSession(inputs.model, name="model", num_threads=spec.num_threads)
    names = [port.name for port in spec.outputs]
    answers = {port.name: np.empty((num_records, *_sizes(port)), port.dtype) for port in spec.outputs}
    num_calls = 0
    for begin in range(0, num_records, spec.batch_size):
        end = min(begin + spec.batch_size, num_records)
        feed = {port.name: _converted(port, columns, begin, end) for port in spec.inputs}
        for port, found in zip(spec.outputs, session.run(names, feed), strict=True):
            _check(port, found, end - begin)
            answers[port.name][begin:end] = found
        num_calls += 1
        report(Progress(end, num_records))
    return encode(answers), num_calls


def _fitting(port: Port, column: Array, name: str) -> Array:
    if column.shape[1:] != _sizes(port) or not np.can_cast(column.dtype, port.dtype, "same_kind"):
        raise InvalidInput(
            f"column {name!r} ({column.dtype}, {list(column.shape[1:])} per record) does not fit input {port.name!r} "
            f"({port.dtype}, {list(_sizes(port))})",
            code=codes.INVALID_JOB,
        )
    return column


def _converted(port: Port, columns: Mapping[str, Array], begin: int, end: int) -> Array:
    return np.ascontiguousarray(columns[port.name][begin:end], np.dtype(port.dtype))


def _check(port: Port, found: Any, num_records: int) -> None:
    if not isinstance(found, np.ndarray) or (found.dtype.name, found.shape) != (
        port.dtype,
        (num_records, *_sizes(port)),
    ):
        raise InvalidPlan(
            f"the model returns {port.name!r} in another dtype or shape than the gate determined",
            code=codes.MODEL_OUTPUT,
        )


def _sizes(port: Port) -> tuple[int, ...]:
    """The shape for one record."""
    return tuple(side for side in port.shape[1:] if isinstance(side, int))
