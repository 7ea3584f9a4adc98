"""Who may do what: each route of a Domain and of a Network, asked by each kind of caller.

`FURNISHERS` fill the data folder of a new app with one thing of every kind. `take` then starts a copy of that folder
for each caller, who asks each route once, so that nobody meets what another caller has changed.

The User has requested the jobs, the Administrator has made everything else. ``other_user`` and ``other_administrator``
have the same roles and have made nothing. A device shows its request key, a Worker its token.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import shutil
import tomllib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from litestar import Litestar

from pygrid.clock import ManualClock
from pygrid.domain import build_domain
from pygrid.network import build_network
from pygrid.settings import load_network_settings, load_settings
from pygrid.tensors import encode
from pygrid.ui.console import Console
from pygrid.ui.static import StaticFiles
from pygrid.web.services import service
from support.jobs import MODEL, PLAN, POLICY, PRIVATE, Person, npz
from support.network import Impostor, running_network
from support.plans.models import form as model_form
from support.plans.models import linear
from support.training import config, form
from support.web import PASSWORD, People, running

FILE = Path(__file__).parents[1] / "snapshots" / "permissions.toml"
TIMEOUT_S = 60.0

ROLES = {"user": 1, "officer": 2, "administrator": 3, "other_user": 1, "other_administrator": 3}
ACTORS = {
    "domain": [
        "anonymous",
        "user",
        "officer",
        "administrator",
        "owner",
        "other_user",
        "other_administrator",
        "device",
        "worker",
    ],
    "network": ["anonymous", "user", "administrator", "owner", "other_user", "other_administrator"],
}
"""Who asks, by app. A Network has no Compliance Officers, no devices and no Workers."""

NOTES = {
    "GET /model-centric/processes/{process_id}/contributions": "Only the creator of the process or an Owner",
    "POST /model-centric/processes/{process_id}/finish": "Only the creator of the process or an Owner",
    "POST /model-centric/processes/{process_id}/pause": "Only the creator of the process or an Owner",
    "POST /model-centric/processes/{process_id}/resume": "Only the creator of the process or an Owner",
    "POST /model-centric/processes/{process_id}/restore": "Only the creator of the process or an Owner",
    "DELETE /model-centric/processes/{process_id}": "Only the creator of the process or an Owner",
}
"""What the table says above a row."""

STATISTICS: dict[str, Any] = {"statistics": [{"kind": "count"}]}
PREPARE = {"columns": [{"name": "old", "source": "age", "steps": [{"step": "clip", "low": 50.0}]}]}
POINTS = {"age": np.arange(40, 60, dtype=np.float32)}
DIFF = encode({"weight": np.full((3, 4), 0.5, np.float32), "bias": np.full(3, 0.5, np.float32)})
QUESTION = encode({"x": np.ones((2, 4), np.float32)})
NODE = {"node-id": "node", "node-address": "http://127.0.0.1:5000"}


@dataclass
class Furniture:
    """What the requests need to know of the app that they are sent to."""

    sessions: dict[str, dict[str, str]] = field(default_factory=lambda: {"anonymous": {}})
    """Caller or account -> headers that show who it is."""
    ids: dict[str, Any] = field(default_factory=dict)
    """Thing -> its id. A thing with the name of a path parameter is what a request is about if it names no other."""
    hashes: dict[str, str] = field(default_factory=dict)
    """Job -> the hash of what was requested."""
    browsers: dict[str, str] = field(default_factory=dict)
    """Caller -> the token of a session of its own in the web console."""
    cookie: str = ""
    """Name of the cookie of the web console."""
    flags: dict[str, bool] = field(default_factory=dict)
    """The permissions of the role User, which a new role has to state."""


@dataclass(frozen=True)
class Call:
    """What a request has beyond its method and path.

    Args:
        about: path parameter -> the thing it stands for, where that is not the one of the same name.
        account: the account that the request is about, made for it alone. Its owner, the User, speaks with its session.
        more: arguments of `httpx.Request`, or a function that makes them.
    """

    about: Mapping[str, str] = field(default_factory=dict)
    account: str = ""
    more: Mapping[str, Any] | Callable[[Furniture], Mapping[str, Any]] = field(default_factory=dict)


def about(**things: str) -> Call:
    return Call(about=things)


def sends(**more: Any) -> Call:
    return Call(more=more)


def changes_account(account: str, **more: Any) -> Call:
    return Call(about={"user_id": account}, account=account, more=more)


def decides(job: str) -> Call:
    """A decision on a job that waits."""
    return Call(
        about={"job_id": job}, more=lambda known: {"json": {"request_hash": known.hashes[job], "state": "waiting"}}
    )


def dataset_form(name: str = "new", **more: Any) -> dict[str, bytes]:
    text = httpx.Request("POST", "http://x", json={"name": name, "visibility": "listed", **more}).content
    return {"config": text, "data": npz(POINTS)}


def of_client(client: str) -> Call:
    """A message of a client of the process."""
    return Call(more=lambda known: {"json": {"worker_id": known.ids[client], "model": "digits", "version": "1.0"}})


ACCOUNT_CALLS: dict[str, Call] = {
    "POST /users": sends(json={"email": "new@example.org", "password": PASSWORD, "role": 1}),
    "POST /users/login": sends(json={"email": "user@example.org", "password": PASSWORD}),
    "POST /users/search": sends(json={"role": 1}),
    "PUT /users/{user_id}/email": changes_account("mover", json={"email": "moved@example.org"}),
    "PUT /users/{user_id}/password": changes_account("forgetter", json={"password": "another " + PASSWORD}),
    "PUT /users/{user_id}/role": changes_account("climber", json={"role": 1}),
    "DELETE /users/{user_id}": changes_account("leaver"),
    "POST /users/invitations": sends(json={"email": "guest@example.org"}),
    "POST /users/invitations/accept": sends(json={"code": "wrong", "password": PASSWORD}),
    "DELETE /users/invitations/{invitation_id}": about(invitation_id="user invitation"),
    "POST /users/{user_id}/password-reset": changes_account("mover", json={}),
    "POST /users/password-reset": sends(json={"code": "wrong", "password": PASSWORD}),
    "POST /users/me/tokens": sends(json={"name": "new"}),
    "DELETE /users/me/tokens/{token_id}": Call(about={"token_id": "token of mover"}, account="mover"),
    "DELETE /users/{user_id}/tokens/{token_id}": Call(
        about={"user_id": "mover", "token_id": "token of mover"}, account="mover"
    ),
    "POST /users/browser-link": sends(),
    "POST /users/login/code": sends(json={"code": "wrong", "verifier": "v" * 43}),
    "POST /roles": Call(more=lambda known: {"json": {"name": "New", **known.flags}}),
    "PUT /roles/{role_id}": sends(json={"name": "Renamed"}),
}
CONSOLE_CALLS: dict[str, Call] = {
    "GET /admin/static/{name}": about(name="console file"),
    "GET /admin/{path}": about(path="path of schema"),
    "POST /admin/login": sends(data={"email": "user@example.org", "password": PASSWORD}),
    "POST /admin/oidc/confirm": sends(data={"secret": "wrong", "password": PASSWORD}),
    "GET /admin/terminal": sends(params={"challenge": "A" * 43}),
    "POST /admin/terminal": sends(data={"challenge": "A" * 43}),
    "POST /admin/setup": sends(data={"email": "new@example.org", "password": PASSWORD}),
}
ACCOUNT_PAGE_CALLS: dict[str, Call] = {
    "POST /admin/me/tokens/{token_id}/revoke": about(token_id="token of mover"),
    "POST /admin/people/{user_id}/delete": about(user_id="leaver"),
    "POST /admin/people/{user_id}/role": Call({"user_id": "climber"}, more={"data": {"role": "1"}}),
    "POST /admin/people/{user_id}/reset": about(user_id="mover"),
    "POST /admin/people/invitations/{invitation_id}/withdraw": about(invitation_id="invitation to withdraw"),
}
MODEL_CALLS: dict[str, Call] = {
    **{
        f"POST /{prefix}/models/{{model_id}}/predict": sends(content=QUESTION)
        for prefix in ("data-centric", "data_centric")
    },
    "POST /data-centric/serve-model": sends(files=model_form(linear(), "new")),
    "POST /data_centric/serve-model": sends(files=model_form(linear(), "newer")),
    "DELETE /data-centric/models/{model_id}": about(model_id="model to delete"),
    "DELETE /data_centric/models/{model_id}": about(model_id="model to delete in the spelling of 2020"),
}
DOMAIN_CALLS: dict[str, Call] = {
    **ACCOUNT_CALLS,
    **CONSOLE_CALLS,
    **ACCOUNT_PAGE_CALLS,
    "POST /admin/datasets/{dataset_id}/delete": about(dataset_id="dataset to drop"),
    "POST /admin/jobs/{job_id}/decide": Call(
        {"job_id": "job to decide"},
        more=lambda known: {
            "data": {"request_hash": known.hashes["job to decide"], "state": "waiting", "decision": "deny"}
        },
    ),
    "POST /admin/processes/{process_id}/finish": about(process_id="process to end"),
    "POST /admin/processes/{process_id}/pause": about(process_id="process to pause"),
    "POST /admin/processes/{process_id}/resume": about(process_id="process to pause"),
    "POST /admin/processes/{process_id}/delete": about(process_id="process to remove"),
    "GET /admin/processes/{process_id}/checkpoints/{number}": about(number="checkpoint"),
    "POST /admin/processes/new": sends(data={"name": "n", "version": "1"}, files={"plan": PLAN, "model": MODEL}),
    "POST /admin/processes/drafts/{draft_id}/host": Call(
        {"draft_id": "draft to host in the console"}, more={"data": {"cycle_length": "60"}}
    ),
    "POST /admin/processes/drafts/{draft_id}/delete": about(draft_id="draft to discard"),
    "POST /admin/ask/{dataset_id}": sends(data={"kind0": "count", "reason": "a test"}),
    "POST /admin/ask/{dataset_id}/model": sends(data={"reason": "a test"}, files={"plan": PLAN, "model": MODEL}),
    "POST /admin/jobs/{job_id}/cancel": about(job_id="job to stop"),
    "POST /admin/models": sends(data={"model_id": "newest"}, files={"model": linear()}),
    "POST /admin/models/{model_id}/predict": sends(data={"input-x": "1,2,3,4"}),
    "POST /admin/models/{model_id}/delete": about(model_id="model to delete in the console"),
    "POST /admin/workers": sends(data={"name": "newest"}),
    "POST /admin/workers/{worker_id}/revoke": about(worker_id="worker to revoke"),
    "POST /admin/networks": sends(data={"address": "http://127.0.0.1:7009"}),
    "POST /admin/networks/{network_id}/leave": about(network_id="association to leave"),
    **MODEL_CALLS,
    "PUT /users/{user_id}/groups": sends(json={"groups": []}),
    "POST /groups": sends(json={"name": "new"}),
    "PUT /groups/{group_id}": sends(json={"name": "renamed"}),
    "POST /associations": sends(json={"network": "http://127.0.0.1:7001"}),
    "POST /association-requests/request": sends(json={"name": "net", "address": "http://127.0.0.1:7002"}),
    "DELETE /association-requests/{association_id}": about(association_id="association to delete"),
    "GET /schema/{path}": about(path="path of schema"),
    # Datasets
    "POST /data-centric/datasets": sends(files=dataset_form()),
    "POST /data-centric/datasets/dry-run": sends(files={"config": b"{}", "data": npz(POINTS)}),
    "GET /data-centric/datasets/by-name": sends(params={"name": "points"}),
    "PUT /data-centric/datasets/{dataset_id}": sends(json={"description": "changed"}),
    "PUT /data-centric/datasets/{dataset_id}/policy": sends(json={**POLICY, "epsilon": 9.0}),
    "POST /data-centric/datasets/{dataset_id}/versions": sends(files={"config": b"{}", "data": npz(POINTS)}),
    "POST /data-centric/datasets/{dataset_id}/prepare": sends(json=PREPARE),
    "DELETE /data-centric/datasets/{dataset_id}": about(dataset_id="dataset to delete"),
    **{f"POST /{prefix}/search": sends(json={"query": ["#x"]}) for prefix in ("data-centric", "data_centric")},
    **{
        f"POST /{prefix}/search-encrypted-models": sends(json={"model_id": "digits"})
        for prefix in ("data-centric", "data_centric")
    },
    # Jobs
    "POST /data-centric/jobs": Call(
        more=lambda known: {"files": job_form(dataset=known.ids["dataset_id"], kind="statistics", **STATISTICS)}
    ),
    "POST /data-centric/jobs/{job_id}/approve": decides("job to approve"),
    "POST /data-centric/jobs/{job_id}/deny": decides("job to deny"),
    "POST /data-centric/jobs/{job_id}/cancel": about(job_id="job to cancel"),
    "POST /data-centric/jobs/{job_id}/revoke": about(job_id="job to revoke"),
    # Workers
    "POST /data-centric/workers": sends(json={"name": "new"}),
    "POST /data-centric/workers/lease": sends(json={"layers": [], "is_sound": True}),
    "POST /data-centric/workers/leases/{lease_id}/renew": sends(json={}),
    "POST /data-centric/workers/leases/{lease_id}/result": sends(content=b"x"),
    # Processes and drafts
    "POST /model-centric/host-training": sends(files=form(config("new"), MODEL)),
    "POST /model-centric/processes/{process_id}/finish": about(process_id="process to finish"),
    "POST /model-centric/processes/{process_id}/pause": about(process_id="process to pause"),
    "POST /model-centric/processes/{process_id}/resume": about(process_id="process to pause"),
    "DELETE /model-centric/processes/{process_id}": about(process_id="process to delete"),
    "POST /model-centric/processes/{process_id}/restore": sends(json={"checkpoint": 1}),
    "PUT /model-centric/processes/{process_id}/evaluations/{checkpoint}": sends(json={"metrics": {"loss": 0.5}}),
    "GET /model-centric/retrieve-model": sends(params={"name": "digits"}),
    "POST /model-centric/drafts": sends(files=form(config("new-draft"), MODEL)),
    "PUT /model-centric/drafts/{draft_id}/notes": sends(json={"notes": {"by": "me"}}),
    "POST /model-centric/drafts/{draft_id}/host": Call(
        {"draft_id": "draft to host"}, more={"json": {"server_config": config("draft-to-host")["server_config"]}}
    ),
    "DELETE /model-centric/drafts/{draft_id}": about(draft_id="draft to delete"),
    # Devices
    "POST /model-centric/authenticate": sends(json={"model_name": "digits", "model_version": "1.0"}),
    "POST /model-centric/cycle-request": of_client("client"),
    "POST /model-centric/leave": of_client("client to leave"),
    "GET /model-centric/get-model": Call(more=lambda known: {"params": {"model_id": known.ids["process_id"]}}),
    "GET /model-centric/get-plan": Call(more=lambda known: {"params": {"plan_id": known.ids["plan_id"]}}),
    "GET /model-centric/get-protocol": sends(params={"protocol_id": 1}),
    "POST /model-centric/report": sends(content=DIFF),
    "GET /model-centric/speed-test": sends(params={"worker_id": "x", "random": "x", "size_bytes": 10}),
    "POST /model-centric/speed-test": sends(params={"worker_id": "x", "random": "x"}, content=b"x"),
}
NETWORK_CALLS: dict[str, Call] = {
    **ACCOUNT_CALLS,
    **CONSOLE_CALLS,
    **ACCOUNT_PAGE_CALLS,
    "POST /admin/domains/decide": Call(
        more=lambda known: {"data": {"name": "hugo", "identity": known.ids["identity of hugo"], "decision": "accept"}}
    ),
    "POST /admin/domains/forget": sends(data={"name": "ida"}),
    "GET /schema/{path}": about(path="path of schema"),
    # Domains
    "POST /domains/{name}/accept": Call({"name": "Domain to accept"}, more={"json": {}}),
    "POST /domains/{name}/deny": Call({"name": "Domain to deny"}, more={"json": {}}),
    "POST /domains/{name}/revoke": Call({"name": "Domain to revoke"}, more={"json": {}}),
    "DELETE /domains/{name}": about(name="Domain to forget"),
    "POST /association-requests/respond": sends(json={"name": "frank", "value": "accept"}),
    "DELETE /association-requests/{request_id}": about(request_id="request to delete"),
    "POST /invitations": sends(json={}),
    "POST /admin/invitations/{invitation_id}/withdraw": about(invitation_id="Domain invitation to withdraw"),
    # Nodes of 2020, and searches
    "POST /join": sends(json={**NODE, "node-id": "new"}),
    "DELETE /delete-node": sends(content=httpx.Request("POST", "http://x", json=NODE).content),
    "GET /choose-model-host": sends(params={"model_id": "digits"}),
    "GET /network/search": sends(params={"q": "digits"}),
    "POST /network/search": sends(json={"text": "digits"}),
    "POST /search": sends(json={"query": ["#x"]}),
    "POST /search-model": sends(json={"model_id": "digits"}),
    "POST /search-encrypted-model": sends(json={"model_id": "digits"}),
}
CALLS = {"domain": DOMAIN_CALLS, "network": NETWORK_CALLS}
"""Routes that need a body or a query, or that change what others ask for, which is then made for them alone."""

LAST = ("POST /admin/logout", "POST /users/logout")
"""After it the caller has no session."""


def job_form(**request: Any) -> dict[str, bytes]:
    return {"config": httpx.Request("POST", "http://x", json={"reason": "a test", **request}).content}


# The apps


def build(app: str, folder: Path) -> Litestar:
    if app == "domain":
        return build_domain(load_settings({}, data_dir=folder, id="test", num_workers=1), clock=ManualClock())
    return build_network(load_network_settings({}, data_dir=folder, id="net", heartbeat_s=1), clock=ManualClock())


async def furnish_domain(folder: Path) -> Furniture:
    """A Domain with one thing of each kind."""
    known = Furniture()
    async with running(build("domain", folder)) as web:
        await _make_accounts("domain", web, known)
        owner, administrator, user = (Person(web, known.sessions[name]) for name in ("owner", "administrator", "user"))
        await _make_training(known, administrator)
        await _make_jobs(known, administrator, user)
        for model_id in (
            "scores",
            "model to delete",
            "model to delete in the spelling of 2020",
            "model to delete in the console",
        ):
            text = model_id.replace(" ", "-")
            await _post(administrator, "/data-centric/serve-model", files=model_form(linear(), text))
            known.ids[model_id] = text
        worker = await _post(owner, "/data-centric/workers", json={"name": "gpu"})
        known.sessions["worker"] = {"Authorization": f"Bearer {worker['token']}"}
        known.ids["worker to revoke"] = (await _post(owner, "/data-centric/workers", json={"name": "cpu"}))["id"]
        group = await _post(owner, "/groups", json={"name": "students"})
        for number, name in enumerate(("association_id", "association to delete", "association to leave")):
            association = await _post(owner, "/associations", json={"network": f"http://127.0.0.1:{7003 + number}"})
            known.ids[name] = association["id"]
    known.ids |= {"model_id": "scores", "worker_id": worker["id"], "group_id": group["group"]["id"]}
    known.ids |= {"lease_id": "0" * 32}
    return known


async def furnish_network(folder: Path) -> Furniture:
    """A Network with Domains in each state, an invitation and a node of 2020."""
    known = Furniture()
    async with running_network(folder, clock=ManualClock()) as net:
        known.sessions["owner"] = net.owner
        await _make_accounts("network", net.web, known)
        owner = Person(net.web, net.owner)
        things = {"alice": "name", "bob": "Domain to accept", "carl": "Domain to deny", "dora": "Domain to revoke"}
        things |= {
            "emil": "Domain to forget",
            "frank": "request_id",
            "gina": "request to delete",
            "hugo": "Domain to admit",
            "ida": "Domain to drop",
        }
        for name, thing in things.items():
            impostor = Impostor(name)
            answer = await impostor.greet(net)
            assert answer["type"] == "welcome", answer
            known.ids[thing] = name
            known.ids[f"identity of {name}"] = str(impostor.identity.key)
            if thing in ("name", "Domain to revoke"):
                await _post(owner, f"/domains/{name}/accept", json={})
        requests = {one["name"]: one["id"] for one in (await owner.call("GET", "/association-requests")).json()}
        known.ids |= {thing: requests[known.ids[thing]] for thing in ("request_id", "request to delete")}
        known.ids["invitation_id"] = (await _post(owner, "/invitations", json={}))["invitation"]["id"]
        known.ids["Domain invitation to withdraw"] = (await _post(owner, "/invitations", json={}))["invitation"]["id"]
        await _post(owner, "/join", json=NODE)
    known.ids |= {"domain": "alice", "token": "0" * 43}
    return known


FURNISHERS: dict[str, Callable[[Path], Awaitable[Furniture]]] = {"domain": furnish_domain, "network": furnish_network}


async def _make_accounts(app: str, web: httpx.AsyncClient, known: Furniture) -> None:
    people = People(web)
    if "owner" not in known.sessions:
        known.sessions["owner"] = await people.owner()
    owner = Person(web, known.sessions["owner"])
    roles = {name: role for name, role in ROLES.items() if name in ACTORS[app]}
    for name in (*roles, "mover", "forgetter", "climber", "leaver"):
        known.sessions[name] = await people.with_role(roles.get(name, 1), owner.headers, f"{name}@example.org")
        known.ids[name] = (await web.get("/users/me", headers=known.sessions[name])).json()["user"]["id"]
    for name in ("owner", *(name for name in roles if name in ACTORS[app])):
        session = await people.log_in(f"{name}@example.org")
        known.browsers[name] = session["Authorization"].removeprefix("Bearer ")
    known.ids["user_id"] = known.ids["user"]
    role = (await owner.call("GET", "/roles/1")).json()["role"]
    known.flags = {name: flag for name, flag in role.items() if name.startswith("can_")}
    known.ids["role_id"] = (await _post(owner, "/roles", json={"name": "Student", **known.flags}))["role"]["id"]
    invited = await _post(owner, "/users/invitations", json={"email": "invited@example.org"})
    known.ids["user invitation"] = invited["invitation"]["id"]
    invited = await _post(owner, "/users/invitations", json={"email": "other@example.org"})
    known.ids["invitation to withdraw"] = invited["invitation"]["id"]
    mover = Person(web, known.sessions["mover"])
    known.ids["token of mover"] = (await _post(mover, "/users/me/tokens", json={"name": "t"}))["api_token"]["id"]
    known.ids |= {"path of schema": "nothing", "code": "wrong", "session_id": 1, "staged_id": 1}
    known.ids["console file"] = StaticFiles.load().names["admin.css"]


async def _make_training(known: Furniture, administrator: Person) -> None:
    named = {"digits": "process_id", "ended": "process to finish", "done": "process to end"}
    for name, thing in (
        named | {"resting": "process to pause", "old": "process to delete", "older": "process to remove"}
    ).items():
        process = await _post(administrator, "/model-centric/host-training", files=form(config(name), MODEL))
        known.ids[thing] = process["id"]
    known.ids["checkpoint"] = 1
    for thing in ("process to delete", "process to remove"):
        await _post(administrator, f"/model-centric/processes/{known.ids[thing]}/finish")
    for thing in ("client", "client to leave"):
        wanted = {"model_name": "digits", "model_version": "1.0"}
        known.ids[thing] = (await _post(administrator, "/model-centric/authenticate", json=wanted))["worker_id"]
    message = {"worker_id": known.ids["client"], "model": "digits", "version": "1.0", "wait_s": 0}
    accepted = await _post(administrator, "/model-centric/cycle-request", json=message)
    known.sessions["device"] = {"Authorization": f"Bearer {accepted['request_key']}"}
    known.ids["plan_id"] = accepted["plans"]["training_plan"]
    for name in ("draft_id", "draft to host", "draft to delete", "draft to host in the console", "draft to discard"):
        draft = await _post(administrator, "/model-centric/drafts", files=form(config(name.replace(" ", "-")), MODEL))
        known.ids[name] = draft["id"]
    known.ids["file_hash"] = hashlib.sha256(MODEL).hexdigest()


async def _make_jobs(known: Furniture, administrator: Person, user: Person) -> None:
    named = {"points": "dataset_id", "more points": "dataset to delete", "most points": "dataset to drop"}
    for name, thing in named.items():
        known.ids[thing] = await administrator.upload(name, POINTS)
    dataset = known.ids["dataset_id"]
    await administrator.set_policy(dataset)
    for thing in ("job to approve", "job to deny", "job to cancel", "job to revoke", "job to decide", "job to stop"):
        job = await user.submit(dataset, "statistics", **STATISTICS)
        known.ids[thing], known.hashes[thing] = job["id"], job["request_hash"]
    released = await user.submit(dataset, "statistics", privacy=PRIVATE, **STATISTICS)
    known.ids["job_id"] = released["id"]
    await user.wait(released["id"], "released")
    for thing in known.hashes:
        await user.wait(known.ids[thing], "waiting")


async def _post(person: Person, path: str, **more: Any) -> dict[str, Any]:
    answer = await person.call("POST", path, **more)
    assert answer.is_success, answer.text
    found: dict[str, Any] = answer.json()
    return found


# The table


def routes(app: Litestar) -> Iterator[str]:
    """Method and path of each route; a WebSocket's method is ``WS``."""
    for route in app.routes:
        path = re.sub(r":\w+}", "}", route.path)
        for method in getattr(route, "methods", None) or {"WS"}:
            if method != "OPTIONS":
                yield f"{method} {path}"


async def take(app: str, folder: Path) -> dict[str, list[int]]:
    """Route -> the status that each caller gets, in the order of `ACTORS`."""
    known = await FURNISHERS[app](folder / "furnished")
    table: dict[str, list[int]] = {}
    for actor in ACTORS[app]:
        shutil.copytree(folder / "furnished", folder / actor)
        running_app = build(app, folder / actor)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(running(running_app))
            known.cookie = service(running_app.state, Console).cookie
            for route in sorted(
                set(routes(running_app)), key=lambda route: (route in LAST, route.startswith("DELETE"), route)
            ):
                request = make_request(route, CALLS[app].get(route, Call()), actor, known)
                table.setdefault(route, []).append(await ask(running_app, request))
    return table


def make_request(route: str, call: Call, actor: str, known: Furniture) -> httpx.Request:
    method, _, path = route.partition(" ")
    for name in (part[1:-1] for part in path.split("/") if part[:1] == "{"):
        path = path.replace(f"{{{name}}}", str(known.ids[call.about.get(name, name)]))
    headers = known.sessions[call.account if call.account and actor == "user" else actor]
    if path.startswith("/admin"):  # the console knows callers by their cookie, and pages by their origin
        token = known.browsers.get(actor, headers.get("Authorization", "").removeprefix("Bearer "))
        headers = {"Origin": "http://localhost", **({"Cookie": f"{known.cookie}={token}"} if token else {})}
    more = call.more(known) if callable(call.more) else call.more
    return httpx.Request(method, f"http://localhost{path}", headers=headers, **more)


async def ask(app: Litestar, request: httpx.Request) -> int:
    """The status of the answer, 101 for a WebSocket that was accepted. The caller leaves when it has come."""
    body, status = request.read(), 0
    is_socket, is_read, is_left = request.method == "WS", False, asyncio.Event()
    scope = {
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "path": request.url.path,
        "raw_path": request.url.raw_path,
        "root_path": "",
        "query_string": request.url.query,
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "client": ("127.0.0.1", 1),
        "server": ("localhost", 80),
    }
    if is_socket:
        extensions: dict[str, Any] = {"websocket.http.response": {}}
        scope |= {"type": "websocket", "scheme": "ws", "subprotocols": [], "extensions": extensions}
    else:
        scope |= {"type": "http", "scheme": "http", "method": request.method}

    async def receive() -> dict[str, Any]:
        nonlocal is_read
        if not is_read:
            is_read = True
            return (
                {"type": "websocket.connect"}
                if is_socket
                else {"type": "http.request", "body": body, "more_body": False}
            )
        await is_left.wait()
        return {"type": "websocket.disconnect", "code": 1001} if is_socket else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        nonlocal status
        if "status" in message or message["type"] in ("websocket.accept", "websocket.close"):
            status = message.get("status") or status or (101 if message["type"] == "websocket.accept" else 403)
            is_left.set()

    async with asyncio.timeout(TIMEOUT_S):
        await app(scope, receive, send)  # type: ignore[arg-type]
    assert status, request
    return status


def read() -> dict[str, dict[str, list[int]]]:
    """The recorded table of each app."""
    return {app: found["routes"] for app, found in tomllib.loads(FILE.read_text()).items()}


def write(app: str, table: dict[str, list[int]]) -> None:
    """Record the table of one app, and keep that of the other."""
    tables = (read() if FILE.exists() else {}) | {app: table}
    FILE.write_text(to_text({name: tables[name] for name in ACTORS if name in tables}))


def to_text(tables: Mapping[str, Mapping[str, list[int]]]) -> str:
    """The tables as TOML: a line for each route, a column for each caller."""
    lines = ["# The status that each caller gets from each route; tests/support/permissions.py says what they send."]
    for app, table in tables.items():
        actors, width = ACTORS[app], max(map(len, table)) + 2
        head = ", ".join(f'"{actor}"' for actor in actors)
        lines += ["", f"[{app}]", f"actors = [{head}]", "", f"[{app}.routes]"]
        lines.append(f"{'# route':{width}}    {'  '.join(actors)}")
        for route, statuses in sorted(table.items(), key=lambda row: row[0].split()[::-1]):
            if note := NOTES.get(route):
                lines.append(f"# {note}.")
            cells = "  ".join(f"{status},".ljust(len(actor)) for status, actor in zip(statuses, actors, strict=True))
            quoted = f'"{route}"'
            lines.append(f"{quoted:{width}} = [{cells.rstrip().rstrip(',')}]")
    return "\n".join(lines) + "\n"
