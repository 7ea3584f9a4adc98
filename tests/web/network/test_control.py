"""Domains that lie to a Network, and a Network that lies to a Domain, over real WebSockets.

Should happen: an honest hello is let in; a refusal says why; a heartbeat is answered with how the Domain stands.
Should not happen: a forged, replayed or foreign signature, another's key under a known name, or any malformed hello
that gets in, leaves a row behind, or harms the Network; a Domain that believes a Network which can't prove its key.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from litestar import Litestar, WebSocket, websocket
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from pygrid.clock import ManualClock
from pygrid.core.access import NETWORK_ROLES, Principal
from pygrid.domain import build_domain
from pygrid.features.associations.domain import connector
from pygrid.features.associations.network import handshake
from pygrid.features.associations.network.registry import ConnectedDomains
from pygrid.features.associations.network.service import NetworkAssociations
from pygrid.messages.identity import to_base64url
from pygrid.settings import load_settings
from pygrid.transport.identity import Identity
from pygrid.web.services import service
from support.eventually import eventually
from support.network import Impostor, Net, running_network, served
from support.web import People, running

OWNER = Principal(1, NETWORK_ROLES[-1])


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def net(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Net]:
    async with running_network(tmp_path / "net", clock=clock) as found:
        yield found


async def exchange(connection: Any, **frame: Any) -> dict[str, Any]:
    await connection.send(msgspec.json.encode(frame).decode())
    while True:
        answer: dict[str, Any] = msgspec.json.decode(await connection.recv())
        if answer.get("id") == frame["id"]:
            return answer


async def test_an_honest_hello_waits_for_a_decision(net: Net) -> None:
    impostor = Impostor()
    async with impostor.greeting(net) as (connection, answer):
        assert answer["type"] == "welcome"
        assert (answer["state"], answer["heartbeat_s"]) == ("pending", 1)
        assert await exchange(connection, type="heartbeat", id=1) == {"type": "answer", "id": 1, "state": "pending"}
        await net.decide("alice", "accept")
        assert (await exchange(connection, type="heartbeat", id=2))["state"] == "accepted"


async def test_the_welcome_is_signed_by_the_network(net: Net) -> None:
    from pygrid.messages.identity import from_base64url

    impostor = Impostor()
    answer = await impostor.greet(net)
    key = service(net.app.state, Identity).key
    signature = from_base64url(answer["signature"], 64, "signature")
    assert key.verify(signature, "welcome", impostor.nonce, impostor.identity.key.raw, b"net")


FORGED: dict[str, dict[str, Any]] = {
    "another challenge": {"signed": {"nonce": secrets.token_bytes(32)}},
    "for another Network": {"signed": {"network": Identity.make().key.raw}},
    "for another name": {"signed": {"name": b"bob"}},
    "an entry changed after signing": {"entry": {"name": "alice", "version": "0", "address": "http://evil.example"}},
    "an entry of another name": {"signed": {"entry": {"name": "bob", "version": "0"}}},
    "another's identity": {"identity": str(Identity.make().key)},
    "another's entry signature": {"entry_signature": to_base64url(secrets.token_bytes(64))},
    "random": {"signature": to_base64url(secrets.token_bytes(64))},
}


@pytest.mark.parametrize("what", FORGED)
async def test_a_forged_signature_is_refused(net: Net, what: str) -> None:
    answer = await Impostor().greet(net, **FORGED[what])
    assert (answer["type"], answer["code"]) == ("refused", "bad_signature")
    assert await net.list("all") == {}


async def test_an_old_hello_is_no_hello(net: Net) -> None:
    impostor = Impostor()
    async with connect(net.control_url(), proxy=None) as connection:
        hello = msgspec.json.encode(impostor.hello(msgspec.json.decode(await connection.recv()))).decode()
        await connection.send(hello)
        assert msgspec.json.decode(await connection.recv())["type"] == "welcome"
    async with connect(net.control_url(), proxy=None) as connection:
        await connection.recv()
        await connection.send(hello)
        assert msgspec.json.decode(await connection.recv())["code"] == "bad_signature"


async def test_a_hello_relayed_from_another_network_is_refused(net: Net, tmp_path: Path) -> None:
    """A Network that passes another's challenge on gets a signature that is good for itself alone."""
    async with running_network(tmp_path / "other") as other, connect(other.control_url(), proxy=None) as there:
        challenge = msgspec.json.decode(await there.recv())
        # What a Domain signs when the Network in between gives its own key, as it must: the Domain knows that.
        hello = Impostor().hello({**challenge, "identity": str(service(net.app.state, Identity).key)})
        await there.send(msgspec.json.encode(hello).decode())
        assert msgspec.json.decode(await there.recv())["code"] == "bad_signature"


def nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


MALFORMED: dict[str, dict[str, Any]] = {
    "no name": {"name": ""},
    "a path as name": {"name": "../../etc"},
    "a long name": {"name": "a" * 101},
    "a name with a zero byte": {"name": "a\0b"},
    "a name in other letters": {"name": "аlice"},
    "no identity": {"identity": "ed25519:"},
    "an identity that anybody signs for": {"identity": "ed25519:" + "a" * 52},
    "a short nonce": {"nonce": "AAAA"},
    "no base64": {"signature": "*" * 86},
    "a number as signature": {"signature": 7},
    "an entry that is none": {"entry": [1]},
    "an entry without a version": {"signed": {"entry": {"name": "alice"}}},
    "a long address": {"signed": {"entry": {"name": "alice", "version": "0", "address": "http://" + "a" * 300}}},
    "a large entry": {"signed": {"entry": {"name": "alice", "version": "0", "x": "y" * 17_000}}},
    "a deep entry": {"signed": {"entry": {"name": "alice", "version": "0", "x": nested(400)}}},
    "a long invitation": {"invitation": "x" * 201},
    "another type": {"type": "goodbye"},
}


@pytest.mark.parametrize("what", MALFORMED)
async def test_a_malformed_hello_is_refused_in_words(net: Net, what: str) -> None:
    answer = await Impostor().greet(net, **MALFORMED[what])
    assert answer["type"] == "refused"
    assert answer["code"] in (
        "invalid_hello",
        "invalid_name",
        "invalid_identity",
        "invalid_base64url",
        "bad_signature",
        "invalid_frame",
    )
    assert answer["detail"]
    assert await net.list("all") == {}


@pytest.mark.parametrize("text", ["", "{", "null", "[" * 2000, '{"type": "hello"}', "x" * 1_100_000])
async def test_what_is_no_hello_harms_nothing(net: Net, text: str) -> None:
    async with connect(net.control_url(), proxy=None) as connection:
        await connection.recv()
        await connection.send(text)
        assert msgspec.json.decode(await connection.recv())["type"] == "refused"
        with pytest.raises(ConnectionClosed):
            await connection.recv()
    async with connect(net.control_url(), proxy=None) as connection:
        await connection.recv()
        await connection.send(b"\x00binary")
        assert msgspec.json.decode(await connection.recv())["type"] == "refused"
    assert await net.list("all") == {}
    assert (await net.web.get("/readyz")).status_code == 200


async def test_a_page_in_a_browser_is_no_domain(net: Net) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with connect(net.control_url(), proxy=None, origin="https://page.example"):  # type: ignore[arg-type]
            pass
    assert refused.value.response.status_code == 403
    assert await net.list("all") == {}


async def test_an_entry_may_say_more_than_this_version_knows(net: Net) -> None:
    entry = {"name": "alice", "version": "9", "colour": "blue", "numbers": [1, 2.5, None]}
    token = await net.invite()
    assert (await Impostor().greet(net, signed={"entry": entry}, invitation=token))["state"] == "accepted"
    assert (await net.web.get("/domains/alice")).json()["entry"] == entry


async def test_an_unchecked_address_is_shown_to_managers_alone(net: Net) -> None:
    entry = {"name": "alice", "version": "0", "address": "http://127.0.0.1:1"}
    token = await net.invite()
    assert (await Impostor().greet(net, signed={"entry": entry}, invitation=token))["state"] == "accepted"
    shown = await net.web.get("/domains/alice")
    assert (shown.json()["entry"], shown.json()["entry_signature"]) == ({}, None)
    assert "127.0.0.1:1" not in shown.text
    assert (await net.web.get("/domains/alice", headers=net.owner)).json()["entry"] == entry


async def test_who_says_nothing_is_let_go(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshake, "HELLO_S", 0.05)
    async with connect(net.control_url(), proxy=None) as connection:
        await connection.recv()
        with pytest.raises(ConnectionClosed):
            await connection.recv()


async def test_too_many_at_the_door_are_told_to_come_back(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshake, "MAX_HANDSHAKES", 1)
    async with connect(net.control_url(), proxy=None) as first:
        challenge = msgspec.json.decode(await first.recv())
        async with connect(net.control_url(), proxy=None) as second:
            assert msgspec.json.decode(await second.recv())["code"] == "busy"
        await first.send(msgspec.json.encode(Impostor().hello(challenge)).decode())
        assert msgspec.json.decode(await first.recv())["type"] == "welcome"


async def test_strangers_can_not_fill_the_store(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshake, "MAX_PENDING", 2)
    answers = [await Impostor(f"d{number}").greet(net) for number in range(3)]
    assert [answer["type"] for answer in answers] == ["welcome", "welcome", "refused"]
    assert answers[2]["code"] == "busy"
    # Who has an invitation need not wait, so it is none of them.
    token = await net.invite()
    assert (await Impostor("invited").greet(net, invitation=token))["state"] == "accepted"
    assert len(await net.list("pending")) == 2


async def test_a_name_belongs_to_its_key(net: Net) -> None:
    impostor = Impostor()
    token = await net.invite()
    await impostor.greet(net)
    await net.decide("alice", "accept")
    for name in ("alice", "ALICE"):
        taken = await Impostor(name).greet(net, invitation=token)
        assert (taken["type"], taken["code"]) == ("refused", "name_taken")
    # The same key comes back as often as it likes.
    assert (await impostor.greet(net))["state"] == "accepted"
    await net.decide("alice", "revoke")
    assert (await Impostor().greet(net, invitation=token))["code"] == "name_taken"


async def test_the_newer_of_two_links_of_one_key_stays(net: Net) -> None:
    impostor = Impostor()
    token = await net.invite()
    async with impostor.greeting(net, invitation=token) as (older, _), impostor.greeting(net) as (newer, answer):
        assert answer["state"] == "accepted"
        await older.wait_closed()
        assert older.close_code == 4000
        assert (await exchange(newer, type="heartbeat", id=1))["state"] == "accepted"
        assert (await net.list())["alice"]["connected"]


async def test_health_follows_the_heartbeats(net: Net, clock: ManualClock) -> None:
    impostor = Impostor()
    token = await net.invite()
    async with impostor.greeting(net, invitation=token) as (connection, _):

        async def state() -> str:
            text: str = (await net.list())["alice"]["state"]
            return text

        counts = {"datasets": 3, "secrets": 4}
        await exchange(connection, type="heartbeat", id=1, counts=counts, load=0.5, catalog="7")
        found = (await net.list())["alice"]
        assert (found["state"], found["counts"], found["load"]) == ("online", {"datasets": 3}, 0.5)
        assert service(net.app.state, ConnectedDomains).get("alice").catalog == "7"
        clock.advance(2.5)
        assert await state() == "online"
        clock.advance(0.1)
        assert await state() == "degraded"
        clock.advance(3.4)
        assert await state() == "degraded"
        clock.advance(0.1)
        assert await state() == "offline"
        await exchange(connection, type="heartbeat", id=2)
        assert await state() == "online"
        await exchange(connection, type="heartbeat", id=3, degraded=True)
        assert await state() == "degraded"
    seen_at = clock.now()
    await service(net.app.state, NetworkAssociations).note_seen()
    known = await service(net.app.state, NetworkAssociations).get_domain(OWNER, "alice")
    assert known.last_seen_at == seen_at


@pytest.mark.parametrize(
    "heartbeat",
    [
        {"load": -1},
        {"load": "high"},
        {"counts": [1]},
        {"counts": {"a": -1}},
        {"counts": {"x" * 30: 1}},
        {"catalog": 7},
        {"degraded": 1},
    ],
)
async def test_a_malformed_heartbeat_is_refused_and_changes_nothing(net: Net, heartbeat: dict[str, Any]) -> None:
    token = await net.invite()
    async with Impostor().greeting(net, invitation=token) as (connection, _):
        await exchange(connection, type="heartbeat", id=1, counts={"jobs": 2})
        answer = await exchange(connection, type="heartbeat", id=2, **heartbeat)
        assert (answer["type"], answer["problem"]["code"]) == ("problem", "invalid_heartbeat")
        assert (await net.list())["alice"]["counts"] == {"jobs": 2}


async def test_after_leaving_it_is_not_heard_any_more(net: Net) -> None:
    token = await net.invite()
    async with Impostor().greeting(net, invitation=token) as (connection, _):
        assert (await exchange(connection, type="leave", id=1))["type"] == "answer"
        assert (await exchange(connection, type="heartbeat", id=2))["problem"]["code"] == "not_a_member"
        assert (await exchange(connection, type="leave", id=3))["problem"]["code"] == "wrong_state"
        assert await net.list() == {}


# A Network that lies


class LyingNetwork:
    """Greets as a Network does, but for what it is told to do otherwise."""

    def __init__(self, **lies: Any) -> None:
        self.lies = lies
        self.identity = Identity.make()
        self.hellos: list[dict[str, Any]] = []
        self.answers: list[dict[str, Any]] = []

        @websocket("/network/control")
        async def control(socket: WebSocket[Any, Any, Any]) -> None:
            await socket.accept()
            await self._greet(socket)

        self.app = Litestar([control], logging_config=None)
        self.app.state["stopping"] = asyncio.Event()

    async def _greet(self, socket: WebSocket[Any, Any, Any]) -> None:
        challenge = {
            "type": "challenge",
            "nonce": to_base64url(secrets.token_bytes(32)),
            "network": "net",
            "identity": str(self.identity.key),
            **self.lies.get("challenge", {}),
        }
        await socket.send_text(msgspec.json.encode(challenge).decode())
        try:
            hello = msgspec.json.decode(await socket.receive_text())
        except Exception:
            return
        self.hellos.append(hello)
        from pygrid.messages.identity import from_base64url
        from pygrid.transport.identity import IdentityKey

        nonce = from_base64url(hello["nonce"], 32, "nonce")
        signer = self.lies.get("signer", self.identity)
        signature = signer.sign("welcome", nonce, IdentityKey.parse(hello["identity"]).raw, b"net")
        welcome = {"type": "welcome", "state": "accepted", "heartbeat_s": 60, "signature": to_base64url(signature)}
        await socket.send_text(msgspec.json.encode({**welcome, **self.lies.get("welcome", {})}).decode())
        for frame in self.lies.get("after", []):
            await socket.send_text(frame)
        try:
            while True:
                self.answers.append(msgspec.json.decode(await socket.receive_text()))
        except Exception:
            return


async def told_reason(network: LyingNetwork, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The Domain's association once it says why it is not well."""
    monkeypatch.setattr(connector, "retry_s", lambda *_: 0.05)
    async with served(network.app) as port:
        app = build_domain(load_settings({}, data_dir=folder, id="alice", network=f"http://127.0.0.1:{port}"))
        async with running(app) as web:
            owner = await People(web).owner()

            async def reason() -> Any:
                found = (await web.get("/associations", headers=owner)).json()["associations"][0]
                return found if found["reason"] else None

            found: dict[str, Any] = await eventually(reason)
            assert (await web.get("/readyz")).status_code == 200
            return found


@pytest.mark.parametrize(
    ("lies", "word"),
    [
        ({"signer": Identity.make()}, "prove"),
        ({"welcome": {"signature": "AAAA"}}, "base64url"),
        ({"welcome": {"state": "owner"}}, "is not that of a Network"),
        ({"welcome": {"heartbeat_s": 0}}, "is not that of a Network"),
        ({"welcome": {"type": "refused", "code": "revoked", "detail": "go away", "signature": None}}, "go away"),
        ({"challenge": {"nonce": "AAAA"}}, "nonce"),
        ({"challenge": {"identity": "ed25519:" + "a" * 52}}, "identity"),
        ({"challenge": {"type": "welcome"}}, "is not that of a Network"),
    ],
)
async def test_a_network_that_proves_nothing_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lies: dict[str, Any], word: str
) -> None:
    found = await told_reason(LyingNetwork(**lies), tmp_path, monkeypatch)
    # Nobody is taken for the Network, and an unsigned "revoked" revokes nothing.
    assert (found["state"], found["identity"], found["connected"]) == ("joining", None, False)
    assert word in found["reason"]


async def test_a_network_that_speaks_nonsense_later_is_left_and_dialled_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connector, "retry_s", lambda *_: 0.05)
    frames = ['{"type": "state", "state": "owner"}', '{"type": "state"}', '{"type": "unheard of", "x": 1}', "{"]
    network = LyingNetwork(after=frames)
    async with served(network.app) as port:
        app = build_domain(load_settings({}, data_dir=tmp_path, id="alice", network=f"http://127.0.0.1:{port}"))
        async with running(app) as web:

            async def again() -> bool:
                return len(network.hellos) >= 2

            await eventually(again)
            owner = await People(web).owner()
            found = (await web.get("/associations", headers=owner)).json()["associations"][0]
            assert found["state"] == "accepted"
            assert (await web.get("/readyz")).status_code == 200


async def test_what_answers_no_websocket_is_told(tmp_path: Path, net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connector, "retry_s", lambda *_: 0.05)
    app = build_domain(load_settings({}, data_dir=tmp_path, id="alice", network=f"{net.url}/not/here"))
    async with running(app) as web:
        owner = await People(web).owner()

        async def reason() -> Any:
            return (await web.get("/associations", headers=owner)).json()["associations"][0]["reason"]

        assert await eventually(reason)
