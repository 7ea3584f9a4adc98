"""Processes with cycles, clients and assignments in a database, without an app."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from pygrid.configuration import ServerConfig, read_server_config
from pygrid.core.cycles import Cycle
from pygrid.storage import cycle_transitions, processes, reports
from pygrid.storage import cycles as rows
from pygrid.storage.admission_batches import AdmissionRequest, Applicant
from pygrid.storage.report_batches import OfferedReport
from pygrid.storage.reports import Report

NOW = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)


def put_process(connection: sa.Connection, name: str, fields: Mapping[str, Any]) -> tuple[ServerConfig, Cycle]:
    """A process with its first cycle."""
    fields = {"cycle_length": None, **fields}
    process_id = processes.put_process(connection, processes.NewProcess(name, "1", {}, dict(fields), 1), NOW)
    config = read_server_config(dict(fields))
    return config, cycle_transitions.begin_cycle(connection, process_id, config, 1, 1, NOW)


def put_clients(connection: sa.Connection, process_id: int, count: int) -> list[str]:
    """New clients of a process, by their ids."""
    ids = [f"client {process_id} {number}" for number in range(count)]
    for client_id in ids:
        rows.put_client(connection, rows.NewClient(client_id, process_id), NOW)
    return ids


def assign(connection: sa.Connection, cycle: Cycle, client_ids: list[str]) -> list[str]:
    """Admit clients to a cycle; returns their keys' hashes."""
    for client_id in client_ids:
        reports.put_assignment(connection, cycle.id, client_id, f"key {client_id}", NOW)
    num_assigned = cycle.num_assigned + len(client_ids)
    connection.execute(rows.cycles.update().where(rows.cycles.c.id == cycle.id).values(num_assigned=num_assigned))
    return [f"key {client_id}" for client_id in client_ids]


def offer(
    config: ServerConfig,
    cycle: Cycle,
    assignment_id: int,
    key_hash: str,
    fingerprint: str = "4-0",
    *,
    offset: int = 0,
    keeps_bytes: bool = True,
) -> OfferedReport:
    """A report of four bytes."""
    report = Report(
        id=assignment_id,
        cycle_id=cycle.id,
        file="segment",
        offset=offset,
        length=4,
        num_examples=1,
        weight=1,
        norm=1.0,
        scale=None,
        metrics={"loss": 0.5},
        fingerprint=fingerprint,
    )
    return OfferedReport(key_hash, cycle.process_id, config, report, keeps_bytes)


def request(config: ServerConfig, process_id: int, client_id: str, key_hash: str, **changes: Any) -> AdmissionRequest:
    """A request for admission; ``changes`` are of the applicant, or of the request."""
    own = {name: changes.pop(name) for name in ("used_since", "is_quorum") if name in changes}
    applicant = Applicant(client_id, **{"download": None, "upload": None, "native": True, **changes})
    return AdmissionRequest(
        config=config, process_id=process_id, applicant=applicant, key_hash=key_hash, **{"used_since": None, **own}
    )
