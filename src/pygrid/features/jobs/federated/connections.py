"""Connections of this Domain to a coordinator, at an address that an untrusted party supplies."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pygrid.clock import Clock
from pygrid.core.associations import AssociationState
from pygrid.errors import PygridError
from pygrid.settings import is_loopback_url
from pygrid.storage.associations import JoinedNetwork, list_networks
from pygrid.storage.sql.database import Database
from pygrid.transport import HttpTransport, Transport
from pygrid.transport.address import RelayedAddress, parse_address
from pygrid.transport.dialer import Dialer
from pygrid.transport.identity import Identity, IdentityKey
from pygrid.transport.known_domains import KnownDomains
from pygrid.transport.relayed import RelayedTransport
from pygrid.transport.tickets import make_ticket
from pygrid.transport.untrusted import check_untrusted_address, find_fault


class CoordinatorConnections:
    """Opens connections to coordinators, directly or through the relay of a Network.

    Args:
        name, identity: name and identity of this Domain, for tickets to the Networks of which it is a member.
        known: file of the identities of Domains that answered behind a Network.
        is_local: whether only this machine can reach this Domain. Then untrusted parties, which are on this machine
            too, may make it call addresses in private networks and on this machine, unless the Domain is a member of a
            Network elsewhere.
    """

    def __init__(
        self, database: Database, name: str, identity: Identity, known: Path, clock: Clock, *, is_local: bool
    ) -> None:
        self._database = database
        self._name = name
        self._identity = identity
        self._known = KnownDomains(known)
        self._clock = clock
        self._is_local = is_local

    async def may_dial(self, coordinator: str) -> bool:
        """Whether this Domain calls an address that no person has reviewed.

        The address must lead through a Network that has accepted this Domain, or be allowed for untrusted parties.
        """
        address = parse_address(coordinator)
        networks = await self._database.read(list_networks)
        if isinstance(address, RelayedAddress) and _find_own(networks, address) is not None:
            return True
        url = address.network_url if isinstance(address, RelayedAddress) else address
        try:
            await check_untrusted_address(url, allow_private=self._allows_private(networks))
        except PygridError:
            return False
        return True

    def open(self, coordinator: str, *, is_guarded: bool) -> Transport:
        """Return a transport to a coordinator, before anything is sent. Blocks for the read of one row.

        Args:
            is_guarded: refuse addresses that `may_dial` refuses.
        """
        address = parse_address(coordinator)
        networks = self._database.read_now(list_networks)
        dialer = Dialer(partial(find_fault, allow_private=self._allows_private(networks))) if is_guarded else Dialer()
        if not isinstance(address, RelayedAddress):
            return HttpTransport(address, dialer=dialer)
        own = _find_own(networks, address)
        return RelayedTransport(
            address,
            relay_token=lambda _url: self._ticket(own, address),
            known=self._known,
            dialer=dialer if own is None else Dialer(),
        )

    def _allows_private(self, networks: Sequence[JoinedNetwork]) -> bool:
        return self._is_local and all(is_loopback_url(network.url) for network in networks)

    def _ticket(self, network: JoinedNetwork | None, address: RelayedAddress) -> str | None:
        """Return the ticket with which this Domain, a member of the Network, uses its relay."""
        if network is None or network.identity is None:
            return None
        key = IdentityKey.parse(network.identity)
        return make_ticket(self._identity, key, self._name, address.domain, self._clock.now())


def _find_own(networks: Sequence[JoinedNetwork], address: RelayedAddress) -> JoinedNetwork | None:
    """Return the Network of a relayed address, if it has accepted this Domain."""
    accepted = (network for network in networks if network.state is AssociationState.ACCEPTED)
    return next((network for network in accepted if network.url.rstrip("/") == address.network_url), None)
