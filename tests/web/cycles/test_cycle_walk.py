"""A cycle from its opening to its checkpoint, over HTTP.

Should happen: devices join, download, report; the checkpoint is the weighted mean, exactly; the next cycle starts from
it. Should not happen: a weight above its cap; a field in an answer to a client of 2020 that it does not know.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from pygrid.syft import read_state
from pygrid.tensors import decode, encode
from support.training import PLAN, Site, assert_values, bearer, model
from support.web import assert_problem


async def test_two_reports_become_a_checkpoint(site: Site) -> None:
    process = await site.host()
    one, two = await site.devices(process, 2)
    assert one.accepted["checkpoint"] == 1
    await one.report(0.5)
    await two.report(0.25)
    completed = await site.until_completed(process)
    assert (completed["num_assigned"], completed["num_reports"], completed["num_examples"]) == (2, 2, 2)
    # new = old - mean(diff) = 1 - 0.375
    assert_values(await site.checkpoint(process), 0.625)
    assert_values(await site.checkpoint(process, 1), 1.0)
    newest = await site.cycle(process)
    assert (newest["sequence"], newest["state"], newest["checkpoint"]) == (2, "open", 2)
    again = await one.ask()
    assert (again["status"], again["cycle"], again["checkpoint"]) == ("accepted", 2, 2)
    downloaded = await site.web.get(
        "/model-centric/get-model", params={"model_id": process["id"]}, headers=bearer(one.key)
    )
    assert_values(decode(downloaded.content)[0], 0.625)
    assert downloaded.headers["PyGrid-Checkpoint"] == "2"


async def test_a_report_counts_with_its_examples(site: Site) -> None:
    process = await site.host(aggregation={"name": "mean"})
    one, two = await site.devices(process, 2)
    await one.report(1.0, num_examples=3)
    await two.report(0.0, num_examples=1)
    completed = await site.until_completed(process)
    assert completed["num_examples"] == 4
    assert_values(await site.checkpoint(process), 1 - 3 / 4)


async def test_no_report_counts_more_than_max_weight(site: Site) -> None:
    process = await site.host(max_weight=3, aggregation={"name": "mean"})
    one, two = await site.devices(process, 2)
    await one.report(1.0, num_examples=10**12)
    await two.report(0.0, num_examples=1)
    completed = await site.until_completed(process)
    assert completed["num_examples"] == 10**12 + 1
    assert_values(await site.checkpoint(process), 1 - 3 / 4)


async def test_no_report_counts_more_than_the_weight_cap(site: Site) -> None:
    """The median of 1, 1 and 10,000 examples is 1, so the last counts 3 times as much as the others."""
    process = await site.host(max_diffs=3, aggregation={"name": "mean"})
    for device, value, claimed in zip(await site.devices(process, 3), (0.5, 0.5, 0.75), (1, 1, 10_000), strict=True):
        await device.report(value, num_examples=claimed)
    completed = await site.until_completed(process)
    assert completed["num_examples"] == 10_002
    assert_values(await site.checkpoint(process), 1 - (0.5 + 0.5 + 3 * 0.75) / 5)
    answer = await site.web.get(f"/model-centric/processes/{process['id']}/contributions", headers=site.owner)
    assert [one["weight"] for one in answer.json()["contributions"]] == [1, 1, 3]


async def test_by_default_votes_are_equal_whatever_reports_claim(site: Site) -> None:
    process = await site.host()
    one, two = await site.devices(process, 2)
    await one.report(1.0, num_examples=10**12, metric_loss=1.0)
    await two.report(0.0, num_examples=1, metric_loss=3.0)
    completed = await site.until_completed(process)
    assert (completed["num_examples"], completed["metrics"]) == (10**12 + 1, {"loss": 2.0})
    assert_values(await site.checkpoint(process), 0.5)


async def test_any_values_average_as_in_float64(site: Site) -> None:
    """Against numpy on whole arrays; the sum is float64, so only the last rounding to float32 may differ by one
    step.
    """
    process = await site.host(max_diffs=5, outlier_factor=None)
    generator = np.random.default_rng(0)
    diffs = [{n: generator.normal(size=a.shape).astype(np.float32) for n, a in model().items()} for _ in range(5)]
    weights = [1, 7, 30, 2, 11]
    for device, diff, weight in zip(await site.devices(process, 5), diffs, weights, strict=True):
        assert (await device.send(diff, num_examples=weight)).status_code == 200
    await site.until_completed(process)
    for name, array in (await site.checkpoint(process)).items():
        mean = np.average([diff[name].astype(np.float64) for diff in diffs], axis=0, weights=weights)
        np.testing.assert_array_max_ulp(array, (1.0 - mean).astype(np.float32), maxulp=1)


async def test_metrics_are_averaged_with_the_weights(site: Site) -> None:
    process = await site.host(aggregation={"name": "mean"})
    one, two = await site.devices(process, 2)
    await one.report(num_examples=3, metric_loss=1.0, metric_accuracy=0.5)
    await two.report(num_examples=1, metric_loss=5.0)
    completed = await site.until_completed(process)
    assert completed["metrics"] == {"accuracy": 0.5, "loss": 2.0}


async def test_the_order_of_arrays_in_a_report_is_free(site: Site) -> None:
    process = await site.host(max_diffs=1)
    (device,) = await site.devices(process, 1)
    diff = {"weight": np.full((3, 4), 0.25, np.float32), "bias": np.full(3, 0.5, np.float32)}
    data = encode(diff)
    header_end = 8 + int.from_bytes(data[:8], "little")
    swapped = b'{"weight":{"dtype":"F32","shape":[3,4],"data_offsets":[0,48]},'
    swapped += b'"bias":{"dtype":"F32","shape":[3],"data_offsets":[48,60]}}'
    body = diff["weight"].tobytes() + diff["bias"].tobytes()
    assert data[header_end:] != body
    assert (await device.send(len(swapped).to_bytes(8, "little") + swapped + body)).status_code == 200
    await site.until_completed(process)
    arrays = await site.checkpoint(process)
    np.testing.assert_array_equal(arrays["weight"], np.float32(0.75))
    np.testing.assert_array_equal(arrays["bias"], np.float32(0.5))


PUBLISHED = {"status", "request_key", "version", "model", "plans", "protocols", "client_config", "model_id"}
NATIVE = {"cycle", "checkpoint", "model_hash", "plan_hashes", "deadline_s", "grace_s", "max_report_bytes"}


async def test_an_answer_to_a_client_of_2020_has_exactly_the_published_fields(site: Site) -> None:
    process = await site.host(max_workers=2, published=True)
    old, new, late = [await site.device(process) for _ in range(3)]
    accepted = await old.ask(wait_s=None)
    assert set(accepted) == PUBLISHED
    assert accepted["client_config"] == {"name": "digits", "version": "1.0", "lr": 0.1, "batch_size": 8}
    assert accepted["plans"] == {"training_plan": process["plans"][0]["id"]}
    assert (accepted["protocols"], accepted["model_id"]) == ({}, process["id"])
    assert set(await new.ask()) == PUBLISHED | NATIVE
    assert await late.ask(wait_s=None) == {"status": "rejected", "timeout": 60}
    native = await late.ask()
    assert (native["status"], native["timeout"], native["reason"]) == ("rejected", 60, "cycle_full")
    assert native["detail"]


async def test_a_native_answer_has_the_hashes_of_what_there_is_to_download(site: Site) -> None:
    process = await site.host()
    (device,) = await site.devices(process, 1)
    accepted = device.accepted
    assert accepted["model_hash"] == hashlib.sha256(encode(model())).hexdigest()
    assert accepted["plan_hashes"] == {"training_plan": hashlib.sha256(PLAN).hexdigest()}
    assert accepted["deadline_s"] == 60.0
    assert accepted["max_report_bytes"] >= len(encode(model()))
    wanted = {"plan_id": accepted["plans"]["training_plan"], "receive_operations_as": "onnx"}
    plan = await site.web.get("/model-centric/get-plan", params=wanted, headers=bearer(device.key))
    assert plan.content == PLAN
    assert plan.headers["etag"] == f'"{hashlib.sha256(PLAN).hexdigest()}"'
    known = {**bearer(device.key), "If-None-Match": plan.headers["etag"]}
    again = await site.web.get("/model-centric/get-plan", params=wanted, headers=known)
    assert (again.status_code, again.content) == (304, b"")
    other = await site.web.get(
        "/model-centric/get-plan", params={**wanted, "receive_operations_as": "torchscript"}, headers=known
    )
    assert_problem(other, 400, "plan_variant_unavailable")


async def test_a_key_in_the_query_is_as_good_as_a_bearer(site: Site) -> None:
    process = await site.host(max_diffs=1)
    (device,) = await site.devices(process, 1)
    query = {"worker_id": device.worker_id, "request_key": device.key}
    got = await site.web.get("/model-centric/get-model", params={**query, "model_id": process["id"]})
    weight, bias = read_state(got.content)  # a State, in the order of the plan's parameters
    assert_values({"weight": weight, "bias": bias}, 1.0)
    sent = await site.web.post("/model-centric/report", params=query, content=encode(model(0.5)))
    assert sent.json() == {"status": "success"}
    await site.until_completed(process)
    assert_values(await site.checkpoint(process), 0.5)


async def test_a_lost_key_is_renewed_and_the_old_one_ends(site: Site) -> None:
    process = await site.host(max_workers=1, max_diffs=None)
    (device,) = await site.devices(process, 1)
    lost = device.key
    await device.join()
    assert device.key != lost
    assert (await site.cycle(process))["num_assigned"] == 1
    answer = await site.web.post("/model-centric/report", content=encode(model(0.5)), headers=bearer(lost))
    assert_problem(answer, 401, "invalid_request_key")
    await device.report(0.5)
    await site.until_completed(process)
    assert_values(await site.checkpoint(process), 0.5)


async def test_a_client_of_2020_that_asks_twice_is_told_to_wait(site: Site) -> None:
    process = await site.host(published=True)
    device = await site.device(process)
    assert (await device.ask(wait_s=None))["status"] == "accepted"
    assert await device.ask(wait_s=None) == {"status": "rejected", "timeout": 60}


@pytest.mark.parametrize("version", [None, "2.0"])
async def test_without_a_version_the_newest_process_is_meant(site: Site, version: str | None) -> None:
    await site.host(version="1.0")
    newest = await site.host(version="2.0")
    answer = await site.web.post("/model-centric/authenticate", json={"model_name": "digits", "model_version": version})
    message = {"worker_id": answer.json()["worker_id"], "model": "digits", "wait_s": 0}
    asked = await site.web.post("/model-centric/cycle-request", json=message)
    assert (asked.json()["version"], asked.json()["model_id"]) == ("2.0", newest["id"])


async def test_there_is_no_protocol_to_get(site: Site) -> None:
    (device,) = await site.devices(await site.host(), 1)
    route, wanted = "/model-centric/get-protocol", {"protocol_id": 1}
    assert_problem(await site.web.get(route, params=wanted, headers=bearer(device.key)), 404, "protocol_not_found")
    assert_problem(await site.web.get(route, params=wanted), 401, "missing_request_key")
