"""The pages of a Network's managers, in process: invitations of Domains, and the relay.

Should happen: a token is shown once and admits a Domain; the relay's page has each Domain with its link and callers;
the lists follow what happens.
Should not happen: a token in a list; an invitation by an empty form; content or a name of a caller's account.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from pygrid.features.relay.network.service import Relay
from pygrid.ui.sampling import Sampler
from pygrid.web.services import service
from support.console import Browser, Page
from support.eventually import eventually
from support.network import Net, running_domain, running_network, until_listed
from support.streams import Stream, events_of
from support.web import People

PATH = "/admin/invitations"


@pytest.fixture
async def net(tmp_path: Path) -> AsyncIterator[Net]:
    async with running_network(tmp_path / "net") as found:
        yield found


async def test_an_invitation_is_shown_once_and_withdrawn(net: Net, tmp_path: Path) -> None:
    ann = await Browser(net.web).sign_in("owner@example.org")
    assert "There is no invitation." in (await ann.page(PATH)).text
    for wrong, words in (
        ({"max_uses": "0"}, "max_uses is '0': write a whole number from 1 to 1,000"),
        ({"days": "400"}, "days is '400': write a whole number from 1 to 366"),
        ({"max_uses": ""}, "max_uses is ''"),
        ({"domain": "no spaces"}, "no spaces"),
    ):
        answer = await ann.post(PATH, {"domain": "alice", "max_uses": "1", "days": "7", **wrong})
        assert answer.status_code == 400, answer.text
        assert words in Page.read(answer).text
    answer = await ann.post(PATH, {"domain": "alice", "max_uses": "1", "days": "7"})
    (token,) = re.findall(r"PYGRID_INVITATION=(\S+) pygrid domain --network", Page.read(answer).text)
    listed = await ann.page(PATH)
    assert token not in listed.html
    assert "alice ● open 0 of 1" in listed.text
    async with running_domain(tmp_path / "alice", network=net.url, invitation=token):
        await until_listed(net, "alice")
        assert "alice ○ used 1 of 1" in (await ann.page(PATH)).text
    (form,) = (one for one in listed.find("form") if one.get("action", "").endswith("/withdraw"))
    assert (await ann.post(form["action"])).status_code == 303
    assert "There is no invitation." in (await ann.page(PATH)).text
    assert (await ann.post(form["action"])).status_code == 404


async def test_the_relay_shows_links_callers_and_refusals(net: Net, tmp_path: Path) -> None:
    ann = await Browser(net.web).sign_in("owner@example.org")
    assert "No Domain belongs to this Network yet" in (await ann.page("/admin/relay")).text
    async with running_domain(tmp_path / "alice", network=net.url, invitation=await net.invite()):
        await until_listed(net, "alice", state="online")
        with pytest.raises(InvalidStatus):
            async with connect(f"ws://127.0.0.1:{net.port}/relay/nobody"):
                pass
        pipes = service(net.app.state, Relay).pipes
        with pipes.place("alice", "user 7"), pipes.place("alice", "user 7"), pipes.place("alice", "domain key"):
            page = await ann.page("/admin/relay")
            assert "alice ● connected" in page.text
            assert "user 7 (2), domain key (1)" in page.text
            (row,) = (await ann.get("/admin/relay?format=json")).json()
            assert (row["num_pipes"], row["is_connected"], row["carried_bytes"]) == (3, True, 0)
        assert "domain_not_found 1" in page.text, page.text
        assert "Connections to one Domain 1,000" in page.text
        assert (await ann.get("/admin/relay?format=json")).json()[0]["callers"] == ""


async def test_the_lists_follow_what_happens(net: Net, tmp_path: Path) -> None:
    ann = await Browser(net.web).sign_in("owner@example.org")
    user = await People(net.web).with_role(1, net.owner, "bob@example.org")
    bob = Browser(net.web)
    bob.cookie = f"{ann.cookie.partition('=')[0]}={user['Authorization'].removeprefix('Bearer ')}"
    path = "/admin/live?topics=domains,invitations,relay"
    hers, his = (Stream(net.app, path, {"cookie": who.cookie}) for who in (ann, bob))
    await eventually(lambda: b"open" in hers.received and b"open" in his.received)

    def seen(topic: str) -> int:
        return [one["topic"] for one in events_of(hers, "changed")].count(topic)

    async def follows(topic: str, act: Awaitable[object]) -> None:
        before = seen(topic)
        await act
        await eventually(lambda: seen(topic) > before)

    await follows("invitations", ann.post(PATH, {"domain": "", "max_uses": "3", "days": "7"}))
    async with AsyncExitStack() as stack:
        joining = running_domain(tmp_path / "alice", network=net.url)
        await follows("domains", stack.enter_async_context(joining))
        assert "alice" in (await ann.get("/admin/domains?part=waiting")).text
        await follows("domains", net.decide("alice", "accept"))
        await until_listed(net, "alice", state="online")
        assert "alice" in (await ann.get("/admin/domains?part=rows")).text
        # Pipes have no signal.
        pipes = AsyncExitStack()

        async def call() -> None:
            pipes.enter_context(service(net.app.state, Relay).pipes.place("alice", "user 7"))

        await follows("relay", call())
        assert "user 7 (1)" in (await ann.get("/admin/relay?part=rows")).text
        await follows("relay", pipes.aclose())
        await follows("domains", stack.aclose())  # its link ends
    assert events_of(his, "changed") == [], "he manages no Domains"


async def test_the_start_page_counts_the_domains_and_what_the_relay_carries(net: Net, tmp_path: Path) -> None:
    ann = await Browser(net.web).sign_in("owner@example.org")
    assert "● 0 online ▲ 0 degraded ○ 0 offline" in (await ann.page("/admin/")).text
    async with running_domain(tmp_path / "alice", network=net.url, invitation=await net.invite()):
        await until_listed(net, "alice", state="online")
        with service(net.app.state, Relay).pipes.place("alice", "user 7"):
            page = await ann.page("/admin/")
        assert re.search(r"online accepted (now|\d+ seconds? ago)", (await ann.page("/admin/domains")).text)
    assert "● 1 online" in page.text
    assert "The relay has 1 open connection and" in page.text
    assert page.find("section", **{"data-topic": "relay", "data-part": "fleet"})
    await People(net.web).with_role(1, net.owner, "bob@example.org")
    assert "The relay" not in (await (await Browser(net.web).sign_in("bob@example.org")).page("/admin/")).text


async def test_people_and_the_log_follow_what_happens(net: Net) -> None:
    ann = await Browser(net.web).sign_in("owner@example.org")
    await People(net.web).with_role(1, net.owner, "bob@example.org")
    bob = await Browser(net.web).sign_in("bob@example.org")
    path = "/admin/live?topics=audit,people,health"
    hers, his = (Stream(net.app, path, {"cookie": who.cookie}) for who in (ann, bob))
    await eventually(lambda: b"open" in hers.received and b"open" in his.received)
    assert (await ann.post("/admin/people/invite", {"email": "new@example.org"})).status_code == 200
    await eventually(lambda: {"people", "audit"} <= {one["topic"] for one in events_of(hers, "changed")})
    assert events_of(his, "changed") == [], "he may see neither people nor the log"
    sampler, now = service(net.app.state, Sampler), asyncio.get_running_loop().time()
    for number in (1, 2):  # the stream goes on after a topic without signals has changed
        sampler.sample(now + 3600 * number, 0.0)
        await eventually(lambda number=number: _num_changes(hers, "health") == number)
    for page, topic in (("/admin/people", "people"), ("/admin/audit", "audit"), ("/admin/health", "health")):
        assert (await ann.page(page)).find("section", **{"data-topic": topic}), page


def _num_changes(stream: Stream, topic: str) -> int:
    return sum(one["topic"] == topic for one in events_of(stream, "changed"))
