"""The address of a client: whose connection it is, or for whom a proxy that the operator trusts says that it speaks."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

from litestar.connection import ASGIConnection

from pygrid.messages.relay import RELAYED

IPv4 = ipaddress.IPv4Address
IPv6 = ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
_FORWARDED = "x-forwarded-for"
MAX_HOPS = 32
"""Of a chain of proxies, which are read from the near end."""
IPV6_PREFIX = 64
"""Bits of an IPv6 address that count: whoever has one address of such a network has all of them."""


class ClientAddresses:
    """Finds the address behind a request.

    Args:
        trusted: networks of the operator's proxies. Their ``X-Forwarded-For`` is believed; that of others is not read.
    """

    def __init__(self, trusted: Sequence[IpNetwork] = ()) -> None:
        self._trusted = tuple(trusted)

    def of(self, connection: ASGIConnection[Any, Any, Any, Any]) -> str:
        """The IP address of the client as text; empty if the server did not say it."""
        peer = connection.client.host if connection.client else ""
        if not self._trusted or not self._is_trusted(peer):
            return peer
        hops = [hop.strip() for value in connection.headers.getall(_FORWARDED, []) for hop in value.split(",")]
        for hop in reversed(hops[-MAX_HOPS:]):
            if parse_address(hop) is None:
                break
            peer = hop
            if not self._is_trusted(hop):
                break
        return peer

    def _is_trusted(self, text: str) -> bool:
        address = parse_address(text)
        return address is not None and any(address in network for network in self._trusted)


def parse_address(text: str) -> IPv4 | IPv6 | None:
    """An IP address; one of IPv4 that is written as IPv6 becomes IPv4. None: the text is not an address."""
    try:
        address = ipaddress.ip_address(text.split("%", 1)[0].strip("[]"))
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6) else None
    return mapped or address


def bucket_of(text: str, *, limit_loopback: bool) -> str | None:
    """The key under which an address is counted: itself, or its IPv6 network of 64 bits. None: it is not counted.

    Args:
        limit_loopback: whether addresses of this machine are counted too.
    """
    address = parse_address(text.removeprefix(RELAYED))
    if address is None:
        return f"other {text[:100]}"
    if text.startswith(RELAYED):
        # The word of a Network: it makes nobody one of this machine.
        return f"{RELAYED}{bucket_of(str(address), limit_loopback=True)}"
    if address.is_loopback:
        return str(address) if limit_loopback else None
    if isinstance(address, IPv6):
        return str(ipaddress.ip_network((address, IPV6_PREFIX), strict=False))
    return str(address)
