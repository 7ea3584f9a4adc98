"""The tests that PyGrid had in 2020 for the nodes of a Network and for a whole training over the WebSocket.

They are facts of the folders ``apps/network/tests/rest_api`` and ``tests/model_centric`` of its revision 657f124:
stored rows, request, answer. Six more tests of the first folder replace a function of PyGrid by one that raises, and
expect 500 with the text of that exception. They cannot run elsewhere; `test_a_fault` shows the answer to a fault here.
The tests of ``tests/data_centric`` send tensor commands of PySyft; those of ``tests/notebooks`` run its notebooks.

Should happen: each published answer. Should not happen: an answer with the text of an exception.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from websockets.asyncio.client import connect

from pygrid.domain import build_domain
from pygrid.features.associations.network.service import NetworkAssociations
from pygrid.settings import load_settings
from pygrid.storage.sql.database import Database
from support.network import Net, running_network
from support.pysyft import Trace, message
from support.training import gate_in_process
from support.web import serving

DIFFERENCES = (Path(__file__).parents[3] / "docs/reference/published.md").read_text().partition("## Differences")[2]
TAKEN = "This ID has already been registered"
UNKNOWN = "This ID was not found in connected nodes"
BAD = "Invalid JSON format."
NODE = {"node-id": "data", "node-address": "data"}
ROWS: dict[str, tuple[str, str, Any, int, str | list[Any]]] = {
    "join_grid_node_bad_request_json": ("POST", "/join", "{bad", 400, BAD),
    "join_grid_node_bad_request_key_error": ("POST", "/join", {"test": "data"}, 400, BAD),
    "join_grid_node_already_registered": ("POST", "/join", NODE, 409, TAKEN),
    "delete_grid_node_bad_request_json": ("DELETE", "/delete-node", "{bad", 400, BAD),
    "delete_grid_node_bad_request_key_error": ("DELETE", "/delete-node", {"test": "data"}, 400, BAD),
    "delete_grid_node_not_registered": ("DELETE", "/delete-node", {**NODE, "node-id": "other"}, 409, UNKNOWN),
    "choose_encrypted_model_host_value_error": ("GET", "/choose-encrypted-model-host", None, 400, []),
    "search_bad_request_value_error": ("POST", "/search", "{bad", 400, BAD),
    "search_bad_request_key_error": ("POST", "/search", {}, 400, BAD),
    "search_encrypted_model_bad_request_value_error": ("POST", "/search-encrypted-model", None, 400, BAD),
    "search_encrypted_model_bad_request_key_error": ("POST", "/search-encrypted-model", None, 400, BAD),
    "search_model_bad_request_value_error": ("POST", "/search-model", None, 400, BAD),
    "search_model_bad_request_key_error": ("POST", "/search-model", None, 400, BAD),
}


@pytest.fixture
async def net(tmp_path: Path) -> AsyncIterator[Net]:
    """A Network that is open as in 2020, with one node."""
    async with running_network(tmp_path, legacy_open=True) as found:
        joined = await found.web.post("/join", json={**NODE, "node-address": "http://127.0.0.1:5000"})
        assert joined.status_code == 200, joined.text
        yield found


async def ask(net: Net, row: tuple[str, str, Any, int, Any]) -> tuple[int, Any]:
    method, path, body, _, _ = row
    if isinstance(body, str):
        answer = await net.web.request(method, path, content=body, headers={"content-type": "application/json"})
    else:
        answer = await net.web.request(method, path, json=body)
    found = answer.json()
    return answer.status_code, found.get("message") if isinstance(found, dict) else found


async def test_the_nodes_of_a_network(net: Net) -> None:
    wrong = [(name, found) for name, row in ROWS.items() if (found := await ask(net, row)) != row[3:]]
    assert wrong == []
    assert (await net.web.get("/connected-nodes")).json() == {"grid-nodes": ["data"]}


async def test_a_fault(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_args: Any, **_kwargs: Any) -> None:
        raise RuntimeError("secret of the server")

    monkeypatch.setattr(NetworkAssociations, "forget_node", fail)
    monkeypatch.setattr(Database, "write", fail)
    for name in ("join_grid_node_already_registered", "delete_grid_node_not_registered"):
        method, path, body, *_ = ROWS[name]
        valid = {**body, "node-id": "third", "node-address": "http://127.0.0.1:5001"}
        answer = await net.web.request(method, path, json=valid)
        assert answer.status_code == 500
        assert "secret" not in answer.text


# A training over the WebSocket


def three_inputs(num_outputs: int) -> Any:
    """Sums of three inputs; the last outputs of ``(y + z, x + z, x + x)``."""
    t = Trace()
    x, y, z = inputs = t.inputs(3)
    a, b = t.method(x, "__add__", x), t.method(x, "__add__", z)
    outputs = [b, a] if num_outputs == 2 else [t.method(y, "__add__", z), b, a]
    return t.plan("foo", inputs, outputs, {one.id: (1,) for one in inputs})


def half_of_the_second() -> Any:
    """An averaging plan of two values, which does not fit a model of two arrays."""
    t = Trace()
    x, y = inputs = t.inputs(2)
    return t.plan("avg_plan", inputs, [t.method(x, "__add__", t.method(y, "__truediv__", 2))])


CONFIG = {
    "max_workers": 100,
    "pool_selection": "random",
    "num_cycles": 5,
    "do_not_reuse_workers_until_cycle": 4,
    "cycle_length": 8 * 60 * 60,
}
SPEEDS = {"minimum_upload_speed": 2, "minimum_download_speed": 4}


class Client:
    """Sends each message on a WebSocket of its own, as the published tests do."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._next = 0

    async def send(self, kind: str, data: dict[str, Any], *, has_id: bool = True) -> dict[str, Any]:
        sent: dict[str, Any] = {"type": kind, "data": data}
        if has_id:
            self._next += 1
            sent["request_id"] = f"request {self._next}"
        async with connect(f"ws://127.0.0.1:{self._port}/", proxy=None) as socket:
            await socket.send(json.dumps(sent))
            found: dict[str, Any] = json.loads(await socket.recv())
        assert found.get("request_id") == sent.get("request_id")
        return found

    async def host(self, name: str, **server_config: Any) -> None:
        """Host a process without an account, with a protocol and an averaging plan that does not fit."""
        plans = {"foo_1": three_inputs(3), "foo_2": three_inputs(2)}
        form = message(plans, averaging=half_of_the_second(), name=name)
        form["server_config"] = {**CONFIG, **server_config}
        form["protocols"] = {"protocol_1": b"serialized_protocol_mockup".hex()}
        form["client_config"]["version"] = "0.1.0"
        answer = await self.send("model-centric/host-training", form, has_id=False)
        assert answer["data"] == {"status": "success"}

    async def authenticate(self, name: str, **more: str) -> dict[str, Any]:
        names = {"model_name": name, "model_version": "0.1.0"}
        found: dict[str, Any] = (await self.send("model-centric/authenticate", {**names, **more}))["data"]
        return found

    async def request_cycle(self, name: str, worker_id: str, **speeds: float) -> dict[str, Any]:
        asked = {"worker_id": worker_id, "model": name, "version": "0.1.0", **speeds}
        found: dict[str, Any] = (await self.send("model-centric/cycle-request", asked))["data"]
        return found


@pytest.fixture
async def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Client]:
    monkeypatch.setattr("pygrid.features.processes.hosting.check_async", gate_in_process)
    app = build_domain(load_settings({}, data_dir=tmp_path, id="alice", legacy_open=True))
    async with serving(app) as (_, port):
        yield Client(port)


async def test_socket_ping_alive(client: Client) -> None:
    """The published test wants this member alone; here each answer has its type, see the table of differences."""
    found = await client.send("socket-ping", {}, has_id=False)
    assert found == {"type": "socket-ping", "alive": "True"}
    assert "| answers have no `type` | each answer repeats `type`, also `socket-ping` |" in DIFFERENCES


async def test_fl_process(client: Client) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    await client.host("one", **SPEEDS, authentication={"secret": "abc", "pub_key": pem.decode().strip()})
    refused = await client.authenticate("one")
    assert refused == {"error": "Authentication is required, please pass an 'auth_token'."}
    refused = await client.authenticate("one", auth_token="just kidding!")
    assert refused == {"error": "The 'auth_token' you sent is invalid."}
    # The published tokens have the header {"alg": ..., "typ": "JWT"} and no claims.
    of_secret = jwt.api_jws.encode(b"{}", b"abc".ljust(64, b"\0"), "HS256")
    of_key = jwt.encode({}, key, "RS256")
    for token in (of_secret, of_key):
        accepted = await client.authenticate("one", auth_token=token)
        assert accepted["status"] == "success"
    found = await client.request_cycle("one", accepted["worker_id"], ping=8, download=46.3, upload=23.7)
    assert found["status"] == "accepted"
    for name in ("request_key", "model", "version", "plans", "protocols", "client_config"):
        assert found[name] is not None
    assert found["plans"].keys() == {"foo_1", "foo_2"}


async def test_requires_speed_test_true(client: Client) -> None:
    await client.host("two", **SPEEDS)
    known = await client.authenticate("two")
    assert known["requires_speed_test"] is True
    refused = await client.request_cycle("two", known["worker_id"])
    assert refused == {"status": "rejected", "error": "'ping' is required"}
    found = await client.request_cycle("two", known["worker_id"], ping=1, download=5, upload=5)
    assert (found["status"], found.get("error")) == ("accepted", None)


async def test_requires_speed_test_false(client: Client) -> None:
    await client.host("three")
    known = await client.authenticate("three")
    assert known["requires_speed_test"] is False
    found = await client.request_cycle("three", known["worker_id"])
    assert (found["status"], found.get("error")) == ("accepted", None)
