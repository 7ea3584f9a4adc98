"""Average the diffs of a cycle by the hosted averaging plan, in a limited child process.

The plan sees the diffs as they were sent, without their weights; diffs beyond the bound on norms are clipped first.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from pygrid.core.processes import HostedProcess
from pygrid.plans.averaging_child import DiffRef, run_averaging_in_child
from pygrid.storage.diffs import Spool
from pygrid.storage.reports import Report
from pygrid.storage.store import Store
from pygrid.tensors import decode, encode
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
    clipped: list[Spool] = []
    try:
        refs = [_ref(store, report, scales[report.id], clipped) for report in reports]
        average = run_averaging_in_child(
            store.blobs.path(plan.plan_hash).read_bytes(),
            refs,
            memory_bytes=BASE_BYTES + models * process.model.data_bytes,
            wall_s=WALL_S,
        )
    finally:
        for spool in clipped:
            spool.discard()
    flat = np.empty(num_values(process.model), np.float32)
    for entry in process.model.entries:
        flat[entry.begin // 4 : entry.end // 4] = average[entry.name].reshape(-1)
    return lambda start, count: flat[start : start + count].astype(np.float64)


def _ref(store: Store, report: Report, scale: float, clipped: list[Spool]) -> DiffRef:
    """Return the location of a report's bytes; a clipped report is written to a file of its own."""
    store.diffs.check(report.id, report.file, report.offset, report.length, report.fingerprint)
    path = store.diffs.path(report.file)
    if scale == 1.0:
        return DiffRef(path, report.offset, report.length)
    with path.open("rb") as file:
        file.seek(report.offset)
        arrays, _ = decode(file.read(report.length))
    spool = store.diffs.spool(report.cycle_id)
    clipped.append(spool)
    spool.write(encode({name: np.multiply(array, scale, dtype=np.float32) for name, array in arrays.items()}))
    return DiffRef(store.diffs.path(spool.name))
