"""The driver whose jobs Workers on other machines ask for; `pygrid.compute.leases` keeps what they hold.

            run()             a Worker asks
(unknown) ---------> queued -----------------> leased ...
                        |                        ^
          no Worker asks: never began            |
(leased by an earlier process) ----- run() ------+
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from pygrid import codes
from pygrid.compute.driver import Begin, NotStarted
from pygrid.compute.leases import VANISHED, LeasedJob, Leases, Offer
from pygrid.compute.results import OnProgress
from pygrid.core.job_spec import JobResult, JobSpec
from pygrid.core.worker_leases import WorkerLease

OFFER_S = 20.0
"""How long a job waits for the request of a Worker that was connected when the job started."""
TRANSFER_S = 3600.0
"""Time for the transfer of the files of a job, in addition to its own time."""
OnDisconnect = Callable[[], Coroutine[Any, Any, None]]


class LeasedDriver:
    """The driver whose jobs Workers of other machines fetch.

    Args:
        wake: set when a Worker requests a job and there is none.
        offer_s: see `OFFER_S`.
    """

    name = "leased"

    def __init__(self, wake: asyncio.Event, leases: Leases, *, offer_s: float = OFFER_S) -> None:
        self.leases, self.offer_s = leases, offer_s
        self._wake = wake
        self._queue: OrderedDict[str, LeasedJob] = OrderedDict()
        self._running: dict[str, LeasedJob] = {}
        self._polls: dict[asyncio.Future[LeasedJob], tuple[int, str]] = {}
        self._closed = False

    # The driver

    @property
    def capacity(self) -> int:
        return len(self._polls) + sum(job.leased.is_set() for job in self._running.values())

    async def start(self) -> None:
        """Do nothing: Workers connect by themselves."""

    async def run(
        self, spec: JobSpec, on_progress: OnProgress | None = None, *, pad: bool = True, begin: Begin | None = None
    ) -> JobResult:
        async with self.leases.open(spec, on_progress, begin) as job:
            if job.is_resumed and not job.leased.is_set():
                return VANISHED
            self._running[spec.id] = job
            try:
                return await self._run(job)
            finally:
                self._running.pop(spec.id, None)
                self._queue.pop(spec.id, None)

    async def _run(self, job: LeasedJob) -> JobResult:
        if self._closed:
            raise _not_started("the Domain is stopping")
        if not job.leased.is_set():
            self._queue[job.spec.id] = job
            self._match()
        waiting = asyncio.get_running_loop().call_later(self.offer_s, self._withdraw, job)
        try:
            result = await self.leases.wait(job, job.spec.limits.wall_s + self.offer_s + TRANSFER_S)
        finally:
            waiting.cancel()
        if result is None:
            raise _not_started("no Worker took it")
        return result

    async def close(self) -> None:
        """Queue no more jobs. Workers keep those that they have, for the next process."""
        self._closed = True

    # What Workers ask of it

    async def lease(self, worker_id: int, worker: str, wait_s: float, gone: OnDisconnect) -> Offer | None:
        """A job for a Worker, after a wait of up to ``wait_s`` seconds; None: there is none.

        ``gone`` returns when the Worker has hung up.
        """
        poll: asyncio.Future[LeasedJob] = asyncio.get_running_loop().create_future()
        self._polls[poll] = worker_id, worker
        leaving = asyncio.create_task(gone())
        try:
            self._match()
            if not poll.done():
                self._wake.set()
                both: list[asyncio.Future[Any]] = [poll, leaving]
                await asyncio.wait(both, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            if poll.done() and not poll.cancelled():
                poll.result().give_up()
            raise
        finally:
            leaving.cancel()
            self._polls.pop(poll, None)
        if not poll.done() or poll.cancelled():
            return None
        return await self.leases.assign(poll.result(), worker_id, worker)

    def drop_worker(self, worker_id: int, leases: Sequence[WorkerLease]) -> None:
        """End the waiting requests of a Worker whose authorization was revoked, and the jobs of its ended leases."""
        for poll, (asking, _) in list(self._polls.items()):
            if asking == worker_id and not poll.done():
                self._polls.pop(poll)
                poll.cancel()
        for lease in leases:
            self.leases.note_lost(lease, "the authorization of the Worker was revoked")

    def count_waiting(self, worker_id: int) -> int:
        """Number of jobs that a Worker waits for."""
        return sum(asking == worker_id for asking, _ in self._polls.values())

    def _match(self) -> None:
        """Assign queued jobs to waiting Workers, both in the order in which they came."""
        while self._queue and (poll := next((poll for poll in self._polls if not poll.done()), None)) is not None:
            _, job = self._queue.popitem(last=False)
            self._polls.pop(poll)
            poll.set_result(job)

    def _withdraw(self, job: LeasedJob) -> None:
        if self._queue.pop(job.spec.id, None) is not None:
            job.give_up()


def _not_started(why: str) -> NotStarted:
    return NotStarted(f"no Worker on another machine runs the job: {why}", code=codes.NO_REMOTE_WORKER)
