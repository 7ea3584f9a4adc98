"""Calls with an ``Idempotency-Key``, over HTTP.

Should happen: the same call again gets the same status and body, also after a restart, and is done once; of several at
once one is done and the others are told to come again; a key is free again after its time.
Should not happen: another body or path under a key; a key of one person that counts for another, or of one route for
another; a refusal that is kept; a secret that is kept; an unbounded number of answers.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from litestar import Litestar

from pygrid.clock import ManualClock
from pygrid.core import idempotency
from pygrid.core.idempotency import BodyHash
from pygrid.domain import build_domain
from pygrid.settings import DomainSettings
from pygrid.storage.idempotency import AnswerStore, kept_answers
from pygrid.storage.sql.database import Database
from pygrid.web.services import service
from support.eventually import eventually, turns
from support.web import People, assert_problem, running

GROUP = {"name": "nurses"}


async def make_group(web: httpx.AsyncClient, headers: dict[str, str], key: str, name: str = "nurses") -> httpx.Response:
    return await web.post("/groups", json={"name": name}, headers={**headers, "Idempotency-Key": key})


async def groups(web: httpx.AsyncClient, headers: dict[str, str]) -> list[str]:
    found = (await web.get("/groups", headers=headers)).json()["groups"]
    return [group["name"] for group in found]


async def test_the_same_call_gets_the_same_answer(web: httpx.AsyncClient, people: People) -> None:
    owner = await people.owner()
    first = await make_group(web, owner, "one")
    again = await make_group(web, owner, "one")
    assert (again.status_code, again.content) == (first.status_code, first.content) == (200, again.content)
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert await groups(web, owner) == ["nurses"]
    assert_problem(await make_group(web, owner, "two"), 409, "group_exists")


async def test_another_body_or_path_is_refused(web: httpx.AsyncClient, people: People) -> None:
    owner = await people.owner()
    await make_group(web, owner, "one")
    assert_problem(await make_group(web, owner, "one", "doctors"), 409, "idempotency_key_reused")
    answer = await web.post("/groups?x=1", json=GROUP, headers={**owner, "Idempotency-Key": "one"})
    assert_problem(answer, 409, "idempotency_key_reused")
    assert await groups(web, owner) == ["nurses"]


async def test_a_key_is_of_one_person_and_one_route(web: httpx.AsyncClient, people: People) -> None:
    owner = await people.owner()
    other = await people.with_role(3, owner)
    assert (await make_group(web, owner, "one")).status_code == 200
    assert (await make_group(web, other, "one", "doctors")).status_code == 200
    role = {"name": "reader", **dict.fromkeys(_PERMISSIONS, False)}
    assert (await web.post("/roles", json=role, headers={**owner, "Idempotency-Key": "one"})).status_code == 200


_PERMISSIONS = [
    "can_triage_requests",
    "can_edit_settings",
    "can_create_users",
    "can_create_groups",
    "can_edit_roles",
    "can_manage_infrastructure",
    "can_upload_data",
]


async def test_a_refusal_is_not_kept(web: httpx.AsyncClient, people: People) -> None:
    owner = await people.owner()
    made = (await make_group(web, owner, "one")).json()["group"]
    assert_problem(await make_group(web, owner, "two"), 409, "group_exists")
    assert (await web.delete(f"/groups/{made['id']}", headers=owner)).status_code == 200
    assert (await make_group(web, owner, "two")).status_code == 200


async def test_who_may_no_more_gets_no_old_answer(web: httpx.AsyncClient, people: People) -> None:
    owner = await people.owner()
    other = await people.with_role(3, owner)
    assert (await make_group(web, other, "one")).status_code == 200
    users = (await web.get("/users", headers=owner)).json()["users"]
    await web.put(f"/users/{users[1]['id']}/role", json={"role": 1}, headers=owner)
    other = await people.log_in("other@example.org")
    assert (await make_group(web, other, "one")).status_code == 403


@pytest.mark.parametrize("key", ["", "x" * 256, "caf\u00e9", "a\tb", "\x7f"])
async def test_a_bad_key_is_refused(web: httpx.AsyncClient, people: People, key: str) -> None:
    owner = await people.owner()
    headers = [*((name.encode(), value.encode()) for name, value in owner.items()), (b"idempotency-key", key.encode())]
    answer = await web.post("/groups", json=GROUP, headers=headers)
    assert answer.status_code == 400, answer.text
    assert await groups(web, owner) == []


async def test_two_keys_are_refused(web: httpx.AsyncClient, people: People) -> None:
    owner = await people.owner()
    headers = [*owner.items(), ("Idempotency-Key", "one"), ("Idempotency-Key", "two")]
    assert_problem(await web.post("/groups", json=GROUP, headers=headers), 400, "invalid_idempotency_key")


@pytest.mark.parametrize("key", ["x", " ~!", "x" * 255])
async def test_a_good_key_is_taken(web: httpx.AsyncClient, people: People, key: str) -> None:
    owner = await people.owner()
    assert (await make_group(web, owner, key)).status_code == 200


async def test_of_several_at_once_one_is_done(web: httpx.AsyncClient, people: People) -> None:
    owner = await people.owner()
    answers = await asyncio.gather(*(make_group(web, owner, "one") for _ in range(8)))
    done = [answer for answer in answers if answer.status_code == 200]
    assert done
    assert len({answer.content for answer in done}) == 1
    for answer in answers:
        if answer.status_code != 200:
            assert_problem(answer, 409, "idempotency_in_progress")
            assert int(answer.headers["retry-after"]) >= 1
    assert await groups(web, owner) == ["nurses"]


async def test_a_key_is_free_after_its_time(
    web: httpx.AsyncClient, people: People, clock: ManualClock, domain: Litestar
) -> None:
    owner = await people.owner()
    await make_group(web, owner, "one")
    clock.advance(idempotency.KEEP.total_seconds() - 1)
    owner = await people.log_in("owner@example.org")
    assert (await make_group(web, owner, "one")).headers["idempotency-replayed"] == "true"
    clock.advance(1)
    assert (await make_group(web, owner, "one", "doctors")).status_code == 200
    clock.advance(idempotency.KEEP.total_seconds())
    await service(domain.state, AnswerStore).remove_expired()
    assert await service(domain.state, Database).read(_num_answers) == 0


def _num_answers(connection: sa.Connection) -> int:
    return connection.execute(sa.select(sa.func.count()).select_from(kept_answers)).scalar_one()


async def test_answers_outlive_a_restart(settings: DomainSettings) -> None:
    async with running(build_domain(settings)) as web:
        first = await make_group(web, await People(web).owner(), "one")
    async with running(build_domain(settings)) as web:
        owner = await People(web).log_in("owner@example.org")
        again = await make_group(web, owner, "one")
        assert (again.status_code, again.content) == (200, first.content)
        assert await groups(web, owner) == ["nurses"]


async def test_a_call_that_is_cut_off_is_done_once(domain: Litestar, web: httpx.AsyncClient, people: People) -> None:
    """The task of the request is cancelled while its write is on the way, as when a server stops."""
    owner = await people.owner()
    for moment in range(12):
        name = f"group {moment}"
        task = asyncio.create_task(make_group(web, owner, name, name))
        for _ in range(moment):
            await turns()
        task.cancel()
        await asyncio.wait([task])

        async def is_made(name: str = name) -> bool:
            answer = await make_group(web, owner, name, name)
            assert answer.status_code == 200 or answer.json()["code"] == "idempotency_in_progress", answer.text
            return answer.status_code == 200

        await eventually(is_made)
    assert sorted(await groups(web, owner)) == sorted(f"group {moment}" for moment in range(12))


async def test_the_answers_of_a_person_are_bounded(
    domain: Litestar, web: httpx.AsyncClient, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pygrid.storage.idempotency.MAX_ANSWERS", 3)
    owner = await people.owner()
    other = await people.with_role(3, owner)
    await make_group(web, other, "key", "of another")
    for number in range(6):
        await make_group(web, owner, f"key {number}", f"group {number}")
    assert await service(domain.state, Database).read(_num_answers) == 4
    assert (await make_group(web, owner, "key 5", "group 5")).headers["idempotency-replayed"] == "true"
    assert_problem(await make_group(web, owner, "key 0", "group 0"), 409, "group_exists")
    monkeypatch.setattr("pygrid.storage.idempotency.MAX_ANSWERS_BYTES", 1)
    await make_group(web, owner, "last", "last")
    assert await service(domain.state, Database).read(_num_answers) == 2


async def test_a_secret_is_not_kept(domain: Litestar, web: httpx.AsyncClient, people: People) -> None:
    owner = await people.owner()
    headers = {**owner, "Idempotency-Key": "one"}
    first = await web.post("/data-centric/workers", json={"name": "gpu"}, headers=headers)
    assert first.status_code == 201
    assert first.json()["token"]
    again = await web.post("/data-centric/workers", json={"name": "gpu"}, headers=headers)
    assert_problem(again, 409, "idempotency_answer_not_kept")

    def texts(connection: sa.Connection) -> list[Any]:
        return list(connection.execute(sa.select(kept_answers.c.answer)).scalars())

    assert await service(domain.state, Database).read(texts) == [None]


def test_every_route_that_creates_takes_a_key(domain: Litestar) -> None:
    """Routes that take none are here by name, each for a reason."""
    without = {
        "/users": "an e-mail has one account, and the answer holds a secret",
        "/users/login": "it begins a session, whose token is a secret",
        "/users/browser-link": "a link is used once, and the answer holds a secret",
        "/users/login/code": "a code is used once, and the answer holds a secret",
        "/users/logout": "it changes nothing the second time",
        "/users/me/private-key": "it replaces the key, and the answer holds a secret",
        "/users/invitations": "it replaces the invitation of the e-mail, and the answer holds a secret",
        "/users/invitations/accept": "a code is used once",
        "/users/{user_id}/password-reset": "it replaces the code of the user, and the answer holds a secret",
        "/users/password-reset": "a code is used once",
        "/users/me/tokens": "a user has one token of a name, and the answer holds a secret",
        "/users/search": "it reads",
        "/data-centric/search": "it reads",
        "/data-centric/search-encrypted-models": "it reads",
        "/data-centric/datasets/dry-run": "it keeps nothing",
        "/data-centric/models/{model_id}/predict": "it reads",
        "/model-centric/authenticate": "of devices",
        "/model-centric/leave": "of devices: it changes nothing the second time",
        "/model-centric/speed-test": "of devices: it keeps nothing",
        "/model-centric/cycle-request": "of devices: the same device gets the same key",
        "/model-centric/report": "of devices: a request key is used once",
        "/data-centric/workers/lease": "of Workers: a lease ends by itself",
        "/data-centric/workers/claim": "of Workers: a start token is used once",
        "/data-centric/workers/leases/{lease_id}/renew": "of Workers",
        "/data-centric/workers/leases/{lease_id}/result": "of Workers: a lease ends with its result",
    }
    paths = domain.openapi_schema.to_schema()["paths"]
    for path, operations in paths.items():
        if "post" in operations:
            names = {parameter["name"] for parameter in operations["post"].get("parameters", [])}
            assert ("Idempotency-Key" in names) is (path not in without), path
            assert path in without or "409" in operations["post"]["responses"], path
    assert without.keys() <= paths.keys()


@given(parts=st.dictionaries(st.text(max_size=5), st.binary(max_size=20), max_size=4), data=st.data())
def test_a_form_is_its_parts_however_they_arrive(parts: dict[str, bytes], data: st.DataObject) -> None:
    def digest(order: list[str]) -> str:
        body = BodyHash()
        for name in order:
            body.begin(name)
            cut = data.draw(st.integers(0, len(parts[name])))
            body.update(parts[name][:cut])
            body.update(parts[name][cut:])
            body.end()
        return body.digest("/path?")

    assert digest(list(parts)) == digest(data.draw(st.permutations(list(parts))))


@given(
    one=st.dictionaries(st.text(max_size=3), st.binary(max_size=5), max_size=3),
    other=st.dictionaries(st.text(max_size=3), st.binary(max_size=5), max_size=3),
)
def test_forms_that_differ_have_other_digests(one: dict[str, bytes], other: dict[str, bytes]) -> None:
    digests = []
    for parts in (one, other):
        body = BodyHash()
        for name, content in parts.items():
            body.begin(name)
            body.update(content)
            body.end()
        digests.append(body.digest("/"))
    assert (digests[0] == digests[1]) is (one == other)


def test_an_answer_is_kept_for_a_day_at_least() -> None:
    assert dt.timedelta(days=1) <= idempotency.KEEP
