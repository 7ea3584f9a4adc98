"""Addresses of Domains, direct and through a Network."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygrid.errors import InvalidInput
from pygrid.transport import HttpTransport, open_transport
from pygrid.transport.address import RelayedAddress, parse_address, plain_address
from pygrid.transport.identity import IdentityKey
from pygrid.transport.relayed import RelayedTransport

# That of the private key of RFC 8032, 7.1, test 1.
KEY = IdentityKey(bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"))


@pytest.mark.parametrize("end", ["", "/", "/admin", "/admin/", "/admin/datasets/3", "/\n"])
@pytest.mark.parametrize("url", ["https://domain.example/base", "http://127.0.0.1:5000", "http://admin"])
def test_a_direct_address_stays_itself_and_the_console_is_part_of_it(url, end):
    assert parse_address(f"{url}{end}") == url


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("grid+http://127.0.0.1:7000/hospital-a", RelayedAddress("http://127.0.0.1:7000", "hospital-a")),
        ("grid+https://Network.example/hospital%20%C3%A4/", RelayedAddress("https://network.example", "hospital ä")),
        (f"grid+http://[::1]:7000/a?identity={KEY}", RelayedAddress("http://[::1]:7000", "a", KEY)),
    ],
)
def test_a_relayed_address_is_taken_apart(url, address):
    assert parse_address(url) == address


@given(st.text(min_size=1, max_size=100).filter(lambda name: name.isprintable() and "/" not in name))
def test_any_name_survives_its_way_into_an_address(name):
    address = RelayedAddress("http://127.0.0.1:7000", name, KEY)
    assert parse_address(f"{address}?identity={KEY}") == address
    assert plain_address(f"{address}?identity={KEY}") == str(address)


@pytest.mark.parametrize(
    "url",
    [
        "grid+http://127.0.0.1:7000",
        "grid+http://127.0.0.1:7000/",
        "grid+http://127.0.0.1:7000/a/b",
        "grid+http://127.0.0.1:7000/a%2Fb",
        "grid+http://127.0.0.1:7000/a%00b",
        "grid+http://127.0.0.1:7000/%FF",
        "grid+http://127.0.0.1:x/a",
        "grid+http://127.0.0.1:/a",
        "grid+http:///a",
        "grid+ftp://127.0.0.1/a",
        "grid+ws://127.0.0.1/a",
        "grid+http://user:secret@127.0.0.1/a",
        "grid+http://127.0.0.1/a#b",
        "grid+http://127.0.0.1/a?token=x",
        f"grid+http://127.0.0.1/a?identity={KEY}&identity={KEY}",
        "grid+http://127.0.0.1/" + "a" * 101,
        "grid+grid+http://127.0.0.1/a",
        "gridhttp://127.0.0.1/a",
        "http://127.0.0.1/a?identity=x",
        "http://127.0.0.1:x",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:-1",
        "http://[::1",
    ],
)
def test_anything_else_is_told_how_to_write_it(url):
    with pytest.raises(InvalidInput) as refused:
        open_transport(url)
    assert refused.value.code == "invalid_url"
    assert "write it like" in refused.value.detail or "scheme, host and port" in refused.value.detail


@pytest.mark.parametrize("identity", ["", "ed25519:", "ed25519:" + "a" * 51, "sha256:" + "a" * 52])
def test_an_identity_that_is_none_is_refused(identity):
    with pytest.raises(InvalidInput) as refused:
        open_transport(f"grid+http://127.0.0.1/a?identity={identity}")
    assert refused.value.code == "invalid_identity"


def test_an_address_opens_the_way_that_it_names():
    assert isinstance(open_transport("http://127.0.0.1:5000/"), HttpTransport)
    relayed = open_transport(f"grid+http://127.0.0.1:7000/hospital-a?identity={KEY}")
    assert isinstance(relayed, RelayedTransport)
    assert relayed.url == "grid+http://127.0.0.1:7000/hospital-a"
