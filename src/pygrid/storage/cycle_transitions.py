"""Transitions of a cycle, each with its event, inside a transaction of the caller."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import sqlalchemy as sa

from pygrid.configuration import ServerConfig
from pygrid.core import cycles as rules
from pygrid.core.cycles import Cycle, CycleState, Due
from pygrid.storage import cycles as rows
from pygrid.storage import processes, reports
from pygrid.storage.presence import delete_presence


def begin_cycle(
    connection: sa.Connection, process_id: int, config: ServerConfig, sequence: int, checkpoint: int, now: dt.datetime
) -> Cycle:
    """Add a cycle: open, or waiting for enough clients or for the process to be resumed."""
    is_paused = processes.get_process(connection, process_id).state == "paused"
    state = rules.next_cycle_state(config, is_paused=is_paused)
    num_left = rows.count_left(connection, process_id) if config.named_clients else 0
    new = rows.NewCycle(process_id, sequence, state, checkpoint, rules.first_deadline(config, now), num_left)
    cycle = rows.put_cycle(connection, new, now)
    kind = "cycle_opened" if state is CycleState.OPEN else "cycle_waiting"
    rows.put_event(connection, process_id, sequence, kind, now, {"checkpoint": checkpoint})
    return cycle


def store_opening(connection: sa.Connection, cycle: Cycle, now: dt.datetime) -> None:
    """Store a cycle that has become ``open``, with its event."""
    rows.update_cycle(connection, cycle)
    delete_presence(connection, cycle.id)
    rows.put_event(connection, cycle.process_id, cycle.sequence, "cycle_opened", now, {"checkpoint": cycle.checkpoint})


def reopen_cycle(connection: sa.Connection, cycle: Cycle, config: ServerConfig, now: dt.datetime) -> Cycle:
    """``open -> open`` with a new deadline; assignments that did not report end."""
    reports.expire_assignments(connection, cycle.id)
    num_late = reports.count_late(connection, cycle.id)
    reopened = replace(rules.reopen(cycle, config, now), num_late=num_late)
    rows.update_cycle(connection, reopened)
    data = {"num_reports": cycle.num_reports, "num_late": num_late}
    rows.put_event(connection, cycle.process_id, cycle.sequence, "cycle_expired", now, data)
    return reopened


def store_grace(connection: sa.Connection, cycle: Cycle, config: ServerConfig, now: dt.datetime) -> None:
    """Store a cycle whose grace period has begun, with its event."""
    rows.update_cycle(connection, cycle)
    data = {"num_reports": cycle.num_reports, "num_assigned": cycle.num_assigned, "grace_s": config.grace_s}
    rows.put_event(connection, cycle.process_id, cycle.sequence, "cycle_grace", now, data)


def end_if_due(connection: sa.Connection, cycle: Cycle, config: ServerConfig, now: dt.datetime) -> Cycle:
    """Close a cycle, or begin its grace period, if a report or a departure makes that due.

    The caller holds the lease of a closing cycle after this.
    """
    match rules.due(cycle, config, now):
        case Due.CLOSE:
            return close_cycle(connection, cycle, now)
        case Due.GRACE:
            ended = rules.begin_grace(cycle, config, now)
            store_grace(connection, ended, config, now)
            return ended
    return cycle


def restart_cycle(
    connection: sa.Connection, cycle: Cycle, config: ServerConfig, checkpoint: int, of: int, now: dt.datetime
) -> Cycle:
    """Go on from ``checkpoint``, which repeats the checkpoint ``of``.

    If the cycle is closing, the caller holds its lease after this, and a completion that runs now cannot end.
    """
    if cycle.state is CycleState.OPEN:
        reports.expire_assignments(connection, cycle.id)
    restarted = rules.restart(cycle, config, checkpoint, now)
    rows.update_cycle(connection, restarted, leased_at=now if cycle.state is CycleState.CLOSING else None)
    data = {"checkpoint": checkpoint, "of": of}
    rows.put_event(connection, cycle.process_id, cycle.sequence, "checkpoint_restored", now, data)
    return restarted


def close_cycle(connection: sa.Connection, cycle: Cycle, now: dt.datetime) -> Cycle:
    """``open -> closing``, or ``hosted -> closing`` when its process is finished early.

    The caller holds its lease after this.
    """
    closing = rules.close(cycle)
    store_closing(connection, closing, now)
    return closing


def store_closing(connection: sa.Connection, cycle: Cycle, now: dt.datetime) -> None:
    """Store a cycle that has become ``closing``, with its event; this instance holds its lease."""
    rows.update_cycle(connection, cycle, leased_at=now)
    rows.put_event(
        connection, cycle.process_id, cycle.sequence, "cycle_closing", now, {"num_reports": cycle.num_reports}
    )
