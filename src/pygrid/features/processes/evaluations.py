"""The curve of a training: metrics of its checkpoints on held-out data."""

from __future__ import annotations

import math

import sqlalchemy as sa

from pygrid.clock import Clock
from pygrid.core.access import Permission, Principal, require
from pygrid.core.reports import MAX_METRIC_NAME, MAX_METRICS
from pygrid.errors import InvalidInput
from pygrid.features.processes.service import get_managed, visible_sources
from pygrid.messages.processes import EvaluationInfo
from pygrid.storage import cycles, processes
from pygrid.storage import evaluations as rows
from pygrid.storage.signals import event_topic
from pygrid.storage.store import Store


class EvaluationsService:
    """Stores and lists evaluations of checkpoints."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def list(self, principal: Principal, process_id: int, after: int, limit: int) -> list[EvaluationInfo]:
        """Return the evaluations of checkpoints above ``after``; those on datasets only to who manages the process.

        Raises:
            NotFound: ``process_not_found``.
        """
        require(principal)

        def load(connection: sa.Connection) -> list[EvaluationInfo]:
            process = processes.get_process(connection, process_id)
            return rows.list_evaluations(connection, process_id, after, limit, visible_sources(principal, process))

        return await self._store.database.read(load)

    async def put(
        self, principal: Principal, process_id: int, checkpoint: int, metrics: dict[str, float]
    ) -> EvaluationInfo:
        """Store the metrics of a checkpoint that the model owner computed.

        Raises:
            Forbidden: ``not_permitted``, ``not_your_process``. NotFound: ``process_not_found``,
                ``checkpoint_not_found``. InvalidInput: the metrics are not valid. Nothing was changed.
        """
        require(principal, Permission.HOST_MODELS)
        _check_metrics(metrics)

        def transaction(connection: sa.Connection) -> EvaluationInfo:
            get_managed(connection, principal, process_id)
            processes.get_checkpoint(connection, process_id, checkpoint)
            now = self._clock.now()
            rows.put_evaluation(connection, process_id, checkpoint, "owner", metrics, now)
            (row,) = rows.list_evaluations(connection, process_id, checkpoint - 1, 1)
            data = {"checkpoint": checkpoint, "metrics": metrics}
            cycles.put_event(connection, process_id, row.cycle, "checkpoint_evaluated", now, data)
            return row

        info = await self._store.database.write(transaction)
        self._store.signals.notify(event_topic(process_id))
        return info


def _check_metrics(metrics: dict[str, float]) -> None:
    if not 1 <= len(metrics) <= MAX_METRICS:
        raise InvalidInput(f"metrics has {len(metrics)} entries; use 1 to {MAX_METRICS}", field="metrics")
    for name, value in metrics.items():
        if not 1 <= len(name) <= MAX_METRIC_NAME or not name.isprintable():
            text = f"the name of a metric must be a printable text of 1 to {MAX_METRIC_NAME} characters"
            raise InvalidInput(text, field="metrics")
        if not math.isfinite(value):
            raise InvalidInput(f"metric {name!r} is not finite", field="metrics")
