"""Invitations and lost passwords: one-time codes.

Should happen: an invited person gets the account and the role, once; a user with a reset code chooses a password, and
what was made with the old one ends; both are in the audit log.
Should not happen: a code works twice, late, or for another purpose; it is stored or shown again; it is guessed quickly;
somebody hands out what they do not have, also after they lost it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from litestar import Litestar

from pygrid.clock import ManualClock
from pygrid.domain import build_domain
from pygrid.settings import load_settings
from pygrid.storage.audit import list_entries
from pygrid.storage.one_time_codes import one_time_codes
from pygrid.storage.sql.database import Database
from pygrid.web.services import service
from support.web import PASSWORD, People, assert_problem, running

Web = httpx.AsyncClient
NEW = "another horse battery"


@pytest.fixture
def app(tmp_path: Path, clock: ManualClock) -> Litestar:
    return build_domain(load_settings({}, data_dir=tmp_path, open_signup=False), clock=clock)


@pytest.fixture
async def site(app: Litestar) -> AsyncIterator[Web]:
    async with running(app) as web:
        yield web


async def _invite(web: Web, headers: dict[str, str], email: str = "bob@example.org", **more: Any) -> Any:
    answer = await web.post("/users/invitations", json={"email": email, **more}, headers=headers)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def _accept(web: Web, code: str, password: str = PASSWORD) -> httpx.Response:
    return await web.post("/users/invitations/accept", json={"code": code, "password": password})


async def _reset(web: Web, code: str, password: str = NEW) -> httpx.Response:
    return await web.post("/users/password-reset", json={"code": code, "password": password})


async def _add(web: Web, owner: dict[str, str], email: str, role: int = 1) -> tuple[int, dict[str, str]]:
    answer = await web.post("/users", json={"email": email, "password": PASSWORD, "role": role}, headers=owner)
    return answer.json()["user"]["id"], await People(web).log_in(email)


async def test_an_invited_person_gets_account_and_role_once(site: Web, app: Litestar) -> None:
    owner = await People(site).owner()
    made = await _invite(site, owner, " Bob@example.org", role=5)
    assert (made["invitation"]["email"], made["invitation"]["role"]) == ("Bob@example.org", "Model Owner")
    assert made["invitation"]["invited_by"] == "owner@example.org"
    listed = (await site.get("/users/invitations", headers=owner)).json()["invitations"]
    assert listed == [made["invitation"]]
    stored = await service(app.state, Database).read(lambda c: [*map(str, c.execute(sa.select(one_time_codes)))])
    assert made["code"].replace("-", "") not in "".join(stored)
    answers = await asyncio.gather(*(_accept(site, made["code"].upper()) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [200] + [403] * 4
    bob = await People(site).log_in("bob@example.org")
    assert (await site.get("/users/me", headers=bob)).json()["user"]["role"]["name"] == "Model Owner"
    assert_problem(await _accept(site, made["code"]), 403, "code_not_valid")
    assert_problem(
        await site.post("/users/invitations", json={"email": "BOB@example.org"}, headers=owner), 409, "email_taken"
    )


async def test_a_code_expires_is_replaced_and_is_withdrawn(site: Web, clock: ManualClock) -> None:
    owner = await People(site).owner()
    late = await _invite(site, owner, expires_in_h=1)
    clock.advance(3600)
    assert_problem(await _accept(site, late["code"]), 403, "code_not_valid")
    assert (await site.get("/users/invitations", headers=owner)).json()["invitations"] == []
    first, second = await _invite(site, owner), await _invite(site, owner, "BOB@example.org")
    assert_problem(await _accept(site, first["code"]), 403, "code_not_valid")
    path = f"/users/invitations/{second['invitation']['id']}"
    assert (await site.delete(path, headers=owner)).status_code == 200
    assert_problem(await site.delete(path, headers=owner), 404, "user_invitation_not_found")
    assert_problem(await _accept(site, second["code"]), 403, "code_not_valid")
    for hours in (0, 721, -1):
        body = {"email": "x@example.org", "expires_in_h": hours}
        assert_problem(await site.post("/users/invitations", json=body, headers=owner), 400, "invalid_expiry")
    weak = await _invite(site, owner)
    assert_problem(await _accept(site, weak["code"], "short"), 400, "weak_password")
    assert (await _accept(site, weak["code"])).status_code == 200


async def test_nobody_invites_above_themselves_or_after_they_fell(site: Web) -> None:
    owner = await People(site).owner()
    admin_id, admin = await _add(site, owner, "admin@example.org", 3)
    body = {"email": "eve@example.org", "role": 4}
    assert_problem(await site.post("/users/invitations", json=body, headers=admin), 403, "not_permitted")
    made = await _invite(site, admin, role=3)
    assert (await site.put(f"/users/{admin_id}/role", json={"role": 1}, headers=owner)).status_code == 200
    assert_problem(await _accept(site, made["code"]), 403, "code_not_valid")
    fallen = await People(site).log_in("admin@example.org")
    problem = assert_problem(await site.post("/users/invitations", json=body, headers=fallen), 403, "not_permitted")
    assert "can_create_users" in problem["detail"]
    assert_problem(await site.get("/users/invitations", headers=fallen), 403, "not_permitted")
    made = await _invite(site, owner, "carol@example.org")
    assert (await site.delete(f"/users/{admin_id}", headers=owner)).status_code == 200
    assert (await _accept(site, made["code"])).status_code == 200


async def test_a_lost_password_is_replaced_and_all_else_ends(site: Web, app: Litestar, clock: ManualClock) -> None:
    owner = await People(site).owner()
    user_id, session = await _add(site, owner, "bob@example.org")
    token = (await site.post("/users/me/tokens", json={"name": "t"}, headers=session)).json()["token"]
    made = (await site.post(f"/users/{user_id}/password-reset", json={}, headers=owner)).json()
    assert made["email"] == "bob@example.org"
    assert (await site.get("/users/me", headers=session)).status_code == 200, "nothing ends before it is used"
    assert_problem(await _accept(site, made["code"]), 403, "code_not_valid")
    assert (await _reset(site, made["code"])).json() == {"success": True, "email": "bob@example.org"}
    for headers in (session, {"Authorization": f"Bearer {token}"}):
        assert_problem(await site.get("/users/me", headers=headers), 403, "invalid_credentials")
    assert_problem(await _reset(site, made["code"]), 403, "code_not_valid")
    wrong = await site.post("/users/login", json={"email": "bob@example.org", "password": PASSWORD})
    assert_problem(wrong, 403, "invalid_credentials")
    await People(site).log_in("bob@example.org", NEW)
    made = (await site.post(f"/users/{user_id}/password-reset", json={}, headers=owner)).json()
    clock.advance(24 * 3600)
    assert_problem(await _reset(site, made["code"]), 403, "code_not_valid")
    entries = await service(app.state, Database).read(lambda connection: list_entries(connection, 0, 1000))
    acts = [(entry.action, entry.actor) for entry in entries if "reset" in entry.action]
    assert acts == [("password_reset_made", 1), ("password_reset", user_id), ("password_reset_made", 1)]
    assert made["code"] not in str(entries)


async def test_a_reset_needs_the_rights_for_the_account(site: Web) -> None:
    owner = await People(site).owner()
    admin_id, admin = await _add(site, owner, "admin@example.org", 3)
    _, user = await _add(site, owner, "user@example.org")
    assert_problem(await site.post("/users/1/password-reset", json={}, headers=admin), 403, "not_permitted")
    assert_problem(await site.post(f"/users/{admin_id}/password-reset", json={}, headers=user), 403, "not_permitted")
    assert_problem(await site.post("/users/99/password-reset", json={}, headers=owner), 404, "user_not_found")
    made = (await site.post("/users/3/password-reset", json={}, headers=admin)).json()
    assert (await site.put("/users/3/role", json={"role": 4}, headers=owner)).status_code == 200
    assert_problem(await _reset(site, made["code"]), 403, "code_not_valid")
    changed = (await site.post("/users/3/password-reset", json={}, headers=owner)).json()
    own = await People(site).log_in("user@example.org")
    assert (await site.put("/users/3/password", json={"password": NEW}, headers=own)).status_code == 200
    assert_problem(await _reset(site, changed["code"]), 403, "code_not_valid")


async def test_guesses_are_limited(site: Web) -> None:
    owner = await People(site).owner()
    made = await _invite(site, owner)
    answers = [await _accept(site, f"guess-{number}") for number in range(51)]
    assert [answer.status_code for answer in answers] == [403] * 50 + [429]
    assert_problem(await _accept(site, made["code"]), 429, "too_many_attempts")
