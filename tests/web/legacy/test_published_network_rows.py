"""Each published text and status of a Network's routes and messages, against a Network on a real socket.

Should happen: each row gets its answer.
Should not happen: a refusal registers or removes a node, or ends a WebSocket.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from support.network import Net, running_network

NODE = {"node-id": "bob", "node-address": "http://127.0.0.1:5000"}
BAD = "Invalid JSON format."
ROWS: dict[str, tuple[str, str, Any, int, Any]] = {
    "what it is": ("GET", "/", None, 200, "Open Grid Network"),
    "nodes": ("GET", "/connected-nodes", None, 200, {"grid-nodes": ["bob"]}),
    "an id that is taken": ("POST", "/join", NODE, 409, "This ID has already been registered"),
    "a node without an id": ("POST", "/join", {"node-address": "http://127.0.0.1:5000"}, 400, BAD),
    "a node without an address": ("POST", "/join", {"node-id": "carl"}, 400, BAD),
    "a node with a number": ("POST", "/join", {**NODE, "node-id": 5}, 400, BAD),
    "no JSON to join": ("POST", "/join", b"{bad", 400, BAD),
    "a list to join": ("POST", "/join", [], 400, BAD),
    "an unknown node": (
        "DELETE",
        "/delete-node",
        {**NODE, "node-id": "carl"},
        409,
        "This ID was not found in connected nodes",
    ),
    "no JSON to leave": ("DELETE", "/delete-node", b"{bad", 400, BAD),
    "hosts": ("GET", "/choose-model-host", None, 200, [["bob", NODE["node-address"]]]),
    "hosts of a model": ("GET", "/choose-model-host?model_id=x", None, 200, [["bob", NODE["node-address"]]]),
    "too few nodes": ("GET", "/choose-encrypted-model-host", None, 400, []),
    "models": ("GET", "/search-available-models", None, 200, []),
    "tags": ("GET", "/search-available-tags", None, 200, []),
    "a model": ("POST", "/search-model", {"model_id": "x"}, 200, []),
    "a model without an id": ("POST", "/search-model", {}, 400, BAD),
    "a model with a number": ("POST", "/search-model", {"model_id": 5}, 400, BAD),
    "no JSON for a model": ("POST", "/search-model", b"{bad", 400, BAD),
    "an encrypted model": ("POST", "/search-encrypted-model", {"model_id": "x"}, 200, {}),
    "an encrypted model without an id": ("POST", "/search-encrypted-model", {}, 400, BAD),
    "tagged data": ("POST", "/search", {"query": ["#x"]}, 200, []),
    "no query": ("POST", "/search", {}, 400, BAD),
    "a query that is text": ("POST", "/search", {"query": "#x"}, 400, BAD),
    "no JSON for a query": ("POST", "/search", b"{bad", 400, BAD),
    "all datasets": ("GET", "/datasets", None, 200, {"datasets": []}),
    "all models": ("GET", "/models", None, 200, {"models": []}),
}


@pytest.fixture
async def net(tmp_path: Path) -> AsyncIterator[Net]:
    async with running_network(tmp_path / "net") as found:
        joined = await found.web.post("/join", json=NODE, headers=found.owner)
        assert (joined.status_code, joined.json()) == (200, {"message": "Successfully Connected!"})
        yield found


async def test_routes_of_nodes(net: Net) -> None:
    wrong = []
    for row, (method, path, body, status, expected) in ROWS.items():
        content = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        headers = {**net.owner, "content-type": "application/json"}
        answer = await net.web.request(method, path, content=content, headers=headers)
        found: Any = answer.text
        if "json" in answer.headers["content-type"]:
            found = answer.json()
            found = found.get("message", found) if isinstance(found, dict) else found
        if (answer.status_code, found) != (status, expected):
            wrong.append((row, answer.status_code, answer.text))
    assert not wrong, "\n".join(map(str, wrong))
    assert (await net.web.get("/connected-nodes")).json() == {"grid-nodes": ["bob"]}
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        found = await net.web.post("/search", content='{"query": []}', headers={"content-type": kind})
        assert (found.status_code, found.json()) == (200, [])
    unknown = await net.web.get("/node/carl")
    assert unknown.status_code == 404
    left = await net.web.request("DELETE", "/delete-node", json=NODE, headers=net.owner)
    assert (left.status_code, left.json()) == (200, {"message": "Successfully Deleted!"})


MESSAGES: dict[str, str | bytes] = {
    "no JSON": "{bad",
    "no text": "",
    "a list": "[]",
    "a number": "5",
    "no type": "{}",
    "an unknown type": '{"type": "format-disk"}',
    "a type of a Domain": '{"type": "model-centric/authenticate", "data": {}}',
    "a type that is a list": '{"type": ["join"]}',
    "a node that joins": '{"type": "join", "node_id": "carl"}',
    "bytes": b"\x93syft",
}


async def test_messages(net: Net) -> None:
    wrong = []
    async with connect(f"ws://127.0.0.1:{net.port}/", proxy=None) as socket:
        for row, text in MESSAGES.items():
            await socket.send(text)
            found = json.loads(await socket.recv())
            if {**found, "status": "error", "message": "Invalid request format!"} != found:
                wrong.append((row, found))
        await socket.send(json.dumps({"type": "list-users", "request_id": [1]}))
        refused = json.loads(await socket.recv())
        assert (refused["request_id"], refused["error"]) == ([1], "Missing request key!")
        await socket.send('{"type": "socket-ping"}')
        assert json.loads(await socket.recv())["alive"] == "True"
    assert not wrong, "\n".join(map(str, wrong))
    assert (await net.web.get("/connected-nodes")).json() == {"grid-nodes": ["bob"]}
