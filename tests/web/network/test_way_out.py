"""How a Domain gets out to its Network: by the proxy of its machine, and never where it was not sent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pygrid.features.associations.domain import connector
from support.eventually import eventually
from support.forward_proxy import VARIABLES, running_proxy, running_redirect
from support.network import Net, running_domain, running_network, until_listed


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connector, "retry_s", lambda *_: 0.05)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
async def net(tmp_path: Path) -> AsyncIterator[Net]:
    async with running_network(tmp_path / "net") as found:
        yield found


async def test_a_domain_joins_by_a_proxy(net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = await net.invite()
    with running_proxy("ann:secret") as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://ann:secret@{proxy.address}")
        async with running_domain(tmp_path / "a", network=net.url, invitation=token) as alice:
            await alice.until(state="accepted", connected=True)
            await until_listed(net, "alice", state="online")
        assert proxy.asked == [("CONNECT", net.url.removeprefix("http://"))]


async def test_a_proxy_that_it_can_not_use_is_told_and_harms_nothing_else(
    net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reason in its list of Networks, one proxy for this kind of address and none for the other."""
    monkeypatch.setenv("HTTPS_PROXY", "socks5://127.0.0.1:1")
    monkeypatch.setenv("SOCKS_PROXY", "socks5://127.0.0.1:1")
    token = await net.invite()
    async with running_domain(tmp_path / "a", network=net.url, invitation=token, open_signup=False) as alice:
        await alice.until(state="accepted", connected=True)
        other = {"network": "https://network.example"}
        assert (await alice.web.post("/associations", json=other, headers=alice.owner)).status_code == 202

        async def is_told() -> bool:
            return "not an HTTP proxy" in (await alice.associations())[1]["reason"]

        await eventually(is_told)
        assert (await alice.associations())[0]["connected"]
        assert (await alice.web.get("/readyz")).status_code == 200


async def test_a_domain_does_not_follow_its_network_elsewhere(net: Net, tmp_path: Path) -> None:
    """Not even to another Network: the owner named this address."""
    with running_redirect(net.control_url()) as (door, asked):
        async with running_domain(tmp_path / "a", network=f"http://{door}") as alice:

            async def is_told() -> bool:
                return "307" in (await alice.associations())[0]["reason"]

            await eventually(is_told)
        assert set(asked) == {"/network/control"}
        assert await net.list("all") == {}
