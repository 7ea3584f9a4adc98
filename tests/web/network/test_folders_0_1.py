"""A Network and a Domain that belongs to it open their data folders of version 0.1, on both databases.

Should happen: the Domain is online at the Network under the identity that it had; invitations, pending Domains and
nodes of
    2020 are there; groups, roles, datasets, drafts, Workers, served models and federated jobs are as they were; the
    optimizer of a process continues from its stored state.
Should not happen: a second decision about an association; a file, a result or a token that is lost.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from test_data_folder_0_1 import (
    FACTS,
    VECTORS,
    assert_audit_log_holds,
    assert_served,
    content_of,
    fill_as_recorded,
    until_state,
)

from pygrid.domain import build_domain
from pygrid.settings import DomainSettings, load_settings
from pygrid.tensors import decode, encode
from support.eventually import eventually
from support.network import Net, running_domain, running_network, until_listed
from support.plans.models import WEIGHT
from support.training import bearer
from support.web import People, running

RECORDED = VECTORS / "folders-0.1.zip"
KNOWN: dict[str, Any] = FACTS[RECORDED.name]["facts"]


@dataclass
class Opened:
    """The Network and the Domain, running."""

    net: Net
    web: httpx.AsyncClient
    owner: dict[str, str]
    scientist: dict[str, str]

    async def get(self, path: str, headers: dict[str, str] | None = None, **query: Any) -> Any:
        answer = await self.web.get(path, headers=headers or self.owner, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def post(self, path: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> Any:
        answer = await self.web.post(path, headers=headers or self.owner, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture(params=["sqlite", "postgresql"])
def settings_0_1(request: pytest.FixtureRequest, tmp_path: Path) -> DomainSettings:
    """Of the Domain; the Network's folder lies next to it."""
    with zipfile.ZipFile(RECORDED) as archive:
        archive.extractall(tmp_path)
    settings = load_settings({}, data_dir=tmp_path / "domain", id="alice")
    if request.param == "sqlite":
        return settings
    url = request.getfixturevalue("postgres_url")
    fill_as_recorded(settings.data_dir / "domain.db", url)
    return dataclasses.replace(settings, database_url=url)


def move_network(settings: DomainSettings, url: str) -> None:
    """Let the Domain know its Network at another address: the port of the recording may be taken."""
    statement = "UPDATE networks SET url = {} WHERE url = {}"
    values = (url, KNOWN["network_url"])
    if settings.database_url.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(settings.data_dir / "domain.db")) as file, file:
            assert file.execute(statement.format("?", "?"), values).rowcount == 1
        return
    import psycopg

    with psycopg.connect(settings.database_url) as connection:
        assert connection.execute(statement.format("%s", "%s").encode(), values).rowcount == 1


@asynccontextmanager
async def opened(settings: DomainSettings) -> AsyncIterator[Opened]:
    async with running_network(settings.data_dir.parent / "network", sign_up=False) as net:
        move_network(settings, net.url)
        async with running(build_domain(settings)) as web:
            people = People(web)
            owner = await people.log_in("owner@example.org")
            yield Opened(net, web, owner, await people.log_in("scientist@example.org"))


async def test_folders_of_the_first_version_open_and_go_on(settings_0_1: DomainSettings, tmp_path: Path) -> None:
    content = content_of(settings_0_1.data_dir)
    async with opened(settings_0_1) as both:
        await assert_served(both.web, both.owner, FACTS[RECORDED.name]["served"])
        await assert_associated(both, tmp_path)
        await assert_accounts_and_datasets_are_there(both)
        await assert_models_and_workers_are_there(both)
        await assert_jobs_go_on(both)
        await assert_training_goes_on(both)
    assert content.items() <= content_of(settings_0_1.data_dir).items()
    assert_audit_log_holds(settings_0_1)


async def assert_associated(both: Opened, tmp_path: Path) -> None:
    found = await until_listed(both.net, "alice", state="online")
    assert found["identity"] == KNOWN["identities"]["alice"]
    [association] = (await both.get("/associations"))["associations"]
    assert (association["network"], association["state"]) == (both.net.url, "accepted")
    assert association["identity"] == KNOWN["identities"]["net"]
    assert (await both.net.list()).keys() == {"alice", "bob-of-2020"}
    assert (await both.net.list("pending")).keys() == {"carol"}
    # The invitation was good for two Domains, and one has used it.
    async with running_domain(tmp_path / "dora", "dora", network=both.net.url, invitation=KNOWN["invitation"]):
        await until_listed(both.net, "dora", state="online")
    [invitation] = (await both.net.web.get("/invitations", headers=both.net.owner)).json()["invitations"]
    assert (invitation["num_uses"], invitation["max_uses"]) == (2, 2)


async def assert_accounts_and_datasets_are_there(both: Opened) -> None:
    users = {user["email"]: user for user in (await both.get("/users"))["users"]}
    assert [group["name"] for group in users["scientist@example.org"]["groups"]] == ["oncology"]
    role = users["stranger@example.org"]["role"]
    permissions = {name for name, holds in role.items() if holds is True}
    assert (role["name"], permissions) == ("Curator", {"can_upload_data", "can_host_models"})
    wards = await both.get("/data-centric/datasets/by-name", name="wards")
    assert (wards["visibility"], wards["description"]) == ("public", "Beds by ward")
    assert sorted(wards["tags"]) == ["beds", "hospital"]
    assert [(version["number"], version["note"]) for version in wards["versions"]] == [(2, "a year later"), (1, "")]


async def assert_models_and_workers_are_there(both: Opened) -> None:
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    answer = await both.web.post(
        "/data-centric/models/scores/predict", content=encode({"x": x}), headers=both.scientist
    )
    assert answer.status_code == 200, answer.text
    [scores] = decode(answer.content)[0].values()
    np.testing.assert_allclose(scores, x @ WEIGHT, rtol=1e-5)
    assert [worker["name"] for worker in (await both.get("/data-centric/workers/authorized"))["workers"]] == ["gpu"]
    asked = {"layers": [], "is_sound": True}
    assert (await both.post("/data-centric/workers/lease", asked, bearer(KNOWN["worker_token"])))["lease"] is None


async def assert_jobs_go_on(both: Opened) -> None:
    async def job(name: str) -> dict[str, Any]:
        found: dict[str, Any] = await both.get(f"/data-centric/jobs/{KNOWN[name]}", both.scientist)
        return found

    trained = await job("federated_job")
    assert (trained["state"], trained["federation"]["num_reported"]) == ("released", 3)
    waiting = await job("waiting_federated_job")
    assert (waiting["state"], waiting["request"]["federation"]["cycles"]) == ("waiting", 3)
    denied = await job("denied_job")
    assert (denied["state"], denied["comment"]) == ("denied", "not this one")
    held = await job("held_job")
    decision = {"request_hash": held["request_hash"], "state": "held"}
    await both.post(f"/data-centric/jobs/{held['id']}/approve", decision)
    await until_state(both.web, held["id"], both.scientist, "released")
    answer = await both.web.get(f"/data-centric/jobs/{held['id']}/result", headers=both.scientist)
    assert answer.json()


async def assert_training_goes_on(both: Opened) -> None:
    """The second step of momentum needs the velocity of the first, which version 0.1 has stored."""
    for key in KNOWN["request_keys"]:
        diff = encode({"weight": np.full((3, 4), 1.0, np.float32), "bias": np.full(3, 1.0, np.float32)})
        answer = await both.web.post("/model-centric/report", content=diff, headers=bearer(key))
        assert answer.status_code == 200, answer.text
    wanted = {"name": "momentum", "version": "1.0", "checkpoint": 3}

    async def checkpoint() -> dict[str, Any]:
        answer = await both.web.get("/model-centric/retrieve-model", params=wanted, headers=both.owner)
        return decode(answer.content)[0] if answer.status_code == 200 else {}

    # Learning rate and momentum are 0.5; the mean diffs were 0.5 and 1.0.
    velocity = 0.5 * 0.5 + 1.0
    arrays = await eventually(checkpoint)
    for array in arrays.values():
        np.testing.assert_array_equal(array, np.float32((1.0 - 0.5 * 0.5) - 0.5 * velocity))
    [draft] = (await both.get("/model-centric/drafts"))["drafts"]
    assert (draft["id"], draft["notes"]) == (KNOWN["draft"], {"from": "0.1"})
    hosted = await both.post(f"/model-centric/drafts/{draft['id']}/host", {"server_config": draft["server_config"]})
    assert (hosted["name"], hosted["version"]) == ("later", "1.0")
