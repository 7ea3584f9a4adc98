"""Where jobs run, on this machine or on Workers of other machines, and the places for Workers of federated jobs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol

from pygrid.compute.leased import LeasedDriver
from pygrid.compute.local import LocalDriver
from pygrid.compute.results import OnProgress
from pygrid.core.job_spec import JobResult, JobSpec, Progress
from pygrid.errors import Unavailable

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Places:
    """The drivers of a Domain as one."""

    here: LocalDriver
    elsewhere: LeasedDriver
    prefer_remote: bool = False
    """Jobs that may go elsewhere do so while this machine has room."""

    @property
    def num_remote(self) -> int:
        """How many jobs can run elsewhere at once, now."""
        return self.elsewhere.num_places

    async def start(self) -> object:
        """Have a Worker ready here, where jobs are tried first. Raises Unavailable."""
        return await self.here.start()

    async def run(
        self, spec: JobSpec, on_progress: OnProgress | None = None, *, pad: bool = True, remote: bool = False
    ) -> JobResult:
        """Run a job, elsewhere if it is ``remote``; here all the same if it did not begin there.

        Raises as a driver does.
        """
        if remote:
            try:
                return await self.elsewhere.run(spec, on_progress, pad=pad)
            except Unavailable as error:
                logger.info("job runs here", extra={"job_id": spec.id, "detail": error.detail})
        return await self.here.run(spec, on_progress, pad=pad)

    async def close(self) -> None:
        """End every job."""
        await self.elsewhere.close()
        await self.here.close()


class Workers(Protocol):
    """What runs jobs in sandboxes."""

    @property
    def prefer_remote(self) -> bool:
        """Whether jobs that may go to another machine do so while this one has room."""

    @property
    def num_remote(self) -> int:
        """How many jobs can run on other machines at once, now."""

    async def start(self) -> object:
        """Raises Unavailable: no Worker can be had, or only one that can't be locked in."""

    async def run(
        self,
        spec: JobSpec,
        on_progress: Callable[[Progress], None] | None = None,
        *,
        pad: bool = True,
        remote: bool = False,
    ) -> JobResult:
        """Run a job; what goes wrong with it is a failure in the result. If the caller is cancelled, the job is ended.

        Args:
            pad: hold a private job until the time that was planned before its data was read.
            remote: on another machine, if one takes it.
        """


@dataclass
class _Waiting:
    turn: asyncio.Future[bool]
    may_leave: bool


class WorkerPlaces:
    """The places for Workers of federated jobs, which wait in line for one while they hold none."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._waiting: list[_Waiting] = []
        self.num_here = 0
        self.num_elsewhere = 0

    @contextlib.asynccontextmanager
    async def one(self, *, may_leave: bool) -> AsyncIterator[bool]:
        """Wait for a place, and hold it for the length of the block; gives whether it is on another machine.

        Args:
            may_leave: whether it may be.
        """
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        waiting = _Waiting(turn, may_leave)
        self._waiting.append(waiting)
        self._on_change()
        try:
            yield await turn
        finally:
            if not turn.done() or turn.cancelled():
                if waiting in self._waiting:
                    self._waiting.remove(waiting)
            elif turn.result():
                self.num_elsewhere -= 1
            else:
                self.num_here -= 1
            self._on_change()

    def give(self, num_free: int) -> int:
        """Give places on this machine to those who wait longest; tells how many are left."""
        for waiting in self._next(lambda _: True, num_free):
            waiting.turn.set_result(False)
            self.num_here += 1
            num_free -= 1
        return num_free

    def give_elsewhere(self, num_free: int) -> int:
        """Give places on other machines to those who wait longest, of those who may have one; tells how many
        are left.
        """
        for waiting in self._next(lambda one: one.may_leave, num_free):
            waiting.turn.set_result(True)
            self.num_elsewhere += 1
            num_free -= 1
        return num_free

    def _next(self, is_wanted: Callable[[_Waiting], bool], most: int) -> list[_Waiting]:
        """The first so many of a kind, who wait no more."""
        self._waiting = [waiting for waiting in self._waiting if not waiting.turn.done()]
        found = [waiting for waiting in self._waiting if is_wanted(waiting)][: max(0, most)]
        for waiting in found:
            self._waiting.remove(waiting)
        return found
