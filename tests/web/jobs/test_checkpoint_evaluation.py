"""Checkpoints that the Domain evaluates on a dataset of the user who hosts the process. The Workers are real.

Should happen: each checkpoint is evaluated once, the values are those of the plan, the training stops when it does not
improve, also after a restart.
Should not happen: somebody else's dataset is used; somebody else sees the values; a process waits for an evaluation.
"""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest
import sqlalchemy as sa

from pygrid.domain import build_domain
from pygrid.errors import NotFound
from pygrid.plans import Plan, Runner
from pygrid.settings import DomainSettings
from pygrid.storage import datasets
from pygrid.storage.store import Store
from pygrid.tensors import decode, encode
from pygrid.web.services import service
from support.eventually import eventually
from support.jobs import BINDING, MODEL, PLAN, Person, Site, records, running_site
from support.plans.handmade import logistic_params
from support.training import bearer, config, form
from support.web import assert_problem, running

EVALUATION = {"dataset": "held out", "binding": BINDING}


@pytest.fixture(autouse=True)
def _hosts_in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from support.training import gate_in_process

    monkeypatch.setattr("pygrid.features.processes.hosting.check_async", gate_in_process)


async def host(person: Person, **server_config: Any) -> Any:
    changes = {"max_diffs": 1, "num_cycles": 0, "cycle_length": None, **server_config}
    return await person.call("POST", "/model-centric/host-training", files=form(config(**changes), MODEL))


async def report(web: httpx.AsyncClient, process: dict[str, Any], value: float) -> None:
    """One device takes part in one cycle."""
    name = {"model_name": process["name"], "model_version": process["version"]}
    worker = (await web.post("/model-centric/authenticate", json=name)).json()["worker_id"]
    wanted = {"worker_id": worker, "model": process["name"], "version": process["version"], "wait_s": 5}
    accepted = (await web.post("/model-centric/cycle-request", json=wanted)).json()
    assert accepted["status"] == "accepted", accepted
    diff = {name: np.full_like(array, value) for name, array in logistic_params().items()}
    answer = await web.post("/model-centric/report", content=encode(diff), headers=bearer(accepted["request_key"]))
    assert answer.status_code == 200, answer.text


async def evaluations(person: Person, process: dict[str, Any]) -> list[dict[str, Any]]:
    answer = await person.call("GET", f"/model-centric/processes/{process['id']}/evaluations")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["evaluations"]
    return found


async def until_evaluated(person: Person, process: dict[str, Any], count: int) -> list[dict[str, Any]]:
    async def enough() -> list[dict[str, Any]] | None:
        found = await evaluations(person, process)
        return found if len(found) >= count else None

    found: list[dict[str, Any]] = await eventually(enough, 40)
    return found


async def test_checkpoints_are_evaluated_and_shown_to_who_manages_the_process(site: Site) -> None:
    data = records()
    await site.owner.upload("held out", data, visibility="private")
    hosted = await host(site.owner, evaluation=EVALUATION)
    assert hosted.status_code == 201, hosted.text
    process = hosted.json()
    assert process["server_config"]["evaluation"]["dataset"] == "(set)", "the name of a private dataset is not shown"
    for cycle in (1, 2):
        await report(site.web, process, 0.1)
        await until_evaluated(site.owner, process, cycle)
    found = await evaluations(site.owner, process)
    assert [(one["checkpoint"], one["cycle"], one["source"]) for one in found] == [(2, 1, "domain"), (3, 2, "domain")]
    wanted = {"name": "digits", "version": "1.0", "checkpoint": 3}
    model = await site.owner.call("GET", "/model-centric/retrieve-model", params=wanted)
    batch = {"x": data["features"], "y": data["label"]}
    expected = Runner(Plan.from_bytes(PLAN)).evaluate(decode(model.content)[0], batch)
    assert found[1]["metrics"] == pytest.approx(expected, rel=1e-5)
    assert await evaluations(site.stranger, process) == []
    # The alias says nothing to who does not see the values.
    wanted["checkpoint"] = "best"
    best = await site.owner.call("GET", "/model-centric/retrieve-model", params=wanted)
    assert int(best.headers["PyGrid-Checkpoint"]) == min(found, key=lambda one: one["metrics"]["loss"])["checkpoint"]
    answer = await site.stranger.call("GET", "/model-centric/retrieve-model", params=wanted)
    assert_problem(answer, 404, "evaluation_not_found")
    listed = await site.stranger.call("GET", f"/model-centric/processes/{process['id']}/checkpoints")
    assert [one["alias"] for one in listed.json()["checkpoints"]] == ["", "", "latest"]


async def test_a_training_that_does_not_improve_is_finished_also_after_a_restart(settings: DomainSettings) -> None:
    stop = {"patience": 2, "metric": "loss"}
    async with running_site(settings) as site:
        await site.owner.upload("held out")
        process = (await host(site.owner, evaluation={**EVALUATION, "stop": stop})).json()
        await report(site.web, process, 0.0)
        await until_evaluated(site.owner, process, 1)
        await report(site.web, process, 0.0)
        headers = site.owner.headers
    async with running(build_domain(settings)) as web:
        owner = Person(web, headers)
        await until_evaluated(owner, process, 2)
        await report(web, process, 0.0)

        async def finished() -> bool:
            answer = await owner.call("GET", f"/model-centric/processes/{process['id']}")
            return bool(answer.json()["state"] == "finished" and answer.json()["cycle"]["state"] == "completed")

        await eventually(finished, 40)
        assert [one["checkpoint"] for one in await evaluations(owner, process)] == [2, 3, 4]


async def test_only_a_dataset_of_the_host_is_taken(site: Site) -> None:
    await site.owner.upload("held out")
    for evaluation, text in (
        ({"dataset": "unknown"}, "no dataset 'unknown'"),
        ({"dataset": "held out"}, "'x'"),
        ({"dataset": "held out", "binding": {**BINDING, "z": "age"}}, "'z'"),
        ({"dataset": "held out", "binding": {**BINDING, "x": "age"}}, "'x'"),
        ({"dataset": "held out", "stop": {"patience": 0}}, "patience"),
        ({"datset": "held out"}, "did you mean 'dataset'"),
    ):
        problem = assert_problem(await host(site.owner, evaluation=evaluation), 400, "invalid_config")
        assert text in problem["detail"], problem


async def test_a_dataset_of_a_deleted_account_belongs_to_nobody(site: Site) -> None:
    await site.owner.upload("held out")

    def orphan(connection: sa.Connection) -> None:
        connection.execute(datasets.datasets.update().values(created_by=None))
        with pytest.raises(NotFound):
            datasets.get_own_dataset(connection, None, "held out")

    await service(site.app.state, Store).database.write(orphan)
    assert_problem(await host(site.owner, evaluation=EVALUATION), 400, "invalid_config")
