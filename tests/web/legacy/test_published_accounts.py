"""Accounts as clients of 2020 manage them: by the headers ``token`` and ``private-key``, and over the WebSocket.

Should happen: each check comes in the published order, with the published status and text; the WebSocket answers as the
routes do, at a Domain and at a Network.
Should not happen: a token works here without the private key of its user; anybody gains a role that way, or by twenty
sign-ups at once; a listing has a private key.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from litestar import Litestar

from pygrid.legacy.websocket import LegacyCaller, Published, answer
from pygrid.network import build_network
from pygrid.settings import load_network_settings
from pygrid.web.services import service
from support.web import PASSWORD, People, running

FLAGS = (
    *("can_triage_requests", "can_edit_settings", "can_create_users", "can_create_groups", "can_edit_roles"),
    *("can_manage_infrastructure", "can_upload_data"),
)
MISSING, INVALID, DENIED = (
    "Missing request key!",
    "Invalid credentials!",
    "User is not authorized for this operation!",
)
BAD_JSON = "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"


@dataclass
class Account:
    """A user, as a client of 2020 knows it."""

    id: int
    email: str
    private_key: str
    token: str

    @property
    def headers(self) -> dict[str, str]:
        return {"token": self.token, "private-key": self.private_key}


async def sign_up(web: httpx.AsyncClient, name: str, role: int | None = None, by: Account | None = None) -> Account:
    people, email = People(web), f"{name}@example.org"
    body = {"email": email, "password": PASSWORD, **({"role": role} if role else {})}
    made = await web.post("/users", json=body, headers=by.headers if by else {})
    assert made.status_code == 200, made.text
    user = made.json()["user"]
    token = (await people.log_in(email))["Authorization"].removeprefix("Bearer ")
    return Account(user["id"], email, user["private_key"], token)


@pytest.fixture
async def owner(web: httpx.AsyncClient) -> Account:
    return await sign_up(web, "owner")


@pytest.fixture
async def user(web: httpx.AsyncClient, owner: Account) -> Account:
    return await sign_up(web, "user")


async def test_the_published_order_of_checks(web: httpx.AsyncClient, owner: Account, user: Account) -> None:
    role = {"name": "mario mario", **dict.fromkeys(FLAGS, False)}
    own, wrong = user.headers, {**user.headers, "private-key": owner.private_key}
    cases: list[tuple[Mapping[str, str], str, int, str]] = [
        ({}, "{bad", 400, MISSING),
        ({"private-key": user.private_key}, "{bad", 400, MISSING),
        ({"token": "guessed"}, "{bad", 403, INVALID),
        ({"token": user.token}, "{bad", 400, BAD_JSON),
        (own, "{bad", 400, BAD_JSON),
        (wrong, "{bad", 400, BAD_JSON),
        ({"token": user.token}, json.dumps(role), 400, MISSING),
        (wrong, json.dumps({"name": "x"}), 400, MISSING),
        (wrong, json.dumps(role), 403, INVALID),
        ({**own, "private-key": "0" * 64}, json.dumps(role), 403, INVALID),
        (own, json.dumps(role), 403, DENIED),
    ]
    for headers, body, status, text in cases:
        found = await web.post("/roles", content=body, headers=headers)
        assert (found.status_code, found.json()["error"]) == (status, text), (headers, body)
    # The permission comes before the target.
    for method, path, more in (
        ("PUT", "/roles/99", {"name": "x"}),
        ("DELETE", "/roles/99", None),
        ("GET", "/roles/99", None),
        ("PUT", "/users/99/email", {"email": "x@example.org"}),
        ("PUT", "/users/99/role", {"role": 1}),
        ("PUT", "/users/99/groups", {"groups": []}),
        ("DELETE", "/users/99", None),
        ("GET", "/users/99", None),
        ("GET", "/groups/99", None),
        ("PUT", "/groups/99", {"name": "x"}),
        ("DELETE", "/groups/99", None),
    ):
        for account, status in ((user, 403), (owner, 404)):
            found = await web.request(method, path, json=more, headers=account.headers)
            assert found.status_code == status, (method, path, found.text)


async def test_bad_json_has_pythons_words_and_any_content_type_is_read(web: httpx.AsyncClient, owner: Account) -> None:
    for path in ("/users", "/users/login", "/users/search", "/roles", "/groups"):
        for body, text in (("{bad", BAD_JSON), ("", "Expecting value: line 1 column 1 (char 0)")):
            found = await web.post(path, content=body, headers=owner.headers)
            assert (found.status_code, found.json()["error"]) == (400, text)
    form = {**owner.headers, "content-type": "application/x-www-form-urlencoded"}
    assert (await web.post("/groups", content='{"name": "g"}', headers=form)).json()["group"]["name"] == "g"
    anybody = {"content-type": "application/x-www-form-urlencoded"}
    body = json.dumps({"email": "x@example.org", "password": PASSWORD})
    assert (await web.post("/users", content=body, headers=anybody)).status_code == 415, "a form of a page can send it"


async def test_sign_up_and_login_with_a_private_key(web: httpx.AsyncClient, owner: Account, user: Account) -> None:
    made = {"email": "n1@example.org", "password": PASSWORD, "role": 3}
    alone = await web.post("/users", json=made, headers={"token": owner.token})
    assert alone.json()["user"]["role"]["name"] == "User", "a token alone has no effect, as published"
    both = await web.post("/users", json={**made, "email": "n2@example.org", "role": 4}, headers=owner.headers)
    assert both.json()["user"]["role"]["name"] == "Owner"
    mixed = {"token": owner.token, "private-key": user.private_key}
    stolen = await web.post("/users", json={**made, "email": "n3@example.org"}, headers=mixed)
    assert (stolen.status_code, stolen.json()["error"]) == (403, INVALID)
    body = {"email": user.email, "password": PASSWORD}
    for key, status in ((user.private_key, 200), (owner.private_key, 403), ("0" * 64, 403)):
        assert (await web.post("/users/login", json=body, headers={"private-key": key})).status_code == status


async def test_bodies_have_the_published_members(web: httpx.AsyncClient, owner: Account) -> None:
    roles = (await web.get("/roles", headers=owner.headers)).json()["roles"]
    assert list(roles[0]) == ["id", "name", *FLAGS]
    new = {"name": "mario mario", **dict.fromkeys(FLAGS, False), "can_upload_data": True}
    made = (await web.post("/roles", json=new, headers=owner.headers)).json()["role"]
    assert made == {"id": made["id"], **new}
    bearer = {"Authorization": f"Bearer {owner.token}"}
    path = f"/roles/{made['id']}"
    assert (await web.get(path, headers=bearer)).json()["role"]["can_host_models"]
    changed = {"can_upload_data": False}
    assert (await web.put(path, json=changed, headers=owner.headers)).json()["role"] == {**made, **changed}
    assert not (await web.get(path, headers=bearer)).json()["role"]["can_host_models"]
    deleted = (await web.delete(path, headers=owner.headers)).json()
    assert deleted["user"] == {**made, **changed}
    users = (await web.get("/users", headers=owner.headers)).json()["users"]
    assert list(users[0]) == ["id", "email", "role", "groups"]


async def test_search_by_email_role_and_group(web: httpx.AsyncClient, owner: Account, user: Account) -> None:
    group = (await web.post("/groups", json={"name": "nurses"}, headers=owner.headers)).json()["group"]
    groups = {"groups": [group["id"]]}
    assert (await web.put(f"/users/{user.id}/groups", json=groups, headers=owner.headers)).status_code == 200
    for wanted in ({"group": group["id"]}, {"group": "nurs"}, {"role": 1}, {"email": "user@", "group": group["id"]}):
        found = (await web.post("/users/search", json=wanted, headers=owner.headers)).json()["users"]
        assert [one["id"] for one in found] == [user.id], wanted
    assert (await web.post("/users/search", json={"group": 99}, headers=owner.headers)).json()["users"] == []
    nothing = await web.post("/users/search", json={}, headers=owner.headers)
    assert (nothing.status_code, nothing.json()["error"]) == (400, MISSING)


# The WebSocket


class Talk:
    """Messages to a running app, without a socket."""

    def __init__(self, app: Litestar) -> None:
        self.published = service(app.state, Published)
        self._caller = LegacyCaller(app.state.authenticator, "127.0.0.1")

    async def say(self, kind: str, by: Account | None = None, **fields: Any) -> dict[str, Any]:
        message = {"type": kind, "request_id": "r", **(by.headers if by else {}), **fields}
        found = await answer(self.published, self._caller, json.dumps(message))
        assert isinstance(found, dict)
        assert (found.pop("type"), found.pop("request_id")) == (kind, "r")
        return found

    async def sign_up(self, name: str, **fields: Any) -> Account:
        user = await self.say("signup-user", email=f"{name}@example.org", password=PASSWORD, **fields)
        assert user["success"], user
        user = user["user"]
        session = await self.say(
            "login-user", email=user["email"], password=PASSWORD, **{"private-key": user["private_key"]}
        )
        return Account(user["id"], user["email"], user["private_key"], session["token"])


@pytest.fixture
async def talk(web: httpx.AsyncClient, domain: Litestar) -> Talk:
    return Talk(domain)


async def test_every_message_of_accounts_answers_as_its_route(web: httpx.AsyncClient, talk: Talk) -> None:
    owner = await talk.sign_up("owner")
    user = await talk.sign_up("user")

    async def same(kind: str, path: str, **fields: Any) -> dict[str, Any]:
        said = await talk.say(kind, owner, **fields)
        assert said == (await web.get(path, headers=owner.headers)).json()
        return said

    assert len((await same("list-users", "/users"))["users"]) == 2
    await same("list-user", f"/users/{user.id}", id=user.id)
    await same("get-all-roles", "/roles")
    await same("get-role", "/roles/3", id=3)
    new_role = {"name": "Helper", **dict.fromkeys(FLAGS, False)}
    role = (await talk.say("create-role", owner, role=new_role))["role"]
    assert role == {"id": role["id"], **new_role}
    edited = (await talk.say("put-role", owner, id=role["id"], role={"can_triage_requests": True}))["role"]
    assert edited == {**role, "can_triage_requests": True}
    assert (await talk.say("put-role", owner, id=user.id, role=role["id"]))["user"]["role"] == edited
    group = (await talk.say("create-group", owner, name="students"))["group"]
    await same("get-group", f"/groups/{group['id']}", id=group["id"])
    await same("get-all-groups", "/groups")
    assert (await talk.say("put-group", owner, id=1, name="pupils"))["group"] == {"id": 1, "name": "pupils"}
    assert (await talk.say("put-groups", owner, id=user.id, groups=[1]))["user"]["groups"][0]["name"] == "pupils"
    for wanted in ({"group": 1}, {"role": role["id"]}, {"email": "user@"}):
        assert [one["id"] for one in (await talk.say("search-users", owner, **wanted))["users"]] == [user.id]
    moved = await talk.say("put-email", owner, id=user.id, email="moved@example.org")
    assert moved["user"]["email"] == "moved@example.org"
    changed = await talk.say("put-password", owner, id=owner.id, password="another " + PASSWORD)
    owner.private_key = changed["user"]["private_key"]
    login = {"email": owner.email, "password": "another " + PASSWORD, "private_key": owner.private_key}
    owner.token = (await talk.say("login-user", **login))["token"]
    assert (await talk.say("delete-group", owner, id=1))["group"]["name"] == "pupils"
    assert (await talk.say("delete-user", owner, id=user.id))["user"]["email"] == "moved@example.org"
    assert (await talk.say("delete-role", owner, id=role["id"]))["user"] == edited


async def test_group_answers_are_texts_in_texts_unless_they_carry_an_id(talk: Talk) -> None:
    owner = await talk.sign_up("owner")
    message = {"type": "create-group", "name": "students", **owner.headers}
    caller = LegacyCaller(talk._caller._authenticator, "127.0.0.1")
    found = await answer(talk.published, caller, json.dumps(message))
    assert isinstance(found, str)
    assert json.loads(found) == {"type": "create-group", "success": True, "group": {"id": 1, "name": "students"}}
    again = await answer(talk.published, caller, json.dumps(message))
    assert isinstance(again, str)
    assert json.loads(again)["code"] == "group_exists"


async def test_refusals_over_the_websocket(talk: Talk) -> None:
    owner = await talk.sign_up("owner")
    user = await talk.sign_up("user", role=4)
    assert (await talk.say("list-users", token=5))["error"] == MISSING
    text = "it must be a whole number, not a text - at `$.id`"
    missing = ({"id": 99}, "Role ID not found!"), ({}, MISSING), ({"id": "x"}, text)
    for fields, text in missing:
        assert (await talk.say("get-role", owner, **fields))["error"] == text
    assert (await talk.say("put-role", owner, id=1, role="Owner"))["code"] == "invalid_input"
    assert (await talk.say("put-role", owner, id=1))["error"] == MISSING
    no_key = await talk.say("login-user", email=user.email, password=PASSWORD)
    assert no_key["error"] == MISSING
    for found in (
        await talk.say("put-role", user, id=user.id, role=4),
        await talk.say("signup-user", email="n@example.org", password=PASSWORD, role=4, **{"private-key": "x"}),
        await talk.say("put-role", owner, id=owner.id, role=1),
        await talk.say("delete-user", owner, id=owner.id),
    ):
        assert found["error"] in (DENIED, INVALID)


async def test_of_twenty_sign_ups_at_once_one_is_the_owner(talk: Talk) -> None:
    made = await asyncio.gather(
        *(talk.say("signup-user", email=f"u{n}@example.org", password=PASSWORD, role=4) for n in range(20))
    )
    assert sorted(one["user"]["role"]["name"] for one in made) == ["Owner"] + ["User"] * 19
    same = await asyncio.gather(
        *(talk.say("signup-user", email="same@example.org", password=PASSWORD) for _ in range(20))
    )
    assert [one.get("code") for one in same].count("email_taken") == 19


async def test_accounts_over_the_websocket_of_a_network(tmp_path: Path) -> None:
    app = build_network(load_network_settings({}, data_dir=tmp_path, id="net"))
    async with running(app) as web:
        talk = Talk(app)
        owner = await talk.sign_up("owner")
        user = await talk.sign_up("user")
        assert (await web.get("/")).text == "Open Grid Network"
        assert "groups" not in (await talk.say("list-user", owner, id=user.id))["user"]
        assert len((await talk.say("list-roles", owner))["roles"]) == 3
        assert (await talk.say("list-role", owner, id=4))["role"]["name"] == "Owner"
        flags = ("can_edit_settings", "can_create_users", "can_edit_roles", "can_manage_nodes")
        role = (await talk.say("create-role", owner, role={"name": "Helper", **dict.fromkeys(flags, False)}))["role"]
        assert (await talk.say("put-role", owner, id=role["id"], role={"name": "Other"}))["role"]["name"] == "Other"
        changed = await talk.say("update-user-role", owner, id=user.id, role=role["id"])
        assert changed["user"]["role"]["name"] == "Other"
        not_understood = {"status": "error", "message": "Invalid request format!"}
        for kind in ("join", "monitor-answer", "forward", "create-group", "get-all-roles", "model-centric/report"):
            found = await answer(talk.published, talk._caller, json.dumps({"type": kind}))
            assert found == {"type": kind, **not_understood}
        for text in ("{bad", "[]", "", "5"):
            assert await answer(talk.published, talk._caller, text) == not_understood
