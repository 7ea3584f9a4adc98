"""The clients of a process: a device becomes one by authenticating, and can leave.

A party that could create any number of clients could fill cycles alone. So each address, and each subject of a token,
has a quota of clients. A process with ``named_clients`` identifies its clients by the subject of their tokens: a small,
fixed group, such as the Domains that train a model together. One subject is one client, however often it authenticates,
so it reports once in a cycle. A cycle that closes at ``max_diffs`` reports waits for fewer when clients have left.
"""

from __future__ import annotations

import datetime as dt
from functools import partial

import sqlalchemy as sa

from pygrid import codes
from pygrid.clock import Clock
from pygrid.core.cycles import Cycle, CycleState
from pygrid.core.processes import HostedProcess
from pygrid.errors import NotFound, Unauthenticated
from pygrid.features.cycles.devices import Endpoints, check_device
from pygrid.features.cycles.quotas import DeviceQuotas
from pygrid.features.cycles.scheduler import CycleScheduler
from pygrid.ids import new_client_id
from pygrid.messages.cycles import AuthenticateRequest, AuthenticateResponse, LeaveRequest
from pygrid.storage import clients, processes, reports
from pygrid.storage import cycles as rows
from pygrid.storage.cycle_transitions import end_if_due
from pygrid.storage.signals import notify_process
from pygrid.storage.store import Store

MAX_SUBJECT_CHARS = 200
LEFT_S = 3600.0
"""Seconds after which a client is removed that has left and never had a place in a cycle."""
BATCH = 500
"""Rows removed in one transaction."""


class ClientRegistry:
    """Registers clients and ends their participation."""

    def __init__(
        self, store: Store, scheduler: CycleScheduler, clock: Clock, quotas: DeviceQuotas, endpoints: Endpoints
    ) -> None:
        self._store = store
        self._scheduler = scheduler
        self._clock = clock
        self._quotas = quotas
        self._endpoints = endpoints

    async def authenticate(self, message: AuthenticateRequest, address: str) -> AuthenticateResponse:
        """Create a client of a process; a subject with all of its allowed clients gets one of them.

        Args:
            address: network address of the device.
        Raises:
            NotFound: ``process_not_found``.
            Unauthenticated: ``auth_token_nameless``: the token has no usable subject; or see `check_device`.
            TooManyRequests: ``rate_limited``, ``too_many_clients``.
        """
        self._quotas.take_authentication(address)
        process = await self._store.processes.get_by_name(message.model_name, message.model_version)
        subject = await check_device(process, message.auth_token, self._endpoints)
        is_named = process.config.named_clients
        if is_named and not (subject and subject.isprintable() and len(subject) <= MAX_SUBJECT_CHARS):
            raise Unauthenticated(
                f"the 'auth_token' must name its bearer: a printable 'sub' of 1 to {MAX_SUBJECT_CHARS} characters",
                code=codes.AUTH_TOKEN_NAMELESS,
            )
        # Without a limit of clients per subject, many devices can share one token, so its rate is not limited.
        if subject is not None and (is_named or process.config.clients_per_subject):
            self._quotas.take_subject(process.id, subject)
        join = self._join_named if is_named else self._join

        def transaction(connection: sa.Connection) -> str:
            rows.lock_process(connection, process.id)
            processes.get_process(connection, process.id)
            return join(connection, process, subject, address)

        try:
            known_as = await self._store.database.write(transaction)
        except NotFound:  # another replica has deleted the process, whose name can be that of a new one
            self._store.processes.forget(process.id)
            raise
        return AuthenticateResponse("success", known_as, process.config.needs_speed_test)

    def _join_named(self, connection: sa.Connection, process: HostedProcess, subject: str | None, _address: str) -> str:
        """Return the one client of a subject, created at its first authentication."""
        assert subject is not None
        found = rows.find_client(connection, process.id, subject)
        if found is not None:
            return found
        client_id = new_client_id()
        rows.put_client(connection, rows.NewClient(client_id, process.id, subject), self._clock.now())
        return client_id

    def _join(self, connection: sa.Connection, process: HostedProcess, subject: str | None, address: str) -> str:
        """Return a new client, within the quota of the token's subject, or of the address if there is none."""
        now = self._clock.now()
        most = process.config.clients_per_subject
        subject_mark = self._quotas.mark_subject(subject) if subject is not None and most else None
        address_mark = self._quotas.mark_address(address) if subject_mark is None else None
        if subject_mark is not None:
            found = clients.list_of_subject(connection, process.id, subject_mark)
            if len(found) >= most:
                clients.touch_client(connection, found[0], now)
                return found[0]
        if address_mark is not None:
            used_since = self._quotas.used_since()
            self._quotas.check_clients(clients.count_of_address(connection, process.id, address_mark, used_since))
        client_id = new_client_id()
        new = rows.NewClient(client_id, process.id, address_mark=address_mark, subject_mark=subject_mark)
        rows.put_client(connection, new, now)
        return client_id

    async def remove_unused(self) -> None:
        """Remove unused assignments, and clients that expired without a report."""
        before = self._quotas.used_since()
        if before is None:
            return
        left_before = self._clock.now() - dt.timedelta(seconds=LEFT_S)
        database = self._store.database
        while old := await database.read(lambda connection: clients.list_old_assignments(connection, before, BATCH)):
            await database.write(partial(clients.delete_assignments, ids=old))
        while unused := await database.read(
            lambda connection: clients.list_unused_clients(connection, before, left_before, BATCH)
        ):
            await database.write(partial(clients.delete_clients, ids=unused, before=before, left_before=left_before))

    async def leave(self, message: LeaveRequest, address: str) -> None:
        """End a client's participation for good: its reports count, its key ends, and no cycle waits for it.

        Raises:
            NotFound: ``process_not_found``, ``worker_not_found``. TooManyRequests: ``rate_limited``.
        """
        self._quotas.take_cycle_request(address)
        process = await self._store.processes.get_by_name(message.model, message.version)

        def transaction(connection: sa.Connection) -> Cycle:
            rows.lock_process(connection, process.id)
            now = self._clock.now()
            cycle = reports.put_departure(
                connection, message.worker_id, process.id, now, is_named=process.config.named_clients
            )
            return end_if_due(connection, cycle, process.config, now)

        cycle = await self._store.database.write(transaction)
        if cycle.state in (CycleState.OPEN, CycleState.CLOSING):
            current = self._scheduler.current.get(process.id)
            if current is None or (current.id, current.state) == (cycle.id, CycleState.OPEN):
                self._scheduler.watch(cycle)
        notify_process(self._store.signals, process.id)
