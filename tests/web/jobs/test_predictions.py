"""Jobs of kind predict over HTTP: a stranger's ONNX model answers for each record, in real Workers.

Should happen: the outputs come back in the order of the records, in their dtypes, after two decisions of a person, who
is told in words what leaves and how large it is against the data.
Should not happen: such an answer under a policy, or under privacy terms; one that is larger than it may be, or has no
row for each record; a model that mixes records without a word about it.
"""

from __future__ import annotations

import json
from typing import Any

import httpx
import numpy as np
import pytest
from onnx import TensorProto, helper

from pygrid.features.jobs.running.spec_builder import RunLimits
from pygrid.features.jobs.service import JobsService
from pygrid.settings import AppSettings
from pygrid.tensors import decode
from pygrid.web.services import service
from support.jobs import DATASETS, JOBS, MODEL, NUM_RECORDS, PRIVATE, Person, Site, npz, records
from support.plans.models import WEIGHT, centred, graph_model, linear
from support.web import assert_problem

BINDING = {"x": "features"}


async def ask(
    person: Person,
    dataset: int,
    model: bytes | None = None,
    *,
    order: tuple[str, ...] = ("config", "model"),
    **config: Any,
) -> httpx.Response:
    sent = {"dataset": dataset, "kind": "predict", "reason": "whom to call", "binding": BINDING, **config}
    parts = {"config": json.dumps(sent).encode(), "model": linear() if model is None else model, "plan": b"a plan"}
    return await person.call("POST", JOBS, files=[(name, parts[name]) for name in order])


async def held(site: Site, dataset: int, model: bytes | None = None, **config: Any) -> dict[str, Any]:
    """A job that was approved and has run, as the owner sees it."""
    answer = await ask(site.scientist, dataset, model, **config)
    assert answer.status_code == 201, answer.text
    await site.owner.approve(await site.owner.wait(answer.json()["id"], "waiting"))
    return await site.owner.wait(answer.json()["id"], "held")


def two_outputs() -> bytes:
    """``[n, 4]`` -> scores ``[n, 3]`` and the best of them, ``[n]``, int64."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["scores"]),
        helper.make_node("ArgMax", ["scores"], ["best"], axis=1, keepdims=0),
    ]
    outputs = {"scores": ("float32", ["n", 3]), "best": ("int64", ["n"])}
    return graph_model(nodes, {"x": ("float32", ["n", 4])}, outputs, {"w": WEIGHT})


def echo() -> bytes:
    """Gives its input back."""
    node = helper.make_node("Identity", ["x"], ["y"])
    return graph_model([node], {"x": ("float32", ["n", 4])}, {"y": ("float32", ["n", 4])}, {})


def summing() -> bytes:
    """One row for all records."""
    node = helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=1)
    inputs, outputs = {"x": ("float32", ["n", 4])}, {"y": ("float32", [1, 4])}
    return graph_model([node], inputs, outputs, {"axes": np.array([0])})


async def test_from_the_request_to_the_signed_off_answers(site: Site) -> None:
    dataset = await site.owner.upload()
    await site.owner.set_policy(dataset)
    answer = await ask(site.scientist, dataset, two_outputs(), batch_size=7)
    assert answer.status_code == 201, answer.text
    job = answer.json()
    waiting = await site.scientist.wait(job["id"], "waiting")
    assert (waiting["kind"], waiting["plan_summary"], waiting["leaves"]) == ("predict", None, None)
    seen = await site.owner.job(job["id"])
    assert "It reads 'x' (one row of 4 numbers, float32), from column features." in seen["plan_summary"]
    assert "Each record is computed by itself." in seen["plan_summary"]
    assert seen["leaves"] == (
        "'scores' (one row of 3 numbers, float32), 'best' (one number, int64), for each of 300 records: 6 kB, "
        "1.2 times the data that is read"
    )
    await site.owner.approve(seen)
    done = await site.owner.wait(job["id"], "held")
    assert done["facts"]["num_records"] == NUM_RECORDS
    assert done["facts"]["num_calls"] == -(-NUM_RECORDS // 7)
    assert done["bytes_out_ratio"] == pytest.approx(1.25, abs=0.1)
    assert_problem(await site.scientist.result(job["id"]), 409, "result_not_released")
    await site.owner.approve(done)
    result = await site.scientist.result(job["id"])
    arrays, _ = decode(result.content)
    scores = records()["features"] @ WEIGHT
    np.testing.assert_allclose(arrays["scores"], scores, rtol=1e-5)
    np.testing.assert_array_equal(arrays["best"], scores.argmax(axis=1))
    assert (arrays["scores"].dtype, arrays["best"].dtype) == (np.float32, np.int64)


async def test_of_some_outputs_and_the_first_records(site: Site) -> None:
    dataset = await site.owner.upload()
    job = await held(site, dataset, two_outputs(), select=["best"], max_records=10)
    assert "'scores' (one row of 3 numbers, float32), which does not leave." in job["plan_summary"]
    assert job["leaves"].startswith("'best' (one number, int64), for each of the first 10 records: 80 bytes, 0.5 times")
    assert job["facts"]["num_records"] == 10
    assert job["facts"]["bytes_in"] == 10 * 16
    await site.owner.approve(job)
    arrays, _ = decode((await site.scientist.result(job["id"])).content)
    assert arrays.keys() == {"best"}
    np.testing.assert_array_equal(arrays["best"], (records()["features"][:10] @ WEIGHT).argmax(axis=1))


async def test_a_model_that_gives_the_records_back_is_held_with_its_ratio(site: Site) -> None:
    dataset = await site.owner.upload()
    job = await held(site, dataset, echo())
    assert job["leaves"].endswith("for each of 300 records: 4.8 kB, 1 times the data that is read")
    assert 1 <= job["bytes_out_ratio"] < 1.1
    assert_problem(await site.scientist.result(job["id"]), 409, "result_not_released")
    denied = await site.owner.decide("deny", job, comment="these are the records")
    assert denied.json()["state"] == "denied"
    assert_problem(await site.scientist.result(job["id"]), 404, "result_not_found")


async def test_the_owner_is_told_that_records_mix(site: Site) -> None:
    dataset = await site.owner.upload()
    job = await held(site, dataset, centred(), batch_size=50)
    assert "Records of a batch of 50 may mix (y mixes examples at" in job["plan_summary"]
    assert "so a row can contain information on others." in job["plan_summary"]


def picky() -> bytes:
    """Looks its input up in a table of one entry: fails on all but 0."""
    nodes = [
        helper.make_node("Cast", ["x"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["y"], axis=0),
    ]
    table = np.zeros(1, np.float32)
    return graph_model(nodes, {"x": ("float32", ["n", 4])}, {"y": ("float32", ["n", 4])}, {"table": table})


async def test_what_a_model_fails_on_shows_on_the_mock(site: Site) -> None:
    dataset = await site.owner.upload()
    answer = await ask(site.scientist, dataset, picky())
    assert answer.status_code == 201, answer.text
    rejected = await site.scientist.wait(answer.json()["id"], "rejected")
    assert (rejected["code"], "graph 'model' failed while it ran" in rejected["detail"]) == ("plan_run_failed", True)


async def test_a_model_that_fails_on_the_data_alone(site: Site) -> None:
    """Its mock twin is all zeros, which the owner uploaded."""
    data = {"features": records(20)["features"]}
    mock = {"features": np.zeros((5, 4), np.float32)}
    files = {"config": json.dumps({"name": "odd", "visibility": "listed"}), "data": npz(data), "mock": npz(mock)}
    uploaded = await site.owner.call("POST", DATASETS, files=files)
    assert uploaded.status_code == 201, uploaded.text
    answer = await ask(site.scientist, uploaded.json()["id"], picky())
    await site.owner.approve(await site.owner.wait(answer.json()["id"], "waiting"))
    failed = await site.owner.wait(answer.json()["id"], "failed")
    assert failed["code"] == "plan_failed"
    assert "failed while it ran" in failed["detail"]
    told = await site.scientist.job(answer.json()["id"])
    assert told["detail"] == "the model failed on the data"


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({"privacy": PRIVATE}, "predict_not_private"),
        ({"hyper": {"lr": 1.0}}, "invalid_job"),
        ({"epochs": 2}, "invalid_job"),
        ({"batch_size": 10**6}, "invalid_job"),
        ({"max_records": 0}, "invalid_job"),
        ({"max_records": 2**63}, "invalid_job"),
        ({"select": ["y", "y"]}, "invalid_job"),
        ({"select": ["z"]}, "unknown_output"),
        ({"select": ["\0"]}, "invalid_text"),
        ({"binding": {}}, "invalid_binding"),
        ({"binding": {"x": "age"}}, "invalid_binding"),
        ({"binding": {"x": "town"}}, "invalid_binding"),
        ({"binding": {"x": "features", "z": "age"}}, "invalid_binding"),
        ({"binding": {"x": "nothing"}}, "unknown_column"),
        ({"kind": "evaluate"}, "invalid_tensors"),
    ],
)
async def test_requests_that_make_no_sense(site: Site, config: dict[str, Any], code: str) -> None:
    dataset = await site.owner.upload()
    assert_problem(await ask(site.scientist, dataset, **config), 400, code)
    assert (await site.scientist.call("GET", JOBS)).json() == {"jobs": []}


async def test_models_that_have_no_row_for_each_record(site: Site) -> None:
    dataset = await site.owner.upload()
    assert_problem(await ask(site.scientist, dataset, summing()), 400, "model_not_per_record")
    nodes = [helper.make_node("Add", ["x", "shift"], ["y"])]
    inputs = {"x": ("float32", ["n", 4]), "shift": ("float32", [4])}
    shifted = graph_model(nodes, inputs, {"y": ("float32", ["n", 4])}, {})
    assert_problem(await ask(site.scientist, dataset, shifted), 400, "model_not_per_record")
    assert_problem(await ask(site.scientist, dataset, b"not a model"), 400, "plan_graph_invalid")


async def test_forms_that_are_none(site: Site) -> None:
    dataset = await site.owner.upload()
    assert_problem(await ask(site.scientist, dataset, order=("config",)), 400, "invalid_form")
    assert_problem(await ask(site.scientist, dataset, order=("config", "model", "plan")), 400, "invalid_form")
    assert_problem(await ask(site.scientist, dataset, order=("model", "config")), 400, "invalid_tensors")
    assert_problem(await ask(site.scientist, dataset, MODEL, order=("model", "config")), 400, "invalid_form")
    for field in ({"select": ["y"]}, {"max_records": 3}):
        assert_problem(await site.scientist.try_submit(dataset, **field), 400, "invalid_job")


async def test_answers_that_are_larger_than_a_result_may_be(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = await site.owner.upload()
    limits = RunLimits(memory_bytes=2**30, wall_s=60.0, max_answers_bytes=64 * 1024 + 1000)
    monkeypatch.setattr(service(site.app.state, JobsService), "limits", limits)
    problem = assert_problem(await ask(site.scientist, dataset), 400, "result_too_large")
    assert "max_records" in problem["detail"]
    assert (await ask(site.scientist, dataset, max_records=50)).status_code == 201


async def test_what_the_gate_said_lies_beside_the_model_and_goes_with_it(site: Site) -> None:
    dataset = await site.owner.upload()
    answer = await ask(site.scientist, dataset)
    job = await site.owner.wait(answer.json()["id"], "waiting")
    folder = service(site.app.state, AppSettings).data_dir / "jobs" / "inputs" / job["id"]
    assert (folder / job["plan_id"]).read_bytes() == linear()
    assert {path.name for path in folder.iterdir()} == {"report.json", job["plan_id"]}
    await site.owner.decide("deny", job)
    assert not folder.exists()
