"""Whose address a request has.

Should happen: a trusted proxy's word counts, read from the near end; a network of IPv6 is one address.
Should not happen: a client chooses its own address.
"""

from __future__ import annotations

from typing import Any

import pytest
from litestar.connection import ASGIConnection

from pygrid.core.addresses import bucket_of
from pygrid.errors import InvalidConfig
from pygrid.settings import read_networks
from pygrid.web.addresses import MAX_HOPS, ClientAddresses


def connection(peer: str | None, *forwarded: str) -> ASGIConnection[Any, Any, Any, Any]:
    scope: Any = {
        "type": "http",
        "client": None if peer is None else (peer, 1234),
        "headers": [(b"x-forwarded-for", value.encode("latin-1")) for value in forwarded],
    }
    return ASGIConnection(scope)


@pytest.mark.parametrize(
    ("trusted", "peer", "forwarded", "found"),
    [
        ("", "203.0.113.5", (), "203.0.113.5"),
        ("", "127.0.0.1", ("203.0.113.5",), "127.0.0.1"),
        ("10.0.0.0/8", "203.0.113.9", ("203.0.113.5",), "203.0.113.9"),
        ("10.0.0.0/8", "10.0.0.1", ("203.0.113.5",), "203.0.113.5"),
        ("10.0.0.0/8", "10.0.0.1", ("198.51.100.1, 203.0.113.5, 10.9.9.9",), "203.0.113.5"),
        ("10.0.0.0/8", "10.0.0.1", ("198.51.100.1", "203.0.113.5"), "203.0.113.5"),
        ("10.0.0.0/8, ::1", "::1", ("10.1.1.1",), "10.1.1.1"),
        ("10.0.0.0/8", "10.0.0.1", (), "10.0.0.1"),
        ("10.0.0.0/8", "10.0.0.1", ("203.0.113.5, unknown",), "10.0.0.1"),
        ("10.0.0.0/8", "10.0.0.1", ("203.0.113.5, ",), "10.0.0.1"),
        ("10.0.0.0/8", "::ffff:10.0.0.1", ("2001:db8::1",), "2001:db8::1"),
        ("10.0.0.0/8", "10.0.0.1", ("1.2.3.4" + ", 10.0.0.2" * MAX_HOPS,), "10.0.0.2"),
        ("10.0.0.0/8", None, ("1.2.3.4",), ""),
        ("10.0.0.0/8", "a relayed caller", ("1.2.3.4",), "a relayed caller"),
    ],
)
def test_whose_address_it_is(trusted: str, peer: str | None, forwarded: tuple[str, ...], found: str) -> None:
    assert ClientAddresses(read_networks(trusted)).of(connection(peer, *forwarded)) == found


@pytest.mark.parametrize("trusted", ["proxy.example", "10.0.0.0/33", "10.0.0.1;10.0.0.2", "*"])
def test_a_proxy_that_is_not_an_address_is_refused(trusted: str) -> None:
    with pytest.raises(InvalidConfig, match="PYGRID_TRUSTED_PROXIES"):
        read_networks(trusted)


@pytest.mark.parametrize(
    ("text", "bucket"),
    [
        ("203.0.113.5", "203.0.113.5"),
        ("::ffff:203.0.113.5", "203.0.113.5"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("127.0.0.1", None),
        ("::1", None),
        ("::ffff:127.0.0.1", None),
        ("", "other "),
        ("relayed:203.0.113.5", "relayed:203.0.113.5"),
        ("relayed:2001:db8:1:2::1", "relayed:2001:db8:1:2::/64"),
        ("relayed:127.0.0.1", "relayed:127.0.0.1"),
        ("relayed:me", "other relayed:me"),
        ("a caller", "other a caller"),
    ],
)
def test_under_what_an_address_is_counted(text: str, bucket: str | None) -> None:
    assert bucket_of(text, limit_loopback=False) == bucket
    assert bucket_of(text, limit_loopback=True) is not None
