"""Converts processes and cycles from rows to messages."""

from __future__ import annotations

from dataclasses import asdict

import sqlalchemy as sa

from pygrid.core.cycles import Cycle
from pygrid.core.process_config import read_server_config
from pygrid.messages.processes import CycleInfo, PlanInfo, ProcessInfo
from pygrid.storage import cycles as rows
from pygrid.storage import processes, reports


def describe_process(connection: sa.Connection, process: processes.ProcessRow) -> ProcessInfo:
    """Return a process with its newest cycle."""
    newest = processes.get_checkpoint(connection, process.id)
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
        server_config=read_server_config(process.server_config).public(),
        cycle=describe_cycle(connection, rows.get_newest_cycle(connection, process.id)),
    )


def describe_cycle(connection: sa.Connection, cycle: Cycle) -> CycleInfo:
    """Return a cycle with its totals."""
    totals = reports.get_totals(connection, cycle.id)
    return CycleInfo(
        sequence=cycle.sequence,
        state=cycle.state.value,
        attempt=cycle.attempt,
        checkpoint=cycle.checkpoint,
        num_assigned=cycle.num_assigned,
        num_reports=cycle.num_reports,
        created_at=cycle.created_at,
        opened_at=cycle.opened_at,
        deadline_at=cycle.deadline_at,
        completed_at=cycle.completed_at,
        **asdict(totals),
    )
