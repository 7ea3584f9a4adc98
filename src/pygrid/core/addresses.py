"""IP addresses as they are counted, compared and logged."""

from __future__ import annotations

import ipaddress

from pygrid.messages.relay import RELAYED

IPv4 = ipaddress.IPv4Address
IPv6 = ipaddress.IPv6Address
IPV6_PREFIX = 64
"""Bits of an IPv6 address that count: whoever has one address of such a network has all of them."""


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


def network_of(address: str) -> str:
    """What an address counts as: an IPv4 address itself, of an IPv6 address its /64, which one machine has as a whole.

    An address that a Network has told (`RELAYED`) keeps that mark.
    """
    mark, text = (RELAYED, address.removeprefix(RELAYED)) if address.startswith(RELAYED) else ("", address)
    return mark + _shortened(text, 32, 64)


def shortened(address: str) -> str:
    """An address without what names one machine, for a log that is kept: its /24 or /48.

    For example ``203.0.113.0/24``.
    """
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
