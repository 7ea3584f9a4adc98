"""Signals within a process, and between processes on PostgreSQL.

Should happen: a notification wakes who waits for its topic, here and at other replicas; after the loss of the
connection everybody is woken; who hears nothing polls.
Should not happen: a waiter of another topic is woken; a process takes its own signals for those of others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry

from pygrid.lifecycle import TaskRunner
from pygrid.metrics import Metrics
from pygrid.storage.shared_signals import CHANNEL, SharedSignals, SignalTimings
from pygrid.storage.signals import ELSEWHERE, LocalSignals, Signals, cycle_topic, progress_topic, wake_process
from pygrid.storage.sql.database import Database
from support.eventually import eventually

QUICK = SignalTimings(poll_s=600.0, unheard_poll_s=600.0, reconnect_s=(0.01, 0.02), slow_s=0.05)


@asynccontextmanager
async def opened(url: str, direct_url: str = "", timings: SignalTimings = QUICK) -> AsyncIterator[SharedSignals]:
    """The signals of one replica, which run."""
    database = Database(url)
    signals = SharedSignals(database, direct_url or url, CollectorRegistry(), timings)
    try:
        async with TaskRunner(Metrics()).running(signals.tasks()):
            yield signals
    finally:
        await asyncio.to_thread(database.close)


async def heard(signals: SharedSignals) -> None:
    await eventually(lambda: signals.is_heard)


@pytest.mark.parametrize("kind", ["local", "shared"])
async def test_a_notification_wakes_who_waits_for_its_topic(kind: str, request: pytest.FixtureRequest) -> None:
    async with contextlib.AsyncExitStack() as stack:
        signals: Signals = LocalSignals()
        if kind == "shared":
            shared = await stack.enter_async_context(opened(request.getfixturevalue("postgres_url")))
            await heard(shared)
            signals = shared
        one, same, other, elsewhere = (signals.next(topic) for topic in ("a", "a", "b", ELSEWHERE))
        signals.notify("a")
        assert (one.done(), same.done(), other.done()) == (True, True, False)
        assert not signals.next("a").done(), "a later waiter waits for the next one"
        signals.wake("b")
        assert other.done()
        process = signals.next(cycle_topic(7))
        wake_process(signals, 7)
        assert process.done()
        assert not elsewhere.done()
        late = signals.next("c")
        signals.notify_all()
        assert late.done()
        assert elsewhere.done()


async def test_other_replicas_are_woken(postgres_url: str) -> None:
    async with opened(postgres_url) as here, opened(postgres_url) as there:
        await heard(here)
        await heard(there)
        own, cycle, other, elsewhere = (
            here.next(ELSEWHERE),
            there.next("cycle/1"),
            there.next("b"),
            there.next(ELSEWHERE),
        )
        progress, job = there.next(progress_topic(1)), there.next("job/1")
        here.notify("job/1")
        await asyncio.wait_for(job, 20)
        assert not elsewhere.done(), "a job is no cycle"
        here.notify(progress_topic(1))
        await asyncio.wait_for(progress, 20)
        here.notify("cycle/1")
        await asyncio.wait_for(asyncio.gather(cycle, elsewhere), 20)
        assert not other.done()
        assert not own.done(), "its own signals are not those of others"
        for number in range(2000):
            here.notify(f"job/{number}")
        await asyncio.wait_for(other, 20)  # too many for one notification: everybody looks


async def test_after_a_lost_connection_everybody_looks(postgres_url: str) -> None:
    async with opened(postgres_url) as here, opened(postgres_url) as there:
        await heard(here)
        await heard(there)
        waiting = there.next("cycle/1")
        ended = here._database.read_now(
            lambda connection: connection.execute(
                sa.text("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query = :listen"),
                {"listen": f"LISTEN {CHANNEL}"},
            ).scalar_one()
        )
        assert ended == 2
        await asyncio.wait_for(waiting, 20)
        await heard(there)
        again = there.next("cycle/1")
        here.notify("cycle/1")
        await asyncio.wait_for(again, 20)


async def test_who_hears_nothing_polls(
    postgres_url: str, postgres_server: str, caplog: pytest.LogCaptureFixture
) -> None:
    # Another database of the server: LISTEN works, and nothing arrives, as behind a pooler in transaction mode.
    timings = SignalTimings(poll_s=600.0, unheard_poll_s=0.05, test_s=0.05, test_every_s=0.05)
    with caplog.at_level(logging.WARNING):
        async with opened(postgres_url, postgres_server, timings) as signals:
            await eventually(lambda: "PYGRID_DATABASE_DIRECT_URL" in caplog.text)
            await asyncio.wait_for(signals.next(ELSEWHERE), 20)
            assert not signals.is_heard
