"""Bytes that changed on the disk of a Domain.

Should happen: the error names the file; a copy is used in its place; the process goes on from an earlier checkpoint,
with its reports; a cycle is completed without a damaged report, and says so.
Should not: damaged bytes are served or averaged; a choice of another damaged checkpoint changes anything.
"""

from __future__ import annotations

import shutil
from typing import Any

import pytest
from test_restart import Restartable, domain_again  # noqa: F401 - a fixture

from pygrid.storage import audit
from pygrid.storage.sql.database import Database
from pygrid.storage.store import Store
from pygrid.tensors import encode
from pygrid.web.services import service
from support.eventually import eventually
from support.training import Site, assert_values, bearer, model
from support.web import assert_problem, flip


async def model_hash(site: Site, process: dict[str, Any], number: int) -> str:
    answer = await site.web.get(f"/model-centric/processes/{process['id']}/checkpoints", headers=site.owner)
    found: str = answer.json()["checkpoints"][number - 1]["model_hash"]
    return found


async def restore(site: Site, process: dict[str, Any], number: int) -> Any:
    path = f"/model-centric/processes/{process['id']}/restore"
    return await site.web.post(path, json={"checkpoint": number}, headers=site.owner)


async def trained(domain: Restartable, **config: Any) -> dict[str, Any]:
    """A process with two cycles completed, so with three checkpoints, each 0.5 less."""
    async with domain.running() as site:
        process = await site.host(max_workers=1, min_diffs=1, max_diffs=1, **config)
        for sequence in (1, 2):
            (device,) = await site.devices(process, 1)
            await device.report(0.5)
            await site.until_completed(process, sequence)
    return process


async def test_a_damaged_checkpoint_is_named_and_an_earlier_one_is_chosen(domain_again: Restartable) -> None:  # noqa: F811
    process = await trained(domain_again)
    async with domain_again.running() as site:
        damaged = await model_hash(site, process, 3)
        (device,) = await site.devices(process, 1)
    flip(domain_again.folder / "blobs" / damaged)
    async with domain_again.running() as site:
        device._site = site
        wanted = {"name": "digits", "checkpoint": "latest"}
        answer = await site.web.get("/model-centric/retrieve-model", params=wanted, headers=site.owner)
        assert assert_problem(answer, 503, "blob_damaged")["name"] == damaged
        wanted = {"model_id": process["id"]}
        answer = await site.web.get("/model-centric/get-model", params=wanted, headers=bearer(device.key))
        assert_problem(answer, 503, "blob_damaged")
        answer = await site.web.post("/model-centric/authenticate", json={"model_name": "digits"})
        assert_problem(answer, 503, "blob_damaged")

        assert_problem(await restore(site, process, 3), 503, "blob_damaged")
        assert_problem(await restore(site, process, 9), 404, "checkpoint_not_found")
        assert await site.num_checkpoints(process) == 3
        answer = await restore(site, process, 2)
        assert answer.status_code == 200, answer.text
        assert (answer.json()["num_checkpoints"], answer.json()["cycle"]["checkpoint"]) == (4, 4)
        assert_problem(await device.send(encode(model(0.5))), 410, "cycle_closed")

        (device,) = await site.devices(process, 1)
        answer = await site.web.get(
            "/model-centric/get-model", params={"model_id": process["id"]}, headers=bearer(device.key)
        )
        assert answer.headers["pygrid-checkpoint"] == "4"
        await device.report(0.25)
        await site.until_completed(process, 3)
        assert_values(await site.checkpoint(process), 0.25)
        entries = await service(site.app.state, Database).read(lambda c: audit.list_entries(c, limit=100))
        assert entries[-1].action == "checkpoint_restored"
        assert (entries[-1].data["of"], entries[-1].data["checkpoint"]) == (2, 4)


async def test_a_cycle_that_cannot_close_on_a_damaged_checkpoint_closes_on_another(domain_again: Restartable) -> None:  # noqa: F811
    process = await trained(domain_again)
    async with domain_again.running() as site:
        (device,) = await site.devices(process, 1)
        flip(domain_again.folder / "blobs" / await model_hash(site, process, 3))
        await device.report(0.25)
        await eventually(lambda: _is_closing(site, process))
        assert await site.num_checkpoints(process) == 3
        assert (await restore(site, process, 2)).status_code == 200
        await site.until_completed(process, 3)
        assert_values(await site.checkpoint(process), 0.25)


async def _is_closing(site: Site, process: dict[str, Any]) -> bool:
    return (await site.cycle(process))["state"] == "closing"


@pytest.mark.parametrize("where", ["middle", "end"])
async def test_a_damaged_report_is_not_averaged(domain_again: Restartable, where: str) -> None:  # noqa: F811
    async with domain_again.running() as site:
        process = await site.host(max_workers=3, min_diffs=3, max_diffs=3)
        devices = await site.devices(process, 3)
        await devices[0].report(0.5)
        await devices[1].report(0.75)
    (segment,) = (domain_again.folder / "diffs").glob("*.segment")
    size = segment.stat().st_size
    if where == "middle":
        flip(segment, size // 2 - 1)
    else:
        segment.write_bytes(segment.read_bytes()[: size - 3])
    async with domain_again.running() as site:
        devices[2]._site = site
        answer = await site.web.post(
            "/model-centric/report", content=encode(model(1.0)), headers=bearer(devices[2].key)
        )
        assert answer.status_code == 200, answer.text
        await site.until_completed(process)
        kept = 0.75 if where == "middle" else 0.5
        assert_values(await site.checkpoint(process), 1.0 - (kept + 1.0) / 2)
        stored = await service(site.app.state, Database).read(_completed)
        assert [event["num_damaged"] for event in stored] == [1]


def _completed(connection: Any) -> list[dict[str, Any]]:
    from pygrid.storage.cycles import list_events

    return [event.data for event in list_events(connection, 1, 0, 100) if event.kind == "cycle_completed"]


async def test_a_copy_is_used_in_place_of_a_damaged_blob(domain_again: Restartable) -> None:  # noqa: F811
    process = await trained(domain_again)
    async with domain_again.running() as site:
        name = await model_hash(site, process, 3)
        blobs = service(site.app.state, Store).blobs
        copy = domain_again.folder / "blobs" / "copy-2"
        copy.mkdir()
        blobs._copies.append(copy)
        shutil.copy(domain_again.folder / "blobs" / name, copy)
        flip(domain_again.folder / "blobs" / name)
        assert_values(await site.checkpoint(process), 0.0)
