"""The published routes by which nodes of 2020 join a Network and leave it, and the requests of 2021.

Should happen: the published bodies and statuses, for those who manage the Network, or with an invitation.
Should not happen: a stranger that adds or removes a node; a node under a taken name; an address that leads into a
private network; a 5xx.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support.network import Impostor, Net, running_domain, running_network, until_listed
from support.web import People, assert_problem

NODE = {"node-id": "bob", "node-address": "http://127.0.0.1:5000"}


@pytest.fixture
async def net(tmp_path: Path) -> AsyncIterator[Net]:
    async with running_network(tmp_path / "net") as found:
        yield found


async def delete_node(net: Net, body: Any, headers: dict[str, str] | None = None) -> Any:
    return await net.web.request("DELETE", "/delete-node", json=body, headers=headers)


async def test_it_says_what_it_is(net: Net) -> None:
    answer = await net.web.get("/")
    assert (answer.status_code, answer.text) == (200, "Open Grid Network")
    assert answer.headers["content-type"].startswith("text/plain")


async def test_a_manager_lets_nodes_join_and_leave(net: Net) -> None:
    joined = await net.web.post("/join", json=NODE, headers=net.owner)
    assert (joined.status_code, joined.json()) == (200, {"message": "Successfully Connected!"})
    assert (await net.web.get("/connected-nodes")).json() == {"grid-nodes": ["bob"]}
    for name in ("bob", "Bob"):
        again = await net.web.post("/join", json={**NODE, "node-id": name}, headers=net.owner)
        assert assert_problem(again, 409, "node_exists")["message"] == "This ID has already been registered"
    found = (await net.list())["bob"]
    assert (found["state"], found["identity"], found["address"]) == ("unknown", None, "http://127.0.0.1:5000")

    wrong = await delete_node(net, {**NODE, "node-address": "http://127.0.0.1:5001"}, net.owner)
    assert_problem(wrong, 400, "wrong_address")
    gone = await delete_node(net, NODE, net.owner)
    assert (gone.status_code, gone.json()) == (200, {"message": "Successfully Deleted!"})
    again = await delete_node(net, NODE, net.owner)
    assert assert_problem(again, 409, "domain_not_found")["message"] == "This ID was not found in connected nodes"
    assert (await net.web.get("/connected-nodes")).json() == {"grid-nodes": []}


async def test_strangers_add_and_remove_nothing(net: Net) -> None:
    user = await People(net.web).with_role(1, net.owner)
    assert_problem(await net.web.post("/join", json=NODE), 401, "unauthenticated")
    assert_problem(await net.web.post("/join", json=NODE, headers=user), 403, "not_permitted")
    assert_problem(await net.web.post("/join", json=NODE, headers={"token": "x"}), 401, "invalid_credentials")
    assert_problem(await net.web.post("/join", json={**NODE, "invitation": "x"}), 403, "invalid_invitation")
    # Who has none learns nothing of what a name stands for.
    inside = {**NODE, "node-address": "http://169.254.169.254", "invitation": "x"}
    assert_problem(await net.web.post("/join", json=inside), 403, "invalid_invitation")
    await net.web.post("/join", json=NODE, headers=net.owner)
    assert_problem(await delete_node(net, NODE), 401, "unauthenticated")
    assert_problem(await delete_node(net, NODE, user), 403, "not_permitted")
    assert (await net.web.get("/connected-nodes")).json() == {"grid-nodes": ["bob"]}


async def test_an_invitation_lets_a_node_in_once(net: Net) -> None:
    token = await net.invite()
    refused = await net.web.post("/join", json={**NODE, "node-address": "ftp://bob", "invitation": token})
    assert_problem(refused, 400, "address_refused")
    # A refusal has not used it up.
    assert (await net.web.post("/join", json=NODE, headers={"PyGrid-Invitation": token})).status_code == 200
    other = {**NODE, "node-id": "carl", "invitation": token}
    assert_problem(await net.web.post("/join", json=other), 403, "invalid_invitation")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"node-id": "bob"}', b'{"node-id": 7, "node-address": "http://x"}', b'"bob"', b"\xff"]
)
async def test_what_is_no_request_is_told_in_the_published_words(net: Net, body: bytes) -> None:
    for method, path in (("POST", "/join"), ("DELETE", "/delete-node")):
        answer = await net.web.request(method, path, content=body, headers=net.owner)
        assert (answer.status_code, answer.json()["message"]) == (400, "Invalid JSON format.")


@pytest.mark.parametrize("name", ["../x", "a b", "a\1b", "é", "x" * 101])
async def test_a_name_that_is_none_is_refused(net: Net, name: str) -> None:
    answer = await net.web.post("/join", json={**NODE, "node-id": name}, headers=net.owner)
    assert_problem(answer, 400, "invalid_name")


async def test_a_network_that_others_reach_takes_no_private_addresses(tmp_path: Path) -> None:
    async with running_network(tmp_path, allow_private_addresses=False) as net:
        for host in ("127.0.0.1", "10.1.2.3", "192.168.0.1", "[::1]", "169.254.169.254", "0x7f.1", "localhost"):
            body = {"node-id": "bob", "node-address": f"http://{host}:5000"}
            assert_problem(await net.web.post("/join", json=body, headers=net.owner), 400, "address_refused")
        assert await net.list() == {}


async def test_open_as_in_2020_it_takes_anybody_but_removes_no_domain(tmp_path: Path) -> None:
    async with running_network(tmp_path / "net", legacy_open=True) as net:
        token = await net.invite()
        async with running_domain(tmp_path / "a", network=net.url, invitation=token):
            await until_listed(net, "alice", state="online")
            assert (await net.web.post("/join", json=NODE)).status_code == 200
            taken = {**NODE, "node-id": "alice"}
            assert_problem(await net.web.post("/join", json=taken), 409, "node_exists")
            assert (await net.web.get("/connected-nodes")).json() == {"grid-nodes": ["alice", "bob"]}
            for address in ("", "x", "http://127.0.0.1:5000"):
                body = {"node-id": "alice", "node-address": address}
                assert (await delete_node(net, body)).status_code == 400
            assert (await delete_node(net, NODE)).status_code == 200
            assert (await net.list()).keys() == {"alice"}


async def test_a_domain_with_a_key_does_not_take_over_a_node(net: Net) -> None:
    await net.web.post("/join", json=NODE, headers=net.owner)
    token = await net.invite()
    assert (await Impostor("bob").greet(net, invitation=token))["code"] == "name_taken"


async def test_nodes_are_known_after_a_restart(tmp_path: Path) -> None:
    async with running_network(tmp_path) as net:
        await net.web.post("/join", json=NODE, headers=net.owner)
    async with running_network(tmp_path, sign_up=False) as net:
        assert (await net.web.get("/connected-nodes")).json() == {"grid-nodes": ["bob"]}


async def test_association_requests_of_2021(net: Net, tmp_path: Path) -> None:
    async with running_domain(tmp_path / "a") as alice:
        assert (await alice.web.get("/association-requests", headers=alice.owner)).json() == []
        body = {"name": "net", "address": net.url}
        asked = await alice.web.post("/association-requests/request", json=body, headers=alice.owner)
        assert asked.json() == {"message": "Association request sent!"}
        await until_listed(net, "alice", "pending", connected=True)
        [request] = (await net.web.get("/association-requests", headers=net.owner)).json()
        assert (request["name"], request["status"], request["accepted_date"]) == ("alice", "pending", None)
        path = f"/association-requests/{request['id']}"
        assert (await net.web.get(path, headers=net.owner)).json() == request
        answered = await net.web.post(
            "/association-requests/respond", json={"name": "alice", "value": "accept"}, headers=net.owner
        )
        assert answered.json() == {"message": "Association request was answered!"}
        await alice.until(state="accepted")
        [there] = (await alice.web.get("/association-requests", headers=alice.owner)).json()
        assert (there["name"], there["address"], there["status"]) == ("net", net.url, "accepted")
        assert (await alice.web.get(f"/association-requests/{there['id']}", headers=alice.owner)).json()[
            "name"
        ] == "net"
        gone = await alice.web.delete(f"/association-requests/{there['id']}", headers=alice.owner)
        assert gone.status_code == 200
        assert (await net.list("left")).keys() == {"alice"}
        assert (await net.web.delete(path, headers=net.owner)).status_code == 200
        assert await net.list("all") == {}


async def test_association_requests_are_for_managers(net: Net) -> None:
    user = await People(net.web).with_role(1, net.owner)
    respond = {"address": "http://nobody", "value": "accept"}
    for headers, status in (({}, 401), (user, 403)):
        assert (await net.web.get("/association-requests", headers=headers)).status_code == status
        assert (await net.web.get("/association-requests/1", headers=headers)).status_code == status
        assert (await net.web.delete("/association-requests/1", headers=headers)).status_code == status
        assert (
            await net.web.post("/association-requests/respond", json=respond, headers=headers)
        ).status_code == status
    post = net.web.post
    assert_problem(
        await post("/association-requests/respond", json=respond, headers=net.owner), 404, "domain_not_found"
    )
    nobody = {"value": "deny"}
    assert_problem(await post("/association-requests/respond", json=nobody, headers=net.owner), 400, "missing_field")
    assert_problem(await net.web.get("/association-requests/9", headers=net.owner), 404, "association_not_found")
