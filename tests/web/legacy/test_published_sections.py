"""The description of the published interface, section by section, over HTTP.

Should happen: each status and text is the published one, or a row of the differences in
`docs/reference/published.md` names it.
Should not happen: a text in the documentation that no part of the source has.
"""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from pygrid.syft import read_state, write_state
from pygrid.web.message_memory import MessageMemory
from pygrid.web.published import ROWS, TEXTS
from pygrid.web.services import service
from support.snapshots.sources import literals
from support.training import Site, model, owned_folder, site, wide_plan  # noqa: F401 - fixtures

DOCUMENT = (Path(__file__).parents[3] / "docs" / "reference" / "published.md").read_text()
BAD_JSON = "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"
SECRET = "a secret of at least thirty-two bytes"


def test_the_documentation_has_every_text_and_the_source_has_every_text_of_it() -> None:
    texts = {*TEXTS.values(), *(text for rows in ROWS.values() for _, text in rows.values() if text)}
    at_nodes = {"This ID has already been registered", "This ID was not found in connected nodes"}
    assert [text for text in texts - at_nodes if text not in DOCUMENT] == []
    table = DOCUMENT.partition("## Texts of errors")[2].partition("## Data-centric routes")[0]
    quoted = [part for line in table.splitlines() if line.startswith("|") for part in line.split("`")[1::2]]
    shared = {"'ping' is required", "'download' needs to be a positive number"}
    assert [text for text in quoted if text not in shared and text not in literals()] == []


async def test_conventions(site: Site) -> None:  # noqa: F811
    for path in ("authenticate", "cycle-request"):
        for content_type in ("text/plain", "application/x-www-form-urlencoded", "application/json"):
            headers = {"content-type": content_type}
            bad = await site.web.post(f"/model-centric/{path}", content="{bad", headers=headers)
            assert (bad.status_code, bad.json()["error"]) == (400, BAD_JSON)
            for prefix in ("data-centric", "data_centric"):
                for route, body, status in (("search", {"query": []}, 200), ("search-encrypted-models", {}, 400)):
                    text = json.dumps(body)
                    found = await site.web.post(f"/{prefix}/{route}", content=text, headers=headers)
                    assert found.status_code == status, (route, content_type)
    origin = {"origin": "https://app.example", "access-control-request-method": "POST"}
    for prefix in ("", "/"):
        preflight = await site.web.options(f"http://localhost{prefix}/model-centric/authenticate", headers=origin)
        assert preflight.headers["access-control-allow-origin"] == "*"
        answer = await site.web.post(f"http://localhost{prefix}/model-centric/authenticate", json={}, headers=origin)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (400, "*")
    assert "access-control-allow-origin" not in (await site.web.get("/users", headers=site.owner)).headers


async def test_authentication_and_speed_test(site: Site) -> None:  # noqa: F811
    await site.host(authentication={"secret": SECRET})
    digits = {"model_name": "digits"}
    missing = await _post(site, "authenticate", digits)
    assert (missing.status_code, missing.json()["error"]) == (
        400,
        "Authentication is required, please pass an 'auth_token'.",
    )
    invalid = await _post(site, "authenticate", {**digits, "auth_token": "just kidding!"})
    assert (invalid.status_code, invalid.json()["error"]) == (400, "The 'auth_token' you sent is invalid.")
    unknown = await _post(site, "authenticate", {"model_name": "none"})
    assert (unknown.status_code, unknown.json()["error"]) == (404, TEXTS["process_not_found"])
    for query in ("is_ping=1&worker_id=w&random=0.12?0.34", "worker_id=w&random=x&is_ping=1"):
        ping = await site.web.get(f"/model-centric/speed-test?{query}")
        assert ping.status_code == 200
    for query in ("", "worker_id=w", "random=1", "worker_id=&random=1"):
        assert (await site.web.get(f"/model-centric/speed-test?{query}")).status_code == 400


async def test_downloads(site: Site) -> None:  # noqa: F811
    process = await site.host()
    device = await (await site.device(process)).join()
    cases = [
        ("get-model", {"model_id": 99}, 400, "Model ID not found!"),
        ("get-plan", {"plan_id": 99}, 400, "Plan ID not found!"),
        ("get-protocol", {"protocol_id": 1}, 400, "Protocol ID not found!"),
        ("get-model", {"model_id": process["id"], "request_key": "0" * 64}, 401, "Invalid request key!"),
        ("get-model", {"model_id": process["id"], "worker_id": "other"}, 400, "Worker ID not found!"),
    ]
    for path, query, status, text in cases:
        params = {"worker_id": device.worker_id, "request_key": device.key, **query}
        found = await site.web.get(f"/model-centric/{path}", params=params)
        assert (found.status_code, found.json()["error"]) == (status, text), path
    for query in ({"checkpoint": ""}, {"version": ""}, {"checkpoint": "1"}, {"checkpoint": "latest", "version": "1.0"}):
        params = {"name": "digits", **query}
        found = await site.web.get("/model-centric/retrieve-model", params=params, headers=site.owner)
        assert (found.status_code, found.headers["pygrid-checkpoint"]) == (200, "1"), query
    for query, status in (({"checkpoint": 9}, 404), ({"checkpoint": "best"}, 404), ({"version": "9"}, 404)):
        params = {"name": "digits", **query}
        assert (
            await site.web.get("/model-centric/retrieve-model", params=params, headers=site.owner)
        ).status_code == status
    await site.pass_time(61)
    params = {"worker_id": device.worker_id, "request_key": device.key, "model_id": process["id"]}
    closed = await site.web.get("/model-centric/get-model", params=params)
    assert (closed.status_code, closed.json()["error"]) == (400, "Cycle not found!")


async def test_cycle_requests_and_reports(site: Site) -> None:  # noqa: F811
    process = await site.host(published=True, minimum_upload_speed=1)
    client = (await _post(site, "authenticate", {"model_name": "digits"})).json()["worker_id"]
    asked = {"worker_id": client, "model": "digits", "version": "1.0"}
    speeds = {"ping": 1, "download": 2, "upload": 3}
    for change, text in (
        ({}, "'ping' is required"),
        ({**speeds, "download": -1}, "'download' needs to be a positive number"),
        ({**speeds, "worker_id": "nobody"}, "Worker ID not found!"),
        ({**speeds, "model": "none"}, TEXTS["process_not_found"]),
        ({**speeds, "version": "9"}, TEXTS["process_not_found"]),
    ):
        found = await _post(site, "cycle-request", {**asked, **change})
        assert (found.status_code, found.json()) == (200, {"status": "rejected", "error": text})
        native = await _post(site, "cycle-request", {**asked, **change, "wait_s": 0})
        assert native.status_code in (400, 404)
    accepted = (await _post(site, "cycle-request", {**asked, **speeds})).json()
    names = ["status", "request_key", "version", "model", "plans", "protocols", "client_config", "model_id"]
    assert list(accepted) == names
    assert [type(one) for one in (accepted["model_id"], *accepted["plans"].values())] == [int, int]
    assert accepted["protocols"] == {}
    again = (await _post(site, "cycle-request", {**asked, **speeds})).json()
    assert again == {"status": "rejected", "timeout": 60}
    report = {"worker_id": client, "request_key": accepted["request_key"]}
    diff = base64.encodebytes(write_state([model(0.5)[name] for name in ("weight", "bias")])).decode()
    assert "\n" in diff, "lines of 76 characters"
    for some in (diff, "A" * 90_000):
        wrong = await _post(site, "report", {**report, "request_key": "0" * 64, "diff": some})
        assert (wrong.status_code, wrong.json()) == (200, {"error": "Invalid request key!"})
    bad = await _post(site, "report", {**report, "diff": "no base64"})
    assert (bad.status_code, list(bad.json())) == (200, ["error"])
    assert (await site.web.post("/model-centric/report", content="{bad")).status_code == 400
    for _ in range(2):
        taken = await _post(site, "report", {**report, "diff": diff})
        assert (taken.status_code, taken.json()) == (200, {"status": "success"})
    other = base64.b64encode(write_state([model(0.25)[name] for name in ("weight", "bias")])).decode()
    used = await _post(site, "report", {**report, "diff": other})
    assert (used.status_code, list(used.json())) == (200, ["error"])
    assert (await site.cycle(process))["num_reports"] == 1


async def test_a_checkpoint_as_a_state(site: Site) -> None:  # noqa: F811
    await site.host(published=True)
    query = {"name": "digits", "format": "state"}
    found = await site.web.get("/model-centric/retrieve-model", params=query, headers=site.owner)
    arrays = read_state(found.content)
    assert [one.shape for one in arrays] == [one.shape for one in model().values()]
    assert found.headers["content-type"] == "application/octet-stream"
    same = {**site.owner, "If-None-Match": found.headers["etag"]}
    again = await site.web.get("/model-centric/retrieve-model", params=query, headers=same)
    assert (again.status_code, again.content) == (304, b"")
    other = await site.web.get(
        "/model-centric/retrieve-model", params={**query, "format": "pickle"}, headers=site.owner
    )
    assert other.status_code == 400


async def test_the_json_of_reports_shares_a_bound_with_messages(site: Site) -> None:  # noqa: F811
    await site.host(published=True)
    memory = service(site.app.state, MessageMemory)
    memory.max_bytes = 300_000
    body = {"diff": "A" * 90_000, "worker_id": "w", "request_key": "0" * 64}
    with memory.hold(90_000):
        found = await _post(site, "report", body)
        assert (found.status_code, found.json()["code"]) == (503, "server_busy")
        assert (await _post(site, "report", {**body, "diff": "A"})).json() == {"error": "Invalid request key!"}
    assert memory.num_bytes == 0


async def test_many_reports_in_one_second_wait_for_memory(site: Site) -> None:  # noqa: F811
    process = await site.host(
        start=model(wide=20_000),
        plans={"training_plan": wide_plan(20_000)},
        published=True,
        max_diffs=6,
    )
    memory = service(site.app.state, MessageMemory)
    memory.max_bytes = 2_000_000  # two of the reports, of 320 kB
    bodies = []
    for _ in range(6):
        device = await (await site.device(process)).join(wait_s=None)
        data = write_state([model(0.5, 20_000)[name] for name in ("weight", "bias")])
        diff = base64.b64encode(data).decode()
        bodies.append({"worker_id": device.worker_id, "request_key": device.key, "diff": diff})
    found = await asyncio.gather(*(_post(site, "report", body) for body in bodies))
    assert [one.json() for one in found] == [{"status": "success"}] * 6
    assert memory.num_bytes == 0


def test_a_domain_without_old_clients_loads_nothing_of_them() -> None:
    program = """
import sys
import pygrid.domain
print(*sorted(name for name in sys.modules if name.startswith(("pygrid.syft", "pygrid.plans.dialects"))))
"""
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


async def _post(site: Site, path: str, body: dict[str, Any]) -> httpx.Response:  # noqa: F811
    return await site.web.post(f"/model-centric/{path}", json=body)
