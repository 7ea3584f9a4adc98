"""Evaluates new checkpoints on a dataset of this Domain, and ends trainings that do not improve.

    a checkpoint without an evaluation -> a Worker runs the eval graph -> evaluation, event, audit entry
                                                                       └-> process finished (`stop`)

Only a dataset of the user who hosts the process is used: that user may read it exactly. The metrics are shown to those
who manage the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from pygrid.clock import Clock
from pygrid.compute.pools import Needs, Pools
from pygrid.configuration import read_server_config
from pygrid.configuration.evaluation import EarlyStop, Evaluation, choose_plan
from pygrid.core.cycles import Cycle, CycleState
from pygrid.core.datasets import Schema, column_file
from pygrid.core.job_checks import metrics_of
from pygrid.core.job_spec import ColumnRef, JobLimits, JobSpec, check_spec
from pygrid.errors import PygridError, Unavailable
from pygrid.features.jobs.running.spec_builder import RunLimits, check_files
from pygrid.plans.archive import Plan
from pygrid.storage import audit, cycles, datasets, processes
from pygrid.storage import evaluations as rows
from pygrid.storage.audit import AuditedWrites
from pygrid.storage.cycle_transitions import close_cycle
from pygrid.storage.signals import cycle_topic, event_topic
from pygrid.storage.store import Store

logger = logging.getLogger(__name__)

EVERY_S = 1.0
RETRY_S = 30.0


@dataclass(frozen=True)
class _Due:
    """A checkpoint to evaluate, and what that needs."""

    process: processes.ProcessRow
    checkpoint: processes.Checkpoint
    plan_hash: str
    dataset_id: int
    version: datasets.DatasetVersion
    schema: Schema


class CheckpointEvaluations:
    """Evaluates the checkpoints of the processes whose configuration has an ``evaluation``, one at a time.

    Args:
        watch_cycle: called with a cycle that closes because its training is ended here.
    """

    def __init__(
        self,
        store: Store,
        writes: AuditedWrites,
        pools: Pools,
        limits: RunLimits,
        clock: Clock,
        watch_cycle: Callable[[Cycle], None],
    ) -> None:
        self._store = store
        self._writes = writes
        self._pools = pools
        self._limits = limits
        self._clock = clock
        self._watch_cycle = watch_cycle
        self._open: dict[int, Evaluation] = {}
        self._failed: dict[int, int] = {}
        """Newest checkpoint of a process that could not be evaluated."""
        self._retry_at: dict[int, dt.datetime] = {}
        """When to try again for a process whose evaluation had to wait."""
        self._last_id = 0

    async def run_once(self) -> None:
        """Evaluate all checkpoints that have no evaluation, the oldest of each process first."""
        found = await self._store.database.read(lambda connection: processes.list_configs(connection, self._last_id))
        for process_id, config in found:
            self._last_id = max(self._last_id, process_id)
            if config.get("evaluation") is None:  # reading a whole configuration takes longer
                continue
            if (evaluation := read_server_config(config).evaluation) is not None:
                self._open[process_id] = evaluation
        for process_id, evaluation in list(self._open.items()):
            while await self._run_next(process_id, evaluation):
                pass

    async def _run_next(self, process_id: int, evaluation: Evaluation) -> bool:
        """Evaluate the oldest checkpoint of a process; False: there is none, or it has to wait."""
        now = self._clock.now()
        if self._retry_at.get(process_id, now) > now:
            return False
        after = self._failed.get(process_id, 1)
        number, is_over = await self._store.database.read(
            lambda connection: rows.find_due(connection, process_id, after, evaluation.every)
        )
        if number is None:
            if is_over:
                del self._open[process_id]
            return False
        try:
            due = await self._store.database.read(lambda connection: _load(connection, process_id, number, evaluation))
            metrics = await self._measure(due, evaluation)
        except Unavailable:
            logger.exception("evaluation has to wait", extra={"process_id": process_id, "checkpoint": number})
            self._retry_at[process_id] = now + dt.timedelta(seconds=RETRY_S)
            return False
        except PygridError as error:
            self._failed[process_id] = number
            await self._record_failure(process_id, number, error)
            return True
        await self._keep(due, evaluation.stop, metrics)
        return True

    async def _measure(self, due: _Due, evaluation: Evaluation) -> dict[str, float]:
        """Return the metrics of a checkpoint, computed by a Worker.

        Raises:
            Unavailable: no Worker could start, or it was lost. PygridError: the checkpoint cannot be evaluated.
        """
        with contextlib.ExitStack() as held:
            spec = await asyncio.to_thread(self._make_spec, due, evaluation, held)
            async with await self._pools.acquire(Needs()) as slot:
                await self._pools.start()
                result = await slot.run(spec)
        if result.failure is not None:
            kind = Unavailable if result.failure.kind == "lost" else PygridError
            raise kind(result.failure.detail, code=result.failure.code or result.failure.kind)
        return metrics_of(msgspec.json.decode(result.payload, type=dict[str, Any]).get("metrics", {}))

    def _make_spec(self, due: _Due, evaluation: Evaluation, held: contextlib.ExitStack) -> JobSpec:
        """Return the specification of an evaluation, whose files stay while ``held`` is open. Raises as `make_spec`."""
        blobs, folder = self._store.blobs, self._store.columns.locate(due.version.folder)
        held.enter_context(self._store.columns.hold(due.version.folder))
        plan_path = held.enter_context(blobs.local(due.plan_hash))
        manifest = Plan.load(plan_path).manifest
        binding = evaluation.complete_binding(manifest.data)
        columns = {
            column.name: ColumnRef(str(folder / column_file(index)), column.dtype, column.shape, due.schema.num_records)
            for index, column in enumerate(due.schema.columns)
            if column.name in binding.values()
        }
        limits, wall_s = self._limits, self._limits.wall_s
        spec = JobSpec(
            id=f"evaluation-{due.process.id}-{due.checkpoint.number}",
            kind="evaluate",
            columns=columns,
            plan_path=str(plan_path),
            model_path=str(held.enter_context(blobs.local(due.checkpoint.model_hash))),
            binding=binding,
            batch_size=min(evaluation.batch_size, manifest.max_batch_size),
            limits=JobLimits(limits.memory_bytes, int(wall_s) + 1, wall_s, limits.max_json_bytes),
        )
        check_spec(spec)
        self._store.columns.checked_path(due.version.folder, [column_path.name for column_path in _paths(spec)])
        check_files(spec)
        return spec

    async def _record_failure(self, process_id: int, number: int, error: PygridError) -> None:
        extra = {"process_id": process_id, "checkpoint": number, "code": error.code, "detail": error.detail}
        logger.warning("evaluation failed", extra=extra)

        def transaction(connection: sa.Connection) -> None:
            sequence = cycles.get_newest_cycle(connection, process_id).sequence
            data = {"checkpoint": number, "code": error.code}
            cycles.put_event(connection, process_id, sequence, "evaluation_failed", self._clock.now(), data)

        await self._store.database.write(transaction)
        self._store.signals.notify(event_topic(process_id))

    async def _keep(self, due: _Due, stop: EarlyStop | None, metrics: dict[str, float]) -> None:
        """Store an evaluation, and end the training if it does not improve, in one transaction."""
        process_id, number = due.process.id, due.checkpoint.number

        def transaction(connection: sa.Connection) -> tuple[bool, Cycle | None]:
            now = self._clock.now()
            audit.lock(connection)
            rows.put_evaluation(connection, process_id, number, "domain", metrics, now)
            sequence = rows.list_evaluations(connection, process_id, number - 1, 1)[0].cycle
            cycles.put_event(connection, process_id, sequence, "checkpoint_evaluated", now, {"checkpoint": number})
            used = {"process_id": process_id, "checkpoint": number, "dataset_id": due.dataset_id}
            audit.append(connection, "checkpoint_evaluated", used, actor=due.process.created_by, now=now)
            curve = [
                (row.checkpoint, row.metrics)
                for row in rows.list_evaluations(connection, process_id, 0, rows.MAX_CURVE)
            ]
            is_active = processes.get_process(connection, process_id).state == "active"
            if stop is None or not is_active or not stop.is_over(curve):
                return False, None
            processes.set_process_state(connection, process_id, "finished")
            newest = cycles.get_newest_cycle(connection, process_id)
            is_open = newest.state in (CycleState.HOSTED, CycleState.OPEN)
            return True, close_cycle(connection, newest, now) if is_open else None

        has_stopped, closing = await self._writes.write(transaction)
        if closing is not None:
            self._watch_cycle(closing)
        self._store.signals.notify(event_topic(process_id))
        if has_stopped:
            logger.info("training stopped early", extra={"process_id": process_id, "checkpoint": number})
            self._store.signals.notify(cycle_topic(process_id))
            await self._store.public.changed()


def _paths(spec: JobSpec) -> list[Path]:
    return [Path(column.path) for column in spec.columns.values()]


def _load(connection: sa.Connection, process_id: int, number: int, evaluation: Evaluation) -> _Due:
    """Return what an evaluation needs. Raises NotFound: the host of the process has no such dataset."""
    process = processes.get_process(connection, process_id)
    plans = {
        plan.name: plan.plan_hash for plan in processes.list_plans(connection, process_id) if plan.kind == "training"
    }
    dataset = datasets.get_own_dataset(connection, process.created_by, evaluation.dataset)
    version = datasets.get_version(connection, dataset.id)
    return _Due(
        process,
        processes.get_checkpoint(connection, process_id, number),
        plans[choose_plan(plans)],
        dataset.id,
        version,
        datasets.get_schema(connection, version.id),
    )
