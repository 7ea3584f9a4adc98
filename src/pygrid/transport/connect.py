"""From an address to what carries requests there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pygrid.transport.address import parse_address
from pygrid.transport.base import Transport
from pygrid.transport.dialer import Dialer
from pygrid.transport.http import HttpTransport

if TYPE_CHECKING:
    from pygrid.transport.relayed import RelayToken


def open_transport(url: str, *, relay_token: RelayToken | None = None, dialer: Dialer | None = None) -> Transport:
    """The way to the Domain at an address, in either of its forms (`pygrid.transport.address`). Nothing is sent yet.

    Args:
        relay_token: gives what the Network is told, if there is one in between; None: ``PYGRID_NETWORK_TOKEN``.
        dialer: makes the connections to the Domain, or to the Network; None: to any address.
    Raises:
        InvalidInput: ``invalid_url``: not an address; ``invalid_identity``: it names an identity that is none.
    """
    address = parse_address(url)
    if isinstance(address, str):
        return HttpTransport(address, dialer=dialer)
    from pygrid.transport.relayed import (
        RelayedTransport,
    )  # with websockets and cryptography, which a direct way does not need

    return RelayedTransport(address, relay_token=relay_token, dialer=dialer)
