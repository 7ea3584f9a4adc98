"""A Domain under training: what a model owner and devices send it over HTTP, and what a test reads back."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from litestar import Litestar

from pygrid.clock import ManualClock
from pygrid.domain import build_domain
from pygrid.features.cycles.scheduler import CycleScheduler
from pygrid.plans.gate import GateReport, check
from pygrid.plans.variants import Variant, VariantPlan, read_variant
from pygrid.settings import DomainSettings, load_settings
from pygrid.syft import PlanMessage, write_plan
from pygrid.tensors import Params, decode, encode
from pygrid.web.services import service
from support.eventually import eventually, turns
from support.plans.handmade import logistic_plan
from support.web import People, running

Form = list[tuple[str, tuple[str, bytes, str]]]


def model(value: float = 1.0, wide: int = 0) -> Params:
    """The logistic plan's arrays, all of one value, whose sums and quotients by powers of two are exact.

    Args:
        wide: features of the plan, instead of 4.
    """
    return {"weight": np.full((3, wide or 4), value, np.float32), "bias": np.full(3, value, np.float32)}


PLAN = logistic_plan().data


@cache
def wide_plan(features: int) -> bytes:
    """A plan whose model has so many features."""
    return logistic_plan(features=features).data


@cache
def _check_once(data: bytes) -> GateReport:
    return check(data)


async def gate_in_process(data: bytes) -> GateReport:
    """The gate without its child process, and once for each plan, as many tests host the same one."""
    return _check_once(data)


@cache
def opaque_variant(plan: bytes, batch_size: int = 8) -> bytes:
    """A variant that a Domain cannot look into, for tests in which no client trains with it."""
    data = write_plan(PlanMessage("training_plan", torchscript=b"TorchScript"))
    plan_id = hashlib.sha256(plan).hexdigest()
    return Variant(1, plan_id, "torchscript", (VariantPlan(batch_size, data),)).to_bytes()


async def read_variant_alone(_plan: bytes, variant: bytes) -> None:
    """In place of the check of a variant: it is only read."""
    read_variant(variant)


def form(
    config: Mapping[str, Any] | bytes,
    model_bytes: bytes,
    plans: Mapping[str, bytes] | None = None,
    averaging_plan: bytes | None = None,
) -> Form:
    """The parts of the form that hosts a process."""
    text = config if isinstance(config, bytes) else json.dumps(config).encode()
    parts = [
        ("config", ("config", text, "application/json")),
        ("model", ("model", model_bytes, "application/octet-stream")),
    ]
    for name, data in ({"training_plan": PLAN} if plans is None else plans).items():
        parts.append((f"plan:{name}", (name, data, "application/octet-stream")))
    if averaging_plan is not None:
        parts.append(("averaging_plan", ("averaging_plan", averaging_plan, "application/octet-stream")))
    return parts


def config(name: str = "digits", version: str = "1.0", **server_config: Any) -> dict[str, Any]:
    """The ``config`` part; by default one cycle after the other, each as long as a minute, closed by its second
    report.
    """
    defaults = {"cycle_length": 60, "num_cycles": 3, "max_diffs": 2}
    return {
        "client_config": {"name": name, "version": version, "lr": 0.1, "batch_size": 8},
        "server_config": {**defaults, **server_config},
    }


class Device:
    """An edge client of one process."""

    def __init__(self, site: Site, process: dict[str, Any], worker_id: str) -> None:
        self._site = site
        self.process = process
        self.worker_id = worker_id
        self.key = ""
        self.accepted: dict[str, Any] = {}

    async def ask(self, wait_s: float | None = 0, **more: Any) -> dict[str, Any]:
        """The answer to a request for a cycle; a key that came with it is kept.

        ``wait_s`` None: as a client of 2020.
        """
        message = {
            "worker_id": self.worker_id,
            "model": self.process["name"],
            "version": self.process["version"],
            **more,
        }
        if wait_s is not None:
            message["wait_s"] = wait_s
        answer = await self._site.web.post("/model-centric/cycle-request", json=message)
        assert answer.status_code == 200, answer.text
        decoded: dict[str, Any] = answer.json()
        if decoded["status"] == "accepted":
            self.key, self.accepted = decoded["request_key"], decoded
        return decoded

    async def join(self, **more: Any) -> Device:
        """Itself, once it takes part in a cycle."""
        answer = await self.ask(**more)
        assert answer["status"] == "accepted", answer
        return self

    async def send(self, diff: Mapping[str, npt.NDArray[Any]] | bytes, **metadata: Any) -> httpx.Response:
        """The answer to a report of these arrays, or of these bytes."""
        texts = {name.replace("metric_", "metric."): str(value) for name, value in metadata.items()}
        data = diff if isinstance(diff, bytes) else encode(diff, texts)
        return await self._site.web.post("/model-centric/report", content=data, headers=bearer(self.key))

    async def report(self, value: float = 0.5, **metadata: Any) -> None:
        """Hand in a diff whose values are all ``value``; it must be accepted."""
        answer = await self.send(model(value), **metadata)
        assert (answer.status_code, answer.json()) == (200, {"status": "success"}), answer.text


def scope(method: str, path: str, headers: list[tuple[bytes, bytes]]) -> Any:
    """What a server hands to the app for a request, for tests that are the server: of connections that break, or never
    end.
    """
    path, _, query = path.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("test", 80),
    }


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


class Site:
    """A running Domain, its Owner, and the clock."""

    def __init__(
        self, app: Litestar, web: httpx.AsyncClient, clock: ManualClock, folder: Path, owner: dict[str, str]
    ) -> None:
        self.app = app
        self.web = web
        self.clock = clock
        self.folder = folder
        self.owner = owner

    async def try_host(self, parts: Form, headers: dict[str, str] | None = None) -> httpx.Response:
        return await self.web.post(
            "/model-centric/host-training", files=parts, headers=self.owner if headers is None else headers
        )

    async def host(
        self,
        *,
        start: Params | None = None,
        plans: Mapping[str, bytes] | None = None,
        averaging_plan: bytes | None = None,
        name: str = "digits",
        version: str = "1.0",
        published: bool = False,
        **server_config: Any,
    ) -> dict[str, Any]:
        """A process that was hosted now; its model is all ones.

        Args:
            published: clients of 2020 can take part.
        """
        parts = form(config(name, version, **server_config), encode(start or model()), plans, averaging_plan)
        if published:
            part = "plan:training_plan:torchscript"
            parts.append((part, (part, opaque_variant((plans or {}).get("training_plan", PLAN)), "application/json")))
        answer = await self.try_host(parts)
        assert answer.status_code == 201, answer.text
        process: dict[str, Any] = answer.json()
        return process

    async def device(self, process: dict[str, Any], **more: Any) -> Device:
        """A new client of a process."""
        message = {"model_name": process["name"], "model_version": process["version"], **more}
        answer = await self.web.post("/model-centric/authenticate", json=message)
        assert answer.status_code == 200, answer.text
        return Device(self, process, answer.json()["worker_id"])

    async def devices(self, process: dict[str, Any], count: int) -> list[Device]:
        """So many clients that take part in the current cycle."""
        return [await (await self.device(process)).join() for _ in range(count)]

    async def cycles(self, process: dict[str, Any]) -> list[dict[str, Any]]:
        answer = await self.web.get(f"/model-centric/processes/{process['id']}/cycles", headers=self.owner)
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["cycles"]
        return found

    async def cycle(self, process: dict[str, Any]) -> dict[str, Any]:
        """The newest cycle of a process."""
        return (await self.cycles(process))[-1]

    async def checkpoint(self, process: dict[str, Any], number: int | str = "latest") -> Params:
        """The arrays of a checkpoint."""
        wanted = {"name": process["name"], "version": process["version"], "checkpoint": number}
        answer = await self.web.get("/model-centric/retrieve-model", params=wanted, headers=self.owner)
        assert answer.status_code == 200, answer.text
        return decode(answer.content)[0]

    async def num_checkpoints(self, process: dict[str, Any]) -> int:
        answer = await self.web.get(f"/model-centric/processes/{process['id']}", headers=self.owner)
        number: int = answer.json()["num_checkpoints"]
        return number

    async def pass_time(self, seconds: float) -> None:
        """Let the clock go on, and the scheduler do what is due."""
        self.clock.advance(seconds)
        service(self.app.state, CycleScheduler).wake()
        await turns()

    async def until_completed(self, process: dict[str, Any], sequence: int = 1) -> dict[str, Any]:
        """A cycle, once it is completed and the scheduler has heard of it."""

        async def completed() -> dict[str, Any] | None:
            current = service(self.app.state, CycleScheduler).current.get(process["id"])
            if current is not None and current.sequence <= sequence:
                return None
            found = [c for c in await self.cycles(process) if c["sequence"] == sequence and c["state"] == "completed"]
            return found[0] if found else None

        cycle: dict[str, Any] = await eventually(completed)
        return cycle

    def diff_files(self) -> list[Path]:
        """Files of reports, without the segments, which small reports share."""
        return [path for path in (self.folder / "diffs").rglob("*") if path.is_file() and path.suffix != ".segment"]

    def partial_files(self) -> list[Path]:
        """Files that an upload began and did not finish."""
        return [path for path in self.folder.rglob("*.part") if path.is_file()]


@asynccontextmanager
async def running_site(app: Litestar, clock: ManualClock, folder: Path, owner: dict[str, str]) -> AsyncIterator[Site]:
    """A Domain that runs for the length of the block; ``owner``: the headers of its Owner's session."""
    async with running(app) as web:
        yield Site(app, web, clock, folder, owner)


def assert_values(arrays: Params, value: float) -> None:
    """Every value of a checkpoint is this one, exactly."""
    for name, array in arrays.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, np.float32(value), err_msg=name)


@pytest.fixture(scope="session")
def owned_folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The data folder of a Domain that was stopped, and the headers of its Owner's session; tests copy it."""
    folder = tmp_path_factory.mktemp("owned") / "data"
    app = build_domain(load_settings({}, data_dir=folder, id="test"), clock=ManualClock())

    async def sign_up() -> dict[str, str]:
        async with running(app) as web:
            return await People(web).owner()

    return folder, asyncio.run(sign_up())


@pytest.fixture
async def site(
    owned_folder: tuple[Path, dict[str, str]],
    settings: DomainSettings,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Site]:
    """A Domain with its Owner logged in; the gate of plans runs in this process, as it is not what is tested here."""
    monkeypatch.setattr("pygrid.features.processes.hosting.check_async", gate_in_process)
    monkeypatch.setattr("pygrid.plans.dialects.check.check_async", read_variant_alone)
    folder, owner = owned_folder
    shutil.copytree(folder, settings.data_dir)
    async with running_site(build_domain(settings, clock=clock), clock, settings.data_dir, owner) as running_now:
        yield running_now


@pytest.fixture
def site_people(site: Site) -> People:
    """Makes accounts on the Domain of `site`."""
    return People(site.web)
