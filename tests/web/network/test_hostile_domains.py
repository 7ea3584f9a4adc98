"""Domains that mean ill, or hang, at a Network: the others must not notice.

Should not happen: a link that never ends because its peer reads nothing,
    a revoked key that comes in under a name it had prepared.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pygrid.features.associations.network.registry import ConnectedDomains
from pygrid.transport import links
from pygrid.web.services import service
from support.eventually import turns
from support.network import Impostor, Net, running_network, until_listed


@pytest.fixture
async def net(tmp_path: Path) -> AsyncIterator[Net]:
    async with running_network(tmp_path / "net") as found:
        yield found


class Deaf:
    """A WebSocket whose far end takes nothing, not even a goodbye."""

    async def send_text(self, text: str) -> None:
        await asyncio.Event().wait()

    async def receive_text(self) -> str:
        await asyncio.Event().wait()
        raise AssertionError

    async def close(self, code: int = 1000, reason: str = "") -> None:
        await asyncio.Event().wait()


async def test_a_link_whose_peer_takes_no_goodbye_ends_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "CLOSE_S", 0.05)
    link = links.Link(Deaf(), {})
    running = asyncio.create_task(link.run())
    await turns()
    async with asyncio.timeout(60):
        await link.close(links.REPLACED, "anew")
        assert (await running).code == links.REPLACED


async def test_a_revoked_key_does_not_come_in_under_another_name_that_it_has(net: Net) -> None:
    token = await net.invite(max_uses=5)
    mallory = Impostor("mallory")
    second, third = Impostor("second", mallory.identity), Impostor("third", mallory.identity)
    assert (await second.greet(net))["state"] == "pending"
    async with third.greeting(net, invitation=token), mallory.greeting(net, invitation=token):
        await until_listed(net, "third", connected=True)
        await until_listed(net, "mallory", connected=True)
        assert (await net.decide("mallory", "revoke")).status_code == 200
        # All that this key has is put out.
        assert await net.list() == {}
        assert len(service(net.app.state, ConnectedDomains).links) == 0
    for name in (mallory, second, third):
        assert (await name.greet(net, invitation=token))["code"] == "revoked"
        assert (await name.greet(net))["code"] == "revoked"
    assert await net.list() == {}
    # A manager may think again, of one name or of another.
    assert (await net.decide("third", "accept")).status_code == 200
    assert (await third.greet(net))["state"] == "accepted"
    assert (await mallory.greet(net))["code"] == "revoked"
