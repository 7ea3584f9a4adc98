"""Two replicas of a Network behind HAProxy, on PostgreSQL, one of which is killed.

Should happen: the other one leads, with the same identity, accounts and members; the Domain comes back by itself, and
callers reach it; the replica that comes back follows.
Should not: a second identity; a follower that decides anything.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from test_network_start import PASSWORD, App, domains, running

from pygrid.client import NetworkClient, connect_network
from pygrid.errors import NotFound, Unavailable
from pygrid.transport import NO_RETRIES, Api, open_transport
from replicas import find_haproxy, haproxy
from support import stores
from support.eventually import eventually_blocking
from support.postgres import PostgresServer

INVITATION = "i" * 40
ENVIRONMENT = {
    "SECRET_KEY": "k" * 32,
    "PYGRID_REPLICATED": "1",
    "PYGRID_INVITATION": INVITATION,
    "PYGRID_TRUSTED_PROXIES": "127.0.0.1",
}


class Site:
    """Two replicas, a balancer, which also knows an address where nothing runs, and a Domain."""

    def __init__(self, folder: Path, database_url: str, stack: contextlib.ExitStack) -> None:
        env = {**ENVIRONMENT, "DATABASE_URL": database_url}
        self.replicas = [App("network", folder / str(number), "--heartbeat-s", "1", **env) for number in range(2)]
        stack.enter_context(running(*self.replicas))
        addresses = [httpx.URL(replica.start()) for replica in self.replicas]
        known = [(url.host, url.port or 0) for url in addresses] + [("127.0.0.1", stores.free_ports(1)[0])]
        host, port = stack.enter_context(haproxy(folder, known))
        self.url = f"http://{host}:{port}"
        arguments = ("--start_local_db", "--id", "hospital-a", "--network", self.url)
        domain = App("domain", folder / "domain", *arguments, PYGRID_INVITATION=INVITATION)
        stack.enter_context(running(domain))
        domain.start()

    def leaders(self) -> list[App]:
        found = []
        for replica in self.replicas:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"http://127.0.0.1:{replica.port}/leaderz").status_code == 200:
                    found.append(replica)
        return found

    def identity(self) -> str:
        return str(httpx.get(f"{self.url}/identity").raise_for_status().json()["identity"])

    def reaches_domain(self) -> bool:
        """Whether a relayed call is answered, and the Network shows the Domain as online."""
        with contextlib.suppress(Unavailable, NotFound):
            with contextlib.closing(open_transport(f"grid+{self.url}/hospital-a")) as transport:
                Api(transport, retries=NO_RETRIES).get("/healthz", dict)
            return domains(self.url)["hospital-a"]["state"] == "online"
        return False


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    find_haproxy()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with contextlib.ExitStack() as stack:
        postgres = stack.enter_context(PostgresServer())
        yield Site(tmp_path, postgres.url, stack)


def sign_in(url: str, *, up: bool = False) -> NetworkClient:
    client = connect_network(url)
    (client.sign_up if up else client.login)("owner@example.org", PASSWORD)
    return client


@pytest.mark.slow
def test_domains_and_callers_survive_the_loss_of_any_replica(site: Site) -> None:
    (leader,) = site.leaders()
    (follower,) = (one for one in site.replicas if one is not leader)
    eventually_blocking(site.reaches_domain)
    identity = site.identity()
    sign_in(site.url, up=True).invite("hospital-b")
    refused = httpx.post(f"http://127.0.0.1:{follower.port}/users/login", json={})
    assert (refused.status_code, refused.json()["code"]) == (503, "not_leader")

    for lost, other in ((leader, follower), (follower, leader)):
        lost.kill()
        eventually_blocking(lambda other=other: site.leaders() == [other])  # type: ignore[misc]
        eventually_blocking(site.reaches_domain)
        assert site.identity() == identity
        invited = sign_in(site.url).invitations()
        assert [one.domain for one in invited] == ["hospital-b"]
        lost.start()
        assert site.leaders() == [other]
