"""Calls through a relay from machines that reach the Network by a proxy only, the caller's and the Domain's.

Should happen: both go by the proxy that the environment names, with the name and password in it; NO_PROXY holds; a
refusal by
    the proxy is told.
Should not: a Domain that dials where a Network leads it by a redirect; a proxy of another kind that takes the Domain
down.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_relay_calls import read
from test_relay_https import make_certificate, tls_before

from pygrid.errors import InvalidInput, Unavailable
from pygrid.transport import Request
from pygrid.transport.proxies import find_proxy
from support.forward_proxy import VARIABLES, running_proxy, running_redirect
from support.relay_app import BLOCK, PatternBody, RelayedApp
from support.relay_site import RelaySite, running_site

SMALL = Request("GET", "/small/1")


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[RelaySite]:
    with running_site(RelayedApp(), tmp_path) as made:
        yield made


@pytest.fixture
def secure_site(site: RelaySite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RelaySite]:
    """The Network is behind https."""
    certificate = make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with tls_before(site.network_url, certificate) as url:
        site.network_url = url
        yield site


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_both_ends_reach_a_network_behind_https_by_the_proxy(
    secure_site: RelaySite, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    network = secure_site.network_url.removeprefix("https://")
    with running_proxy("ann:p@ss:w%rd") as proxy:
        # As it has to be written in an address.
        monkeypatch.setenv(variable, f"http://ann:p%40ss%3Aw%25rd@{proxy.address}")
        transport = secure_site.open()
        body = PatternBody(40)
        assert json.loads(read(transport, Request("POST", "/echo", body=body)))["sha256"] == body.sha256
        assert read(transport, Request("GET", "/blocks/40")) == BLOCK * 40
        # The caller's connection, and the one that the Domain was asked for.
        assert proxy.asked == [("CONNECT", network)] * 2
        transport.close()


def test_plain_http_passes_a_proxy_that_lets_websockets_through(
    site: RelaySite, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = site.network_url.removeprefix("http://")
    with running_proxy() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.address)
        transport = site.open()
        assert json.loads(read(transport, SMALL)) == {"path": "/small/1"}
        assert proxy.asked == [("GET", network), ("CONNECT", network)]
        transport.close()


def test_what_needs_no_proxy_is_called_directly(secure_site: RelaySite, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_proxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.address}")
        for excepted in ("127.0.0.1", secure_site.network_url.removeprefix("https://")):
            monkeypatch.setenv("NO_PROXY", excepted)
            transport = secure_site.open()
            read(transport, SMALL)
            transport.close()
        assert proxy.asked == []


def test_a_proxy_that_refuses_is_told(secure_site: RelaySite, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_proxy(refuses=True) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.address}")
        transport = secure_site.open()
        with pytest.raises(Unavailable, match="403") as failed:
            transport.send(SMALL)
        assert failed.value.code == "connection_failed"
        assert secure_site.asked == []
        transport.close()
    with running_proxy(refuses=True) as proxy:
        # The Domain alone has to go through it.
        monkeypatch.delenv("HTTPS_PROXY")
        transport = secure_site.open()
        monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.address}")
        with pytest.raises(Unavailable, match="did not open a connection") as failed:
            transport.send(SMALL)
        assert failed.value.code == "domain_unreachable"
        transport.close()


def test_a_domain_with_another_kind_of_proxy_says_so(site: RelaySite, monkeypatch: pytest.MonkeyPatch) -> None:
    transport = site.open()
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    with pytest.raises(Unavailable, match="not an HTTP proxy") as failed:
        transport.send(SMALL)
    assert failed.value.code == "domain_unreachable"
    transport.close()


def test_a_domain_does_not_go_where_a_network_redirects_it(site: RelaySite) -> None:
    """Else a Network could have it knock at any door of the net that it is in."""
    with running_redirect("ws://{}/inside") as (door, asked):
        pipes = site.pipe_servers["hospital-a"]
        with pytest.raises(Unavailable, match="307") as refused:
            site.call(pipes.open_pipe(f"http://{door}", {"token": "A" * 43}))
        assert refused.value.code == "pipe_failed"
        assert asked == ["/pipes/" + "A" * 43]


@pytest.mark.parametrize(
    ("proxy", "found"),
    [
        ("proxy:3128", "http://proxy:3128"),
        ("http://proxy:3128/", "http://proxy:3128"),
        ("https://proxy", "https://proxy"),
        ("http://ann:secret@proxy:1", "http://ann:secret@proxy:1"),
        ("http://ann@proxy:1", "http://ann:@proxy:1"),
        ("", None),
    ],
)
def test_a_proxy_is_found_however_it_is_written(monkeypatch: pytest.MonkeyPatch, proxy: str, found: str | None) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    assert find_proxy("https://network.example") == found
    assert find_proxy("http://network.example") is None


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "ftp://proxy", "http://", "http://:80"])
def test_what_is_no_http_proxy_is_told(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(InvalidInput) as refused:
        find_proxy("https://network.example")
    assert refused.value.code == "proxy_unsupported"
