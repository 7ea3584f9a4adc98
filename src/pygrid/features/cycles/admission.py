"""Admission of clients to the newest cycle of a process.

request ──> (random order among the requests of one window) ──> try ──> accepted
                                                                 │ refused: wait for a change, until `wait_s` ends
                                                                 └ refused, too few clients: counted as a candidate
"""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import sqlalchemy as sa

from pygrid.clock import Clock
from pygrid.core import cycles as rules
from pygrid.core.cycles import AdmissionRefusal, Assignment, Cycle, CycleState
from pygrid.core.processes import HostedProcess
from pygrid.features.cycles.admission_queue import AdmissionQueues
from pygrid.features.cycles.presence import Presence
from pygrid.features.cycles.quotas import DeviceQuotas
from pygrid.features.cycles.scheduler import CycleScheduler
from pygrid.ids import hash_secret, new_secret
from pygrid.lifecycle import ClientGone, Stopping
from pygrid.storage import reports as rows
from pygrid.storage.admission_batches import AdmissionRequest, AdmitClients, Applicant, Placed, find_applicant
from pygrid.storage.clients import touch_client
from pygrid.storage.signals import cycle_topic, notify_process, wait_for_any
from pygrid.storage.sql.lanes import Batch
from pygrid.storage.store import Store

PRESENCE_S = 3.0 * rules.POLL_S
"""Seconds for which a client counts as a candidate after it was asked to come back."""

PUBLISHED_WINDOW_S = 4.0
"""Longest window of random selection for clients of 2020, which do not wait 10 s for an answer."""

DRAW_S = 0.5
"""Seconds after a window in which the clients of all replicas try to get a place, if there are several replicas."""

USED_S = 3600.0
"""Precision of the recorded time of a client's last use; not each request writes a row."""

MAX_KEYS = 50_000
"""Request keys that are kept in memory, about 40 MB; the database finds older ones."""

_GONE = AdmissionRefusal("resting", "the client has disconnected", 1)
"""The outcome for a client that disconnected before its turn; nobody reads it."""


@dataclass(frozen=True)
class Admission:
    """An admitted client: its key, its assignment and the cycle."""

    request_key: str
    assignment: Assignment
    cycle: Cycle
    opened: bool
    """Whether this admission opened the cycle."""


class Admissions:
    """Admits clients to the newest cycle of their process."""

    def __init__(
        self, store: Store, scheduler: CycleScheduler, clock: Clock, stopping: Stopping, quotas: DeviceQuotas
    ) -> None:
        self._store = store
        self._scheduler = scheduler
        self._clock = clock
        self._stopping = stopping
        self._quotas = quotas
        self.presence = Presence(store, scheduler, clock)
        self._draws: dict[tuple[int, float], list[asyncio.Future[None]]] = {}
        self._drawing: set[asyncio.Task[None]] = set()
        self._queues = AdmissionQueues()
        self._keys: OrderedDict[str, tuple[Admission, int]] = OrderedDict()
        self._key_of: OrderedDict[int, str] = OrderedDict()
        self._admitting: Batch[AdmissionRequest, Placed | AdmissionRefusal] = AdmitClients(clock.now)

    async def request(
        self, process: HostedProcess, applicant: Applicant, wait_s: float, departed: Callable[[], Awaitable[None]]
    ) -> Admission | AdmissionRefusal:
        """Admit a client, after waiting up to ``wait_s`` for a place, or return the reason of the refusal.

        Args:
            departed: returns once the client has disconnected; called only if the client has to wait.
        Raises:
            NotFound: ``worker_not_found``: the process has no such client.
            InvalidInput: ``plan_variant_unavailable``: the client would be admitted, and cannot train.
            ClientGone: the client disconnected while it waited; it is neither admitted nor counted as a candidate.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + wait_s
        if self._store.is_shared:
            applicant = replace(applicant, asked_at=self._clock.now())
        gone: asyncio.Future[None] | None = None
        woken_by: asyncio.Future[None] | None = None
        try:
            while True:
                changed = self._store.signals.next(cycle_topic(process.id))
                if process.config.pool_selection == "random":
                    window_s = process.config.pool_window_s
                    await self._draw(process, window_s if applicant.native else min(window_s, PUBLISHED_WINDOW_S))
                stay_s = max(PRESENCE_S, end - loop.time())
                if gone is None or woken_by is None:
                    outcome = await self._try(process, applicant, stay_s, again=gone is not None)
                else:
                    outcome = await self._try_in_turn(process, applicant, stay_s, woken_by, gone)
                remaining = end - loop.time()
                if isinstance(outcome, Admission) or outcome.timeout_s is None or outcome.reason == "too_slow":
                    return outcome
                if remaining <= 0 or self._stopping.is_set():
                    return await self._last_word(process, applicant, outcome)
                gone = gone or asyncio.ensure_future(departed())
                if outcome.reason == "places_kept":  # nothing tells when that ends
                    remaining = min(remaining, outcome.timeout_s)
                await wait_for_any([changed, gone], remaining)
                woken_by = changed if changed.done() else None
                if gone.done():
                    self.presence.remove(process.id, applicant.client_id)
                    raise ClientGone
        finally:
            if gone is not None:
                gone.cancel()

    async def _try(
        self, process: HostedProcess, applicant: Applicant, stay_s: float, again: bool
    ) -> Admission | AdmissionRefusal:
        """Make one attempt. The scheduler's state and one read spare most refusals a write transaction."""
        current = cycle = self._scheduler.current.get(process.id)
        if current is not None and current.state in (CycleState.CLOSING, CycleState.COMPLETED):
            return rules.BETWEEN_CYCLES
        if again and current is not None and current.state is CycleState.HOSTED and not _rests(process):
            # The first attempt checked the client, so only the number of candidates can prevent its admission.
            refusal: AdmissionRefusal | None = rules.waiting_for_workers(process.config)
        elif again:
            refusal = None
        else:
            found, refusal = await self._store.database.look_up(
                lambda connection: self._decide(connection, process, applicant)
            )
            await self._touch(applicant.client_id, found.used_at)
            cycle = found.cycle
        opens = refusal is not None and refusal.reason == "waiting_for_workers"
        if refusal is not None and not (
            opens and cycle is not None and await self._is_quorum(process, cycle, applicant.client_id, stay_s)
        ):
            return _in_pool(refusal, process)
        outcome = await self._admit(process, applicant, is_quorum=opens)
        if isinstance(outcome, AdmissionRefusal):
            return _in_pool(outcome, process)
        self._remember(process, outcome)
        if outcome.opened:
            self._opened(outcome.cycle)
        return outcome

    async def _try_in_turn(
        self,
        process: HostedProcess,
        applicant: Applicant,
        stay_s: float,
        woken_by: asyncio.Future[None],
        gone: asyncio.Future[None],
    ) -> Admission | AdmissionRefusal:
        """Make an attempt after a signal, which has woken all clients that wait; only as many try as have a chance."""

        async def attempt() -> Admission | AdmissionRefusal:
            if gone.done():
                return _GONE
            return await self._try(process, applicant, stay_s, again=True)

        queue = self._queues.enter(self._scheduler.current.get(process.id), process.config, woken_by)
        return await (attempt() if queue is None else queue.try_in_turn(attempt))

    async def _last_word(
        self, process: HostedProcess, applicant: Applicant, outcome: AdmissionRefusal
    ) -> AdmissionRefusal:
        """Return the refusal after the last attempt: a client that waited for others learns of a pause."""
        if outcome.reason != "waiting_for_workers":
            return outcome
        _, refusal = await self._store.database.look_up(lambda connection: self._decide(connection, process, applicant))
        return rules.PAUSED if refusal is rules.PAUSED else outcome

    async def _touch(self, client_id: str, used_at: dt.datetime | None) -> None:
        """Record that a client is used, unless the recorded time is less than `USED_S` old."""
        now = self._clock.now()
        if used_at is not None and abs((now - used_at).total_seconds()) >= USED_S:
            await self._store.database.write(lambda connection: touch_client(connection, client_id, now))

    def recall(self, key_hash: str) -> tuple[Assignment, Cycle] | None:
        """Return the assignment and cycle of a recent key from memory, if the cycle's attempt is still open."""
        known = self._keys.get(key_hash)
        if known is None:
            return None
        admission, process_id = known
        current = self._scheduler.current.get(process_id)
        fresh = (
            current is not None
            and (current.id, current.attempt) == (admission.cycle.id, admission.cycle.attempt)
            and current.state is CycleState.OPEN
        )
        if current is None or not fresh:
            del self._keys[key_hash]
            return None
        return admission.assignment, current

    def forget(self, key_hash: str) -> None:
        """Drop a key that was used."""
        self._keys.pop(key_hash, None)

    def _remember(self, process: HostedProcess, admission: Admission) -> None:
        key_hash = hash_secret(admission.request_key)
        self.forget(self._key_of.get(admission.assignment.id, ""))
        self._keys[key_hash] = (admission, process.id)
        self._key_of[admission.assignment.id] = key_hash
        for remembered in (self._keys, self._key_of):
            if len(remembered) > MAX_KEYS:
                remembered.popitem(last=False)

    async def _admit(
        self, process: HostedProcess, applicant: Applicant, *, is_quorum: bool
    ) -> Admission | AdmissionRefusal:
        """Admit the client durably; a quorum opens the cycle first if it is not open."""
        key = new_secret()
        request = self._request(process, applicant, hash_secret(key), is_quorum=is_quorum)
        outcome = await self._store.database.write_all(self._admitting, request, process.id)
        if isinstance(outcome, AdmissionRefusal):
            return outcome
        return Admission(key, outcome.assignment, outcome.cycle, outcome.is_opening)

    def _decide(
        self, connection: sa.Connection, process: HostedProcess, applicant: Applicant
    ) -> tuple[rows.Application, AdmissionRefusal | None]:
        now = self._clock.now()
        stored = rows.get_application(connection, applicant.client_id, process.id)
        found = find_applicant(connection, self._request(process, applicant), stored, now)
        return stored, rules.decide_admission(stored.cycle, found, now)

    def _request(
        self, process: HostedProcess, applicant: Applicant, key_hash: str = "", *, is_quorum: bool = False
    ) -> AdmissionRequest:
        used_since = self._quotas.used_since()
        return AdmissionRequest(process.id, process.config, applicant, key_hash, used_since, is_quorum)

    async def _is_quorum(self, process: HostedProcess, cycle: Cycle, client_id: str, stay_s: float) -> bool:
        return await self.presence.is_quorum(cycle, client_id, stay_s, process.config.candidates_needed)

    def _opened(self, cycle: Cycle) -> None:
        """``hosted -> open`` was committed."""
        self.presence.clear(cycle.process_id)
        self._scheduler.watch(cycle)
        notify_process(self._store.signals, cycle.process_id)

    # -- random selection ----------------------------------------------------------------------------------------------

    async def _draw(self, process: HostedProcess, window_s: float) -> None:
        """Return in a random order among all calls of the same window.

        The windows of replicas end together, and each call returns at a random moment of the time after that.
        """
        if self._store.is_shared:
            left_s = rules.window_left_s(self._clock.now(), window_s)
            await self._stopping.sleep(left_s + DRAW_S * random.SystemRandom().random())
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._draws.setdefault((process.id, window_s), [])
        waiting.append(turn)
        if len(waiting) == 1:
            task = asyncio.create_task(self._end_draw(process.id, window_s))
            self._drawing.add(task)
            task.add_done_callback(self._drawing.discard)
        await turn

    async def _end_draw(self, process_id: int, window_s: float) -> None:
        await self._stopping.sleep(window_s)
        turns = self._draws.pop((process_id, window_s))
        random.SystemRandom().shuffle(turns)
        # The first one that is woken queries the database first, whose queue keeps the order.
        for turn in turns:
            if not turn.done():
                turn.set_result(None)


def _rests(process: HostedProcess) -> bool:
    return process.config.do_not_reuse_workers_until_cycle > 0


def _in_pool(refusal: AdmissionRefusal, process: HostedProcess) -> AdmissionRefusal:
    """Return the refusal; with random selection, a full cycle means that the client was not drawn."""
    if refusal.reason == "cycle_full" and process.config.pool_selection == "random":
        return replace(refusal, reason="not_drawn", detail="the lot did not fall on this client")
    return refusal
