"""IP addresses for counting, comparison and logs."""

from __future__ import annotations

import ipaddress

from pygrid.messages.relay import RELAYED

IPv4 = ipaddress.IPv4Address
IPv6 = ipaddress.IPv6Address
IPV6_PREFIX = 64
"""Prefix length by which IPv6 addresses are counted: one machine usually has the whole network."""


def parse_address(text: str) -> IPv4 | IPv6 | None:
    """Parse an IP address. An IPv4 address in IPv6 notation becomes IPv4. None: the text is not an address."""
    try:
        address = ipaddress.ip_address(text.split("%", 1)[0].strip("[]"))
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6) else None
    return mapped or address


def bucket_of(text: str, *, limit_loopback: bool) -> str | None:
    """The key for counting an address: the IPv4 address, or the /64 network. None: the address is not counted.

    Args:
        limit_loopback: whether to count addresses of this machine.
    """
    address = parse_address(text.removeprefix(RELAYED))
    if address is None:
        return f"other {text[:100]}"
    if text.startswith(RELAYED):
        # This is a claim of a Network, so it never counts as an address of this machine.
        return f"{RELAYED}{bucket_of(str(address), limit_loopback=True)}"
    if address.is_loopback:
        return str(address) if limit_loopback else None
    if isinstance(address, IPv6):
        return str(ipaddress.ip_network((address, IPV6_PREFIX), strict=False))
    return str(address)


def network_of(address: str) -> str:
    """The IPv4 address, or the /64 network of an IPv6 address.

    The address of a relayed caller keeps its prefix `RELAYED`.
    """
    mark, text = (RELAYED, address.removeprefix(RELAYED)) if address.startswith(RELAYED) else ("", address)
    return mark + _shortened(text, 32, 64)


def shortened(address: str) -> str:
    """The /24 or /48 network of an address, for logs that are kept, for example ``203.0.113.0/24``."""
    mark, text = (RELAYED, address.removeprefix(RELAYED)) if address.startswith(RELAYED) else ("", address)
    return mark + _shortened(text, 24, 48)


def _shortened(text: str, bits_4: int, bits_6: int) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return "unknown"
    if address.version == 6 and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    bits = bits_4 if address.version == 4 else bits_6
    return str(ipaddress.ip_network(f"{address.compressed.partition('%')[0]}/{bits}", strict=False))
