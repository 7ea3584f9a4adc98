"""The malicious scientist: plans and requests that are made to get at records.

Should happen: under privacy terms nothing but clipped sums and noise leaves; without them the owner is warned before
anything leaves.
Should not happen: a plan that gives its data away, or fails where one person is, succeeds by result, state, text or
time; a plan that takes what it can get stops others.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pygrid.settings import DomainSettings
from pygrid.tensors import decode
from support.jobs import NUM_RECORDS, Person, Site, records, running_site
from support.plans.handmade import logistic_params, logistic_plan
from support.web import assert_problem

TERMS = {"epsilon": 3.0, "delta": 1e-6, "clip": 1.0}
HUGE = 1e6
START = logistic_params()


def _constant(graph: onnx.GraphProto, name: str, values: Any) -> str:
    graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(values), name))
    return name


def _replace_output(graph: onnx.GraphProto, output: str, nodes: list[onnx.NodeProto]) -> None:
    """Have nodes make an output in place of the one that makes it, which goes on under the name ``honest``."""
    for node in graph.node:
        node.output[:] = ["honest" if name == output else name for name in node.output]
    graph.node.extend(nodes)


def _give_away(models: dict[str, onnx.ModelProto]) -> None:
    """The gradient of the weights becomes the records themselves, as loud as float32 allows."""
    graph = models["grads"].graph
    _replace_output(
        graph,
        "grads/weight",
        [
            helper.make_node("ReduceMean", ["data/x", _constant(graph, "axis", np.array([0]))], ["mean"], keepdims=1),
            helper.make_node("Mul", ["mean", _constant(graph, "loud", np.float32(HUGE))], ["shouted"]),
            helper.make_node("Mul", ["honest", _constant(graph, "zero", np.float32(0))], ["silenced"]),
            helper.make_node("Add", ["silenced", "shouted"], ["grads/weight"]),
        ],
    )


def _fail_at_one_record(models: dict[str, onnx.ModelProto]) -> None:
    """Reads beyond the end of an array where a feature is above 100: the runtime then refuses the whole call."""
    graph = models["grads"].graph
    _replace_output(
        graph,
        "grads/weight",
        [
            helper.make_node("ReduceMax", ["data/x", _constant(graph, "axis", np.array([1]))], ["most"], keepdims=1),
            helper.make_node("Greater", ["most", _constant(graph, "limit", np.float32(100))], ["is_there"]),
            helper.make_node("Cast", ["is_there"], ["as_number"], to=TensorProto.INT64),
            helper.make_node("Mul", ["as_number", _constant(graph, "far", np.array(99))], ["index"]),
            helper.make_node("GatherElements", ["data/x", "index"], ["picked"], axis=1),
            helper.make_node("Mul", ["picked", _constant(graph, "zero", np.float32(0))], ["zeros"]),
            helper.make_node(
                "ReduceMean", ["zeros", _constant(graph, "axes", np.array([0, 1]))], ["nothing"], keepdims=0
            ),
            helper.make_node("Add", ["honest", "nothing"], ["grads/weight"]),
        ],
    )


GIVING = logistic_plan(edit=_give_away).data


async def train(person: Person, dataset: int, plan: bytes, **more: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A private training of one round over all records: the job at its end, and what it changed of the model."""
    job = await person.submit(
        dataset, plan=plan, batch_size=NUM_RECORDS, privacy=TERMS, optimizer={"learning_rate": 1.0}, **more
    )
    done = await person.wait(job["id"], "released")
    trained, _ = decode((await person.result(job["id"])).content)
    return done, {name: array - START[name] for name, array in trained.items()}


async def test_a_plan_that_gives_the_records_away_gets_noise(site: Site) -> None:
    data = records()
    data["features"][7] = HUGE
    dataset = await site.owner.upload(arrays=data)
    await site.owner.set_policy(dataset)
    done, change = await train(site.scientist, dataset, GIVING)
    # Each record counts for a vector of norm 1 at the most, whatever the plan makes of it, and the noise is over all
    # entries.
    noise = done["cost"]["noise_multiplier"] / NUM_RECORDS
    assert np.linalg.norm(change["weight"]) < 1.0 + 6 * noise * np.sqrt(15)
    assert np.abs(change["bias"]).max() > 0, "noise came to what the plan gave nothing for"
    clipped = np.repeat(data["features"][:, None], 3, 1) * HUGE
    clipped /= np.maximum(1.0, np.linalg.norm(clipped.reshape(NUM_RECORDS, -1), axis=1))[:, None, None]
    left = change["weight"] + clipped.mean(axis=0)
    assert np.abs(left).max() < 6 * noise
    assert np.abs(left).max() > noise / 100


async def test_a_plan_that_gives_the_records_away_is_held_with_a_warning(site: Site) -> None:
    few = {name: values[:3] for name, values in records().items()}
    dataset = await site.owner.upload(arrays=few)
    job = await site.scientist.submit(dataset, plan=GIVING)
    await site.owner.approve(await site.owner.wait(job["id"], "waiting"))
    held = await site.owner.wait(job["id"], "held")
    assert held["bytes_out_ratio"] > 1
    assert_problem(await site.scientist.result(job["id"]), 409, "result_not_released")


async def test_a_plan_that_fails_where_one_record_is_tells_nothing(site: Site) -> None:
    plan = logistic_plan(edit=_fail_at_one_record).data
    without, present = records(), records()
    present["features"][7] = 1000.0
    told, seconds, zeroed = [], [], []
    for name, data in (("without", without), ("present", present)):
        dataset = await site.owner.upload(name, arrays=data)
        await site.owner.set_policy(dataset)
        began = time.monotonic()
        done, change = await train(site.scientist, dataset, plan)
        seconds.append(time.monotonic() - began)
        assert all(np.isfinite(array).all() for array in change.values())
        own = ("id", "dataset", "dataset_name", "request", "request_hash", "created_at", "updated_at")
        told.append({key: value for key, value in done.items() if key not in own})
        zeroed.append((await site.owner.job(done["id"]))["facts"]["num_zeroed"])
    assert zeroed == [0, 1], "the plan did fail, and the owner is told"
    assert told[0] == told[1]
    # A run takes a few ms; what is told of its time is the end of a bucket of a quarter of a second.
    assert min(seconds) > 0.25


@pytest.mark.parametrize("operator", ["Loop", "If", "RandomNormal"])
async def test_a_plan_with_other_operators_is_refused(operator: str, site: Site) -> None:
    def edit(models: dict[str, onnx.ModelProto]) -> None:
        models["grads"].graph.node[0].op_type = operator

    dataset = await site.owner.upload()
    await site.owner.set_policy(dataset)
    answer = await site.scientist.try_submit(dataset, plan=logistic_plan(edit=edit).data, privacy=TERMS)
    assert answer.status_code == 400, answer.text
    assert answer.json()["code"] in ("plan_operator_forbidden", "plan_graph_invalid", "plan_feature_forbidden")


async def test_a_plan_that_wants_64_gigabytes_is_refused(site: Site) -> None:
    def edit(models: dict[str, onnx.ModelProto]) -> None:
        graph = models["grads"].graph
        shape = _constant(graph, "shape", np.array([1 << 17, 1 << 17]))
        _replace_output(
            graph,
            "grads/bias",
            [
                helper.make_node("Expand", [_constant(graph, "one", np.float32(1)), shape], ["large"]),
                helper.make_node("ReduceMean", ["large"], ["mean"], keepdims=0),
                helper.make_node("Mul", ["honest", "mean"], ["grads/bias"]),
            ],
        )

    dataset = await site.owner.upload()
    await site.owner.set_policy(dataset)
    answer = await site.scientist.try_submit(dataset, plan=logistic_plan(edit=edit).data, privacy=TERMS)
    assert_problem(answer, 400, "plan_tensor_too_large")


async def test_a_plan_that_mixes_records_is_refused_under_privacy_terms(site: Site) -> None:
    def edit(models: dict[str, onnx.ModelProto]) -> None:
        graph = models["grads"].graph
        _replace_output(
            graph,
            "grads/bias",
            [
                helper.make_node(
                    "ReduceMax", ["data/x", _constant(graph, "axes", np.array([0, 1]))], ["most"], keepdims=0
                ),
                helper.make_node("Mul", ["honest", "most"], ["grads/bias"]),
            ],
        )

    dataset = await site.owner.upload()
    await site.owner.set_policy(dataset)
    answer = await site.scientist.try_submit(dataset, plan=logistic_plan(edit=edit).data, privacy=TERMS)
    assert_problem(answer, 400, "plan_mixes_examples")


async def test_endless_computing_is_cut_off_or_refused_before_it_is_charged(settings: DomainSettings) -> None:
    async with running_site(dataclasses.replace(settings, job_wall_s=1)) as site:
        dataset = await site.owner.upload()
        await site.owner.set_policy(dataset)
        exact = await site.scientist.submit(dataset, epochs=10_000, batch_size=1)
        await site.owner.approve(await site.owner.wait(exact["id"], "waiting"))
        private = await site.scientist.submit(dataset, epochs=2000, batch_size=10, privacy=TERMS)
        failed = await site.scientist.wait(exact["id"], "failed")
        assert failed["code"] == "out_of_time"
        refused = await site.scientist.wait(private["id"], "rejected")
        assert (refused["code"], "PYGRID_JOB_WALL_S" in refused["detail"]) == ("job_too_slow", True)
        assert (await site.scientist.budget(dataset))["yours"] == 0
