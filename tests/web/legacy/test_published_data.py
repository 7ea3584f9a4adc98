"""The data-centric routes of 2020, in both spellings of their prefix.

Should happen: callers without an account see the models that their owner made public; the other routes answer as
published; a model is served by an ordinary form; ``connect-node`` is remembered.
Should not happen: they see other models; a form that is not one serves a model; anybody connects nodes; a name is
markup on a page.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from litestar import Litestar

from pygrid.core.known_nodes import MAX_NODES, KnownNodes
from pygrid.domain import build_domain
from pygrid.legacy.websocket import LegacyCaller, Published, answer
from pygrid.settings import load_settings
from pygrid.web.services import service
from support.network import running_domain, running_network, until_listed
from support.plans.models import SERVE, linear
from support.plans.models import form as model_form
from support.web import People, running

PREFIXES = ("/data-centric", "/data_centric")
Web = httpx.AsyncClient


@pytest.fixture
async def owner(people: People) -> dict[str, str]:
    return await people.owner()


async def say(app: Litestar, kind: str, **fields: Any) -> Any:
    caller = LegacyCaller(app.state.authenticator, "127.0.0.1")
    return await answer(service(app.state, Published), caller, json.dumps({"type": kind, **fields}))


async def test_strangers_see_the_public_models_only(web: Web, owner: dict[str, str]) -> None:
    for name, more in (("hidden", {}), ("shown", {"visibility": "public"})):
        assert (await web.post(SERVE, files=model_form(linear(), name, **more), headers=owner)).status_code == 200
    for prefix in PREFIXES:
        for slash in ("", "/"):
            assert (await web.get(f"{prefix}/models{slash}")).json() == {"success": True, "models": ["shown"]}
        (shown,) = (await web.get(f"{prefix}/detailed-models-list/")).json()["models"]
        assert (shown["id"], shown["model_size"], shown["mpc"], shown["mine"]) == ("shown", "1KB", False, False)
        assert (await web.get(f"{prefix}/models/", headers=owner)).json()["models"] == ["hidden", "shown"]
        wrong = await web.get(f"{prefix}/models/", headers={"token": "guessed"})
        assert (wrong.status_code, wrong.json()["error"]) == (401, "Invalid credentials!")
        assert (await web.get(f"{prefix}/models/shown/download")).status_code == 401


async def test_the_small_routes(web: Web, owner: dict[str, str]) -> None:
    for prefix in PREFIXES:
        assert (await web.get(f"{prefix}/identity/")).json() == {"success": True, "identity": "test"}
        assert (await web.get(f"{prefix}/status/")).json() == {"success": True, "status": "OpenGrid"}
        assert (await web.get(f"{prefix}/workers/")).json() == {"success": True, "workers": []}
        assert (await web.get(f"{prefix}/dataset-tags")).json() == []
        assert (await web.post(f"{prefix}/search", json={"query": ["#x"]})).json() == {"content": False}
        assert (await web.post(f"{prefix}/search", json={})).status_code == 400
        encrypted = await web.post(f"{prefix}/search-encrypted-models", json={"model_id": "x"})
        assert (encrypted.status_code, encrypted.json()["error"]) == (404, "Model ID not found!")
        for body in ({}, [], {"model_id": 5}):
            invalid = await web.post(f"{prefix}/search-encrypted-models", json=body)
            assert (invalid.status_code, invalid.json()["error"]) == (400, "Invalid payload format")
    assert (await web.get("/data-centric/workers/authorized", headers=owner)).json() == {"workers": []}


async def test_the_page_of_a_domain(tmp_path: Path) -> None:
    app = build_domain(load_settings({}, data_dir=tmp_path / "a", id="<b>&", admin=False))
    async with running(app) as web:
        for accept in ("*/*", "text/html"):
            page = await web.get("/", headers={"accept": accept})
            assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
            assert "&lt;b&gt;&amp;" in page.text
            assert "<b>" not in page.text


async def test_browsers_are_led_to_the_console(web: Web) -> None:
    led = await web.get("/", headers={"accept": "text/html,*/*"})
    assert (led.status_code, led.headers["location"]) == (303, "/admin/")
    assert (await web.get("/")).status_code == 200


async def test_a_model_by_an_ordinary_form(web: Web, owner: dict[str, str]) -> None:
    fields = {
        "encoding": "ISO-8859-1",
        "model_id": "scores",
        "model": linear().decode("ISO-8859-1"),
        "allow_download": "True",
        "allow_remote_inference": "False",
        "mpc": "False",
    }
    for prefix in PREFIXES:
        sent = {**fields, "model_id": prefix[1:]}
        served = await web.post(f"{prefix}/serve-model/", data=sent, headers=owner)
        assert served.status_code == 200, served.text
        assert (served.json()["success"], served.json()["message"]) == (True, f"Model saved with id: {prefix[1:]}")
        again = await web.post(f"{prefix}/serve-model/", data=sent, headers=owner)
        assert (again.status_code, again.json()["success"]) == (409, False)
        assert again.json()["error"] == "Model id already exists."
        download = await web.get(f"{prefix}/models/{prefix[1:]}/download", headers=owner)
        assert download.content == linear()
    assert (await web.post(SERVE, data=fields)).status_code == 401


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_form"),
        (b"model=", "invalid_form"),
        (b"model=x&model=y", "invalid_form"),
        (b"model=x&other=y", "invalid_form"),
        (b"&".join(b"a%d=1" % n for n in range(100)), "invalid_form"),
        (b"model=\xff", "invalid_form"),
        (b"model=%FF&model_id=m", "invalid_form"),
        (b"model=%E2%82%AC&model_id=m", "unknown_encoding"),
        (b"model=x", "invalid_config"),
        (b"model=x&model_id=m&mpc=True", "invalid_config"),
        (b"model=x&model_id=m", "plan_graph_invalid"),
    ],
)
async def test_forms_that_serve_no_model(web: Web, owner: dict[str, str], body: bytes, code: str) -> None:
    headers = {**owner, "content-type": "application/x-www-form-urlencoded"}
    refused = await web.post(SERVE, content=body, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (400, code), refused.text
    assert (await web.get("/data-centric/models", headers=owner)).json()["models"] == []


async def test_an_ordinary_form_sent_again_is_the_same_call(web: Web, owner: dict[str, str]) -> None:
    headers = {**owner, "Idempotency-Key": "k"}
    fields = {"model_id": "scores", "model": linear().decode("ISO-8859-1")}
    first, again = [await web.post(SERVE, data=fields, headers=headers) for _ in range(2)]
    assert (first.status_code, again.status_code, again.json()) == (200, 200, first.json())
    other = await web.post(SERVE, data={**fields, "allow_download": "True"}, headers=headers)
    assert other.json()["code"] == "idempotency_key_reused"


async def test_a_node_is_connected_by_those_who_may(web: Web, domain: Litestar, owner: dict[str, str]) -> None:
    token = owner["Authorization"].removeprefix("Bearer ")
    node = {"id": "bob", "address": "http://bob.example:5000"}
    assert (await say(domain, "connect-node", **node))["error"] == "Missing request key!"
    said = await say(domain, "connect-node", token=token, request_id=1, **node)
    assert said == {"type": "connect-node", "request_id": 1, "status": "Succesfully connected."}
    assert (await say(domain, "connect-node", token=token, id="al", address="ws://al.example"))["status"]
    for bad in ({"id": "", "address": "http://x"}, {"id": "x" * 301, "address": "http://x"}, {"id": "x"}):
        assert "error" in await say(domain, "connect-node", token=token, **bad)
    for address in ("file:///etc/passwd", "nowhere", "http://" + "x" * 300, 5):
        assert "error" in await say(domain, "connect-node", token=token, id="x", address=address)
    assert (await web.get("/data-centric/workers")).json()["workers"] == ["bob", "al"]


async def test_the_number_of_nodes_is_bounded_where_all_may_connect_them(tmp_path: Path) -> None:
    app = build_domain(load_settings({}, data_dir=tmp_path, legacy_open=True))
    async with running(app):
        for number in range(MAX_NODES + 2):
            assert "status" in await say(app, "connect-node", id=f"n{number}", address="http://x")
        nodes = service(app.state, KnownNodes).list_ids()
        assert (len(nodes), nodes[0], nodes[-1]) == (MAX_NODES, "n2", f"n{MAX_NODES + 1}")


async def test_a_node_of_a_network(tmp_path: Path) -> None:
    async with running_network(tmp_path / "net") as net, running_domain(tmp_path / "a") as alice:
        headers = alice.owner
        served = await alice.web.post(SERVE, files=model_form(linear(), "scores", visibility="public"), headers=headers)
        assert served.status_code == 200
        await alice.web.post("/association-requests/request", json={"name": "n", "address": net.url}, headers=headers)
        await until_listed(net, "alice", "pending", connected=True)
        decision = {"name": "alice", "value": "accept"}
        await net.web.post("/association-requests/respond", json=decision, headers=net.owner)
        await alice.until(state="accepted")
        node = (await net.web.get("/node/alice")).json()
        assert (node["id"], node["status"], node["models"], node["datasets"]) == ("alice", "online", ["scores"], [])
        unknown = await net.web.get("/node/nobody")
        assert (unknown.status_code, unknown.json()["code"]) == (404, "association_not_found")
