"""A Domain on a real socket, whose process waits for large reports of devices of 2020."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from pygrid.domain import build_domain
from pygrid.settings import load_settings
from pygrid.syft import PlanMessage, write_plan, write_state
from pygrid.web.server import AppServer
from support.web import People, serving

NUM_DEVICES = 20
NUM_VALUES = 270_000
"""A model of 1.1 MB, so its reports of 1.4 MB go through files."""
LIMIT = 1024 * 1024
"""Bytes that an address may hold. All reports together have 28 times as many."""


@dataclass
class Round:
    """A Domain whose process waits for the reports of `NUM_DEVICES` devices."""

    web: httpx.AsyncClient
    port: int
    server: AppServer
    state: Any
    owner: dict[str, str]

    async def device(self) -> dict[str, str]:
        """The id and the key of a device that was admitted."""
        named = {"model_name": "large", "model_version": "1.0"}
        worker_id = (await self.web.post("/model-centric/authenticate", json=named)).json()["worker_id"]
        asked = {"worker_id": worker_id, "model": "large", "version": "1.0"}
        accepted = (await self.web.post("/model-centric/cycle-request", json=asked)).json()
        return {"worker_id": worker_id, "request_key": accepted["request_key"]}

    async def post(self, body: dict[str, str]) -> httpx.Response:
        """The answer to a report over a connection of its own."""
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", timeout=120) as web:
            return await web.post("/model-centric/report", json=body)

    async def num_reports(self) -> int:
        (process,) = (await self.web.get("/model-centric/processes", headers=self.owner)).json()["processes"]
        path = f"/model-centric/processes/{process['id']}/cycles"
        found: int = (await self.web.get(path, headers=self.owner)).json()["cycles"][-1]["num_reports"]
        return found


@pytest.fixture
async def started(tmp_path: Path) -> AsyncIterator[Round]:
    app = build_domain(load_settings({}, data_dir=tmp_path / "data", id="test"))
    form = {
        "model": write_state([np.zeros(NUM_VALUES, np.float32)]).hex(),
        "plans": {"training_plan:ts": write_plan(PlanMessage("training_plan", torchscript=b"opaque")).hex()},
        "client_config": {"name": "large", "version": "1.0"},
        "server_config": {"cycle_length": 3600, "num_cycles": 2, "max_diffs": 1000},
    }
    async with (
        serving(app, held_bytes_per_address=LIMIT) as (server, port),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as web,
    ):
        owner = await People(web).owner()
        hosted = await web.post("/model-centric/host-training", json=form, headers=owner)
        assert hosted.status_code == 201, hosted.text
        yield Round(web, port, server, app.state, owner)


def diff(value: float = 0.5, num_values: int = NUM_VALUES) -> str:
    return base64.b64encode(write_state([np.full(num_values, value, np.float32)])).decode()
