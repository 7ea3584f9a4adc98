"""The console of a Domain on PostgreSQL, and long lists on both engines.

Should happen: the page of a training shows the same on both; every row of a long list is on one page.
Should not happen: a statement that one engine refuses; a row that two pages show, or none.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import sqlalchemy as sa

from pygrid.clock import ManualClock
from pygrid.domain import build_domain
from pygrid.settings import load_settings
from pygrid.storage.cycles import cycles
from pygrid.storage.processes import checkpoints, processes
from pygrid.storage.store import Store
from pygrid.ui.console import Console
from pygrid.web.services import service
from support.console import Browser
from support.training import Site, gate_in_process, running_site
from support.web import People

NUM_ROWS = 10_000


def copy_process(connection: sa.Connection, num_rows: int) -> None:
    """Add copies of process 1, each with a cycle and a checkpoint, until there are so many."""
    for table, key in ((processes, "id"), (cycles, "process_id"), (checkpoints, "process_id")):
        newest = table.select().where(table.c[key] == 1).order_by(table.c.id.desc()).limit(1)
        row = dict(connection.execute(newest).mappings().one())
        if table is not processes:
            del row["id"]
        copies = [row | {key: number} for number in range(2, num_rows + 1)]
        if table is processes:
            copies = [copy | {"name": f"process-{copy['id']}"} for copy in copies]
        connection.execute(table.insert(), copies)


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
async def test_a_training_and_a_long_list(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pygrid.features.processes.hosting.check_async", gate_in_process)
    url = request.getfixturevalue("postgres_url") if engine == "postgresql" else ""
    settings = load_settings({}, data_dir=tmp_path / "data", id="test", **({"database_url": url} if url else {}))
    app = build_domain(settings, clock=clock)
    async with running_site(app, clock, tmp_path, {}) as site:
        site.owner = await People(site.web).owner()
        await _check_training(site)
        await service(app.state, Store).database.write(lambda connection: copy_process(connection, NUM_ROWS))
        ann = _browser(site)
        path, seen = "/admin/processes", list[int]()
        for _ in range(3):
            page = await ann.page(path)
            seen += [int(number) for number in re.findall(r'href="/admin/processes/(\d+)"', page.html)]
            (path,) = [one["href"] for one in page.find("a", rel="next")]
        assert seen == list(range(NUM_ROWS, NUM_ROWS - 300, -1))
        page = await ann.page("/admin/processes?before=101")
        assert re.findall(r'href="/admin/processes/(\d+)"', page.html) == [str(number) for number in range(100, 0, -1)]
        assert not page.find("a", rel="next")
        found = await ann.page("/admin/processes?q=PROCESS-999&state=active")
        numbers = re.findall(r'href="/admin/processes/(\d+)"', found.html)
        assert numbers == ["9999", "9998", "9997", "9996", "9995", "9994", "9993", "9992", "9991", "9990", "999"]
        assert "No process matches" in (await ann.page("/admin/processes?q=%25")).text


async def _check_training(site: Site) -> None:
    process = await site.host(max_diffs=2, num_cycles=0)
    for value in (0.5, 4.0):
        (device,) = await site.devices(process, 1)
        await device.report(value, metric_loss=value)
    await site.until_completed(process)
    (device,) = await site.devices(process, 1)
    await device.report(0.5, metric_loss=0.125)
    (waiting,) = await site.devices(process, 1)
    assert waiting.key
    page = await _browser(site).page(f"/admin/processes/{process['id']}")
    assert "training 1 reported 1" in page.text
    devices = page.find("tbody", **{"data-rows": "devices"})
    assert len(devices) == 1
    listed = await _browser(site).page("/admin/processes")
    assert "loss 2.25" in listed.text


def _browser(site: Site) -> Browser:
    browser = Browser(site.web)
    token = site.owner["Authorization"].removeprefix("Bearer ")
    browser.cookie = f"{service(site.app.state, Console).cookie}={token}"
    return browser
