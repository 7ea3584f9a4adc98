"""Evaluations of checkpoints on held-out data: their table, and queries inside a transaction of the caller.

processes 1--n evaluations, at most one for each checkpoint
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Literal

import sqlalchemy as sa

from pygrid.configuration import read_server_config
from pygrid.configuration.evaluation import EarlyStop, find_best
from pygrid.core.cycles import CycleState
from pygrid.messages.processes import EvaluationInfo
from pygrid.storage.cycles import cycles, get_newest_cycle
from pygrid.storage.processes import ProcessRow, checkpoints, get_process
from pygrid.storage.sql.metadata import UtcDateTime, metadata

evaluations = sa.Table(
    "evaluations",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("process_id", sa.ForeignKey("processes.id"), nullable=False),
    sa.Column("checkpoint", sa.Integer, nullable=False),
    # `owner`: computed on the machine of the model owner. `domain`: on a dataset of this Domain.
    sa.Column("source", sa.String(16), nullable=False),
    sa.Column("metrics", sa.JSON, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("process_id", "checkpoint"),
)

MAX_CURVE = 1_000_000
"""Evaluations of a process that are read at once."""


def put_evaluation(
    connection: sa.Connection,
    process_id: int,
    checkpoint: int,
    source: Literal["owner", "domain"],
    metrics: dict[str, float],
    now: dt.datetime,
) -> None:
    """Store the metrics of a checkpoint; they replace earlier ones."""
    of_checkpoint = (evaluations.c.process_id == process_id, evaluations.c.checkpoint == checkpoint)
    values = {"source": source, "metrics": metrics, "at": now}
    if not connection.execute(evaluations.update().where(*of_checkpoint).values(values)).rowcount:
        row = {"process_id": process_id, "checkpoint": checkpoint, **values}
        connection.execute(evaluations.insert().values(row))


def list_evaluations(
    connection: sa.Connection, process_id: int, after: int, limit: int, sources: Sequence[str] = ("owner", "domain")
) -> list[EvaluationInfo]:
    """The evaluations of checkpoints above number ``after``, in the order of the checkpoints."""
    made_by = (
        sa.select(sa.func.max(cycles.c.sequence))
        .where(
            cycles.c.process_id == evaluations.c.process_id,
            cycles.c.checkpoint == evaluations.c.checkpoint - 1,
            cycles.c.state == CycleState.COMPLETED.value,
            cycles.c.num_reports > 0,
        )
        .scalar_subquery()
    )
    statement = (
        sa.select(
            evaluations.c.checkpoint,
            sa.func.coalesce(made_by, 0),
            evaluations.c.source,
            evaluations.c.metrics,
            evaluations.c.at,
        )
        .where(
            evaluations.c.process_id == process_id, evaluations.c.checkpoint > after, evaluations.c.source.in_(sources)
        )
        .order_by(evaluations.c.checkpoint)
        .limit(limit)
    )
    return [EvaluationInfo(*row) for row in connection.execute(statement)]


def find_best_checkpoint(connection: sa.Connection, process: ProcessRow, sources: Sequence[str]) -> int | None:
    """The checkpoint with the best metric: that of the early stopping of the process, else ``loss``.

    Args:
        sources: whose evaluations count; evaluations that the caller may not see reveal nothing by their order.
    """
    evaluation = read_server_config(process.server_config).evaluation
    rule = EarlyStop(patience=1) if evaluation is None or evaluation.stop is None else evaluation.stop
    rows = list_evaluations(connection, process.id, 0, MAX_CURVE, sources)
    best = find_best([(row.checkpoint, row.metrics) for row in rows], rule.metric, rule.mode)
    return None if best is None else best[0]


def find_due(connection: sa.Connection, process_id: int, after: int, every: int) -> tuple[int | None, bool]:
    """The oldest checkpoint above ``after`` without an evaluation, and whether the process can have no further ones.

    Args:
        every: only checkpoints 1 + every, 1 + 2 * every, ... are evaluated.
    """
    is_evaluated = sa.exists().where(
        evaluations.c.process_id == process_id, evaluations.c.checkpoint == checkpoints.c.number
    )
    oldest = sa.select(sa.func.min(checkpoints.c.number)).where(
        checkpoints.c.process_id == process_id,
        checkpoints.c.number > after,
        (checkpoints.c.number - 1) % every == 0,
        ~is_evaluated,
    )
    number = connection.execute(oldest).scalar()
    is_finished = get_process(connection, process_id).state == "finished"
    return number, is_finished and get_newest_cycle(connection, process_id).state is CycleState.COMPLETED
