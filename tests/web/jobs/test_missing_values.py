"""Missing values, from the upload to the answer, and what a private evaluation says.

Should happen: statistics leave missing values out and say how many are present; a plan with an optional port gets NaN.
Should not happen: a missing value counts as something; a job that can't take missing values is charged, or tried.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import sqlalchemy as sa
from onnx import helper

from pygrid.features.datasets.service import DatasetsService
from pygrid.messages.datasets import Schema
from pygrid.plans import DataPort
from pygrid.plans.runner import Runner
from pygrid.storage import datasets as dataset_rows
from pygrid.storage.sql.database import Database
from pygrid.web.services import service
from support.jobs import JOBS, NUM_RECORDS, PRIVATE, Site, records
from support.plans.handmade import logistic_params, logistic_plan
from support.web import assert_problem

OPTIONAL = {"x": DataPort("float32", (4,), optional=True), "y": DataPort("int64", (), num_classes=3)}


def with_gaps() -> dict[str, Any]:
    """Ages and features of which three in ten are missing."""
    data, generator = records(), np.random.default_rng(1)
    data["age"][generator.random(NUM_RECORDS) < 0.3] = np.nan
    data["features"][generator.random(NUM_RECORDS) < 0.3, 1] = np.nan
    return data


def _fill(model: onnx.ModelProto) -> None:
    """Have a graph put zeros in place of missing values."""
    graph = model.graph
    for node in graph.node:
        node.input[:] = ["filled" if name == "data/x" else name for name in node.input]
    graph.initializer.append(onnx.numpy_helper.from_array(np.array(0, np.float32), "nothing"))
    graph.node.insert(0, helper.make_node("Where", ["is_there", "data/x", "nothing"], ["filled"]))
    graph.node.insert(0, helper.make_node("Equal", ["data/x", "data/x"], ["is_there"]))


def filling_plan() -> Any:
    def fill_all(models: dict[str, onnx.ModelProto]) -> None:
        for model in models.values():
            _fill(model)

    return logistic_plan(edit=fill_all, data=OPTIONAL)


async def test_statistics_are_about_the_values_that_are_present(site: Site) -> None:
    data = with_gaps()
    dataset = await site.owner.upload(arrays=data)
    await site.owner.set_policy(dataset)
    ages = data["age"][np.isfinite(data["age"])]
    asked = [
        {"kind": "mean", "column": "age", "lower": 0, "upper": 100},
        {"kind": "quantile", "column": "age", "edges": list(range(0, 100, 5))},
        {"kind": "count", "column": "age"},
        {"kind": "count"},
    ]
    job = await site.scientist.submit(dataset, "statistics", statistics=asked, privacy={"epsilon": 4.0, "delta": 1e-6})
    await site.scientist.wait(job["id"], "released")
    mean, quantile, count, whole = (await site.scientist.result(job["id"])).json()["answers"]
    assert abs(mean["count"] - len(ages)) < 6 * mean["count_noise_std"]
    assert abs(count["value"] - len(ages)) < 6 * count["noise_std"]
    assert abs(whole["value"] - NUM_RECORDS) < 6 * whole["noise_std"]
    assert mean["value"] == pytest.approx(ages.mean(), abs=6 * 50 * 1.5 * mean["count_noise_std"] / len(ages))
    assert abs(quantile["count"] - len(ages)) < 6 * quantile["count_noise_std"]
    exact = await site.scientist.submit(dataset, "statistics", statistics=asked)
    await site.owner.approve(await site.owner.wait(exact["id"], "waiting"))
    await site.owner.approve(await site.owner.wait(exact["id"], "held"))
    mean, quantile, count, whole = (await site.scientist.result(exact["id"])).json()["answers"]
    assert (mean["value"], mean["count"]) == (pytest.approx(ages.mean()), len(ages))
    assert (count["value"], whole["value"]) == (len(ages), NUM_RECORDS)


@pytest.mark.parametrize("kind", ["train", "evaluate"])
@pytest.mark.parametrize("privacy", [None, PRIVATE])
async def test_a_plan_without_an_optional_port_is_refused_before_anything_is_charged(
    kind: str, privacy: dict[str, Any] | None, site: Site
) -> None:
    dataset = await site.owner.upload(arrays=with_gaps())
    await site.owner.set_policy(dataset)
    answer = await site.scientist.try_submit(dataset, kind, privacy=privacy)
    problem = assert_problem(answer, 400, "missing_values")
    assert (problem["port"], problem["column"]) == ("x", "features")
    assert (await site.scientist.budget(dataset))["yours"] == 0
    assert (await site.scientist.call("GET", JOBS)).json() == {"jobs": []}


async def test_federated_jobs_are_refused_as_well(site: Site) -> None:
    dataset = await site.owner.upload(arrays=with_gaps())
    await site.owner.set_policy(dataset)
    federation = {"coordinator": "http://127.0.0.1:1", "process": "p", "version": "1", "cycles": 2}
    answer = await site.scientist.try_submit(dataset, privacy=PRIVATE, federation=federation)
    assert_problem(answer, 400, "missing_values")


@pytest.mark.parametrize("kind", ["train", "evaluate"])
async def test_an_optional_port_gets_missing_values(kind: str, site: Site) -> None:
    data, plan = with_gaps(), filling_plan()
    dataset = await site.owner.upload(arrays=data)
    await site.owner.set_policy(dataset)
    job = await site.scientist.submit(dataset, kind, plan=plan.data, privacy={"epsilon": 4.0, "delta": 1e-6})
    await site.scientist.wait(job["id"], "released")
    facts = (await site.owner.job(job["id"]))["facts"]
    assert (facts["num_records"], facts["num_zeroed"]) == (NUM_RECORDS, 0)
    if kind == "evaluate":
        answer = (await site.scientist.result(job["id"])).json()
        expected = Runner(plan).evaluate(logistic_params(), {"x": data["features"], "y": data["label"]})
        assert abs(answer["count"] - NUM_RECORDS) < 6 * answer["count_noise_std"]
        assert abs(answer["metrics"]["accuracy"] - expected["accuracy"]) < 6 * answer["noise_std"]["accuracy"]


async def test_the_mock_shows_a_plan_that_does_not_deal_with_missing_values(site: Site) -> None:
    dataset = await site.owner.upload(arrays=with_gaps())
    for plan, metrics in ((filling_plan(), {"loss", "accuracy"}), (logistic_plan(data=OPTIONAL), {"accuracy"})):
        job = await site.scientist.submit(dataset, "evaluate", plan=plan.data)
        tried = await site.scientist.wait(job["id"], "waiting")
        assert tried["metrics"].keys() == metrics, "a loss that is not a number is left out"


async def test_a_metric_without_bounds_is_refused_before_anything_is_charged(site: Site) -> None:
    dataset = await site.owner.upload()
    await site.owner.set_policy(dataset)
    for bounds, code in (
        ({"loss": [3, 1]}, "invalid_metric_bounds"),
        ({"f1": [0, 1]}, "invalid_metric_bounds"),
        ({"loss": [0]}, "invalid_job"),
    ):
        answer = await site.scientist.try_submit(dataset, "evaluate", privacy=PRIVATE, metric_bounds=bounds)
        assert_problem(answer, 400, code)
    plan = logistic_plan(metrics={"loss": "sum", "accuracy": "mean"}).data
    answer = await site.scientist.try_submit(dataset, "evaluate", plan=plan, privacy=PRIVATE)
    assert assert_problem(answer, 400, "metric_bounds_missing")["metric"] == "loss"
    assert (await site.scientist.budget(dataset))["yours"] == 0


async def test_the_accuracy_over_subjects_is_right_and_training_divides_by_their_number(site: Site) -> None:
    """Two records of most subjects, where up to six may count: the units are the subjects, not a sixth of the
    records.
    """
    data = {**records(), "person": np.arange(NUM_RECORDS) // 2}
    dataset = await site.owner.upload(arrays=data, subject="person", max_records_per_subject=6)
    await site.owner.set_policy(dataset, epsilon_per_user=8.0)
    privacy = {"epsilon": 4.0, "delta": 1e-6, "unit": "subject"}
    job = await site.scientist.submit(dataset, "evaluate", privacy=privacy, metric_bounds={"loss": [0, 20]})
    await site.scientist.wait(job["id"], "released")
    answer = (await site.scientist.result(job["id"])).json()
    expected = Runner(logistic_plan()).evaluate(logistic_params(), {"x": data["features"], "y": data["label"]})
    assert answer["unit"] == "subject"
    assert abs(answer["count"] - NUM_RECORDS / 2) < 6 * answer["count_noise_std"]
    assert answer["metrics"]["accuracy"] == pytest.approx(expected["accuracy"], abs=6 * answer["noise_std"]["accuracy"])
    schema = (await site.owner.call("GET", f"/data-centric/datasets/{dataset}")).json()["schema"]
    assert schema["num_subjects"] == NUM_RECORDS // 2
    job = await site.scientist.submit(dataset, privacy={**PRIVATE, "unit": "subject"}, batch_size=15)
    assert job["cost"]["rounds"] == 10, "one epoch over 150 subjects in batches of 15"


async def test_schemas_of_an_older_version_are_completed_at_the_start(site: Site) -> None:
    data = {**with_gaps(), "person": np.arange(NUM_RECORDS) // 2}
    dataset = await site.owner.upload(arrays=data, subject="person", max_records_per_subject=6)
    database = service(site.app.state, Database)

    def forget(connection: sa.Connection) -> Schema:
        version = dataset_rows.get_version(connection, dataset)
        whole = dataset_rows.get_schema(connection, version.id)
        columns = tuple(msgspec.structs.replace(column, has_missing=None) for column in whole.columns)
        old = msgspec.structs.replace(whole, columns=columns, num_subjects=None)
        dataset_rows.put_schema(connection, version.id, old)
        return whole

    whole = await database.write(forget)
    assert_problem(
        await site.scientist.try_submit(dataset, binding={"x": "features", "y": "label"}), 400, "missing_values"
    )
    await service(site.app.state, DatasetsService).recover()
    assert await database.read(lambda connection: dataset_rows.list_incomplete_schemas(connection)) == []
    version = await database.read(lambda connection: dataset_rows.get_version(connection, dataset))
    assert await database.read(lambda connection: dataset_rows.get_schema(connection, version.id)) == whole
