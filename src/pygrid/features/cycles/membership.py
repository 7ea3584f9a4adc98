"""Who a process's clients are: they come by authenticating, and may say that they leave.

A process with ``named_clients`` knows them by the subject of their tokens: a small, fixed group, such as the Domains that train
a model together. One subject is one client, however often it authenticates, so it reports once in a cycle. And a cycle that
closes at ``max_diffs`` reports waits for fewer once some have left.
"""

from __future__ import annotations

import sqlalchemy as sa

from pygrid.clock import Clock
from pygrid.core import cycles as rules
from pygrid.core.cycles import Cycle, CycleState, Due
from pygrid.errors import Unauthenticated
from pygrid.features.cycles.devices import Endpoints, check_device
from pygrid.features.cycles.tasks import CycleScheduler
from pygrid.ids import new_client_id
from pygrid.messages.cycles import AuthenticateRequest, AuthenticateResponse, LeaveRequest
from pygrid.storage import cycles as rows
from pygrid.storage.store import Store, cycle_topic, event_topic
from pygrid.storage.transitions import close_cycle

MAX_SUBJECT_CHARS = 200


class Membership:
    """Takes clients in, and lets them go."""

    def __init__(self, store: Store, scheduler: CycleScheduler, clock: Clock, endpoints: Endpoints) -> None:
        self._store = store
        self._scheduler = scheduler
        self._clock = clock
        self._endpoints = endpoints

    async def authenticate(self, message: AuthenticateRequest) -> AuthenticateResponse:
        """Make a client of a process; where clients have names, one that is known stays who it is.

        Raises:
            NotFound: ``process_not_found``. Unauthenticated: see `check_device`; or the token names nobody
                (``auth_token_nameless``).
        """
        process = await self._store.processes.get_by_name(message.model_name, message.model_version)
        subject = await check_device(process.config.authentication, message.auth_token, self._endpoints)
        is_named = process.config.named_clients
        if is_named and not (subject and subject.isprintable() and len(subject) <= MAX_SUBJECT_CHARS):
            raise Unauthenticated(
                f"The 'auth_token' must name its bearer: a printable 'sub' of 1 to {MAX_SUBJECT_CHARS} characters.",
                code="auth_token_nameless",
            )
        client_id, now = new_client_id(), self._clock.now()
        known = subject if is_named else None

        def transaction(connection: sa.Connection) -> str:
            if known is not None:
                rows.lock_process(connection, process.id)
                if (found := rows.find_client(connection, process.id, known)) is not None:
                    return found
            rows.put_client(connection, client_id, process.id, now, subject=known)
            return client_id

        known_as = await self._store.database.write(transaction)
        return AuthenticateResponse("success", known_as, process.config.needs_speed_test)

    async def leave(self, message: LeaveRequest) -> None:
        """Let a client go, for good: what it has reported counts, a key that it holds ends, and nobody waits for it any more.

        Raises:
            NotFound: ``process_not_found``, ``worker_not_found``.
        """
        process = await self._store.processes.get_by_name(message.model, message.version)

        def transaction(connection: sa.Connection) -> Cycle:
            rows.lock_process(connection, process.id)
            now = self._clock.now()
            cycle = rows.put_departure(connection, message.worker_id, process.id, now, is_named=process.config.named_clients)
            if rules.due(cycle, process.config, now) is Due.CLOSE:
                cycle = close_cycle(connection, cycle, now)
            return cycle

        cycle = await self._store.database.write(transaction)
        if cycle.state in (CycleState.OPEN, CycleState.CLOSING):
            current = self._scheduler.current(process.id)
            if current is None or (current.id, current.state) == (cycle.id, CycleState.OPEN):
                self._scheduler.watch(cycle)
        self._store.signals.notify(cycle_topic(process.id))
        self._store.signals.notify(event_topic(process.id))
