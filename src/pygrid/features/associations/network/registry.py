"""The Domains that belong to a Network as they are now. In memory: what must outlive the Network is in the store."""

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
"""When to ask again for a Domain that is not connected."""


class ConnectedDomain:
    """A Domain that was accepted, whether it is connected or not."""

    def __init__(self, known: KnownDomain, fleet: ConnectedDomains) -> None:
        self.known = known
        self.heard_at: dt.datetime | None = None
        """When it was last heard of in the life of this process."""
        self.heartbeat = Heartbeat()
        """The last one."""
        self.address_fault = ""
        """Why its address is not named to others, after the last check."""
        self._fleet = fleet

    @property
    def name(self) -> str:
        return self.known.name

    @property
    def identity(self) -> str:
        """Its key as text; empty: a node of 2020."""
        return self.known.identity or ""

    @property
    def is_legacy(self) -> bool:
        """Whether it is a node of 2020: an address and nothing else."""
        return self.known.is_legacy

    @property
    def address(self) -> str:
        """Where it can be called directly, checked; empty: through the relay only."""
        return self.known.address or ""

    @property
    def catalog(self) -> str:
        """Version of what it publishes, as it told last; empty: it tells none."""
        return self.heartbeat.catalog

    @property
    def link(self) -> Link | None:
        """Its control link, if it is connected."""
        return self._fleet.links.find(self.name)

    @property
    def state(self) -> DomainHealth:
        """How it is doing. A node of 2020 gives no sign of life, so it counts as online until it does not answer."""
        return DomainHealth.ONLINE if self.is_legacy else self._fleet.find_health(self)

    async def ask(self, type: str, payload: Mapping[str, Any] | None = None, timeout_s: float = 10.0) -> dict[str, Any]:
        """Its answer. Raises Unavailable: ``domain_offline``, and whatever `Link.ask` does."""
        return await self._fleet.links.get(self.name).ask(type, payload, timeout_s)


class ConnectedDomains:
    """All members, by name; case does not count."""

    def __init__(self, links: Links, clock: Clock, interval_s: float, metrics: Metrics) -> None:
        self.links = links
        self._clock = clock
        self._interval_s = interval_s
        self._members: dict[str, ConnectedDomain] = {}
        gauge = Gauge(
            "pygrid_network_domains",
            "Domains of this Network, by how they are doing.",
            ("state",),
            registry=metrics.registry,
        )
        for health in DomainHealth:
            gauge.labels(str(health)).set_function(partial(self.count, health))

    def __iter__(self) -> Iterator[ConnectedDomain]:
        return iter(self.members())

    def members(self) -> Sequence[ConnectedDomain]:
        """All of them, by name."""
        return [self._members[key] for key in sorted(self._members)]

    def find(self, name: str) -> ConnectedDomain | None:
        """The member of this name."""
        return self._members.get(name_key(name))

    def get(self, name: str) -> ConnectedDomain:
        """Raises NotFound: ``domain_not_found``."""
        member = self.find(name)
        if member is None:
            raise NotFound(
                f"no Domain {name[:100]!r} belongs to this Network", code=codes.DOMAIN_NOT_FOUND, domain=name[:100]
            )
        return member

    async def reach(self, name: str) -> ConnectedDomain:
        """The member of this name, which is connected.

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
        """Who the member of this name is; None: there is none, or it is a node of 2020."""
        member = self.find(name)
        return IdentityKey.parse(member.identity) if member is not None and member.identity else None

    def put(self, known: KnownDomain) -> ConnectedDomain:
        """Let a Domain belong to the Network, or renew what is known of it."""
        member = self._members.get(name_key(known.name))
        if member is None:
            member = self._members[name_key(known.name)] = ConnectedDomain(known, self)
        member.known = known
        return member

    def remove(self, name: str) -> ConnectedDomain | None:
        """Let a Domain belong to it no more."""
        return self._members.pop(name_key(name), None)

    def hear(self, member: ConnectedDomain, heartbeat: Heartbeat) -> None:
        """Note a sign of life."""
        member.heartbeat = heartbeat
        member.heard_at = self._clock.now()

    def find_health(self, member: ConnectedDomain) -> DomainHealth:
        """How a member is doing now."""
        heard_at = member.heard_at if member.link is not None else None
        return find_health(heard_at, self._clock.now(), self._interval_s, says_degraded=member.heartbeat.degraded)

    def count(self, health: DomainHealth) -> int:
        """How many are doing so."""
        return sum(member.state is health for member in self._members.values())
