"""The pages of a Network's managers, in process: invitations of Domains, and the relay.

Should happen: a token is shown once and admits a Domain; the relay's page has each Domain with its link and callers.
Should not happen: a token in a list; an invitation by an empty form; content or a name of a caller's account.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from pygrid.features.relay.network.service import Relay
from pygrid.web.services import service
from support.console import Browser, Page
from support.network import Net, running_domain, running_network, until_listed

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
