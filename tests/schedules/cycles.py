"""The model of cycles: devices, admissions, reports, partial sums, closing, and followers of events.

device ──> queue of a replica ──> segment PUT ──> AcceptReports under the lock of the cycle ──> 200 ──> folded
closing cycle ──> claimed under a fence ──> partial sums + reports read back ──> checkpoint, if the fence is valid
"""

from __future__ import annotations

import contextlib
import datetime as dt
from dataclasses import replace
from functools import partial
from typing import Any

from pygrid.configuration import read_server_config
from pygrid.core import closing, leases
from pygrid.core import cycles as rules
from pygrid.core.cycles import (
    Admitted,
    Assignment,
    AssignmentState,
    Cycle,
    CycleState,
    Due,
    FoundApplicant,
    FoundReport,
    RepeatedReport,
)
from pygrid.core.leases import FREE, FencedLease
from pygrid.errors import PygridError
from schedules.kernel import Actor, Broken, CommitRefused, CommitUnknown, Kernel, Replica, Steps, Topic, Transaction
from schedules.mutants import Mutant

CONFIGS = [
    read_server_config({"cycle_length": 60, "num_cycles": 1, **fields})
    for fields in (
        {"max_diffs": 2, "max_workers": 2},
        {"min_diffs": 2, "max_diffs": 3},
        {"max_workers": 1, "num_cycles": 2},
        {"max_diffs": 2, "grace_s": 5, "max_workers": 2},
        {"max_diffs": 1, "num_cycles": 2},
        {"min_diffs": 2, "max_workers": 2},
    )
]
POLL_S = 10.0
"""How often a process looks without a signal."""
LONG_POLL_S = 30.0
"""How long a refused device waits for another cycle."""
PROCESS = (0, 0)
"""Lock of the process."""
EVENTS = (2, 0)
"""Lock of the number of events, which is taken last."""
WAITING: list[Actor] = []
"""What a device sleeps on that waits for its answer: nobody wakes this list."""


class Request:
    """What a device asks: admission, or to accept a report."""

    __slots__ = ("answer", "client", "content", "device", "is_answered", "key", "replica")

    def __init__(self, client: str, key: str, content: Any) -> None:
        self.client = client
        self.key = key
        self.content = content
        self.answer: Any = None
        self.is_answered = False


class CycleReplica(Replica):
    """A process that serves devices."""

    def __init__(self, instance: str) -> None:
        super().__init__(instance)
        self.admissions: list[Request] = []
        self.reports: list[Request] = []
        self.is_admitting = False
        self.is_accepting = False
        self.asking: list[Request] = []
        """Requests without an answer."""
        self.sums: dict[int, dict[int, Any]] = {}
        """Folded reports of each cycle: content by id."""
        self.num_segments = 0
        self.num_flushes = 0
        self.mixed: set[int] = set()
        """Cycles whose sum also has reports of other processes."""
        self.closers: set[int] = set()


class Cycles:
    """One process with its devices."""

    def __init__(self, kernel: Kernel, mutant: Mutant | None) -> None:
        self.kernel = kernel
        self.mutant = mutant
        self.config = CONFIGS[int(kernel.draw() * len(CONFIGS))]
        kernel.loss = (0.0, 0.5, 1.0)[int(kernel.draw() * 3)]
        kernel.refusals = (0.0, 0.1)[int(kernel.draw() * 2)]
        kernel.stalls = (0.0, 0.1, 0.3)[int(kernel.draw() * 3)]
        self.notes = (0.0, 0.5)[int(kernel.draw() * 2)]
        self.lost_answers = (0.0, 0.2)[int(kernel.draw() * 2)]
        self.put_failures = (0.0, 0.1)[int(kernel.draw() * 2)]
        # What is durable.
        self.cycles: dict[int, Cycle] = {}
        self.leases: dict[int, FencedLease] = {}
        self.assignments: dict[int, Assignment] = {}
        self.own: dict[tuple[int, str], int] = {}
        self.keys: dict[str, int] = {}
        self.reports: dict[int, tuple[str, int, str, str]] = {}
        """(segment, index in it, instance, request key) by the id of the assignment."""
        self.partials: dict[tuple[int, str], closing.PartialSum] = {}
        self.objects: dict[str, Any] = {}
        self.checkpoints: dict[int, dict[Any, float]] = {}
        self.events: dict[int, str] = {}
        self.process: dict[str, Any] = {"state": "hosted", "num_events": 0}
        # What the checks know.
        self.accepted: set[str] = set()
        """Request keys that were answered with 200."""
        self.refused: set[str] = set()
        """Request keys that were answered with 410."""
        self.seen: list[list[int]] = []
        self._num_replicas = self._num_keys = self._num_assignments = self._sequence = 0
        self.event_topic = Topic("event")
        self.cycle_topic = Topic("cycle")
        self._put_cycle(1, CycleState.OPEN)
        self.newest = {"id": 1}
        for _ in range(3 if kernel.draw() > 0.5 else 2):
            self.start()
        for number in range(2 + int(kernel.draw() * 2)):
            kernel.spawn(f"device {number}", self.device(f"client-{number}"))
        self.seen.append([])
        kernel.spawn("follower", self.follow(self.seen[0]))

    # -- the adversary -------------------------------------------------------------------------------------------------

    def fault(self, kind: float, size: float) -> None:
        """Do something to the processes, or let time pass.

        Args:
            kind: 0 to 1; chooses what happens.
            size: 0 to 1; how long it takes.
        """
        kernel = self.kernel
        live = kernel.live
        if kind < 0.2:
            kernel.log("time passes")
            kernel.pass_time(0.5 + 80.0 * size * size)
        elif kind < 0.5 and live:
            self._pause(live[int(size * len(live))], 3.0 + 100.0 * (kind - 0.2))
        elif kind < 0.75 and live:
            self.crash(live[int(size * len(live))])
            kernel.call_at(kernel.now + 8.0 * size, self.start)
        elif kind < 0.95 and live:
            replica = live[int(size * len(live))]
            kernel.spawn("operator", self.note(replica), replica)
        elif live:
            replica = live[int(size * len(live))]
            kernel.spawn("owner", self.finish(replica), replica)

    def start(self) -> None:
        """Start a process."""
        self._num_replicas += 1
        self.kernel.replicas.append(CycleReplica(f"r{self._num_replicas}"))

    def crash(self, replica: Replica) -> None:
        """End a process; its devices notice at once, and ask another one."""
        self.kernel.crash(replica)
        self._give_up(replica)

    def _pause(self, replica: Replica, seconds: float) -> None:
        self.kernel.pause(replica, seconds, self._exit)
        self.kernel.call_at(self.kernel.now + 0.5 * seconds, partial(self._give_up, replica))

    def _exit(self, replica: Replica) -> None:
        """A process whose row has ended exits: at once, or after what it was about to do."""
        if self.kernel.chance(0.5):
            self.kernel.call_at(self.kernel.now + 1.0, partial(self.crash, replica))
        else:
            self.crash(replica)
        self.kernel.call_at(self.kernel.now + 2.0, self.start)

    def _give_up(self, replica: Replica) -> None:
        """The devices that wait for this process stop waiting; what they sent may still be handled."""
        assert isinstance(replica, CycleReplica)
        asking, replica.asking = replica.asking, []
        for request in asking:
            if not request.is_answered:
                request.is_answered = True
                self.kernel.wake(request.device)

    # -- devices -------------------------------------------------------------------------------------------------------

    def device(self, client: str) -> Steps:
        """Ask for a cycle, report, and come back, until the process has finished."""
        kernel = self.kernel
        me = kernel.current
        while True:
            request = Request(client, "", None)
            if not self._send(me, request):
                yield kernel.now + 1.0
                continue
            yield WAITING
            answer = request.answer
            if answer is None or kernel.chance(self.lost_answers):
                continue  # lost
            if type(answer) is rules.AdmissionRefusal:
                if answer.timeout_s is None:
                    return
                yield self.cycle_topic, kernel.now + LONG_POLL_S
                continue
            if kernel.chance(0.05):  # a device that is not seen again in this cycle
                yield kernel.now + 90.0
                continue
            key, cycle_id = answer
            content = (client, cycle_id)
            while True:
                request = Request(client, key, content)
                if not self._send(me, request):
                    yield kernel.now + 1.0
                    continue
                yield WAITING
                if request.answer is not None and not kernel.chance(self.lost_answers):
                    break
                yield kernel.now + 0.5
            if request.answer == 200:
                yield self.cycle_topic, kernel.now + LONG_POLL_S

    def _send(self, device: Actor, request: Request) -> bool:
        """Hand a request to a process; False if there is none."""
        kernel = self.kernel
        live = kernel.live
        if not live:
            return False
        replica = live[int(kernel.draw() * len(live))]
        assert isinstance(replica, CycleReplica)
        request.device, request.replica = device, replica
        replica.asking.append(request)
        if request.key:
            replica.reports.append(request)
            if not replica.is_accepting:
                replica.is_accepting = True
                kernel.spawn(f"{replica.instance} reports", self.accept_reports(replica), replica)
        else:
            replica.admissions.append(request)
            if not replica.is_admitting:
                replica.is_admitting = True
                kernel.spawn(f"{replica.instance} admissions", self.admit_clients(replica), replica)
        return True

    def _answer(self, request: Request, answer: Any) -> None:
        """Answer a request. None is a failure (503), after which the device asks again."""
        if request.is_answered:
            return  # the device waits no more
        request.is_answered = True
        request.replica.asking.remove(request)
        request.answer = answer
        self.kernel.wake(request.device)

    # -- admission -----------------------------------------------------------------------------------------------------

    def admit_clients(self, replica: CycleReplica) -> Steps:
        """Decide on what waits, in one transaction."""
        kernel = self.kernel
        while replica.admissions:
            batch, replica.admissions = replica.admissions, []
            transaction = Transaction(kernel, replica)
            cycle_id = 0
            while cycle_id != self.newest["id"]:
                cycle_id = self.newest["id"]
                if self.mutant is Mutant.NO_LOCK_AT_ADMIT:
                    continue
                while (waiting := transaction.lock((1, cycle_id))) is not None:
                    yield waiting
            before = cycle = self.cycles[cycle_id]
            now = kernel.time()
            answers = []
            for request in batch:
                cycle, answer = self._admit(transaction, cycle, request.client, now)
                answers.append(answer)
            if not any(type(answer) is tuple for answer in answers):
                transaction.roll_back()
            else:
                if self.mutant is Mutant.NO_LOCK_AT_ADMIT:
                    added = cycle.num_assigned - before.num_assigned
                    transaction.put(self.cycles, cycle_id, partial(_count_assigned, added))
                elif cycle is not before:
                    transaction.put(self.cycles, cycle_id, cycle)
                yield kernel.stall(4.0)
                try:
                    transaction.commit()
                except (CommitRefused, CommitUnknown):
                    answers = [None] * len(batch)
                yield
            if kernel.trace is not None:
                told = [answer.reason if type(answer) is rules.AdmissionRefusal else answer for answer in answers]
                kernel.log(f"admission to cycle {cycle_id}: {told}")
            for request, answer in zip(batch, answers, strict=True):
                self._answer(request, answer)
        replica.is_admitting = False

    def _admit(
        self, transaction: Transaction, cycle: Cycle, client: str, now: dt.datetime
    ) -> tuple[Cycle, rules.AdmissionRefusal | tuple[str, int]]:
        number = self.own.get((cycle.id, client))
        own = None if number is None else self.assignments[number]
        found = FoundApplicant(self.config, own, self.process["state"], may_renew=True)
        cycle, outcome = rules.admit(cycle, found, now)
        if type(outcome) is not Admitted:
            return cycle, outcome
        self._num_keys += 1
        key = f"key-{self._num_keys}"
        if number is None:
            self._num_assignments += 1
            number = self._num_assignments
            transaction.put(self.own, (cycle.id, client), number)
        else:
            for old in [old for old, of in self.keys.items() if of == number]:
                transaction.put(self.keys, old, None)
        transaction.put(self.assignments, number, Assignment(number, cycle.id, client, AssignmentState.ASSIGNED))
        transaction.put(self.keys, key, number)
        return cycle, (key, cycle.id)

    # -- reports -------------------------------------------------------------------------------------------------------

    def accept_reports(self, replica: CycleReplica) -> Steps:
        """Send what waits as one segment, and accept it in one transaction."""
        kernel = self.kernel
        while replica.reports:
            batch, replica.reports = replica.reports, []
            replica.num_segments += 1
            segment = f"{replica.instance}-{replica.num_segments}.seg"
            yield
            if kernel.chance(self.put_failures):
                kernel.log("PUT of a segment fails")
                for request in batch:
                    self._answer(request, None)
                continue
            self.objects[segment] = [request.content for request in batch]
            if kernel.trace is not None:
                kernel.log(f"PUT {segment}: {self.objects[segment]}")
            yield kernel.stall(20.0)
            transaction = Transaction(kernel, replica)
            for cycle_id in sorted({request.content[1] for request in batch}):
                if self.mutant is Mutant.NO_LOCK_AT_ACCEPT:
                    continue
                while (waiting := transaction.lock((1, cycle_id))) is not None:
                    yield waiting
            now = kernel.time()
            answers, added, closed = self._accept(transaction, replica, segment, batch, now)
            if closed:
                yield from self._put_events(transaction, [f"cycle_{cycle.state.value}" for cycle in closed])
            if self.mutant is Mutant.FOLD_BEFORE_COMMIT:
                self._fold(replica, added)
            yield kernel.stall(4.0)
            try:
                transaction.commit()
            except (CommitRefused, CommitUnknown):
                yield
                for request in batch:
                    self._answer(request, None)
                continue
            yield
            if kernel.trace is not None:
                kernel.log(f"answers {answers}")
            for request, answer in zip(batch, answers, strict=True):
                if answer == 200:
                    self.accepted.add(request.key)
                elif answer == 410:
                    self.refused.add(request.key)
                self._answer(request, answer)
            if self.mutant is not Mutant.FOLD_BEFORE_COMMIT:
                self._fold(replica, added)
            for cycle in closed:
                self._announce(cycle, replica)
        replica.is_accepting = False

    def _accept(
        self, transaction: Transaction, replica: CycleReplica, segment: str, batch: list[Request], now: dt.datetime
    ) -> tuple[list[int], list[tuple[int, int, Any]], list[Cycle]]:
        """Decide on each report; returns the answers, the added reports and the cycles that changed their state."""
        config = self.config
        before: dict[int, Cycle] = {}
        after: dict[int, Cycle] = {}
        new: dict[int, Assignment] = {}
        added: list[tuple[int, int, Any]] = []
        answers = []
        for index, request in enumerate(batch):
            number = self.keys.get(request.key)
            if number is None:
                answers.append(401)
                continue
            assignment = new.get(number) or self.assignments[number]
            cycle = after.get(assignment.cycle_id)
            if cycle is None:
                cycle = before[assignment.cycle_id] = self.cycles[assignment.cycle_id]
            cycle, outcome = rules.accept(cycle, FoundReport(config, assignment, request.content[0]), now)
            if isinstance(outcome, PygridError):
                answers.append(outcome.status)
                continue
            answers.append(200)
            if type(outcome) is RepeatedReport:
                continue
            after[cycle.id] = cycle
            new[number] = outcome.assignment
            if outcome.due is not Due.NOTHING:
                transaction.then(partial(self._arm, cycle))
            transaction.put(self.assignments, number, outcome.assignment)
            transaction.put(self.reports, number, (segment, index, replica.instance, request.key))
            added.append((cycle.id, number, request.content))
        for cycle_id, cycle in after.items():
            if self.mutant is Mutant.NO_LOCK_AT_ACCEPT:
                count = cycle.num_reports - before[cycle_id].num_reports
                transaction.put(self.cycles, cycle_id, partial(_count_reports, count, cycle.state))
            else:
                transaction.put(self.cycles, cycle_id, cycle)
        return answers, added, [cycle for cycle in after.values() if cycle.state is CycleState.CLOSING]

    def _fold(self, replica: CycleReplica, added: list[tuple[int, int, Any]]) -> None:
        for cycle_id, number, content in added:
            replica.sums.setdefault(cycle_id, {})[number] = content
            if self.kernel.chance(0.8):  # enough was folded since the last flush
                self.kernel.spawn(f"{replica.instance} flush", self.flush(replica, cycle_id), replica)

    def flush(self, replica: CycleReplica, cycle_id: int) -> Steps:
        """Store the whole sum of a cycle as a partial sum, in place of the earlier one."""
        folded = replica.sums.get(cycle_id)
        if not folded or (cycle_id in replica.mixed and self.mutant is not Mutant.PARTIAL_OF_A_LOST_LEASE):
            return
        replica.num_flushes += 1
        number = 1 if self.mutant is Mutant.ONE_NAME_PER_FLUSH else replica.num_flushes
        key = f"diffs/{cycle_id}/{replica.instance}-{number}.sum"
        content, covered = dict.fromkeys(folded.values(), 1.0), frozenset(folded)
        yield
        self.objects[key] = content
        if self.kernel.trace is not None:
            self.kernel.log(f"PUT {key}: {list(content)}")
        yield self.kernel.stall(20.0)
        if self.mutant is Mutant.PARTIAL_COVERS_MORE:
            covered = frozenset(replica.sums[cycle_id])
        transaction = Transaction(self.kernel, replica)
        while (waiting := transaction.lock((1, cycle_id))) is not None:
            yield waiting
        if self.cycles[cycle_id].state is CycleState.COMPLETED and self.mutant is not Mutant.LATE_PARTIAL:
            transaction.roll_back()
            return
        row = closing.PartialSum(cycle_id, replica.instance, key, covered)
        transaction.put(self.partials, (cycle_id, replica.instance), row)
        yield self.kernel.stall(4.0)
        with contextlib.suppress(CommitRefused, CommitUnknown):  # the reports are read back
            transaction.commit()

    # -- the end of a cycle --------------------------------------------------------------------------------------------

    def _arm(self, cycle: Cycle) -> None:
        """See to it that a process looks at an open cycle at its next end, and at a closing one."""
        if cycle.state is CycleState.CLOSING:
            self.kernel.call_at(self.kernel.now + POLL_S, partial(self._poll, cycle.id))
        elif cycle.ends_at is not None:
            wait_s = (cycle.ends_at - self.kernel.time()).total_seconds()
            self.kernel.call_at(self.kernel.now + max(0.0, wait_s), partial(self._poll, cycle.id))

    def _poll(self, cycle_id: int) -> None:
        kernel = self.kernel
        cycle = self.cycles[cycle_id]
        if cycle.state is CycleState.COMPLETED:
            return
        live = kernel.live
        if cycle.state is CycleState.CLOSING:
            for replica in live:
                self._close_at(replica, cycle_id)
            kernel.call_at(kernel.now + POLL_S, partial(self._poll, cycle_id))
            return
        assert cycle.ends_at is not None
        if cycle.ends_at > kernel.time():
            return  # another poll is armed for it
        for replica in live[:2]:
            kernel.spawn(f"{replica.instance} deadline", self.end_time(replica, cycle_id), replica)
        kernel.call_at(kernel.now + 1.0, partial(self._poll, cycle_id))

    def end_time(self, replica: Replica, cycle_id: int) -> Steps:
        """Close or reopen a cycle at its deadline, or begin its grace period."""
        kernel = self.kernel
        yield
        transaction = Transaction(kernel, replica)
        while (waiting := transaction.lock((1, cycle_id))) is not None:
            yield waiting
        cycle, now = self.cycles[cycle_id], kernel.time()
        match rules.due(cycle, self.config, now):
            case Due.REOPEN:
                cycle = rules.reopen(cycle, self.config, now)
                self._expire(transaction, cycle_id)
            case Due.CLOSE:
                cycle = rules.close(cycle)
            case Due.GRACE:
                cycle = rules.begin_grace(cycle, self.config, now)
            case Due.NOTHING:
                transaction.roll_back()
                return
        if kernel.trace is not None:
            kernel.log(f"deadline: cycle {cycle_id} is {cycle.state}, attempt {cycle.attempt}")
        transaction.put(self.cycles, cycle_id, cycle)
        yield from self._put_events(transaction, ["cycle_ended"])
        transaction.then(partial(self._arm, cycle))
        yield
        try:
            transaction.commit()
        except (CommitRefused, CommitUnknown):
            return
        yield
        if cycle.state is CycleState.CLOSING:
            self._announce(cycle, replica)

    def _expire(self, transaction: Transaction, cycle_id: int) -> None:
        for number, own in self.assignments.items():
            if own.cycle_id == cycle_id and own.state is AssignmentState.ASSIGNED:
                expired = Assignment(number, cycle_id, own.client_id, AssignmentState.EXPIRED)
                transaction.put(self.assignments, number, expired)

    def _announce(self, cycle: Cycle, closed_by: Replica) -> None:
        """Signal that a cycle is closing."""
        kernel = self.kernel
        kernel.notify(self.event_topic)
        for replica in kernel.replicas:
            if replica is closed_by:
                self._close_at(replica, cycle.id)
            elif not replica.is_dead and not (kernel.loss and kernel.chance(kernel.loss)):
                kernel.call_at(kernel.now + 0.1, partial(self._close_at, replica, cycle.id))
        kernel.call_at(kernel.now + POLL_S, partial(self._poll, cycle.id))

    def _close_at(self, replica: Replica, cycle_id: int) -> None:
        assert isinstance(replica, CycleReplica)
        is_over = self.cycles[cycle_id].state is CycleState.COMPLETED
        if not (is_over or replica.is_dead or cycle_id in replica.closers):
            replica.closers.add(cycle_id)
            self.kernel.spawn(f"{replica.instance} closer", self.complete(replica, cycle_id), replica)

    def complete(self, replica: CycleReplica, cycle_id: int) -> Steps:
        """Flush, claim the cycle, add everything up, and store the checkpoint."""
        kernel = self.kernel
        if self.cycles[cycle_id].state is CycleState.COMPLETED:
            return
        sent_s = kernel.now
        lease = yield from self._change_lease(replica, cycle_id, partial(leases.claim, holder=replica.instance))
        if lease is None:
            replica.closers.discard(cycle_id)
            return
        if kernel.trace is not None:
            kernel.log(f"claims cycle {cycle_id}, fence {lease.fence}")
        total = yield from self._add_up(replica, cycle_id)
        for _ in range(int(kernel.draw() * 4)):  # the work takes a while
            yield kernel.now + leases.RENEW_S
            again_s = kernel.now
            renewed = yield from self._change_lease(
                replica, cycle_id, partial(leases.renew, holder=replica.instance, fence=lease.fence)
            )
            if renewed is not None:
                sent_s = again_s
            if not leases.may_continue(sent_s, kernel.now):
                break
        if leases.may_continue(sent_s, kernel.now):
            yield kernel.stall(30.0)
            yield from self._store_checkpoint(replica, cycle_id, lease.fence, total)
        if kernel.chance(0.8):  # a report is folded whose acceptance was answered late
            yield from self.flush(replica, cycle_id)
        replica.closers.discard(cycle_id)

    def _change_lease(self, replica: Replica, cycle_id: int, decide: Any) -> Any:
        """Claim or renew the lease of a closing cycle; returns it, or None if it is lost or the answer is."""
        kernel = self.kernel
        transaction = Transaction(kernel, replica)
        while (waiting := transaction.lock((1, cycle_id))) is not None:
            yield waiting
        lease = None
        if self.cycles[cycle_id].state is CycleState.CLOSING:
            lease = decide(self.leases.get(cycle_id, FREE), now=kernel.time())
        if lease is None:
            transaction.roll_back()
            return None
        transaction.put(self.leases, cycle_id, lease)
        yield
        try:
            transaction.commit()
        except (CommitRefused, CommitUnknown):
            return None
        yield
        return lease

    def _partials(self, cycle_id: int) -> list[closing.PartialSum]:
        return [row for row in self.partials.values() if row.cycle_id == cycle_id]

    def _scales(self, cycle_id: int) -> dict[int, float]:
        """The final scale of each report of a cycle: some are outliers."""
        return {
            number: 0.5 if number % 3 == 0 else 1.0
            for number in self.reports
            if self.assignments[number].cycle_id == cycle_id
        }

    def _content(self, number: int) -> Any:
        segment, index, _, _ = self.reports[number]
        return self.objects[segment][index]

    def _add_up(self, replica: CycleReplica, cycle_id: int) -> Any:
        """The total of a cycle: how much of each diff is in it."""
        scales, own = self._scales(cycle_id), dict(replica.sums.get(cycle_id, {}))
        replica.mixed.add(cycle_id)
        folded = () if self.mutant is Mutant.PARTIAL_TWICE else own
        summands = closing.choose_summands(scales, folded, self._partials(cycle_id))
        if summands.unusable:
            raise Broken("partial sums are disjoint", f"{summands.unusable}")
        yield self.kernel.stall(4.0)
        total: dict[Any, float] = dict.fromkeys(own.values(), 1.0)
        for one in summands.partials:
            for content, scale in self.objects[one.key].items():
                total[content] = total.get(content, 0.0) + scale
        for number in summands.read:
            total[self._content(number)] = total.get(self._content(number), 0.0) + 1.0
        for number, scale in scales.items():
            if scale != 1.0:
                total[self._content(number)] -= 1.0 - scale
        replica.sums[cycle_id] = {number: self._content(number) for number in scales}
        return total

    def _store_checkpoint(self, replica: Replica, cycle_id: int, fence: int, total: dict[Any, float]) -> Steps:
        kernel = self.kernel
        transaction = Transaction(kernel, replica)
        for row in (PROCESS, (1, cycle_id)):
            while (waiting := transaction.lock(row)) is not None:
                yield waiting
        cycle = self.cycles[cycle_id]
        is_mine = cycle.state is CycleState.CLOSING and leases.is_held(self.leases[cycle_id], replica.instance, fence)
        if not is_mine and self.mutant is not Mutant.NO_FENCE:
            if kernel.trace is not None:
                kernel.log(f"fence {fence} of cycle {cycle_id} is lost")
            transaction.roll_back()
            return
        transaction.put(self.checkpoints, cycle_id, partial(self._checked, cycle_id, total))
        self._expire(transaction, cycle_id)
        for row in [row for row in self.partials if row[0] == cycle_id]:
            transaction.put(self.partials, row, None)
        done = replace(cycle, state=CycleState.COMPLETED, completed_at=kernel.time())
        transaction.put(self.cycles, cycle_id, done)
        kinds = ["cycle_completed"]
        if self.process["state"] == "finished" or rules.is_last(cycle, self.config):
            transaction.put(self.process, "state", "finished")
            kinds.append("process_finished")
        else:
            following = self._put_cycle(cycle.sequence + 1, rules.next_cycle_state(self.config), transaction)
            transaction.put(self.newest, "id", following.id)
            kinds.append("cycle_opened")
        yield from self._put_events(transaction, kinds)
        yield kernel.stall(4.0)
        try:
            transaction.commit()
        except (CommitRefused, CommitUnknown):
            return
        if kernel.trace is not None:
            kernel.log(f"checkpoint of cycle {cycle_id} is stored")
        yield
        kernel.notify(self.event_topic)
        kernel.notify(self.cycle_topic)

    def _put_cycle(self, sequence: int, state: CycleState, transaction: Transaction | None = None) -> Cycle:
        now = self.kernel.time()
        deadline = rules.first_deadline(self.config, now)
        cycle = Cycle(sequence, 1, sequence, state, 1, sequence, 0, 0, now, now, deadline)
        if transaction is None:
            self.cycles[sequence] = cycle
            self._arm(cycle)
        else:
            transaction.put(self.cycles, sequence, cycle)
            transaction.then(partial(self._arm, cycle))
        return cycle

    # -- events --------------------------------------------------------------------------------------------------------

    def _put_events(self, transaction: Transaction, kinds: list[str]) -> Steps:
        """Number events under the lock of their counter, so that numbers are in the order of the commits."""
        kernel = self.kernel
        if self.notes and kinds[0] != "note" and kernel.chance(self.notes):  # somebody else does something now
            live = kernel.live
            if live:
                replica = live[int(kernel.draw() * len(live))]
                kernel.spawn("operator", self.note(replica), replica)
        if self.mutant is Mutant.EVENT_BY_ID:
            for kind in kinds:
                self._sequence += 1
                transaction.put(self.events, self._sequence, kind)
            return
        while (waiting := transaction.lock(EVENTS)) is not None:
            yield waiting
        number = self.process["num_events"]
        for kind in kinds:
            number += 1
            transaction.put(self.events, number, kind)
        transaction.put(self.process, "num_events", number)

    def follow(self, seen: list[int]) -> Steps:
        """Read the events after the last one, until the process has finished."""
        kernel, last = self.kernel, 0
        while True:
            new = sorted(number for number in self.events if number > last)
            if new:
                seen += new
                last = new[-1]
                if any(self.events[number] == "process_finished" for number in new):
                    return
            yield self.event_topic, kernel.now + POLL_S

    def note(self, replica: Replica) -> Steps:
        """An event that no cycle makes."""
        transaction = Transaction(self.kernel, replica)
        while (waiting := transaction.lock(PROCESS)) is not None:
            yield waiting
        yield from self._put_events(transaction, ["note"])
        yield self.kernel.stall(4.0)
        try:
            transaction.commit()
        except (CommitRefused, CommitUnknown):
            return
        self.kernel.notify(self.event_topic)

    def finish(self, replica: Replica) -> Steps:
        """The owner ends the process: its open cycle closes."""
        transaction = Transaction(self.kernel, replica)
        while (waiting := transaction.lock(PROCESS)) is not None:
            yield waiting
        yield
        cycle_id = self.newest["id"]
        while (waiting := transaction.lock((1, cycle_id))) is not None:
            yield waiting
        cycle = self.cycles[cycle_id]
        if cycle.state is not CycleState.OPEN:
            transaction.roll_back()
            return
        cycle = rules.close(cycle)
        self.kernel.log("the owner finishes the process")
        transaction.put(self.cycles, cycle_id, cycle)
        transaction.put(self.process, "state", "finished")
        transaction.then(partial(self._arm, cycle))
        yield from self._put_events(transaction, ["cycle_closing"])
        yield
        try:
            transaction.commit()
        except (CommitRefused, CommitUnknown):
            return
        self._announce(cycle, replica)

    # -- invariants ----------------------------------------------------------------------------------------------------

    def _checked(self, cycle_id: int, total: dict[Any, float], before: Any) -> dict[Any, float]:
        """Check a checkpoint at its commit."""
        if before is not None:
            raise Broken("one checkpoint a cycle", f"cycle {cycle_id} has two")
        expected = {self._content(number): scale for number, scale in self._scales(cycle_id).items()}
        if total != expected:
            raise Broken("each report is in the checkpoint once", f"cycle {cycle_id}: {total}, not {expected}")
        return total

    def check(self) -> None:
        """Check what holds at the end."""
        if any(cycle.state is not CycleState.COMPLETED for cycle in self.cycles.values()):
            raise Broken("everything ends", f"{self.cycles}")
        if self.partials:
            raise Broken("partial sums end with their cycle", f"{self.partials}")
        counted: dict[str, int] = {}
        for number, (_, _, _, key) in self.reports.items():
            content = self._content(number)
            counted[key] = sum(content in total for total in self.checkpoints.values())
        for key in self.accepted:
            if counted.get(key) != 1:
                raise Broken("each 200 is in exactly one checkpoint", f"{key}: {counted.get(key)}")
        for key in self.refused:
            if counted.get(key):
                raise Broken("each 410 is in no checkpoint", key)
        for cycle_id in self.cycles:
            num = sum(
                own.cycle_id == cycle_id and own.state is not AssignmentState.EXPIRED
                for own in self.assignments.values()
            )
            if self.config.max_workers is not None and num > self.config.max_workers:
                raise Broken("max_workers is kept", f"cycle {cycle_id} has {num} clients")
        for seen in self.seen:
            if seen != sorted(self.events)[: len(seen)]:
                raise Broken("a follower skips no event", f"{seen}, not {sorted(self.events)}")


def _count_reports(count: int, state: CycleState, cycle: Cycle) -> Cycle:
    """`UPDATE cycles SET num_reports = num_reports + count`, and the state if it has changed."""
    changed = cycle.state if state is CycleState.OPEN else state
    return replace(cycle, num_reports=cycle.num_reports + count, state=changed)


def _count_assigned(count: int, cycle: Cycle) -> Cycle:
    return replace(cycle, num_assigned=cycle.num_assigned + count)
