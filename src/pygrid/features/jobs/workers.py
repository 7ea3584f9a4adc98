"""What runs jobs, as the rest of the folder sees it, and the places for Workers of federated jobs."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from pygrid.core.execution import JobResult, JobSpec, Progress


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
            pad: have a private job end at the end of a coarse bucket of time, as its time may depend on single records.
            remote: on another machine, if one takes it.
        """


class WorkerPlaces:
    """The places for Workers of federated jobs, which wait in line for one while they hold none."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.num_taken = 0

    @contextlib.asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Wait for a place, and hold it for the length of the block."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._on_change()
        try:
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self.num_taken -= 1
            elif turn in self._waiting:
                self._waiting.remove(turn)
            self._on_change()

    def give(self, num_free: int) -> int:
        """Give places to those who wait longest; tells how many are left."""
        while num_free > 0 and self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self.num_taken += 1
                num_free -= 1
        return num_free
