"""Reports that are accepted together: one lock, one insert and one count for each cycle of a batch.

The items are folded over their cycles in the order in which they came, so a cycle closes in the middle of a batch, and
refuses the rest of it. The outcome is that of one transaction each.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from pygrid import codes
from pygrid.configuration import ServerConfig
from pygrid.core import cycles as rules
from pygrid.core.cycles import AcceptedReport, Assignment, Cycle, Due, FoundReport
from pygrid.errors import PygridError, Unauthenticated, Unavailable
from pygrid.storage import cycle_transitions, reports
from pygrid.storage.cycles import lock_cycles
from pygrid.storage.reports import Report
from pygrid.storage.sql.lanes import Lane

INVALID_KEY = "Invalid request key!"


@dataclass(frozen=True, slots=True)
class OfferedReport:
    """A checked report under a request key.

    ``report`` has the ids of the assignment and the cycle that the key had when the report began to arrive.
    """

    key_hash: str
    process_id: int
    config: ServerConfig
    report: Report
    keeps_bytes: bool
    """Whether its bytes are stored. If not, the report can only be one that was accepted before."""


@dataclass(frozen=True, slots=True)
class StoredReport:
    """The answer to an offered report."""

    report: Report | None
    """None: it was accepted before."""
    cycle: Cycle
    """Its cycle after the report. If the report closed it, this instance holds its lease."""


class AcceptReports:
    """A `Batch` of offered reports.

    Args:
        now: the present time; read under the locks of the cycles.
    """

    lane = Lane.REPORTS

    def __init__(self, now: Callable[[], dt.datetime]) -> None:
        self._now = now

    def run(self, connection: sa.Connection, items: Sequence[OfferedReport]) -> list[StoredReport | PygridError]:
        """Accept the reports in their order.

        A refusal is one of Unauthenticated ``invalid_request_key``, Conflict ``already_reported``, Gone
        ``cycle_closed``, Unavailable ``cycle_changed``.
        """
        before, known = _read(connection, items)
        now = self._now()
        fold = _ReportFold(dict(before), known)
        outcomes = [fold.add(connection, item, now) for item in items]
        reports.put_reports(connection, fold.accepted, now)
        counts = {cycle.id: cycle.num_reports for cycle in fold.cycles.values() if cycle != before[cycle.id]}
        reports.set_report_counts(connection, counts)
        for due, cycle, config in fold.ended:
            if due is Due.CLOSE:
                cycle_transitions.store_closing(connection, cycle, now)
            else:
                cycle_transitions.store_grace(connection, cycle, config, now)
        return outcomes


def _read(connection: sa.Connection, items: Sequence[OfferedReport]) -> tuple[dict[int, Cycle], dict[str, Assignment]]:
    """The locked cycles by id, and the assignments by the hash of their key."""
    if len(items) == 1 and connection.dialect.name == "sqlite":  # without locks, one statement has all
        found = reports.find_by_key(connection, items[0].key_hash)
        return ({}, {}) if found is None else ({found[1].id: found[1]}, {items[0].key_hash: found[0]})
    cycles = lock_cycles(connection, {(item.process_id, item.report.cycle_id) for item in items})
    return cycles, reports.find_assignments(connection, [item.key_hash for item in items])


@dataclass
class _ReportFold:
    """The cycles and assignments of a batch after the items so far."""

    cycles: dict[int, Cycle]
    known: dict[str, Assignment]
    accepted: list[Report] = field(default_factory=list)
    ended: list[tuple[Due, Cycle, ServerConfig]] = field(default_factory=list)
    """Transitions that reports caused, with the cycle just after them."""

    def add(self, connection: sa.Connection, item: OfferedReport, now: dt.datetime) -> StoredReport | PygridError:
        """Accept one report; what is stored of it is in ``accepted`` and ``ended``."""
        assignment, cycle = self.known.get(item.key_hash), self.cycles.get(item.report.cycle_id)
        if assignment is None or cycle is None or assignment.id != item.report.id:
            return Unauthenticated(INVALID_KEY, code=codes.INVALID_REQUEST_KEY)
        after, outcome = rules.accept(cycle, FoundReport(item.config, assignment, item.report.fingerprint), now)
        if isinstance(outcome, PygridError):
            return outcome
        if not isinstance(outcome, AcceptedReport):
            return StoredReport(self._stored_before(connection, item), cycle)
        if not item.keeps_bytes:  # the state of the scheduler was older than the database
            return Unavailable(
                "the cycle has just changed; send the report again", code=codes.CYCLE_CHANGED, retry_after_s=1
            )
        self.cycles[cycle.id], self.known[item.key_hash] = after, outcome.assignment
        self.accepted.append(item.report)
        if outcome.due in (Due.CLOSE, Due.GRACE):
            self.ended.append((outcome.due, after, item.config))
        return StoredReport(item.report, after)

    def _stored_before(self, connection: sa.Connection, item: OfferedReport) -> Report | None:
        """The stored report if its bytes are those of this item; None: another call brought it.

        The first holds for an item that was committed, although its answer was lost.
        """
        if not item.keeps_bytes or any(report.id == item.report.id for report in self.accepted):
            return None
        stored = reports.get_report(connection, item.report.id)
        return stored if (stored.file, stored.offset) == (item.report.file, item.report.offset) else None
