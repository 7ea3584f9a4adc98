"""The pages of scientists and of those who run a Domain, in process: ask, results, host, models, Workers, Networks.

Should happen: a price before asking; a result as table and bars; a process hosted from files; all without scripts.
Should not happen: a job from a form with a mistake; what others spent in a price; a token that is shown twice.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from pygrid.settings import DomainSettings
from pygrid.tensors import decode
from support.console import Browser, Page
from support.jobs import BINDING, MODEL, PLAN, Site, records, running_site
from support.plans.models import linear
from support.training import config, form

BOUNDED = [{"name": "label", "meaning": "label 0..2"}, {"name": "age", "min": 20, "max": 80}]


@pytest.fixture
async def site(settings: DomainSettings) -> AsyncIterator[Site]:
    async with running_site(settings) as found:
        yield found


async def browser(site: Site, name: str) -> Browser:
    return await Browser(site.web).sign_in(f"{name}@example.org")


async def test_a_question_is_priced_submitted_and_its_result_seen(site: Site) -> None:
    dataset = await site.owner.upload(columns=BOUNDED)
    await site.owner.set_policy(dataset, epsilon_per_user=2.0)
    bob = await browser(site, "scientist")
    assert (await bob.page(f"/admin/datasets/{dataset}")).find("a", href=f"/admin/ask/{dataset}")
    assert "The price appears here" in (await bob.page(f"/admin/ask/{dataset}")).text
    fields = {"questions": "1", "kind0": "mean", "column0": "age", "by0": "town", "keys0": "Bern, Chur, Wil"}
    query = "&".join(f"{name}={value}" for name, value in {**fields, "epsilon": "1"}.items())
    page = await bob.page(f"/admin/ask/{dataset}?{query}")
    assert re.search(r"It takes 0\.\d+ of your 2\.", page.text), page.text
    assert "The mean of age will be within about ±" in page.text
    assert "mean('age', lower=20.0, upper=80.0, by='town', keys=['Bern', 'Chur', 'Wil'])" in page.text
    more = await bob.page(f"/admin/ask/{dataset}?{query}&more=1")
    assert more.find("select", name="kind1")
    part = await bob.get(f"/admin/ask/{dataset}?{query}&part=price")
    assert part.text.strip().startswith("<section")
    for wrong, words in (
        ({"lower0": "low"}, "from is 'low', not a number"),
        ({"keys0": ""}, "groups: the owner declared no values of town; write those that you want"),
        ({"kind0": "mode"}, "a question is one of"),
        ({"column0": "nothing"}, "has no column 'nothing'"),
        ({"reason": ""}, "reason: describe the purpose"),
    ):
        answer = await bob.post(f"/admin/ask/{dataset}", {**fields, "reason": "a test", "epsilon": "1", **wrong})
        assert answer.status_code == 400, answer.text
        assert words in Page.read(answer).text
    assert (await site.scientist.call("GET", "/data-centric/jobs?mine=true")).json()["jobs"] == []
    answer = await bob.post(f"/admin/ask/{dataset}", {**fields, "reason": "beds", "epsilon": "1"})
    assert answer.status_code == 303, answer.text
    job = answer.headers["location"].rpartition("/")[2]
    assert (await bob.get(f"/admin/jobs/{job}/result")).status_code in (200, 409)
    await site.scientist.wait(job, "released")
    assert (await bob.page(f"/admin/jobs/{job}")).find("a", href=f"/admin/jobs/{job}/result")
    page = await bob.page(f"/admin/jobs/{job}/result")
    assert page.find("svg")
    stored = json.loads((await site.scientist.result(job)).content)["answers"][0]
    assert [key for key, _ in stored["groups"]] == ["Bern", "Chur", "Wil"]
    for (town, value), count in zip(stored["groups"], stored["counts"], strict=True):
        assert f"{town} {value:,.4g} " in page.text
        margin = 1.96 * 30 * stored["count_noise_std"] / max(1, count) * np.hypot(1, (value - 50) / 30)
        assert f"{value - margin:,.4g} to {value + margin:,.4g}" in page.text
    saved = await bob.get(f"/admin/jobs/{job}/result/download")
    assert saved.content == (await site.scientist.result(job)).content
    assert saved.headers["content-disposition"].startswith("attachment")
    assert "sandbox" in saved.headers["content-security-policy"]
    dora = await browser(site, "stranger")
    for path in (f"/admin/jobs/{job}/result", f"/admin/jobs/{job}/result/download"):
        assert (await dora.get(path)).status_code == 404


async def test_a_price_does_not_show_what_others_spent(site: Site) -> None:
    dataset = await site.owner.upload(columns=BOUNDED)
    await site.owner.set_policy(dataset, epsilon=2.0, epsilon_per_user=2.0)
    first = await site.scientist.submit(
        dataset, "statistics", statistics=[{"kind": "count"}], privacy={"epsilon": 1.8, "delta": 1e-6}
    )
    await site.scientist.wait(first["id"], "released")
    dora = await browser(site, "stranger")
    page = await dora.page(f"/admin/ask/{dataset}?kind0=count&epsilon=1.8")
    assert "too little left" not in page.text
    bob = await browser(site, "scientist")
    page = await bob.page(f"/admin/ask/{dataset}?kind0=count&epsilon=1.8")
    assert "too little left" in page.text


async def test_a_model_is_trained_by_a_form_with_files(site: Site) -> None:
    dataset = await site.owner.upload()
    bob = await browser(site, "scientist")
    fields = {"kind": "train", "binding": "x=features, y=label", "epochs": "1", "batch_size": "16", "reason": "a test"}
    path = f"/admin/ask/{dataset}/model"
    wrong = await bob.upload(path, {**fields, "binding": "x"}, {"plan": PLAN, "model": MODEL})
    assert (wrong.status_code, "write each port with its column" in wrong.text) == (400, True)
    assert wrong.text.count("Choose the file again") == 2
    answer = await bob.upload(path, fields, {"plan": PLAN, "model": MODEL})
    assert answer.status_code == 303, answer.text
    job_id = answer.headers["location"].rpartition("/")[2]
    job = await site.owner.wait(job_id, "waiting")
    assert job["request"]["binding"] == BINDING
    assert "is not released" in Page.read(await bob.get(f"/admin/jobs/{job_id}/result")).text
    await site.owner.approve(job)
    held = await site.owner.wait(job_id, "held")
    await site.owner.approve(held)
    page = await bob.page(f"/admin/jobs/{job_id}/result")
    assert "weight 3 x 4" in page.text
    other = await bob.upload(path, fields, {"plan": PLAN, "model": MODEL})
    other_id = other.headers["location"].rpartition("/")[2]
    assert (await bob.post(f"/admin/jobs/{other_id}/cancel")).status_code == 303
    assert (await site.scientist.job(other_id))["state"] == "cancelled"


async def test_a_process_is_hosted_from_files_paused_compared_and_deleted(site: Site) -> None:
    ann = await browser(site, "owner")
    assert (await (await browser(site, "scientist")).get("/admin/processes/new")).status_code == 403
    page = await ann.page("/admin/processes/new")
    assert page.find("input", type="file", name="plan")
    files = {"plan": PLAN, "model": MODEL}
    refused = await ann.upload("/admin/processes/new", {"name": "new", "version": "1.0"}, {**files, "plan": b"x"})
    assert refused.status_code == 400
    assert Page.read(refused).find("input", name="name", value="new")
    assert Page.read(refused).text.count("Choose the file again") == 2
    answer = await ann.upload("/admin/processes/new", {"name": "new", "version": "1.0"}, files)
    assert answer.status_code == 303, answer.text
    draft = answer.headers["location"]
    page = await ann.page(draft)
    assert page.find("input", name="lr")
    assert "It reads x" in page.text
    wrong = await ann.post(f"{draft}/host", {"max_diffs": "0", "lr": "1000", "cycle_length": "60"})
    assert wrong.status_code == 400
    page = Page.read(wrong)
    assert page.find("input", name="max_diffs", value="0")
    assert len(page.find("input", **{"aria-invalid": "true"})) >= 1
    answer = await ann.post(f"{draft}/host", {"max_diffs": "3", "num_cycles": "2", "lr": "0.05", "epochs": "2"})
    assert answer.status_code == 303, answer.text
    path = answer.headers["location"]
    info = (await site.owner.call("GET", path.replace("/admin", "/model-centric"))).json()
    assert (info["client_config"]["lr"], info["client_config"]["epochs"]) == (0.05, 2)
    assert (info["server_config"]["max_diffs"], info["server_config"]["cycle_length"]) == (3, None)
    assert (await ann.get(draft)).headers["location"] == path
    assert (await ann.post(f"{path}/pause")).status_code == 303
    assert (await ann.page(path)).find("form", action=f"{path}/resume")
    assert (await ann.post(f"{path}/resume")).status_code == 303
    saved = await ann.get(f"{path}/checkpoints/1")
    assert decode(saved.content)[0].keys() == decode(MODEL)[0].keys()
    assert saved.headers["content-type"] == "application/octet-stream"
    page = await ann.page(f"{path}/compare?a=1&b=1")
    assert "weight 3 x 4" in page.text
    assert (await ann.get(f"{path}/compare?a=1&b=7")).status_code == 404
    refused = await ann.post(f"{path}/delete")
    assert (refused.status_code, "finish it first" in Page.read(refused).text) == (409, True)
    await site.owner.call("POST", "/model-centric/host-training", files=form(config("other"), MODEL))
    runs = (await ann.page("/admin/processes?q=ew")).text
    assert "new 1.0" in runs
    assert "other" not in runs
    page = await ann.page("/admin/processes/compare?run=1&run=2")
    assert "max_diffs 3 2" in page.text
    assert (await ann.post(f"{path}/finish")).status_code == 303


async def test_a_decision_is_called_by_its_name(site: Site) -> None:
    dataset = await site.owner.upload(columns=BOUNDED)
    edges = [20.0, 30.5, *range(40, 81, 2)]
    asked = {"statistics": [{"kind": "histogram", "column": "age", "edges": edges}]}
    ann, bob = await browser(site, "owner"), await browser(site, "scientist")

    async def waiting() -> dict[str, Any]:
        return await site.owner.wait((await site.scientist.submit(dataset, "statistics", **asked))["id"], "waiting")

    job = await waiting()
    page = (await ann.page(f"/admin/jobs/{job['id']}")).text
    assert "in 22 bins with the edges 20, 30.5, 40, 42, 44, 46, 48, 50, 52, 54, ..." in page
    assert f"edges of the bins of age 20, 30.5, {', '.join(map(str, range(40, 81, 2)))}" in page
    await site.owner.decide("deny", job, comment="too fine")
    for who, words in ((ann, "denied by owner@example.org comment too fine"), (bob, "denied by owner@example.org")):
        page = (await who.page(f"/admin/jobs/{job['id']}")).text
        assert words in page
        assert "decided by" not in page
    job = await waiting()
    await site.owner.approve(job)
    held = await site.owner.wait(job["id"], "held")
    assert "approved by owner@example.org" in (await ann.page(f"/admin/jobs/{job['id']}")).text
    await site.owner.approve(held)
    assert "released by owner@example.org" in (await bob.page(f"/admin/jobs/{job['id']}")).text


async def test_what_was_typed_for_a_refused_model_stays(site: Site) -> None:
    ann = await browser(site, "owner")
    fields = {"model_id": "my scores", "description": "of digits", "allow_download": "true"}
    page = Page.read(await ann.upload("/admin/models", fields, {"model": linear()}))
    assert page.find("input", name="model_id", value="my scores")
    assert page.find("input", name="description", value="of digits")
    assert page.find("input", name="allow_download", checked="")
    assert "Choose the file again" in page.text


async def test_a_served_model_is_asked_by_a_form(site: Site) -> None:
    ann, bob = await browser(site, "owner"), await browser(site, "scientist")
    fields = {"model_id": "scores", "description": "<i>d", "allow_remote_inference": "true"}
    answer = await ann.upload("/admin/models", fields, {"model": linear()})
    assert answer.headers.get("location") == "/admin/models/scores", answer.text
    page = await bob.page("/admin/models/scores")
    (area,) = page.find("textarea")
    assert not page.find("i")
    wrong = await bob.post("/admin/models/scores/predict", {area["name"]: "1,2"})
    assert (wrong.status_code, "write one example on each line" in Page.read(wrong).text) == (400, True)
    answer = await bob.post("/admin/models/scores/predict", {area["name"]: "1,2,3,4\n0,0,0,0"})
    assert answer.status_code == 200, answer.text
    assert len(Page.read(answer).find("tr")) == 2
    assert (await bob.get("/admin/models/scores/download")).status_code == 403
    assert (await bob.post("/admin/models/scores/delete")).status_code == 403
    assert (await ann.post("/admin/models/scores/delete")).status_code == 303
    assert "No model is served" in (await bob.page("/admin/models")).text


async def test_workers_and_networks_are_managed(site: Site) -> None:
    ann = await browser(site, "owner")
    for path in ("/admin/workers", "/admin/networks"):
        assert (await (await browser(site, "scientist")).get(path)).status_code == 403
    answer = await ann.post("/admin/workers", {"name": "gpu-1"})
    (token,) = re.findall(r"PYGRID_WORKER_TOKEN=(\S+)", Page.read(answer).text)
    asked = {"layers": [], "is_sound": False}
    lease = await site.web.post("/data-centric/workers/lease", json=asked, headers={"Authorization": f"Bearer {token}"})
    assert lease.status_code == 403, "it is known, and has no sandbox"
    page = await ann.page("/admin/workers")
    assert token not in page.html
    assert (await ann.post("/admin/workers", {"name": "gpu-1"})).status_code == 409
    assert (await ann.post("/admin/workers/1/revoke")).status_code == 303
    assert "Jobs run on this machine alone." in (await ann.page("/admin/workers")).text
    refused = await ann.post("/admin/networks", {"address": "nowhere"})
    assert refused.status_code == 400
    assert (await ann.post("/admin/networks", {"address": "http://127.0.0.1:1"})).status_code == 303
    assert "http://127.0.0.1:1" in (await ann.page("/admin/networks")).text
    assert (await ann.post("/admin/networks/1/leave")).status_code == 303
    assert "left" in (await ann.page("/admin/networks")).text


async def test_search_finds_what_the_caller_may_see(site: Site) -> None:
    await site.owner.upload("cells", {"age": np.arange(3, dtype=np.float32)}, description="of a clinic", columns=[])
    await site.owner.upload("secret cells", records(4), visibility="private")
    await site.owner.call("POST", "/model-centric/host-training", files=form(config("cells model"), MODEL))
    page = await (await browser(site, "scientist")).page("/admin/search?q=cells")
    assert {one["href"] for one in page.find("a") if "/datasets/" in one["href"] or "/processes/" in one["href"]} == {
        "/admin/datasets/1",
        "/admin/processes/1",
    }
    assert "Nothing was found" in (await (await browser(site, "scientist")).page("/admin/search?q=zebra")).text
