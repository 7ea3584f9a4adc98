"""Metrics of what a Domain holds, and the dashboard that shows them.

Should happen: jobs, budgets, Workers, datasets and the disk are measured; each metric of the dashboard exists, with its
labels.
Should not happen: a metric names a dataset or a person; others than the operator's monitoring read the metrics.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import httpx
import pytest

from pygrid.domain import build_domain
from pygrid.errors import InvalidConfig
from pygrid.features.monitoring import budget_state
from pygrid.settings import DomainSettings, load_settings
from support.eventually import eventually
from support.jobs import running_site
from support.web import running

DASHBOARD = Path(__file__).parents[2] / "apps" / "monitoring" / "grafana-domain.json"
COUNT = {"statistics": [{"kind": "count"}]}


async def _values(web: httpx.AsyncClient) -> dict[str, float]:
    text = (await web.get("/metrics")).text
    return {name: float(value) for name, value in re.findall(r"^([^#\s]+(?:{[^}]*})?) (\S+)$", text, re.MULTILINE)}


async def test_what_is_stored_is_measured(settings: DomainSettings) -> None:
    async with running_site(settings) as site:
        dataset = await site.owner.upload()
        job = await site.scientist.submit(dataset, "statistics", **COUNT)
        await site.owner.wait(job["id"], "waiting")
        made = await site.web.post("/data-centric/workers", json={"name": "remote"}, headers=site.owner.headers)
        assert made.status_code == 201, made.text
    # The start of a Domain measures at once.
    async with running(build_domain(settings)) as web:

        async def is_measured() -> bool:
            return (await _values(web)).get('pygrid_jobs{state="waiting"}') == 1

        await eventually(is_measured)
        found = await _values(web)
    assert (found["pygrid_datasets"], found["pygrid_workers_authorized"], found["pygrid_workers_connected"]) == (
        1,
        1,
        0,
    )
    assert found["pygrid_dataset_bytes"] > 0
    assert found['pygrid_jobs{state="running"}'] == 0
    assert found['pygrid_job_places_free{pool="local"}'] == 2
    assert found["pygrid_disk_bytes"] > found["pygrid_disk_free_bytes"] > 0
    assert not [name for name in found if "patients" in name or "@" in name]


async def test_strangers_read_no_metrics(settings: DomainSettings) -> None:
    """They reveal sizes of private datasets, and when a private job ends."""
    by_proxy = {"X-Forwarded-For": "127.0.0.1"}
    async with running(app := build_domain(dataclasses.replace(settings, metrics_from="::1,203.0.113.0/24"))):
        for address, headers, status in (
            ("203.0.113.7", {}, 200),
            ("::ffff:203.0.113.7", {}, 200),
            ("::1", {}, 200),
            ("203.0.113.7", by_proxy, 403),
            ("203.0.113.7", {"Forwarded": "for=127.0.0.1"}, 403),
            ("203.0.113.7", {"Via": "1.1 proxy"}, 403),
            ("198.51.100.7", {}, 403),
            ("127.0.0.1", {}, 403),
            ("relayed:203.0.113.7", {}, 403),
            ("", {}, 403),
        ):
            transport = httpx.ASGITransport(app, client=(address, 1))  # type: ignore[arg-type]
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as web:
                for method in ("GET", "HEAD"):
                    answer = await web.request(method, "/metrics", headers=headers)
                    assert answer.status_code == status, (address, headers)
    assert load_settings({}).metrics_from == "127.0.0.0/8,::1"
    with pytest.raises(InvalidConfig, match="PYGRID_METRICS_FROM"):
        load_settings({}, metrics_from="prometheus.example")


@pytest.mark.parametrize(("share", "state"), [(0, "open"), (0.8, "open"), (0.81, "nearly_spent"), (1.0, "spent")])
def test_states_of_budgets(share: float, state: str) -> None:
    assert budget_state(share) == state


async def test_each_metric_of_the_dashboard_exists(web: httpx.AsyncClient) -> None:
    await web.get("/healthz")
    known = json.loads((Path(__file__).parents[1] / "snapshots" / "metrics.json").read_text())["domain"]
    rendered = (await web.get("/metrics")).text
    dashboard = json.loads(DASHBOARD.read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(expressions) > 20
    for expression in expressions:
        for name, labels in re.findall(r"((?:pygrid|process)_\w+){([^}]*)}", expression):
            family = re.sub(r"_(total|bucket|sum|count)$", "", name)
            assert family in known or f"# TYPE {name} " in rendered, name
            used = set(re.findall(r"(\w+)[=!]~?\"", labels)) | set(re.findall(r"by \(([^)]*)\)", expression))
            allowed = {"job", "le", *known.get(family, {}).get("labels", [])}
            assert used <= allowed, (expression, used - allowed)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
