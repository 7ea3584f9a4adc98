"""Accounts over HTTP, as published.

Should happen: the first user is Owner, exactly once; people log in, are who they are until they log out, are idle for
12 hours, or their password or role changes; those who may, manage the others.
Should not happen: anybody gains more than they were given; a secret is stored or shown again; an unknown e-mail can be
told from a wrong password; guessing is quick; the Domain is left without an Owner.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from litestar import Litestar

from pygrid.clock import ManualClock
from pygrid.domain import build_domain
from pygrid.features.accounts.service import AccountService
from pygrid.settings import load_settings
from pygrid.storage.sql.database import Database
from pygrid.storage.sql.metadata import metadata
from pygrid.web.services import service
from support.web import PASSWORD, People, assert_problem, running

Web = httpx.AsyncClient

USER, COMPLIANCE_OFFICER, ADMINISTRATOR, OWNER = 1, 2, 3, 4
NOT_AUTHORIZED = "User is not authorized for this operation!"


async def _rows(domain: Litestar) -> list[str]:
    """Every value in the database, as text."""

    def read(connection: sa.Connection) -> list[str]:
        return [
            str(value)
            for table in metadata.sorted_tables
            for row in connection.execute(sa.select(table))
            for value in row
        ]

    return await service(domain.state, Database).read(read)


# Signing up


async def test_the_first_user_becomes_owner_and_the_next_ones_do_not(people: People) -> None:
    first = await people.sign_up("first@example.org", role=USER)
    second = await people.sign_up("second@example.org", role=OWNER)
    assert (first["id"], first["role"]["name"]) == (1, "Owner")
    assert all(first["role"][flag] for flag in first["role"] if flag.startswith("can_"))
    assert (second["id"], second["role"]["name"]) == (2, "User")
    assert len(second["private_key"]) == 64
    assert second["groups"] == []


async def test_of_twenty_first_users_at_once_one_becomes_owner(
    database_url: str, tmp_path: Path, clock: ManualClock
) -> None:
    app = build_domain(load_settings({}, data_dir=tmp_path / "race", database_url=database_url), clock=clock)
    async with running(app) as web:
        people = People(web)
        made = await asyncio.gather(*(people.sign_up(f"user{i}@example.org") for i in range(20)))
    assert sorted(user["role"]["name"] for user in made) == ["Owner"] + ["User"] * 19
    assert len({user["id"] for user in made}) == 20


async def test_of_first_users_at_once_one_is_the_owner(database_url: str, tmp_path: Path, clock: ManualClock) -> None:
    settings = load_settings({}, data_dir=tmp_path, database_url=database_url)
    async with running(build_domain(settings, clock=clock)) as web:
        made = await asyncio.gather(*(People(web).sign_up(f"u{number}@example.org") for number in range(10)))
    assert sorted(user["role"]["name"] for user in made) == ["Owner"] + ["User"] * 9


async def test_an_email_has_one_account_however_it_is_written(web: Web, people: People) -> None:
    await people.sign_up("Straße@Example.org")
    for same in ("straße@example.org", "STRASSE@EXAMPLE.ORG", " straße@example.org "):
        answer = await web.post("/users", json={"email": same, "password": PASSWORD})
        assert_problem(answer, 409, "email_taken")
    await people.log_in("strasse@example.org")


async def test_of_ten_sign_ups_at_once_with_one_email_one_succeeds(web: Web) -> None:
    body = {"email": "same@example.org", "password": PASSWORD}
    answers = await asyncio.gather(*(web.post("/users", json=body) for _ in range(10)))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 9


@pytest.mark.parametrize("email", ["", "a", "@b", "a@", "a b@c.d", "a@b\u0001c", "a@" + "b" * 260])
async def test_what_is_no_email_is_refused(web: Web, email: str) -> None:
    assert_problem(await web.post("/users", json={"email": email, "password": PASSWORD}), 400, "invalid_email")


@pytest.mark.parametrize("password", ["", "seven77", "x" * 1025])
async def test_a_weak_password_is_refused(web: Web, password: str) -> None:
    problem = assert_problem(
        await web.post("/users", json={"email": "a@b.c", "password": password}), 400, "weak_password"
    )
    assert problem["error"] == problem["detail"]


async def test_a_missing_field_has_the_published_text(web: Web) -> None:
    problem = assert_problem(await web.post("/users", json={"email": "a@b.c"}), 400, "missing_field")
    assert problem["error"] == "Missing request key!"
    assert "password" in problem["detail"]


async def test_where_sign_up_is_closed_only_the_first_stranger_gets_in(tmp_path: Path) -> None:
    app = build_domain(load_settings({}, data_dir=tmp_path, open_signup=False))
    async with running(app) as web:
        people = People(web)
        owner = await people.owner()
        answer = await web.post("/users", json={"email": "stranger@example.org", "password": PASSWORD})
        assert assert_problem(answer, 403, "signup_closed")["error"] == NOT_AUTHORIZED
        body = {"email": "guest@example.org", "password": PASSWORD}
        assert (await web.post("/users", json=body, headers=owner)).json()["user"]["role"]["name"] == "User"


async def test_those_who_may_sign_others_up_with_a_role(web: Web, people: People) -> None:
    first = await people.sign_up("owner@example.org")
    owner = await people.log_in("owner@example.org")
    for number, headers in enumerate([owner, {"private-key": first["private_key"]}]):
        body = {"email": f"new{number}@example.org", "password": PASSWORD, "role": ADMINISTRATOR}
        answer = await web.post("/users", json=body, headers=headers)
        assert answer.json()["user"]["role"]["name"] == "Administrator"
    admin = await people.log_in("new0@example.org")
    too_high = {"email": "boss@example.org", "password": PASSWORD, "role": OWNER}
    assert (
        assert_problem(await web.post("/users", json=too_high, headers=admin), 403, "not_permitted")["error"]
        == NOT_AUTHORIZED
    )
    unknown = {"email": "x@example.org", "password": PASSWORD, "role": 99}
    problem = assert_problem(await web.post("/users", json=unknown, headers=owner), 404, "role_not_found")
    assert problem["error"] == "Role ID not found!"
    wrong_key = {"private-key": "0" * 64}
    assert_problem(await web.post("/users", json=unknown, headers=wrong_key), 403, "invalid_credentials")


# Sessions


async def test_a_session_in_either_form(web: Web, people: People) -> None:
    key = (await people.sign_up("a@example.org"))["private_key"]
    token = (await people.log_in("a@example.org"))["Authorization"].removeprefix("Bearer ")
    for headers in (
        {"Authorization": f"Bearer {token}"},
        {"authorization": f"bearer {token}"},
        {"token": token, "private-key": key},
        {"token": token, "private_key": key},
    ):
        me = await web.get("/users/me", headers=headers)
        assert me.json()["user"]["email"] == "a@example.org"
        assert "private_key" not in me.json()["user"]


async def test_no_other_credential_is_taken(web: Web, people: People) -> None:
    user = await people.sign_up("a@example.org")
    token = (await people.log_in("a@example.org"))["Authorization"].removeprefix("Bearer ")
    problem = assert_problem(
        await web.get("/users/me", headers={"private-key": user["private_key"]}), 400, "unauthenticated"
    )
    assert problem["error"] == "Missing request key!"
    assert_problem(await web.get(f"/users/me?token={token}"), 400, "unauthenticated")
    assert_problem(await web.get("/users/me", headers={"Authorization": f"Basic {token}"}), 400, "unauthenticated")
    assert_problem(await web.get("/users/me", headers={"Cookie": f"token={token}"}), 400, "unauthenticated")
    problem = assert_problem(
        await web.get("/users/me", headers={"token": user["private_key"]}), 403, "invalid_credentials"
    )
    assert problem["error"] == "Invalid credentials!"


async def test_a_wrong_password_and_an_unknown_email_look_the_same(web: Web, people: People) -> None:
    await people.sign_up("a@example.org")
    answers = [
        await web.post("/users/login", json={"email": email, "password": password})
        for email, password in [
            ("a@example.org", "wrong password"),
            ("b@example.org", PASSWORD),
            ("a@example.org", "x" * 2000),
        ]
    ]
    problems = [assert_problem(answer, 403, "invalid_credentials") for answer in answers]
    assert problems[0] == problems[1] == problems[2]
    assert problems[0]["error"] == "Invalid credentials!"


async def test_a_session_ends_when_logged_out(web: Web, people: People) -> None:
    one = await people.owner()
    other = await people.log_in("owner@example.org")
    assert (await web.post("/users/logout", headers=one)).json() == {"success": True}
    assert_problem(await web.get("/users/me", headers=one), 403, "invalid_credentials")
    assert (await web.get("/users/me", headers=other)).status_code == 200


async def test_a_session_ends_after_twelve_idle_hours_and_not_before(
    web: Web, people: People, clock: ManualClock
) -> None:
    session = await people.owner()
    for _ in range(5):
        clock.advance(11 * 3600)
        assert (await web.get("/users/me", headers=session)).status_code == 200
    clock.advance(12 * 3600)
    assert_problem(await web.get("/users/me", headers=session), 403, "invalid_credentials")


async def test_a_session_ends_after_seven_days_however_active(web: Web, people: People, clock: ManualClock) -> None:
    session = await people.owner()
    for _ in range(2 * 7 - 1):
        clock.advance(12 * 3600 - 1)
        assert (await web.get("/users/me", headers=session)).status_code == 200
    clock.advance(3600)
    assert (await web.get("/users/me", headers=session)).status_code == 200
    clock.advance(11 * 3600 + 13)
    assert_problem(await web.get("/users/me", headers=session), 403, "invalid_credentials")


async def test_sessions_that_ended_are_forgotten(
    domain: Litestar, web: Web, people: People, clock: ManualClock
) -> None:
    await people.owner()
    clock.advance(6 * 3600)
    kept = await people.log_in("owner@example.org")
    clock.advance(7 * 3600)
    await service(domain.state, AccountService).remove_expired_sessions()
    count = sa.select(sa.func.count()).select_from(metadata.tables["sessions"])
    assert await service(domain.state, Database).read(lambda connection: connection.execute(count).scalar_one()) == 1
    assert (await web.get("/users/me", headers=kept)).status_code == 200


async def test_guessing_is_slowed_for_one_account_from_one_address(
    web: Web, people: People, clock: ManualClock
) -> None:
    await people.sign_up("a@example.org")
    await people.sign_up("b@example.org")
    for _ in range(10):
        answer = await web.post("/users/login", json={"email": "a@example.org", "password": "wrong password"})
        assert answer.status_code == 403
        clock.advance(1)
    answer = await web.post("/users/login", json={"email": "A@example.org", "password": PASSWORD})
    assert_problem(answer, 429, "too_many_attempts")
    assert answer.headers["retry-after"] == "55", "the window moves on in steps of five seconds"
    await people.log_in("b@example.org")
    clock.advance(55)
    await people.log_in("a@example.org")


async def test_logins_that_succeed_are_not_limited(people: People) -> None:
    await people.sign_up("a@example.org")
    for _ in range(12):
        await people.log_in("a@example.org")


async def test_no_secret_is_in_the_database(domain: Litestar, people: People) -> None:
    user = await people.sign_up("a@example.org")
    token = (await people.log_in("a@example.org"))["Authorization"].removeprefix("Bearer ")
    stored = await _rows(domain)
    assert any("$argon2id$v=19$" in value for value in stored)
    for secret in (PASSWORD, user["private_key"], token):
        assert not any(secret in value for value in stored)


# Managing users


async def test_listing_needs_triage_and_never_shows_keys(web: Web, people: People) -> None:
    owner = await people.owner()
    user = await people.with_role(USER, owner, "user@example.org")
    officer = await people.with_role(COMPLIANCE_OFFICER, owner, "officer@example.org")
    assert assert_problem(await web.get("/users", headers=user), 403, "not_permitted")["error"] == NOT_AUTHORIZED
    listed = (await web.get("/users", headers=officer)).json()
    assert listed["success"] is True
    assert [one["email"] for one in listed["users"]] == ["owner@example.org", "user@example.org", "officer@example.org"]
    assert not any("private_key" in one or "password" in str(one) for one in listed["users"])
    assert (await web.get("/users/2", headers=user)).status_code == 200
    assert_problem(await web.get("/users/1", headers=user), 403, "not_permitted")
    assert (
        assert_problem(await web.get("/users/99", headers=officer), 404, "user_not_found")["error"]
        == "User ID not found!"
    )


async def test_users_are_found_by_any_of_email_role_group(web: Web, people: People) -> None:
    owner = await people.owner()
    await people.sign_up("ann_smith@example.org")
    await people.sign_up("annxsmith@example.org")
    group = (await web.post("/groups", json={"name": "cardiology"}, headers=owner)).json()["group"]["id"]
    await web.put("/users/3/groups", json={"groups": [group]}, headers=owner)

    async def found(**query: Any) -> list[int]:
        answer = await web.post("/users/search", json=query, headers=owner)
        return [user["id"] for user in answer.json()["users"]]

    assert await found(email="ANN") == [2, 3]
    assert await found(email="ann_s") == [2]
    assert await found(role=OWNER) == [1]
    assert await found(group="cardio") == [3]
    assert await found(email="smith", group="cardio", role=USER) == [3]
    assert await found(email="%") == []
    assert_problem(await web.post("/users/search", json={}, headers=owner), 400, "missing_field")


async def test_people_change_their_own_email_and_password(web: Web, people: People) -> None:
    owner = await people.owner()
    session = await people.with_role(USER, owner)
    answer = await web.put("/users/2/email", json={"email": "new@example.org"}, headers=session)
    assert answer.json()["user"]["email"] == "new@example.org"
    assert_problem(
        await web.put("/users/2/email", json={"email": "OWNER@example.org"}, headers=session), 409, "email_taken"
    )
    assert (await web.put("/users/2/email", json={"email": "New@example.org"}, headers=session)).status_code == 200
    answer = await web.put("/users/2/password", json={"password": "another password"}, headers=session)
    assert answer.status_code == 200
    assert_problem(await web.get("/users/me", headers=session), 403, "invalid_credentials")
    await people.log_in("new@example.org", "another password")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("email", {"email": "taken@example.org"}),
        ("password", {"password": "taken over now"}),
        ("role", {"role": USER}),
        ("groups", {"groups": []}),
    ],
)
async def test_nobody_changes_an_account_above_or_beside_their_permissions(
    web: Web, people: People, path: str, body: dict[str, Any]
) -> None:
    owner = await people.owner()
    user = await people.with_role(USER, owner, "user@example.org")
    admin = await people.with_role(ADMINISTRATOR, owner, "admin@example.org")
    assert_problem(await web.put(f"/users/3/{path}", json=body, headers=user), 403, "not_permitted")
    assert_problem(await web.put(f"/users/1/{path}", json=body, headers=admin), 403, "not_permitted")
    assert_problem(await web.put(f"/users/99/{path}", json=body, headers=admin), 404, "user_not_found")
    assert (await web.put(f"/users/2/{path}", json=body, headers=admin)).status_code == 200


async def test_nobody_raises_their_own_role(web: Web, people: People) -> None:
    owner = await people.owner()
    for role, email in [
        (USER, "u@example.org"),
        (COMPLIANCE_OFFICER, "c@example.org"),
        (ADMINISTRATOR, "a@example.org"),
    ]:
        session = await people.with_role(role, owner, email)
        me = (await web.get("/users/me", headers=session)).json()["user"]["id"]
        answer = await web.put(f"/users/{me}/role", json={"role": OWNER}, headers=session)
        assert assert_problem(answer, 403, "not_permitted")["error"] == NOT_AUTHORIZED
        assert (await web.get("/users/me", headers=session)).json()["user"]["role"]["id"] == role


async def test_a_new_role_counts_at_once_and_ends_the_sessions(web: Web, people: People) -> None:
    owner = await people.owner()
    session = await people.with_role(ADMINISTRATOR, owner)
    await web.put("/users/2/role", json={"role": USER}, headers=owner)
    assert_problem(await web.get("/users", headers=session), 403, "invalid_credentials")
    session = await people.log_in("other@example.org")
    assert_problem(await web.get("/users", headers=session), 403, "not_permitted")


async def test_the_last_owner_stays(web: Web, people: People) -> None:
    owner = await people.owner()
    assert_problem(await web.put("/users/1/role", json={"role": USER}, headers=owner), 403, "last_owner")
    assert_problem(await web.delete("/users/1", headers=owner), 403, "last_owner")
    second = await people.with_role(OWNER, owner)
    assert (await web.delete("/users/1", headers=owner)).json()["user"]["id"] == 1
    assert_problem(await web.delete("/users/2", headers=second), 403, "last_owner")


async def test_two_owners_who_step_down_at_once_leave_one(database_url: str, tmp_path: Path) -> None:
    async with running(build_domain(load_settings({}, data_dir=tmp_path, database_url=database_url))) as web:
        people = People(web)
        owner = await people.owner()
        second = await people.with_role(OWNER, owner)
        answers = await asyncio.gather(
            web.put("/users/1/role", json={"role": USER}, headers=owner),
            web.put("/users/2/role", json={"role": USER}, headers=second),
        )
    assert sorted(answer.status_code for answer in answers) == [200, 403]


async def test_deleting_a_user_takes_sessions_and_memberships_along(domain: Litestar, web: Web, people: People) -> None:
    owner = await people.owner()
    session = await people.with_role(USER, owner)
    group = (await web.post("/groups", json={"name": "cardiology"}, headers=owner)).json()["group"]["id"]
    await web.put("/users/2/groups", json={"groups": [group]}, headers=owner)
    assert (await web.delete("/users/2", headers=owner)).json()["user"]["groups"] == [
        {"id": group, "name": "cardiology"}
    ]
    assert_problem(await web.get("/users/me", headers=session), 403, "invalid_credentials")
    again = await people.sign_up("other@example.org")
    assert again["id"] == 3, "an id is never given twice"
    assert again["groups"] == []


# Roles and groups


def _flags(**given: bool) -> dict[str, bool]:
    names = ("triage_requests", "edit_settings", "create_users", "create_groups", "edit_roles", "manage_infrastructure")
    return {f"can_{name}": False for name in (*names, "upload_data")} | given


async def test_roles_are_made_edited_and_deleted(web: Web, people: People) -> None:
    owner = await people.owner()
    body = {"name": "Uploader", **_flags(can_upload_data=True)}
    made = (await web.post("/roles", json=body, headers=owner)).json()["role"]
    assert made == {"id": 6, **body, "can_host_models": True}
    assert_problem(await web.post("/roles", json=body, headers=owner), 409, "role_exists")
    edited = (await web.put("/roles/6", json={"can_create_groups": True}, headers=owner)).json()["role"]
    assert edited == {"id": 6, **made, "can_create_groups": True}
    assert (await web.get("/roles/6", headers=owner)).json()["role"] == edited
    session = await people.with_role(6, owner)
    in_use = assert_problem(await web.delete("/roles/6", headers=owner), 409, "role_in_use")
    assert "users have the role 'Uploader'" in in_use["detail"]
    assert (await web.post("/groups", json={"name": "g"}, headers=session)).status_code == 200
    await web.put("/users/2/role", json={"role": USER}, headers=owner)
    assert (await web.delete("/roles/6", headers=owner)).json() == {"success": True, "role": edited, "user": edited}
    assert_problem(await web.get("/roles/6", headers=owner), 404, "role_not_found")
    assert [role["id"] for role in (await web.get("/roles", headers=owner)).json()["roles"]] == [1, 2, 3, 4, 5]


async def test_a_role_needs_every_flag_a_name_and_no_more(web: Web, people: People) -> None:
    owner = await people.owner()
    assert_problem(
        await web.post("/roles", json={"name": "x", "can_upload_data": True}, headers=owner), 400, "missing_field"
    )
    assert_problem(await web.post("/roles", json={"name": " x", **_flags()}, headers=owner), 400, "invalid_name")
    assert_problem(await web.post("/roles", json={"name": "", **_flags()}, headers=owner), 400, "invalid_input")
    answer = await web.put("/roles/2", json={"id": 4, "name": "Officer"}, headers=owner)
    assert answer.json()["role"]["id"] == 2


async def test_the_roles_that_everything_rests_on_stay(web: Web, people: People) -> None:
    owner = await people.owner()
    for role in (USER, OWNER):
        assert_problem(
            await web.put(f"/roles/{role}", json={"can_upload_data": True}, headers=owner), 403, "built_in_role"
        )
        assert_problem(await web.delete(f"/roles/{role}", headers=owner), 403, "built_in_role")


async def test_editing_roles_is_no_way_up(web: Web, people: People) -> None:
    """Somebody who may edit roles, but not upload, gives nobody (and so not themselves) the right to upload."""
    owner = await people.owner()
    await web.post("/roles", json={"name": "Editor", **_flags(can_edit_roles=True)}, headers=owner)
    editor = await people.with_role(6, owner)
    assert_problem(await web.put("/roles/6", json={"can_upload_data": True}, headers=editor), 403, "not_permitted")
    body = {"name": "mine", **_flags(can_upload_data=True)}
    assert_problem(await web.post("/roles", json=body, headers=editor), 403, "not_permitted")
    assert_problem(await web.put("/roles/3", json={"name": "renamed"}, headers=editor), 403, "not_permitted")
    admin = await people.with_role(ADMINISTRATOR, owner, "admin@example.org")
    assert_problem(await web.post("/roles", json=body, headers=admin), 403, "not_permitted")


async def test_groups_are_made_renamed_and_deleted(web: Web, people: People) -> None:
    owner = await people.owner()
    assert (await web.post("/groups", json={"name": "a"}, headers=owner)).json() == {
        "success": True,
        "group": {"id": 1, "name": "a"},
    }
    assert_problem(await web.post("/groups", json={"name": "a"}, headers=owner), 409, "group_exists")
    await web.post("/groups", json={"name": "b"}, headers=owner)
    assert_problem(await web.put("/groups/2", json={"name": "a"}, headers=owner), 409, "group_exists")
    assert (await web.put("/groups/2", json={"name": "c"}, headers=owner)).json()["group"] == {"id": 2, "name": "c"}
    await web.put("/users/1/groups", json={"groups": [1, 2]}, headers=owner)
    answer = await web.put("/users/1/groups", json={"groups": [99]}, headers=owner)
    assert assert_problem(answer, 404, "group_not_found")["error"] == "Group ID not found!"
    assert (await web.delete("/groups/1", headers=owner)).status_code == 200
    me: httpx.Response = await web.get("/users/me", headers=owner)
    assert me.json()["user"]["groups"] == [{"id": 2, "name": "c"}]
    assert (await web.get("/groups", headers=owner)).json()["groups"] == [{"id": 2, "name": "c"}]
    assert_problem(await web.get("/groups/1", headers=owner), 404, "group_not_found")
