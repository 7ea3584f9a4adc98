"""Edits of roles and users that name the version they were made on."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from support.web import People, assert_problem


async def test_of_edits_of_one_version_one_is_made(web: httpx.AsyncClient, people: People) -> None:
    owner = await people.owner()
    user = await people.sign_up("other@example.org")
    edits: list[tuple[str, str, list[dict[str, Any]]]] = [
        ("/roles/3", "/roles/3", [{"name": f"name {number}"} for number in range(4)]),
        (f"/users/{user['id']}", f"/users/{user['id']}/email", [{"email": f"{n}@example.org"} for n in range(4)]),
        (f"/users/{user['id']}", f"/users/{user['id']}/role", [{"role": role} for role in (2, 3, 4)]),
    ]
    for read, changed, bodies in edits:
        etag = (await web.get(read, headers=owner)).headers["etag"]
        guarded = {**owner, "If-Match": etag}
        answers = await asyncio.gather(*(web.put(changed, json=body, headers=guarded) for body in bodies))
        assert sorted(answer.status_code for answer in answers) == [200, *(412 for _ in bodies[1:])]
        won = next(answer for answer in answers if answer.status_code == 200)
        now_is = await web.get(read, headers=owner)
        assert (now_is.headers["etag"], now_is.json()) == (won.headers["etag"], won.json())
        assert_problem(await web.put(changed, json=bodies[0], headers=guarded), 412, "precondition_failed")
        assert (await web.put(changed, json=bodies[0], headers=owner)).status_code == 200


async def test_groups_and_passwords_take_it_too(web: httpx.AsyncClient, people: People) -> None:
    owner = await people.owner()
    user = await people.sign_up("other@example.org")
    group = (await web.post("/groups", json={"name": "nurses"}, headers=owner)).json()["group"]
    path = f"/users/{user['id']}"
    stale = {**owner, "If-Match": '"stale"'}
    for what, body in (("groups", {"groups": [group["id"]]}), ("password", {"password": "another horse battery"})):
        assert_problem(await web.put(f"{path}/{what}", json=body, headers=stale), 412, "precondition_failed")
    assert (await web.get(path, headers=owner)).json()["user"]["groups"] == []
    await people.log_in("other@example.org")


async def test_a_deletion_names_the_version_that_was_read(web: httpx.AsyncClient, people: People) -> None:
    owner = await people.owner()
    user = await people.sign_up("other@example.org")
    permissions = (await web.get("/roles/1", headers=owner)).json()["role"]
    body = {name: value for name, value in permissions.items() if name.startswith("can_")}
    role = (await web.post("/roles", json={**body, "name": "nurse"}, headers=owner)).json()["role"]
    group = (await web.post("/groups", json={"name": "ward"}, headers=owner)).json()["group"]
    changes: dict[str, tuple[str, dict[str, Any]]] = {
        f"/users/{user['id']}": (f"/users/{user['id']}/email", {"email": "new@example.org"}),
        f"/roles/{role['id']}": (f"/roles/{role['id']}", {"name": "doctor"}),
        f"/groups/{group['id']}": (f"/groups/{group['id']}", {"name": "station"}),
    }
    for path, (changed, body) in changes.items():
        seen = (await web.get(path, headers=owner)).headers["etag"]
        assert (await web.put(changed, json=body, headers={**owner, "If-Match": seen})).status_code == 200
        answer = await web.delete(path, headers={**owner, "If-Match": seen})
        assert_problem(answer, 412, "precondition_failed")
        now_is = await web.get(path, headers=owner)
        assert now_is.status_code == 200
        answer = await web.delete(path, headers={**owner, "If-Match": now_is.headers["etag"]})
        assert answer.status_code == 200, answer.text
        assert (await web.get(path, headers=owner)).status_code == 404


async def test_who_may_not_edit_learns_nothing_of_the_version(web: httpx.AsyncClient, people: People) -> None:
    await people.owner()
    await people.sign_up("other@example.org")
    other = await people.log_in("other@example.org")
    for path, body in (("/users/1/email", {"email": "x@example.org"}), ("/roles/3", {"name": "x"})):
        answer = await web.put(path, json=body, headers={**other, "If-Match": '"0"'})
        assert_problem(answer, 403, "not_permitted")
    for path in ("/users/1", "/roles/3", "/groups/1"):
        assert_problem(await web.delete(path, headers={**other, "If-Match": '"0"'}), 403, "not_permitted")
