"""The private key of the published interface of 2020: what it may do, and when it ends.

Should happen: a key signs others up with a role below its owner's; it ends with the password, a rotation or a
revocation; its use is limited.
Should not happen: a key makes an account as strong as its owner, opens a closed sign-up for one who may not make
accounts, or works where a session is wanted.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from litestar import Litestar
from test_accounts import ADMINISTRATOR, OWNER, USER

from pygrid.clock import ManualClock
from pygrid.domain import build_domain
from pygrid.features.accounts import attempts
from pygrid.features.accounts.service import AccountService
from pygrid.settings import load_settings
from pygrid.storage.accounts import users
from pygrid.storage.sql.database import Database
from pygrid.web.services import service
from support.web import PASSWORD, People, assert_problem, running

Web = httpx.AsyncClient


async def use(web: Web, key: str, email: str = "new@example.org", **more: Any) -> httpx.Response:
    """Sign somebody up by a private key."""
    body = {"email": email, "password": PASSWORD, **more}
    return await web.post("/users", json=body, headers={"private-key": key})


async def test_a_key_makes_no_owner_and_nobody_as_strong_as_its_owner(web: Web, people: People) -> None:
    key = (await people.sign_up("owner@example.org"))["private_key"]
    owner = await people.log_in("owner@example.org")
    refused = await use(web, key, role=OWNER)
    assert assert_problem(refused, 403, "not_permitted")["reason"] == "beyond_key"
    listed = (await web.get("/roles/4", headers=owner)).json()["role"]
    all_flags = {name: True for name in listed if name.startswith("can_")}
    strong = await web.post("/roles", json={"name": "as strong", **all_flags}, headers=owner)
    assert_problem(await use(web, key, role=strong.json()["role"]["id"]), 403, "not_permitted")
    admin = (await use(web, key, "admin@example.org", role=ADMINISTRATOR)).json()["user"]
    assert admin["role"]["name"] == "Administrator"
    assert_problem(await use(web, admin["private_key"], role=ADMINISTRATOR), 403, "not_permitted")
    assert (await use(web, admin["private_key"], role=USER)).status_code == 200
    assert (
        await web.post("/users", json={"email": "o@b.c", "password": PASSWORD, "role": OWNER}, headers=owner)
    ).status_code == 200


async def test_a_key_ends_with_the_password_and_a_new_one_comes(web: Web, people: People) -> None:
    before = (await people.sign_up("owner@example.org"))["private_key"]
    owner = await people.log_in("owner@example.org")
    answer = await web.put("/users/1/password", json={"password": "another password"}, headers=owner)
    after = answer.json()["user"]["private_key"]
    assert len(after) == 64
    assert_problem(await use(web, before, role=ADMINISTRATOR), 403, "invalid_credentials")
    assert (await use(web, after, role=ADMINISTRATOR)).status_code == 200


async def test_whoever_sets_the_password_of_another_learns_no_key(web: Web, people: People) -> None:
    owner = await people.owner()
    key = (await people.sign_up("user@example.org"))["private_key"]
    answer = await web.put("/users/2/password", json={"password": "another password"}, headers=owner)
    assert "private_key" not in answer.json()["user"]
    assert_problem(await use(web, key), 403, "invalid_credentials")


async def test_a_key_is_rotated_and_revoked(web: Web, people: People) -> None:
    first = (await people.sign_up("owner@example.org"))["private_key"]
    owner = await people.log_in("owner@example.org")
    second = (await web.post("/users/me/private-key", headers=owner)).json()["user"]["private_key"]
    assert_problem(await use(web, first), 403, "invalid_credentials")
    assert (await use(web, second, "a@example.org")).status_code == 200
    assert "private_key" not in (await web.delete("/users/1/private-key", headers=owner)).json()["user"]
    assert_problem(await use(web, second), 403, "invalid_credentials")
    assert_problem(await use(web, "revoked:1"), 403, "invalid_credentials")
    third = (await web.post("/users/me/private-key", headers=owner)).json()["user"]["private_key"]
    assert (await use(web, third, "b@example.org")).status_code == 200


async def test_who_may_revoke_the_key_of_whom(web: Web, people: People) -> None:
    owner = await people.owner()
    user = await people.with_role(USER, owner, "user@example.org")
    admin = await people.with_role(ADMINISTRATOR, owner, "admin@example.org")
    assert_problem(await web.delete("/users/1/private-key", headers=admin), 403, "not_permitted")
    assert_problem(await web.delete("/users/3/private-key", headers=user), 403, "not_permitted")
    assert_problem(await web.delete("/users/99/private-key", headers=admin), 404, "user_not_found")
    assert (await web.delete("/users/2/private-key", headers=admin)).status_code == 200
    assert_problem(await web.post("/users/me/private-key"), 400, "unauthenticated")


async def test_the_use_of_a_key_is_limited(web: Web, people: People, clock: ManualClock) -> None:
    key = (await people.sign_up("owner@example.org"))["private_key"]
    for number in range(attempts.MAX_KEY_USES):
        assert (await use(web, key, f"u{number}@example.org")).status_code == 200
    refused = await use(web, key, "one-more@example.org")
    assert_problem(refused, 429, "too_many_attempts")
    assert int(refused.headers["retry-after"]) >= 1
    clock.advance(65)
    assert (await use(web, key, "one-more@example.org")).status_code == 200


async def test_guessing_keys_is_limited_and_leaves_a_trace(web: Web, domain: Litestar, people: People) -> None:
    await people.owner()
    answers = [await use(web, f"{number:064x}") for number in range(attempts.MAX_PER_ADDRESS + 5)]
    assert [answer.status_code for answer in answers] == [403] * attempts.MAX_PER_ADDRESS + [429] * 5
    assert service(domain.state, AccountService).failures._num_failed == attempts.MAX_PER_ADDRESS
    assert service(domain.state, AccountService).failures._num_refused == 5


@pytest.mark.parametrize("by", ["key", "session"])
async def test_a_closed_sign_up_is_opened_by_those_only_who_may_make_accounts(tmp_path: Path, by: str) -> None:
    app = build_domain(load_settings({}, data_dir=tmp_path, open_signup=False))
    async with running(app) as web:
        people = People(web)
        owner = await people.owner()
        body = {"email": "user@example.org", "password": PASSWORD}
        key = (await web.post("/users", json=body, headers=owner)).json()["user"]["private_key"]
        headers = {"private-key": key} if by == "key" else await people.log_in("user@example.org")
        answer = await web.post("/users", json={"email": "friend@example.org", "password": PASSWORD}, headers=headers)
        assert_problem(answer, 403, "signup_closed")


async def test_the_key_is_stored_hashed_after_every_change(web: Web, domain: Litestar, people: People) -> None:
    await people.sign_up("owner@example.org")
    owner = await people.log_in("owner@example.org")
    rotated = (await web.post("/users/me/private-key", headers=owner)).json()["user"]["private_key"]
    rows = await service(domain.state, Database).read(lambda c: [str(row) for row in c.execute(sa.select(users))])
    assert not any(rotated in row for row in rows)


def test_the_step_to_0_2_revokes_the_keys_of_0_1(tmp_path: Path) -> None:
    """0.1 kept a key when the password changed, so a leaked one would go on being good."""
    program = """
import sys, sqlalchemy as sa
from alembic import command
from alembic.config import Config
from pygrid.storage.sql import migrations
from pygrid.storage.sql.database import Database
database = Database(sys.argv[1])
def to(revision):
    def upgrade(connection):
        config = Config()
        config.set_main_option("script_location", str(migrations.FOLDER))
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    database.write_now(upgrade)
to("0001")
def fill(connection):
    for number, name in enumerate(("User", "Compliance Officer", "Administrator", "Owner"), start=1):
        flags = ", ".join(8 * ["1" if name == "Owner" else "0"])
        connection.execute(sa.text(f"INSERT INTO roles VALUES ({number}, '{name}', {flags})"))
    for number in (1, 2):
        connection.execute(sa.text(
            "INSERT INTO users (email, email_key, password_hash, private_key_hash, role_id, created_at)"
            f" VALUES ('{number}@b.c', '{number}@b.c', 'x', '{number}', 4, '2026-01-01')"))
database.write_now(fill)
migrations.migrate(database)
print(database.read_now(lambda c: [r[0] for r in c.execute(sa.text("SELECT private_key_hash FROM users ORDER BY id"))]))
database.close()
"""
    url = f"sqlite:///{tmp_path / 'domain.db'}"
    done = subprocess.run([sys.executable, "-c", program, url], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['revoked:1', 'revoked:2']"
