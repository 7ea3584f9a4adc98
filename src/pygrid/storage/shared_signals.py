"""`Signals` between the replicas of a Domain: NOTIFY and LISTEN of PostgreSQL.

    notify(topic) ──> waiters of this process, at once
                  └─> sender ──pg_notify──> listeners of all processes ──> their waiters

A signal is sent after the commit that it is about, on a connection of its own. So no lane holds the lock that each
NOTIFY takes at its commit. A signal that is lost with its process does no harm: every waiter is woken each ten
seconds. A connection pooler in transaction mode accepts LISTEN and delivers nothing. So each process regularly notifies
itself; while it does not hear that, waiters are woken each second.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
from dataclasses import dataclass

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, Gauge

from pygrid.errors import PygridError
from pygrid.lifecycle import BackgroundTask
from pygrid.storage.signals import ELSEWHERE, LocalSignals
from pygrid.storage.sql.database import Database

logger = logging.getLogger(__name__)

CHANNEL = "pygrid_signals"
"""One name for all Domains: PostgreSQL delivers a notification within one database, which has one Domain."""
MAX_PAYLOAD_BYTES = 7900
_EVERYTHING = "*"
_SLOW = "progress/"
"""Topics that change with each report; only open pages of the console wait for them."""
_SEND = sa.text("SELECT pg_notify(:channel, :payload)")


@dataclass(frozen=True)
class SignalTimings:
    """Times of the signals; a test shortens them."""

    poll_s: float = 10.0
    """Every waiter is woken that often."""
    unheard_poll_s: float = 1.0
    """The same, while notifications do not arrive."""
    test_every_s: float = 60.0
    """Seconds between two notifications that a process sends to itself."""
    test_s: float = 2.0
    """Longest time until such a notification arrives."""
    reconnect_s: tuple[float, float] = (0.1, 2.0)
    """Bounds of the random pause before a new connection."""
    slow_s: float = 1.0
    """Pause between two notifications of topics that change with each report."""


class SharedSignals(LocalSignals):
    """`Signals` between all processes on one PostgreSQL database. Used from the event loop alone.

    Args:
        direct_url: address of the database past a connection pooler.
        registry: gets the gauge ``pygrid_signals_heard``.
    """

    def __init__(
        self, database: Database, direct_url: str, registry: CollectorRegistry, timings: SignalTimings | None = None
    ) -> None:
        super().__init__()
        self._database = database
        self._direct_url = direct_url
        self._timings = timings or SignalTimings()
        self._instance = secrets.token_hex(8)
        self._pending: dict[str, None] = {}
        self._slow: dict[str, None] = {}
        self._has_pending = asyncio.Event()
        self._echoes: dict[str, asyncio.Future[None]] = {}
        self._listening: asyncio.Task[None] | None = None
        self._is_warned = False
        self.is_heard = False
        """Whether notifications arrive, by the last test."""
        heard = Gauge("pygrid_signals_heard", "Whether notifications of other replicas arrive.", registry=registry)
        heard.set_function(lambda: float(self.is_heard))

    def notify(self, topic: str) -> None:
        self.wake(topic)
        if topic.startswith(_SLOW):
            self._slow[topic] = None
        else:
            self._pending[topic] = None
            self._has_pending.set()

    def tasks(self) -> tuple[BackgroundTask, ...]:
        """What sends, hears, tests and polls."""
        return (
            BackgroundTask("send-signals", self._send_all),
            BackgroundTask.every(self._timings.slow_s, "send-slow-signals", self._release_slow),
            BackgroundTask("hear-signals", self._listen),
            BackgroundTask("test-signals", self._test_all),
            BackgroundTask("poll-signals", self._poll),
        )

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._timings.poll_s if self.is_heard else self._timings.unheard_poll_s)
            self.notify_all()

    # -- sending -------------------------------------------------------------------------------------------------------

    async def _release_slow(self) -> None:
        if self._slow:
            self._pending.update(self._slow)
            self._slow.clear()
            self._has_pending.set()

    async def _send_all(self) -> None:
        while True:
            await self._has_pending.wait()
            self._has_pending.clear()
            topics = list(self._pending)
            self._pending.clear()
            with contextlib.suppress(PygridError):  # a lost signal does no harm, and the next one follows
                await self._send("\n".join([self._instance, *topics]))

    async def _send(self, payload: str) -> None:
        """Raises PygridError: the database does not answer."""
        if len(payload.encode()) > MAX_PAYLOAD_BYTES:
            payload = f"{self._instance}\n{_EVERYTHING}"
        values = {"channel": CHANNEL, "payload": payload}
        work = asyncio.ensure_future(
            asyncio.to_thread(self._database.write_apart, lambda connection: connection.execute(_SEND, values))
        )
        try:
            await asyncio.shield(work)
        finally:
            # The thread cannot be cancelled, and has a connection until it ends.
            await asyncio.gather(work, return_exceptions=True)

    # -- hearing -------------------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        while True:
            self._listening = asyncio.create_task(self._listen_once())
            try:
                await asyncio.wait([self._listening])
                error = None if self._listening.cancelled() else self._listening.exception()
            finally:
                self._listening.cancel()
                await asyncio.gather(self._listening, return_exceptions=True)  # it closes its connection
            self.is_heard = False
            logger.info("connection for signals lost", extra={"reason": str(error)[:200]})
            await asyncio.sleep(random.uniform(*self._timings.reconnect_s))

    async def _listen_once(self) -> None:
        """Hear signals until the connection breaks; raises what broke it."""
        from psycopg import AsyncConnection  # Domains on SQLite do not have it

        async with await AsyncConnection.connect(
            self._direct_url, autocommit=True, connect_timeout=10, keepalives_idle=10, keepalives_interval=5
        ) as connection:
            await connection.execute(f"LISTEN {CHANNEL}".encode())
            self.notify_all()  # what was sent before is lost
            testing = asyncio.create_task(self._test())
            try:
                async for notification in connection.notifies():
                    self._receive(notification.payload)
            finally:
                testing.cancel()
                await asyncio.gather(testing, return_exceptions=True)

    def _receive(self, payload: str) -> None:
        sender, *topics = payload.split("\n")
        if sender == self._instance:
            for topic in topics:
                if (echo := self._echoes.get(topic)) is not None and not echo.done():
                    echo.set_result(None)
            return
        if _EVERYTHING in topics:
            self.notify_all()
            return
        for topic in topics:
            self.wake(topic)
        if any(topic.startswith("cycle/") or topic.startswith("event/") for topic in topics):
            self.wake(ELSEWHERE)

    # -- being heard ---------------------------------------------------------------------------------------------------

    async def _test_all(self) -> None:
        while True:
            await asyncio.sleep(self._timings.test_every_s)
            if not await self._test() and self._listening is not None:
                # The connection may be half-open: the other end is gone and nobody said so.
                self._listening.cancel()

    async def _test(self) -> bool:
        """Send a notification to this process; returns whether it was heard."""
        name = f"test/{secrets.token_hex(8)}"
        self._echoes[name] = asyncio.get_running_loop().create_future()
        try:
            await self._send(f"{self._instance}\n{name}")
            await asyncio.wait([self._echoes[name]], timeout=self._timings.test_s)
            self.is_heard = self._echoes[name].done()
        except PygridError:
            self.is_heard = False
        finally:
            del self._echoes[name]
        if not self.is_heard and not self._is_warned:
            logger.warning(
                "notifications of the database do not arrive, so the app polls; set PYGRID_DATABASE_DIRECT_URL to the "
                "address of PostgreSQL itself, not of a connection pooler"
            )
        self._is_warned = not self.is_heard
        return self.is_heard
