"""The transport for an address."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pygrid.transport.address import parse_address
from pygrid.transport.base import Transport
from pygrid.transport.dialer import Dialer
from pygrid.transport.http import HttpTransport

if TYPE_CHECKING:
    from pygrid.transport.relayed import RelayToken


def open_transport(url: str, *, relay_token: RelayToken | None = None, dialer: Dialer | None = None) -> Transport:
    """The transport to the Domain at a direct or relayed address (`pygrid.transport.address`); it sends nothing.

    Args:
        relay_token: returns the token for the Network of a relayed address; None: ``PYGRID_NETWORK_TOKEN``.
        dialer: makes the connections to the Domain, or to the Network; None: to any address.
    Raises:
        InvalidInput: not an address (``invalid_url``), or its identity is not valid (``invalid_identity``).
    """
    address = parse_address(url)
    if isinstance(address, str):
        return HttpTransport(address, dialer=dialer)
    # Here, because a direct connection needs neither websockets nor cryptography.
    from pygrid.transport.relayed import RelayedTransport

    return RelayedTransport(address, relay_token=relay_token, dialer=dialer)
