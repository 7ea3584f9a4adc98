"""HEAD of each route that has GET.

Should happen: the status and the headers of GET, of a download with its length and its ``ETag``.
Should not happen: a body; a stream that stays open; a HEAD for a caller whom GET refuses.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from litestar import Litestar
from litestar.routes import HTTPRoute

from pygrid.clock import ManualClock
from pygrid.network import build_network
from pygrid.settings import load_network_settings
from support.training import Site, gate_in_process, read_variant_alone
from support.web import People, running, serving

EACH_TIME = {"x-request-id", "date", "content-length", "set-cookie"}
"""Headers that differ between two answers; a problem document with a log id has another length."""


def same(head: httpx.Response, get: httpx.Response, *, exact: bool = True) -> bool:
    dropped = EACH_TIME - ({"content-length"} if exact else set())
    left, right = ({k: v for k, v in one.headers.items() if k not in dropped} for one in (head, get))
    return not head.content and (head.status_code, left) == (get.status_code, right)


@pytest.fixture
def apps(domain: Litestar, tmp_path: Path) -> list[Litestar]:
    return [domain, build_network(load_network_settings({}, data_dir=tmp_path / "net", id="net"))]


async def test_each_route(apps: list[Litestar]) -> None:
    wrong, num_routes = [], 0
    for app in apps:
        async with running(app) as web:
            owner = await People(web).owner()
            for route in app.routes:
                if not isinstance(route, HTTPRoute) or "GET" not in route.methods:
                    continue
                path = route.path_format
                for part in route.path_components:
                    if not isinstance(part, str):
                        path = path.replace(f"{{{part.name}}}", "9")
                for headers in ({}, owner):
                    head = await web.head(path, headers=headers)
                    if "event-stream" in head.headers.get("content-type", ""):
                        continue  # GET has no end; HEAD had one
                    get = await web.get(path, headers=headers)
                    num_routes += 1
                    if not same(head, get, exact=False):
                        wrong.append((path, head.status_code, get.status_code, head.headers, get.headers))
    assert not wrong, "\n".join(map(str, wrong))
    assert num_routes > 150


@pytest.fixture
async def site(domain: Litestar, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    """A Domain on a socket: a server cuts the body of an answer to HEAD, too, and must not miss it."""
    monkeypatch.setattr("pygrid.features.processes.hosting.check_async", gate_in_process)
    monkeypatch.setattr("pygrid.plans.dialects.check.check_async", read_variant_alone)
    async with (
        serving(domain) as (_, port),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as web,
    ):
        yield Site(domain, web, clock, Path(), await People(web).owner())


async def test_downloads(site: Site) -> None:
    web = site.web
    process = await site.host(published=True)
    device = await (await site.device(process)).join()
    native = {"Authorization": f"Bearer {device.key}"}
    of_2020 = {"worker_id": device.worker_id, "request_key": device.key}
    model, plan = device.accepted["model_id"], device.accepted["plans"]["training_plan"]
    name = {"name": process["name"]}
    downloads: list[tuple[str, dict[str, Any], dict[str, str]]] = [
        ("get-model", {"model_id": model}, native),
        ("get-model", {**of_2020, "model_id": model}, {}),
        ("get-plan", {"plan_id": plan}, native),
        ("get-plan", {**of_2020, "plan_id": plan, "receive_operations_as": "torchscript"}, {}),
        ("retrieve-model", name, site.owner),
        ("retrieve-model", {**name, "format": "state"}, site.owner),
        ("speed-test", {"worker_id": "w", "random": "0.5", "size_bytes": 9_000_000}, {}),
        ("speed-test", {"worker_id": "w", "random": "0.5", "is_ping": 1}, {}),
    ]
    for path, query, headers in downloads:
        for more in ({}, {"Range": "bytes=1-3"}):
            got = await web.get(f"/model-centric/{path}", params=query, headers={**headers, **more})
            head = await web.head(f"/model-centric/{path}", params=query, headers={**headers, **more})
            assert same(head, got), (path, head.headers, got.headers)
            assert (got.status_code, int(head.headers["content-length"])) in ((200, len(got.content)), (206, 3))
    cached = await web.head("/model-centric/get-model", params={"model_id": model}, headers=native)
    native["If-None-Match"] = cached.headers["etag"]
    assert (await web.head("/model-centric/get-model", params={"model_id": model}, headers=native)).status_code == 304
    wrong = await web.head("/model-centric/get-model", params={**of_2020, "request_key": "x", "model_id": model})
    assert wrong.status_code == 401
    events = await web.head(f"/model-centric/processes/{process['id']}/events", headers=site.owner)
    assert (events.status_code, events.content) == (200, b"")
    # Each answer above left the connection usable: this one comes over it, too.
    assert (await web.get("/healthz")).json() == {"status": "ok"}
    assert (await site.web.head("/users/login")).status_code == 405
