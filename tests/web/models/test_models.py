"""Served models over HTTP, answered by real Workers.

Should happen: who may serve does; who may ask gets what the model computes; who may download gets the file.
Should not happen: anybody asks or takes what they are not allowed to; a model that the gate refuses is kept; one
caller's values come to another, or spoil another's answer.
"""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from onnx import helper

from pygrid.domain import build_domain
from pygrid.settings import DomainSettings
from pygrid.tensors import decode, encode
from support.eventually import eventually
from support.plans.models import PATH, SERVE, WEIGHT, centred, form, graph_model, linear, lookup, slow
from support.processes import children_of
from support.web import People, assert_problem, running

X = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)


class Someone:
    """A person with a session."""

    def __init__(self, web: httpx.AsyncClient, headers: dict[str, str]) -> None:
        self.web, self.headers = web, headers

    async def serve(self, model: bytes | None, model_id: str = "scores", **config: Any) -> httpx.Response:
        return await self.web.post(SERVE, files=form(model, model_id, **config), headers=self.headers)

    async def ask(self, model_id: str = "scores", **arrays: Any) -> httpx.Response:
        return await self.web.post(f"{PATH}/{model_id}/predict", content=encode(arrays), headers=self.headers)

    async def get(self, path: str) -> httpx.Response:
        return await self.web.get(f"/data-centric/{path}", headers=self.headers)


@pytest.fixture
async def owner(web: httpx.AsyncClient, people: People) -> Someone:
    return Someone(web, await people.owner())


@pytest.fixture
async def admin(owner: Someone, people: People) -> Someone:
    return Someone(owner.web, await people.with_role(3, owner.headers, "admin@example.org"))


@pytest.fixture
async def user(owner: Someone, people: People) -> Someone:
    return Someone(owner.web, await people.with_role(1, owner.headers, "user@example.org"))


def stored(settings: DomainSettings) -> list[str]:
    return sorted(path.name for path in (settings.data_dir / "served-models").iterdir())


async def test_from_serving_to_deletion(owner: Someone, user: Someone, settings: DomainSettings) -> None:
    model = linear()
    answer = await owner.serve(model, description="Scores", allow_download=True, allow_remote_inference=True)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["success"], told["message"]) == (True, "Model saved with id: scores")
    info = told["model"]
    assert info["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["batch", 4]}]
    assert info["outputs"] == [{"name": "y", "dtype": "float32", "shape": ["batch", 3]}]
    assert (info["num_parameters"], info["rows_independent"], info["mine"], info["model_size"]) == (
        12,
        True,
        True,
        "1KB",
    )
    assert (await user.get("models/")).json() == {"success": True, "models": ["scores"]}
    (listed,) = (await user.get("detailed-models-list/")).json()["models"]
    assert listed == {**info, "mine": False}
    assert (await user.get("models/scores")).json() == listed
    answer = await user.ask(x=X)
    assert answer.status_code == 200, answer.text
    np.testing.assert_allclose(decode(answer.content)[0]["y"], X @ WEIGHT, rtol=1e-5)
    assert (await user.get("models/scores/download")).content == model
    assert_problem(await owner.serve(linear()), 409, "model_exists")
    assert (await owner.web.delete(f"{PATH}/scores", headers=owner.headers)).status_code == 204
    assert stored(settings) == []
    for answer in (await user.get("models/scores"), await user.get("models/scores/download"), await user.ask(x=X)):
        assert_problem(answer, 404, "model_not_found")


async def test_what_is_not_allowed_is_for_the_holder_only(owner: Someone, admin: Someone, user: Someone) -> None:
    assert (await admin.serve(linear())).status_code == 200
    for holder in (admin, owner):
        assert (await holder.get("models/scores/download")).status_code == 200
        assert (await holder.ask(x=X)).status_code == 200
    assert_problem(await user.get("models/scores/download"), 403, "download_not_allowed")
    assert_problem(await user.ask(x=X), 403, "inference_not_allowed")
    assert_problem(await user.web.delete(f"{PATH}/scores", headers=user.headers), 403, "not_your_model")
    assert_problem(await user.serve(linear(), "other"), 403, "not_permitted")
    for path in ("models", "detailed-models-list"):
        assert (await user.web.get(f"/data-centric/{path}")).json()["models"] == []
    for path in ("models/scores", "models/scores/download"):
        assert (await user.web.get(f"/data-centric/{path}")).status_code == 401
    assert (await user.web.post(f"{PATH}/scores/predict", content=encode({"x": X}))).status_code == 401
    assert (await user.web.post(SERVE, files=form(linear(), "other"))).status_code == 401


async def test_each_permission_stands_for_itself(owner: Someone, user: Someone) -> None:
    await owner.serve(linear(), "asked", allow_remote_inference=True)
    await owner.serve(linear(), "taken", allow_download=True)
    assert (await user.ask("asked", x=X)).status_code == 200
    assert_problem(await user.get("models/asked/download"), 403, "download_not_allowed")
    assert (await user.get("models/taken/download")).status_code == 200
    assert_problem(await user.ask("taken", x=X), 403, "inference_not_allowed")


async def test_the_published_form_is_understood(owner: Someone, user: Someone) -> None:
    fields = {
        "encoding": "ISO-8859-1",
        "model_id": "old",
        "allow_download": "True",
        "allow_remote_inference": "False",
        "mpc": "False",
    }
    for prefix, model_id in (("/data_centric", "old"), ("/data-centric", "older")):
        answer = await owner.web.post(
            f"{prefix}/serve-model/",
            data={**fields, "model_id": model_id},
            files={"model": ("m", linear())},
            headers=owner.headers,
        )
        assert answer.json()["message"] == f"Model saved with id: {model_id}", answer.text
    assert (await user.get("models/old/download")).status_code == 200
    assert_problem(await user.ask("old", x=X), 403, "inference_not_allowed")
    answer = await owner.web.post(
        SERVE, data={**fields, "mpc": "True"}, files={"model": ("m", linear())}, headers=owner.headers
    )
    assert_problem(answer, 400, "invalid_config")


async def test_one_files_bytes_stay_as_long_as_one_model_needs_them(owner: Someone, settings: DomainSettings) -> None:
    for model_id in ("one", "two"):
        await owner.serve(linear(), model_id)
    assert len(stored(settings)) == 1
    await owner.web.delete(f"{PATH}/one", headers=owner.headers)
    assert len(stored(settings)) == 1
    assert (await owner.ask("two", x=X)).status_code == 200
    await owner.web.delete(f"{PATH}/two", headers=owner.headers)
    assert stored(settings) == []


async def test_who_means_one_model_is_not_answered_by_another(owner: Someone) -> None:
    first = (await owner.serve(linear())).json()["model"]["sha256"]
    question = {"content": encode({"x": X}), "headers": {**owner.headers, "If-Match": f'"{first}"'}}
    assert (await owner.web.post(f"{PATH}/scores/predict", **question)).status_code == 200
    await owner.web.delete(f"{PATH}/scores", headers=owner.headers)
    await owner.serve(linear(weight=WEIGHT + 1))
    assert_problem(await owner.web.post(f"{PATH}/scores/predict", **question), 409, "model_changed")
    assert (await owner.ask(x=X)).status_code == 200


async def test_questions_of_many_share_batches_and_each_gets_its_own(owner: Someone, user: Someone) -> None:
    await owner.serve(lookup(), allow_remote_inference=True, max_batch_size=8)
    tokens = [np.array([i % 4, (i + 1) % 4], np.int64) for i in range(40)]
    tokens[7] = np.array([0, 99], np.int64)
    answers = await asyncio.gather(*(user.ask(token=token) for token in tokens))
    for number, (token, answer) in enumerate(zip(tokens, answers, strict=True)):
        if number == 7:
            problem = assert_problem(answer, 400, "inference_failed")
            assert "cannot compute" in problem["detail"]
        else:
            np.testing.assert_array_equal(decode(answer.content)[0]["y"], WEIGHT[token])


async def test_rows_that_depend_on_each_other_are_never_joined(owner: Someone) -> None:
    info = (await owner.serve(centred())).json()["model"]
    assert info["rows_independent"] is False
    answers = await asyncio.gather(*(owner.ask(x=X + i) for i in range(6)))
    for number, answer in enumerate(answers):
        given = X + np.float32(number)
        np.testing.assert_allclose(decode(answer.content)[0]["y"], given - given.mean(axis=0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("opset", [18, 19, 20])
async def test_opsets(owner: Someone, opset: int) -> None:
    assert (await owner.serve(linear(opset))).status_code == 200


@pytest.mark.parametrize(
    ("model", "code"),
    [
        (b"not onnx", "plan_graph_invalid"),
        (linear(17), "plan_version_unsupported"),
        (linear()[:-3], "plan_graph_invalid"),
        (
            graph_model(
                [helper.make_node("Round", ["x"], ["y"], domain="custom")],
                {"x": ("float32", ["N"])},
                {"y": ("float32", ["N"])},
                domains=("custom",),
            ),
            "plan_domain_forbidden",
        ),
        (
            graph_model(
                [helper.make_node("NonZero", ["x"], ["y"])], {"x": ("float32", ["N"])}, {"y": ("int64", [1, "k"])}
            ),
            "plan_operator_forbidden",
        ),
        (
            graph_model(
                [helper.make_node("Relu", ["x"], ["y"])], {"x": ("float32", ["N", "M"])}, {"y": ("float32", ["N", "M"])}
            ),
            "plan_ports_invalid",
        ),
        (
            graph_model(
                [helper.make_node("Expand", ["x", "shape"], ["y"])],
                {"x": ("float32", [1])},
                {"y": ("float32", [1 << 40])},
                {"shape": np.array([1 << 40], np.int64)},
            ),
            "plan_tensor_too_large",
        ),
    ],
)
async def test_a_model_that_the_gate_refuses_is_not_kept(
    owner: Someone, settings: DomainSettings, model: bytes, code: str
) -> None:
    assert_problem(await owner.serve(model), 400, code)
    assert stored(settings) == []
    assert (await owner.get("models")).json()["models"] == []


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({"model_id": "../etc"}, "invalid_config"),
        ({"model_id": ""}, "invalid_config"),
        ({"max_batch_size": 0}, "invalid_config"),
        ({"max_batch_size": 10**6}, "invalid_config"),
        ({"allow_downloads": True}, "invalid_config"),
    ],
)
async def test_a_config_that_makes_no_sense_is_refused(owner: Someone, config: dict[str, Any], code: str) -> None:
    assert_problem(await owner.serve(linear(), **config), 400, code)


async def test_forms_that_are_none(owner: Someone) -> None:
    assert_problem(await owner.serve(None), 400, "invalid_form")
    assert_problem(await owner.serve(b""), 400, "invalid_form")
    twice = [*form(linear()), *form(linear())]
    assert_problem(await owner.web.post(SERVE, files=twice, headers=owner.headers), 400, "invalid_form")
    assert_problem(await owner.web.post(SERVE, json={}, headers=owner.headers), 400, "invalid_form")


async def test_questions_that_do_not_fit_are_refused_before_the_model_sees_them(owner: Someone) -> None:
    await owner.serve(linear(), max_batch_size=8)
    for arrays, code in (
        ({}, "inference_inputs"),
        ({"x": X, "more": X}, "inference_inputs"),
        ({"x": X.astype(np.float64)}, "inference_inputs"),
        ({"x": X[:, :3]}, "shape_mismatch"),
        ({"x": X[0]}, "shape_mismatch"),
        ({"x": np.zeros((0, 4), np.float32)}, "inference_batch_size"),
        ({"x": np.zeros((9, 4), np.float32)}, "inference_batch_size"),
    ):
        assert_problem(await owner.ask(**arrays), 400, code)
    path = f"{PATH}/scores/predict"
    assert_problem(await owner.web.post(path, content=b"{}", headers=owner.headers), 400, "invalid_tensors")
    assert_problem(await owner.web.post(path, content=bytes(2**21), headers=owner.headers), 413, "payload_too_large")


async def test_a_large_question_is_read_beside_the_event_loop(owner: Someone, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []

    def decode_here(data: bytes) -> Any:
        threads.append(threading.current_thread())
        return decode(data)

    monkeypatch.setattr("pygrid.features.models.service.decode", decode_here)
    await owner.serve(linear(), max_batch_size=60_000)
    large = np.random.default_rng(1).standard_normal((60_000, 4)).astype(np.float32)
    for asked, is_here in ((X, True), (large, False)):
        answer = await owner.ask(x=asked)
        assert answer.status_code == 200, answer.text
        assert int(answer.headers["content-length"]) == len(answer.content)
        np.testing.assert_allclose(decode(answer.content)[0]["y"], asked @ WEIGHT, rtol=1e-4, atol=1e-5)
        assert (threads.pop() is threading.main_thread()) is is_here


async def test_a_crash_leaves_no_file_without_a_model(settings: DomainSettings) -> None:
    async with running(build_domain(settings)) as web:
        owner = Someone(web, await People(web).owner())
        await owner.serve(linear())
    folder: Path = settings.data_dir / "served-models"
    (folder / ("0" * 64)).write_bytes(b"left behind")
    async with running(build_domain(settings)) as web:
        owner = Someone(web, await People(web).log_in("owner@example.org"))
        assert len(stored(settings)) == 1
        assert (await owner.ask(x=X)).status_code == 200


async def test_a_model_that_is_deleted_while_it_answers(owner: Someone) -> None:
    await owner.serve(slow(), max_batch_size=1)
    asked = asyncio.create_task(owner.ask(x=np.zeros((1500, 1500), np.float32)))
    await eventually(model_servers)
    assert (await owner.web.delete(f"{PATH}/scores", headers=owner.headers)).status_code == 204
    assert_problem(await asked, 503, "inference_lost")
    await eventually(lambda: not model_servers())


def model_servers() -> list[psutil.Process]:
    """The processes in which models of this process answer."""
    return children_of(psutil.Process(), "model_server")
