"""Closes cycles at their deadline, completes them, and resumes them after a crash."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from concurrent.futures import Executor

import sqlalchemy as sa

from pygrid.clock import Clock
from pygrid.configuration import read_server_config
from pygrid.core import cycles as rules
from pygrid.core.cycles import Cycle, CycleState, Due
from pygrid.core.leases import RENEW_S
from pygrid.errors import PygridError
from pygrid.features.cycles.completion import Completed, Completion, LeaseHeldError
from pygrid.features.cycles.cycle_metrics import CycleCounts
from pygrid.metrics import Metrics
from pygrid.storage import cycles as rows
from pygrid.storage import processes, reports
from pygrid.storage.cycle_transitions import end_if_due, reopen_cycle
from pygrid.storage.signals import ELSEWHERE, notify_process, wake_process
from pygrid.storage.store import Store

logger = logging.getLogger(__name__)

LOOK_S = 1.0
"""Longest pause between two looks at the clock, which can run slightly faster than the event loop's."""
MAX_RETRY_S = 60.0


class CycleScheduler:
    """Closes or reopens cycles at their deadline, and completes those that are closing.

    Args:
        executor: has one thread, which also folds the reports, so a completion sees all earlier ones.
    """

    def __init__(
        self,
        store: Store,
        completion: Completion,
        clock: Clock,
        executor: Executor,
        metrics: Metrics,
        counts: CycleCounts,
    ) -> None:
        self._store = store
        self._completion = completion
        self._clock = clock
        self._executor = executor
        self._metrics = metrics
        self._counts = counts
        self._deadlines: dict[int, dt.datetime] = {}
        self._closing: dict[int, dt.datetime] = {}
        self._fences: dict[int, int] = {}
        self.current: dict[int, Cycle] = {}
        """By process, its newest cycle as of its last change of state; the counts can be stale."""
        self._failures: dict[int, int] = {}
        self._num_unknown = 0
        self._changed = asyncio.Event()

    async def recover(self) -> None:
        """Resume the cycles of the last run; called once, before the first request."""

        def load(connection: sa.Connection) -> tuple[list[Cycle], set[str]]:
            if self._store.is_shared:  # other replicas hold leases and complete cycles
                return rows.list_unfinished_cycles(connection), set()
            rows.release_all_leases(connection)
            for cycle in rows.list_unfinished_cycles(connection):
                process = processes.get_process(connection, cycle.process_id)
                shortened = rules.shorten(cycle, read_server_config(process.server_config), self._clock.now())
                if shortened is not cycle:
                    rows.update_cycle(connection, shortened)
            return rows.list_unfinished_cycles(connection), reports.list_report_files(connection)

        self._num_unknown = self._store.database.num_unknown
        unfinished, files = await self._store.database.write(load)
        self._store.diffs.sweep(files)
        for cycle in unfinished:
            self.watch(cycle, has_lease=False)

    async def follow(self) -> None:
        """Read the cycles when another replica has changed one, until cancelled."""
        while True:
            changed = self._store.signals.next(ELSEWHERE)
            try:
                await self._look_again()
            except PygridError:
                logger.warning("cycles of other replicas not read; read again soon", exc_info=True)
                await asyncio.sleep(LOOK_S)
                continue
            await changed

    def watch(self, cycle: Cycle, *, has_lease: bool = True) -> None:
        """Schedule a cycle that has begun or changed.

        Args:
            has_lease: of a closing cycle: the caller hands over its lease.
        """
        before = self.current.get(cycle.process_id)
        if self._store.is_shared and before is not None and before.id > cycle.id:
            return  # another replica has gone on
        self.current[cycle.process_id] = cycle
        if self._store.is_shared and before is not None and before.id < cycle.id:
            self._forget(before, cycle.id)
        self._deadlines.pop(cycle.id, None)
        if cycle.state is CycleState.CLOSING:
            self._closing[cycle.id] = self._clock.now()
            self._fences.pop(cycle.id, None)
            if has_lease:
                self._fences[cycle.id] = cycle.lease_fence
        elif cycle.state is CycleState.OPEN and cycle.ends_at is not None:
            self._deadlines[cycle.id] = cycle.ends_at
        self._changed.set()

    def _forget(self, cycle: Cycle, next_id: int) -> None:
        self._deadlines.pop(cycle.id, None)
        self._closing.pop(cycle.id, None)
        self._fences.pop(cycle.id, None)
        self._executor.submit(self._completion.sums.drop_before, cycle.process_id, next_id)

    def wake(self) -> None:
        """Look at the clock now."""
        self._changed.set()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            self._changed.clear()
            await self.tick()
            try:
                async with asyncio.timeout(self._pause_s()):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def tick(self) -> None:
        """Close, reopen and complete the cycles that are due now."""
        if self._num_unknown != self._store.database.num_unknown:
            await self._look_again()
        now = self._clock.now()
        for cycle_id in [cycle_id for cycle_id, at in self._deadlines.items() if at <= now]:
            await self._end_time(cycle_id)
        for cycle_id in [cycle_id for cycle_id, at in self._closing.items() if at <= now]:
            await self._complete(cycle_id)

    async def _look_again(self) -> None:
        """Read all cycles after a commit with an unknown outcome: it may have changed one, and its caller got an error.

        Raises:
            PygridError: the database does not answer; the next tick tries again.
        """
        num_unknown, before = self._store.database.num_unknown, dict(self.current)
        unfinished = await self._store.database.read(rows.list_unfinished_cycles)
        stored = {cycle.process_id: cycle for cycle in unfinished}
        for process_id in self.current.keys() | stored.keys():
            known, cycle = self.current.get(process_id), stored.get(process_id)
            if known is not before.get(process_id):
                continue  # it has changed since, and its caller has watched it
            if cycle is None:
                over = self.current.pop(process_id)
                if self._store.is_shared:
                    self._forget(over, over.id + 1)
                await self._store.public.changed()
            elif known is None or _times_of(known) != _times_of(cycle):
                self.watch(cycle, has_lease=False)
            else:
                continue
            wake_process(self._store.signals, process_id)
        if self._store.is_shared:
            self._store.processes.keep_only(self.current)
        self._num_unknown = num_unknown

    def _pause_s(self) -> float:
        times = [*self._deadlines.values(), *self._closing.values()]
        if not times:
            return LOOK_S
        return min(LOOK_S, max(0.0, (min(times) - self._clock.now()).total_seconds()))

    async def _end_time(self, cycle_id: int) -> None:
        """Close or reopen a cycle whose deadline has passed, or begin its grace period."""

        def transaction(connection: sa.Connection) -> tuple[Cycle, bool]:
            now = self._clock.now()
            cycle = rows.lock_cycle(connection, cycle_id)
            is_open = cycle.state is CycleState.OPEN
            process = self._store.processes.load(connection, cycle.process_id)
            if rules.due(cycle, process.config, now) is Due.REOPEN:
                return reopen_cycle(connection, cycle, process.config, now), is_open
            return end_if_due(connection, cycle, process.config, now), is_open

        try:
            cycle, is_open = await self._store.database.write(transaction)
        except Exception:
            self._deadlines[cycle_id] = self._retry_at(cycle_id, "end_cycle")
            return
        self._failures.pop(cycle_id, None)
        self._deadlines.pop(cycle_id, None)
        self.watch(cycle, has_lease=is_open)
        notify_process(self._store.signals, cycle.process_id)

    async def _complete(self, cycle_id: int) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        fence = self._fences.pop(cycle_id, None)
        try:
            completed = await self._complete_renewing(cycle_id, fence)
        except LeaseHeldError:
            self._closing[cycle_id] = self._clock.now() + dt.timedelta(seconds=LOOK_S)
            return
        except Exception:
            # The reports are durable: an error here (a full disk, a failing averaging plan) only delays the checkpoint.
            self._closing[cycle_id] = self._retry_at(cycle_id, "complete_cycle")
            return
        self._closing.pop(cycle_id, None)
        self._fences.pop(cycle_id, None)
        self._failures.pop(cycle_id, None)
        if completed is not None:
            self._counts.cycles.inc()
            self._counts.clipped.inc(completed.totals.num_clipped)
            self._counts.late.inc(completed.cycle.num_late)
            self._counts.completion_seconds.observe(loop.time() - began)
            self._announce(completed)
            if completed.next_cycle is None:
                await self._store.public.changed()

    async def _complete_renewing(self, cycle_id: int, fence: int | None) -> Completed | None:
        """Complete a cycle in the thread, and renew its lease meanwhile. Raises as `Completion.complete`."""
        completing = asyncio.get_running_loop().run_in_executor(
            self._executor, self._completion.complete, cycle_id, fence
        )
        while not (await asyncio.wait([completing], timeout=RENEW_S))[0]:
            try:
                await self._completion.renew()
            except PygridError:
                # Without renewals, the completion ends by itself.
                logger.warning("lease of a cycle not renewed", extra={"cycle_id": cycle_id})
        return completing.result()

    def _retry_at(self, cycle_id: int, task: str) -> dt.datetime:
        """Count and log the error that is being handled, and return when to retry; other cycles go on."""
        failures = self._failures[cycle_id] = self._failures.get(cycle_id, 0) + 1
        retry_s = min(MAX_RETRY_S, 2.0**failures)
        self._metrics.task_failures.labels(task).inc()
        logger.exception("cycle task failed", extra={"task": task, "cycle_id": cycle_id, "retry_s": retry_s})
        return self._clock.now() + dt.timedelta(seconds=retry_s)

    def _announce(self, completed: Completed) -> None:
        if completed.next_cycle is not None:
            self.watch(completed.next_cycle)
        else:
            self.current.pop(completed.cycle.process_id, None)
        notify_process(self._store.signals, completed.cycle.process_id)


def _times_of(cycle: Cycle) -> tuple[int, CycleState, int, dt.datetime | None]:
    """What the scheduler acts on."""
    return cycle.id, cycle.state, cycle.attempt, cycle.ends_at
