"""A Network in process: health, who it is, its accounts.

Should happen: the same accounts as on a Domain, with the Network's own roles and permissions.
Should not happen: a word of permissions that it has not, groups, or a list of its users for anybody.
"""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from pygrid.network import build_network
from pygrid.settings import load_network_settings
from pygrid.storage.ownership import FolderLock
from pygrid.storage.start import prepare_store
from pygrid.transport.identity import Identity
from pygrid.web.services import service
from support.web import People, assert_problem, running

FLAGS = {"can_edit_settings", "can_create_users", "can_edit_roles", "can_manage_nodes"}


@pytest.fixture
async def web(database_url: str, tmp_path: Path):
    settings = load_network_settings({}, data_dir=tmp_path / "network", database_url=database_url)
    async with running(build_network(settings)) as client:
        yield client


async def test_it_lives_and_says_who_it_is(web: httpx.AsyncClient) -> None:
    assert (await web.get("/healthz")).json() == {"status": "ok"}
    assert (await web.get("/readyz")).json() == {"status": "ready"}
    who = (await web.get("/identity", params={"nonce": "A" * 43})).json()
    assert (who["name"], who["app"]) == ("network", "network")
    assert who["identity"].startswith("ed25519:")
    assert (await web.get("/metrics")).status_code == 200


async def test_its_roles_are_its_own(web: httpx.AsyncClient) -> None:
    people = People(web)
    owner = await people.owner()
    roles = (await web.get("/roles", headers=owner)).json()["roles"]
    assert [(role["id"], role["name"]) for role in roles] == [(1, "User"), (3, "Administrator"), (4, "Owner")]
    assert all(role.keys() == {"id", "name", *FLAGS} for role in roles)
    assert all(roles[2][flag] for flag in FLAGS)
    other = await people.sign_up("other@example.org")
    assert other["role"]["name"] == "User"
    assert "groups" not in other


async def test_a_role_states_the_permissions_that_there_are(web: httpx.AsyncClient) -> None:
    owner = await People(web).owner()
    wanted = {"name": "Gatekeeper", **dict.fromkeys(FLAGS, False), "can_manage_nodes": True}
    made = (await web.post("/roles", json=wanted, headers=owner)).json()["role"]
    assert made == {"id": 5, **wanted}
    del wanted["can_edit_roles"]
    answer = await web.post("/roles", json=wanted | {"name": "Other"}, headers=owner)
    assert assert_problem(answer, 400, "missing_field")["error"] == "Missing request key!"
    unknown = {"can_upload_data": True}
    assert_problem(await web.put("/roles/5", json=unknown, headers=owner), 400, "unknown_permission")
    answer = await web.post("/roles", json={"name": "Other", **dict.fromkeys(FLAGS, False), **unknown}, headers=owner)
    assert_problem(answer, 400, "unknown_permission")
    assert len((await web.get("/roles", headers=owner)).json()["roles"]) == 4


async def test_strangers_and_plain_users_see_neither_users_nor_roles(web: httpx.AsyncClient) -> None:
    people = People(web)
    owner = await people.owner()
    user = await people.with_role(1, owner)
    for path in ("/users", "/users/1", "/roles", "/roles/1"):
        assert_problem(await web.get(path), 400, "unauthenticated")
        assert_problem(await web.get(path, headers=user), 403, "not_permitted")
        assert (await web.get(path, headers=owner)).status_code == 200
    assert (await web.get("/users/me", headers=user)).status_code == 200


async def test_it_has_no_groups(web: httpx.AsyncClient) -> None:
    owner = await People(web).owner()
    assert_problem(await web.get("/groups", headers=owner), 404, "route_not_found")
    assert_problem(await web.put("/users/1/groups", json={"groups": []}, headers=owner), 404, "route_not_found")


def test_the_store_is_made_ahead_of_a_start(tmp_path: Path) -> None:
    settings = load_network_settings({}, data_dir=tmp_path / "network")
    assert not prepare_store(settings)
    assert (tmp_path / "network" / "network.db").exists()


async def test_it_keeps_its_identity(tmp_path: Path) -> None:
    settings = load_network_settings({}, data_dir=tmp_path)
    keys = []
    for _ in range(2):
        lock = FolderLock.acquire(tmp_path, "network")
        keys.append(str(service(build_network(settings, folder_lock=lock).state, Identity).key))
        lock.release()
    assert keys[0] == keys[1]
