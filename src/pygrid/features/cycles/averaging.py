"""Average the diffs of a cycle by the hosted averaging plan, in a limited child process.

The plan sees the diffs as they were sent, without their weights; diffs beyond the bound on norms are clipped first.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from pygrid.core.processes import HostedProcess
from pygrid.plans.averaging_child import DiffRef, run_averaging_in_child, run_traced_averaging_in_child
from pygrid.storage.reports import Report
from pygrid.storage.store import Store
from pygrid.tensors import Params, decode, encode
from pygrid.tensors.flat import num_values

WALL_S = 300.0
BASE_BYTES = 1024**3
"""Address space of the child, in addition to the diffs."""
ITERATIVE_MODELS = 16
"""Number of models that fit in the memory of an iterative plan, with its intermediate values."""


def average_by_plan(
    store: Store, process: HostedProcess, reports: list[Report], scales: dict[int, float]
) -> Callable[[int, int], npt.NDArray[np.float64]]:
    """Return the average of a cycle's diffs as a function `(start, count) -> values`, in the model's order.

    Raises:
        InvalidPlan, Unavailable: ``averaging_failed``. DamagedReportError.
    """
    plan = process.averaging_plan
    assert plan is not None
    models = ITERATIVE_MODELS if process.config.iterative_plan else 4 * len(reports) + ITERATIVE_MODELS
    with contextlib.ExitStack() as held:
        refs = [_ref(store, report, scales[report.id], held) for report in reports]
        data, memory = store.blobs.read(plan.plan_hash), BASE_BYTES + models * process.model.data_bytes
        if plan.is_traced:
            average = _run_traced(data, process, refs, memory)
        else:
            average = run_averaging_in_child(data, refs, memory_bytes=memory, wall_s=WALL_S)
    flat = np.empty(num_values(process.model), np.float32)
    for entry in process.model.entries:
        flat[entry.begin // 4 : entry.end // 4] = average[entry.name].reshape(-1)
    return lambda start, count: flat[start : start + count].astype(np.float64)


def _run_traced(data: bytes, process: HostedProcess, refs: list[DiffRef], memory_bytes: int) -> Params:
    """Return the average that a plan of 2020 computes."""
    from pygrid.plans.dialects.traced import AveragingSpec  # most Domains have no plans of 2020

    names = [entry.name for entry in process.model.entries]
    spec = AveragingSpec(tuple(entry.shape for entry in process.model.entries), process.config.iterative_plan)
    return run_traced_averaging_in_child(data, names, spec, refs, memory_bytes=memory_bytes, wall_s=WALL_S)


def _ref(store: Store, report: Report, scale: float, held: contextlib.ExitStack) -> DiffRef:
    """Return the location of a report's bytes; a clipped report is written to a file of its own."""
    path = held.enter_context(store.diffs.local(report))
    if scale == 1.0:
        return DiffRef(path, report.offset, report.length)
    with path.open("rb") as file:
        file.seek(report.offset)
        arrays, _ = decode(file.read(report.length))
    clipped = path.with_name(f".{uuid.uuid4().hex}.part")
    held.callback(clipped.unlink, missing_ok=True)
    clipped.write_bytes(encode({name: np.multiply(array, scale, dtype=np.float32) for name, array in arrays.items()}))
    return DiffRef(clipped)
