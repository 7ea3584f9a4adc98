"""Each operation on accounts with each check of the published order, as the tests of PyGrid of 2020 went through them.

Every route of users, roles and groups and every message of the same, at a Domain and at a Network: without credentials,
with half of them, with those of others, without the permission, with bad JSON, without a field, on a missing target.
Should happen: each refusal has its published status and text, and afterwards the operation works.
Should not happen: a refusal changes anything.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from litestar import Litestar

from pygrid.clock import ManualClock
from pygrid.domain import build_domain
from pygrid.network import build_network
from pygrid.settings import load_network_settings, load_settings
from support.web import running
from web.legacy.test_published_accounts import BAD_JSON, DENIED, FLAGS, INVALID, MISSING, Account, Talk, sign_up

Fields = dict[str, Any]
NETWORK_FLAGS = ("can_edit_settings", "can_create_users", "can_edit_roles", "can_manage_nodes")
NO_TARGET = {"users": "User ID not found!", "roles": "Role ID not found!", "groups": "Group ID not found!"}


@dataclass(frozen=True)
class Operation:
    """A route and the message that does the same. ``{}`` in the path is the id of the target."""

    method: str
    path: str
    kind: str
    result: str
    """Member of the answer."""
    body: Fields | None = None
    has_required: bool = True
    """Whether an empty body lacks a field."""
    wraps: str = ""
    """Member of the message that has the body; empty: they are at the top level."""

    @property
    def has_target(self) -> bool:
        return "{}" in self.path

    @property
    def noun(self) -> str:
        return self.path.split("/")[1]

    def message(self, target: int, body: Fields | None) -> Fields:
        found = {} if body is None else {self.wraps: body} if self.wraps else body
        return {**({"id": target} if self.has_target else {}), **found}


def operations(*, is_network: bool) -> list[Operation]:
    """All operations; the last ones delete their target."""
    flags = dict.fromkeys(NETWORK_FLAGS if is_network else FLAGS, False)
    role_of = "update-user-role" if is_network else "put-role"
    all_roles, one_role = ("list-roles", "list-role") if is_network else ("get-all-roles", "get-role")
    users = [
        Operation("GET", "/users", "list-users", "users"),
        Operation("GET", "/users/{}", "list-user", "user"),
        Operation("POST", "/users/search", "search-users", "users", {"email": "target"}),
        Operation("PUT", "/users/{}/email", "put-email", "user", {"email": "moved@example.org"}),
        Operation("PUT", "/users/{}/role", role_of, "user", {"role": 1}),
        Operation("PUT", "/users/{}/password", "put-password", "user", {"password": "another long password"}),
    ]
    roles = [
        Operation("GET", "/roles", all_roles, "roles"),
        Operation("GET", "/roles/{}", one_role, "role"),
        Operation("POST", "/roles", "create-role", "role", {"name": "mario mario", **flags}, wraps="role"),
        Operation("PUT", "/roles/{}", "put-role", "role", {"name": "luigi"}, has_required=False, wraps="role"),
    ]
    groups = [
        Operation("GET", "/groups", "get-all-groups", "groups"),
        Operation("GET", "/groups/{}", "get-group", "group"),
        Operation("POST", "/groups", "create-group", "group", {"name": "mario group"}),
        Operation("PUT", "/groups/{}", "put-group", "group", {"name": "luigi group"}),
        Operation("PUT", "/users/{}/groups", "put-groups", "user", {"groups": [1]}),
    ]
    ends = [
        Operation("DELETE", "/roles/{}", "delete-role", "user"),
        Operation("DELETE", "/groups/{}", "delete-group", "group"),
        Operation("DELETE", "/users/{}", "delete-user", "user"),
    ]
    return [one for one in (*users, *roles, *groups, *ends) if not is_network or "group" not in one.path]


@dataclass
class Matrix:
    """Runs the checks of operations, and lists what differs."""

    web: httpx.AsyncClient
    talk: Talk
    transport: str
    owner: Account
    user: Account
    targets: dict[str, int] = field(default_factory=dict)
    num_checks: int = 0
    wrong: list[Any] = field(default_factory=list)

    async def ask(
        self, one: Operation, credentials: Fields, body: Fields | str | None, target: int | None = None
    ) -> tuple[int, Fields]:
        """The status and the answer; 200 for each answer of the WebSocket."""
        target = self.targets[one.noun] if target is None else target
        if self.transport == "http":
            content = body if isinstance(body, str) or body is None else json.dumps(body)
            headers = {**credentials, "content-type": "application/json"}
            answer = await self.web.request(one.method, one.path.format(target), content=content, headers=headers)
            return answer.status_code, answer.json()
        assert not isinstance(body, str)
        return 200, await self.talk.say(one.kind, None, **credentials, **one.message(target, body))

    async def refuse(self, one: Operation, what: str, credentials: Fields, status: int, text: str, **more: Any) -> None:
        """Note a check whose answer is another one."""
        self.num_checks += 1
        found, answer = await self.ask(one, credentials, more.pop("body", one.body), **more)
        if (found, answer.get("error")) != (status if self.transport == "http" else 200, text):
            self.wrong.append((one.method, one.path, one.kind, what, found, answer))

    async def check_refusals(self, one: Operation) -> None:
        """Make every check of the published order that the operation can fail."""
        owner, user = self.owner, self.user
        for what, credentials, status, text in self.credentials():
            await self.refuse(one, what, credentials, status, text)
        await self.refuse(one, "the permission is missing", user.headers, 403, DENIED)
        if one.body is not None and self.transport == "http":
            await self.refuse(one, "bad JSON", user.headers, 400, BAD_JSON, body="{bad")
        if one.body is not None and one.has_required:
            await self.refuse(one, "a field is missing", owner.headers, 400, MISSING, body={})
            await self.refuse(one, "a field is null", owner.headers, 400, MISSING, body=dict.fromkeys(one.body))
        if one.has_target:
            await self.refuse(one, "the target is missing", owner.headers, 404, NO_TARGET[one.noun], target=999)

    def credentials(self) -> Iterator[tuple[str, Fields, int, str]]:
        """Credentials that are not complete, or not of one user."""
        owner, user = self.owner, self.user
        yield "no credentials", {}, 400, MISSING
        yield "no token", {"private-key": owner.private_key}, 400, MISSING
        yield "no key", {"token": owner.token}, 400, MISSING
        yield "a token of nobody", {**owner.headers, "token": "peppers"}, 403, INVALID
        yield "a key of nobody", {**owner.headers, "private-key": "I do not exist"}, 403, INVALID
        yield "the key of another user", {**owner.headers, "private-key": user.private_key}, 403, INVALID

    async def check_success(self, one: Operation) -> None:
        self.num_checks += 1
        credentials = self.owner.headers
        if self.transport == "http":  # the spelling of PyGrid's own tests
            credentials = {"token": self.owner.token, "private_key": self.owner.private_key}
        status, answer = await self.ask(one, credentials, one.body)
        if (status, answer.get("success"), one.result in answer) != (200, True, True):
            self.wrong.append((one.method, one.path, one.kind, "success", status, answer))


def built(app: str, folder: Path, clock: ManualClock) -> Litestar:
    if app == "network":
        return build_network(load_network_settings({}, data_dir=folder, id="net"), clock=clock)
    return build_domain(load_settings({}, data_dir=folder, id="test"), clock=clock)


@pytest.mark.parametrize("transport", ["http", "websocket"])
@pytest.mark.parametrize(("app", "num_checks"), [("domain", 18 * 7), ("network", 12 * 7)])
async def test_each_operation_with_each_check(
    app: str, num_checks: int, transport: str, tmp_path: Path, clock: ManualClock
) -> None:
    made, is_network = built(app, tmp_path, clock), app == "network"
    async with running(made) as web:
        owner, user, target = [await sign_up(web, name) for name in ("owner", "user", "target")]
        flags = dict.fromkeys(NETWORK_FLAGS if is_network else FLAGS, False)
        role = (await web.post("/roles", json={"name": "target", **flags}, headers=owner.headers)).json()["role"]["id"]
        if not is_network:
            await web.post("/groups", json={"name": "target"}, headers=owner.headers)
        matrix = Matrix(web, Talk(made), transport, owner, user)
        matrix.targets = {"users": target.id, "roles": role, "groups": 1}
        wanted = operations(is_network=is_network)
        before = await state(web, owner, is_network)
        for one in wanted:
            await matrix.check_refusals(one)
            clock.advance(61)  # a few wrong keys a minute are answered in this way
        assert await state(web, owner, is_network) == before
        for one in wanted:
            await matrix.check_success(one)
    assert not matrix.wrong, "\n".join(map(str, matrix.wrong))
    assert matrix.num_checks > num_checks


async def state(web: httpx.AsyncClient, owner: Account, is_network: bool) -> list[Any]:
    """What no refusal may change."""
    paths = ["/users", "/roles", *([] if is_network else ["/groups"])]
    return [(await web.get(path, headers=owner.headers)).json() for path in paths]


@pytest.mark.parametrize("transport", ["http", "websocket"])
async def test_users_change_and_delete_their_own_account(transport: str, tmp_path: Path, clock: ManualClock) -> None:
    made = built("domain", tmp_path, clock)
    async with running(made) as web:
        owner, user = [await sign_up(web, name) for name in ("owner", "user")]
        await web.post("/groups", json={"name": "nurses"}, headers=owner.headers)
        matrix = Matrix(web, Talk(made), transport, user, user, {"users": user.id})
        own = [one for one in operations(is_network=False) if one.kind in ("put-email", "put-groups", "delete-user")]
        for one in own:
            await matrix.check_success(one)
        found = (await web.get("/users", headers=owner.headers)).json()["users"]
    assert (matrix.wrong, matrix.num_checks, [one["id"] for one in found]) == ([], 3, [owner.id])
