"""Domains with public and other things on them, for searches."""

from __future__ import annotations

import json
from typing import Any

import httpx
import numpy as np

from pygrid.tensors import encode
from support.plans.handmade import logistic_plan
from support.plans.models import SERVE, form, linear
from support.web import People

MODEL = {"weight": np.ones((3, 4), np.float32), "bias": np.ones(3, np.float32)}
CSV = b"name,age\nann,30\nbob,41\ncleo,52\n"


class Holder:
    """The Owner of a Domain, who puts things there."""

    def __init__(self, web: httpx.AsyncClient, headers: dict[str, str]) -> None:
        self.web = web
        self.headers = headers

    @classmethod
    async def first(cls, web: httpx.AsyncClient) -> Holder:
        return cls(web, await People(web).owner())

    async def upload(self, name: str, data: bytes = CSV, **config: Any) -> dict[str, Any]:
        """A new dataset, public unless it is said."""
        text = json.dumps({"visibility": "public", "draw_mock": False, **config, "name": name}).encode()
        files = [("config", ("c", text, "application/json")), ("data", ("d", data, "application/octet-stream"))]
        answer = await self.web.post("/data-centric/datasets", files=files, headers=self.headers)
        assert answer.status_code == 201, answer.text
        info: dict[str, Any] = answer.json()
        return info

    async def change(self, dataset: dict[str, Any], **changes: Any) -> None:
        answer = await self.web.put(f"/data-centric/datasets/{dataset['id']}", json=changes, headers=self.headers)
        assert answer.status_code == 200, answer.text

    async def delete(self, path: str) -> None:
        answer = await self.web.delete(f"/data-centric/{path}", headers=self.headers)
        assert answer.status_code == 204, answer.text

    async def serve(self, model_id: str, model: bytes | None = None, **config: Any) -> dict[str, Any]:
        """A new model, public unless it is said."""
        config = {"visibility": "public", "allow_remote_inference": True, **config}
        answer = await self.web.post(SERVE, files=form(model or linear(), model_id, **config), headers=self.headers)
        assert answer.status_code == 200, answer.text
        info: dict[str, Any] = answer.json()["model"]
        return info

    async def host(self, name: str, version: str = "1.0", **server_config: Any) -> dict[str, Any]:
        """A new process."""
        plan = logistic_plan()
        config = {
            "client_config": {"name": name, "version": version},
            "server_config": {"cycle_length": 60, "num_cycles": 1, "max_diffs": 1, **server_config},
        }
        files = [
            ("config", ("c", json.dumps(config).encode(), "application/json")),
            ("model", ("m", encode(MODEL), "application/octet-stream")),
            ("plan:training_plan", ("p", plan.data, "application/octet-stream")),
        ]
        answer = await self.web.post("/model-centric/host-training", files=files, headers=self.headers)
        assert answer.status_code == 201, answer.text
        info: dict[str, Any] = answer.json()
        return info
