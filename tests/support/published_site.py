"""A Domain with processes that clients of 2020 train, and what their reports must be."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import pygrid
from pygrid.domain import build_domain
from pygrid.plans import Plan, Runner
from pygrid.plans.authoring import initial_params
from pygrid.settings import load_settings
from pygrid.tensors import Params, decode, encode
from support.eventually import eventually
from support.syftjs import task
from support.training import config
from support.web import People, serving

RunTasks = Callable[[list[dict[str, Any]]], Awaitable[list[dict[str, Any]]]]
"""`tasks -> results` of published clients."""
BATCH, RATE = 8, 0.1


def _loss(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    logits = model(x)
    return F.cross_entropy(logits, y), {"accuracy": (logits.argmax(-1) == y).float().mean()}


@dataclass
class Subject:
    """A plan with its variants, and its first weights."""

    plan: Plan
    weights: Params
    shape: tuple[int, ...]

    def batches(self, seed: int, count: int = 2, size: int = BATCH) -> list[tuple[np.ndarray, np.ndarray]]:
        random = np.random.default_rng(seed)
        x = random.random((count, size, *self.shape), np.float32)
        y = np.eye(10, dtype=np.float32)[random.integers(0, 10, (count, size))]
        return list(zip(x, y, strict=True))

    def diff(self, batches: list[tuple[np.ndarray, np.ndarray]]) -> Params:
        """``original - trained``, by the plan's own graph."""
        data = [{"x": x, "y": y.argmax(1)} for x, y in batches]
        trained = Runner(self.plan).train(self.weights, data, hyper={"lr": RATE}).params
        return {name: self.weights[name] - trained[name] for name in self.weights}


def build_subject(net: torch.nn.Module, shape: tuple[int, ...], sizes: tuple[int, ...] = (4, BATCH)) -> Subject:
    """A classifier of ten classes, built with its tfjs variant for these batch sizes."""
    loss = pygrid.plan(
        data={"x": pygrid.Tensor[("batch", *shape)], "y": pygrid.Label(10)}, hyper={"lr": pygrid.Float(RATE)}
    )(_loss)
    plan = loss.build(net, targets=["tfjs"], batch_sizes=list(sizes))
    assert plan.variants is not None
    assert not plan.variants.unavailable
    return Subject(plan, initial_params(net), shape)


@pytest.fixture(scope="module")
def mlp() -> Subject:
    torch.manual_seed(3)
    return build_subject(torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10)), (64,))


@pytest.fixture(scope="module")
def cnn() -> Subject:
    torch.manual_seed(4)
    layers = [torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Conv2d(4, 8, 3)]
    return build_subject(torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(32, 10)), (1, 8, 8))


@dataclass
class PublishedSite:
    url: str
    web: httpx.AsyncClient
    owner: dict[str, str]

    async def host(
        self, subject: Subject, name: str, *, batch_size: int = BATCH, **server_config: Any
    ) -> dict[str, Any]:
        """A process whose cycles end with the second report, unless the configuration says otherwise."""
        settings = config(name, "1.0", **server_config)
        settings["client_config"]["batch_size"] = batch_size
        files = [("config", ("config", httpx.Response(200, json=settings).content, "application/json"))]
        files.append(("model", ("model", encode(subject.weights), "application/octet-stream")))
        files.append(("plan:training_plan", ("plan", subject.plan.data, "application/octet-stream")))
        assert subject.plan.variants is not None
        for variant in subject.plan.variants.variants:
            part = f"plan:training_plan:{variant.dialect}"
            files.append((part, (part, variant.to_bytes(), "application/json")))
        answer = await self.web.post("/model-centric/host-training", files=files, headers=self.owner)
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def checkpoint(self, process: dict[str, Any], number: int) -> Params:
        async def found() -> Params | None:
            wanted = {"name": process["name"], "version": process["version"], "checkpoint": number}
            answer = await self.web.get("/model-centric/retrieve-model", params=wanted, headers=self.owner)
            return decode(answer.content)[0] if answer.status_code == 200 else None

        result: Params = await eventually(found)
        return result

    async def admit(self, process: dict[str, Any]) -> dict[str, Any]:
        """The answer to a new client of 2020 that requests the cycle."""
        names = {"model_name": process["name"], "model_version": process["version"]}
        client = (await self.web.post("/model-centric/authenticate", json=names)).json()
        asked = {"worker_id": client["worker_id"], "model": process["name"], "version": process["version"]}
        found: dict[str, Any] = (await self.web.post("/model-centric/cycle-request", json=asked)).json()
        return found

    async def check_two(self, subject: Subject, name: str, run: RunTasks, scheme: str = "http") -> None:
        """Two clients train in one cycle; the served average is ``old - mean(diffs)``."""
        process = await self.host(subject, name)
        batches = [subject.batches(seed) for seed in (1, 2)]
        results = await run([task(self.url.replace("http", scheme), process, one) for one in batches])
        assert [one["events"] for one in results] == [["accepted", "reported"]] * 2, results
        diffs = [subject.diff(one) for one in batches]
        mean = {key: np.mean([diff[key] for diff in diffs], axis=0) for key in subject.weights}
        average = await self.checkpoint(process, 2)
        assert_same_diff({key: subject.weights[key] - average[key] for key in mean}, mean)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[PublishedSite]:
    app = build_domain(load_settings({}, data_dir=tmp_path / "data", id="test"))
    async with serving(app, idle_s=75) as (_, port):
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=url, timeout=180) as web:
            yield PublishedSite(url, web, await People(web).owner())


def assert_same_diff(found: Params, right: Params) -> None:
    """To 1e-4 of the largest element of each array."""
    for name, array in right.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-4 * np.abs(array).max(), err_msg=name)
