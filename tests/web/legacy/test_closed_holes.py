"""The faults of the system of 2020, each with a test that shows it closed.

The names are those of the description of that system: F1 to F12.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pygrid.errors import InvalidConfig
from pygrid.features.datasets import conversion
from pygrid.legacy.websocket import LegacyCaller, Published, answer
from pygrid.network import build_network
from pygrid.settings import DomainSettings, load_network_settings, load_settings
from pygrid.syft.wire import write_bytes, write_int
from pygrid.tensors import encode
from pygrid.web.services import service
from support import jobs
from support.jobs import records
from support.plans.models import SERVE, linear
from support.plans.models import form as model_form
from support.training import Site, bearer, config, form, model, owned_folder, site, site_people  # noqa: F401 - fixtures
from support.web import PASSWORD, People, assert_problem, running

OPENAPI = Path(__file__).parents[3] / "docs" / "reference" / "openapi-domain.json"


async def say(site: Site, kind: str, **fields: Any) -> Any:  # noqa: F811
    caller = LegacyCaller(site.app.state.authenticator, "127.0.0.1")
    return await answer(service(site.app.state, Published), caller, json.dumps({"type": kind, **fields}))


async def test_f1_nothing_is_hosted_served_or_downloaded_without_an_account(site: Site, tmp_path: Path) -> None:  # noqa: F811
    process = await site.host()
    assert (await site.try_host(form(config("x"), encode(model())), headers={})).status_code == 401
    assert (await site.web.get("/model-centric/retrieve-model", params={"name": process["name"]})).status_code == 401
    assert (await site.web.post(SERVE, files=model_form(linear(), "m"))).status_code == 401
    for kind in ("model-centric/host-training", "host-model", "connect-node"):
        found = await say(site, kind, data={})
        assert found.get("data", found)["error"] == "Missing request key!"
    node = {"node-id": "n", "node-address": "http://192.0.2.1"}
    async with running(build_network(load_network_settings({}, data_dir=tmp_path / "net"))) as net:
        assert (await net.post("/join", json=node)).status_code == 401
        assert (await net.request("DELETE", "/delete-node", json=node)).status_code == 401


async def test_f2_nobody_becomes_owner_by_themselves(site: Site, site_people: People) -> None:  # noqa: F811
    user = await site_people.sign_up("climber@example.org", role=4)
    assert user["role"]["name"] == "User"
    headers = await site_people.log_in("climber@example.org")
    raised = await site.web.put(f"/users/{user['id']}/role", json={"role": 4}, headers=headers)
    assert raised.status_code == 403
    token = headers["Authorization"].removeprefix("Bearer ")
    over = {"token": token, "private-key": user["private_key"]}
    assert "not authorized" in (await say(site, "put-role", id=user["id"], role=4, **over))["error"]


async def test_f3_keys_are_shown_once_tokens_end_and_roles_keep_their_ids(site: Site, site_people: People) -> None:  # noqa: F811
    await site_people.sign_up("other@example.org")
    for path in ("/users", "/users/1", "/users/2"):
        assert "private_key" not in (await site.web.get(path, headers=site.owner)).text
    edited = await site.web.put("/roles/2", json={"id": 4, "name": "Officer"}, headers=site.owner)
    assert edited.json()["role"]["id"] == 2
    site.clock.advance(13 * 3600)
    assert (await site.web.get("/users/me", headers=site.owner)).status_code == 403


async def test_f4_no_published_key_no_tracebacks_and_nothing_is_unpickled(site: Site) -> None:  # noqa: F811
    for load in (load_settings, load_network_settings):
        with pytest.raises(InvalidConfig, match="publicly known"):
            load({"SECRET_KEY": "justasecretkeythatishouldputhere"}, host="0.0.0.0")
    process = await site.host()
    device = await (await site.device(process)).join()
    pickled = b"\x80\x04\x95" + b"cos\nsystem\n(S'true'\ntR." * 3
    tensor = write_bytes(2, write_bytes(1, write_bytes(3, pickled) + write_int(8, 1)))  # serializer TORCH
    for diff in (pickled, tensor):
        encoded = base64.b64encode(diff).decode()
        report = {"worker_id": device.worker_id, "request_key": device.key, "diff": encoded}
        refused = await say(site, "model-centric/report", data=report)
        assert list(refused["data"]) == ["error"]
    for text in (json.dumps(refused), (await site.web.get("/users/abc", headers=site.owner)).text):
        assert "Traceback" not in text
        assert ".py" not in text


async def test_f5_an_approved_request_gives_no_data_and_the_budget_is_a_limit(
    settings: DomainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "convert_in_child", lambda asked, _stop: conversion.convert(asked))
    secret = np.float32(64.109375)  # exact, so that its text is the same in all formats
    data = {**records(20), "age": np.full(20, secret)}
    async with jobs.running_site(settings) as here:
        dataset = await here.owner.upload(arrays=data)
        await here.owner.set_policy(dataset, epsilon=1.0, epsilon_per_user=1.0)
        count = {"statistics": [{"kind": "count"}], "privacy": {"epsilon": 0.9, "delta": 1e-6}}
        job = await here.scientist.submit(dataset, "statistics", **count)
        await here.scientist.wait(job["id"], "released")
        refused = await here.scientist.try_submit(dataset, "statistics", **count)
        assert_problem(refused, 409, "budget_exhausted")
        ids = {"dataset_id": dataset, "job_id": job["id"]}
        paths = [path for path, methods in json.loads(OPENAPI.read_text())["paths"].items() if "get" in methods]
        paths += ["/data-centric/tensors", "/data-centric/requests", f"/data-centric/datasets/{dataset}/data"]
        answered = set()
        for path in paths:
            if path.endswith("/events"):
                continue
            filled = re.sub(r"\{(\w+)\}", lambda name: str(ids.get(name[1], 1)), path)
            answer = await here.scientist.call("GET", filled, params={"name": "points", "num_records": 5})
            if answer.status_code == 200:
                answered.add(path)
            for form in (secret.tobytes(), np.float64(secret).tobytes(), b"64.1"):
                assert form not in answer.content, path
        assert {"/data-centric/datasets/{dataset_id}", "/data-centric/jobs/{job_id}/result"} <= answered
        assert not answered & {"/data-centric/datasets/{dataset_id}/preview", *paths[-3:]}


async def test_f6_a_cycle_ends_without_another_report(site: Site) -> None:  # noqa: F811
    process = await site.host(max_diffs=2, min_diffs=1, max_workers=2)
    device, _ = await site.devices(process, 2)
    await device.report()
    refused = await (await site.device(process)).ask()
    assert isinstance(refused["timeout"], int)
    assert refused["timeout"] >= 0
    await site.pass_time(61)
    assert (await site.until_completed(process))["state"] == "completed"


async def test_f7_two_processes_average_at_the_same_time(site: Site) -> None:  # noqa: F811
    both = [await site.host(name=name, max_diffs=1) for name in ("one", "two")]
    devices = [await (await site.device(process)).join() for process in both]
    await asyncio.gather(*(device.report() for device in devices))
    for process in both:
        await site.until_completed(process)
        assert await site.num_checkpoints(process) == 2


async def test_f8_each_documented_setting_of_workers_has_its_effect(site: Site) -> None:  # noqa: F811
    process = await site.host(min_workers=2, max_workers=2, do_not_reuse_workers_until_cycle=1)
    first, second, third = [await site.device(process) for _ in range(3)]
    assert (await first.ask())["reason"] == "waiting_for_workers"
    assert (await site.cycle(process))["state"] == "hosted", "min_workers"
    for device in (second, first):
        await device.join()
    assert (await third.ask())["reason"] == "cycle_full", "max_workers"
    for device in (first, second):
        await device.report()
    await site.until_completed(process)
    assert (await first.ask())["reason"] == "resting", "do_not_reuse_workers_until_cycle"
    firsts = []
    for number in range(12):  # without a lot, the first one has the place each time
        drawn = await site.host(
            name=f"{number}", max_workers=1, max_diffs=1, pool_selection="random", pool_window_s=0.1
        )
        devices = [await site.device(drawn) for _ in range(3)]
        answers = await asyncio.gather(*(device.ask() for device in devices))
        assert sorted(one.get("reason", "accepted") for one in answers) == ["accepted", "not_drawn", "not_drawn"]
        firsts.append(answers[0]["status"])
    assert set(firsts) == {"accepted", "rejected"}, "pool_selection"


async def test_f9_a_bad_report_is_refused_at_once(site: Site) -> None:  # noqa: F811
    process = await site.host(max_diffs=2)
    device, other = await site.devices(process, 2)
    for bad in (b"garbage", encode({"weight": np.zeros(3, np.float32)}), encode(model(float("nan")))):
        assert (await device.send(bad)).status_code == 400
    await device.report(0.5)
    assert (await device.send(model(0.25))).status_code == 409, "a second report does not replace the first"
    await other.report(0.5)
    await site.until_completed(process)
    assert (await other.send(model(0.25))).status_code in (409, 410)


async def test_f10_a_training_ends_after_its_cycles(site: Site) -> None:  # noqa: F811
    process = await site.host(max_diffs=1, num_cycles=2)
    for sequence in (1, 2):
        await (await (await site.device(process)).join()).report()
        await site.until_completed(process, sequence)
    refused = await (await site.device(process)).ask()
    assert refused["reason"] == "training_finished"
    assert "timeout" not in refused


async def test_f11_a_network_answers(tmp_path: Path) -> None:
    async with running(app := build_network(load_network_settings({}, data_dir=tmp_path, id="net"))) as net:
        await People(net).owner()
        assert (await People(net).sign_up("second@example.org"))["role"]["name"] == "User"
        assert (await net.get("/choose-model-host")).json() == []
        assert (await net.post("/search-encrypted-model", json={"model_id": "m"})).json() == {}
        caller = LegacyCaller(app.state.authenticator, "127.0.0.1")
        said = {"type": "signup-user", "request_id": 1, "email": "third@example.org", "password": PASSWORD}
        found = await answer(service(app.state, Published), caller, json.dumps(said))
        assert isinstance(found, dict)
        assert found["user"]["role"]["name"] == "User"


async def test_f12_nobody_inherits_groups_and_a_role_in_use_stays(site: Site, site_people: People) -> None:  # noqa: F811
    first = await site_people.sign_up("first@example.org")
    await site.web.post("/groups", json={"name": "ward"}, headers=site.owner)
    await site.web.put(f"/users/{first['id']}/groups", json={"groups": [1]}, headers=site.owner)
    assert (await site.web.delete(f"/users/{first['id']}", headers=site.owner)).status_code == 200
    assert (await site_people.sign_up("next@example.org"))["groups"] == []
    assert (await site.web.delete("/groups/1", headers=site.owner)).status_code == 200
    assert (await site_people.sign_up("last@example.org"))["groups"] == []
    role = {
        name: False for name in (await site.web.get("/roles/1", headers=site.owner)).json()["role"] if "can_" in name
    }
    made = (await site.web.post("/roles", json={"name": "used", **role}, headers=site.owner)).json()["role"]["id"]
    used = await site_people.sign_up("used@example.org")
    await site.web.put(f"/users/{used['id']}/role", json={"role": made}, headers=site.owner)
    assert (await site.web.delete(f"/roles/{made}", headers=site.owner)).status_code == 409
    assert (await site.web.get("/users", headers=site.owner)).status_code == 200
