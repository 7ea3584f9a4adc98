"""The model of garbage: processes store bytes under their hash and name them in rows, and a leader deletes the rest.

put ──> PUT if absent ──> row
    └─> there: postpone the end of the bytes ──> look again ──> row
leader of gc ──> doomed row locked ──> no row names the bytes ──> DELETE ──> doomed row deleted
"""

from __future__ import annotations

import datetime as dt
from functools import partial
from typing import Any

from pygrid.core import leases
from pygrid.core.leases import FREE, FencedLease
from schedules import garbage_rules as garbage
from schedules.kernel import START, Broken, CommitRefused, CommitUnknown, Kernel, Replica, Steps, Transaction
from schedules.mutants import Mutant

HOUR_S = 3600.0
NUM_KEYS = 2
LEASE = (0, 0)
"""Lock of the lease of the leader."""


class Garbage:
    """Some bytes, which are stored, named, dropped and deleted."""

    def __init__(self, kernel: Kernel, mutant: Mutant | None) -> None:
        self.kernel = kernel
        self.mutant = mutant
        draw = kernel.draw
        kernel.refusals = (0.0, 0.1, 0.4)[int(draw() * 3)]
        kernel.stalls = (0.0, 0.2, 0.4)[int(draw() * 3)]
        # What is durable.
        self.objects: dict[int, float] = {}
        """When the bytes of each key were stored."""
        self.rows: dict[int, int] = {}
        """The key that each row names."""
        self.doomed: dict[int, dt.datetime] = {}
        self.lease: dict[str, FencedLease] = {"gc": FREE}
        # What the model knows.
        self.num_in_flight = 0
        """Puts whose row may come."""
        self.num_busy = 0
        """Actors other than those that delete."""
        self._num_rows = 0
        for key in range(NUM_KEYS):
            self._begin(key, draw())
        for _ in range(2):
            self.start()
        for number in range(3 + int(draw() * 3)):
            self.num_busy += 1
            kernel.spawn(f"user {number}", self.use(0.7 * HOUR_S * draw() ** 3))

    def _begin(self, key: int, state: float) -> None:
        """The state of a key at the beginning."""
        if state < 0.1:
            return
        self.objects[key] = -1.0 * HOUR_S if state < 0.2 else -30.0 * HOUR_S
        if state < 0.4:
            self._num_rows += 1
            self.rows[self._num_rows] = key
        elif state < 0.9:
            self.doomed[key] = START + dt.timedelta(seconds=HOUR_S * (state - 0.75))

    # -- the adversary -------------------------------------------------------------------------------------------------

    def fault(self, kind: float, size: float) -> None:
        """Do something to the processes, or let time pass. See `schedules.running.Model`."""
        kernel = self.kernel
        live = kernel.live
        if kind < 0.4 or not live:
            # A row comes within a day after its bytes, because no request takes longer.
            longest_s = HOUR_S if self.num_in_flight else 30.0 * HOUR_S
            kernel.log("time passes")
            kernel.pass_time(1.0 + longest_s * size * size)
        elif kind < 0.7:
            kernel.pause(live[int(size * len(live))], 3.0 + 100.0 * (kind - 0.4), self._exit)
        else:
            kernel.crash(live[int(size * len(live))])
            kernel.call_at(kernel.now + 8.0 * size, self.start)

    def start(self) -> None:
        """Start a process."""
        replica = Replica(f"r{len(self.kernel.replicas) + 1}")
        self.kernel.replicas.append(replica)
        self.kernel.spawn(f"{replica.instance} gc", self.lead(replica), replica)

    def _exit(self, replica: Replica) -> None:
        if self.kernel.chance(0.7):
            self.kernel.call_at(self.kernel.now + 8.0, partial(self.kernel.crash, replica))
        else:
            self.kernel.crash(replica)
        self.kernel.call_at(self.kernel.now + 9.0, self.start)

    # -- users ---------------------------------------------------------------------------------------------------------

    def use(self, wait_s: float) -> Steps:
        """Put bytes, copy a name, or drop one, after a time."""
        kernel = self.kernel
        yield kernel.now + wait_s
        kind, key = kernel.draw(), int(kernel.draw() * NUM_KEYS)
        live = kernel.live
        while not live:
            yield kernel.now + 1.0
            live = kernel.live
        replica = live[int(kernel.draw() * len(live))]
        if kind < 0.7:
            yield from self.put(replica, key)
        elif self.rows:
            row = sorted(self.rows)[int(kernel.draw() * len(self.rows))]
            yield from (self.copy(replica, row) if kind < 0.8 else self.drop(replica, row))
        self.num_busy -= 1

    def put(self, replica: Replica, key: int) -> Steps:
        """Store bytes, and name them in a row."""
        kernel = self.kernel
        self.num_in_flight += 1
        yield
        while key in self.objects and self.mutant is not Mutant.PUT_WITHOUT_POSTPONING:
            if (yield from self._postpone(replica, key)) and key in self.objects:
                break
            yield
        if key not in self.objects:
            self.objects[key] = kernel.now
            kernel.log(f"PUT {key}")
        yield kernel.stall(0.9 * HOUR_S)
        yield from self._name(replica, key)
        self.num_in_flight -= 1

    def _postpone(self, replica: Replica, key: int) -> Any:
        transaction = Transaction(self.kernel, replica)
        while (waiting := transaction.lock((2, key))) is not None:
            yield waiting
        transaction.put(self.doomed, key, garbage.postpone(self.doomed.get(key), self.kernel.time()))
        yield
        try:
            transaction.commit()
        except (CommitRefused, CommitUnknown):
            return replica.is_dead  # the request of a dead process is over: it names nothing
        self.kernel.log(f"postpones {key}")
        yield
        return True

    def _name(self, replica: Replica, key: int) -> Steps:
        if replica.is_dead:
            return
        transaction = Transaction(self.kernel, replica)
        self._put_row(transaction, key)
        yield self.kernel.stall(4.0)
        try:
            transaction.commit()
        except (CommitRefused, CommitUnknown):
            return
        yield

    def _put_row(self, transaction: Transaction, key: int) -> None:
        self._num_rows += 1
        transaction.put(self.rows, self._num_rows, key)
        transaction.then(partial(self._named, key))

    def _named(self, key: int) -> None:
        """Check the bytes when a row is committed."""
        self.kernel.log(f"a row names {key}")
        if key not in self.objects:
            raise Broken("the bytes of a row are there", f"key {key}")

    def copy(self, replica: Replica, row: int) -> Steps:
        """A second row with the name that a row has."""
        transaction = Transaction(self.kernel, replica)
        transaction.may_idle()
        key = self.rows[row]
        self._put_row(transaction, key)
        yield self.kernel.stall(4.0)
        try:
            transaction.commit()
        except (CommitRefused, CommitUnknown):
            return

    def drop(self, replica: Replica, row: int) -> Steps:
        """Delete a row, and doom its bytes if no other row names them."""
        kernel = self.kernel
        transaction = Transaction(kernel, replica)
        transaction.may_idle()
        while (waiting := transaction.lock((1, row))) is not None:
            yield waiting
        key = self.rows.get(row)
        if key is None:
            transaction.roll_back()
            return
        transaction.put(self.rows, row, None)
        if sum(named == key for named in self.rows.values()) == 1:
            while (waiting := transaction.lock((2, key))) is not None:
                yield waiting
            transaction.put(self.doomed, key, garbage.doom_dropped(self.doomed.get(key), kernel.time()))
        yield kernel.stall(4.0)
        try:
            transaction.commit()
        except (CommitRefused, CommitUnknown):
            return
        kernel.log(f"drops a row of {key}")

    # -- the leader ----------------------------------------------------------------------------------------------------

    def lead(self, replica: Replica) -> Steps:
        """Look for garbage now and then; at the end until nothing can be left."""
        kernel = self.kernel
        num_last = 0
        while num_last < 4:
            fence = yield from self._claim(replica)
            if fence is not None:
                for key in range(NUM_KEYS):
                    yield from self.doom(replica, key)
                    yield from self.delete(replica, key)
                if not self.num_busy:
                    kernel.refusals = 0.0  # the last looks succeed
                    num_last += 1
            yield kernel.now + (0.2 * HOUR_S if self.num_busy else 25.0 * HOUR_S)

    def _claim(self, replica: Replica) -> Any:
        transaction = Transaction(self.kernel, replica)
        while (waiting := transaction.lock(LEASE)) is not None:
            yield waiting
        lease = leases.claim(self.lease["gc"], replica.instance, self.kernel.time())
        if lease is None:
            transaction.roll_back()
            return None
        transaction.put(self.lease, "gc", lease)
        yield
        try:
            transaction.commit()
        except (CommitRefused, CommitUnknown):
            return None
        return lease.fence

    def doom(self, replica: Replica, key: int) -> Steps:
        """Doom bytes that no row names and that are old enough."""
        kernel = self.kernel
        if key not in self.objects or key in self.doomed or key in self.rows.values():
            return
        stored_at = START + dt.timedelta(seconds=self.objects[key])
        not_before = garbage.doom_unnamed(stored_at, kernel.time())
        if self.mutant is Mutant.GC_WITHOUT_AGE:
            not_before = kernel.time()
        if not_before is None:
            return
        transaction = Transaction(kernel, replica)
        while (waiting := transaction.lock((2, key))) is not None:
            yield waiting
        if key not in self.doomed:
            transaction.put(self.doomed, key, not_before)
        yield
        try:
            transaction.commit()
        except (CommitRefused, CommitUnknown):
            return
        kernel.log(f"dooms {key}")

    def delete(self, replica: Replica, key: int) -> Steps:
        """Delete doomed bytes under the lock of their row, if no row names them."""
        kernel = self.kernel
        not_before = self.doomed.get(key)
        if not_before is None or kernel.time() < not_before:
            return
        transaction = Transaction(kernel, replica)
        while (waiting := transaction.lock((2, key))) is not None:
            yield waiting
        not_before = self.doomed.get(key)
        if not_before is None or kernel.time() < not_before:
            transaction.roll_back()
            return
        looked_s = kernel.now
        stored_at = START + dt.timedelta(seconds=self.objects.get(key, kernel.now))
        if self.mutant in (Mutant.GC_WITHOUT_AGE, Mutant.DELETE_WITHOUT_AGE):
            stored_at = START - garbage.UNNAMED
        is_named = key in self.rows.values()
        if garbage.may_delete(not_before, stored_at, is_named, kernel.time()):
            transaction.may_idle()
            yield kernel.stall(20.0)
            if self.mutant is not Mutant.GC_WITHOUT_CLOCK and not garbage.is_fresh(looked_s, kernel.now):
                transaction.roll_back()
                return
            self.objects.pop(key, None)
            kernel.log(f"DELETE {key}")
            if key in self.rows.values():
                raise Broken("the bytes of a row are there", f"key {key}")
        elif not is_named and key in self.objects:
            transaction.roll_back()  # too young: later
            return
        transaction.put(self.doomed, key, None)
        yield kernel.stall(4.0)
        try:
            transaction.commit()
        except (CommitRefused, CommitUnknown):
            return

    # -- invariants ----------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Check what holds at the end."""
        left = self.objects.keys() - set(self.rows.values())
        if left:
            raise Broken("all garbage is deleted", f"keys {left}")
