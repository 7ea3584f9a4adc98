"""Conversations with the apps as they travel: what was sent, and status, headers and body of each answer.

`SCENARIOS` hold them. A clock that stands still and fixed data make them repeatable; what is random is replaced by a
name: an id, token or hash by ``<job 1>``, the number counting in the order of appearance. Texts for people are left
out, except those that legacy clients compare.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import numpy as np
from websockets.asyncio.client import ClientConnection, connect

from pygrid.clock import ManualClock
from pygrid.domain import build_domain
from pygrid.network import build_network
from pygrid.settings import load_network_settings, load_settings
from pygrid.tensors import decode, encode
from pygrid.transport import Request, open_transport
from support.eventually import eventually
from support.jobs import BINDING, MODEL, PLAN, POLICY, npz, records
from support.network import served
from support.plans.models import form as model_form
from support.plans.models import linear
from support.training import config, form
from support.web import PASSWORD, running, serving

FOLDER = Path(__file__).parents[1] / "snapshots" / "conversations"
LEGACY_TEXTS = FOLDER.parent / "legacy_texts.json"

UNINTERESTING = {"content-length", "date", "server", "x-request-id", "request-id"}
"""Headers that are left out."""
USUAL = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
"""Headers that are left out where they have this value."""
TEXTS = {"detail", "error", "message", "plan_summary", "title", "what"}
"""Members of an answer that are for people."""
NAMES = {
    "auth_token": "token",
    "entry_signature": "signature",
    "identity": "identity",
    "job_id": "job",
    "nonce": "nonce",
    "private_key": "private key",
    "request_hash": "request hash",
    "request_key": "request key",
    "result_hash": "hash of a result",
    "signature": "signature",
    "token": "token",
    "worker_id": "client",
}
"""Member of an answer -> what its value is called, if that is a text."""
JOB_ID = re.compile("[0-9a-f]{32}")
MEASURED = re.compile(r"(^|_)(seconds|s|ms|cpu|load)$")
"""Members with what was measured, if that is not a whole number."""
MEASURED_BYTES = re.compile(r"(^|_)(peak|memory|rss|result)_bytes$")


@dataclass
class Conversation:
    """Keeps what was said."""

    exchanges: list[dict[str, Any]] = field(default_factory=list)
    _names: dict[str, str] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def name(self, kind: str, value: str) -> None:
        """Replace this value by ``<kind N>`` wherever it appears."""
        if value and value not in self._names:
            self._counts[kind] += 1
            self._names[value] = f"<{kind} {self._counts[kind]}>"

    def learn(self, body: Any, key: str = "") -> None:
        """Name what is random in an answer."""
        if isinstance(body, dict):
            for name, value in body.items():
                self.learn(value, name)
        elif isinstance(body, list):
            for value in body:
                self.learn(value, key)
        elif isinstance(body, str):
            if key in NAMES:
                self.name(NAMES[key], body)
            elif key == "id" and JOB_ID.fullmatch(body):
                self.name("job", body)

    def keep(self, by: str, request: str, sent: Any, answer: Mapping[str, Any]) -> None:
        self.learn(answer.get("body"))
        self.exchanges.append({"by": by, "request": request, **({} if sent is None else {"sent": sent}), **answer})

    def normalized(self) -> list[dict[str, Any]]:
        """The exchanges, with names and without texts."""
        legacy = {text for texts in json.loads(LEGACY_TEXTS.read_text()).values() for text in texts.values()}
        values = sorted(self._names, key=len, reverse=True)
        pattern = re.compile("|".join(map(re.escape, values)) or "(?!)")

        def plain(value: Any, key: str = "") -> Any:
            if isinstance(value, dict):
                return {plain(name): plain(inner, name) for name, inner in value.items()}
            if isinstance(value, list):
                return [plain(inner, key) for inner in value]
            if isinstance(value, str):
                if key in TEXTS and value and value not in legacy:
                    return "<text>"
                return pattern.sub(lambda found: self._names[found[0]], value)
            if isinstance(value, float):
                return "<measured>" if MEASURED.search(key) else float(f"{value:.5g}")
            return "<measured>" if MEASURED_BYTES.search(key) and value else value

        return [plain(exchange) for exchange in self.exchanges]


@dataclass
class Speaker:
    """Somebody who sends requests, whose answers are kept."""

    conversation: Conversation
    web: httpx.AsyncClient
    name: str
    headers: dict[str, str] = field(default_factory=dict)

    async def __call__(
        self, request: str, *, is_exact: bool = True, headers: Mapping[str, str] | None = None, **more: Any
    ) -> Any:
        """The body of the answer.

        Args:
            request: method and path.
            is_exact: the bytes of the answer are the same each time, and on each machine.
            headers: beside those that show who it is.
            more: arguments of httpx.
        """
        method, _, path = request.partition(" ")
        if "params" in more:
            path = f"{path}?{urlencode(more.pop('params'))}"
        answer = await self.web.request(method, path, headers={**self.headers, **(headers or {})}, **more)
        kept = describe_answer(self.conversation, answer.status_code, answer.headers, answer.content, is_exact)
        self.conversation.keep(self.name, f"{method} {path}", describe_sent(headers, **more), kept)
        return kept["body"]

    async def until(self, path: str, holds: Callable[[Any], bool]) -> Any:
        """What is there, once it is as wanted; only the last answer is kept."""

        async def look() -> Any:
            answer = await self.web.get(path, headers=self.headers)
            assert answer.status_code == 200, answer.text
            return holds(answer.json())

        await eventually(look)
        return await self(f"GET {path}")


def describe_sent(headers: Mapping[str, str] | None, **more: Any) -> Any:
    """What a request has beside its path, bytes by their number."""
    sent = dict(headers or {})
    if "content" in more:
        sent["content"] = f"<{len(more['content'])} bytes>"
    if "json" in more:
        sent["json"] = more["json"]
    files = more.get("files", {})
    for name, given in files.items() if isinstance(files, dict) else files:
        data = given if isinstance(given, bytes) else given[1]
        sent[name] = json.loads(data) if name == "config" else f"<{len(data)} bytes>"
    return sent or None


def describe_answer(
    conversation: Conversation, status: int, headers: Mapping[str, str], content: bytes, is_exact: bool = True
) -> dict[str, Any]:
    """Status, headers and body.

    Of bytes their number and hash; of those that are not the same each time, the arrays.
    """
    shown = {name.lower(): value for name, value in headers.items()}
    shown = {name: value for name, value in shown.items() if name not in UNINTERESTING and USUAL.get(name) != value}
    media = shown.get("content-type", "")
    body: Any
    if "json" in media:
        body = json.loads(content)
        body = body if is_exact else without_numbers(body)
    elif media.startswith("text/event-stream"):
        body = [describe_event(conversation, event) for event in content.decode().split("\n\n") if event]
    elif media.startswith("text/"):
        body = content.decode()
    elif is_exact:
        body = {"num_bytes": len(content), "sha256": hash_of(content)} if content else None
    else:
        body = {name: f"{array.dtype} {list(array.shape)}" for name, array in decode(content)[0].items()}
    if not is_exact:
        conversation.name("hash of bytes", hash_of(content))
    return {"status": status, "headers": dict(sorted(shown.items())), "body": body}


def without_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_numbers(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [without_numbers(inner) for inner in value]
    return "<number>" if isinstance(value, int | float) and not isinstance(value, bool) else value


def hash_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def describe_event(conversation: Conversation, event: str) -> Any:
    """An event of a stream; a line that only keeps the stream open is a text."""
    fields = dict(line.split(": ", 1) for line in event.splitlines() if not line.startswith(":"))
    if "data" not in fields:
        return event
    found = {**fields, "data": json.loads(fields["data"])}
    conversation.learn(found)
    return found


# The conversations

PRIVATE_STATISTICS: dict[str, Any] = {
    "kind": "statistics",
    "statistics": [{"kind": "count"}, {"kind": "mean", "column": "age", "lower": 0.0, "upper": 100.0}],
    "privacy": {"epsilon": 1.0, "delta": 1e-6},
}
TRAINING: dict[str, Any] = {"kind": "train", "binding": BINDING, "batch_size": 30, "hyper": {"lr": 0.1}}
NODE = {"node-id": "bob", "node-address": "http://127.0.0.1:5000"}


@asynccontextmanager
async def domain_of(
    conversation: Conversation, folder: Path, *, has_port: bool = False
) -> AsyncIterator[tuple[httpx.AsyncClient, Speaker]]:
    """A new Domain, and its Owner.

    Args:
        has_port: it listens on a port of loopback, as calls through a relay need.
    """
    app = build_domain(load_settings({}, data_dir=folder, id="alice", num_workers=1), clock=ManualClock())
    async with AsyncExitStack() as stack:
        if has_port:
            _, port = await stack.enter_async_context(serving(app))
            web = await stack.enter_async_context(httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}"))
        else:
            web = await stack.enter_async_context(running(app))
        yield web, await sign_up(conversation, web, "owner")


async def sign_up(conversation: Conversation, web: httpx.AsyncClient, name: str) -> Speaker:
    """Somebody new, who has logged in; the first one is the Owner. This is not kept."""
    account = {"email": f"{name}@example.org", "password": PASSWORD}
    made = await web.post("/users", json=account)
    assert made.status_code == 200, made.text
    session = await web.post("/users/login", json=account)
    return Speaker(conversation, web, name, {"Authorization": f"Bearer {session.json()['token']}"})


async def training(conversation: Conversation, folder: Path) -> None:
    """A process from its hosting to its end, with three devices."""
    async with domain_of(conversation, folder) as (web, owner):
        anonymous = Speaker(conversation, web, "anonymous")
        wanted = config(max_diffs=3, num_cycles=2)
        await anonymous("POST /model-centric/host-training", files=form(wanted, MODEL))
        await owner("POST /model-centric/host-training", files=form(wanted, MODEL))
        await owner("POST /model-centric/host-training", files=form(wanted, MODEL))
        await anonymous(
            "POST /model-centric/cycle-request", json={"worker_id": "x", "model": "digits", "version": "1.0"}
        )
        devices = []
        for number in (1, 2, 3):
            device = Speaker(conversation, web, f"device {number}")
            client = await device(
                "POST /model-centric/authenticate", json={"model_name": "digits", "model_version": "1.0"}
            )
            message = {"worker_id": client["worker_id"], "model": "digits", "version": "1.0"}
            if number == 1:  # a client of 2020, for which the plan has no variant
                await device("POST /model-centric/cycle-request", json=message)
            accepted = await device("POST /model-centric/cycle-request", json={**message, "wait_s": 0})
            device.headers = {"Authorization": f"Bearer {accepted['request_key']}"}
            devices.append((device, message, accepted))
        device, _, accepted = devices[0]
        await device("GET /model-centric/get-model", params={"model_id": accepted["model_id"]})
        await device("GET /model-centric/get-plan", params={"plan_id": accepted["plans"]["training_plan"]})
        await device("GET /model-centric/get-plan", params={"plan_id": 99})
        await anonymous("GET /model-centric/get-model", params={"model_id": accepted["model_id"]})
        await device("GET /model-centric/speed-test", params={"worker_id": "x", "random": "1", "size_bytes": 100})
        await device("POST /model-centric/report", content=b"no diff")
        for number, (device, _, _) in enumerate(devices, 1):
            diff = {"weight": np.full((3, 4), number / 8, np.float32), "bias": np.full(3, number / 8, np.float32)}
            report = encode(diff, {"num_examples": str(10 * number), "metric.loss": str(number / 4)})
            await device("POST /model-centric/report", content=report)
        await devices[2][0]("POST /model-centric/report", content=report)
        await anonymous("POST /model-centric/report", content=report)
        await owner.until("/model-centric/processes/1/cycles", lambda found: len(found["cycles"]) == 2)
        device, message, _ = devices[1]
        await device("POST /model-centric/cycle-request", json={**message, "wait_s": 0})
        await device("POST /model-centric/leave", json=message)
        for path in ("", "/checkpoints", "/contributions", "/plans/1", "/plans/99"):
            await owner(f"GET /model-centric/processes/1{path}")
        for number in ("1", "latest", "99"):
            query = {"name": "digits", "version": "1.0", "checkpoint": number}
            await owner("GET /model-centric/retrieve-model", params=query)
        etag = {"If-None-Match": f'"{hash_of(MODEL)}"'}
        await owner("GET /model-centric/retrieve-model", params={"name": "digits", "checkpoint": 1}, headers=etag)
        await owner("POST /model-centric/processes/1/restore", json={"checkpoint": 1})
        # Not kept: this answer may or may not have the last cycle closed already.
        await web.post("/model-centric/processes/1/finish", headers=owner.headers)
        await owner.until("/model-centric/processes/1", lambda found: found["cycle"]["state"] == "completed")
        await owner("POST /model-centric/processes/1/finish")
        await owner("GET /model-centric/processes")
        await device("POST /model-centric/cycle-request", json={**message, "wait_s": 0})
        await owner("GET /model-centric/processes/99")


async def jobs(conversation: Conversation, folder: Path) -> None:
    """A private job that the policy lets pass, and non-private ones that wait for the data owner."""
    async with domain_of(conversation, folder) as (web, owner):
        user = await sign_up(conversation, web, "user")
        other = await sign_up(conversation, web, "other-user")
        described = {
            "name": "points",
            "visibility": "listed",
            "tags": ["#points"],
            "columns": [{"name": "label", "meaning": "0..2"}],
        }
        files = {"config": json.dumps(described).encode(), "data": npz(records())}
        await user("POST /data-centric/datasets", files=files)
        await owner("POST /data-centric/datasets", files=files)
        await owner("PUT /data-centric/datasets/1/policy", json=POLICY)
        await user("PUT /data-centric/datasets/1/policy", json=POLICY)
        await user("GET /data-centric/datasets")
        await user("GET /data-centric/datasets/1/budget")
        # Private
        await user("POST /data-centric/jobs", files=job_form(dataset=99, **PRIVATE_STATISTICS))
        job = await user("POST /data-centric/jobs", files=job_form(**PRIVATE_STATISTICS))
        path = f"/data-centric/jobs/{job['id']}"
        await user.until(path, lambda found: found["state"] == "released")
        await user(f"GET {path}/result", is_exact=False)
        await other(f"GET {path}/result")
        await user(f"GET {path}/events")
        await user("GET /data-centric/datasets/1/budget")
        await owner("GET /data-centric/datasets/1/budget")
        # Not private: approved, then released by the data owner
        job = await user("POST /data-centric/jobs", files=job_form(plan=PLAN, model=MODEL, **TRAINING))
        path = f"/data-centric/jobs/{job['id']}"
        await user.until(path, lambda found: found["state"] == "waiting")
        await owner(f"GET {path}")
        decision = {"request_hash": job["request_hash"], "state": "waiting", "comment": "go on"}
        await user(f"POST {path}/approve", json=decision)
        await other(f"POST {path}/approve", json=decision)
        await owner(f"POST {path}/approve", json={**decision, "request_hash": "0" * 64})
        await owner(f"POST {path}/approve", json=decision)
        await owner.until(path, lambda found: found["state"] == "held")
        await user(f"GET {path}/result")
        await owner(f"POST {path}/approve", json={**decision, "state": "held"})
        await user(f"GET {path}")
        await user(f"GET {path}/result", is_exact=False)
        await owner(f"POST {path}/revoke")
        # Not private: denied, cancelled
        for by, act in ((owner, "deny"), (user, "cancel")):
            job = await user(
                "POST /data-centric/jobs", files=job_form(kind="statistics", statistics=[{"kind": "count"}])
            )
            path = f"/data-centric/jobs/{job['id']}"
            await user.until(path, lambda found: found["state"] == "waiting")
            sent = {"json": {**decision, "request_hash": job["request_hash"]}} if act == "deny" else {}
            await by(f"POST {path}/{act}", **sent)
            await by(f"POST {path}/{act}", **sent)
        await owner("GET /data-centric/jobs", params={"state": "denied"})


def job_form(plan: bytes | None = None, model: bytes | None = None, **request: Any) -> dict[str, bytes]:
    files = {"config": json.dumps({"dataset": 1, "reason": "a test", **request}).encode()}
    return files | {name: data for name, data in (("plan", plan), ("model", model)) if data is not None}


async def served_model(conversation: Conversation, folder: Path) -> None:
    """A model from its upload to its deletion."""
    async with domain_of(conversation, folder) as (web, owner):
        user = await sign_up(conversation, web, "user")
        question = encode({"x": np.arange(8, dtype=np.float32).reshape(2, 4)})
        for model_id, choices in (("scores", {"allow_remote_inference": True}), ("secret", {})):
            await owner("POST /data-centric/serve-model", files=model_form(linear(), model_id, **choices))
        await owner("POST /data-centric/serve-model", files=model_form(linear(), "scores"))
        await user("POST /data-centric/serve-model", files=model_form(linear(), "mine"))
        await user("GET /data-centric/models")
        await user("GET /data-centric/detailed-models-list")
        await user("GET /data-centric/models/scores")
        await user("POST /data-centric/models/scores/predict", content=question, is_exact=False)
        await user("POST /data-centric/models/scores/predict", content=encode({"x": np.zeros((2, 3), np.float32)}))
        await user("POST /data-centric/models/scores/predict", content=question, headers={"If-Match": '"0"'})
        await user("POST /data-centric/models/secret/predict", content=question)
        await user("GET /data-centric/models/scores/download")
        await owner("GET /data-centric/models/scores/download")
        await user("DELETE /data-centric/models/scores")
        await owner("DELETE /data-centric/models/scores")
        await owner("GET /data-centric/models/scores")


async def network(conversation: Conversation, folder: Path) -> None:
    """A Domain joins a Network, is found there, and is called through the relay."""
    async with (
        network_of(conversation, folder) as (net, manager),
        domain_of(conversation, folder / "alice", has_port=True) as (_, owner),
    ):
        anonymous = Speaker(conversation, net, "anonymous")
        described = {"name": "people", "visibility": "public", "tags": ["#census"], "draw_mock": False}
        files = {"config": json.dumps(described).encode(), "data": b"name,age\nann,30\nbob,41\n"}
        await owner("POST /data-centric/datasets", files=files)
        await owner("POST /data-centric/serve-model", files=model_form(linear(), "scores", visibility="public"))
        await anonymous("POST /network/search", json={"text": "people"})
        await owner("POST /associations", json={"network": str(net.base_url)})
        await until_in(manager, "pending")
        await owner.until("/associations/1", lambda found: found["state"] == "pending" and found["connected"])
        await manager("GET /domains", params={"association": "pending"})
        await anonymous("POST /domains/alice/accept", json={})
        await manager("POST /domains/alice/accept", json={"reason": "we know them"})
        await owner.until("/associations/1", lambda found: found["state"] == "accepted" and found["connected"])
        await until_in(manager, "accepted")
        await anonymous("GET /domains")
        await anonymous("GET /domains/alice")
        await anonymous("POST /network/search", json={"text": "people", "timeout_s": 20})
        await anonymous("GET /network/search?tag=%23CENSUS&kind=dataset&timeout_s=20")
        await anonymous("POST /network/search", json={"text": "scores", "kinds": ["model"], "timeout_s": 20})
        await anonymous("POST /network/search", json={"text": "", "kinds": ["nothing"]})
        for path, headers in (("/healthz", {}), ("/users/me", owner.headers), ("/users/me", {})):
            await call_relayed(conversation, f"grid+{str(net.base_url).rstrip('/')}/alice", path, headers)
        await manager("POST /invitations", json={"domain": "bob", "max_uses": 2})
        await manager("GET /invitations")
        await owner("DELETE /associations/1")
        await until_in(manager, "left")
        await manager("DELETE /domains/alice")
        await anonymous("GET /domains/alice")


@asynccontextmanager
async def network_of(conversation: Conversation, folder: Path) -> AsyncIterator[tuple[httpx.AsyncClient, Speaker]]:
    """A new Network on a port of loopback, and its Owner."""
    settings = load_network_settings({}, data_dir=folder / "net", id="net", heartbeat_s=1)
    async with (
        served(build_network(settings, clock=ManualClock())) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as web,
    ):
        conversation.name("address of the Network", f"127.0.0.1:{port}")
        yield web, await sign_up(conversation, web, "manager")


async def until_in(manager: Speaker, state: str) -> None:
    """Until the Network has a Domain in this state, and has heard from it unless it has left."""

    async def look() -> Any:
        answer = await manager.web.get("/domains", params={"association": state}, headers=manager.headers)
        return [one for one in answer.json()["domains"] if state == "left" or one["connected"]]

    await eventually(look)


async def call_relayed(conversation: Conversation, address: str, path: str, headers: dict[str, str]) -> None:
    """A GET to a Domain through the relay of its Network."""

    def call() -> dict[str, Any]:
        transport = open_transport(address)
        try:
            with transport.send(Request("GET", path, headers=headers)) as response:
                return describe_answer(conversation, response.status, response.headers, response.read(1_000_000))
        finally:
            transport.close()

    kept = await asyncio.to_thread(call)
    conversation.keep(
        "owner through the relay" if headers else "anonymous through the relay", f"GET {path}", None, kept
    )


async def accounts_of_2020(conversation: Conversation, folder: Path) -> None:
    """Users, roles and groups, with the header and the texts of 2020."""
    app = build_domain(load_settings({}, data_dir=folder, id="alice"), clock=ManualClock())
    async with running(app) as web:
        anonymous = Speaker(conversation, web, "anonymous")
        account = {"email": "owner@example.org", "password": PASSWORD}
        key = (await web.post("/users", json=account)).json()["user"]["private_key"]
        await anonymous("POST /users", json=account)
        await anonymous("POST /users/login", json={**account, "password": "wrong"})
        token = (await web.post("/users/login", json=account)).json()["token"]
        owner = Speaker(conversation, web, "owner", {"token": token, "private-key": key})
        keyless = Speaker(conversation, web, "owner without a key", {"token": token})
        await keyless("GET /users")
        user = await sign_up(conversation, web, "user")
        await anonymous("GET /users")
        await user("GET /users")
        await owner("GET /users")
        await owner("GET /users/2")
        await owner("GET /users/99")
        await owner("POST /users/search", json={"email": "user@example.org"})
        flags = {name: True for name in (await owner("GET /roles/4"))["role"] if name.startswith("can_")}
        await owner("POST /roles", json={"name": "Helper", **flags, "can_edit_roles": False})
        await owner("PUT /roles/5", json={"can_create_users": False})
        await owner("GET /roles")
        await owner("POST /groups", json={"name": "students"})
        await owner("PUT /groups/1", json={"name": "pupils"})
        await owner("PUT /users/2/groups", json={"groups": [1]})
        await owner("PUT /users/2/role", json={"role": 5})
        await owner("PUT /users/2/email", json={"email": "helper@example.org"})
        await owner("PUT /users/2/password", json={"password": "another " + PASSWORD})
        await owner("DELETE /roles/1")
        await owner("DELETE /roles/5")
        await owner("DELETE /groups/1")
        await owner("DELETE /users/2")
        await owner("DELETE /users/1")
        await owner("POST /users/logout")
        await owner("GET /users/me")


async def websocket_of_2020(conversation: Conversation, folder: Path) -> None:
    """Served models over the WebSocket, and over the routes in the spelling of 2020."""
    async with (
        domain_of(conversation, folder, has_port=True) as (web, owner),
        connect(f"ws://127.0.0.1:{web.base_url.port}/", proxy=None) as socket,
    ):
        user = await sign_up(conversation, web, "user")

        async def say(by: Speaker | None, kind: str, **fields: Any) -> Any:
            token = {"token": by.headers["Authorization"].removeprefix("Bearer ")} if by else {}
            return await say_over(conversation, socket, by.name if by else "anonymous", {"type": kind, **fields}, token)

        model = {"model_id": "scores", "model": linear().decode("ISO-8859-1"), "encoding": "ISO-8859-1"}
        question = {"model_id": "scores", "data": np.arange(8).reshape(2, 4).tolist()}
        await say(None, "get-id")
        await say(None, "socket-ping", request_id="r1")
        await say(None, "no-such-type", request_id=2)
        await say(None, "list-models")
        await say(user, "host-model", **model)
        await say(owner, "host-model", **model, request_id="r2")
        await say(owner, "host-model", **model)
        await say(user, "list-models")
        await say(user, "run-inference", **question)
        await say(owner, "run-inference", **question)
        await say(owner, "run-inference", **{**question, "data": [[1, 2]]})
        for request in (
            "GET /data_centric/models",
            "GET /data_centric/detailed-models-list",
            "GET /data_centric/models/scores",
        ):
            await owner(request)
        await owner("POST /data-centric/search", json={"query": ["#x"]})
        await say(user, "delete-model", model_id="scores")
        await say(owner, "delete-model", model_id="scores")
        await say(owner, "run-inference", **question)
        await say(None, "authentication", username="user@example.org", password="wrong")
        await say(None, "authentication", username="user@example.org", password=PASSWORD)
        await say(None, "list-models")


async def say_over(
    conversation: Conversation, socket: ClientConnection, by: str, message: dict[str, Any], token: Any
) -> Any:
    """The answer to one message of a WebSocket. ``token`` is sent, and not kept."""
    await socket.send(json.dumps({**message, **token}))
    answer = json.loads(await socket.recv())
    shown = {name: f"<{len(value)} bytes>" if name == "model" else value for name, value in message.items()}
    conversation.keep(by, "WebSocket /", shown, {"body": answer})
    return answer


async def nodes_of_2020_and_2021(conversation: Conversation, folder: Path) -> None:
    """Nodes join a Network and are searched by its routes of 2020; a Domain joins it by those of 2021."""
    async with (
        network_of(conversation, folder) as (net, manager),
        domain_of(conversation, folder / "alice") as (_, owner),
    ):
        anonymous = Speaker(conversation, net, "anonymous")
        await anonymous("GET /")
        await anonymous("POST /join", json=NODE)
        await manager("POST /join", json=NODE)
        await manager("POST /join", json=NODE)
        await manager("POST /join", json=[])
        await anonymous("GET /connected-nodes")
        await anonymous("DELETE /delete-node", json=NODE)
        await manager("DELETE /delete-node", json={**NODE, "node-address": "http://127.0.0.1:5001"})
        await manager("DELETE /delete-node", json=NODE)
        await manager("DELETE /delete-node", json=NODE)
        # A Domain, by the routes of 2021
        described = {"name": "people", "visibility": "public", "tags": ["#census"], "draw_mock": False}
        files = {"config": json.dumps(described).encode(), "data": b"name,age\nann,30\nbob,41\n"}
        await owner("POST /data-centric/datasets", files=files)
        await owner("POST /data-centric/serve-model", files=model_form(linear(), "scores", visibility="public"))
        await owner("POST /association-requests/request", json={"name": "net", "address": str(net.base_url)})
        await until_in(manager, "pending")
        await owner.until("/association-requests", lambda found: found[0]["status"] == "pending")
        await manager("GET /association-requests")
        await manager("POST /association-requests/respond", json={"name": "alice", "value": "accept"})
        await owner.until("/association-requests/1", lambda found: found["status"] == "accepted")
        await until_in(manager, "accepted")
        await manager("GET /association-requests/2")
        # Its data and models, by the searches of 2020
        for path in (
            "/search-available-tags",
            "/search-available-models",
            "/models",
            "/datasets",
            "/choose-model-host",
        ):
            await anonymous(f"GET {path}")
        await anonymous("GET /choose-encrypted-model-host")
        await anonymous("POST /search", json={"query": ["#census"]})
        await anonymous("POST /search", json={"query": ["#none"]})
        await anonymous("POST /search-model", json={"model_id": "scores"})
        await anonymous("POST /search-model", json=[])
        await anonymous("POST /search-encrypted-model", json={"model_id": "scores"})
        await owner("DELETE /association-requests/1")
        await until_in(manager, "left")
        await manager("DELETE /association-requests/2")
        await manager("GET /association-requests")


SCENARIOS: Mapping[str, Callable[[Conversation, Path], Awaitable[None]]] = {
    "training": training,
    "jobs": jobs,
    "served-model": served_model,
    "network": network,
    "accounts-of-2020": accounts_of_2020,
    "websocket-of-2020": websocket_of_2020,
    "nodes-of-2020-and-2021": nodes_of_2020_and_2021,
}


async def take(name: str, folder: Path) -> list[dict[str, Any]]:
    """The exchanges of a scenario now."""
    conversation = Conversation()
    await SCENARIOS[name](conversation, folder)
    return conversation.normalized()


def file_of(name: str) -> Path:
    return FOLDER / f"{name}.json"


def to_text(exchanges: list[dict[str, Any]]) -> str:
    return json.dumps(exchanges, indent=1, ensure_ascii=False) + "\n"
