"""The Domain's half of associations: its owner joins Networks and leaves them; a `Connector` keeps the link to each."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa

from pygrid import codes
from pygrid.clock import Clock
from pygrid.core.access import Principal
from pygrid.core.associations import AssociationState, check_domain_name
from pygrid.errors import Conflict
from pygrid.features.associations.domain.connector import Connector
from pygrid.lifecycle import Stopping
from pygrid.messages.associations import AssociationInfo, Entry, Heartbeat
from pygrid.settings import is_loopback_url
from pygrid.storage import associations as rows
from pygrid.storage import audit
from pygrid.storage.associations import JoinedNetwork
from pygrid.storage.idempotency import once
from pygrid.storage.sql.database import Database
from pygrid.transport.address import check_url
from pygrid.transport.identity import Identity
from pygrid.transport.links import Handler

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_NETWORKS = 20
_OVER = frozenset({AssociationState.LEFT, AssociationState.LEAVING})
_JOINABLE_AGAIN = _OVER | {AssociationState.DENIED, AssociationState.REVOKED, AssociationState.REFUSED}


class Writes(Protocol):
    """Writes that leave an entry in the audit log."""

    async def write(self, fn: Callable[[sa.Connection], T]) -> T:
        """Run ``fn`` in a transaction that may append to the log."""
        ...


@dataclass(frozen=True)
class DomainTerms:
    """What the operator set."""

    entry: Entry
    network: str = ""
    """The Network to join from the start; empty: none."""
    invitation: str = ""
    only_loopback: bool = False
    """Strangers on this machine may do more than strangers elsewhere should, so no Network of another machine is
    joined.
    """


class DomainAssociations:
    """The use cases of a Domain's Networks."""

    def __init__(
        self,
        database: Database,
        writes: Writes,
        identity: Identity,
        clock: Clock,
        stopping: Stopping,
        terms: DomainTerms,
    ) -> None:
        self.describe: Callable[[], Awaitable[Heartbeat]] = _describe_nothing
        """Gives what a heartbeat tells."""
        self.handlers: Callable[[str], Mapping[str, Handler]] = lambda _url: {}
        """What the Domain answers to the Network at an address."""
        self._database = database
        self._writes = writes
        self._identity = identity
        self._clock = clock
        self._stopping = stopping
        self._terms = terms
        self._connectors: dict[int, Connector] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()

    async def recover(self) -> None:
        """Have the Network of the settings among the Domain's Networks. One that the owner left stays left."""
        url, now = self._terms.network.rstrip("/"), self._clock.now()
        invitation = self._terms.invitation or None
        if not url:
            return
        check_domain_name(self._terms.entry.name)

        def transaction(connection: sa.Connection) -> None:
            known = rows.find_network(connection, url)
            if known is None:
                rows.put_network(connection, url, invitation, now)
            elif invitation is not None and known.state not in (*_OVER, AssociationState.ACCEPTED):
                rows.update_network(connection, known.id, {"invitation": invitation}, now)

        await self._database.write(transaction)

    async def run(self) -> None:
        """Keep a link to each Network, for as long as the Domain runs."""
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
                    # A connector ends when its Network was left, or by a fault, which must come to light.
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
        """A Network that was joined when the Domain was closed, and that would now bring strangers to open doors."""
        reason = "not called: " + _too_far(network.url)
        logger.warning("network not called", extra={"network": network.url, "why": "domain_is_open"})
        if network.reason != reason:
            now = self._clock.now()
            await self._database.write(
                lambda connection: rows.update_network(connection, network.id, {"reason": reason}, now)
            )

    def _start(self, network: JoinedNetwork) -> None:
        connector = self._connectors[network.id] = Connector(
            network,
            self._database,
            self._identity,
            self._terms.entry,
            self._clock,
            lambda: self.describe(),
            self.handlers(network.url),
        )
        self._tasks[network.id] = asyncio.create_task(connector.run(), name=f"network-{network.id}")

    def _collect(self, done: Collection[asyncio.Future[Any]]) -> None:
        for network_id, task in list(self._tasks.items()):
            if task in done:
                del self._tasks[network_id]
                del self._connectors[network_id]
                task.result()

    async def tell_change(self, _version: str = "") -> None:
        """Have all Networks know at once of what has changed; returns when they do, or after a second."""
        await asyncio.gather(*(connector.beat() for connector in self._connectors.values()))

    # People

    async def list_networks(self) -> list[AssociationInfo]:
        """All Networks that the Domain has to do with, oldest first."""
        return [self._info(network) for network in await self._database.read(rows.list_networks)]

    async def get_network(self, network_id: int) -> AssociationInfo:
        """Raises NotFound: ``association_not_found``."""
        return self._info(await self._database.look_up(lambda connection: rows.get_network(connection, network_id)))

    async def join(self, actor: Principal, url: str, invitation: str | None) -> AssociationInfo:
        """Ask a Network to let this Domain in; what comes of it shows in the association.

        Asking again where the Domain has left, or was turned away, is a new request.

        Raises:
            InvalidInput: ``invalid_url``, ``invalid_name``. Conflict: ``too_many_networks``, ``domain_is_open``: what
                is
            allowed to strangers on this machine must not become what is allowed to everybody.
        """
        url = check_url(url)
        check_domain_name(self._terms.entry.name)
        if self._is_too_far(url):
            raise Conflict(_too_far(url), code=codes.DOMAIN_IS_OPEN)
        now = self._clock.now()

        def transaction(connection: sa.Connection) -> JoinedNetwork:
            known = rows.find_network(connection, url)
            if known is None:
                if len(rows.list_networks(connection)) >= MAX_NETWORKS:
                    raise Conflict(f"a Domain joins {MAX_NETWORKS} Networks at the most", code=codes.TOO_MANY_NETWORKS)
                network = rows.put_network(connection, url, invitation, now)
            else:
                values: dict[str, Any] = {} if invitation is None else {"invitation": invitation}
                if known.state in _JOINABLE_AGAIN:
                    values |= {"state": AssociationState.JOINING.value, "reason": ""}
                if known.state in (*_OVER, AssociationState.REFUSED):
                    # It is looked at anew, with the key that it has now.
                    values |= {"identity": None, "name": None}
                rows.update_network(connection, known.id, values, now)
                network = rows.get_network(connection, known.id)
            data = {"network_id": network.id, "url": url}
            audit.append(connection, "network_joined", data, actor=actor.user_id, now=now)
            return network

        network = await self._writes.write(once(transaction, self._info))
        self._poke(network)
        return self._info(network)

    async def leave(self, actor: Principal, network_id: int) -> AssociationInfo:
        """Leave a Network. If it is not connected now, it is told when it is; nothing more is answered to it from here
        on.

        One that was left already is forgotten.

        Raises:
            NotFound: ``association_not_found``.
        """
        now = self._clock.now()

        def transaction(connection: sa.Connection) -> JoinedNetwork:
            known = rows.get_network(connection, network_id)
            audit.append(
                connection, "network_left", {"network_id": known.id, "url": known.url}, actor=actor.user_id, now=now
            )
            if known.state is AssociationState.LEFT:
                rows.delete_network(connection, network_id)
                return known
            # It never heard of this Domain, or has shut its door: there is nobody to tell.
            told = known.identity is None or known.state is AssociationState.REFUSED
            state = AssociationState.LEFT if told else AssociationState.LEAVING
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
        self._poke(network)
        return self._info(network)

    def _poke(self, network: JoinedNetwork) -> None:
        connector = self._connectors.get(network.id)
        if connector is not None:
            connector.poke(network)
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
    """What a Domain's heartbeats tell."""

    database: Database
    counts: Collection[str]
    """What the owner publishes the number of."""
    catalog: Callable[[], str]
    """Version of what is public."""
    failing: Callable[[], Collection[str]]
    """What does not work in this Domain now."""

    async def __call__(self) -> Heartbeat:
        counts = (
            await self.database.read(lambda connection: rows.count_rows(connection, self.counts)) if self.counts else {}
        )
        return Heartbeat(_load(), bool(self.failing()), counts, self.catalog())


def _too_far(url: str) -> str:
    return (
        "this Domain lets strangers of its machine do what others should not (sign up, or host without an account): "
        f"start it with --network {url}, or with --closed-signup and without --legacy-open"
    )


def _load() -> float | None:
    """Processes that want to run, for each core, in tenths: enough to choose among Domains, too little to watch jobs
    by.
    """
    try:
        return round(os.getloadavg()[0] / (os.cpu_count() or 1), 1)
    except OSError:
        return None


async def _describe_nothing() -> Heartbeat:
    return Heartbeat()
