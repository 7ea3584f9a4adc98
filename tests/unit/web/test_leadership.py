"""Who answers what only the leader serves.

Should happen: a leader serves; it stops when it can have a successor; a balancer's request waits for the next leader.
Should not: a former leader that serves; 425 for a client that did not ask for it; a wait in a replica that stops.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from litestar.types import Receive, Scope, Send

from pygrid import codes
from pygrid.errors import Unavailable
from pygrid.lifecycle import Feature, Stopping, TaskRunner
from pygrid.metrics import Metrics
from pygrid.web.leadership import LeaderGate, Leadership, LeadershipTimes
from support.eventually import eventually, turns

TIMES = LeadershipTimes()
SENT_AGAIN = [(b"pygrid-not-leader", b"425")]


class Lock:
    """A lock in memory."""

    def __init__(self, *, is_free: bool) -> None:
        self.is_free = is_free
        self.is_sure = False
        self.is_kept = False
        self.taken = asyncio.Event()

    def try_acquire(self) -> bool:
        self.is_sure = self.is_free
        return self.is_free

    async def keep(self) -> None:
        self.is_kept = True
        try:
            await self.taken.wait()
        finally:
            self.is_kept = False
        raise Unavailable("taken", code=codes.DATABASE_TAKEN)


class Replica:
    """A gate in front of an app that answers 200."""

    def __init__(self, lock: Lock, times: LeadershipTimes = TIMES) -> None:
        self.ended: list[bool] = []
        self.runner = TaskRunner(Metrics())
        self.stopping = Stopping()
        self.leadership = Leadership(lock, self.runner, self.stopping, lambda: self.ended.append(True), times)
        self.gate = LeaderGate(self._app, self.leadership, self.stopping)

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def status(self, path: str = "/jobs", headers: list[tuple[bytes, bytes]] | None = None) -> int:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "path": path, "headers": headers or []}
        await self.gate(scope, None, send)  # type: ignore[arg-type]
        return int(sent[0]["status"])


async def test_a_leader_serves_until_it_can_have_a_successor() -> None:
    lock = Lock(is_free=True)
    replica = Replica(lock)
    assert await replica.status() == 503
    await replica.leadership.feature().start()
    assert [await replica.status(path) for path in ("/jobs", "/leaderz")] == [200, 200]
    lock.is_sure = False
    assert [await replica.status(path) for path in ("/jobs", "/leaderz", "/readyz")] == [503, 503, 200]
    lock.is_sure = True
    assert await replica.status() == 200
    lock.taken.set()
    await eventually(lambda: replica.ended)


async def test_a_leader_that_drains_leads_until_it_stops() -> None:
    replica = Replica(Lock(is_free=True))
    await replica.leadership.feature().start()
    replica.stopping.is_draining = True
    assert [await replica.status(path) for path in ("/jobs", "/leaderz")] == [200, 200]
    replica.stopping.set()
    assert await replica.status("/leaderz") == 503


async def test_a_request_of_a_balancer_waits_for_the_next_leader() -> None:
    lock = Lock(is_free=False)
    replica = Replica(lock, LeadershipTimes(between_tries_s=0.01, request_s=60.0))
    feature = replica.leadership.feature()
    await feature.start()
    async with replica.runner.running(feature.tasks):
        waiting = asyncio.create_task(replica.status("/jobs", SENT_AGAIN))
        assert await replica.status() == 503, "a client that is no balancer gets its answer at once"
        assert not waiting.done()
        lock.is_free = True
        assert await waiting == 200


async def test_a_request_that_waited_in_vain_is_refused_for_another_try() -> None:
    replica = Replica(Lock(is_free=False), LeadershipTimes(request_s=0.01))
    assert await replica.status("/jobs", SENT_AGAIN) == 425
    replica = Replica(Lock(is_free=False), LeadershipTimes(request_s=60.0))
    replica.stopping.is_draining = True
    assert await replica.status("/jobs", SENT_AGAIN) == 425, "a replica that stops will not lead"


@pytest.mark.parametrize("length", [(b"content-length", b"100000"), (b"transfer-encoding", b"chunked")])
async def test_a_long_request_waits_longer_because_it_cannot_be_sent_again(length: tuple[bytes, bytes]) -> None:
    lock = Lock(is_free=False)
    replica = Replica(lock, LeadershipTimes(between_tries_s=0.01, request_s=0.0, long_request_s=60.0))
    feature = replica.leadership.feature()
    await feature.start()
    async with replica.runner.running(feature.tasks):
        waiting = asyncio.create_task(replica.status("/jobs", [*SENT_AGAIN, length]))
        assert await replica.status("/jobs", [*SENT_AGAIN, (b"content-length", b"100")]) == 425
        assert not waiting.done()
        lock.is_free = True
        assert await waiting == 200


async def test_a_replica_that_drains_does_not_begin_to_lead() -> None:
    """Its successor would have to begin seconds later, and requests would wait a second time."""
    lock = Lock(is_free=False)
    replica = Replica(lock, LeadershipTimes(between_tries_s=0.0))
    feature = replica.leadership.feature()
    await feature.start()
    async with replica.runner.running(feature.tasks):
        replica.stopping.is_draining = True
        lock.is_free = True
        await turns(20)
        assert not replica.leadership.is_leader
        assert not lock.is_sure, "it does not even try"


async def test_a_slow_start_of_a_leader_keeps_the_lock() -> None:
    """Else another replica would take a leader for silent while its features start."""
    lock = Lock(is_free=True)
    replica, begin = Replica(lock), asyncio.Event()
    replica.leadership.led(Feature(start=begin.wait))
    starting = asyncio.create_task(replica.leadership.feature().start())
    lock.taken.set()
    await eventually(lambda: replica.ended)
    begin.set()
    await starting


async def test_a_leader_that_stops_at_once_keeps_its_lock_no_longer() -> None:
    """Else a check would take the lock again after its release. The task of the feature has not begun."""
    lock = Lock(is_free=True)
    feature = Replica(lock).leadership.feature()
    await feature.start()
    await eventually(lambda: lock.is_kept)
    await feature.close()
    assert not lock.is_kept


async def test_a_check_with_an_unexpected_fault_is_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    lock = Lock(is_free=True)
    replica, checks = Replica(lock, LeadershipTimes(between_tries_s=0.01)), list[None]()

    async def keep() -> None:
        checks.append(None)
        raise RuntimeError("out of threads")

    monkeypatch.setattr(lock, "keep", keep)
    feature = replica.leadership.feature()
    await feature.start()
    await eventually(lambda: len(checks) > 2)
    await feature.close()


async def test_a_balancer_knows_a_leader_that_stops_from_one_that_is_gone() -> None:
    replica = Replica(Lock(is_free=True))
    await replica.leadership.feature().start()
    replica.stopping.set()
    assert await replica.status("/leaderz", [(b"pygrid-draining", b"404")]) == 404
    assert await replica.status("/jobs", SENT_AGAIN) == 200, "else the balancer uses up its attempts before it knows"
    assert await replica.status("/jobs") == 200, "a client that comes without a balancer has nobody else to ask"
    assert await replica.status("/leaderz") == 503
