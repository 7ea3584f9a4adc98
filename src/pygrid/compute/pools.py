"""Places for jobs: pools of drivers, and the slots that jobs hold while they run.

                  try_acquire, acquire            run                release
    (a free place) -------------------> Slot ------------> result ----------> (a free place)

Those that wait in `Pools.acquire` get places first in, first out, before anybody gets one from `Pools.try_acquire`: a
cycle of another Domain waits for them.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

from pygrid.compute.driver import Begin, Driver, NotStarted
from pygrid.compute.results import OnProgress
from pygrid.core.job_spec import JobResult, JobSpec

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Needs:
    """What a job needs of its place."""

    pools: frozenset[str] = frozenset({"local"})
    """Names of the pools in which it may run."""
    is_trial: bool = False
    """Whether it is a dry run on the mock dataset."""


@dataclass
class Pool:
    """A driver with a number of places, and the jobs that may use them."""

    name: str
    driver: Driver
    places: int
    is_trial: bool = False
    """Whether it runs dry runs, and nothing else."""
    fallback: Driver | None = None
    """Runs the jobs that `driver` did not start, and that may run on this machine."""
    held: int = field(default=0, init=False)

    @property
    def free(self) -> int:
        """Number of places that no job holds."""
        return min(self.places, self.driver.capacity) - self.held

    def allows(self, needs: Needs) -> bool:
        """Whether a job with these needs may run here."""
        return needs.is_trial if self.is_trial else not needs.is_trial and self.name in needs.pools


class Slot:
    """A place that a job holds until `release`, or for the length of an ``async with`` block.

    Args:
        is_resumed: see `Begin`.
    """

    def __init__(self, pool: Pool, on_release: Callable[[bool], None], *, is_resumed: bool = False) -> None:
        self._pool = pool
        self._on_release = on_release
        self.is_resumed = is_resumed

    @property
    def pool(self) -> str:
        return self._pool.name

    async def run(
        self,
        spec: JobSpec,
        on_progress: OnProgress | None = None,
        *,
        pad: bool = True,
        begin: Begin | None = None,
        may_fall_back: bool = True,
    ) -> JobResult:
        """Run a job as `Driver.run` does. If the driver of the pool does not start it, the fallback runs it.

        Args:
            may_fall_back: whether the job may run on this machine.
        """
        try:
            return await self._pool.driver.run(spec, on_progress, pad=pad, begin=begin)
        except NotStarted as error:
            if self._pool.fallback is None or not may_fall_back:
                raise
            logger.info("job runs here", extra={"job_id": spec.id, "detail": error.detail})
        return await self._pool.fallback.run(spec, on_progress, pad=pad, begin=begin)

    def release(self, *, is_unused: bool = False) -> None:
        """Free the place; called once.

        Args:
            is_unused: no job was found for the place, so `on_change` of the pools is not called.
        """
        self._pool.held -= 1
        self._on_release(is_unused)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.release()


@dataclass
class _Waiting:
    needs: Needs
    slot: asyncio.Future[Slot]


class Pools:
    """The pools of a Domain.

    Args:
        pools: in order of preference.
        on_change: called when a job has left its place.
    """

    def __init__(self, pools: Sequence[Pool], on_change: Callable[[], None]) -> None:
        self._pools = pools
        self._drivers = tuple({id(pool.driver): pool.driver for pool in pools}.values())
        self._on_change = on_change
        self._waiting: list[_Waiting] = []

    def list_pools(self) -> Sequence[Pool]:
        """The pools, in order of preference."""
        return self._pools

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the pools that jobs may name, in order of preference."""
        return tuple(pool.name for pool in self._pools if not pool.is_trial)

    async def start(self) -> None:
        """Have the drivers ready. Raises Unavailable."""
        for driver in self._drivers:
            await driver.start()

    def try_acquire(self, needs: Needs) -> Slot | None:
        """A place for a job with these needs, from the first pool that has one; None: there is none now."""
        self.grant()
        return self._take(needs)

    def hold(self, name: str) -> Slot:
        """A place in a pool for a job whose Worker has outlived an earlier process, also if none is free."""
        pool = next(pool for pool in self._pools if pool.name == name)
        pool.held += 1
        return Slot(pool, self._release, is_resumed=True)

    async def acquire(self, needs: Needs) -> Slot:
        """Wait for a place for a job with these needs."""
        waiting = _Waiting(needs, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self.grant()
        try:
            return await waiting.slot
        except asyncio.CancelledError:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
            else:
                waiting.slot.result().release()
            raise

    def grant(self) -> None:
        """Assign free places to those that wait; called when a driver may have gained capacity."""
        for waiting in list(self._waiting):
            if not waiting.slot.done() and (slot := self._take(waiting.needs)) is not None:
                self._waiting.remove(waiting)
                waiting.slot.set_result(slot)

    async def close(self) -> None:
        await asyncio.gather(*(driver.close() for driver in self._drivers))

    def _take(self, needs: Needs) -> Slot | None:
        for pool in self._pools:
            if pool.allows(needs) and pool.free > 0:
                pool.held += 1
                return Slot(pool, self._release)
        return None

    def _release(self, is_unused: bool) -> None:
        self.grant()
        if not is_unused:
            self._on_change()


def build_pools(
    local: Driver,
    leased: Driver,
    engines: Sequence[Pool] = (),
    *,
    num_workers: int,
    prefer_leased: bool,
    on_change: Callable[[], None],
) -> Pools:
    """The pools of a Domain: `num_workers` jobs and as many dry runs here, the Workers of other machines, and engines.

    Dry runs have places of their own, so that an error shows at once, however long the jobs take.

    Args:
        engines: pools whose Workers an engine starts, in order of preference, after the others.
        prefer_leased: jobs that may leave do so while this machine has free places.
    """
    here = Pool("local", local, num_workers)
    away = Pool("leased", leased, sys.maxsize, fallback=local)
    trials = Pool("trials", local, num_workers, is_trial=True)
    return Pools([*([away, here] if prefer_leased else [here, away]), *engines, trials], on_change)
