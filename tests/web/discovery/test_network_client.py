"""The SDK at a Network with real Domains, over real sockets.

Should happen: what was found opens where it is; a model that two Domains serve answers when one of them dies.
Should not happen: one model answers for another of the same id; a model is served on fewer Domains than asked; a token
goes to an address that a Network has named.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from pygrid.client import NetworkClient, connect_network
from pygrid.errors import Forbidden, IdentityChanged, InvalidInput, NotFound, Unauthenticated, Unavailable
from pygrid.messages.associations import canonical
from pygrid.messages.identity import to_base64url
from pygrid.transport import Request, Response, open_transport
from pygrid.transport.identity import Identity
from support.eventually import eventually
from support.plans.models import WEIGHT, linear
from support.search import Site, log_in, running_network
from support.web import PASSWORD

T = TypeVar("T")
X = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("PYGRID_URL", "PYGRID_TOKEN", "PYGRID_NETWORK_URL", "PYGRID_NETWORK_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with running_network(tmp_path) as site:
        yield site


@pytest.fixture
async def network(site: Site) -> AsyncIterator[NetworkClient]:
    client = connect_network(site.url)
    yield client
    await asyncio.to_thread(client.close)


async def refused(kind: type[Exception], code: str, call: Any, *args: Any, **kwargs: Any) -> Exception:
    with pytest.raises(kind) as caught:
        await asyncio.to_thread(call, *args, **kwargs)
    assert getattr(caught.value, "code", None) == code, caught.value
    return caught.value


async def test_what_was_found_opens_where_it_is(site: Site, network: NetworkClient) -> None:
    one, two = await site.add("one"), await site.add("two")
    await one.holder.upload("people", tags=["census"])
    await one.holder.upload("other", tags=["census"])
    await two.holder.serve("people-model")
    await two.holder.host("people-process")

    def use() -> None:
        found = network.search("people")
        assert [item.name for item in found.datasets] == ["people"]
        dataset = found.datasets[0].open()
        assert [column.name for column in dataset.schema.columns] == ["name", "age"]
        log_in(network.domain("two"))
        np.testing.assert_allclose(found.models[0].open().predict({"x": X})["y"], X @ WEIGHT, rtol=1e-5)
        assert found.processes[0].open().info().name == "people-process"
        assert network.domain("two") is network.domain("two")
        assert len(network.search(tags=["Census"], column="age", dtype="text").datasets) == 0
        assert len(network.search(tags=["Census"], column="age").datasets) == 2
        assert [item.name for item in network.search(kinds="model").models] == ["people-model"]

    await asyncio.to_thread(use)


async def test_what_was_found_behind_the_relay_opens_through_it(
    site: Site, network: NetworkClient, tmp_path: Path
) -> None:
    one = await site.add("one", direct=False)
    await one.holder.upload("people")
    await one.holder.serve("digits")
    known = tmp_path / "config" / "pygrid" / "known_domains.json"

    def use() -> None:
        domain = network.domain("one")
        assert domain.url == f"grid+{site.url}/one"
        assert network.search("people").datasets[0].open().info().num_records == 3
        log_in(domain)
        np.testing.assert_allclose(network.model("digits").predict({"x": X})["y"], X @ WEIGHT, rtol=1e-5)
        kept = json.loads(known.read_text())["domains"]
        assert kept == {domain.url: network.domains()[0].identity}

    await asyncio.to_thread(use)


async def test_whom_one_knows_counts_for_more_than_what_the_network_says(
    site: Site, network: NetworkClient, tmp_path: Path
) -> None:
    one = await site.add("one", direct=False)
    await one.holder.upload("people")
    listed = (await asyncio.to_thread(network.domains))[0].identity
    other = Identity.make().key
    known = tmp_path / "config" / "pygrid" / "known_domains.json"
    known.parent.mkdir(parents=True)
    known.write_text(json.dumps({"domains": {f"grid+{site.url}/one": str(other)}}))
    (found,) = (await asyncio.to_thread(network.search)).datasets
    assert found.domain.identity == listed
    await refused(IdentityChanged, "identity_changed", found.open)
    # Whoever is named by the caller counts for most.
    dataset = await asyncio.to_thread(lambda: network.domain("one", listed).datasets["people"])
    assert dataset.name == "people"
    with connect_network(site.url) as fresh:
        await refused(IdentityChanged, "wrong_identity", lambda: fresh.domain("one", str(other)).datasets["people"])
    await refused(InvalidInput, "invalid_identity", network.domain, "one", "ed25519:short")


class LyingNetwork:
    """Carries calls to a Network, and changes what it says of a Domain."""

    def __init__(self, url: str, lie: Callable[[dict[str, Any]], object]) -> None:
        self._honest, self._lie = open_transport(url), lie
        self.url = self._honest.url

    def send(self, request: Request) -> Response:
        with self._honest.send(request) as answer:
            body = json.loads(answer.read(10**6))
        if request.path.startswith("/domains/"):
            self._lie(body)
        return Response(answer.status, {"content-type": "application/json"}, [json.dumps(body).encode()], lambda: None)

    def close(self) -> None:
        self._honest.close()


async def test_a_network_that_makes_up_an_address_is_noticed(site: Site, network: NetworkClient) -> None:
    await site.add("one")
    evil = "http://127.0.0.1:1"
    impostor = Identity.make()

    def move(body: dict[str, Any]) -> None:
        body["domain"]["address"] = evil

    def move_and_claim(body: dict[str, Any]) -> None:
        move(body)
        body["entry"]["address"] = evil

    def unsign(body: dict[str, Any]) -> None:
        body["entry_signature"] = None

    def pretend(body: dict[str, Any]) -> None:
        move_and_claim(body)
        body["domain"]["identity"] = str(impostor.key)
        body["entry_signature"] = to_base64url(impostor.sign("entry", canonical(body["entry"])))

    def forget_identity(body: dict[str, Any]) -> None:
        move(body)
        body["domain"]["identity"] = body["entry_signature"] = None

    await asyncio.to_thread(network.domain, "one")  # from now on its identity is known
    for lie, code in (
        (move, "address_not_signed"),
        (move_and_claim, "address_not_signed"),
        (unsign, "address_not_signed"),
        (forget_identity, "address_not_signed"),
        (pretend, "identity_changed"),
    ):
        liar = connect_network(transport=LyingNetwork(site.url, lie))
        await refused(IdentityChanged, code, liar.domain, "one")
    # Who never heard of the Domain before believes an impostor, unless they know whom to expect.
    real = (await asyncio.to_thread(network.show, "one")).identity
    liar = connect_network(transport=LyingNetwork(site.url, pretend))
    await refused(IdentityChanged, "wrong_identity", liar.domain, "one", real)


async def test_an_address_that_is_not_good_any_more_is_not_in_the_way(site: Site, network: NetworkClient) -> None:
    """What a search has found was there when it was found. Since then the Domain has moved, and moved again."""
    one = await site.add("one")
    await one.holder.upload("people")
    (found,) = (await asyncio.to_thread(network.search)).datasets
    assert found.domain.address == one.served.url
    await one.served.stop()

    # Nobody answers at its new address, so the Network names none, and does not show what names it.
    elsewhere = await site.start("one", address="http://127.0.0.1:1")
    await site.until("one", "online")
    assert (await site.web.get("/domains/one")).json()["entry"] == {}
    assert (await asyncio.to_thread(found.open)).name == "people"
    domain = await asyncio.to_thread(network.domain, "one")
    assert domain.url == f"grid+{site.url}/one"
    await elsewhere.stop()

    # It has none any more, and says so.
    elsewhere = await site.start("one", direct=False)
    await site.until("one", "online")
    with connect_network(site.url) as fresh:
        assert (await asyncio.to_thread(fresh.open_domain, found.domain)).url == domain.url
    await elsewhere.stop()

    # It is at another one, which it has signed.
    there = await site.add("one", owner=one.holder.headers)
    with connect_network(site.url) as fresh:
        assert (await asyncio.to_thread(fresh.open_domain, found.domain)).url == there.served.url


async def test_a_network_that_withholds_what_was_signed_gains_nothing(site: Site, network: NetworkClient) -> None:
    await site.add("one")

    def withhold(body: dict[str, Any]) -> None:
        body["domain"]["address"] = "http://127.0.0.1:1"
        body["entry"], body["entry_signature"] = {}, None

    real = (await asyncio.to_thread(network.show, "one")).identity
    liar = connect_network(transport=LyingNetwork(site.url, withhold))
    domain = await asyncio.to_thread(liar.domain, "one", real)
    # Through the relay, where the Domain proves who it is.
    assert domain.url == f"grid+{site.url}/one"
    assert (await asyncio.to_thread(log_in, domain)).token


async def test_the_table_of_domains(site: Site, network: NetworkClient) -> None:
    await site.add("one")
    behind = await site.add("two", direct=False)
    await behind.served.stop()
    await site.until("two", "offline")
    table = await asyncio.to_thread(network.domains)
    assert [(info.name, info.state) for info in table] == [("one", "online"), ("two", "offline")]
    lines = repr(table).splitlines()
    assert lines[0].split()[:3] == ["domain", "state", "reached"]
    assert "through the relay" in lines[2]
    assert "<td style='text-align:left'>two</td>" in table._repr_html_()
    await refused(NotFound, "domain_not_found", network.domain, "three")


async def test_a_model_answers_when_one_of_its_domains_dies(site: Site, network: NetworkClient) -> None:
    domains = {name: await site.add(name) for name in ("one", "two")}
    for domain in domains.values():
        await domain.holder.serve("digits")

    def begin() -> Any:
        for name in domains:
            log_in(network.domain(name))
        model = network.model("digits")
        assert sorted(model.domains) == ["one", "two"]
        np.testing.assert_allclose(model.predict({"x": X})["y"], X @ WEIGHT, rtol=1e-5)
        return model

    model = await asyncio.to_thread(begin)
    first, second = model.domains
    await domains[first].served.stop()
    outputs = await asyncio.to_thread(model.predict, {"x": X})
    np.testing.assert_allclose(outputs["y"], X @ WEIGHT, rtol=1e-5)
    assert model.domains == [second, first]
    await domains[second].served.stop()
    error = await refused(Unavailable, "no_domain_answers", model.predict, {"x": X})
    assert first in str(error)
    assert second in str(error)
    await site.until(first, "offline")
    await site.until(second, "offline")
    await refused(NotFound, "model_not_found", network.model, "digits")


async def test_a_model_finds_domains_that_came_later(site: Site, network: NetworkClient) -> None:
    one = await site.add("one")
    await one.holder.serve("digits")
    await asyncio.to_thread(lambda: log_in(network.domain("one")))
    model = await asyncio.to_thread(network.model, "digits")
    two = await site.add("two")
    await two.holder.serve("digits")
    await asyncio.to_thread(lambda: log_in(network.domain("two")))
    await one.served.stop()
    outputs = await asyncio.to_thread(model.predict, {"x": X})
    np.testing.assert_allclose(outputs["y"], X @ WEIGHT, rtol=1e-5)
    assert model.domains[0] == "two"


async def test_one_model_never_answers_for_another(site: Site, network: NetworkClient) -> None:
    one, two = await site.add("one"), await site.add("two")
    await one.holder.serve("digits")
    await two.holder.serve("digits", linear(weight=WEIGHT + 1))
    error = await refused(InvalidInput, "model_ambiguous", network.model, "digits")
    assert "one, two" in str(error)

    def of_one() -> Any:
        for name in ("one", "two"):
            log_in(network.domain(name))
        model = network.model("digits", domain="one")
        assert model.domains == ["one"]
        np.testing.assert_allclose(model.predict({"x": X})["y"], X @ WEIGHT, rtol=1e-5)
        return model

    model = await asyncio.to_thread(of_one)
    await one.holder.delete("models/digits")
    await one.holder.serve("digits", linear(weight=WEIGHT + 2))
    error = await refused(Unavailable, "no_domain_answers", model.predict, {"x": X})
    assert "another model is now served" in str(error)
    again = await asyncio.to_thread(network.model, "digits", domain="one")
    assert again.info.sha256 != model.info.sha256


async def test_who_may_not_ask_is_told_so(site: Site, network: NetworkClient) -> None:
    one = await site.add("one")
    await one.holder.serve("digits", allow_remote_inference=False)

    def sign_up() -> Any:
        network.domain("one").sign_up("ann@example.org", PASSWORD)
        return network.model("digits")

    model = await asyncio.to_thread(sign_up)
    await refused(Forbidden, "inference_not_allowed", model.predict, {"x": X})


async def test_who_is_not_logged_in_is_told_so(site: Site, network: NetworkClient) -> None:
    one = await site.add("one")
    await one.holder.serve("digits")
    model = await asyncio.to_thread(network.model, "digits")
    error = await refused(Unauthenticated, "unauthenticated", model.predict, {"x": X})
    assert "network.domain(NAME).login" in str(error)


async def test_a_model_is_served_on_as_many_as_asked_or_none(site: Site, network: NetworkClient) -> None:
    domains = {name: await site.add(name) for name in ("one", "two", "three")}
    error = await refused(Unavailable, "too_few_domains", network.serve, "digits", linear(), replicas=2)
    assert "logged in at 0" in str(error)
    await asyncio.to_thread(lambda: [log_in(network.domain(name)) for name in domains])
    model = await asyncio.to_thread(network.serve, "digits", linear(), replicas=2, allow_remote_inference=True)
    assert len(model.domains) == 2
    np.testing.assert_allclose((await asyncio.to_thread(model.predict, {"x": X}))["y"], X @ WEIGHT, rtol=1e-5)
    assert sorted(domain for domain, _ in await site.found(model="digits")) == sorted(model.domains)
    # Two have a model of this id: on them it can't be served anew, so on none.
    await refused(Unavailable, "too_few_domains", network.serve, "digits", linear(weight=WEIGHT + 1), replicas=2)
    assert sorted(domain for domain, _ in await site.found(model="digits")) == sorted(model.domains)
    await refused(InvalidInput, "invalid_input", network.serve, "digits", linear(), replicas=0)


async def test_tokens_go_where_they_belong(site: Site, network: NetworkClient, monkeypatch: pytest.MonkeyPatch) -> None:
    one = await site.add("one")
    monkeypatch.setenv("PYGRID_TOKEN", "a-secret")
    assert (await asyncio.to_thread(network.domain, "one")).token is None
    other = connect_network(site.url)
    monkeypatch.setenv("PYGRID_URL", one.served.url + "/")
    assert (await asyncio.to_thread(other.domain, "one")).token == "a-secret"
    await asyncio.to_thread(other.close)


async def test_accounts_at_the_network(site: Site, network: NetworkClient) -> None:
    def use() -> None:
        network.sign_up("ann@example.org", PASSWORD)
        assert network.token
        assert repr(network) == f"NetworkClient({site.url!r}, logged in)"
        network.logout()
        assert network.token is None

    await asyncio.to_thread(use)


async def test_those_who_manage_the_network_decide(site: Site, network: NetworkClient) -> None:
    await site.start("asks", invitation="")

    async def pending() -> bool:
        return [info.name for info in await asyncio.to_thread(network.domains, "pending")] == ["asks"]

    await refused(Unauthenticated, "unauthenticated", network.accept, "asks")
    await refused(Forbidden, "not_permitted", network.domains, "pending")
    await asyncio.to_thread(log_in, network)
    await eventually(pending)
    assert await site.state("asks") is None
    assert (await asyncio.to_thread(network.accept, "asks", "welcome")).name == "asks"
    await site.until("asks", "online")
    await asyncio.to_thread(network.revoke, "asks")
    assert await site.state("asks") is None
    assert [info.association for info in await asyncio.to_thread(network.domains, "all")] == ["revoked"]
    await asyncio.to_thread(network.forget, "asks")
    assert len(await asyncio.to_thread(network.domains, "all")) == 0
    await refused(NotFound, "domain_not_found", network.deny, "asks")
    invitation = await asyncio.to_thread(network.invite, "invited")
    await site.start("invited", invitation=invitation.token)
    await site.until("invited", "online")
    assert [found.num_uses for found in await asyncio.to_thread(network.invitations)] == [1]
    await asyncio.to_thread(network.take_back, invitation.invitation.id)
    assert await asyncio.to_thread(network.invitations) == []
    await refused(NotFound, "invitation_not_found", network.take_back, 99)


def test_an_address_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput, match="PYGRID_NETWORK_URL") as caught:
        connect_network()
    assert caught.value.code == "url_missing"
    with pytest.raises(InvalidInput, match="of a Domain behind"):
        connect_network("grid+http://127.0.0.1:7000/one")
    monkeypatch.setenv("PYGRID_NETWORK_URL", "http://127.0.0.1:7000/")
    monkeypatch.setenv("PYGRID_NETWORK_TOKEN", "t")
    client = connect_network()
    assert (client.url, client.token) == ("http://127.0.0.1:7000", "t")
    client.close()
