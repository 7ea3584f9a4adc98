"""A closing cycle becomes a checkpoint: bound the outliers, average, step the model, store, open the next cycle.

Runs in a thread. Whatever it does before its one transaction at the end can be done again after a crash: the running sum is a
cache, and a blob that no row names is only a file.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from pygrid.aggregation.mean import BLOCK
from pygrid.aggregation.optimizers import SLOTS, initial_slot, step
from pygrid.aggregation.outliers import WINDOW, clip_scale, norm_bound
from pygrid.clock import Clock
from pygrid.core import cycles as rules
from pygrid.core.cycles import Cycle, CycleState
from pygrid.core.processes import HostedProcess
from pygrid.features.cycles.hosted_averaging import average_by_plan
from pygrid.features.cycles.sums import CycleSums
from pygrid.storage import cycles as rows
from pygrid.storage import processes
from pygrid.storage.checked import DamagedReportError
from pygrid.storage.cycles import CycleTotals, Report
from pygrid.storage.files import BlobWriter
from pygrid.storage.store import Store
from pygrid.storage.transitions import LEASE_S, begin_cycle
from pygrid.tensors.flat import VALUE_BYTES, num_values

logger = logging.getLogger(__name__)

MeanBlock = Callable[[int, int], npt.NDArray[np.float64]]
"""Values of the mean diff, from a position, so many; in the model's order."""


@dataclass(frozen=True)
class Completed:
    """What came of a completion: the next cycle, or None if the process is finished."""

    cycle: Cycle
    totals: CycleTotals
    next_cycle: Cycle | None


class Completion:
    """Completes cycles, one at a time."""

    def __init__(self, store: Store, sums: CycleSums, clock: Clock) -> None:
        self._store = store
        self._sums = sums
        self._clock = clock

    def complete(self, cycle_id: int, leased: bool) -> Completed | None:
        """``closing -> completed``; None if the cycle is not closing, or somebody else holds its lease.

        Args:
            leased: the caller holds the lease, from closing it.
        """
        database = self._store.database
        now = self._clock.now()
        until = now + dt.timedelta(seconds=LEASE_S)
        if not leased and not database.write_now(lambda connection: rows.acquire_lease(connection, cycle_id, now, until)):
            return None
        try:
            return self._complete(database.read_now(lambda connection: rows.get_cycle(connection, cycle_id)))
        except BaseException:
            database.write_now(lambda connection: rows.release_lease(connection, cycle_id))
            raise

    def _complete(self, cycle: Cycle) -> Completed:
        database = self._store.database

        def load(connection: sa.Connection) -> tuple[HostedProcess, list[Report], list[float], processes.Checkpoint]:
            process = self._store.processes.load(connection, cycle.process_id)
            earlier = rows.list_norms(connection, process.id, cycle.sequence, WINDOW)
            checkpoint = processes.get_checkpoint(connection, process.id, cycle.checkpoint)
            return process, rows.list_reports(connection, cycle.id), earlier, checkpoint

        process, reports, earlier, checkpoint = database.read_now(load)
        damaged: dict[int, float] = {}
        while True:
            bound = norm_bound(earlier, [report.norm for report in reports], process.config.outlier_factor)
            scales = {report.id: clip_scale(report.norm, bound) for report in reports}
            try:
                new_checkpoint = self._make_checkpoint(process, cycle, checkpoint, reports, scales) if reports else None
                break
            except DamagedReportError as error:
                logger.exception("report is damaged; the cycle goes on without it", extra={"report_id": error.report_id})
                damaged[error.report_id] = 0.0
                reports = [report for report in reports if report.id != error.report_id]
        clipped = damaged | {report_id: scale for report_id, scale in scales.items() if scale != 1.0}
        totals = rows.add_up([replace(report, scale=scales[report.id]) for report in reports])
        completed = database.write_now(
            lambda connection: self._store_result(connection, process, cycle, new_checkpoint, totals, clipped, len(damaged))
        )
        self._sums.complete(process.id, cycle.id, bound)
        # Queued before anybody hears of the next cycle, so before a report for it: the writer keeps the order.
        database.write_later(lambda _connection: self._store.diffs.drop(process.id, cycle.id))
        if new_checkpoint is not None:
            self._store.processes.keep_checkpoint(new_checkpoint)
        logger.info("cycle completed", extra={"process_id": process.id, "cycle": cycle.sequence, "num_reports": len(reports)})
        return completed

    def _make_checkpoint(
        self,
        process: HostedProcess,
        cycle: Cycle,
        old: processes.Checkpoint,
        reports: list[Report],
        scales: dict[int, float],
    ) -> processes.Checkpoint:
        """The next checkpoint, its bytes stored, its row not yet."""
        if process.averaging_plan is not None:
            mean = average_by_plan(self._store, process, reports, scales)
        else:
            mean = self._sums.total(process, cycle.id, reports, scales).mean_block
        model_hash, size_bytes, state = self._step(process, old, mean)
        return processes.Checkpoint(process.id, old.number + 1, model_hash, size_bytes, state, self._clock.now())

    def _step(self, process: HostedProcess, old: processes.Checkpoint, mean: MeanBlock) -> tuple[str, int, dict[str, str]]:
        """Write the new model, and the optimizer's vectors, block by block; gives the names of the blobs."""
        blobs, optimizer = self._store.blobs, process.config.server_optimizer
        slots = SLOTS[optimizer.name]
        total = num_values(process.model)
        with contextlib.ExitStack() as stack:
            source = stack.enter_context(blobs.path(old.model_hash).open("rb", buffering=0))
            target = stack.enter_context(blobs.writer())
            states = {
                slot: stack.enter_context(blobs.path(old.optimizer_state[slot]).open("rb", buffering=0))
                for slot in slots
                if slot in old.optimizer_state
            }
            targets: dict[str, BlobWriter] = {slot: stack.enter_context(blobs.writer()) for slot in slots}
            header_bytes = process.model.header_bytes
            target.write(os.pread(source.fileno(), header_bytes, 0))
            for start in range(0, total, BLOCK):
                count = min(BLOCK, total - start)
                model = _read_values(source.fileno(), header_bytes, start, count)
                state = {
                    slot: _read_values(states[slot].fileno(), 0, start, count)
                    if slot in states
                    else np.full(count, initial_slot(optimizer, slot), np.float32)
                    for slot in slots
                }
                new, new_state = step(optimizer, model, mean(start, count), state)
                target.write(new.data)
                for slot, values in new_state.items():
                    targets[slot].write(values.data)
            return target.commit(), target.size, {slot: writer.commit() for slot, writer in targets.items()}

    def _store_result(
        self,
        connection: sa.Connection,
        process: HostedProcess,
        cycle: Cycle,
        new_checkpoint: processes.Checkpoint | None,
        totals: rows.CycleTotals,
        clipped: dict[int, float],
        num_damaged: int,
    ) -> Completed:
        """Checkpoint, end of the cycle and next cycle, in one transaction."""
        now = self._clock.now()
        rows.set_scales(connection, clipped)
        if new_checkpoint is not None:
            processes.put_checkpoint(connection, new_checkpoint)
        rows.expire_assignments(connection, cycle.id)
        done = replace(cycle, state=CycleState.COMPLETED, completed_at=now)
        rows.complete_cycle(connection, done, totals)
        number = cycle.checkpoint if new_checkpoint is None else new_checkpoint.number
        data = {
            "checkpoint": number,
            "num_reports": cycle.num_reports,
            "num_clipped": totals.num_clipped,
            **({"num_damaged": num_damaged} if num_damaged else {}),
            "metrics": totals.metrics,
        }
        rows.put_event(connection, process.id, cycle.sequence, "cycle_completed", now, data)
        finished = processes.get_process(connection, process.id).state == "finished"
        if finished or rules.is_last(cycle, process.config):
            processes.set_process_state(connection, process.id, "finished")
            rows.put_event(connection, process.id, cycle.sequence, "process_finished", now, {"checkpoint": number})
            return Completed(done, totals, None)
        return Completed(done, totals, begin_cycle(connection, process.id, process.config, cycle.sequence + 1, number, now))


def _read_values(descriptor: int, base: int, start: int, count: int) -> npt.NDArray[np.float32]:
    raw = os.pread(descriptor, count * VALUE_BYTES, base + start * VALUE_BYTES)
    return np.frombuffer(raw, dtype="<f4")
