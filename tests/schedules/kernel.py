"""A scheduler of actors with virtual time, a store with row locks, and processes that crash and pause.

An actor is a generator. Each ``yield`` is a place where others can run, where its process can crash or be paused:

    yield                   others may run
    yield seconds           sleep until this time of the database
    yield waiting           sleep until somebody wakes this list (a lock, a request)
    yield topic, seconds    sleep until a signal on this topic, or until this time

Everything that is not determined by the code is drawn from one sequence of numbers from 0 to 1. So a sequence is a
schedule. The number 0 always means the quiet choice: the same actor goes on, and nothing fails.
"""

from __future__ import annotations

import datetime as dt
import heapq
from collections.abc import Callable, Generator, Iterable
from typing import Any

from pygrid.core.leases import LEASE_S

Steps = Generator[Any, None, None]
Draw = Callable[[], float]

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
IDLE_S = 10.0
"""PostgreSQL's `idle_in_transaction_session_timeout`: a paused process keeps its row locks for this long."""
MAX_STEPS = 3000
"""A schedule that makes more steps does not end."""


class Broken(AssertionError):
    """An invariant does not hold."""

    def __init__(self, invariant: str, detail: str) -> None:
        super().__init__(f"{invariant}: {detail}")
        self.invariant = invariant


class CommitRefused(Exception):
    """The transaction was undone, for example by a serialization failure or a lost connection."""


class CommitUnknown(Exception):
    """The transaction was committed, and its answer was lost."""


class Replica:
    """One process in one life. A restarted process is another replica, with another instance."""

    def __init__(self, instance: str) -> None:
        self.instance = instance
        self.is_dead = False
        self.is_paused = False
        self.seen_until = float("inf")
        """End of its row in `replicas`; infinite while it writes heartbeats."""
        self.clock_s = 0.0
        """Error of the clock of its machine."""
        self.frozen: list[Actor] = []
        self.transactions: set[Transaction] = set()


class Actor:
    """A generator with the process that it runs in; None: it is not in a process of the Domain."""

    __slots__ = ("name", "replica", "resume", "token")

    def __init__(self, name: str, steps: Steps, replica: Replica | None) -> None:
        self.name = name
        self.resume = steps.send
        self.replica = replica
        self.token = 0
        """Incremented by each wake, so that the other thing that it slept for is ignored."""


class Topic:
    """Actors that sleep until a signal."""

    __slots__ = ("name", "sleeping")

    def __init__(self, name: str) -> None:
        self.name = name
        self.sleeping: list[tuple[Actor, int]] = []


class Kernel:
    """Actors, time and locks.

    Args:
        draw: returns the next number of the schedule, at least 0 and less than 1.
        is_traced: whether to keep what happens in `trace`.
    """

    def __init__(self, draw: Draw, *, is_traced: bool = False) -> None:
        self.draw = draw
        self.now = 0.0
        """Seconds of the database's clock, and of each monotonic clock."""
        self.ready: list[Actor] = []
        self.locks: dict[Any, list[Actor]] = {}
        self.replicas: list[Replica] = []
        """All that were started, the dead ones too."""
        self.trace: list[str] | None = [] if is_traced else None
        self.current: Actor = Actor("world", _nothing(), None)
        self.loss = 0.0
        """Share of the signals that are lost."""
        self.refusals = 0.0
        """Share of the commits that are undone, and of those whose answer is lost."""
        self.stalls = 0.0
        """Share of the steps that take long."""
        self._timers: list[tuple[float, int, Any, int]] = []
        self._num_timers = 0
        self._spawned: list[Steps] = []
        self._time_at, self._time = 0.0, START

    # -- actors --------------------------------------------------------------------------------------------------------

    def spawn(self, name: str, steps: Steps, replica: Replica | None = None) -> Actor:
        """Start an actor."""
        actor = Actor(name, steps, replica)
        self._spawned.append(steps)
        self.wake(actor)
        return actor

    def close(self) -> None:
        """End all actors, also those of dead processes, so that the garbage collector finds none in the middle."""
        for steps in self._spawned:
            steps.close()

    def wake(self, actor: Actor) -> None:
        """Let a sleeping actor go on; later, if its process is paused; never, if it is dead."""
        replica = actor.replica
        if replica is None or not (replica.is_dead or replica.is_paused):
            self.ready.append(actor)
        elif not replica.is_dead:
            replica.frozen.append(actor)

    def notify(self, topic: Topic) -> None:
        """Wake the actors that sleep on a topic. A lost signal reaches none of them."""
        sleeping, topic.sleeping = topic.sleeping, []
        for actor, token in sleeping:
            if actor.token != token:
                continue
            if self.loss and self.draw() > 1.0 - self.loss:
                topic.sleeping.append((actor, token))
                continue
            actor.token += 1
            self.wake(actor)

    def call_at(self, at: float, function: Callable[[], None]) -> None:
        """Call a function at a time."""
        self._num_timers += 1
        heapq.heappush(self._timers, (at, self._num_timers, function, 0))

    def log(self, what: str) -> None:
        """Add a line to the trace."""
        if self.trace is not None:
            self.trace.append(f"{self.now:9.2f} s  {self.current.name:<16} {what}")

    def time(self) -> dt.datetime:
        """The time of the database."""
        if self._time_at != self.now:
            self._time_at, self._time = self.now, START + dt.timedelta(seconds=self.now)
        return self._time

    def time_of(self, replica: Replica) -> dt.datetime:
        """The time of the clock of a replica's machine."""
        return self.time() + dt.timedelta(seconds=replica.clock_s)

    def chance(self, share: float) -> bool:
        """Whether something happens that is not the quiet choice."""
        return share > 0.0 and self.draw() > 1.0 - share

    def stall(self, most_s: float) -> float | None:
        """Until when an actor stalls: its message is slow, or its thread gets no processor; None: it goes on."""
        if not self.stalls or self.draw() <= 1.0 - self.stalls:
            return None
        until = self.now + most_s * self.draw()
        if self.trace is not None:
            self.log(f"stalls until {until:.2f} s")
        return until

    # -- running -------------------------------------------------------------------------------------------------------

    def run(self, faults: Iterable[tuple[int, Callable[[], None]]]) -> int:
        """Run until no actor is left; returns the number of steps.

        Args:
            faults: what the adversary does, each with the number of the step before which it does it, in order.
        Raises:
            Broken: an invariant does not hold, or there is no end.
        """
        ready, draw, pending = self.ready, self.draw, iter(faults)
        fault_at, fault = next(pending, (MAX_STEPS, None))
        step = 0
        while True:
            if not ready:
                if not self._advance():
                    return step
                continue
            step += 1
            if step >= fault_at:
                if fault is None:
                    raise Broken("everything ends", f"{step} steps are not enough")
                fault()
                fault_at, fault = next(pending, (MAX_STEPS, None))
                continue
            chosen = int(draw() * len(ready))
            self.current = actor = ready[chosen]
            try:
                wait = actor.resume(None)
            except StopIteration:
                wait = ready  # any list: the actor is dropped from those that are ready
                actor.token = -1
            if wait is None:
                continue
            last = ready.pop()
            if last is not actor:
                ready[chosen] = last
            if type(wait) is float:
                self._num_timers += 1
                heapq.heappush(self._timers, (wait, self._num_timers, actor, actor.token))
            elif type(wait) is tuple:
                topic, until = wait
                topic.sleeping.append((actor, actor.token))
                self._num_timers += 1
                heapq.heappush(self._timers, (until, self._num_timers, actor, actor.token))
            elif wait is not ready:
                wait.append(actor)

    def pass_time(self, seconds: float) -> None:
        """Let time pass while actors are ready: they are slow."""
        self.now += seconds
        timers = self._timers
        while timers and timers[0][0] <= self.now:
            self._fire(heapq.heappop(timers))

    def _advance(self) -> bool:
        """Go to the next time at which something happens; False if nothing will."""
        timers = self._timers
        if not timers:
            return False
        first = heapq.heappop(timers)
        self.now = max(self.now, first[0])
        self._fire(first)
        while timers and timers[0][0] <= self.now:
            self._fire(heapq.heappop(timers))
        return True

    def _fire(self, timer: tuple[float, int, Any, int]) -> None:
        target = timer[2]
        if type(target) is not Actor:
            target()
        elif target.token == timer[3]:
            target.token += 1
            self.wake(target)

    # -- processes -----------------------------------------------------------------------------------------------------

    @property
    def live(self) -> list[Replica]:
        """Replicas that a balancer would choose."""
        return [replica for replica in self.replicas if not (replica.is_dead or replica.is_paused)]

    def crash(self, replica: Replica) -> None:
        """End a process without warning. Its transactions are undone, and its memory is lost."""
        self.log(f"{replica.instance} crashes")
        replica.is_dead = True
        replica.seen_until = min(replica.seen_until, self.now + LEASE_S)
        for transaction in tuple(replica.transactions):
            transaction.roll_back()
        self.ready[:] = [actor for actor in self.ready if actor.replica is not replica]

    def pause(self, replica: Replica, seconds: float, then: Callable[[Replica], None]) -> None:
        """Stop a process for a time, as SIGSTOP does.

        Args:
            then: called when it goes on, if its row in `replicas` has ended meanwhile.
        """
        self.log(f"{replica.instance} is paused for {seconds:.0f} s")
        replica.is_paused = True
        replica.seen_until = self.now + LEASE_S
        replica.frozen = [actor for actor in self.ready if actor.replica is replica]
        self.ready[:] = [actor for actor in self.ready if actor.replica is not replica]

        def abort() -> None:
            for transaction in tuple(replica.transactions):
                transaction.roll_back()

        def go_on() -> None:
            if replica.is_dead:
                return
            self.log(f"{replica.instance} goes on")
            replica.is_paused = False
            self.ready.extend(replica.frozen)
            replica.frozen = []
            if self.now >= replica.seen_until:
                then(replica)
            else:
                replica.seen_until = float("inf")

        if seconds > IDLE_S:
            self.call_at(self.now + IDLE_S, abort)
        self.call_at(self.now + seconds, go_on)


class Transaction:
    """A transaction at READ COMMITTED with row locks.

    ``while (waiting := transaction.lock(row)) is not None: yield waiting`` takes a lock. Reads see what is committed.
    """

    __slots__ = ("_held", "_is_open", "_kernel", "_replica", "_writes")

    def __init__(self, kernel: Kernel, replica: Replica) -> None:
        self._kernel = kernel
        self._replica = replica
        self._held: list[tuple[int, Any]] = []
        self._writes: list[tuple[dict[Any, Any] | None, Any, Any]] = []
        self._is_open = True
        replica.transactions.add(self)

    def lock(self, row: tuple[int, Any]) -> list[Actor] | None:
        """Take the lock of a row; returns the list on which to wait if another transaction has it.

        Args:
            row: its rank and its name. Each transaction takes locks in ascending order, or deadlocks are possible.
        """
        held = self._held
        if held and held[-1] >= row:
            raise Broken("locks are taken in one order", f"{row} after {held[-1]}")
        locks = self._kernel.locks
        waiting = locks.get(row)
        if waiting is not None:
            return waiting
        if self._is_open:
            locks[row] = []
            held.append(row)
        return None

    def put(self, table: dict[Any, Any], key: Any, value: Any) -> None:
        """Write a row; None deletes it. If the value is a function, it gets the row at the commit."""
        self._writes.append((table, key, value))

    def then(self, function: Callable[[], None]) -> None:
        """Call a function at the commit, for what others do who see the change."""
        self._writes.append((None, function, None))

    def may_idle(self) -> None:
        """Let the database undo the transaction if it is still open after `IDLE_S`."""
        self._kernel.call_at(self._kernel.now + IDLE_S, self.roll_back)

    def commit(self) -> None:
        """Make the writes durable and release the locks.

        Raises:
            CommitRefused: nothing was changed. CommitUnknown: everything was, and the caller cannot know it.
        """
        kernel = self._kernel
        if not self._is_open:
            raise CommitRefused
        luck = kernel.draw() if kernel.refusals else 0.0
        if luck > 1.0 - kernel.refusals:
            kernel.log("commit refused")
            self.roll_back()
            raise CommitRefused
        for table, key, value in self._writes:
            if table is None:
                key()
            elif value is None:
                table.pop(key, None)
            elif callable(value):
                table[key] = value(table.get(key))
            else:
                table[key] = value
        self.roll_back()
        if luck > 1.0 - 2 * kernel.refusals:
            kernel.log("answer of the commit lost")
            raise CommitUnknown

    def roll_back(self) -> None:
        """Release the locks. What was not committed is forgotten."""
        self._is_open = False
        self._replica.transactions.discard(self)
        locks = self._kernel.locks
        for row in self._held:
            for actor in locks.pop(row):
                self._kernel.wake(actor)
        self._held = []


def _nothing() -> Steps:
    yield
