"""A Domain and a Network, both whole, over a real WebSocket on loopback.

Should happen: a Domain asks, is seen as waiting, is accepted while connected and learns of it at once; it is online
while its heartbeats come; it comes back by itself after either side was started again; its owner leaves and joins anew.
Should not happen: a second Domain under a taken name, a Domain that was put out coming back, an answer to a Network
that has not accepted the Domain, or the loss of a decision because of the moment in which it was made.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from pygrid.clock import ManualClock
from pygrid.core.access import NETWORK_ROLES, Principal
from pygrid.domain import build_domain
from pygrid.features.associations.domain import connector
from pygrid.features.associations.network.direct_addresses import DirectAddresses
from pygrid.features.associations.network.registry import ConnectedDomains
from pygrid.features.associations.network.service import NetworkAssociations
from pygrid.settings import load_settings
from pygrid.storage.sql.database import Database
from pygrid.transport.identity import Identity
from pygrid.web.services import service
from support.eventually import eventually, turns
from support.network import SECRET, Dom, Net, running_domain, running_network, served, until_listed
from support.web import People, assert_problem

OWNER = Principal(1, NETWORK_ROLES[-1])


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Domains that dial again soon; how long they really wait is tried where the rules are."""
    monkeypatch.setattr(connector, "retry_s", lambda *_: 0.05)


@pytest.fixture
async def net(tmp_path: Path) -> AsyncIterator[Net]:
    async with running_network(tmp_path / "net") as found:
        yield found


async def test_a_domain_asks_waits_is_accepted_and_seen(net: Net, tmp_path: Path) -> None:
    async with running_domain(tmp_path / "a", network=net.url, publish="datasets,users") as alice:
        waiting = await until_listed(net, "alice", "pending", connected=True)
        assert (waiting["state"], waiting["association"]) == ("offline", "pending")
        assert (await alice.until(state="pending", connected=True))["name"] == "net"
        assert await net.list() == {}
        # Strangers see nothing of who waits.
        assert (await net.web.get("/domains")).json() == {"domains": []}
        assert_problem(await net.web.get("/domains", params={"association": "pending"}), 403, "not_permitted")
        assert_problem(await net.web.get("/domains/alice"), 404, "domain_not_found")

        accepted = await net.decide("alice", "accept")
        assert accepted.status_code == 200, accepted.text
        # It was connected all the while, so it knows now, and its next heartbeat makes it online.
        await alice.until(state="accepted", connected=True)
        seen = await until_listed(net, "alice", state="online", counts={"datasets": 0, "users": 1})
        assert seen["connected"]
        shown = (await net.web.get("/domains/alice")).json()
        assert shown["domain"]["identity"] == str(service(alice.app.state, Identity).key)
        assert shown["entry"] == {"name": "alice", "version": shown["domain"]["version"]}
        assert "load" not in shown["domain"]
        assert "claimed_address" not in shown["domain"]
        metrics = (await net.web.get("/metrics")).text
        assert 'pygrid_network_domains{state="online"} 1.0' in metrics
        assert "pygrid_network_waiting_domains 0.0" in metrics
    # It stopped, so its link is closed.
    await until_listed(net, "alice", state="offline", connected=False)


async def test_it_comes_back_by_itself_whichever_side_was_started_again(tmp_path: Path) -> None:
    async with AsyncExitStack() as domains:
        async with running_network(tmp_path / "net") as net:
            token = await net.invite()
            port = net.port
            alice = await domains.enter_async_context(running_domain(tmp_path / "a", network=net.url, invitation=token))
            before = await until_listed(net, "alice", state="online")
        await alice.until(connected=False)
        assert (await alice.associations())[0]["state"] == "accepted"
        async with running_network(tmp_path / "net", port, sign_up=False) as net:
            again = await until_listed(net, "alice", state="online")
            assert again["identity"] == before["identity"]
            await domains.aclose()
            # Another life of the Domain: no invitation any more, the same key, so it is let in.
            async with running_domain(tmp_path / "a", sign_up=False, network=net.url) as alice:
                await until_listed(net, "alice", state="online")
                assert (await alice.associations())[0]["connected"]


async def test_a_cut_link_heals(net: Net, tmp_path: Path) -> None:
    token = await net.invite()
    async with running_domain(tmp_path / "a", network=net.url, invitation=token) as alice:
        await until_listed(net, "alice", state="online")
        links = service(net.app.state, ConnectedDomains).links
        for _ in range(3):
            link = links.get("alice")
            await link.close(1011, "cut")

            async def is_new(old: Any = link) -> bool:
                return (found := links.find("alice")) is not None and found is not old

            await eventually(is_new)
        await alice.until(state="accepted", connected=True)
        await until_listed(net, "alice", state="online")


async def test_denied_it_is_told_so_and_may_be_accepted_later(net: Net, tmp_path: Path) -> None:
    async with running_domain(tmp_path / "a", network=net.url) as alice:
        await until_listed(net, "alice", "pending", connected=True)
        assert (await net.decide("alice", "deny", reason="we do not know you")).status_code == 200
        told = await alice.until(state="denied", connected=False)
        # At once over the link, and again at each later try.
        assert told["reason"] in ("we do not know you", "this Network has denied the request of 'alice' to join")
        assert (await net.list("denied")).keys() == {"alice"}
        assert_problem(await net.decide("alice", "deny"), 409, "wrong_state")
        assert (await net.decide("alice", "accept")).status_code == 200
        await alice.until(state="accepted", connected=True)


async def test_revoked_it_is_cut_off_and_stays_out_whatever_it_brings(net: Net, tmp_path: Path) -> None:
    token = await net.invite(max_uses=5)
    async with running_domain(tmp_path / "a", network=net.url, invitation=token) as alice:
        await until_listed(net, "alice", state="online")
        assert (await net.decide("alice", "revoke")).status_code == 200
        assert await net.list() == {}
        assert service(net.app.state, ConnectedDomains).links.find("alice") is None
        await alice.until(state="revoked", connected=False)
        again = {"network": net.url, "invitation": token}
        assert (await alice.web.post("/associations", json=again, headers=alice.owner)).status_code == 202
        await alice.until(state="revoked", connected=False)
        assert await net.list() == {}
    # The same key under another name is no way in either.
    async with running_domain(tmp_path / "a", "alicia", sign_up=False, network=net.url, invitation=token) as alice:
        await alice.until(state="revoked")
        assert (await net.list("all")).keys() == {"alice"}


async def test_the_owner_leaves_and_joins_anew(net: Net, tmp_path: Path) -> None:
    token = await net.invite(max_uses=2)
    async with running_domain(tmp_path / "a", network=net.url, invitation=token) as alice:
        await until_listed(net, "alice", state="online")
        number = (await alice.associations())[0]["id"]
        left = await alice.web.delete(f"/associations/{number}", headers=alice.owner)
        assert (left.status_code, left.json()["state"]) == (200, "left")
        assert await net.list() == {}
        assert (await net.list("left")).keys() == {"alice"}
        answer = await alice.web.post("/associations", json={"network": net.url}, headers=alice.owner)
        assert (answer.status_code, answer.json()["id"]) == (202, number)
        await alice.until(state="pending", connected=True)
        # Handing in an invitation later is heard at once.
        again = {"network": net.url + "/", "invitation": token}
        await alice.web.post("/associations", json=again, headers=alice.owner)
        await alice.until(state="accepted", connected=True)
        await alice.web.delete(f"/associations/{number}", headers=alice.owner)
        gone = await alice.web.delete(f"/associations/{number}", headers=alice.owner)
        assert gone.status_code == 200
        assert await alice.associations() == []
        assert_problem(
            await alice.web.get(f"/associations/{number}", headers=alice.owner), 404, "association_not_found"
        )
        acts = [entry["action"] for entry in await audit_entries(alice) if entry["action"].startswith("network_")]
        assert acts == ["network_left", "network_joined", "network_joined", "network_left", "network_left"]


async def audit_entries(dom: Dom) -> list[dict[str, Any]]:
    import msgspec
    import sqlalchemy as sa

    from pygrid.storage.audit import audit_entries as table

    def load(connection: sa.Connection) -> list[dict[str, Any]]:
        return [
            msgspec.json.decode(text)
            for text in connection.execute(sa.select(table.c.entry).order_by(table.c.number)).scalars()
        ]

    found: list[dict[str, Any]] = await service(dom.app.state, Database).read(load)
    return found


async def test_left_while_the_network_was_away_it_is_told_when_it_is_back(tmp_path: Path) -> None:
    async with AsyncExitStack() as domains:
        async with running_network(tmp_path / "net") as net:
            token, port = await net.invite(), net.port
            alice = await domains.enter_async_context(running_domain(tmp_path / "a", network=net.url, invitation=token))
            await until_listed(net, "alice", state="online")
        await alice.until(connected=False)
        number = (await alice.associations())[0]["id"]
        left = await alice.web.delete(f"/associations/{number}", headers=alice.owner)
        assert left.json()["state"] == "leaving"
        async with running_network(tmp_path / "net", port, sign_up=False) as net:
            await alice.until(state="left", connected=False)
            assert (await net.list("left")).keys() == {"alice"}
            # A start with the same --network does not undo what the owner decided.
            await domains.aclose()
            async with running_domain(tmp_path / "a", sign_up=False, network=net.url) as alice:
                assert (await alice.associations())[0]["state"] == "left"
                assert await net.list() == {}


async def test_an_accepted_domain_answers_its_network_a_waiting_one_does_not(net: Net, tmp_path: Path) -> None:
    from pygrid.errors import PygridError

    async with running_domain(tmp_path / "a", network=net.url) as alice:
        await until_listed(net, "alice", "pending", connected=True)
        associations = service(net.app.state, NetworkAssociations)
        waiting = associations.waiting.get(str((await associations.get_domain(OWNER, "alice")).id))
        with pytest.raises(PygridError) as refused:
            await waiting.ask("search", {"query": {}})
        assert refused.value.code == "not_a_member"
        await net.decide("alice", "accept")
        await alice.until(state="accepted")
        member = service(net.app.state, ConnectedDomains).get("Alice")
        assert (await member.request("summary", {}))["tags"] == []


async def test_two_domains_of_one_name_race_and_one_gets_it(net: Net, tmp_path: Path) -> None:
    token = await net.invite(max_uses=10)
    async with AsyncExitStack() as stack:
        domains = [
            await stack.enter_async_context(
                running_domain(tmp_path / name, spelling, network=net.url, invitation=token)
            )
            for name, spelling in (("a", "alice"), ("b", "Alice"), ("c", "ALICE"))
        ]

        async def outcome(dom: Dom) -> str:
            async def decided() -> Any:
                found = (await dom.associations())[0]
                return found["state"] if found["state"] in ("accepted", "refused") else None

            state: str = await eventually(decided)
            return state

        states = [await outcome(dom) for dom in domains]
        assert sorted(states) == ["accepted", "refused", "refused"]
        loser = domains[states.index("refused")]
        assert "belongs to another Domain" in (await loser.associations())[0]["reason"]
        assert len(await net.list("all")) == 1
        invitations = (await net.web.get("/invitations", headers=net.owner)).json()["invitations"]
        # Only who came in has used the invitation.
        assert [invitation["num_uses"] for invitation in invitations] == [1]


async def test_a_decision_in_the_moment_of_arrival_is_not_lost(net: Net, tmp_path: Path) -> None:
    """Whether the accept comes before or after the link is there, the Domain ends as a member with a link."""
    async with AsyncExitStack() as stack:
        for number in range(6):
            name = f"d{number}"
            dom = await stack.enter_async_context(running_domain(tmp_path / name, name, network=net.url))

            async def row(name: str = name) -> bool:
                answer = await net.web.get(f"/domains/{name}", headers=net.owner)
                return answer.status_code == 200

            await eventually(row)
            await turns(10 * number)  # another moment each time
            assert (await net.decide(name, "accept")).status_code == 200
            await dom.until(state="accepted", connected=True)
            await until_listed(net, name, state="online", connected=True)


async def test_forgetting_frees_the_name(net: Net, tmp_path: Path) -> None:
    token = await net.invite(max_uses=10)
    async with running_domain(tmp_path / "a", network=net.url, invitation=token):
        await until_listed(net, "alice", state="online")
    await until_listed(net, "alice", state="offline")
    assert (await net.web.delete("/domains/ALICE", headers=net.owner)).json() == {"name": "alice"}
    assert_problem(await net.web.delete("/domains/alice", headers=net.owner), 404, "domain_not_found")
    async with running_domain(tmp_path / "b", network=net.url, invitation=token):
        await until_listed(net, "alice", state="online")


async def test_another_network_at_the_known_address_is_refused(tmp_path: Path) -> None:
    async with AsyncExitStack() as domains:
        async with running_network(tmp_path / "net") as net:
            token, port = await net.invite(), net.port
            alice = await domains.enter_async_context(running_domain(tmp_path / "a", network=net.url, invitation=token))
            await until_listed(net, "alice", state="online")
        async with running_network(tmp_path / "other", port) as other:
            told = await alice.until(state="refused")
            assert "another Network answers" in told["reason"]
            assert await other.list("all") == {}
            # The owner may decide that this is right.
            await alice.web.post("/associations", json={"network": other.url}, headers=alice.owner)
            await alice.until(state="pending", connected=True)


async def test_a_direct_address_is_named_once_the_domain_answers_there(net: Net, tmp_path: Path) -> None:
    token = await net.invite(max_uses=10)
    settings = load_settings({}, data_dir=tmp_path / "real", id="alice")
    app = build_domain(settings)
    async with served(app) as port:
        address = f"http://127.0.0.1:{port}"
        # Bob names the address of alice; at alice's address another key answers.
        async with (
            running_domain(tmp_path / "b", "bob", network=net.url, invitation=token, address=address) as _,
            running_domain(
                tmp_path / "c", "carol", network=net.url, invitation=token, address="http://127.0.0.1:1"
            ) as _,
        ):
            for name in ("bob", "carol"):

                async def checked(name: str = name) -> Any:
                    found = await net.list()
                    return found[name]["reason"] if name in found else None

                await eventually(checked)
            found = await net.list()
            assert (found["bob"]["address"], found["bob"]["claimed_address"]) == (None, address)
            assert "another Domain answers" in found["bob"]["reason"]
            assert found["carol"]["address"] is None
            public = (await net.web.get("/domains")).json()["domains"]
            assert [entry["address"] for entry in public] == [None, None]


async def test_a_checked_address_is_public(net: Net, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    token = await net.invite()
    app = build_domain(
        load_settings({}, data_dir=tmp_path / "a", id="alice", network=net.url, invitation=token, address=address)
    )
    async with served(app, port):
        found = await until_listed(net, "alice", address=address)
        assert found["address"] == found["claimed_address"]
        assert (await net.web.get("/domains/alice")).json()["domain"]["address"] == address


async def test_a_checked_address_is_looked_at_again_and_named_no_more_once_nobody_answers(tmp_path: Path) -> None:
    clock = ManualClock()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    async with running_network(tmp_path / "net", clock=clock) as net:
        token = await net.invite()
        given: dict[str, Any] = {"network": net.url, "invitation": token, "address": address}
        app = build_domain(load_settings({}, data_dir=tmp_path / "a", id="alice", **given))
        async with served(app, port):
            await until_listed(net, "alice", address=address)

        look_again = service(net.app.state, DirectAddresses).wake
        look_again()
        # Checked lately, so it is believed though the Domain is away.
        assert (await net.list())["alice"]["address"] == address
        clock.advance(6 * 3600)
        look_again()
        found = await until_listed(net, "alice", address=None)
        assert found["claimed_address"] == address
        assert found["reason"]
        # Back again, it is looked at before long.
        async with served(build_domain(load_settings({}, data_dir=tmp_path / "a", id="alice", **given)), port):
            await until_listed(net, "alice", connected=True)
            clock.advance(600)
            look_again()
            await until_listed(net, "alice", address=address)


async def test_a_private_address_is_not_called_unless_that_is_allowed(tmp_path: Path) -> None:
    async with running_network(tmp_path / "net", allow_private_addresses=False) as net:
        token, calls = await net.invite(), 0

        async def count(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal calls
            calls += 1
            writer.close()

        async with await asyncio.start_server(count, "127.0.0.1", 0) as inner:
            address = f"http://127.0.0.1:{inner.sockets[0].getsockname()[1]}"
            async with running_domain(tmp_path / "a", network=net.url, invitation=token, address=address):

                async def checked() -> Any:
                    return (await net.list()).get("alice", {}).get("reason")

                assert "on this machine" in await eventually(checked)
                assert (await net.list())["alice"]["address"] is None
        assert calls == 0


async def test_a_change_is_told_before_its_author_is_answered(tmp_path: Path) -> None:
    """The heartbeat is an hour away; the Network knows the new version as soon as the owner has the answer."""
    async with running_network(tmp_path / "net", heartbeat_s=600) as net:
        token = await net.invite()
        async with running_domain(tmp_path / "a", network=net.url, invitation=token) as alice:
            await until_listed(net, "alice", state="online")
            member = service(net.app.state, ConnectedDomains).get("alice")

            async def told() -> bool:
                return bool(member.catalog)

            await eventually(told)
            before = member.catalog
            form = {
                "config": (None, '{"name": "d", "visibility": "public", "format": "csv"}'),
                "data": ("d.csv", b"a\n1\n2\n", "text/csv"),
            }
            answer = await alice.web.post("/data-centric/datasets", files=form, headers=alice.owner)
            assert answer.status_code in (200, 201), answer.text
            assert member.catalog != before


async def test_those_who_run_the_domain_alone_join_and_leave(net: Net, tmp_path: Path) -> None:
    async with running_domain(tmp_path / "a") as alice:
        user = await People(alice.web).with_role(3, alice.owner)
        body = {"network": net.url}
        for headers, status, code in (({}, 401, "unauthenticated"), (user, 403, "not_permitted")):
            assert_problem(await alice.web.get("/associations", headers=headers), status, code)
            assert_problem(await alice.web.post("/associations", json=body, headers=headers), status, code)
            assert_problem(await alice.web.delete("/associations/1", headers=headers), status, code)
        assert await alice.associations() == []


@pytest.mark.parametrize(
    "address", ["net:7000", "ftp://net", "http://", "http://user:pw@net:7000", "http://net/?q=1", "http://net/#f", ""]
)
async def test_what_is_no_address_of_a_network_is_refused(tmp_path: Path, address: str) -> None:
    async with running_domain(tmp_path / "a") as alice:
        answer = await alice.web.post("/associations", json={"network": address}, headers=alice.owner)
        assert answer.status_code == 400, answer.text
        assert await alice.associations() == []


@pytest.fixture
def nothing_far(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that were dialled; none of them is there."""
    dialled: list[str] = []

    def dial(url: str, path: str, **bounds: float) -> Any:
        dialled.append(url)
        raise OSError("not in a test")

    monkeypatch.setattr(connector, "dial_websocket", dial)
    return dialled


async def test_a_domain_that_is_open_to_its_machine_joins_no_network_of_another(
    tmp_path: Path, nothing_far: list[str]
) -> None:
    far = {"network": "https://network.example"}
    async with running_domain(tmp_path / "open") as alice:
        assert_problem(await alice.web.post("/associations", json=far, headers=alice.owner), 409, "domain_is_open")
        assert await alice.associations() == []
        assert nothing_far == []
    async with running_domain(tmp_path / "closed", open_signup=False) as alice:
        answer = await alice.web.post("/associations", json=far, headers=alice.owner)
        assert (answer.status_code, answer.json()["state"]) == (202, "joining")


async def test_a_domain_that_was_opened_after_it_joined_is_not_led_to_strangers(
    tmp_path: Path, nothing_far: list[str]
) -> None:
    far = {"network": "https://network.example"}

    async def dialled() -> Any:
        return nothing_far

    async with running_domain(tmp_path, open_signup=False) as alice:
        assert (await alice.web.post("/associations", json=far, headers=alice.owner)).status_code == 202
        await eventually(dialled)
    nothing_far.clear()
    # Another start, without the flag, so that strangers of this machine may sign up.
    async with running_domain(tmp_path, sign_up=False) as alice:

        async def told() -> Any:
            return "--closed-signup" in (await alice.associations())[0]["reason"]

        await eventually(told)
        assert (await alice.web.get("/readyz")).status_code == 200
        assert nothing_far == []
    async with running_domain(tmp_path, sign_up=False, open_signup=False):
        await eventually(dialled)


async def test_an_unreachable_network_is_told_and_can_be_left(tmp_path: Path) -> None:
    async with running_domain(tmp_path / "a", network="http://127.0.0.1:1") as alice:

        async def told() -> Any:
            return (await alice.associations())[0]["reason"]

        await eventually(told)
        found = (await alice.associations())[0]
        assert (found["state"], found["connected"], found["identity"]) == ("joining", False, None)
        left = await alice.web.delete(f"/associations/{found['id']}", headers=alice.owner)
        assert left.json()["state"] == "left"
        assert (await alice.web.get("/readyz")).status_code == 200


async def test_a_standing_invitation_lets_a_fleet_in(tmp_path: Path) -> None:
    async with running_network(tmp_path / "net", invitation=SECRET) as net, AsyncExitStack() as stack:
        for name in ("alice", "bob"):
            await stack.enter_async_context(running_domain(tmp_path / name, name, network=net.url, invitation=SECRET))
        for name in ("alice", "bob"):
            await until_listed(net, name, state="online")


async def test_an_invitation_ends_by_use_by_time_and_by_name(net: Net, tmp_path: Path) -> None:
    once, named = await net.invite(), await net.invite(domain="zoe")
    async with running_domain(tmp_path / "a", "alice", network=net.url, invitation=once) as alice:
        await alice.until(state="accepted")
        for number, token in enumerate((once, named, "never given")):
            async with running_domain(
                tmp_path / f"b{number}", f"bob{number}", network=net.url, invitation=token
            ) as bob:
                assert "invitation" in (await bob.until(state="refused"))["reason"]
        async with running_domain(tmp_path / "z", "Zoe", network=net.url, invitation=named) as zoe:
            await zoe.until(state="accepted")
    invitations = (await net.web.get("/invitations", headers=net.owner)).json()["invitations"]
    assert [invitation["num_uses"] for invitation in invitations] == [1, 1]
    assert all("token" not in invitation for invitation in invitations)
    number = invitations[0]["id"]
    assert (await net.web.delete(f"/invitations/{number}", headers=net.owner)).json() == {"id": number}
    assert_problem(await net.web.delete(f"/invitations/{number}", headers=net.owner), 404, "invitation_not_found")
    # Who came by it stays.
    assert "alice" in await net.list()


async def test_managers_alone_decide(net: Net) -> None:
    user = await People(net.web).with_role(1, net.owner)
    manager = await People(net.web).with_role(3, net.owner, "manager@example.org")
    for headers, status, code in (
        ({}, 401, "unauthenticated"),
        (user, 403, "not_permitted"),
        (manager, 404, "domain_not_found"),
    ):
        for act in ("accept", "deny", "revoke"):
            assert_problem(await net.web.post(f"/domains/bob/{act}", json={}, headers=headers), status, code)
        assert_problem(await net.web.delete("/domains/bob", headers=headers), status, code)
    for headers, status in (({}, 401), (user, 403)):
        assert (await net.web.post("/invitations", json={}, headers=headers)).status_code == status
        assert (await net.web.get("/invitations", headers=headers)).status_code == status
        assert (await net.web.delete("/invitations/1", headers=headers)).status_code == status


async def test_both_work_on_postgresql(postgres_server: str, tmp_path: Path) -> None:
    import os

    import psycopg

    urls = []
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        for kind in ("network", "domain"):
            name = f"association_{kind}_{os.getpid()}"
            connection.execute(f"CREATE DATABASE {name}".encode())
            urls.append(postgres_server.replace("/postgres?", f"/{name}?"))
    async with running_network(tmp_path / "net", database_url=urls[0]) as net:
        given = {"network": net.url, "database_url": urls[1], "publish": "all"}
        async with running_domain(tmp_path / "a", **given) as alice:
            await until_listed(net, "alice", "pending", connected=True)
            assert (await net.decide("alice", "accept")).status_code == 200
            await alice.until(state="accepted")
            counts = dict.fromkeys(("datasets", "models", "processes", "cycles", "jobs"), 0) | {"users": 1}
            await until_listed(net, "alice", state="online", counts=counts)
            assert (await net.decide("alice", "revoke")).status_code == 200
            await alice.until(state="revoked", connected=False)


class Gate:
    """Carries connections to a Network; what the Network says waits until it is opened for so many bytes."""

    def __init__(self, port: int, num_bytes: int) -> None:
        self.is_open = asyncio.Event()
        self.has_ended = asyncio.Event()
        self._port = port
        self._num_bytes = num_bytes

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        network_reader, network_writer = await asyncio.open_connection("127.0.0.1", self._port)

        async def answer() -> None:
            num_bytes = 0
            while data := await network_reader.read(65536):
                num_bytes += len(data)
                if num_bytes > self._num_bytes:
                    await self.is_open.wait()
                writer.write(data)

        answering = asyncio.create_task(answer())
        while data := await reader.read(65536):
            network_writer.write(data)
        answering.cancel()
        for each in (network_writer, writer):
            each.close()
        self.has_ended.set()


@pytest.mark.parametrize(("num_bytes", "known"), [(0, None), (450, "pending")])
async def test_an_owner_who_leaves_while_the_network_answers_has_left(
    net: Net, tmp_path: Path, num_bytes: int, known: str | None
) -> None:
    gate = Gate(net.port, num_bytes)
    async with await asyncio.start_server(gate.carry, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with running_domain(tmp_path / "a", network=url) as alice:
            number = (await alice.until(state="joining"))["id"]
            if known is not None:
                await until_listed(net, "alice", known)
            left = await alice.web.delete(f"/associations/{number}", headers=alice.owner)
            assert left.json()["state"] == "left"
            gate.is_open.set()
            await asyncio.wait_for(gate.has_ended.wait(), 60)
            await alice.until(state="left", connected=False)
            # It only asked, so nothing is left to know of it.
            assert await net.list("all") == {}


async def test_an_address_that_can_not_be_looked_up_does_not_touch_the_others(net: Net, tmp_path: Path) -> None:
    token = await net.invite()
    async with running_domain(tmp_path / "a", network=net.url, invitation=token, open_signup=False) as alice:
        await until_listed(net, "alice", state="online")
        answer = await alice.web.post("/associations", json={"network": "http://a..b"}, headers=alice.owner)
        assert answer.status_code == 202, answer.text

        async def is_told() -> bool:
            return "idna" in (await alice.associations())[1]["reason"]

        await eventually(is_told)
        assert (await alice.associations())[0]["connected"]
        assert (await alice.web.get("/readyz")).status_code == 200


async def test_a_domain_that_stops_leaves_no_task_behind(tmp_path: Path) -> None:
    """Also where it is cancelled without being told before; a forgotten task is collected later, with a complaint."""
    before = asyncio.all_tasks()
    async with running_domain(tmp_path):
        pass
    await turns(3)
    assert {task.get_coro() for task in asyncio.all_tasks() - before} == set()
