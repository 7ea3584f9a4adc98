"""Complete a closing cycle: bound the outliers, average, step the model, store the checkpoint and the next cycle.

Runs in a thread. All work before the one transaction at the end can be repeated after a crash: the running sum is a
cache, and a blob that no row names is only a file.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from pygrid.aggregation.aggregator import MeanBlock
from pygrid.aggregation.mean import BLOCK
from pygrid.aggregation.optimizers import SLOTS, ServerOptimizer, initial_slot, step, to_float32
from pygrid.aggregation.outliers import WINDOW_CYCLES, WINDOW_REPORTS
from pygrid.aggregation.rules import CENTRE, MIN_ROBUST, History, Weighed, weigh
from pygrid.clock import Clock
from pygrid.core import cycles as rules
from pygrid.core.cycles import Cycle, CycleState
from pygrid.core.leases import may_continue
from pygrid.core.processes import HostedProcess
from pygrid.features.cycles.accumulator import CycleSums, vote_of
from pygrid.features.cycles.averaging import average_by_plan
from pygrid.storage import cycles as rows
from pygrid.storage import processes
from pygrid.storage import reports as report_rows
from pygrid.storage.blobs.checked import DamagedReportError
from pygrid.storage.blobs.protocol import Blobs, BlobWriter
from pygrid.storage.cycle_transitions import begin_cycle
from pygrid.storage.cycles import CycleTotals
from pygrid.storage.partials import delete_partials
from pygrid.storage.reports import Report
from pygrid.storage.sql.lanes import Lane
from pygrid.storage.store import Store
from pygrid.tensors.flat import VALUE_BYTES, FiniteNorm, num_values

logger = logging.getLogger(__name__)

TOO_FEW = "too_few_for_robust"
"""Kind of the event of a cycle with too few diffs for its rule."""


@dataclass(frozen=True)
class Completed:
    """A completed cycle and the next one; None if the process is finished."""

    cycle: Cycle
    totals: CycleTotals
    next_cycle: Cycle | None


class LeaseHeldError(Exception):
    """Another instance holds the lease of a closing cycle."""


class _LeaseLostError(Exception):
    """The lease under which a completion ran no longer belongs to this instance."""


class Completion:
    """Completes cycles, one at a time.

    Args:
        elapsed_s: the monotonic clock of this machine.
    """

    def __init__(
        self, store: Store, sums: CycleSums, clock: Clock, elapsed_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self.sums = sums
        self._clock = clock
        self._elapsed_s = elapsed_s
        self._held: tuple[int, int] | None = None
        """The cycle that is being completed, and the fence of its lease."""
        self._granted_s = 0.0
        """When the lease was asked for, or its last renewal that was granted."""

    async def renew(self) -> None:
        """Extend the lease of the completion that runs. Raises Unavailable: the database does not answer."""
        if self._held is None:
            return
        (cycle_id, fence), now, sent_s = self._held, self._clock.now(), self._elapsed_s()
        if await self._store.database.write(lambda connection: rows.renew_lease(connection, cycle_id, fence, now)):
            self._granted_s = sent_s

    def complete(self, cycle_id: int, fence: int | None) -> Completed | None:
        """Complete a cycle, ``closing -> completed``; None if it is not closing.

        A completion that lost its lease changes nothing. It begins again if the lease is free.

        Args:
            fence: of the lease that this instance has held since it closed the cycle; None: the lease is acquired.
        Raises:
            LeaseHeldError: another instance completes the cycle.
        """
        while True:
            self._granted_s = self._elapsed_s()
            if fence is None and (fence := self._acquire(cycle_id)) is None:
                return None
            self._held = cycle_id, fence
            try:
                return self._complete(cycle_id, fence)
            except _LeaseLostError:
                logger.warning("lease of a cycle lost", extra={"cycle_id": cycle_id, "fence": fence})
                fence = None
            except BaseException:
                self._store.database.write_now(partial(rows.release_lease, cycle_id=cycle_id, fence=fence))
                raise
            finally:
                self._held = None

    def _acquire(self, cycle_id: int) -> int | None:
        """Acquire the lease and return its fence; None if the cycle is not closing. Raises LeaseHeldError."""
        now = self._clock.now()

        def transaction(connection: sa.Connection) -> tuple[CycleState, int | None]:
            cycle = rows.get_cycle(connection, cycle_id)
            return cycle.state, rows.acquire_lease(connection, cycle_id, now)

        state, fence = self._store.database.write_now(transaction)
        if fence is None and state is CycleState.CLOSING:
            raise LeaseHeldError
        return fence

    def _complete(self, cycle_id: int, fence: int) -> Completed:
        """Raises _LeaseLostError: before or during the completion; nothing was changed."""
        database = self._store.database
        cycle = database.read_now(lambda connection: rows.get_cycle(connection, cycle_id))
        if cycle.state is not CycleState.CLOSING or cycle.lease_fence != fence:
            raise _LeaseLostError

        def load(connection: sa.Connection) -> tuple[HostedProcess, list[Report], History, processes.Checkpoint]:
            process = self._store.processes.load(connection, cycle.process_id)
            accepted = report_rows.list_accepted(connection, process.id, cycle.sequence, WINDOW_CYCLES, WINDOW_REPORTS)
            history = History([norm for norm, _ in accepted], [weight for _, weight in accepted])
            checkpoint = processes.get_checkpoint(connection, process.id, cycle.checkpoint)
            return process, report_rows.list_reports(connection, cycle.id), history, checkpoint

        process, reports, history, checkpoint = database.read_now(load)
        damaged: list[Report] = []
        while True:
            weighed = weigh(
                process.rule, [vote_of(one) for one in reports], history, lambda: self._model_norm(process, checkpoint)
            )
            try:
                new_checkpoint = (
                    self._make_checkpoint(process, cycle, checkpoint, reports, weighed) if reports else None
                )
                break
            except DamagedReportError as error:
                logger.exception(
                    "report is damaged; the cycle goes on without it", extra={"report_id": error.report_id}
                )
                damaged += [replace(report, scale=0.0) for report in reports if report.id == error.report_id]
                reports = [report for report in reports if report.id != error.report_id]
        counted = [
            replace(report, scale=weighed.scales[report.id], weight=int(weighed.weights[report.id]))
            for report in reports
        ]
        outcome = _Outcome(new_checkpoint, weighed, reports, counted, damaged)
        completed = database.write_now(lambda connection: self._store_result(connection, process, cycle, outcome))
        self.sums.complete(process.id, cycle.id)
        # Queued before the next cycle is announced, so before any report for it: the lane keeps the order.
        database.write_later(
            lambda _connection: self._store.diffs.drop(process.id, cycle.id), Lane.REPORTS, is_alone=True
        )
        if new_checkpoint is not None:
            self._store.processes.keep_checkpoint(new_checkpoint)
        logger.info(
            "cycle completed", extra={"process_id": process.id, "cycle": cycle.sequence, "num_reports": len(reports)}
        )
        return completed

    def _make_checkpoint(
        self, process: HostedProcess, cycle: Cycle, old: processes.Checkpoint, reports: list[Report], weighed: Weighed
    ) -> processes.Checkpoint:
        """Return the next checkpoint. Its bytes are stored, its row is not."""
        if process.averaging_plan is not None:
            average = average_by_plan(self._store, process, reports, weighed.scales)
            mean: MeanBlock = lambda start, count, _centre: average(start, count)  # noqa: E731
        else:
            mean = self.sums.reconcile(process, cycle.id, reports, weighed)
        optimizer = process.config.optimizer_in(cycle.sequence)
        model_hash, size_bytes, state = self._step(process, optimizer, old, mean)
        return processes.Checkpoint(process.id, old.number + 1, model_hash, size_bytes, state, self._clock.now())

    def _model_norm(self, process: HostedProcess, checkpoint: processes.Checkpoint) -> float:
        """Return the L2 norm of a checkpoint's model."""
        norm = FiniteNorm(process.model)
        with self._store.blobs.local(checkpoint.model_hash) as path, path.open("rb", buffering=0) as file:
            for start in range(0, num_values(process.model), BLOCK):
                count = min(BLOCK, num_values(process.model) - start)
                norm.add(_read_values(file.fileno(), process.model.header_bytes, start, count))
        return norm.norm

    def _step(
        self, process: HostedProcess, optimizer: ServerOptimizer, old: processes.Checkpoint, mean: MeanBlock
    ) -> tuple[str, int, dict[str, str]]:
        """Write the new model and the vectors of the optimizer and the rule, block by block.

        Returns:
            The hash and the size of the model, and the hashes of the vectors by slot.
        """
        blobs = self._store.blobs
        slots = SLOTS[optimizer.name]
        kept = (*slots, CENTRE) if process.rule.is_centred else slots
        total = num_values(process.model)
        with contextlib.ExitStack() as stack:
            source = _open(stack, blobs, old.model_hash)
            target = stack.enter_context(blobs.writer())
            states = {
                slot: _open(stack, blobs, old.optimizer_state[slot]) for slot in kept if slot in old.optimizer_state
            }
            targets: dict[str, BlobWriter] = {slot: stack.enter_context(blobs.writer()) for slot in kept}
            header_bytes = process.model.header_bytes
            target.write(os.pread(source.fileno(), header_bytes, 0))
            for start in range(0, total, BLOCK):
                if not may_continue(self._granted_s, self._elapsed_s()):
                    raise _LeaseLostError
                count = min(BLOCK, total - start)
                model = _read_values(source.fileno(), header_bytes, start, count)
                state = {
                    slot: _read_values(states[slot].fileno(), 0, start, count)
                    if slot in states
                    else np.full(count, initial_slot(optimizer, slot), np.float32)
                    for slot in slots
                }
                centre = _read_values(states[CENTRE].fileno(), 0, start, count) if CENTRE in states else None
                diff = mean(start, count, centre)
                new, new_state = step(optimizer, model, diff, state)
                if CENTRE in targets:
                    new_state[CENTRE] = to_float32(diff)
                target.write(new.data)
                for slot, values in new_state.items():
                    targets[slot].write(values.data)
            return target.commit(), target.size, {slot: writer.commit() for slot, writer in targets.items()}

    def _store_result(
        self, connection: sa.Connection, process: HostedProcess, cycle: Cycle, outcome: _Outcome
    ) -> Completed:
        """Store the checkpoint, the end of the cycle and the next cycle in one transaction.

        Raises _LeaseLostError: the lease of `cycle` no longer belongs to this instance.
        """
        rows.lock_process(connection, process.id)
        if not rows.is_leased(connection, cycle.id, cycle.lease_fence):
            raise _LeaseLostError
        now, weighed, new_checkpoint = self._clock.now(), outcome.weighed, outcome.checkpoint
        report_rows.set_counted(
            connection,
            [
                *(
                    after
                    for before, after in zip(outcome.reports, outcome.counted, strict=True)
                    if (after.scale, after.weight) != (1.0, before.weight)
                ),
                *outcome.damaged,
            ],
        )
        if new_checkpoint is not None:
            processes.put_checkpoint(connection, new_checkpoint)
        report_rows.expire_assignments(connection, cycle.id)
        delete_partials(connection, cycle.id)
        totals = report_rows.add_up(outcome.counted, weighed.num_clipped)
        num_late = report_rows.count_late(connection, cycle.id)
        self._store.diffs.doom(connection, cycle.id, now)
        done = replace(cycle, state=CycleState.COMPLETED, completed_at=now, num_late=num_late)
        rows.complete_cycle(connection, done, totals, weighed.limit if math.isfinite(weighed.limit) else None)
        number = cycle.checkpoint if new_checkpoint is None else new_checkpoint.number
        if outcome.reports and not weighed.is_robust:
            needed = {"num_reports": cycle.num_reports, "needed": MIN_ROBUST}
            rows.put_event(connection, process.id, cycle.sequence, TOO_FEW, now, needed)
        data = {
            "checkpoint": number,
            "num_reports": cycle.num_reports,
            "num_clipped": totals.num_clipped,
            "num_late": num_late,
            **({"num_damaged": len(outcome.damaged)} if outcome.damaged else {}),
            "metrics": totals.metrics,
        }
        rows.put_event(connection, process.id, cycle.sequence, "cycle_completed", now, data)
        finished = processes.get_process(connection, process.id).state == "finished"
        if finished or rules.is_last(cycle, process.config):
            processes.set_process_state(connection, process.id, "finished")
            rows.put_event(connection, process.id, cycle.sequence, "process_finished", now, {"checkpoint": number})
            return Completed(done, totals, None)
        return Completed(
            done, totals, begin_cycle(connection, process.id, process.config, cycle.sequence + 1, number, now)
        )


@dataclass(frozen=True)
class _Outcome:
    """Results of a completion, before they are stored."""

    checkpoint: processes.Checkpoint | None
    weighed: Weighed
    reports: list[Report]
    """The reports as they were accepted."""
    counted: list[Report]
    """The same reports, with the scales and weights with which they count."""
    damaged: list[Report]
    """Reports whose stored bytes have changed; they do not count."""


def _open(stack: contextlib.ExitStack, blobs: Blobs, name: str) -> io.FileIO:
    return stack.enter_context(io.FileIO(stack.enter_context(blobs.local(name))))


def _read_values(descriptor: int, base: int, start: int, count: int) -> npt.NDArray[np.float32]:
    raw = os.pread(descriptor, count * VALUE_BYTES, base + start * VALUE_BYTES)
    return np.frombuffer(raw, dtype="<f4")
