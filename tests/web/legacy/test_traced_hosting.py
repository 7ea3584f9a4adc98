"""Hosting as in 2020: a State and plans of PySyft 0.2, as hexadecimal text, over the WebSocket and over HTTP.

Should happen: clients of 2020 train such a process, with or without an averaging plan of 2020; its configuration is
taken as it was. Should not happen: a native device or a job fails in it without a clear refusal; a bad form hosts
anything; a secret is short outside of the open mode.
"""

from __future__ import annotations

import base64
import json
import logging
from dataclasses import replace
from typing import Any

import httpx
import jwt
import numpy as np
import pytest

from pygrid.domain import build_domain
from pygrid.legacy.websocket import LegacyCaller, Published, answer
from pygrid.plans.dialects import traced
from pygrid.settings import DomainSettings, load_settings
from pygrid.syft import Action, PlanMessage, Ref, read_plan, read_state, write_plan, write_state
from pygrid.syft.wire import write_bytes
from pygrid.web.message_memory import MessageMemory
from pygrid.web.services import service
from support.pysyft import Trace, arrays, average_of, iterative_average, message, training_plan
from support.training import PLAN, Device, Site, bearer, owned_folder, running_site, site  # noqa: F401 - fixtures
from support.web import running


def diff(value: float = 0.5) -> str:
    return base64.b64encode(write_state(arrays(value))).decode()


async def over_websocket(site: Site, data: dict[str, Any], token: str = "") -> Any:  # noqa: F811
    caller = LegacyCaller(site.app.state.authenticator, "127.0.0.1")
    token = token or site.owner["Authorization"].removeprefix("Bearer ")
    text = json.dumps({"type": "model-centric/host-training", "token": token, "data": data})
    found = await answer(service(site.app.state, Published), caller, text)
    assert isinstance(found, dict)
    return found["data"]


async def over_http(site: Site, data: dict[str, Any]) -> httpx.Response:  # noqa: F811
    return await site.web.post("/model-centric/host-training", json=data, headers=site.owner)


async def process_of(site: Site) -> dict[str, Any]:  # noqa: F811
    listed = await site.web.get("/model-centric/processes", headers=site.owner)
    (process,) = listed.json()["processes"]
    return dict(process)


async def report(site: Site, device: Device, value: float) -> None:  # noqa: F811
    body = {"worker_id": device.worker_id, "request_key": device.key, "diff": diff(value)}
    found = await site.web.post("/model-centric/report", json=body)
    assert (found.status_code, found.json()) == (200, {"status": "success"})


async def train_two(site: Site, values: tuple[float, float]) -> list[np.ndarray[Any, Any]]:  # noqa: F811
    """The next checkpoint after two reports of clients of 2020."""
    process = await process_of(site)
    devices = [await (await site.device(process)).join(wait_s=None) for _ in values]
    for device, value in zip(devices, values, strict=True):
        await report(site, device, value)
    await site.until_completed(process)
    return [array for _, array in sorted((await site.checkpoint(process, 2)).items())]


@pytest.mark.parametrize("way", ["websocket", "http"])
async def test_clients_of_2020_train_what_was_hosted(site: Site, way: str) -> None:  # noqa: F811
    if way == "websocket":
        assert await over_websocket(site, message()) == {"status": "success"}
    else:
        found = await over_http(site, message())
        assert (found.status_code, found.json()) == (201, {"status": "success"})
    process = await process_of(site)
    assert [(plan["name"], plan["kind"]) for plan in process["plans"]] == [("training_plan", "training_2020")]
    device = await (await site.device(process)).join(wait_s=None)
    assert device.accepted["client_config"]["batch_size"] == 8
    query = {"worker_id": device.worker_id, "request_key": device.key}
    model = await site.web.get("/model-centric/get-model", params={**query, "model_id": process["id"]})
    for array, right in zip(read_state(model.content), arrays(), strict=True):
        np.testing.assert_array_equal(array, right)
    query["plan_id"] = device.accepted["plans"]["training_plan"]
    for dialect, framework in ((None, ""), ("list", ""), ("tfjs", "tfjs")):
        params = query if dialect is None else {**query, "receive_operations_as": dialect}
        plan = await site.web.get("/model-centric/get-plan", params=params)
        assert (plan.status_code, read_plan(plan.content).base_framework) == (200, framework)
    for dialect in ("torchscript", "onnx", "other"):
        plan = await site.web.get("/model-centric/get-plan", params={**query, "receive_operations_as": dialect})
        assert (plan.status_code, "it is available as list, tfjs" in plan.json()["error"]) == (400, True)


async def test_the_average_without_a_plan(site: Site) -> None:  # noqa: F811
    assert await over_websocket(site, message()) == {"status": "success"}
    for array in await train_two(site, (0.5, 0.25)):
        np.testing.assert_allclose(array, 1 - 0.375)


async def test_an_iterative_averaging_plan(site: Site) -> None:  # noqa: F811
    form = message(averaging=iterative_average(), iterative_plan=True)
    assert await over_websocket(site, form) == {"status": "success"}
    assert {plan["kind"] for plan in (await process_of(site))["plans"]} == {"training_2020", "averaging_2020"}
    for array in await train_two(site, (0.5, 0.25)):
        np.testing.assert_allclose(array, 1 - 0.375)


async def test_an_averaging_plan_of_all_diffs(site: Site) -> None:  # noqa: F811
    assert await over_websocket(site, message(averaging=average_of(2))) == {"status": "success"}
    for array in await train_two(site, (0.5, 0.25)):
        np.testing.assert_allclose(array, 1 - 2 * 0.375)


async def test_variants_as_a_later_client_sent_them(site: Site) -> None:  # noqa: F811
    plan = training_plan()
    script = PlanMessage("training_plan", torchscript=b"opaque")
    plans = {"training_plan": plan, "training_plan:ts": script}
    assert await over_websocket(site, message(plans)) == {"status": "success"}
    process = await process_of(site)
    device = await (await site.device(process)).join(wait_s=None)
    query = {"worker_id": device.worker_id, "request_key": device.key, "plan_id": process["plans"][0]["id"]}
    found = await site.web.get("/model-centric/get-plan", params={**query, "receive_operations_as": "torchscript"})
    assert read_plan(found.content).torchscript == b"opaque"


async def test_native_devices_are_refused(site: Site) -> None:  # noqa: F811
    assert await over_websocket(site, message()) == {"status": "success"}
    process = await process_of(site)
    device = await site.device(process)
    asked = {"worker_id": device.worker_id, "model": process["name"], "version": "1.0", "wait_s": 0}
    found = await site.web.post("/model-centric/cycle-request", json=asked)
    assert (found.status_code, found.json()["code"]) == (409, "process_not_native")
    assert "PySyft 0.2" in found.json()["detail"]


def tfjs(*actions: Action, outputs: tuple[int, ...] = (9,)) -> dict[str, Any]:
    """A plan of the inputs 1 and 2."""
    return {"plans": {"p:tfjs": write_plan(PlanMessage("p", (1, 2), outputs, actions)).hex()}}


def with_data(*shapes: tuple[int, ...]) -> dict[str, Any]:
    """The usual plan with other shapes of its data."""
    plan = training_plan()
    return {"plans": {"p": write_plan(replace(plan, shapes=dict(zip(plan.inputs, shapes, strict=False)))).hex()}}


NEG = Action("tf.neg", (Ref(1),), 9)
CASES: dict[str, dict[str, Any]] = {
    "a name of every object": tfjs(Action("tf.__proto__", (Ref(1),), 9)),
    "a command that is not listed": tfjs(Action("tf.data.csv", (Ref(1),), 9)),
    "a reference to what comes later": tfjs(Action("tf.neg", (Ref(8),), 9), Action("tf.neg", (Ref(1),), 8)),
    "an id that is written twice": tfjs(NEG, NEG),
    "an output that is an input": tfjs(NEG, outputs=(9, 1)),
    "a million actions": {"plans": {"p": write_bytes(2, b"\x12\x00" * 1_000_000).hex()}},
    "a broadcast to terabytes": with_data((100_000, 1), (1, 100_000)),
    "data of terabytes": with_data((2**31 - 1, 2**31 - 1), (8, 3)),
    "labels of terabytes": with_data((8, 4), (2**20, 2**20)),
    "a State without tensors": {"model": ""},
    "a State of float64": {"model": write_state([np.ones((3, 4)), np.ones(3)]).hex()},
    "NaN": {"model": write_state([np.full((3, 4), np.nan, np.float32), np.ones(3, np.float32)]).hex()},
    "a truncated State": {"model": write_state(arrays()).hex()[:-8]},
    "a pickle": {"model": b"\x80\x04K\x01.".hex()},
    "no hexadecimal text": {"plans": {"training_plan": "xyz"}},
    "no plans": {"plans": {}},
    "an unknown suffix": {"plans": {"training_plan:onnx": write_plan(training_plan()).hex()}},
    "two kinds of plans": {"plans": {"a": write_plan(training_plan()).hex(), "b": PLAN.hex()}},
    "an unknown operation": {
        "plans": {"p": write_plan(PlanMessage("p", (1,), (2,), (Action("torch.svd", (Ref(1),), 2),))).hex()}
    },
    "an averaging plan of other arrays": {"averaging_plan": write_plan(iterative_average(1)).hex()},
    "an averaging plan of three diffs": {"averaging_plan": write_plan(average_of(3)).hex()},
    "a name with a slash": {"plans": {"a/b": write_plan(training_plan()).hex()}},
    "no cycle_length": {"server_config": {"num_cycles": 1}},
    "a short secret": {"server_config": {"cycle_length": 60, "authentication": {"secret": "abc"}}},
    "schedules": {"server_config": {"cycle_length": 60, "schedules": {"epochs": [1, 2]}}},
    "no name": {"client_config": {"version": "1.0"}},
}


async def check_in_process(source: traced.TracedPlans) -> traced.CheckedPlans:
    """The check without its child process, which the tests of good forms start."""
    return traced.check_traced(source)


@pytest.mark.parametrize("case", CASES)
async def test_a_bad_form_hosts_nothing(site: Site, case: str, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(traced, "check_traced_async", check_in_process)
    form = {**message(), **CASES[case]}
    assert list(await over_websocket(site, form)) == ["error"], case
    found = await over_http(site, form)
    assert 400 <= found.status_code < 410, found.text
    assert found.json()["error"]
    assert found.json()["code"] != "plan_check_failed", "a check that fails does not name the fault"
    assert (await site.web.get("/model-centric/processes", headers=site.owner)).json()["processes"] == []
    assert site.partial_files() == []


async def test_an_unknown_operation_is_named_over_http(site: Site) -> None:  # noqa: F811
    found = await over_http(site, {**message(), **CASES["an unknown operation"]})
    assert found.json()["error"] == "Failed to translate a Plan: operation 'torch.svd' of plan 'p' is not known"


async def test_the_configuration_is_taken_as_it_was(site: Site, caplog: pytest.LogCaptureFixture) -> None:  # noqa: F811
    with caplog.at_level(logging.WARNING):
        form = message(
            min_workers=None, iterative_plan=True, store_averaged_diff=True, authentication={"type": "jwt", "kind": 1}
        )
        assert await over_websocket(site, form) == {"status": "success"}
    (record,) = [one for one in caplog.records if one.message == "fields of server_config have no effect"]
    assert set(record.__dict__["fields"]) == {"iterative_plan", "store_averaged_diff", "authentication.kind"}
    config = (await process_of(site))["server_config"]
    assert (config["num_cycles"], config["authentication"]) == (3, None)


async def test_hosting_needs_an_account_with_the_permission(site: Site) -> None:  # noqa: F811
    assert await over_websocket(site, message(), token="guessed") == {"error": "Invalid credentials!"}
    found = await site.web.post("/model-centric/host-training", json=message())
    assert (found.status_code, found.json()["error"]) == (401, "Missing request key!")


async def test_the_json_of_all_requests_has_a_bound(site: Site) -> None:  # noqa: F811
    memory = service(site.app.state, MessageMemory)
    memory.max_bytes = 300_000
    text = json.dumps({**message(), "model": "0" * 200_000})
    with memory.hold(90_000):
        found = await site.web.post("/model-centric/host-training", content=text, headers=site.owner)
    assert (found.status_code, found.json()["code"]) == (503, "server_busy")
    assert memory.num_bytes == 0


# As the tests of PyGrid in 2020 host: without an account, with plans of three arrays, and a short secret


def pygrid_form() -> dict[str, Any]:
    """What PyGrid's own test of 2020 hosts."""
    trace = Trace()
    x, y, z = trace.inputs(3)
    outputs = [trace.method(a, "__add__", b) for a, b in ((y, z), (x, z), (x, x))]
    foo = trace.plan("foo_1", [x, y, z], outputs, {one.id: (1,) for one in (x, y, z)})
    trace = Trace()
    x, y = trace.inputs(2)
    average = trace.plan("avg_plan", [x, y], [trace.method(x, "__add__", trace.method(y, "__truediv__", 2))])
    form = message(
        {"foo_1": foo, "foo_2": foo},
        averaging=average,
        name="my-federated-model",
        max_workers=100,
        pool_selection="random",
        pool_window_s=0,
        num_cycles=5,
        do_not_reuse_workers_until_cycle=4,
        cycle_length=8 * 60 * 60,
        minimum_upload_speed=2,
        minimum_download_speed=4,
        authentication={"secret": "abc", "pub_key": ""},
    )
    return {**form, "protocols": {"protocol_1": b"serialized_protocol_mockup".hex()}}


async def test_hosting_in_the_open_mode(
    settings: DomainSettings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = load_settings({}, data_dir=settings.data_dir, id="test", legacy_open=True)
    app = build_domain(opened)
    async with running(app) as web:
        found = await web.post("/model-centric/host-training", json=pygrid_form())
        assert (found.status_code, found.json()) == (201, {"status": "success"}), found.text
        warned = [one.message for one in caplog.records if one.levelno == logging.WARNING]
        assert {"secret of authentication is short", "averaging plan does not fit the model"} <= set(warned)
        names = {"model_name": "my-federated-model", "model_version": "1.0"}
        # PyJWT refuses short keys of its own accord only with a warning; this one was made by hand as in 2020.
        token = jwt.api_jws.encode(b"{}", "abc" + "\0" * 61, "HS256")
        for wrong in ({}, {"auth_token": "just kidding!"}, {"auth_token": jwt.api_jws.encode(b"{}", "x" * 64)}):
            assert (await web.post("/model-centric/authenticate", json={**names, **wrong})).status_code == 400
        client = (await web.post("/model-centric/authenticate", json={**names, "auth_token": token})).json()
        assert client == {"status": "success", "worker_id": client["worker_id"], "requires_speed_test": True}
        asked = {"worker_id": client["worker_id"], "model": "my-federated-model", "version": "1.0"}
        speeds = {"ping": 8, "download": 46.3, "upload": 23.7}
        accepted = (await web.post("/model-centric/cycle-request", json={**asked, **speeds})).json()
        assert (accepted["status"], list(accepted["plans"])) == ("accepted", ["foo_1", "foo_2"])
