"""Devices whose request is held until there is work, and that lose patience.

Should happen: who waits is admitted as soon as there is a place, all of them at once if there are places for all.
Should not happen: one that has gone takes a place, or counts among those who ask.
"""

from __future__ import annotations

import asyncio

from support.streams import Waiting
from support.training import Site


async def test_one_that_has_gone_takes_no_place(site: Site) -> None:
    process = await site.host(max_workers=1, max_diffs=1)
    (device,) = await site.devices(process, 1)
    await Waiting(site, await site.device(process)).leave()
    patient = await Waiting(site, await site.device(process)).held()
    await device.report()
    assert (await patient.answer())["cycle"] == 2
    assert (await site.cycle(process))["num_assigned"] == 1


async def test_one_that_has_gone_is_no_candidate(site: Site) -> None:
    process = await site.host(min_workers=2)
    await Waiting(site, await site.device(process)).leave()
    assert (await (await site.device(process)).ask())["reason"] == "waiting_for_workers"
    assert (await site.cycle(process))["state"] == "hosted"


async def test_one_that_comes_again_is_admitted(site: Site) -> None:
    process = await site.host(min_workers=2)
    device = await site.device(process)
    await Waiting(site, device).leave()
    again = await Waiting(site, device).held()
    await (await site.device(process)).join()
    assert (await again.answer())["status"] == "accepted"


async def test_all_who_wait_are_admitted_when_a_cycle_begins(site: Site) -> None:
    process = await site.host(max_diffs=1)
    (device,) = await site.devices(process, 1)
    others = [await (await site.device(process)).join() for _ in range(30)]
    waiting = [asyncio.create_task(other.ask(wait_s=60)) for other in others]
    # They take part already, so each gets a new key at once; the old ones end.
    assert {answer["cycle"] for answer in await asyncio.gather(*waiting)} == {1}
    await device.report()
    await site.until_completed(process)
    answers = await asyncio.gather(*(other.ask(wait_s=60) for other in others))
    assert {answer["cycle"] for answer in answers} == {2}
    assert (await site.cycle(process))["num_assigned"] == 30


async def test_who_has_reported_waits_for_the_next_cycle(site: Site) -> None:
    process = await site.host(max_diffs=2)
    one, two = await site.devices(process, 2)
    await one.report()
    waiting = await Waiting(site, one).held()
    await two.report()
    assert (await waiting.answer())["cycle"] == 2
