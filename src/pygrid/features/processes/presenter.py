"""Converts processes and cycles from rows to messages."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from pygrid.configuration import ServerConfig, read_server_config
from pygrid.configuration.schedules import values_at
from pygrid.core.cycles import Cycle
from pygrid.messages.processes import CycleInfo, MetricSpread, PlanInfo, ProcessInfo
from pygrid.storage import cycles as rows
from pygrid.storage import processes, progress, reports
from pygrid.storage.cycles import CycleTotals


def describe_process(
    connection: sa.Connection, process: processes.ProcessRow, *, is_managed: bool = True
) -> ProcessInfo:
    """Return a process with its newest cycle.

    Args:
        is_managed: whether the reader manages the process.
    """
    newest, config = processes.get_checkpoint(connection, process.id), read_server_config(process.server_config)
    plans = processes.list_plans(connection, process.id)
    return ProcessInfo(
        id=process.id,
        name=process.name,
        version=process.version,
        state=process.state,
        created_at=process.created_at,
        num_parameters=process.num_parameters,
        model_bytes=newest.size_bytes,
        num_checkpoints=newest.number,
        plans=[PlanInfo(p.id, p.name, p.kind, p.plan_hash, p.size_bytes) for p in plans],
        client_config=process.client_config,
        server_config=config.public(),
        cycle=describe_cycle(connection, rows.get_newest_cycle(connection, process.id), config, is_managed=is_managed),
    )


def describe_cycles(
    connection: sa.Connection, found: Sequence[Cycle], config: ServerConfig, *, is_managed: bool
) -> list[CycleInfo]:
    """Return cycles as `describe_cycle` does, by one statement for all that are completed."""
    known = progress.list_totals(connection, [cycle.id for cycle in found])
    return [
        _with_totals(cycle, known.get(cycle.id) or reports.get_totals(connection, cycle.id), config, is_managed)
        for cycle in found
    ]


def describe_cycle(connection: sa.Connection, cycle: Cycle, config: ServerConfig, *, is_managed: bool) -> CycleInfo:
    """Return a cycle with its totals.

    Args:
        is_managed: whether the reader manages the process; only then there are values of single devices.
    """
    return _with_totals(cycle, reports.get_totals(connection, cycle.id), config, is_managed)


def _with_totals(cycle: Cycle, totals: CycleTotals, config: ServerConfig, is_managed: bool) -> CycleInfo:
    spread = {name: MetricSpread(*values) for name, values in totals.spread.items()} if is_managed else {}
    return CycleInfo(
        sequence=cycle.sequence,
        state=cycle.state.value,
        attempt=cycle.attempt,
        checkpoint=cycle.checkpoint,
        num_assigned=cycle.num_assigned,
        num_reports=cycle.num_reports,
        num_examples=totals.num_examples,
        num_clipped=totals.num_clipped,
        bytes_received=totals.bytes_received,
        metrics=totals.metrics,
        created_at=cycle.created_at,
        opened_at=cycle.opened_at,
        deadline_at=cycle.deadline_at,
        completed_at=cycle.completed_at,
        num_late=cycle.num_late,
        grace_until=cycle.grace_until,
        scheduled=values_at(config.schedules, cycle.sequence),
        metric_spread=spread,
    )
