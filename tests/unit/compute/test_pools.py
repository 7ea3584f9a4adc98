"""Places for jobs, with drivers that only count.

Should happen: jobs get the places of the preferred pool that allows them; those that wait get places before others, in
their order; a job that a leased driver does not start runs on this machine.
Should not happen: more jobs than places; a place that is lost when its job or its caller is cancelled.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from pygrid.compute.driver import Begin, NotStarted
from pygrid.compute.pools import Needs, Pool, Pools, Slot, build_pools
from pygrid.compute.results import OnProgress
from pygrid.core.job_spec import Facts, JobResult, JobSpec
from pygrid.errors import Unavailable

ANY, LEAVING, TRIAL = Needs(), Needs(frozenset({"local", "leased"})), Needs(is_trial=True)
SPEC = JobSpec(id="job", kind="statistics", columns={})


@dataclass
class Counting:
    """A driver that runs jobs at once, unless `refusal` is set."""

    name: str
    capacity: int
    refusal: Unavailable | None = None
    num_started: int = 0
    is_closed: bool = False
    ran: list[tuple[str, bool]] = field(default_factory=list)

    async def start(self) -> None:
        self.num_started += 1

    async def run(
        self,
        spec: JobSpec,
        on_progress: OnProgress | None = None,
        *,
        pad: bool = True,
        begin: Begin | None = None,
    ) -> JobResult:
        if self.refusal is not None:
            raise self.refusal
        self.ran.append((spec.id, pad))
        return JobResult(Facts(), None, "", b"")

    async def close(self) -> None:
        self.is_closed = True


@dataclass
class Machines:
    local: Counting
    leased: Counting
    pools: Pools
    changes: list[None]


def machines(num_workers: int = 1, num_leased: int = 1, *, prefer_leased: bool = False) -> Machines:
    local, leased, changes = Counting("local", 2 * num_workers), Counting("leased", num_leased), list[None]()
    pools = build_pools(
        local,
        leased,
        num_workers=num_workers,
        prefer_leased=prefer_leased,
        on_change=lambda: changes.append(None),
    )
    return Machines(local, leased, pools, changes)


def taken(pools: Pools, needs: Needs) -> Slot:
    slot = pools.try_acquire(needs)
    assert slot is not None
    return slot


async def begin(*tasks: asyncio.Task[Any]) -> None:
    """Let tasks run up to the point where they wait."""
    _, waiting = await asyncio.wait(tasks, timeout=0)
    assert len(waiting) == len(tasks)


@pytest.mark.parametrize("prefer_leased", [False, True])
async def test_the_preferred_pool_gets_jobs_that_may_leave(prefer_leased: bool) -> None:
    there = machines(prefer_leased=prefer_leased)
    first, second = taken(there.pools, LEAVING), taken(there.pools, LEAVING)
    assert there.pools.try_acquire(LEAVING) is None
    assert [first.pool, second.pool] == (["leased", "local"] if prefer_leased else ["local", "leased"])


async def test_a_job_that_may_not_leave_and_a_dry_run_stay_on_this_machine() -> None:
    there = machines(num_leased=5)
    for needs in (ANY, TRIAL):
        slot = taken(there.pools, needs)
        assert there.pools.try_acquire(needs) is None
        await slot.run(SPEC, pad=needs is ANY)
    assert (there.local.ran, there.leased.ran) == ([("job", True), ("job", False)], [])


async def test_a_released_place_is_free_again() -> None:
    there = machines(num_leased=0)
    async with taken(there.pools, LEAVING):
        assert there.pools.try_acquire(LEAVING) is None
    assert len(there.changes) == 1
    taken(there.pools, LEAVING).release(is_unused=True)
    assert len(there.changes) == 1, "a scheduler that found no job would be woken by itself"
    taken(there.pools, LEAVING)


async def test_those_that_wait_come_first_and_in_their_order() -> None:
    there = machines(num_leased=0)
    held, waiting = taken(there.pools, ANY), []
    order: list[int] = []

    async def wait(number: int, needs: Needs) -> None:
        async with await there.pools.acquire(needs):
            order.append(number)
            assert there.pools.try_acquire(ANY) is None

    for number, needs in enumerate((ANY, LEAVING, ANY)):
        waiting.append(asyncio.create_task(wait(number, needs)))
    await begin(*waiting)
    assert order == []
    held.release()
    await asyncio.gather(*waiting)
    assert order == [0, 1, 2]


async def test_capacity_that_a_driver_gains_is_granted() -> None:
    there = machines(num_leased=0)
    taken(there.pools, ANY)
    staying = asyncio.create_task(there.pools.acquire(ANY))
    leaving = asyncio.create_task(there.pools.acquire(LEAVING))
    await begin(staying, leaving)
    there.leased.capacity = 1
    there.pools.grant()
    assert (await leaving).pool == "leased"
    assert not staying.done()
    staying.cancel()


@pytest.mark.parametrize("is_granted", [False, True])
async def test_a_caller_that_stops_waiting_holds_no_place(is_granted: bool) -> None:
    there = machines(num_leased=0)
    held = taken(there.pools, ANY)
    waiting = asyncio.create_task(there.pools.acquire(ANY))
    await begin(waiting)
    if is_granted:
        held.release()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    if not is_granted:
        held.release()
    taken(there.pools, ANY)


async def test_a_job_that_was_not_started_elsewhere_runs_here() -> None:
    there = machines(prefer_leased=True)
    there.leased.refusal = NotStarted("no Worker took it")
    slot = taken(there.pools, LEAVING)
    assert (await slot.run(SPEC)).failure is None
    assert there.local.ran == [("job", True)]
    there.leased.refusal = Unavailable("another reason")
    with pytest.raises(Unavailable, match="another reason"):
        await slot.run(SPEC)
    there.local.refusal = NotStarted("and not here")
    there.leased.refusal = NotStarted("no Worker took it")
    with pytest.raises(NotStarted, match="no Worker took it"):
        await slot.run(SPEC, may_fall_back=False)
    pool = Pool("local", there.local, 1)
    with pytest.raises(NotStarted, match="and not here"):
        await taken(Pools([pool], lambda: None), ANY).run(SPEC)


async def test_a_job_gets_a_place_in_a_pool_that_it_may_use_and_in_no_other() -> None:
    there, engine = machines(num_leased=5), Counting("engine", 10)
    pools = build_pools(
        there.local, there.leased, [Pool("hpc", engine, 1)], num_workers=1, prefer_leased=False, on_change=lambda: None
    )
    assert pools.names == ("local", "leased", "hpc")
    needs = Needs(frozenset({"hpc"}))
    assert taken(pools, needs).pool == "hpc"
    assert pools.try_acquire(needs) is None, "its one place is held"
    assert [taken(pools, Needs(frozenset({"hpc", "local"}))).pool] == ["local"]


async def test_each_driver_is_started_and_closed_once() -> None:
    there = machines()
    await there.pools.start()
    await there.pools.close()
    assert (there.local.num_started, there.leased.num_started) == (1, 1)
    assert there.local.is_closed
    assert there.leased.is_closed
