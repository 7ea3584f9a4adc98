"""The members of a Network with their present state, in memory; the store holds what must survive a restart."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from prometheus_client import Gauge

from pygrid import codes
from pygrid.clock import Clock
from pygrid.core.associations import DomainHealth, find_health, name_key
from pygrid.errors import NotFound, Unavailable
from pygrid.messages.associations import Heartbeat
from pygrid.metrics import Metrics
from pygrid.storage.associations import KnownDomain
from pygrid.transport.identity import IdentityKey
from pygrid.transport.links import Link, Links

RETRY_S = 2.0
"""Retry time for a Domain that is not connected."""


class ConnectedDomain:
    """An accepted Domain, connected or not."""

    def __init__(self, known: KnownDomain, domains: ConnectedDomains) -> None:
        self.known = known
        self.heard_at: dt.datetime | None = None
        """Time of its last heartbeat to this process."""
        self.heartbeat = Heartbeat()
        """Its last heartbeat."""
        self.address_fault = ""
        """Result of the last check of its address; empty: the address is shown to others."""
        self._domains = domains

    @property
    def name(self) -> str:
        return self.known.name

    @property
    def identity(self) -> str:
        """The Domain's key as text; empty for a node of 2020."""
        return self.known.identity or ""

    @property
    def is_legacy(self) -> bool:
        """Whether it is a node of 2020, of which only an address is known."""
        return self.known.is_legacy

    @property
    def address(self) -> str:
        """The checked address for direct calls; empty: only the relay reaches it."""
        return self.known.address or ""

    @property
    def catalog(self) -> str:
        """Version of its public content, by its last heartbeat; empty if it sends none."""
        return self.heartbeat.catalog

    @property
    def link(self) -> Link | None:
        """The control link, if the Domain is connected."""
        return self._domains.links.find(self.name)

    @property
    def state(self) -> DomainHealth:
        """The Domain's health. A node of 2020 sends no heartbeats, so it counts as online until it does not answer."""
        return DomainHealth.ONLINE if self.is_legacy else self._domains.find_health(self)

    async def request(
        self, type: str, payload: Mapping[str, Any] | None = None, timeout_s: float = 10.0
    ) -> dict[str, Any]:
        """Return the Domain's answer. Raises Unavailable: ``domain_offline``; and the errors of `Link.ask`."""
        return await self._domains.links.get(self.name).ask(type, payload, timeout_s)


class ConnectedDomains:
    """The members by name; names are not case-sensitive."""

    def __init__(self, links: Links, clock: Clock, interval_s: float, metrics: Metrics) -> None:
        self.links = links
        self._clock = clock
        self._interval_s = interval_s
        self._members: dict[str, ConnectedDomain] = {}
        gauge = Gauge(
            "pygrid_network_domains", "Domains of this Network, by health.", ("state",), registry=metrics.registry
        )
        for health in DomainHealth:
            gauge.labels(str(health)).set_function(partial(self.count, health))

    def __iter__(self) -> Iterator[ConnectedDomain]:
        return iter(self.members())

    def members(self) -> Sequence[ConnectedDomain]:
        """Return all members, sorted by name."""
        return [self._members[key] for key in sorted(self._members)]

    def find(self, name: str) -> ConnectedDomain | None:
        """Return the member of this name, if there is one."""
        return self._members.get(name_key(name))

    def get(self, name: str) -> ConnectedDomain:
        """Return the member of this name. Raises NotFound: ``domain_not_found``."""
        member = self.find(name)
        if member is None:
            raise NotFound(f"this Network has no Domain {name[:100]!r}", code=codes.DOMAIN_NOT_FOUND, domain=name[:100])
        return member

    async def reach(self, name: str) -> ConnectedDomain:
        """Return the connected member of this name.

        Raises:
            NotFound: ``domain_not_found``. Unavailable: ``domain_offline``.
        """
        member = self.get(name)
        if member.link is None:
            raise Unavailable(
                f"the Domain {member.name!r} is not connected now",
                code=codes.DOMAIN_OFFLINE,
                domain=member.name,
                retry_after_s=RETRY_S,
            )
        return member

    async def find_identity(self, name: str) -> IdentityKey | None:
        """Return the key of the member of this name; None: no such member, or a node of 2020."""
        member = self.find(name)
        return IdentityKey.parse(member.identity) if member is not None and member.identity else None

    def put(self, known: KnownDomain) -> ConnectedDomain:
        """Add a member, or update the record of an existing one."""
        member = self._members.get(name_key(known.name))
        if member is None:
            member = self._members[name_key(known.name)] = ConnectedDomain(known, self)
        member.known = known
        return member

    def remove(self, name: str) -> ConnectedDomain | None:
        return self._members.pop(name_key(name), None)

    def record_heartbeat(self, member: ConnectedDomain, heartbeat: Heartbeat) -> None:
        member.heartbeat = heartbeat
        member.heard_at = self._clock.now()

    def find_health(self, member: ConnectedDomain) -> DomainHealth:
        """Return the present health of a member."""
        heard_at = member.heard_at if member.link is not None else None
        return find_health(heard_at, self._clock.now(), self._interval_s, says_degraded=member.heartbeat.degraded)

    def count(self, health: DomainHealth) -> int:
        return sum(member.state is health for member in self._members.values())
