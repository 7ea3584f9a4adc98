"""The transport for an address."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pygrid.transport.address import parse_address
from pygrid.transport.authorities import CaFile
from pygrid.transport.base import Transport
from pygrid.transport.dialer import Dialer
from pygrid.transport.http import HttpTransport

if TYPE_CHECKING:
    from pygrid.transport.relayed import RelayToken


def open_transport(
    url: str, *, relay_token: RelayToken | None = None, dialer: Dialer | None = None, ca_file: CaFile = None
) -> Transport:
    """The transport to the Domain at a direct or relayed address (`pygrid.transport.address`); it sends nothing.

    Args:
        relay_token: returns the token for the Network of a relayed address; None: ``PYGRID_NETWORK_TOKEN``.
        dialer: makes the connections to the Domain, or to the Network; None: to any address.
        ca_file: PEM file of an authority to trust in addition to the public ones; None: that of ``PYGRID_CA_FILE``.
    Raises:
        InvalidInput: not an address (``invalid_url``), its identity is not valid (``invalid_identity``), or the file
            is not (``ca_file_invalid``).
    """
    address = parse_address(url)
    if isinstance(address, str):
        return HttpTransport(address, ca_file=ca_file, dialer=dialer)
    # Here, because a direct connection needs neither websockets nor cryptography.
    from pygrid.transport.relayed import RelayedTransport

    return RelayedTransport(address, relay_token=relay_token, dialer=dialer, ca_file=ca_file)
