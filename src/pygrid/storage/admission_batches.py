"""Clients that are admitted together: one lock and one count for each cycle of a batch.

The requests are folded over the newest cycle of their process in the order in which they came, so each sees the places
that the earlier ones took. The outcome is that of one transaction each.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa

from pygrid.configuration import ServerConfig
from pygrid.core import cycles as rules
from pygrid.core.cycles import AdmissionRefusal, Assignment, AssignmentState, Cycle, CycleState, FoundApplicant
from pygrid.errors import NotFound, PygridError
from pygrid.storage import cycle_transitions, reports
from pygrid.storage.cycles import clients, lock_newest_cycles
from pygrid.storage.processes import processes
from pygrid.storage.reports import Application, assignments
from pygrid.storage.sql.lanes import Lane
from pygrid.storage.sql.prepared import AnyOf, Prepared


@dataclass(frozen=True)
class Applicant:
    """A client that requests admission. Speeds are in Mbit/s."""

    client_id: str
    download: float | None
    upload: float | None
    native: bool
    """Only a native client may renew an assignment whose key it lost."""
    obstacle: str = ""
    """Why the client could not train, although it would be admitted; empty if it can."""
    asked_at: dt.datetime | None = None
    """When the request came, if other replicas can answer requests of the client at the same time."""


@dataclass(frozen=True, slots=True)
class AdmissionRequest:
    """A client that requests admission to the newest cycle of a process."""

    process_id: int
    config: ServerConfig
    applicant: Applicant
    key_hash: str
    """Hash of the request key that the client gets if it is admitted."""
    used_since: dt.datetime | None
    """A client that was last used before this time has expired; None: clients do not expire."""
    is_quorum: bool = False


@dataclass(frozen=True, slots=True)
class Placed:
    """An admitted client."""

    assignment: Assignment
    cycle: Cycle
    is_opening: bool
    """Whether this admission opened the cycle."""


def find_applicant(
    connection: sa.Connection, request: AdmissionRequest, stored: Application, now: dt.datetime
) -> FoundApplicant:
    """What decides on an admission, for a client whose rows are ``stored``.

    Raises:
        NotFound: ``worker_not_found``: the client has expired.
    """
    cycle, config, applicant = stored.cycle, request.config, request.applicant
    if request.used_since is not None and stored.used_at is not None and stored.used_at < request.used_since:
        raise reports.worker_not_found()
    is_preferred = config.late_first_s > 0 and reports.was_late(connection, applicant.client_id, cycle)
    rests = config.do_not_reuse_workers_until_cycle > 0 and not is_preferred
    return FoundApplicant(
        config=config,
        own=stored.own,
        process_state=stored.process_state,
        has_left=stored.has_left,
        may_renew=applicant.native,
        last_sequence=reports.find_last_sequence(connection, applicant.client_id, cycle.sequence) if rests else None,
        download=applicant.download,
        upload=applicant.upload,
        is_preferred=is_preferred,
        num_awaited=0
        if is_preferred or not rules.is_preferring(cycle, config, now)
        else reports.count_awaited(connection, cycle),
        is_quorum=request.is_quorum,
        obstacle=applicant.obstacle,
    )


_FIND_APPLICATIONS = Prepared(
    sa.select(
        clients.c.id,
        clients.c.process_id,
        processes.c.state,
        clients.c.left_at,
        sa.case((clients.c.subject.is_(None), sa.func.coalesce(clients.c.used_at, clients.c.created_at))),
        *(assignments.c[name] for name in ("id", "cycle_id", "client_id", "state")),
    )
    .select_from(
        clients.join(processes).outerjoin(
            assignments, (assignments.c.client_id == clients.c.id) & AnyOf(assignments.c.cycle_id, "cycle_ids")
        )
    )
    .where(AnyOf(clients.c.id, "client_ids"))
)


def find_applications(
    connection: sa.Connection, newest: Mapping[int, Cycle], client_ids: Sequence[str]
) -> dict[str, Application]:
    """The data that decides on the admission of clients to ``newest`` cycles, by client. Unknown clients are absent.

    Args:
        newest: the newest cycle of each process.
    """
    values = {"cycle_ids": [cycle.id for cycle in newest.values()], "client_ids": list(client_ids)}
    found = {}
    for client_id, process_id, state, left_at, used_at, *own in _FIND_APPLICATIONS.all(connection, values):
        if process_id in newest:
            assignment = None if own[0] is None else Assignment(own[0], own[1], own[2], AssignmentState(own[3]))
            cycle = newest[process_id]
            found[client_id] = Application(process_id, state, cycle, assignment, left_at is not None, used_at)
    return found


class AdmitClients:
    """A `Batch` of requests for admission.

    Args:
        now: the present time; read under the locks of the cycles.
    """

    lane = Lane.ADMISSIONS

    def __init__(self, now: Callable[[], dt.datetime]) -> None:
        self._now = now

    def run(
        self, connection: sa.Connection, items: Sequence[AdmissionRequest]
    ) -> list[Placed | AdmissionRefusal | PygridError]:
        """Admit the clients in their order.

        An error is one of NotFound ``worker_not_found``, InvalidInput ``plan_variant_unavailable``.
        """
        before, clients = _read(connection, items)
        now = self._now()
        fold = _AdmissionFold(dict(before), clients)
        outcomes = [fold.add(connection, item, now) for item in items]
        opened = {cycle.id for cycle in before.values() if cycle.state is CycleState.HOSTED}
        for process_id, cycle in sorted(fold.cycles.items()):
            if cycle.id in opened and cycle.state is CycleState.OPEN:
                cycle_transitions.store_opening(connection, cycle, now)
            elif cycle != before[process_id]:
                reports.set_num_assigned(connection, cycle)
        return outcomes


def _read(
    connection: sa.Connection, items: Sequence[AdmissionRequest]
) -> tuple[dict[int, Cycle], dict[str, Application]]:
    """The locked newest cycles by process, and the clients by id; unknown clients are absent."""
    if len(items) == 1 and connection.dialect.name == "sqlite":  # without locks, one statement has all
        try:
            found = reports.get_application(connection, items[0].applicant.client_id, items[0].process_id)
        except NotFound:
            return {}, {}
        return {found.process_id: found.cycle}, {items[0].applicant.client_id: found}
    newest = lock_newest_cycles(connection, {item.process_id for item in items})
    return newest, find_applications(connection, newest, [item.applicant.client_id for item in items])


@dataclass
class _AdmissionFold:
    """The newest cycles by process, and the clients, after the requests so far."""

    cycles: dict[int, Cycle]
    clients: dict[str, Application]

    def add(
        self, connection: sa.Connection, item: AdmissionRequest, now: dt.datetime
    ) -> Placed | AdmissionRefusal | PygridError:
        """Admit one client. Its assignment is stored at once, because the next request can be of the same client."""
        client_id = item.applicant.client_id
        stored, cycle = self.clients.get(client_id), self.cycles.get(item.process_id)
        if stored is None or cycle is None or stored.process_id != item.process_id:
            return reports.worker_not_found()
        try:
            found = find_applicant(connection, item, replace(stored, cycle=cycle), now)
        except PygridError as error:
            return error
        after, outcome = rules.admit(cycle, found, now)
        if isinstance(outcome, AdmissionRefusal | PygridError):
            return outcome
        if stored.own is None:
            own = reports.put_assignment(connection, cycle.id, client_id, item.key_hash, now)
        else:
            renewed = reports.renew_assignment(connection, stored.own, item.key_hash, now, item.applicant.asked_at)
            if renewed is None:
                return rules.SUPERSEDED
            own = renewed
        self.cycles[item.process_id] = after
        self.clients[client_id] = replace(stored, own=own)
        return Placed(own, after, outcome.is_opening)
