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
from pygrid.features.cycles.quotas import DeviceQuotas
from pygrid.features.cycles.scheduler import CycleScheduler
from pygrid.ids import hash_secret, new_secret
from pygrid.lifecycle import ClientGone, Stopping
from pygrid.storage import reports as rows
from pygrid.storage.clients import touch_client
from pygrid.storage.cycle_transitions import open_cycle
from pygrid.storage.signals import cycle_topic, event_topic, wait_for_any
from pygrid.storage.store import Store

PRESENCE_S = 3.0 * rules.POLL_S
"""Seconds for which a client counts as a candidate after it was asked to come back."""

USED_S = 3600.0
"""Precision of the recorded time of a client's last use; not each request writes a row."""

MAX_KEYS = 50_000
"""Request keys that are kept in memory, about 40 MB; the database finds older ones."""


@dataclass(frozen=True)
class Applicant:
    """A client that requests admission. Speeds are in Mbit/s."""

    client_id: str
    download: float | None
    upload: float | None
    native: bool
    """Only a native client may renew an assignment whose key it lost."""


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
        self._candidates: dict[int, dict[str, dt.datetime]] = {}
        self._draws: dict[int, list[asyncio.Future[None]]] = {}
        self._drawing: set[asyncio.Task[None]] = set()
        self._keys: OrderedDict[str, tuple[Admission, int]] = OrderedDict()
        self._key_of: OrderedDict[int, str] = OrderedDict()

    async def request(
        self, process: HostedProcess, applicant: Applicant, wait_s: float, departed: Callable[[], Awaitable[None]]
    ) -> Admission | AdmissionRefusal:
        """Admit a client, after waiting up to ``wait_s`` for a place, or return the reason of the refusal.

        Args:
            departed: returns once the client has disconnected; called only if the client has to wait.
        Raises:
            NotFound: ``worker_not_found``: the process has no such client.
            ClientGone: the client disconnected while it waited; it is neither admitted nor counted as a candidate.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + wait_s
        gone: asyncio.Future[None] | None = None
        try:
            while True:
                changed = self._store.signals.next(cycle_topic(process.id))
                if process.config.pool_selection == "random":
                    await self._draw(process)
                outcome = await self._try(
                    process, applicant, max(PRESENCE_S, end - loop.time()), again=gone is not None
                )
                remaining = end - loop.time()
                if isinstance(outcome, Admission) or outcome.timeout_s is None or outcome.reason == "too_slow":
                    return outcome
                if remaining <= 0 or self._stopping.is_set():
                    return outcome
                gone = gone or asyncio.ensure_future(departed())
                await wait_for_any([changed, gone], remaining)
                if gone.done():
                    self._candidates.get(process.id, {}).pop(applicant.client_id, None)
                    raise ClientGone
        finally:
            if gone is not None:
                gone.cancel()

    async def _try(
        self, process: HostedProcess, applicant: Applicant, stay_s: float, again: bool
    ) -> Admission | AdmissionRefusal:
        """Make one attempt. The scheduler's state and one read spare most refusals a write transaction."""
        current = self._scheduler.current(process.id)
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
        opens = refusal is not None and refusal.reason == "waiting_for_workers"
        if refusal is not None and not (opens and self._is_quorum(process, applicant.client_id, stay_s)):
            return _in_pool(refusal, process)
        outcome = await self._store.database.write(
            lambda connection: self._admit(connection, process, applicant, opens)
        )
        if isinstance(outcome, AdmissionRefusal):
            return _in_pool(outcome, process)
        self._remember(process, outcome)
        if outcome.opened:
            self._opened(outcome.cycle)
        return outcome

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
        current = self._scheduler.current(process_id)
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

    def _admit(
        self, connection: sa.Connection, process: HostedProcess, applicant: Applicant, opens: bool
    ) -> Admission | AdmissionRefusal:
        """Admit the client in the caller's transaction; with ``opens``, open the cycle first if it is not open."""
        found, refusal = self._decide(connection, process, applicant)
        opened = opens and refusal is not None and refusal.reason == "waiting_for_workers"
        if opened:
            open_cycle(connection, found.cycle, process.config, self._clock.now())
            found, refusal = self._decide(connection, process, applicant)
        if refusal is not None:
            return refusal
        key = new_secret()
        if found.own is None:
            now = self._clock.now()
            own = rows.put_assignment(connection, found.cycle.id, applicant.client_id, hash_secret(key), now)
        else:
            own = rows.renew_assignment(connection, found.own, hash_secret(key))
        return Admission(key, own, found.cycle, opened)

    def _decide(
        self, connection: sa.Connection, process: HostedProcess, applicant: Applicant
    ) -> tuple[rows.Application, AdmissionRefusal | None]:
        found = rows.get_application(connection, applicant.client_id, process.id)
        cycle, own = found.cycle, found.own
        used_since = self._quotas.used_since()
        if used_since is not None and found.used_at is not None and found.used_at < used_since:
            raise rows.worker_not_found()
        if found.process_state == "finished":
            return found, rules.FINISHED
        if found.has_left:
            return found, rules.LEFT
        if applicant.native and own is not None and rules.may_renew(cycle, own, self._clock.now()):
            return found, None
        refusal = rules.admit(
            cycle,
            process.config,
            self._clock.now(),
            own=own,
            last_sequence=rows.find_last_sequence(connection, applicant.client_id, cycle.sequence)
            if _rests(process)
            else None,
            download=applicant.download,
            upload=applicant.upload,
        )
        return found, refusal

    # -- a cycle opens when enough clients have requested admission ----------------------------------------------------

    def _is_quorum(self, process: HostedProcess, client_id: str, stay_s: float) -> bool:
        """Count a client as present for ``stay_s`` and return whether enough clients are present.

        The client that completes the quorum wakes all others that wait. Each of them tries again, and the first
        transaction opens the cycle. The writer puts these transactions into one commit.
        """
        now = self._clock.now()
        present = self._candidates.setdefault(process.id, {})
        was_quorum = len(present) >= process.config.candidates_needed
        present[client_id] = now + dt.timedelta(seconds=stay_s)
        for gone in [candidate for candidate, until in present.items() if until <= now]:
            del present[gone]
        is_quorum = len(present) >= process.config.candidates_needed
        if is_quorum and not was_quorum:
            self._store.signals.notify(cycle_topic(process.id))
        return is_quorum

    def _opened(self, cycle: Cycle) -> None:
        """``hosted -> open`` was committed."""
        self._candidates.pop(cycle.process_id, None)
        self._scheduler.watch(cycle)
        self._store.signals.notify(cycle_topic(cycle.process_id))
        self._store.signals.notify(event_topic(cycle.process_id))

    # -- random selection ----------------------------------------------------------------------------------------------

    async def _draw(self, process: HostedProcess) -> None:
        """Return in a random order among all calls of the same window."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._draws.setdefault(process.id, [])
        waiting.append(turn)
        if len(waiting) == 1:
            task = asyncio.create_task(self._end_draw(process))
            self._drawing.add(task)
            task.add_done_callback(self._drawing.discard)
        await turn

    async def _end_draw(self, process: HostedProcess) -> None:
        await self._stopping.sleep(process.config.pool_window_s)
        turns = self._draws.pop(process.id)
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
