"""A Domain with data, its holder, an officer who triages, and scientists who ask for jobs over HTTP."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
from litestar import Litestar

from pygrid.domain import DomainTimings, build_domain
from pygrid.settings import DomainSettings, load_settings
from pygrid.storage.setup_code import find_setup_code
from pygrid.tensors import encode
from support.eventually import eventually
from support.plans.handmade import logistic_params, logistic_plan
from support.web import People, running

JOBS = "/data-centric/jobs"
DATASETS = "/data-centric/datasets"
PLAN = logistic_plan().data
MODEL = encode(logistic_params())
BINDING = {"x": "features", "y": "label"}
ENDED = {"released", "rejected", "denied", "revoked", "cancelled", "failed"}
NUM_RECORDS = 300
PRIVATE = {"epsilon": 1.0, "delta": 1e-6}
POLICY = {"epsilon": 8.0, "delta": 1e-6, "epsilon_per_user": 4.0, "auto_approve": True}


def records(size: int = NUM_RECORDS, seed: int = 3) -> dict[str, npt.NDArray[Any]]:
    """Three groups of points that can be told apart, with a text and a number beside them."""
    generator = np.random.default_rng(seed)
    label = generator.integers(0, 3, size)
    features = generator.normal(size=(size, 4)).astype(np.float32) + 2 * np.eye(3, 4, dtype=np.float32)[label]
    return {
        "features": features,
        "label": label.astype(np.int64),
        "age": generator.uniform(20, 80, size).astype(np.float32),
        "town": np.array(["Bern", "Chur", "Wil"])[generator.integers(0, 3, size)],
    }


def npz(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@dataclass
class Person:
    """Somebody who is logged in."""

    web: httpx.AsyncClient
    headers: dict[str, str]

    async def call(self, verb: str, path: str, **more: Any) -> httpx.Response:
        return await self.web.request(verb, path, headers=self.headers, **more)

    async def upload(self, name: str = "points", arrays: Mapping[str, Any] | None = None, **config: Any) -> int:
        """The id of a new dataset, which everybody with an account sees."""
        data = records() if arrays is None else arrays
        columns = [{"name": "label", "meaning": "label 0..2"}] if "label" in data else []
        sent = {"name": name, "visibility": "listed", "columns": columns, **config}
        files = {"config": json.dumps(sent).encode(), "data": npz(data)}
        answer = await self.call("POST", DATASETS, files=files)
        assert answer.status_code == 201, answer.text
        return int(answer.json()["id"])

    async def set_policy(self, dataset: int, **changes: Any) -> dict[str, Any]:
        answer = await self.call("PUT", f"{DATASETS}/{dataset}/policy", json={**POLICY, **changes})
        assert answer.status_code == 200, answer.text
        policy: dict[str, Any] = answer.json()
        return policy

    async def try_submit(
        self,
        dataset: int,
        kind: str = "train",
        *,
        plan: bytes | None = PLAN,
        model: bytes | None = MODEL,
        **config: Any,
    ) -> httpx.Response:
        request = {"dataset": dataset, "kind": kind, "reason": "a test", **config}
        if kind != "statistics":
            request = {"binding": BINDING, **request}
        files = {"config": json.dumps(request).encode()}
        if kind != "statistics" and plan is not None:
            files["plan"] = plan
        if kind != "statistics" and model is not None:
            files["model"] = model
        return await self.call("POST", JOBS, files=files)

    async def submit(self, dataset: int, kind: str = "train", **more: Any) -> dict[str, Any]:
        answer = await self.try_submit(dataset, kind, **more)
        assert answer.status_code == 201, answer.text
        job: dict[str, Any] = answer.json()
        assert job["state"] == "checking"
        return job

    async def job(self, job_id: str) -> dict[str, Any]:
        answer = await self.call("GET", f"{JOBS}/{job_id}")
        assert answer.status_code == 200, answer.text
        job: dict[str, Any] = answer.json()
        return job

    async def wait(self, job_id: str, *states: str, seconds: float = 40) -> dict[str, Any]:
        """The job once it is in one of the states."""

        async def is_there() -> dict[str, Any] | None:
            job = await self.job(job_id)
            if job["state"] in states:
                return job
            assert job["state"] not in ENDED, job
            return None

        job: dict[str, Any] = await eventually(is_there, seconds)
        return job

    async def decide(self, what: str, job: dict[str, Any], **more: Any) -> httpx.Response:
        """A decision on the job as it was seen, its state included."""
        seen = {"state": job["state"]} if job["state"] in ("waiting", "held") else {}
        body = {"request_hash": job["request_hash"], **seen, **more}
        return await self.call("POST", f"{JOBS}/{job['id']}/{what}", json=body)

    async def approve(self, job: dict[str, Any], comment: str = "") -> dict[str, Any]:
        answer = await self.decide("approve", job, comment=comment)
        assert answer.status_code == 200, answer.text
        decided: dict[str, Any] = answer.json()
        return decided

    async def result(self, job_id: str) -> httpx.Response:
        return await self.call("GET", f"{JOBS}/{job_id}/result")

    async def budget(self, dataset: int) -> dict[str, Any]:
        answer = await self.call("GET", f"{DATASETS}/{dataset}/budget")
        assert answer.status_code == 200, answer.text
        budget: dict[str, Any] = answer.json()
        return budget


@dataclass
class Site:
    """A Domain that runs, and people on it."""

    app: Litestar
    web: httpx.AsyncClient
    owner: Person
    scientist: Person
    officer: Person
    stranger: Person
    people: People = field(repr=False)


Headers = dict[str, str]


@asynccontextmanager
async def running_site(settings: DomainSettings, timings: DomainTimings | None = None) -> AsyncIterator[Site]:
    """A new Domain with the owner of data, a scientist, a compliance officer and somebody else."""
    plain = load_settings({}, data_dir=settings.data_dir)
    is_plain = (settings.database_url, settings.host) == (plain.database_url, plain.host) and not settings.secret_key
    prepared: list[Headers] = []
    if is_plain and not settings.data_dir.exists():
        folder, prepared = await asyncio.to_thread(_prepared, int(time.monotonic() // _FRESH_S))
        await asyncio.to_thread(shutil.copytree, folder, settings.data_dir)
    app = build_domain(settings, timings=timings)
    async with running(app) as web:
        people = People(web)
        everybody = prepared or await _sign_up(settings, people)
        yield Site(app, web, *(Person(web, headers) for headers in everybody), people)  # type: ignore[arg-type, misc]


async def _sign_up(settings: DomainSettings, people: People) -> list[Headers]:
    code = find_setup_code(settings)
    owner = await people.owner(**({} if code is None else {"setup_code": code.read()}))
    others = (("scientist", 1), ("officer", 2), ("stranger", 1))
    return [owner, *[await people.with_role(role, owner, f"{name}@example.org") for name, role in others]]


_folders: list[Path] = []
_FRESH_S = 300
"""How long the sessions are used: for some acts the password must have been typed within 15 minutes."""


def remove_prepared() -> None:
    """Remove what `running_site` keeps for the next Domain; called when the session ends."""
    _prepared.cache_clear()
    while _folders:
        shutil.rmtree(_folders.pop())


@cache
def _prepared(period: int) -> tuple[Path, list[Headers]]:
    """The data folder of a Domain that was stopped, without its identity, and sessions of the four.

    Passwords are slow to hash: without this, that is half of the time of a short test.
    """
    folder = Path(tempfile.mkdtemp(prefix="pygrid-prepared-")) / "data"
    _folders.append(folder.parent)
    settings = load_settings({}, data_dir=folder)

    async def sign_up() -> list[Headers]:
        async with running(build_domain(settings)) as web:
            return await _sign_up(settings, People(web))

    everybody = asyncio.run(sign_up())
    for name in ("identity.pem", "lock"):
        (folder / name).unlink()
    return folder, everybody
