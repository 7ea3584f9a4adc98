"""API tokens of users.

Should happen: a token does what its user's role allows, or reads only; it is listed with its last use, expires, and is
revoked by hand, with the password and with the account.
Should not happen: a token changes an account, a role or a credential; its text is stored or shown again; a user sees or
revokes that of another.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import sqlalchemy as sa
from litestar import Litestar

from pygrid.clock import ManualClock
from pygrid.storage.api_tokens import api_tokens
from pygrid.storage.audit import list_entries
from pygrid.storage.sql.database import Database
from pygrid.tensors import encode
from pygrid.web.services import service
from support.training import config, form, model
from support.web import PASSWORD, People, assert_problem

Web = httpx.AsyncClient


async def _make(web: Web, headers: dict[str, str], name: str = "nightly", **more: Any) -> tuple[Any, dict[str, str]]:
    answer = await web.post("/users/me/tokens", json={"name": name, **more}, headers=headers)
    assert answer.status_code == 201, answer.text
    made = answer.json()
    return made, {"Authorization": f"Bearer {made['token']}"}


async def test_a_token_does_what_the_role_allows(web: Web, people: People, domain: Litestar) -> None:
    owner = await people.owner()
    made, token = await _make(web, owner)
    assert made["token"].startswith("pgt_")
    parts = form(config(), encode(model()))
    assert (await web.post("/model-centric/host-training", files=parts, headers=token)).status_code == 201
    assert (await web.get("/users", headers=token)).status_code == 200
    assert (await web.post("/users/search", json={"email": "owner"}, headers=token)).status_code == 200
    user = await people.with_role(3, owner)
    _, token = await _make(web, user)
    assert (await web.get("/users", headers=token)).status_code == 200
    await web.put("/users/2/role", json={"role": 1}, headers=owner)
    assert_problem(await web.get("/users", headers=token), 403, "not_permitted")
    stored = await service(domain.state, Database).read(lambda c: [*map(str, c.execute(sa.select(api_tokens)))])
    assert made["token"] not in "".join(stored)


async def test_a_token_changes_no_account_role_or_credential(web: Web, people: People) -> None:
    owner = await people.owner()
    made, token = await _make(web, owner)
    await people.sign_up("bob@example.org")
    changes: list[tuple[str, str, Any]] = [
        ("POST", "/users", {"email": "eve@example.org", "password": PASSWORD, "role": 4}),
        ("PUT", "/users/1/password", {"password": "another horse battery"}),
        ("PUT", "/users/1/email", {"email": "eve@example.org"}),
        ("PUT", "/users/2/role", {"role": 4}),
        ("DELETE", "/users/2", None),
        ("POST", "/users/invitations", {"email": "eve@example.org", "role": 4}),
        ("POST", "/users/2/password-reset", {}),
        ("POST", "/users/me/private-key", {}),
        ("POST", "/users/me/tokens", {"name": "more"}),
        ("DELETE", f"/users/me/tokens/{made['api_token']['id']}", None),
        ("POST", "/roles", {"name": "x"}),
        ("PUT", "/roles/3", {"name": "x"}),
        ("POST", "/groups", {"name": "x"}),
        ("POST", "/users/logout", None),
    ]
    for method, path, body in changes:
        assert_problem(await web.request(method, path, json=body, headers=token), 403, "session_needed")
        twice = {"token": token["Authorization"].removeprefix("Bearer ")}
        assert_problem(await web.request(method, path, json=body, headers=twice), 403, "session_needed")
    assert (await web.get("/users/2", headers=owner)).json()["user"]["role"]["name"] == "User"


async def test_a_reading_token_only_reads(web: Web, people: People) -> None:
    owner = await people.owner()
    _, token = await _make(web, owner, scope="read")
    for path in ("/users", "/users/me/tokens", "/model-centric/processes", "/data-centric/datasets"):
        assert (await web.get(path, headers=token)).status_code == 200
    parts = form(config(), encode(model()))
    refused = await web.post("/model-centric/host-training", files=parts, headers=token)
    assert_problem(refused, 403, "token_reads_only")
    assert_problem(await web.post("/users/search", json={"email": "x"}, headers=token), 403, "token_reads_only")
    assert_problem(await web.post("/data-centric/workers", json={"name": "x"}, headers=token), 403, "token_reads_only")


async def test_a_token_ends_by_time_by_hand_with_password_and_account(
    web: Web, people: People, clock: ManualClock
) -> None:
    owner = await people.owner()
    made, token = await _make(web, owner, expires_in_days=1)
    clock.advance(12 * 3600 - 1)
    assert (await web.get("/users/me", headers=token)).status_code == 200
    clock.advance(12 * 3600 + 1)
    assert_problem(await web.get("/users/me", headers=token), 403, "invalid_credentials")
    owner = await people.log_in("owner@example.org")
    made, token = await _make(web, owner, "by hand")
    path = f"/users/me/tokens/{made['api_token']['id']}"
    other = await people.with_role(1, owner)
    assert_problem(await web.delete(path, headers=other), 404, "token_not_found")
    assert (await web.get("/users/me/tokens", headers=other)).json()["api_tokens"] == []
    assert (await web.delete(path, headers=owner)).status_code == 200
    assert_problem(await web.get("/users/me", headers=token), 403, "invalid_credentials")
    _, token = await _make(web, other)
    await web.put("/users/2/password", json={"password": "another horse battery"}, headers=owner)
    assert_problem(await web.get("/users/me", headers=token), 403, "invalid_credentials")
    _, token = await _make(web, await people.log_in("other@example.org", "another horse battery"))
    await web.delete("/users/2", headers=owner)
    assert_problem(await web.get("/users/me", headers=token), 403, "invalid_credentials")


async def test_the_last_use_is_shown_and_acts_are_audited(
    web: Web, people: People, clock: ManualClock, domain: Litestar
) -> None:
    owner = await people.owner()
    made, token = await _make(web, owner)
    assert made["api_token"]["last_used_at"] is None
    for seconds, is_new in ((1, True), (299, False), (2, True)):
        clock.advance(seconds)
        await web.get("/users/me", headers=token)
        (listed,) = (await web.get("/users/me/tokens", headers=owner)).json()["api_tokens"]
        assert (listed["last_used_at"] == clock.now().isoformat().replace("+00:00", "Z")) is is_new
    await web.delete(f"/users/me/tokens/{listed['id']}", headers=owner)
    entries = await service(domain.state, Database).read(lambda connection: list_entries(connection, 0, 1000))
    acts = [entry.action for entry in entries if entry.action.startswith("token")]
    assert acts == ["token_made", "token_revoked"]
    assert made["token"] not in str(entries)


async def test_what_is_asked_for_is_checked(web: Web, people: People) -> None:
    owner = await people.owner()
    for body, code in (
        ({"name": " x"}, "invalid_name"),
        ({"name": "x", "expires_in_days": 0}, "invalid_expiry"),
        ({"name": "x", "expires_in_days": 367}, "invalid_expiry"),
        ({"name": "x", "scope": "session"}, "invalid_input"),
    ):
        assert_problem(await web.post("/users/me/tokens", json=body, headers=owner), 400, code)
    await _make(web, owner, "x")
    assert_problem(await web.post("/users/me/tokens", json={"name": "x"}, headers=owner), 409, "token_exists")
    await asyncio.gather(*(_make(web, owner, f"x{number}") for number in range(49)))
    assert_problem(await web.post("/users/me/tokens", json={"name": "y"}, headers=owner), 429, "too_many_tokens")
    for text in ("pgt_", "pgt_" + "0" * 64, "pgt_\u00e9"):
        answer = await web.get("/users/me", headers={"Authorization": f"Bearer {text}".encode()})
        assert_problem(answer, 403, "invalid_credentials")


async def test_a_name_is_free_after_its_token_has_expired(web: Web, people: People, clock: ManualClock) -> None:
    owner = await people.owner()
    await _make(web, owner, "nightly", expires_in_days=1)
    _, other = await _make(web, owner, "weekly", expires_in_days=7)
    clock.advance(24 * 3600)
    owner = await people.log_in("owner@example.org")
    _, token = await _make(web, owner, "nightly", expires_in_days=1)
    for headers in (token, other):
        assert (await web.get("/users/me", headers=headers)).status_code == 200
    names = [one["name"] for one in (await web.get("/users/me/tokens", headers=owner)).json()["api_tokens"]]
    assert names == ["weekly", "nightly"]


async def test_tokens_of_others_are_ended_by_those_who_may_change_the_account(
    web: Web, people: People, domain: Litestar
) -> None:
    owner = await people.owner()
    administrator = await people.with_role(3, owner, "administrator@example.org")
    user = await people.with_role(1, owner, "user@example.org")
    (_, of_owner), (made, of_user) = await _make(web, owner), await _make(web, user)
    token_id = made["api_token"]["id"]
    listed = (await web.get("/users/3/tokens", headers=administrator)).json()["api_tokens"]
    assert [token["name"] for token in listed] == ["nightly"]
    # A user, a token, and an Administrator over an Owner.
    for path, headers, code in (
        ("/users/1/tokens", user, "not_permitted"),
        ("/users/1/tokens", administrator, "not_permitted"),
    ):
        assert_problem(await web.get(path, headers=headers), 403, code)
        assert_problem(await web.delete(f"{path}/1", headers=headers), 403, code)
    assert_problem(await web.delete(f"/users/3/tokens/{token_id}", headers=of_owner), 403, "session_needed")
    assert_problem(await web.delete(f"/users/2/tokens/{token_id}", headers=owner), 404, "token_not_found")
    assert (await web.get("/users/me", headers=of_user)).status_code == 200
    assert (await web.delete(f"/users/3/tokens/{token_id}", headers=administrator)).status_code == 200
    assert_problem(await web.get("/users/me", headers=of_user), 403, "invalid_credentials")
    newest = (await service(domain.state, Database).read(lambda connection: list_entries(connection, 0, 1000)))[-1]
    assert (newest.action, newest.actor, newest.data["user_id"]) == ("token_revoked", 2, 3)


async def test_a_wrong_scope_is_answered_with_the_valid_ones(web: Web, people: People) -> None:
    refused = await web.post("/users/me/tokens", json={"name": "n", "scope": "raed"}, headers=await people.owner())
    assert_problem(refused, 400, "invalid_input")
    assert refused.json()["detail"] == "scope: 'raed' is not one of its values; use all or read"
