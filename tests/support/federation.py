"""A coordinating Domain on a socket of this machine, and Domains with data whose jobs take part in its process."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import jwt
import uvicorn
from litestar import Litestar

from pygrid.domain import DomainTimings, build_domain
from pygrid.features.jobs.federated.participation import ParticipationTimings
from pygrid.settings import load_settings
from pygrid.tensors import Params, decode
from support.eventually import eventually
from support.jobs import MODEL, PLAN, POLICY, Person, Site, records, running_site
from support.training import form
from support.web import People

PROCESS = {"process": "shared", "version": "1"}
QUICK_TIMINGS = DomainTimings(ParticipationTimings(connect_patience_s=0.2, max_backoff_s=0.3))
QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 30, "hyper": {"lr": 0.1}}
PRIVATE: dict[str, Any] = {**QUICK, "privacy": {"epsilon": 2.0, "delta": 1e-6}}
LONG: dict[str, Any] = {"epochs": 1500, "batch_size": 10, "privacy": {"epsilon": 2.0, "delta": 1e-6}}
"""Half a minute of training and more, and not so much that a busy machine refuses it as too slow."""


@asynccontextmanager
async def serving(app: Any, port: int = 0) -> AsyncIterator[str]:
    """The address at which an app answers for the length of the block, in this event loop."""
    # A connection that a client uses again must not end in that moment.
    times = {"timeout_graceful_shutdown": 1, "timeout_keep_alive": 60}
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", **times)
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())

    def is_started() -> bool:
        assert not running.done(), running.result()
        return server.started

    await eventually(is_started)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        if isinstance(app, Litestar):
            app.state.stopping.set()
        server.should_exit = True
        await running


@dataclass
class Hub:
    """The coordinating Domain and its Owner."""

    app: Litestar
    url: str
    owner: Person
    secret: str

    def request(self, name: str, cycles: int, **changes: Any) -> dict[str, Any]:
        """The ``federation`` of a job, with a token in which the Domain has this name."""
        token = jwt.encode({"sub": name}, self.secret, "HS256")
        return {"coordinator": self.url, **PROCESS, "cycles": cycles, "auth_token": token, **changes}

    async def host(self, name: str = "shared", **changes: Any) -> dict[str, Any]:
        config = {
            "cycle_length": 60,
            "num_cycles": 3,
            "min_workers": 2,
            "min_diffs": 2,
            "max_diffs": 2,
            "named_clients": True,
        }
        sent = {
            "client_config": {"name": name, "version": "1"},
            "server_config": {**config, "authentication": {"secret": self.secret}, **changes},
        }
        answer = await self.owner.call(
            "POST", "/model-centric/host-training", files=form(json.dumps(sent).encode(), MODEL)
        )
        assert answer.status_code == 201, answer.text
        process: dict[str, Any] = answer.json()
        return process

    async def get(self, process: dict[str, Any], what: str = "") -> dict[str, Any]:
        answer = await self.owner.call("GET", f"/model-centric/processes/{process['id']}{what}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def contributions(self, process: dict[str, Any]) -> list[tuple[int, str]]:
        """Cycle and name of each report."""
        found = (await self.get(process, "/contributions"))["contributions"]
        return sorted((one["cycle"], one["client"]) for one in found)

    async def until(self, process: dict[str, Any], *, completed: int, seconds: float = 60) -> dict[str, Any]:
        """The process once so many cycles are completed."""

        async def is_there() -> dict[str, Any] | None:
            found = await self.get(process)
            return found if found["num_checkpoints"] > completed else None

        found: dict[str, Any] = await eventually(is_there, seconds)
        return found

    async def model(self, number: int | str = "latest") -> Params:
        wanted = {"name": "shared", "version": "1", "checkpoint": number}
        answer = await self.owner.call("GET", "/model-centric/retrieve-model", params=wanted)
        assert answer.status_code == 200, answer.text
        return decode(answer.content)[0]


@asynccontextmanager
async def running_hub(folder: Path, secret: str | None = None, port: int = 0, **settings: Any) -> AsyncIterator[Hub]:
    """A coordinating Domain; with the secret of an earlier run, the same one again."""
    app = build_domain(load_settings({}, data_dir=folder, id="hub", **settings))
    async with serving(app, port) as url, httpx.AsyncClient(base_url=url, timeout=180) as web:
        people = People(web)
        owner = await (people.owner() if secret is None else people.log_in("owner@example.org"))
        yield Hub(app, url, Person(web, owner), secret or secrets.token_hex(32))


@dataclass
class Town:
    """A coordinator and Domains with data, by name."""

    hub: Hub
    sites: dict[str, Site] = field(default_factory=dict)
    datasets: dict[str, int] = field(default_factory=dict)

    async def submit(self, name: str, cycles: int = 3, **request: Any) -> dict[str, Any]:
        """A federated job at a Domain."""
        federation = self.hub.request(name, cycles, **request.pop("federation", {}))
        return await self.sites[name].scientist.submit(self.datasets[name], federation=federation, **request)

    async def wait(self, name: str, job: dict[str, Any], *states: str, seconds: float = 60) -> dict[str, Any]:
        """What the owner sees of a job once it is in one of the states."""
        return await self.sites[name].owner.wait(job["id"], *states, seconds=seconds)


@asynccontextmanager
async def running_town(
    folder: Path, *names: str, hub: Hub | None = None, settings: dict[str, Any] | None = None, **policy: Any
) -> AsyncIterator[Town]:
    """Each Domain has a dataset of its own and, unless ``policy`` says otherwise, lets private jobs pass; ``hub``: one
    that runs already.
    """
    async with AsyncExitStack() as stack:
        town = Town(hub or await stack.enter_async_context(running_hub(folder / "hub")))
        for seed, name in enumerate(names):
            site = await stack.enter_async_context(
                running_site(settings_of(folder, name, **(settings or {})), QUICK_TIMINGS)
            )
            town.sites[name] = site
            town.datasets[name] = await site.owner.upload(arrays=records(200 + 20 * seed, seed))
            await site.owner.set_policy(town.datasets[name], **{**POLICY, **policy})
        yield town


async def until_doing(site: Site, job: dict[str, Any], words: str) -> dict[str, Any]:
    """What the owner sees of a job once that tells that it does this."""

    async def does() -> dict[str, Any] | None:
        found = await site.owner.job(job["id"])
        assert found["state"] in ("checking", "approved", "running"), found
        return found if words in found["federation"]["doing"] else None

    found: dict[str, Any] = await eventually(does)
    return found


def settings_of(folder: Path, name: str, **more: Any) -> Any:
    return load_settings({}, data_dir=folder / name, id=name, num_workers=1, **more)


__all__ = [
    "LONG",
    "PLAN",
    "PRIVATE",
    "QUICK",
    "QUICK_TIMINGS",
    "Hub",
    "Town",
    "running_hub",
    "running_town",
    "serving",
    "settings_of",
]
