"""Pausing, resuming and deleting a process, by its creator or an Owner.

Should happen: a paused process admits nobody and says so, takes the reports of those who were admitted, completes its
cycle, and goes on where it was; a deleted one is gone with its cycles, its name is free, and its files are removed.
Should not happen: others change it; an active process is deleted; the id of a deleted one is used again; a file that
another process has is removed.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import httpx

from pygrid.features.processes.service import ProcessesService
from pygrid.storage.audit import list_entries
from pygrid.storage.sql.database import Database
from pygrid.tensors import encode
from pygrid.web.services import service
from support.eventually import eventually
from support.training import Site, assert_values, model
from support.web import People, assert_problem

BASE = "/model-centric/processes"


async def _act(site: Site, process: dict[str, Any], act: str, headers: dict[str, str] | None = None) -> httpx.Response:
    return await site.web.post(f"{BASE}/{process['id']}/{act}", headers=headers or site.owner)


async def _delete(site: Site, process: dict[str, Any], headers: dict[str, str] | None = None) -> httpx.Response:
    return await site.web.delete(f"{BASE}/{process['id']}", headers=headers or site.owner)


async def _finished(site: Site, process: dict[str, Any]) -> None:
    assert (await _act(site, process, "finish")).status_code == 200

    async def is_over() -> bool:
        return (await site.cycle(process))["state"] == "completed"

    await eventually(is_over)


async def test_a_paused_process_admits_nobody_and_counts_those_who_were_admitted(site: Site) -> None:
    process = await site.host(max_diffs=1, num_cycles=0, published=True)
    admitted, late = await site.device(process), await site.device(process)
    await admitted.join()
    assert (await _act(site, process, "pause")).json()["state"] == "paused"
    refused = await late.ask()
    assert refused == {
        "status": "rejected",
        "timeout": 60,
        "reason": "process_paused",
        "detail": "the owner of this process has paused its training",
    }
    assert (await late.ask(wait_s=None)) == {"status": "rejected", "timeout": 60}  # a client of 2020
    await admitted.report(0.5)
    await site.until_completed(process)
    assert_values(await site.checkpoint(process), 0.5)
    assert (await site.cycle(process))["state"] == "hosted"
    await site.pass_time(10_000)
    assert (await site.cycle(process))["attempt"] == 1
    assert (await late.ask())["reason"] == "process_paused"
    assert (await _act(site, process, "resume")).json()["state"] == "active"
    await late.join()
    await late.report(0.25)
    await site.until_completed(process, 2)
    assert_values(await site.checkpoint(process), 0.25)


async def test_waiting_devices_are_admitted_by_a_resume(site: Site) -> None:
    process = await site.host(min_workers=2, max_diffs=2, num_cycles=0)
    first, second = await site.device(process), await site.device(process)
    assert (await first.ask())["reason"] == "waiting_for_workers"
    await _act(site, process, "pause")
    assert (await first.ask())["reason"] == "process_paused"
    asking = [asyncio.create_task(device.ask(wait_s=30)) for device in (first, second)]
    assert not (await asyncio.wait(asking, timeout=0.05))[0]
    await _act(site, process, "resume")
    assert [answer["status"] for answer in await asyncio.gather(*asking)] == ["accepted"] * 2


async def test_a_device_that_waited_for_others_learns_of_the_pause(site: Site) -> None:
    process = await site.host(min_workers=3, max_diffs=3, num_cycles=0)
    device = await site.device(process)
    asking = asyncio.create_task(device.ask(wait_s=0.5))
    await asyncio.sleep(0)
    await _act(site, process, "pause")
    assert (await asking)["reason"] == "process_paused"


async def test_a_pause_survives_a_repeat_and_ends_with_the_training(site: Site) -> None:
    process = await site.host()
    for act, state in (("pause", "paused"), ("pause", "paused"), ("resume", "active"), ("resume", "active")):
        assert (await _act(site, process, act)).json()["state"] == state
    await _act(site, process, "pause")
    await _finished(site, process)
    for act in ("pause", "resume"):
        assert_problem(await _act(site, process, act), 409, "process_finished")
    entries = await service(site.app.state, Database).read(lambda connection: list_entries(connection, 0, 1000))
    acts = [entry.action for entry in entries if entry.data.get("process_id") == process["id"]]
    assert acts == ["process_paused", "process_resumed", "process_paused", "process_finished"]


async def test_only_the_creator_and_owners_change_a_process(site: Site) -> None:
    people = People(site.web)
    creator = await people.with_role(5, site.owner, "creator@example.org")
    other = await people.with_role(5, site.owner, "other@example.org")
    user = await people.with_role(1, site.owner, "user@example.org")
    made = await site.host()
    for act in ("pause", "resume", "finish"):
        assert_problem(await _act(site, made, act, user), 403, "not_permitted")
        assert_problem(await _act(site, made, act, other), 403, "not_your_process")
    assert_problem(await _delete(site, made, user), 403, "not_permitted")
    assert_problem(await _delete(site, made, other), 403, "not_your_process")
    answer = await site.web.post(f"{BASE}/{made['id']}/restore", json={"checkpoint": 1}, headers=other)
    assert_problem(answer, 403, "not_your_process")
    site.owner, owner = creator, site.owner
    own = await site.host(name="own")
    assert (await _act(site, own, "pause")).status_code == 200
    assert (await _act(site, own, "resume", owner)).status_code == 200
    await _finished(site, own)
    assert (await _delete(site, own)).status_code == 204


async def test_a_deleted_process_is_gone_and_its_name_is_free(site: Site) -> None:
    process = await site.host(max_diffs=1, num_cycles=0)
    (device,) = await site.devices(process, 1)
    await device.report(0.5)
    await site.until_completed(process)
    refused = assert_problem(await _delete(site, process), 409, "process_active")
    assert "finish it first" in refused["detail"]
    await _finished(site, process)
    assert (await _delete(site, process)).status_code == 204
    assert_problem(await _delete(site, process), 404, "process_not_found")
    for path in ("", "/cycles", "/checkpoints", f"/plans/{process['plans'][0]['id']}"):
        assert (await site.web.get(f"{BASE}/{process['id']}{path}", headers=site.owner)).status_code == 404
    assert (await site.web.get(BASE, headers=site.owner)).json() == {"processes": []}
    message = {"worker_id": device.worker_id, "model": "digits", "version": "1.0", "wait_s": 0}
    assert (await site.web.post("/model-centric/cycle-request", json=message)).status_code == 404
    assert (await device.send(model(0.5))).status_code in (401, 404)
    again = await site.host(max_diffs=1, num_cycles=1)
    assert again["id"] > process["id"]
    assert_values(await site.checkpoint(again), 1.0)
    (device,) = await site.devices(again, 1)
    await device.report(0.25)

    async def trained() -> bool:
        return await site.num_checkpoints(again) == 2

    await eventually(trained)
    assert_values(await site.checkpoint(again), 0.75)


async def test_files_go_with_the_last_process_that_has_them(site: Site) -> None:
    gone, kept = await site.host(name="gone", start=model(2.0)), await site.host(name="kept")
    own = hashlib.sha256(encode(model(2.0))).hexdigest()
    names = {path.name for path in (site.folder / "blobs").iterdir()}
    assert own in names
    await _finished(site, gone)
    assert (await _delete(site, gone)).status_code == 204
    processes = service(site.app.state, ProcessesService)
    await processes.remove_blobs()
    assert {path.name for path in (site.folder / "blobs").iterdir()} == names, "a row can be on its way to a young file"
    await processes.remove_blobs(min_age_s=-60)
    assert {path.name for path in (site.folder / "blobs").iterdir()} == names - {own}
    assert_values(await site.checkpoint(kept), 1.0)
    plan = await site.web.get(f"{BASE}/{kept['id']}/plans/{kept['plans'][0]['id']}", headers=site.owner)
    assert plan.status_code == 200
