"""Many clients wait for few places.

Should happen: as many try as there are places, and a quarter more; a client that is refused for a reason of its own
leaves its turn to the next. Should not happen: a place stays free while a client waits; all of them try at each change.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from typing import Any

import pytest

from pygrid.configuration import read_server_config
from pygrid.core.cycles import BETWEEN_CYCLES, AdmissionRefusal, Cycle, CycleState
from pygrid.features.cycles.admission_queue import ATTEMPTS_PER_PLACE, AdmissionQueues
from pygrid.storage.sql.database import Database
from pygrid.storage.sql.lanes import Lane
from pygrid.web.services import service
from support.cycle_rows import NOW
from support.eventually import turns
from support.streams import Waiting
from support.training import Site

FULL = AdmissionRefusal("cycle_full", "the cycle has its clients", 10)
RESTS = AdmissionRefusal("resting", "this client sits out", 10)


def queue_for(num_places: int) -> Any:
    config = read_server_config({"cycle_length": None, "max_workers": num_places})
    signal = asyncio.get_running_loop().create_future()
    cycle = Cycle(1, 1, 1, CycleState.OPEN, 1, 1, 0, 0, NOW)
    queue = AdmissionQueues().enter(cycle, config, signal)
    assert queue is not None
    return queue


@pytest.mark.parametrize("num_resting", [0, 300])
async def test_as_many_try_as_there_are_places(num_resting: int) -> None:
    queue, places, tried = queue_for(100), 100, 0

    def attempt_of(number: int) -> Any:
        async def attempt() -> Any:
            nonlocal places, tried
            tried += 1
            await turns(1)
            if number < num_resting:
                return RESTS
            if not places:
                return FULL
            places -= 1
            return number

        return attempt

    outcomes = await asyncio.gather(*(queue.try_in_turn(attempt_of(number)) for number in range(10_000)))
    assert [one for one in outcomes if isinstance(one, int)] == list(range(num_resting, num_resting + 100))
    assert outcomes.count(RESTS) == num_resting
    at_once = math.ceil(100 * ATTEMPTS_PER_PLACE)
    assert tried <= (at_once if not num_resting else num_resting + 100 + at_once)


async def test_each_signal_has_a_queue_and_a_cycle_without_limit_has_none() -> None:
    queues, loop = AdmissionQueues(), asyncio.get_running_loop()
    config = read_server_config({"cycle_length": None, "max_workers": 2})
    cycle = Cycle(1, 1, 1, CycleState.OPEN, 1, 1, 0, 0, NOW)
    first, second = loop.create_future(), loop.create_future()
    queue = queues.enter(cycle, config, first)
    assert queue is not None
    assert queues.enter(cycle, config, first) is queue

    async def is_between() -> AdmissionRefusal:
        return BETWEEN_CYCLES

    assert await queue.try_in_turn(is_between) is BETWEEN_CYCLES
    other = queues.enter(cycle, config, second)
    assert other is not None
    assert other is not queue, "after another signal, all may try again"
    unlimited = read_server_config({"cycle_length": 60})
    assert queues.enter(cycle, unlimited, second) is None


async def test_a_free_place_wakes_all_and_few_of_them_write(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    process = await site.host(max_workers=2, max_diffs=2)
    first = await site.devices(process, 2)
    waiting = [await Waiting(site, await site.device(process)).held() for _ in range(12)]
    writer = service(site.app.state, Database)._lanes[Lane.ADMISSIONS]
    put, items = writer.put, list[Any]()

    def count(unit: Any) -> None:
        if unit.kind is not None and unit.kind.lane is Lane.ADMISSIONS:
            items.append(unit)
        put(unit)

    monkeypatch.setattr(writer, "put", count)
    for device in first:
        await device.report()
    answering = [asyncio.create_task(one.answer()) for one in waiting]
    admitted = [await one for one in itertools.islice(asyncio.as_completed(answering), 2)]
    assert [(one["status"], one["cycle"]) for one in admitted] == [("accepted", 2)] * 2
    assert 2 <= len(items) <= 2 * math.ceil(2 * ATTEMPTS_PER_PLACE)
    for one in waiting:
        if not one.task.done():
            await one.leave()
    await asyncio.gather(*answering, return_exceptions=True)
