"""The page of a training, in process: counts and values are those of the store; texts of devices stay texts.

Should happen: reports, metrics and devices appear, as data of the stream too; late devices are named; a bounded number
of statements.
Should not happen: values of single devices for users who do not manage the process; a name of a metric as markup.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from pygrid.ui.console import Console
from pygrid.ui.feed import SharedReads
from pygrid.web.services import service
from support.console import Browser, Page, noted_statements
from support.eventually import eventually
from support.streams import Stream, events_of
from support.training import Site
from support.web import People


def at_console(site: Site, headers: dict[str, str]) -> Browser:
    """A browser with the session of these headers."""
    browser = Browser(site.web)
    token = headers["Authorization"].removeprefix("Bearer ")
    browser.cookie = f"{service(site.app.state, Console).cookie}={token}"
    return browser


def series_of(page: Page, name: str) -> dict[str, Any]:
    (box,) = page.find("div", **{"data-chart": name})
    found: dict[str, Any] = json.loads(box["data-series"])
    return found


async def test_counts_and_values_of_a_training_are_those_of_the_store(site: Site) -> None:
    process = await site.host(max_diffs=3, num_cycles=0, schedules={"epochs": [3, 1]})
    path = f"/admin/processes/{process['id']}"
    ann = at_console(site, site.owner)
    assert "Waiting for devices" in (await ann.page(path)).text
    for value in (0.5, 0.25, 8.0):
        (device,) = await site.devices(process, 1)
        await device.report(value, metric_loss=value, num_examples=10)
    await site.until_completed(process)
    first, second = await site.devices(process, 2)
    await first.report(0.5, metric_loss=0.125, num_examples=7)
    assert second.key
    page = await ann.page(path)
    shown = {one["data-field"]: one for one in page.find("dd") if "data-field" in one}
    assert set(shown) == {"training", "reported", "late", "expired", "refused", "examples", "received"}
    assert "training 1 reported 1 late 0 expired 0 refused 0 examples 7" in page.text
    assert "2 reports more close the cycle; 1 device is still training." in page.text
    loss = series_of(page, "metric loss")
    assert loss["x"] == [1, 2]
    cycles = await site.cycles(process)
    by_label = {one["label"]: one["values"] for one in loss["series"]}
    assert by_label["devices"] == [cycles[0]["metrics"]["loss"], None]
    assert by_label["this cycle"] == [cycles[0]["metrics"]["loss"], 0.125]
    assert by_label["lowest device"] == [0.25, 0.125]
    assert by_label["highest device"] == [8.0, 0.125]
    norms = series_of(page, "norms")
    assert norms["x"] == [1, 1, 1, 2]
    assert series_of(page, "schedule epochs")["series"][0]["values"] == [3, 1]
    assert page.find("tbody", **{"data-rows": "devices"})
    tab = (await ann.page(f"{path}?tab=checkpoints")).text
    assert "2 (latest)" in tab


async def test_reports_reach_the_page_as_data_of_the_stream(site: Site) -> None:
    process = await site.host(max_diffs=3)
    topic = f"process:{process['id']}"
    cookie = {"cookie": at_console(site, site.owner).cookie}
    stream = Stream(site.app, f"/admin/live?topics={topic}", cookie)
    await eventually(lambda: b"open" in stream.received)
    (device,) = await site.devices(process, 1)
    await device.report(0.5, metric_loss=0.25, num_examples=4)
    refused = await device.send(b"no tensors")
    assert refused.status_code >= 400

    async def is_seen() -> dict[str, Any] | None:
        data = events_of(stream, "data")
        return data[-1] if data and data[-1]["fields"]["refused"] == "1" else None

    seen = await eventually(is_seen)
    assert seen["topic"] == topic
    assert seen["fields"]["reported"] == "1"
    assert seen["meters"] == {"reports": 1}
    assert seen["fields"]["metric loss"] == "0.25"
    assert seen["summaries"]["metric loss"] == "0.25 in cycle 1 so far"
    assert seen["summaries"]["norms"].startswith("1 report, 0 clipped")
    assert seen["points"] == {"metric loss": [1, 0.25]}
    (row,) = seen["rows"]["devices"]
    assert row[1] == "reported"
    assert row[5] == "loss 0.25"


async def test_late_devices_are_counted_in_the_time_of_grace(site: Site) -> None:
    process = await site.host(max_diffs=None, min_diffs=1, cycle_length=30, grace_s=60)
    quick, slow = await site.devices(process, 2)
    await quick.report()
    await site.pass_time(31)
    ann = at_console(site, site.owner)

    async def shown() -> bool:
        return "waits for late devices" in (await ann.page(f"/admin/processes/{process['id']}")).text

    await eventually(shown)
    assert "late 1" in (await ann.page(f"/admin/processes/{process['id']}")).text
    assert slow.key


async def test_values_of_single_devices_are_for_the_one_who_hosts(site: Site, site_people: People) -> None:
    process = await site.host(max_diffs=3)
    (device,) = await site.devices(process, 1)
    await device.report(0.5, metric_loss=0.25)
    other = await site_people.with_role(1, site.owner)
    page = await at_console(site, other).page(f"/admin/processes/{process['id']}")
    assert "reported 1" in page.text
    assert not page.find("tbody", **{"data-rows": "devices"})
    assert not page.find("div", **{"data-chart": "norms"})
    assert {one["label"] for one in series_of(page, "metric loss")["series"]} == {"devices", "this cycle"}
    assert not page.find("button", **{"data-confirm": ""})
    assert "Finish the training" not in page.text


async def test_the_plans_are_drawn(site: Site) -> None:
    process = await site.host(max_diffs=3)
    ann = at_console(site, site.owner)
    for _ in range(2):
        page = await ann.page(f"/admin/processes/{process['id']}?tab=plans")
        assert page.find("svg", **{"class": "plan", "aria-labelledby": "plan-1-title plan-1-text"})
        assert "Picture of training_plan" in page.text
        assert len(page.find("rect")) >= 3
    assert not (await ann.page(f"/admin/processes/{process['id']}")).find("svg")


async def test_names_of_metrics_stay_texts(site: Site) -> None:
    process = await site.host(max_diffs=3)
    (device,) = await site.devices(process, 1)
    await device.report(0.5, **{'metric_<i>"x': 0.25})
    page = await at_console(site, site.owner).page(f"/admin/processes/{process['id']}")
    assert not page.find("i")
    assert series_of(page, 'metric <i>"x')["x"] == [1]


async def test_the_dashboard_shows_the_curve_of_a_training(site: Site) -> None:
    process = await site.host(max_diffs=1, num_cycles=0)
    ann = at_console(site, site.owner)
    for number, loss in enumerate((0.5, 0.25, 0.125), 1):
        (device,) = await site.devices(process, 1)
        await device.report(0.5, **{"metric_<i>loss": loss})
        await site.until_completed(process, number)
        drawn = (await ann.page("/admin/")).find("svg", **{"class": "spark"})
        assert len(drawn) == (number > 1), "one value is no curve"
    assert drawn[0]["aria-label"] == "<i>loss from 0.5 to 0.125 in 3 cycles"
    page = await ann.page("/admin/")
    assert page.find("a", **{"aria-current": "page"}) == page.find("a", **{"data-key": "d"}), "its section is marked"
    (line,) = page.find("polyline")
    assert line["points"] == "2.0,2.0 60.0,15.3 118.0,22.0"


async def test_a_long_training_takes_few_statements(site: Site) -> None:
    process = await site.host(max_diffs=1, num_cycles=0)
    for number in range(1, 13):
        (device,) = await site.devices(process, 1)
        await device.report(0.5, metric_loss=0.25)
        await site.until_completed(process, number)
    ann = at_console(site, site.owner)
    with noted_statements(site.app) as statements:
        await ann.page(f"/admin/processes/{process['id']}")
    selects = [one for one in statements if one.startswith("SELECT")]
    assert 5 <= len(selects) <= 25, selects


async def test_readers_that_wait_together_share_one_read() -> None:
    reads, began = SharedReads(), 0
    gate = asyncio.Event()

    async def load() -> int:
        nonlocal began
        began += 1
        number = began
        await gate.wait()
        return number

    first = [asyncio.create_task(reads.read("a", load)) for _ in range(3)]
    await eventually(lambda: began == 1)
    later = asyncio.create_task(reads.read("a", load))
    gate.set()
    assert await asyncio.gather(*first) == [1, 1, 1]
    assert await later == 2, "a read that had begun before the call can be too old for it"
