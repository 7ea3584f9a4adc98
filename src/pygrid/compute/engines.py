"""Pools whose Workers an engine starts: Slurm, Ray or Kubernetes.

                    run()                     the token is used        the first renew
    (unknown) -------------------> starting -------------------> claimed -----------> begun ----> (result) | lost
                                       |                            |
                      no claim in `start_s`: never began       no renew: never began

An engine only starts `pygrid worker --once`. That Worker proves with a start token that it is the one, and leases its
job, like any Worker of another machine. The lease alone decides about the job: the word of an engine that a Worker has
ended can only speed up a loss. Starts are rows of the database, so that a Domain that starts again waits for the
Workers of its last run, and ends those whose jobs do not run.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from pygrid import codes
from pygrid.compute.driver import Begin, NotStarted
from pygrid.compute.leased import TRANSFER_S
from pygrid.compute.leases import VANISHED, LeasedJob, Leases, Offer
from pygrid.compute.pool_file import PoolConfig
from pygrid.compute.results import OnProgress
from pygrid.core.engine_starts import EngineStart, StartState
from pygrid.core.job_spec import JobResult, JobSpec
from pygrid.ids import hash_secret, new_secret

logger = logging.getLogger(__name__)

_WORKER_MB = 512
"""Memory of a Worker, in addition to that of its job."""
_WORKER_S = 60
"""Time of a Worker, in addition to that of its job."""


class EngineError(Exception):
    """An engine does not answer, or refuses; the text says why."""


class EngineState(enum.StrEnum):
    """The state of a Worker, as its engine tells it."""

    PENDING = "pending"
    RUNNING = "running"
    ENDED = "ended"
    GONE = "gone"
    """The engine does not know it."""


class Launcher(Protocol):
    """Starts Workers at an engine. Each method raises EngineError."""

    async def start(self, handle: str, token: str) -> None:
        """Ask for a Worker with this name and start token."""

    async def poll(self, handles: Sequence[str]) -> Mapping[str, EngineState]:
        """The states of Workers; one that is missing is `EngineState.GONE`."""

    async def cancel(self, handle: str) -> None:
        """End a Worker. Nothing happens if it has ended."""

    async def close(self) -> None:
        """Close connections."""


class Starts(Protocol):
    """The stored starts."""

    async def put(self, job_id: str, pool: str, token_hash: str) -> EngineStart:
        """Add a start."""

    async def find(self, job_id: str) -> EngineStart | None:
        """The start of a running job."""

    async def finish(self, start: EngineStart) -> None:
        """``starting, claimed -> ending``: its token and its Worker are refused from now on."""

    async def finish_orphans(self) -> None:
        """`finish` all starts whose jobs do not run."""

    async def close(self, start: EngineStart) -> None:
        """``ending -> ended``."""

    async def list_open(self) -> list[EngineStart]:
        """The starts that have not ended, oldest first."""


@dataclass(frozen=True)
class EngineTimings:
    """Times that no operator sets."""

    poll_s: float = 5.0
    gone_s: float = 60.0
    """How long an engine must not know a Worker until that counts."""
    retry_s: float = 10.0
    """Pause of a pool after a failed start; each further failure doubles it."""
    max_retry_s: float = 300.0


@dataclass
class _Running:
    start: EngineStart
    job: LeasedJob
    claimed: asyncio.Event = field(default_factory=asyncio.Event)
    why: str = "its machine did not begin the job"

    @property
    def is_claimed(self) -> bool:
        return self.claimed.is_set()

    def give_up(self, why: str) -> None:
        """Give up the start of a Worker that has not claimed its job."""
        self.why = why
        self.job.give_up()


class EngineDriver:
    """The driver of one pool: an engine starts a Worker for each job."""

    def __init__(
        self, config: PoolConfig, launcher: Launcher, leases: Leases, starts: Starts, timings: EngineTimings
    ) -> None:
        self.config, self.launcher = config, launcher
        self._leases, self._starts, self._timings = leases, starts, timings
        self._running: dict[int, _Running] = {}
        self._clean: set[int] = set()
        self._gone_since: dict[int, float] = {}
        self._num_failures = 0
        self._retry_at = 0.0

    # The driver

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def capacity(self) -> int:
        return 0 if time.monotonic() < self._retry_at else self.config.places

    async def start(self) -> None:
        """Do nothing: a failure of the engine shows at the start of a job, and stops no other pool."""

    async def run(
        self, spec: JobSpec, on_progress: OnProgress | None = None, *, pad: bool = True, begin: Begin | None = None
    ) -> JobResult:
        async with self._leases.open(self._limited(spec), on_progress, begin) as job:
            return await (self._resume(job) if job.is_resumed else self._run(job))

    async def close(self) -> None:
        """Close connections. Workers go on, and the next process waits for them."""
        await self.launcher.close()

    def _limited(self, spec: JobSpec) -> JobSpec:
        limits, config = spec.limits, self.config
        limits = msgspec.structs.replace(
            limits,
            memory_bytes=min(limits.memory_bytes, (config.memory_mb - _WORKER_MB) * 1024**2),
            wall_s=min(limits.wall_s, config.wall_s - _WORKER_S),
        )
        return msgspec.structs.replace(spec, limits=limits)

    async def _run(self, job: LeasedJob) -> JobResult:
        token = new_secret()
        return await self._follow(
            _Running(await self._starts.put(job.spec.id, self.name, hash_secret(token)), job), token
        )

    async def _resume(self, job: LeasedJob) -> JobResult:
        start = await self._starts.find(job.spec.id)
        if start is None or (start.state is StartState.CLAIMED and not job.leased.is_set()):
            return VANISHED
        running = _Running(start, job)
        if start.state is StartState.CLAIMED:
            running.claimed.set()
        return await self._follow(running)

    async def _follow(self, running: _Running, token: str = "") -> JobResult:
        """Ask for a Worker with this token, unless it is empty, and return the result of the Worker.

        Its start ends with its job, which `look` notices, so a Worker that brings its result has its credential until
        the result is stored. The start of a lost Worker ends here.
        """
        start, job_id = running.start, running.job.spec.id
        self._running[start.number] = running
        try:
            if token:
                await self.launcher.start(start.handle, token)
            result = await self._wait(running)
        except asyncio.CancelledError:
            await self._starts.finish_orphans()
            if await self._starts.find(job_id) is None:  # else the Domain stops, and the Worker goes on
                await self._end(start)
            raise
        except EngineError as error:
            await self._end(start)
            raise self._unavailable(str(error)) from error
        finally:
            self._running.pop(start.number)
        if result is None or (result.failure is not None and result.failure.kind == "lost"):
            await self._end(start)
        else:
            self._clean.add(start.number)
        if result is None:
            raise self._unavailable(running.why)
        self._num_failures = 0
        return result

    async def _wait(self, running: _Running) -> JobResult | None:
        """Return the result of the Worker; None: it never began."""
        job, start_s = running.job, self.config.start_s
        claiming = asyncio.create_task(running.claimed.wait())
        try:
            both: list[asyncio.Future[Any]] = [claiming, job.done]
            await asyncio.wait(both, timeout=start_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            claiming.cancel()
        if not (running.is_claimed or job.done.done()):
            running.give_up(f"it did not start a Worker within {start_s} s")
        return await self._leases.wait(job, self.config.wall_s + TRANSFER_S)

    async def _end(self, start: EngineStart) -> None:
        """End the start of a lost Worker, which is cancelled, here or by `look`."""
        await self._starts.finish(start)
        try:
            await self.launcher.cancel(start.handle)
        except EngineError as error:
            self._warn(start, "Worker not cancelled", error)

    def _unavailable(self, why: str) -> NotStarted:
        pause_s = min(self._timings.max_retry_s, self._timings.retry_s * 2.0**self._num_failures)
        self._num_failures += 1
        self._retry_at = time.monotonic() + pause_s
        logger.warning("engine unavailable", extra={"pool": self.name, "reason": why, "retry_s": pause_s})
        return NotStarted(
            f"the engine of the pool {self.name!r} started no Worker: {why}", code=codes.ENGINE_UNAVAILABLE
        )

    # Its Workers

    def is_waiting(self, start: EngineStart) -> bool:
        """Whether this process waits for the Worker of a start; after a start of the Domain, it soon does."""
        return start.number in self._running

    async def assign(self, start: EngineStart) -> Offer | None:
        """Lease the job of a start to the Worker that has used its token; None: the job is over."""
        running = self._running.get(start.number)
        if running is None or running.is_claimed or running.job.done.done():
            return None
        running.claimed.set()
        return await self._leases.assign(running.job, -start.number, self.name)

    def refuse(self, start: EngineStart, why: str) -> None:
        """Give up a start whose Worker must not have the job."""
        running = self._running.get(start.number)
        if running is not None and not running.is_claimed:
            running.give_up(why)

    # Its engine

    async def look(self, starts: Sequence[EngineStart]) -> None:
        """Compare the open starts of this pool with the engine, and cancel Workers whose jobs are over.

        Raises:
            EngineError: the engine does not answer; nothing was changed.
        """
        states = await self.launcher.poll([start.handle for start in starts])
        for start in starts:
            state = states.get(start.handle, EngineState.GONE)
            has_ended = state is EngineState.ENDED or self._is_gone(start, state)
            if start.state is StartState.ENDING:
                await self._clear(start, has_ended=has_ended)
            elif has_ended:
                await self._note_end(start)

    async def _clear(self, start: EngineStart, *, has_ended: bool) -> None:
        if has_ended:
            self._clean.discard(start.number)
            self._gone_since.pop(start.number, None)
            await self._starts.close(start)
        elif start.number in self._clean:
            self._clean.discard(start.number)  # it brought its result a moment ago, and is about to end
        else:
            await self.launcher.cancel(start.handle)

    async def _note_end(self, start: EngineStart) -> None:
        running = self._running.get(start.number)
        if running is None or running.job.done.done():
            return
        if running.job.leased.is_set():
            await self._leases.lose(running.job, "its engine ended the Worker")
        else:
            running.give_up("the Worker ended before it asked for its job; see the log of the engine")

    def _is_gone(self, start: EngineStart, state: EngineState) -> bool:
        if state is not EngineState.GONE:
            self._gone_since.pop(start.number, None)
            return False
        now = time.monotonic()
        return now - self._gone_since.setdefault(start.number, now) >= self._timings.gone_s

    def _warn(self, start: EngineStart, phrase: str, error: EngineError) -> None:
        logger.warning(phrase, extra={"pool": self.name, "worker": start.handle, "reason": str(error)})


class Engines:
    """All pools with an engine, by name."""

    def __init__(self, drivers: Sequence[EngineDriver], starts: Starts, timings: EngineTimings) -> None:
        self.drivers = {driver.name: driver for driver in drivers}
        self._starts, self._timings = starts, timings

    async def look_once(self) -> None:
        """Compare all open starts with their engines."""
        if not await self._starts.list_open():
            return
        await self._starts.finish_orphans()
        by_pool: dict[str, list[EngineStart]] = {}
        for start in await self._starts.list_open():
            by_pool.setdefault(start.pool, []).append(start)
        for name, starts in by_pool.items():
            driver = self.drivers.get(name)
            if driver is None:
                # The pool was removed from the file; nothing is known of what its engine still runs.
                for start in starts:
                    logger.warning("Worker of a removed pool", extra={"pool": name, "worker": start.handle})
                    await self._starts.close(start)
                continue
            try:
                await driver.look(starts)
            except EngineError as error:
                logger.warning("engine not asked", extra={"pool": name, "reason": str(error)})

    async def run(self) -> None:
        """Look at the engines every `EngineTimings.poll_s`, until cancelled."""
        while True:
            await self.look_once()
            await asyncio.sleep(self._timings.poll_s)
