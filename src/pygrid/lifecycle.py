"""Background tasks and stopping: what lives as long as an app.

start ──> tasks run; one that fails is logged, counted and started again
SIGTERM ──> `Stopping` is set: long polls and event streams answer and end ──> requests end ──> tasks are cancelled
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from pygrid.clock import Clock
from pygrid.metrics import Metrics

logger = logging.getLogger(__name__)

MIN_RESTART_S = 1.0
MAX_RESTART_S = 60.0


class Stopping:
    """A signal that the app stops. Long polls and event streams wait for it, so that they end by themselves."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.is_draining = False
        """Whether the app will stop soon: it goes on serving, and is not ready for new clients."""

    def set(self) -> None:
        """Begin to stop. Call it in the event loop's thread."""
        self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    async def wait(self) -> None:
        """Return once the app stops."""
        await self._event.wait()

    async def sleep(self, seconds: float) -> bool:
        """Wait that long, or until the app stops; returns whether it stops."""
        if seconds > 0 and not self._event.is_set():
            try:
                async with asyncio.timeout(seconds):
                    await self._event.wait()
            except TimeoutError:
                pass
        return self._event.is_set()


@dataclass(frozen=True, slots=True)
class BackgroundTask:
    """Work in addition to requests. ``run`` goes on until it is cancelled; if it returns, it is not called again."""

    name: str
    run: Callable[[], Awaitable[None]]

    @classmethod
    def every(cls, seconds: float, name: str, step: Callable[[], Awaitable[object]]) -> BackgroundTask:
        """A task that calls ``step`` at once and then again ``seconds`` after each return."""

        async def run() -> None:
            while True:
                await step()
                await asyncio.sleep(seconds)

        return cls(name, run)


async def _nothing() -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Feature:
    """What a feature adds to an app."""

    services: tuple[object, ...] = ()
    routes: tuple[Any, ...] = ()
    open_paths: tuple[str, ...] = ()
    """Paths that scripts of any origin may call."""
    open_sockets: tuple[str, ...] = ()
    """Paths of WebSockets that pages of any origin may open; their handlers ask `pygrid.web.sites.is_of_other_site`."""
    tasks: tuple[BackgroundTask, ...] = ()
    start: Callable[[], Awaitable[object]] = _nothing
    """Called before the first request."""
    close: Callable[[], Awaitable[object]] = _nothing
    """Called after the tasks have ended, also if the start has failed."""


@asynccontextmanager
async def opened(features: Sequence[Feature]) -> AsyncIterator[None]:
    """Start the features in their order for the length of the block, and close all of them in the reverse order."""
    async with AsyncExitStack() as stack:
        for feature in features:
            stack.push_async_callback(feature.close)
        for feature in features:
            await feature.start()
        yield


class TaskRunner:
    """Runs the background tasks of an app and restarts those that fail."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._running: list[asyncio.Task[None]] = []
        self._failing: set[str] = set()

    @property
    def names(self) -> list[str]:
        """Names of all tasks, while they run."""
        return sorted(task.get_name() for task in self._running)

    @property
    def failing(self) -> list[str]:
        """Names of the tasks whose last run failed and that wait for their restart."""
        return sorted(self._failing)

    @asynccontextmanager
    async def running(self, tasks: Sequence[BackgroundTask]) -> AsyncIterator[None]:
        """Run the tasks for the length of the block; at its end they are cancelled and waited for."""
        self._running = [asyncio.create_task(self._supervise(task), name=task.name) for task in tasks]
        try:
            yield
        finally:
            for handle in self._running:
                handle.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)
            self._running = []

    def add(self, tasks: Sequence[BackgroundTask]) -> None:
        """Run further tasks until the end of `running`."""
        self._running += [asyncio.create_task(self._supervise(task), name=task.name) for task in tasks]

    async def _supervise(self, task: BackgroundTask) -> None:
        delay_s = MIN_RESTART_S
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            try:
                await task.run()
                return
            except Exception:
                self._metrics.task_failures.labels(task.name).inc()
                logger.exception("background task failed", extra={"task": task.name, "restart_in_s": delay_s})
            if loop.time() - started > MAX_RESTART_S:
                delay_s = MIN_RESTART_S
            self._failing.add(task.name)
            await asyncio.sleep(delay_s)
            self._failing.discard(task.name)
            delay_s = min(delay_s * 2, MAX_RESTART_S)


@dataclass(frozen=True)
class AppContext:
    """What every part of an app uses."""

    clock: Clock
    stopping: Stopping
    metrics: Metrics
    runner: TaskRunner
    """Runs the tasks of all features."""


T = TypeVar("T")


class ClientGone(Exception):
    """The client closed the connection before its request was complete; nobody is left to answer."""


async def unless_gone(departed: Callable[[], Awaitable[None]], work: Coroutine[Any, Any, T]) -> T:
    """The result of the work. If the client disconnects first, the work is cancelled.

    Args:
        departed: returns once the client has disconnected, as `wait_until_gone` does.
    Raises:
        ClientGone: after the work has ended.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(departed())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
