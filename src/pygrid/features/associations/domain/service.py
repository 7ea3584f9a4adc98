"""The Domain's half of associations: it joins and leaves Networks; a `Connector` keeps the link to each."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa

from pygrid import codes
from pygrid.core.access import Permission, Principal, require
from pygrid.core.associations import AssociationState, check_domain_name
from pygrid.errors import Conflict
from pygrid.features.associations.domain.connector import Connector, Connectors, DomainSide
from pygrid.lifecycle import AppContext
from pygrid.messages.associations import AssociationInfo, Heartbeat
from pygrid.settings import is_loopback_url
from pygrid.storage import associations as rows
from pygrid.storage import audit
from pygrid.storage.associations import JoinedNetwork
from pygrid.storage.audit import AuditedWrites
from pygrid.storage.idempotency import once
from pygrid.storage.sql.database import Database
from pygrid.transport.address import check_url

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_NETWORKS = 20
_OVER = frozenset({AssociationState.LEFT, AssociationState.LEAVING})
_JOINABLE_AGAIN = _OVER | {AssociationState.DENIED, AssociationState.REVOKED, AssociationState.REFUSED}


@dataclass(frozen=True)
class DomainTerms:
    """Settings of the operator."""

    network: str = ""
    """The Network to join at the start; empty: none."""
    invitation: str = ""
    only_loopback: bool = False
    """Join only Networks of this machine, because its anonymous callers have rights that others must not have."""


class DomainAssociations:
    """The use cases of a Domain's Networks.

    Args:
        domain: what this Domain shows its Networks.
        connectors: empty; those of its Networks are kept here.
    """

    def __init__(
        self,
        app: AppContext,
        database: Database,
        writes: AuditedWrites,
        terms: DomainTerms,
        domain: DomainSide,
        connectors: Connectors,
    ) -> None:
        self._clock, self._stopping = app.clock, app.stopping
        self._database = database
        self._writes = writes
        self._terms = terms
        self._domain = domain
        self._connectors = connectors
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()

    async def recover(self) -> None:
        """Add the Network of the settings to the Domain's Networks, unless the owner has left it."""
        url, now = self._terms.network.rstrip("/"), self._clock.now()
        invitation = self._terms.invitation or None
        if not url:
            return
        check_domain_name(self._domain.entry.name)

        def transaction(connection: sa.Connection) -> None:
            known = rows.find_network(connection, url)
            if known is None:
                rows.put_network(connection, url, invitation, now)
            elif invitation is not None and known.state not in (*_OVER, AssociationState.ACCEPTED):
                rows.update_network(connection, known.id, {"invitation": invitation}, now)

        await self._database.write(transaction)

    async def run(self) -> None:
        """Keep a link to each Network, while the Domain runs."""
        try:
            while not self._stopping.is_set():
                self._wake.clear()
                for network in await self._database.read(rows.list_networks):
                    if network.state is AssociationState.LEFT or network.id in self._tasks:
                        continue
                    if self._is_too_far(network.url) and network.state is not AssociationState.LEAVING:
                        await self._note_too_far(network)
                    else:
                        self._start(network)
                waiting: set[asyncio.Future[Any]] = {
                    asyncio.ensure_future(self._wake.wait()),
                    asyncio.ensure_future(self._stopping.wait()),
                }
                try:
                    # A connector ends when its Network was left, or by an error, which `_collect` raises.
                    done, _ = await asyncio.wait({*waiting, *self._tasks.values()}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for waiter in waiting:
                        waiter.cancel()
                self._collect(done)
        finally:
            tasks = list(self._tasks.values())
            self._tasks.clear()
            self._connectors.clear()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _is_too_far(self, url: str) -> bool:
        return self._terms.only_loopback and not is_loopback_url(url)

    async def _note_too_far(self, network: JoinedNetwork) -> None:
        """Record that a Network is not called: it would bring remote anonymous callers to a Domain that is open now."""
        reason = "not called: " + _too_far(network.url)
        logger.warning("network not called", extra={"network": network.url, "why": "domain_is_open"})
        if network.reason != reason:
            now = self._clock.now()
            await self._database.write(
                lambda connection: rows.update_network(connection, network.id, {"reason": reason}, now)
            )

    def _start(self, network: JoinedNetwork) -> None:
        connector = Connector(network, self._database, self._clock, self._domain)
        self._connectors[network.id] = connector
        self._tasks[network.id] = asyncio.create_task(connector.run(), name=f"network-{network.id}")

    def _collect(self, done: Collection[asyncio.Future[Any]]) -> None:
        for network_id, task in list(self._tasks.items()):
            if task in done:
                del self._tasks[network_id]
                del self._connectors[network_id]
                task.result()

    # People

    async def list_networks(self, principal: Principal) -> list[AssociationInfo]:
        """Return all Networks of the Domain, oldest first."""
        require(principal, Permission.MANAGE_INFRASTRUCTURE)
        return [self._info(network) for network in await self._database.read(rows.list_networks)]

    async def get_network(self, principal: Principal, network_id: int) -> AssociationInfo:
        """Return one association. Raises NotFound: ``association_not_found``."""
        require(principal, Permission.MANAGE_INFRASTRUCTURE)
        return self._info(await self._database.look_up(lambda connection: rows.get_network(connection, network_id)))

    async def join(self, principal: Principal, url: str, invitation: str | None) -> AssociationInfo:
        """Ask a Network to accept this Domain; the association shows the progress.

        After the Domain left or was refused, another call is a new request.

        Raises:
            InvalidInput: ``invalid_url``, ``invalid_name``.
            Conflict: ``too_many_networks``; ``domain_is_open``: rights of anonymous callers on this machine must not
                become rights of all callers.
        """
        require(principal, Permission.MANAGE_INFRASTRUCTURE)
        url = check_url(url)
        check_domain_name(self._domain.entry.name)
        if self._is_too_far(url):
            raise Conflict(_too_far(url), code=codes.DOMAIN_IS_OPEN)
        now = self._clock.now()

        def transaction(connection: sa.Connection) -> JoinedNetwork:
            known = rows.find_network(connection, url)
            if known is None:
                if len(rows.list_networks(connection)) >= MAX_NETWORKS:
                    raise Conflict(
                        f"this Domain has {MAX_NETWORKS} Networks, the most that are allowed; leave one first",
                        code=codes.TOO_MANY_NETWORKS,
                    )
                network = rows.put_network(connection, url, invitation, now)
            else:
                values: dict[str, Any] = {} if invitation is None else {"invitation": invitation}
                if known.state in _JOINABLE_AGAIN:
                    values |= {"state": AssociationState.JOINING.value, "reason": ""}
                if known.state in (*_OVER, AssociationState.REFUSED):
                    # The Network is identified again, by the key that it has now.
                    values |= {"identity": None, "name": None}
                rows.update_network(connection, known.id, values, now)
                network = rows.get_network(connection, known.id)
            data = {"network_id": network.id, "url": url}
            audit.append(connection, "network_joined", data, actor=principal.user_id, now=now)
            return network

        network = await self._writes.write(once(transaction, self._info))
        self._wake_up(network)
        return self._info(network)

    async def leave(self, principal: Principal, network_id: int) -> AssociationInfo:
        """Leave a Network. No request of it is answered from here on; if it is not connected, it is notified later.

        A second call deletes the association.

        Raises:
            NotFound: ``association_not_found``.
        """
        require(principal, Permission.MANAGE_INFRASTRUCTURE)
        now = self._clock.now()

        def transaction(connection: sa.Connection) -> JoinedNetwork:
            known = rows.get_network(connection, network_id)
            audit.append(
                connection, "network_left", {"network_id": known.id, "url": known.url}, actor=principal.user_id, now=now
            )
            if known.state is AssociationState.LEFT:
                rows.delete_network(connection, network_id)
                return known
            # The Network never heard of this Domain, or refused it, so it needs no notice.
            is_over = known.identity is None or known.state is AssociationState.REFUSED
            state = AssociationState.LEFT if is_over else AssociationState.LEAVING
            rows.update_network(connection, network_id, {"state": state.value, "reason": "", "invitation": None}, now)
            return rows.get_network(connection, network_id)

        network = await self._writes.write(transaction)
        connector = self._connectors.get(network_id)
        if connector is not None and network.state is AssociationState.LEAVING:
            connector.network = network
            if await connector.leave():
                await connector.note(state=AssociationState.LEFT)
                network = connector.network
            await connector.close()
        self._wake_up(network)
        return self._info(network)

    def _wake_up(self, network: JoinedNetwork) -> None:
        connector = self._connectors.get(network.id)
        if connector is not None:
            connector.wake(network)
        self._wake.set()

    def _info(self, network: JoinedNetwork) -> AssociationInfo:
        connector = self._connectors.get(network.id)
        if connector is not None:
            network = connector.network
        return AssociationInfo(
            id=network.id,
            network=network.url,
            name=network.name,
            identity=network.identity,
            state=str(network.state),
            reason=network.reason,
            connected=connector is not None and connector.is_connected,
            created_at=network.created_at,
            updated_at=network.updated_at,
        )


@dataclass(frozen=True)
class HeartbeatSource:
    """Makes the content of a Domain's heartbeats."""

    database: Database
    counts: Collection[str]
    """The tables whose number of rows the owner publishes."""
    catalog: Callable[[], str]
    """Returns the version of the public content."""
    failing: Callable[[], Collection[str]]
    """Returns the parts of this Domain that do not work now."""

    async def __call__(self) -> Heartbeat:
        counts = (
            await self.database.read(lambda connection: rows.count_rows(connection, self.counts)) if self.counts else {}
        )
        return Heartbeat(_load(), bool(self.failing()), counts, self.catalog())


def _too_far(url: str) -> str:
    return (
        "anonymous callers on the machine of this Domain may sign up or host without an account, which other machines "
        f"must not: start it with --network {url}, or with --closed-signup and without --legacy-open"
    )


def _load() -> float | None:
    """Return the load average per core in tenths: exact enough to choose a Domain, too coarse to observe jobs."""
    try:
        return round(os.getloadavg()[0] / (os.cpu_count() or 1), 1)
    except OSError:
        return None
