"""What ends, and what does not, when a Domain leaves a Network or is put out, over real sockets.

Should happen: who has a Domain leave through the relay gets the answer; what is put out is cut off both ways, and so is
what a Domain has under way when its name goes to another.
Should not happen: a connection that goes on through a Network to which one of its ends does not belong.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import pygrid.client
from pygrid.clock import SystemClock
from pygrid.features.associations.network import service as network_service
from pygrid.features.associations.network.registry import ConnectedDomains
from pygrid.features.associations.network.service import NetworkAssociations
from pygrid.features.relay.network.service import Relay
from pygrid.storage import associations as rows
from pygrid.storage.sql.database import Database
from pygrid.transport import NO_RETRIES, Api
from pygrid.transport.address import parse_address
from pygrid.transport.identity import Identity
from pygrid.transport.known_domains import KnownDomains
from pygrid.transport.relayed import RelayedTransport
from pygrid.transport.tickets import make_ticket
from pygrid.web.services import service
from support.eventually import eventually
from support.search import Domain, Site, log_in, running_network


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("PYGRID_URL", "PYGRID_TOKEN", "PYGRID_NETWORK_URL", "PYGRID_NETWORK_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with running_network(tmp_path, open_relay=False) as site:
        yield site


def open_as(caller: Domain, site: Site, name: str, folder: Path) -> Api:
    """Calls of one Domain to another through the relay."""
    address = parse_address(f"grid+{site.url}/{name}")
    assert not isinstance(address, str)
    network = service(site.served.app.state, Identity).key

    def ticket(_network: str) -> str:
        # As it may write its own name.
        return make_ticket(service(caller.app.state, Identity), network, caller.name.upper(), name, SystemClock().now())

    known = KnownDomains(folder / "known.json")
    return Api(RelayedTransport(address, relay_token=ticket, known=known), retries=NO_RETRIES)


async def test_who_has_it_leave_through_the_relay_gets_the_answer(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    await site.add("one", direct=False)
    pipes = service(site.served.app.state, Relay).pipes
    monkeypatch.setattr(network_service, "LEAVE_S", 1.0)
    with pygrid.client.connect_network(site.url) as network:
        await asyncio.to_thread(log_in, network)
        domain = await asyncio.to_thread(network.domain, "one")
        await asyncio.to_thread(log_in, domain)
        left = await asyncio.to_thread(domain.associations.leave, site.url)
        assert left.state == "left"
        assert await site.state("one") is None
        # Who is there does not stay.
        await eventually(lambda: pipes.count("one") == 0)


async def test_a_revoked_domain_is_cut_off_as_a_caller_too(site: Site, tmp_path: Path) -> None:
    await site.add("one", direct=False)
    two = await site.add("two", direct=False)
    await site.add("three", direct=False)
    pipes = service(site.served.app.state, Relay).pipes
    calls = [open_as(two, site, name, tmp_path) for name in ("one", "three")]
    for api in calls:
        await asyncio.to_thread(api.get, "/healthz", dict)
    assert (pipes.count("one"), pipes.count("three")) == (1, 1)
    answer = await site.web.post("/domains/two/revoke", json={}, headers=site.owner)
    assert answer.status_code == 200, answer.text
    await eventually(lambda: pipes.count("one") == pipes.count("three") == 0)
    with pytest.raises(Exception, match="Domain 'TWO' is not a member") as refused:
        await asyncio.to_thread(calls[0].get, "/healthz", dict)
    assert getattr(refused.value, "code", None) == "invalid_ticket"
    for api in calls:
        await asyncio.to_thread(api.close)


async def test_when_its_name_is_anothers_nothing_of_the_first_goes_on(site: Site, tmp_path: Path) -> None:
    """Forgotten and followed in one moment, so that the Network never saw the name without a Domain."""
    one = await site.add("one", direct=False)
    await site.add("two", direct=False)
    state = site.served.app.state
    api = open_as(one, site, "two", tmp_path)
    await asyncio.to_thread(api.get, "/healthz", dict)

    def replace(connection: Any) -> None:
        (known,) = rows.get_named(connection, "one")
        rows.delete_domains(connection, [known.id])
        new = rows.NewDomain("one", "ed25519:" + "a" * 51 + "q", known.state, known.entry, known.entry_signature)
        rows.put_domain(connection, new, SystemClock().now())

    await service(state, Database).write(replace)
    await service(state, NetworkAssociations).reconcile("one")
    await eventually(lambda: service(state, Relay).pipes.count("two") == 0)
    await asyncio.to_thread(api.close)
    # The link of the first does not tell of the second.
    assert service(state, ConnectedDomains).get("one").link is None
