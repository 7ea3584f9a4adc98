"""Which of several replicas of an app leads: it does everything that only one process may do.

    follower ──lock of the database is free──> leader ──another process has taken the lock──> the process ends

Every replica of a Domain serves devices and completes cycles. Jobs, datasets, accounts and the console rely on the
memory of one process, so only the leader has them. A follower of a Network serves its health only.

PostgreSQL releases the lock when the leader's connection ends; a leader that is paused or cut off is replaced too
(`pygrid.storage.ownership`). Each leader has a number, which all its writes check. So a former leader can write
nothing. It also serves nothing from the moment when it can have a successor.

A balancer that knows no leader sends requests to followers. They wait for a moment, because the next leader is one of
them; the others refuse, and the balancer sends the request again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import msgspec
from litestar import Litestar
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send, WebSocketScope

from pygrid import codes
from pygrid.errors import PygridError, Unavailable
from pygrid.lifecycle import BackgroundTask, Feature, Stopping, TaskRunner
from pygrid.messages import media
from pygrid.web.health import DRAINING_HEADER

logger = logging.getLogger(__name__)

_LONG_BYTES = 12 * 1024
REFUSAL_HEADER = "pygrid-not-leader"
"""Set by a balancer that sends a request again if the status is the value, 425. Nothing else refuses with 425."""
_SENT_AGAIN = 425
EXIT_STATUS = 3
"""Exit status of a former leader; what supervises it starts it again."""
LEADER_PATH = "/leaderz"
"""Answers 200 at the leader alone, for load balancers."""
FOLLOWER_PATHS = frozenset(
    (
        *("/healthz", "/readyz", "/metrics"),
        *(f"/model-centric/{name}" for name in ("authenticate", "cycle-request", "leave", "report", "speed-test")),
        *(f"/model-centric/{name}" for name in ("get-model", "get-plan", "get-protocol")),
    )
)
"""What a follower serves. These calls decide under locks of the database; all others need the leader."""


@dataclass(frozen=True)
class LeadershipTimes:
    """How long a replica waits, in seconds.

    Attributes:
        between_tries_s: between two attempts of a follower to lead, and between two checks of the lock after a fault.
        request_s: for which a request of a balancer waits until this replica leads.
        long_request_s: the same for a request with a long body, which the balancer cannot send again.
    """

    between_tries_s: float = 0.5
    request_s: float = 1.0
    long_request_s: float = 3.0


def _end_process() -> None:
    os._exit(EXIT_STATUS)


class OwnerLock(Protocol):
    """The lock of the database, which one process has."""

    @property
    def is_sure(self) -> bool:
        """Whether no other process can have the lock now."""
        ...

    def try_acquire(self) -> bool:
        """Become the owner; returns False if another process is. Blocks."""
        ...

    async def keep(self) -> None:
        """Keep it until cancelled. Raises Unavailable: ``database_taken``: another process has become the owner."""
        ...


class Leadership:
    """Starts the features of a leader when this replica becomes one.

    Args:
        end: ends the process at once, as a kill would.
    """

    def __init__(
        self,
        lock: OwnerLock,
        runner: TaskRunner,
        stopping: Stopping,
        end: Callable[[], None] = _end_process,
        times: LeadershipTimes = LeadershipTimes(),
    ) -> None:
        self._lock = lock
        self._runner = runner
        self._stopping = stopping
        self._end = end
        self.times = times
        self._led: list[Feature] = []
        self._keeping: asyncio.Task[None] | None = None
        self._begun = asyncio.Event()

    @property
    def is_leader(self) -> bool:
        """Whether this replica leads. False while it cannot check that no other one does."""
        return self._begun.is_set() and self._lock.is_sure

    async def wait(self, seconds: float) -> bool:
        """Wait until this replica leads, at most that long; returns whether it does."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._begun.wait()
        return self.is_leader

    def led(self, feature: Feature) -> Feature:
        """The feature without its start and its tasks, which begin when this replica leads."""
        self._led.append(feature)

        async def nothing() -> None:
            pass

        return replace(feature, start=nothing, tasks=())

    def divide(self, features: Sequence[Feature], everywhere: Sequence[Feature] = ()) -> list[Feature]:
        """The features of a replica; those that are not ``everywhere`` begin when it leads."""
        at_all = {id(one) for one in everywhere}
        return [*(one if id(one) in at_all else self.led(one) for one in features), self.feature()]

    def gate(self, app: Litestar) -> Litestar:
        """The app, which refuses at a follower what only the leader serves."""
        app.asgi_handler = LeaderGate(app.asgi_handler, self, self._stopping)
        return app

    def feature(self) -> Feature:
        """The last feature of the app: it leads at the start if no other replica does."""
        return Feature(start=self._try, tasks=(BackgroundTask("lead", self._run),), close=self._close)

    async def _close(self) -> None:
        """End the checks of the lock, which would take it again after its release."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait([self._keeping])

    async def _try(self) -> None:
        """Lead if no other replica does. Raises what the start of a feature raises."""
        if not await asyncio.to_thread(self._lock.try_acquire):
            return
        self._keeping = asyncio.create_task(self._keep())
        try:
            for feature in self._led:
                await feature.start()
        except BaseException:
            self._keeping.cancel()
            raise
        self._begun.set()

    async def _run(self) -> None:
        while not self._begun.is_set():
            await asyncio.sleep(self.times.between_tries_s)
            if self._stopping.is_draining:  # it would lead for seconds, then its successor begins
                continue
            try:
                await self._try()
            except Exception:
                if self._keeping is not None:  # what has begun cannot begin again
                    logger.exception("replica could not lead; the process ends")
                    self._end()
                    return
                logger.warning("database does not answer; this replica tries to lead later", exc_info=True)
        logger.info("replica leads")
        self._runner.add([task for feature in self._led for task in feature.tasks])
        assert self._keeping is not None
        await self._keeping

    async def _keep(self) -> None:
        while True:
            try:
                await self._lock.keep()
            except Exception as error:
                if isinstance(error, PygridError) and error.code == codes.DATABASE_TAKEN:
                    logger.exception("another replica leads; the process ends")
                    self._end()
                    return
                logger.warning("database does not answer", exc_info=True)
            await asyncio.sleep(self.times.between_tries_s)


class LeaderGate:
    """Refuses at a follower what only the leader serves."""

    def __init__(self, app: ASGIApp, leadership: Leadership, stopping: Stopping) -> None:
        self._app, self._leadership, self._stopping = app, leadership, stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in (ScopeType.HTTP, ScopeType.WEBSOCKET):
            await self._app(scope, receive, send)
            return
        if scope["path"] == LEADER_PATH:
            # A leader that stops still serves what the balancer sends before it knows: its successor begins after that.
            status = 200 if self._leadership.is_leader else 503
            if self._stopping.is_set():
                status = 404 if _has(scope, DRAINING_HEADER, "404") else 503
            await _answer(send, status, {"status": "leader" if status == 200 else "follower"})
            return
        is_sent_again = _has(scope, REFUSAL_HEADER, "425")
        serves = scope["path"] in FOLLOWER_PATHS or self._leadership.is_leader
        if not serves and is_sent_again and not (self._stopping.is_draining or self._stopping.is_set()):
            times = self._leadership.times
            serves = await self._leadership.wait(times.long_request_s if _is_long(scope) else times.request_s)
        if serves:
            await self._app(scope, receive, send)
        elif scope["type"] == ScopeType.WEBSOCKET:
            await receive()
            await send({"type": "websocket.close", "code": 1013, "reason": codes.NOT_LEADER})
        else:
            refusal = Unavailable(
                "this replica does not lead, so it serves devices only; send the request to "
                "the leader, which answers 200 to /leaderz",
                code=codes.NOT_LEADER,
                retry_after_s=1,
            )
            status = _SENT_AGAIN if is_sent_again else refusal.status
            await _answer(send, status, refusal.to_problem(), [(b"retry-after", b"1")])


def _has(scope: HTTPScope | WebSocketScope, header: str, value: str) -> bool:
    return (header.encode(), value.encode()) in list(scope["headers"])


def _is_long(scope: HTTPScope | WebSocketScope) -> bool:
    fields = dict(scope["headers"])
    return int(fields.get(b"content-length", 0)) > _LONG_BYTES or b"transfer-encoding" in fields


async def _answer(send: Send, status: int, content: object, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
    body = msgspec.json.encode(content)
    kind = b"application/json" if status == 200 else media.PROBLEM.encode()
    fields = [(b"content-type", kind), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body, "more_body": False})
