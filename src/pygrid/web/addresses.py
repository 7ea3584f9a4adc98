"""The address of a client: the peer of the connection, or the address that a trusted proxy names."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

from litestar.connection import ASGIConnection

from pygrid.core.addresses import parse_address
from pygrid.web.services import Services

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
_FORWARDED = "x-forwarded-for"
MAX_HOPS = 32
"""Longest chain of proxies that is read, from the near end."""


class ClientAddresses:
    """Finds the address behind a request.

    Args:
        trusted: networks of the operator's proxies. Their ``X-Forwarded-For`` is used; that of others is ignored.
    """

    def __init__(self, trusted: Sequence[IpNetwork] = ()) -> None:
        self._trusted = tuple(trusted)

    def of(self, connection: ASGIConnection[Any, Any, Any, Any]) -> str:
        """Return the IP address of the client as text; empty if the server does not know it."""
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


def client_agent(connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    """Return the header ``User-Agent`` of the client, which is its claim; empty without one."""
    found: str = connection.headers.get("user-agent", "")
    return found


def client_address(connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    """Return the IP address of the client as text, by the proxies that the app trusts; empty if it is unknown."""
    services: Services = connection.app.state.services
    return (services.find(ClientAddresses) or ClientAddresses()).of(connection)
