"""The texts that clients of 2020 and 2021 compare, from the interfaces that they use.

Should happen: each situation is answered with the text in ``tests/snapshots/legacy_texts.json``.
Should not happen: a text in the source that is like these and that the recording lacks.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
from websockets.asyncio.client import connect

from pygrid.domain import build_domain
from pygrid.settings import DomainSettings
from support.network import running_domain, running_network, served, until_listed
from support.plans.models import linear
from support.snapshots import read_json
from support.snapshots.sources import literals
from support.training import Site, bearer, owned_folder, site  # noqa: F401 - fixtures
from support.web import PASSWORD, People

RECORDED = read_json("legacy_texts.json")


async def test_routes_of_accounts(web: httpx.AsyncClient, people: People) -> None:
    owner = await people.owner()
    user = await people.with_role(1, owner)

    async def error(method: str, path: str, headers: dict[str, str] | None = None, **body: Any) -> str:
        text: str = (await web.request(method, path, headers=headers, json=body or None)).json()["error"]
        return text

    assert RECORDED["routes of accounts, member error"] == {
        "no session": await error("GET", "/users"),
        "a field is missing": await error("POST", "/users/login", email="owner@example.org"),
        "two credentials": await error("GET", "/users", {**owner, "token": "another"}),
        "a session that has ended": await error("GET", "/users", {"token": "ended"}),
        "a wrong password": await error("POST", "/users/login", email="owner@example.org", password="wrong"),
        "a permission is missing": await error("PUT", "/users/1/role", user, role=4),
        "a built-in role": await error("DELETE", "/roles/1", owner),
        "the last Owner": await error("DELETE", "/users/1", owner),
        "no such user": await error("GET", "/users/99", owner),
        "no such role": await error("GET", "/roles/99", owner),
        "no such group": await error("GET", "/groups/99", owner),
    }


async def test_routes_of_devices(site: Site) -> None:  # noqa: F811
    process = await site.host()
    device = await (await site.device(process)).join()

    async def detail(path: str, key: str, **query: Any) -> str:
        params = {"worker_id": device.worker_id, **query}
        answer = await site.web.get(f"/model-centric/{path}", params=params, headers=bearer(key))
        text: str = answer.json()["detail"]
        return text

    nobody = {"worker_id": "nobody", "model": process["name"], "version": process["version"], "wait_s": 0}
    unknown = await site.web.post("/model-centric/cycle-request", json=nobody)
    assert RECORDED["routes of devices, member detail"] == {
        "an unknown request key": await detail("get-model", "0" * 64, model_id=1),
        "no such model": await detail("get-model", device.key, model_id=99),
        "no such plan": await detail("get-plan", device.key, plan_id=99),
        "no such protocol": await detail("get-protocol", device.key, protocol_id=99),
        "an unknown worker": unknown.json()["detail"],
    }
    await site.pass_time(61)
    query = {"worker_id": device.worker_id, "model_id": process["id"], "request_key": device.key}
    ended = await site.web.get("/model-centric/get-model", params=query)
    assert ended.status_code == 400
    assert RECORDED["routes of devices, member error"] == {
        "a cycle that has ended": ended.json()["error"],
        "an unknown worker": unknown.json()["error"],
    }


async def test_the_websocket(settings: DomainSettings) -> None:
    async with (
        served(build_domain(settings)) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as web,
        connect(f"ws://127.0.0.1:{port}/", proxy=None) as socket,
    ):
        people = People(web)
        owner_headers = await people.owner()
        user_headers = await people.with_role(1, owner_headers)
        owner, user = (headers["Authorization"].removeprefix("Bearer ") for headers in (owner_headers, user_headers))

        async def say(kind: str, member: str, **fields: Any) -> str:
            await socket.send(json.dumps({"type": kind, **fields}))
            text: str = json.loads(await socket.recv())[member]
            return text

        model = {"model_id": "scores", "model": linear().decode("ISO-8859-1"), "encoding": "ISO-8859-1"}
        question = {"model_id": "scores", "data": [[0.0] * 4]}
        name = "owner@example.org"
        assert RECORDED["the WebSocket"] == {
            "error: no session": await say("list-models", "error"),
            "error: a session that has ended": await say("list-models", "error", token="ended"),
            "error: a permission is missing": await say("host-model", "error", token=user, **model),
            "error: a wrong password": await say("authentication", "error", username=name, password="wrong"),
            "success: a good password": await say("authentication", "success", username=name, password=PASSWORD),
            "message: a model is hosted": await say("host-model", "message", token=owner, **model),
            "error: it is hosted again": await say("host-model", "error", token=owner, **model),
            "error: others may not ask it": await say("run-inference", "error", token=user, **question),
            "message: it is deleted": await say("delete-model", "message", token=owner, model_id="scores"),
            "error: it is gone": await say("run-inference", "error", token=owner, **question),
            "alive: a ping": await say("socket-ping", "alive"),
            "syft_version: who is there": await say("get-id", "syft_version"),
        }


async def test_routes_of_nodes_and_of_association_requests(tmp_path: Path) -> None:
    node = {"node-id": "bob", "node-address": "http://127.0.0.1:5000"}
    async with running_network(tmp_path / "net") as net, running_domain(tmp_path / "a") as alice:

        async def message(
            web: httpx.AsyncClient, method: str, path: str, owner: dict[str, str], body: Any = None
        ) -> str:
            answer = await web.request(method, path, headers=owner, json=body)
            text: str = answer.json()["message"]
            return text

        async def at_network(method: str, path: str, body: Any = None) -> str:
            return await message(net.web, method, path, net.owner, body)

        nodes = {
            "body of /": (await net.web.get("/")).text,
            "joined": await at_network("POST", "/join", node),
            "joined again": await at_network("POST", "/join", node),
            "deleted": await at_network("DELETE", "/delete-node", node),
            "deleted again": await at_network("DELETE", "/delete-node", node),
            "no node": await at_network("POST", "/join", []),
            "no search": await at_network("POST", "/search-model", []),
        }
        assert RECORDED["routes of nodes, member message"] == nodes

        asked = await message(
            alice.web, "POST", "/association-requests/request", alice.owner, {"name": "n", "address": net.url}
        )
        await until_listed(net, "alice", "pending", connected=True)
        answered = await at_network("POST", "/association-requests/respond", {"name": "alice", "value": "accept"})
        await alice.until(state="accepted")
        [there] = (await alice.web.get("/association-requests", headers=alice.owner)).json()
        [here] = (await net.web.get("/association-requests", headers=net.owner)).json()
        assert RECORDED["association requests, member message"] == {
            "a Domain asks": asked,
            "the Network answers": answered,
            "the Domain leaves": await message(
                alice.web, "DELETE", f"/association-requests/{there['id']}", alice.owner
            ),
            "the Network forgets it": await at_network("DELETE", f"/association-requests/{here['id']}"),
        }


async def test_the_websocket_of_a_network(tmp_path: Path) -> None:
    async with (
        running_network(tmp_path / "net") as net,
        connect(net.url.replace("http", "ws", 1) + "/", proxy=None) as socket,
    ):
        await socket.send('{"type": "join"}')
        found = json.loads(await socket.recv())["message"]
    assert RECORDED["the WebSocket of a Network"] == {"message: not understood": found}


def test_the_recording_has_every_text_of_this_kind() -> None:
    """Only these interfaces have sentences that end with an exclamation mark."""
    recorded = {text for texts in RECORDED.values() for text in texts.values()}
    ours = {text for text in literals() if text.endswith("!") and " " in text and text[:1].isupper()}
    assert ours <= recorded
    assert len(ours) >= 15
