"""Processes that are to be hosted later: kept with their notes, for whoever made them.

Should happen: a draft is hosted once, as if it had been sent then, also after a restart; its name is kept for it; what
it would be refused for is told when it is made.
Should not happen: anybody else sees it or its secret, hosts it or takes its name; files that are left behind.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from pygrid.clock import ManualClock
from pygrid.domain import build_domain
from pygrid.features.processes import drafts
from pygrid.settings import DomainSettings
from pygrid.syft import read_plan
from pygrid.tensors import decode, encode
from support.training import PLAN, Site, assert_values, config, form, model, opaque_variant
from support.web import People, assert_problem, running

DRAFTS = "/model-centric/drafts"
DAY_S = 24 * 3600.0
SECRET = {"secret": "s" * 32}


async def make(site: Site, notes: Any = None, headers: dict[str, str] | None = None, **changes: Any) -> httpx.Response:
    given: dict[str, Any] = config(**changes)
    if notes is not None:
        given["notes"] = notes
    parts = form(json.dumps(given).encode(), encode(model()))
    return await site.web.post(DRAFTS, files=parts, headers=headers or site.owner)


async def made(site: Site, *args: Any, **more: Any) -> dict[str, Any]:
    answer = await make(site, *args, **more)
    assert answer.status_code == 201, answer.text
    draft: dict[str, Any] = answer.json()
    return draft


async def host(
    site: Site, draft: dict[str, Any], headers: dict[str, str] | None = None, **changes: Any
) -> httpx.Response:
    body = {"server_config": {**draft["server_config"], **changes}}
    return await site.web.post(f"{DRAFTS}/{draft['id']}/host", json=body, headers=headers or site.owner)


def kept(site: Site) -> set[str]:
    return {path.name for path in (site.folder / "drafts").iterdir()}


async def test_a_draft_is_hosted_once_with_another_configuration(site: Site) -> None:
    notes = {"jobs": {"alice": "é"}}
    draft = await made(site, notes, num_cycles=7, authentication=SECRET)
    assert (draft["name"], draft["notes"], draft["process"]) == ("digits", notes, None)
    assert draft["server_config"]["authentication"] == SECRET, "its maker may go on with it anywhere"
    assert {file["part"] for file in draft["files"]} == {"model", "plan:training_plan"}
    assert (await site.web.get("/model-centric/processes", headers=site.owner)).json() == {"processes": []}
    for file, wanted in zip(draft["files"], (encode(model()), PLAN), strict=True):
        answer = await site.web.get(f"{DRAFTS}/{draft['id']}/files/{file['hash']}", headers=site.owner)
        assert (answer.content, file["size_bytes"]) == (wanted, len(wanted))
    answers = await asyncio.gather(*(host(site, draft, num_cycles=2) for _ in range(3)))
    processes = [answer.json() for answer in answers]
    assert {answer.status_code for answer in answers} == {200}
    assert {process["id"] for process in processes} == {processes[0]["id"]}
    assert processes[0]["server_config"]["num_cycles"] == 2
    answer = await site.web.get("/model-centric/retrieve-model", params={"name": "digits"}, headers=site.owner)
    assert_values(decode(answer.content)[0], 1.0)
    after = (await site.web.get(f"{DRAFTS}/{draft['id']}", headers=site.owner)).json()
    assert (after["process"], after["files"], after["notes"]) == (processes[0]["id"], [], notes)
    assert kept(site) == set()
    gone = await site.web.get(f"{DRAFTS}/{draft['id']}/files/{draft['files'][0]['hash']}", headers=site.owner)
    assert_problem(gone, 404, "file_not_found")


async def test_a_draft_keeps_the_variants_for_clients_of_2020(site: Site) -> None:
    part = "plan:training_plan:torchscript"
    parts = [*form(config(), encode(model())), (part, (part, opaque_variant(PLAN), "application/json"))]
    draft = (await site.web.post(DRAFTS, files=parts, headers=site.owner)).json()
    assert part in {file["part"] for file in draft["files"]}
    process = (await host(site, draft)).json()
    device = await (await site.device(process)).join(wait_s=None)
    query = {"worker_id": device.worker_id, "request_key": device.key, "receive_operations_as": "torchscript"}
    ((plan_id),) = device.accepted["plans"].values()
    plan = await site.web.get("/model-centric/get-plan", params={**query, "plan_id": plan_id})
    assert read_plan(plan.content).torchscript == b"TorchScript"


async def test_notes_are_changed_and_found_by_name(site: Site) -> None:
    draft = await made(site)
    assert draft["notes"] == {}
    path = f"{DRAFTS}/{draft['id']}/notes"
    answer = await site.web.put(path, json={"notes": {"a": [1, None, "ü\n"]}}, headers=site.owner)
    assert answer.json()["notes"] == {"a": [1, None, "ü\n"]}
    found = await site.web.get(DRAFTS, params={"name": "digits", "version": "1.0"}, headers=site.owner)
    assert [one["notes"] for one in found.json()["drafts"]] == [{"a": [1, None, "ü\n"]}]
    assert (await site.web.get(DRAFTS, params={"name": "other"}, headers=site.owner)).json() == {"drafts": []}
    too_long = await site.web.put(path, json={"notes": {"a": "x" * drafts.MAX_NOTES_BYTES}}, headers=site.owner)
    assert_problem(too_long, 400, "notes_too_long")
    for wrong in ({}, {"notes": []}, {"notes": {}, "more": 1}, []):
        assert (await site.web.put(path, json=wrong, headers=site.owner)).status_code == 400
    assert_problem(await make(site, ["no object"], name="other"), 400, "invalid_config")
    assert_problem(await make(site, {"a": "x" * drafts.MAX_NOTES_BYTES}, name="other"), 400, "notes_too_long")


async def test_it_is_for_its_maker_alone(site: Site, site_people: People) -> None:
    other = await site_people.with_role(3, site.owner)
    user = await site_people.with_role(1, site.owner, "user@example.org")
    draft = await made(site, {"secret": 1}, headers=other)
    path = f"{DRAFTS}/{draft['id']}"
    # Not even for the Owner: it may hold the secret of a training.
    assert (await site.web.get(DRAFTS, headers=site.owner)).json() == {"drafts": []}
    for call in (
        site.web.get(path, headers=site.owner),
        site.web.get(f"{path}/files/{draft['files'][0]['hash']}", headers=site.owner),
        site.web.put(f"{path}/notes", json={"notes": {}}, headers=site.owner),
        host(site, draft),
        site.web.delete(path, headers=site.owner),
    ):
        assert_problem(await call, 404, "draft_not_found")
    assert_problem(await site.web.get(path, headers=user), 403, "not_permitted")
    assert_problem(await make(site, headers=user), 403, "not_permitted")
    assert (await site.web.get(path)).status_code == 401
    assert (await site.web.get(path, headers=other)).json()["notes"] == {"secret": 1}


async def test_nobody_else_gets_its_name(site: Site, site_people: People) -> None:
    other = await site_people.with_role(3, site.owner)
    draft = await made(site)
    parts = form(json.dumps(config()).encode(), encode(model()))
    assert_problem(
        await site.web.post("/model-centric/host-training", files=parts, headers=other), 409, "process_exists"
    )
    assert_problem(await make(site, headers=other), 409, "process_exists")
    assert_problem(await make(site), 409, "process_exists")
    answers = await asyncio.gather(*(make(site, name="raced") for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]
    assert (await site.web.delete(f"{DRAFTS}/{draft['id']}", headers=site.owner)).status_code == 200
    answer = await site.web.post("/model-centric/host-training", files=parts, headers=other)
    assert answer.status_code == 201, answer.text
    assert_problem(await make(site), 409, "process_exists")


async def test_what_could_not_be_hosted_is_refused_at_once_and_leaves_nothing(site: Site) -> None:
    for changes in ({"cycle_length": -1}, {"unknown": 1}, {"min_diffs": 5, "max_diffs": 2}):
        assert_problem(await make(site, **changes), 400, "invalid_config")
    broken = form(json.dumps(config()).encode(), b"no model")
    assert (await site.web.post(DRAFTS, files=broken, headers=site.owner)).status_code == 400
    assert kept(site) == set()
    draft = await made(site)
    assert_problem(await host(site, draft, min_diffs=5, max_diffs=2), 400, "invalid_config")
    assert len(kept(site)) == 2
    assert (await host(site, draft)).status_code == 200


async def test_files_that_two_drafts_share_stay_until_the_last_is_gone(site: Site) -> None:
    one, two = await made(site, name="one"), await made(site, name="two")
    assert len(kept(site)) == 2
    await site.web.delete(f"{DRAFTS}/{one['id']}", headers=site.owner)
    assert len(kept(site)) == 2
    assert (await host(site, two)).status_code == 200
    assert kept(site) == set()
    assert_problem(await site.web.delete(f"{DRAFTS}/{one['id']}", headers=site.owner), 404, "draft_not_found")


async def test_an_account_has_so_many_at_most(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drafts, "MAX_DRAFTS", 2)
    first = await made(site, name="one")
    await made(site, name="two")
    refused = form(json.dumps(config(name="three")).encode(), encode(model(2.0)))
    assert_problem(await site.web.post(DRAFTS, files=refused, headers=site.owner), 429, "too_many_drafts")
    assert len(kept(site)) == 2, "nothing of the one that was refused"
    assert (await host(site, first)).status_code == 200
    await made(site, name="three")


async def test_a_restart_keeps_drafts_but_for_old_ones_and_what_nobody_names(settings: DomainSettings) -> None:
    clock = ManualClock()
    app = build_domain(settings, clock=clock)
    async with running(app) as web:
        people = People(web)
        site = Site(app, web, clock, settings.data_dir, await people.owner())
        await made(site, name="old")
        clock.advance((drafts.KEEP_DAYS - 1) * DAY_S)
        site.owner = await people.log_in("owner@example.org")
        draft = await made(site, name="new")
    (settings.data_dir / "drafts" / ("0" * 64)).write_bytes(b"left behind")
    clock.advance(2 * DAY_S)
    app = build_domain(settings, clock=clock)
    async with running(app) as web:
        site = Site(app, web, clock, settings.data_dir, await People(web).log_in("owner@example.org"))
        found = (await web.get(DRAFTS, headers=site.owner)).json()["drafts"]
        assert [one["name"] for one in found] == ["new"]
        assert len(kept(site)) == 2
        assert (await host(site, draft)).status_code == 200
