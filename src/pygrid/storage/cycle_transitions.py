"""Transitions of a cycle, each with its event, inside a transaction of the caller."""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa

from pygrid.core import cycles as rules
from pygrid.core.cycles import Cycle, CycleState
from pygrid.core.process_config import ProcessConfig
from pygrid.storage import cycles as rows
from pygrid.storage import reports

LEASE_S = 600.0
"""Seconds of the lease under which a cycle is completed."""


def begin_cycle(
    connection: sa.Connection, process_id: int, config: ProcessConfig, sequence: int, checkpoint: int, now: dt.datetime
) -> Cycle:
    """Add a cycle: open, or waiting for enough clients."""
    state = rules.next_cycle_state(config)
    cycle = rows.put_cycle(
        connection,
        process_id=process_id,
        sequence=sequence,
        state=state,
        checkpoint=checkpoint,
        now=now,
        deadline_at=rules.first_deadline(config, now),
        num_left=rows.count_left(connection, process_id) if config.named_clients else 0,
    )
    kind = "cycle_opened" if state is CycleState.OPEN else "cycle_waiting"
    rows.put_event(connection, process_id, sequence, kind, now, {"checkpoint": checkpoint})
    return cycle


def open_cycle(connection: sa.Connection, cycle: Cycle, config: ProcessConfig, now: dt.datetime) -> Cycle:
    """``hosted -> open``."""
    opened = rules.open_cycle(cycle, config, now)
    rows.update_cycle(connection, opened)
    rows.put_event(connection, cycle.process_id, cycle.sequence, "cycle_opened", now, {"checkpoint": cycle.checkpoint})
    return opened


def reopen_cycle(connection: sa.Connection, cycle: Cycle, config: ProcessConfig, now: dt.datetime) -> Cycle:
    """``open -> open`` with a new deadline; assignments that did not report end."""
    reports.expire_assignments(connection, cycle.id)
    reopened = rules.reopen(cycle, config, now)
    rows.update_cycle(connection, reopened)
    rows.put_event(
        connection, cycle.process_id, cycle.sequence, "cycle_expired", now, {"num_reports": cycle.num_reports}
    )
    return reopened


def restart_cycle(
    connection: sa.Connection, cycle: Cycle, config: ProcessConfig, checkpoint: int, of: int, now: dt.datetime
) -> Cycle:
    """Go on from ``checkpoint``, which repeats the checkpoint ``of``.

    If the cycle is closing, the caller holds its lease after this.
    """
    if cycle.state is CycleState.OPEN:
        reports.expire_assignments(connection, cycle.id)
    restarted = rules.restart(cycle, config, checkpoint, now)
    lease_until = now + dt.timedelta(seconds=LEASE_S) if cycle.state is CycleState.CLOSING else None
    rows.update_cycle(connection, restarted, lease_until=lease_until)
    data = {"checkpoint": checkpoint, "of": of}
    rows.put_event(connection, cycle.process_id, cycle.sequence, "checkpoint_restored", now, data)
    return restarted


def close_cycle(connection: sa.Connection, cycle: Cycle, now: dt.datetime) -> Cycle:
    """``open -> closing``, or ``hosted -> closing`` when its process is finished early.

    The caller holds its lease after this.
    """
    closing = rules.close(cycle)
    rows.update_cycle(connection, closing, lease_until=now + dt.timedelta(seconds=LEASE_S))
    rows.put_event(
        connection, cycle.process_id, cycle.sequence, "cycle_closing", now, {"num_reports": cycle.num_reports}
    )
    return closing
