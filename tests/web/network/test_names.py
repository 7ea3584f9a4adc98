"""Whose a name is: strangers who ask for it, one who gets it, and decisions that are about the one that was looked at.

Should happen: whoever is first keeps nobody out; a decision names the identity that the person saw; an invitation needs
no decision; requests of those who went away are forgotten.
Should not happen: a Domain that is accepted in place of another; two with one name; a name, a row or a connection that
somebody without any right holds for ever.
"""

from __future__ import annotations

import asyncio
import os
import pty
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from test_control import exchange
from websockets.asyncio.client import ClientConnection

from pygrid.client import NetworkClient, connect_network
from pygrid.clock import ManualClock
from pygrid.errors import Conflict
from pygrid.features.associations.domain import connector
from pygrid.features.associations.network import service as network_service
from pygrid.features.associations.network.registry import ConnectedDomains
from pygrid.features.associations.network.service import NetworkAssociations
from pygrid.transport.identity import Identity
from pygrid.web.services import service
from support.eventually import eventually
from support.network import Impostor, Net, running_domain, running_network
from support.web import PASSWORD, People, assert_problem

DAY_S = 86400.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def net(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Net]:
    async with running_network(tmp_path / "net", clock=clock) as found:
        yield found


async def known(net: Net, association: str = "all") -> dict[str, str]:
    """How each identity stands."""
    answer = await net.web.get("/domains", params={"association": association}, headers=net.owner)
    return {found["identity"]: found.get("association", "accepted") for found in answer.json()["domains"]}


async def later(net: Net, clock: ManualClock, days: int) -> None:
    """Sessions are over by then."""
    clock.advance(days * DAY_S)
    net.owner = await People(net.web).log_in("owner@example.org")


async def until_cut_off(connection: ClientConnection) -> None:
    async with asyncio.timeout(60):
        await connection.wait_closed()
    assert connection.close_code == 4003


def key(impostor: Impostor) -> str:
    return str(impostor.identity.key)


async def test_who_asks_first_keeps_nobody_out(net: Net) -> None:
    squatter, real = Impostor("Alice"), Impostor("alice")
    async with squatter.greeting(net) as (first, _), real.greeting(net) as (second, answer):
        assert answer["state"] == "pending"
        assert await known(net) == {key(squatter): "pending", key(real): "pending"}
        refused = assert_problem(await net.decide("alice", "accept"), 409, "several_domains")
        assert set(refused["identities"]) == {key(squatter), key(real)}
        assert_problem(await net.decide("alice", "accept", identity=key(Impostor())), 409, "other_identity")
        assert set((await known(net)).values()) == {"pending"}

        accepted = await net.decide("alice", "accept", identity=key(real))
        assert (accepted.status_code, accepted.json()["identity"]) == (200, key(real))
        assert (await exchange(second, type="heartbeat", id=1))["state"] == "accepted"
        # The other one's request is over, and so is its connection.
        await until_cut_off(first)
        assert await known(net) == {key(real): "accepted"}
    assert (await squatter.greet(net))["code"] == "name_taken"


async def test_a_decision_is_about_the_one_that_was_looked_at(net: Net) -> None:
    """The one that was seen goes, and another comes, before the person has decided."""
    real, stranger = Impostor(), Impostor()
    async with real.greeting(net) as (connection, _):
        await exchange(connection, type="leave", id=1)
    await stranger.greet(net)
    for act in ("accept", "deny"):
        assert_problem(await net.decide("alice", act, identity=key(real)), 409, "other_identity")
    assert_problem(await net.decide("alice", "revoke", identity=key(real)), 409, "other_identity")
    answer = await net.web.delete("/domains/alice", params={"identity": key(real)}, headers=net.owner)
    assert_problem(answer, 409, "other_identity")
    assert await known(net) == {key(stranger): "pending"}
    assert (await net.web.get("/domains/alice", headers=net.owner)).json()["domain"]["identity"] == key(stranger)
    shown = await net.web.get("/domains/alice", params={"identity": key(real)}, headers=net.owner)
    assert_problem(shown, 404, "domain_not_found")


async def test_of_two_acceptances_at_once_one_holds(net: Net) -> None:
    impostors = [Impostor() for _ in range(6)]
    for impostor in impostors:
        await impostor.greet(net)
    answers = await asyncio.gather(*(net.decide("alice", "accept", identity=key(one)) for one in impostors))
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409, 409, 409]
    assert list((await known(net)).values()) == ["accepted"]
    (member,) = service(net.app.state, ConnectedDomains)
    assert member.identity == next(answer.json()["identity"] for answer in answers if answer.status_code == 200)


async def test_the_denied_stay_denied_and_others_may_ask(net: Net) -> None:
    squatter, real = Impostor(), Impostor()
    await squatter.greet(net)
    assert (await net.decide("alice", "deny")).status_code == 200
    assert (await real.greet(net))["state"] == "pending"
    assert (await squatter.greet(net))["code"] == "denied"
    # By the name alone, the one that asks is meant.
    assert (await net.decide("alice", "accept")).json()["identity"] == key(real)
    assert_problem(await net.decide("alice", "accept", identity=key(squatter)), 409, "name_taken")
    assert (await squatter.greet(net))["code"] == "name_taken"
    answer = await net.web.delete("/domains/alice", params={"identity": key(squatter)}, headers=net.owner)
    assert answer.status_code == 200
    assert await known(net) == {key(real): "accepted"}


async def test_an_invitation_goes_before_those_who_wait(net: Net) -> None:
    token = await net.invite(domain="alice")
    squatter = Impostor()
    async with squatter.greeting(net) as (connection, _):
        assert (await Impostor().greet(net, invitation=token))["state"] == "accepted"
        await until_cut_off(connection)
    assert list((await known(net)).values()) == ["accepted"]


async def test_a_revoked_key_keeps_no_names_that_it_only_asked_for(net: Net) -> None:
    token = await net.invite()
    mallory = Impostor("mallory")
    await mallory.greet(net, invitation=token)
    bars = Impostor("hospital", mallory.identity)
    async with bars.greeting(net) as (connection, answer):
        assert answer["state"] == "pending"
        assert (await net.decide("mallory", "revoke")).status_code == 200
        await until_cut_off(connection)
    assert await known(net) == {key(mallory): "revoked"}
    assert (await bars.greet(net))["code"] == "revoked"
    assert (await Impostor("hospital").greet(net))["state"] == "pending"


async def test_who_asks_and_leaves_again_and_again_keeps_nothing(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_service, "LEAVE_S", 0.05)
    async with AsyncExitStack() as stack:
        connections: list[Any] = []
        for number in range(5):
            connection, _ = await stack.enter_async_context(Impostor(f"d{number}").greeting(net))
            assert (await exchange(connection, type="leave", id=1))["type"] == "answer"
            connections.append(connection)
        assert await known(net) == {}
        # Those that stay on the line are hung up on.
        for connection in connections:
            async with asyncio.timeout(60):
                await connection.wait_closed()
        assert len(service(net.app.state, NetworkAssociations).waiting) == 0


async def test_requests_of_those_who_went_away_are_forgotten(net: Net, clock: ManualClock) -> None:
    associations = service(net.app.state, NetworkAssociations)
    gone, stays, silent = Impostor("gone"), Impostor("stays"), Impostor("silent")
    await gone.greet(net)
    async with stays.greeting(net) as (connection, _), silent.greeting(net) as (quiet, _):
        await later(net, clock, 6)
        await exchange(connection, type="heartbeat", id=1)
        await associations.note_seen()
        await associations.forget_stale()
        assert len(await known(net)) == 3
        await later(net, clock, 2)
        await associations.forget_stale()
        assert await known(net) == {key(stays): "pending"}
        await until_cut_off(quiet)
    assert (await gone.greet(net))["state"] == "pending"


async def test_the_one_that_was_turned_away_comes_in_once_the_name_is_free(
    net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connector, "retry_s", lambda *_: 0.05)
    async with running_domain(tmp_path / "a", network=net.url) as alice:
        await alice.until(state="pending", connected=True)
        other = Impostor()
        await other.greet(net)
        assert (await net.decide("alice", "accept", identity=key(other))).status_code == 200
        assert "belongs to another Domain" in (await alice.until(state="refused"))["reason"]
        await net.web.delete("/domains/alice", headers=net.owner)
        await alice.until(state="pending", connected=True)
        assert (
            await net.decide("alice", "accept", identity=str(service(alice.app.state, Identity).key))
        ).status_code == 200
        await alice.until(state="accepted", connected=True)


async def test_a_restart_forgets_neither_who_asks_nor_who_has_a_name(tmp_path: Path) -> None:
    one, two, three = Impostor(), Impostor(), Impostor("bob")
    async with running_network(tmp_path) as net:
        for each in (one, two, three):
            await each.greet(net)
        await net.decide("bob", "accept")
        before = await known(net)
    async with running_network(tmp_path, sign_up=False) as net:
        assert await known(net) == before
        assert [member.name for member in service(net.app.state, ConnectedDomains)] == ["bob"]
        assert (await Impostor("BOB").greet(net))["code"] == "name_taken"
        assert (await net.decide("alice", "accept", identity=key(two))).status_code == 200
        assert (await two.greet(net))["state"] == "accepted"


# People


@pytest.fixture
async def client(net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[NetworkClient]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    client = connect_network(net.url)
    await asyncio.to_thread(client.login, "owner@example.org", PASSWORD)
    yield client
    await asyncio.to_thread(client.close)


async def test_the_sdk_says_who_is_meant(net: Net, client: NetworkClient) -> None:
    one, two = Impostor(), Impostor()
    for each in (one, two):
        await each.greet(net)
    with pytest.raises(Conflict) as several:
        await asyncio.to_thread(client.accept, "alice")
    assert several.value.code == "several_domains"
    table = await asyncio.to_thread(client.domains, "pending")
    assert all(key(each) in repr(table) for each in (one, two))
    await asyncio.to_thread(client.deny, "alice", "", key(one))
    assert (await asyncio.to_thread(client.accept, "alice", "", key(two))).identity == key(two)
    with pytest.raises(Conflict):
        await asyncio.to_thread(client.revoke, "alice", "", key(one))
    await asyncio.to_thread(client.forget, "alice", key(one))
    assert await known(net) == {key(two): "accepted"}


def command(client: NetworkClient, *words: str, answer: str | None = None) -> tuple[int, str]:
    """What a command ends with and prints; ``answer``: it runs in a terminal, where somebody types this."""
    env = {**os.environ, "PYGRID_NETWORK_URL": client.url, "PYGRID_NETWORK_TOKEN": client.token or "", "COLUMNS": "200"}
    given: dict[str, Any] = {"input": "", "text": True}
    ends: tuple[int, ...] = ()
    if answer is not None:
        ends = pty.openpty()
        os.write(ends[0], answer.encode() + b"\n")
        given = {"stdin": ends[1], "text": True}
    try:
        line = [sys.executable, "-m", "pygrid", "domains", *words]
        done = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=180, env=env, **given)
    finally:
        for end in ends:
            os.close(end)
    return done.returncode, done.stdout


async def test_a_person_accepts_what_they_were_shown(net: Net, client: NetworkClient) -> None:
    one, two = Impostor(), Impostor()
    await one.greet(net)
    status, told = await asyncio.to_thread(command, client, "accept", "ALICE", answer="n")
    assert status != 0
    assert f"ALICE is {key(one)}" in told
    assert list((await known(net)).values()) == ["pending"]
    await two.greet(net)
    # Two ask: a name is not enough, and nobody is asked anything.
    status, told = await asyncio.to_thread(command, client, "accept", "alice")
    assert status != 0
    assert "2 Domains request the name" in told
    assert (await asyncio.to_thread(command, client, "deny", "alice", "--identity", key(one)))[0] == 0
    status, told = await asyncio.to_thread(command, client, "accept", "alice", answer="y")
    assert status == 0, told
    assert await known(net) == {key(one): "denied", key(two): "accepted"}
    assert (await asyncio.to_thread(command, client, "forget", "alice"))[0] == 0
    # Without a terminal the one that is shown is taken, if it is the only one.
    await one.greet(net)
    status, told = await asyncio.to_thread(command, client, "accept", "alice")
    assert (status, key(one) in told) == (0, True)

    async def is_accepted() -> bool:
        return await known(net) == {key(one): "accepted"}

    await eventually(is_accepted)
