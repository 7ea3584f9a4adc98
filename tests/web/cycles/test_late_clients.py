"""Clients that report after the end of their cycle: seen, given a grace period, and preferred in the next cycle.

Should happen: a report in the grace period counts once, in its own cycle, also when the Domain stops in between; late
clients are in the cycle, its events and the metrics; places are kept for them for a bounded time.
Should not happen: a client joins a cycle that has ended; a report counts after the grace period; a client that never
reports always has a place.
"""

from __future__ import annotations

import json
from typing import Any

import httpx

from support.eventually import eventually
from support.training import Site, assert_values, model
from support.web import assert_problem


async def counted_late(site: Site) -> float:
    text = (await site.web.get("/metrics", headers=site.owner)).text
    (line,) = [line for line in text.splitlines() if line.startswith("pygrid_clients_late_total ")]
    return float(line.split()[1])


async def events(site: Site, process: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of a finished process."""
    answer: httpx.Response = await site.web.get(
        f"/model-centric/processes/{process['id']}/events", headers={**site.owner, "Accept": "text/event-stream"}
    )
    return [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line.startswith("data: ")]


# -- the grace period -------------------------------------------------------------------------------------------------


async def test_a_report_in_the_time_of_grace_counts_and_the_last_one_closes(site: Site) -> None:
    process = await site.host(max_diffs=2, grace_s=10, num_cycles=1, outlier_factor=None)
    one, two, late = await site.devices(process, 3)
    assert late.accepted["grace_s"] == 10
    newcomer = await site.device(process)
    await one.report(0.25)
    await two.report(0.5)
    ended = await site.cycle(process)
    assert (ended["state"], ended["num_reports"], ended["grace_until"]) == ("open", 2, "2026-01-01T00:00:10Z")
    refused = await newcomer.ask()
    assert (refused["reason"], refused["timeout"]) == ("between_cycles", 10)
    await late.report(0.75)
    assert (await late.send(model(0.75))).status_code == 200, "the same report again"
    completed = await site.until_completed(process)
    assert (completed["num_reports"], completed["num_late"]) == (3, 0)
    assert_values(await site.checkpoint(process), 0.5)
    kinds = [event["kind"] for event in await events(site, process)]
    assert kinds[2:] == ["cycle_grace", "cycle_closing", "cycle_completed", "process_finished"]


async def test_the_time_of_grace_ends_and_late_clients_are_seen(site: Site) -> None:
    process = await site.host(max_diffs=2, grace_s=10, num_cycles=1, outlier_factor=None)
    before = await counted_late(site)
    one, two, late, later, left = await site.devices(process, 5)
    await one.report(0.25)
    await two.report(0.75)
    leaving = {"worker_id": left.worker_id, "model": process["name"]}
    assert (await site.web.post("/model-centric/leave", json=leaving)).status_code == 200
    await site.pass_time(9.9)
    assert (await site.cycle(process))["state"] == "open"
    await site.pass_time(0.2)
    completed = await site.until_completed(process)
    assert (completed["num_reports"], completed["num_late"]) == (2, 2)
    for device in (late, later):
        assert_problem(await device.send(model(9.0)), 410, "cycle_closed")
    assert_values(await site.checkpoint(process), 0.5)
    assert await counted_late(site) - before == 2
    assert [event["data"]["num_late"] for event in await events(site, process) if "num_late" in event["data"]] == [2]


async def test_a_report_after_the_deadline_counts_in_the_time_of_grace(site: Site) -> None:
    process = await site.host(max_diffs=None, cycle_length=60, grace_s=10, outlier_factor=None)
    one, late, silent = await site.devices(process, 3)
    await one.report(0.25)
    site.clock.advance(60.5)  # the scheduler does not know
    await late.report(0.75)
    assert (await site.cycle(process))["grace_until"] == "2026-01-01T00:01:10.500000Z"
    await site.pass_time(10.1)
    completed = await site.until_completed(process)
    assert (completed["num_reports"], completed["num_late"]) == (2, 1)
    assert_values(await site.checkpoint(process), 0.5)
    assert_problem(await silent.send(model(0.5)), 410, "cycle_closed")


async def test_too_few_reports_reopen_the_cycle_after_the_time_of_grace(site: Site) -> None:
    process = await site.host(min_diffs=2, max_diffs=None, cycle_length=60, grace_s=10)
    one, silent = await site.devices(process, 2)
    await one.report(0.5)
    await site.pass_time(61)

    async def ended() -> bool:
        return (await site.cycle(process))["grace_until"] is not None

    await eventually(ended)
    cycle = await site.cycle(process)
    assert (cycle["attempt"], cycle["grace_until"]) == (1, "2026-01-01T00:01:11Z")
    await site.pass_time(11)

    async def reopened() -> bool:
        return bool((await site.cycle(process))["attempt"] == 2)

    await eventually(reopened)
    cycle = await site.cycle(process)
    assert (cycle["grace_until"], cycle["num_late"], cycle["num_reports"]) == (None, 1, 1)
    assert_problem(await silent.send(model(0.5)), 410, "cycle_closed")


async def test_without_clients_at_work_no_time_of_grace_begins(site: Site) -> None:
    process = await site.host(max_diffs=2, grace_s=10)
    for device in await site.devices(process, 2):
        await device.report(0.5)
    completed = await site.until_completed(process)
    assert (completed["num_reports"], completed["grace_until"]) == (2, None)


async def test_without_grace_nobody_waits_and_late_clients_are_counted(site: Site) -> None:
    process = await site.host(max_diffs=1)
    one, *_ = await site.devices(process, 4)
    await one.report(0.5)
    assert (await site.until_completed(process))["num_late"] == 3


# -- preference --------------------------------------------------------------------------------------------------------

PREFERS = {"max_workers": 2, "max_diffs": 1, "min_diffs": 1, "late_first_s": 10, "num_cycles": 9}


async def test_places_are_kept_for_late_clients_for_a_time(site: Site) -> None:
    process = await site.host(**PREFERS)
    quick, late = await site.devices(process, 2)
    others = [await site.device(process) for _ in range(2)]
    await quick.report(0.5)
    await site.until_completed(process)
    await others[0].join()
    refused = await others[1].ask()
    assert (refused["reason"], refused["timeout"]) == ("places_kept", 10)
    await late.join()
    assert (await others[1].ask())["reason"] == "cycle_full"


async def test_a_kept_place_is_free_after_that_time(site: Site) -> None:
    process = await site.host(**PREFERS)
    quick, _late = await site.devices(process, 2)
    others = [await site.device(process) for _ in range(2)]
    await quick.report(0.5)
    await site.until_completed(process)
    await others[0].join()
    assert (await others[1].ask())["reason"] == "places_kept"
    await site.pass_time(10)
    await others[1].join()


async def test_nobody_is_preferred_twice_in_a_row(site: Site) -> None:
    process = await site.host(**PREFERS, do_not_reuse_workers_until_cycle=1)
    quick, never = await site.devices(process, 2)
    await quick.report(0.5)
    await site.until_completed(process, 1)
    other = await (await site.device(process)).join()
    await never.join()  # preferred, so it does not rest
    await other.report(0.5)
    await site.until_completed(process, 2)
    assert (await never.ask())["reason"] == "resting"
    for _ in range(2):
        await (await site.device(process)).join()


# -- how metrics differ ------------------------------------------------------------------------------------------------


async def test_the_range_of_metrics_is_for_those_who_manage_the_process(site: Site) -> None:
    process = await site.host(max_diffs=3)
    for device, loss in zip(await site.devices(process, 3), (1.0, 8.0, 3.0), strict=True):
        await device.report(0.5, metric_loss=loss, num_examples=100)
    completed = await site.until_completed(process)
    assert completed["metrics"] == {"loss": 4.0}
    assert completed["metric_spread"] == {"loss": {"min": 1.0, "median": 3.0, "max": 8.0, "num_reports": 3}}


async def test_the_range_of_metrics_is_hidden_from_others(site: Site, site_people: Any) -> None:
    process = await site.host(max_diffs=1, num_cycles=1)
    (device,) = await site.devices(process, 1)
    await device.report(0.5, metric_loss=1.0)
    await site.until_completed(process)
    await site_people.sign_up("user@example.org")
    user = await site_people.log_in("user@example.org")
    answer = await site.web.get(f"/model-centric/processes/{process['id']}/cycles", headers=user)
    (cycle,) = answer.json()["cycles"]
    assert (cycle["metrics"], cycle["metric_spread"]) == ({"loss": 1.0}, {})
    answer = await site.web.get(f"/model-centric/processes/{process['id']}", headers=user)
    assert answer.json()["cycle"]["metric_spread"] == {}
