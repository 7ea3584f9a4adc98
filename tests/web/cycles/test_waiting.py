"""Devices whose request is held until there is work, and that lose patience.

Should happen: who waits is admitted as soon as there is a place, all of them at once if there are places for all.
Should not happen: one that has gone takes a place, or counts among those who ask.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from support.training import Device, Site, scope


class Waiting:
    """A request of a device that is held, over a connection that the test can close."""

    def __init__(self, site: Site, device: Device, wait_s: float = 60) -> None:
        process = device.process
        message = {
            "worker_id": device.worker_id,
            "model": process["name"],
            "version": process["version"],
            "wait_s": wait_s,
        }
        self._body: list[bytes] = [json.dumps(message).encode()]
        self._gone = asyncio.Event()
        self.sent: list[Any] = []
        headers = [(b"content-type", b"application/json")]
        self.task = asyncio.create_task(
            site.app(scope("POST", "/model-centric/cycle-request", headers), self._receive, self._send)  # type: ignore[arg-type]
        )

    async def _receive(self) -> Any:
        if self._body:
            return {"type": "http.request", "body": self._body.pop(), "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.sent.append(message)

    async def leave(self) -> None:
        """Close the connection; the app must come to an end with it."""
        await asyncio.sleep(0.05)
        assert not self.task.done()
        self._gone.set()
        await asyncio.wait_for(self.task, 60)


async def test_one_that_has_gone_takes_no_place(site: Site) -> None:
    process = await site.host(max_workers=1, max_diffs=1)
    (device,) = await site.devices(process, 1)
    await Waiting(site, await site.device(process)).leave()
    patient = asyncio.create_task((await site.device(process)).ask(wait_s=60))
    await asyncio.sleep(0.05)
    await device.report()
    assert (await asyncio.wait_for(patient, 60))["cycle"] == 2
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
    again = asyncio.create_task(device.ask(wait_s=60))
    await asyncio.sleep(0.05)
    await (await site.device(process)).join()
    assert (await asyncio.wait_for(again, 60))["status"] == "accepted"


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
    waiting = asyncio.create_task(one.ask(wait_s=60))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await two.report()
    assert (await asyncio.wait_for(waiting, 60))["cycle"] == 2
