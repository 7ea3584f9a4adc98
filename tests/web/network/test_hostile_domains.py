"""Domains that mean ill, or hang, at a Network: the others must not notice.

Should not happen: a Domain that reads nothing keeping others out, a revoked key that comes in under a name it had prepared.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from network_support import Impostor, Net, running_network, until_listed
from websockets.asyncio.client import ClientConnection, connect

from pygrid.web import links


@pytest.fixture
async def net(tmp_path: Path) -> AsyncIterator[Net]:
    async with running_network(tmp_path / "net") as found:
        yield found


async def stuff(connection: ClientConnection) -> None:
    """Ask what has long answers and read none, until the Network takes no more."""
    connection.transport.pause_reading()
    question = json.dumps({"type": "\U0010ffff" * 100, "id": 1})
    with contextlib.suppress(TimeoutError):
        while True:
            async with asyncio.timeout(1.0):
                await connection.send(question)


async def test_a_domain_that_reads_nothing_keeps_nobody_out(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "SEND_S", 600.0)
    token = await net.invite(max_uses=2)
    deaf = Impostor("deaf")
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    narrow.connect(("127.0.0.1", net.port))
    async with connect(net.control_url(), sock=narrow, ping_interval=None, close_timeout=0) as connection:
        challenge = json.loads(await connection.recv())
        await connection.send(json.dumps(deaf.hello(challenge, invitation=token)))
        assert json.loads(await connection.recv())["type"] == "welcome"
        await until_listed(net, "deaf", connected=True)
        await stuff(connection)
        # It comes anew, so what it had is closed; and another one comes.
        async with deaf.greeting(net) as (_, welcome):
            assert welcome["state"] == "accepted"
            async with Impostor("bob").greeting(net, invitation=token):
                await until_listed(net, "bob", connected=True)
                await until_listed(net, "deaf", connected=True)
        await until_listed(net, "deaf", connected=False)
        assert (await net.decide("deaf", "revoke")).status_code == 200
        connection.transport.abort()


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
        assert len(net.app.state.links) == 0
    for name in (mallory, second, third):
        assert (await name.greet(net, invitation=token))["code"] == "revoked"
        assert (await name.greet(net))["code"] == "revoked"
    assert await net.list() == {}
    # A manager may think again, of one name or of another.
    assert (await net.decide("third", "accept")).status_code == 200
    assert (await third.greet(net))["state"] == "accepted"
    assert (await mallory.greet(net))["code"] == "revoked"
