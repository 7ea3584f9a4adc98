"""The model of jobs: claims under leases, one budget, Workers here and elsewhere, results, takeovers, and people.

approved ──claim, debit, start──> running ──begin──> a Worker works ──PUT result──> row: released | held
running ──lease──> a Worker elsewhere ──the first renewal: begin──> ...
lease over ──claim──> `take_over`: finish | wait | start again | put back | fail
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from pygrid.core import jobs as rules
from pygrid.core import leases
from pygrid.core.job_spec import PrivacyTerms
from pygrid.core.jobs import JobRecord, JobState, Result
from pygrid.core.leases import FREE, FencedLease
from pygrid.core.takeovers import LeftBehind, TakeOver, take_over
from pygrid.errors import Conflict
from pygrid.messages.jobs import JobRequest
from pygrid.privacy import ledger
from pygrid.privacy.events import Gaussian
from pygrid.privacy.ledger import ChargeState, Rejected, Spending, Use
from schedules.kernel import (
    START,
    Broken,
    CommitRefused,
    CommitUnknown,
    Kernel,
    Replica,
    Steps,
    Topic,
    Transaction,
)
from schedules.mutants import Mutant

AUDIT = (0, 0)
"""Lock of the audit log, which each debit holds."""
POLL_S = 5.0
"""How often a process looks at the queue without a signal."""
WORKER_S = 15.0
"""Length of the lease of a Worker on another machine."""
WORKER_RENEW_S = 5.0
CAP = ledger.open_cap(1.0, 1e-6, Use.STATISTICS)
COSTS = [ledger.cost_of([Gaussian(noise)]) for noise in (13.0, 10.0, 20.0)]
"""Of the first, two charges fit into the cap; of the second, one; of the third, all."""
TERMS = PrivacyTerms(clip=1.0, noise_multiplier=1.0, rounds=1, delta=1e-6, expected_size=10.0)
REQUESTER, OWNER = 7, 8


def _approved(number: int, terms: PrivacyTerms | None) -> JobRecord:
    return JobRecord(
        id=f"job-{number}",
        dataset_id=1,
        version_id=1,
        state=JobState.APPROVED,
        request=JobRequest(dataset=1, kind="train", reason="to learn"),
        request_hash="hash",
        requested_by=REQUESTER,
        plan_id="",
        plan_name="",
        plan_summary="",
        model_hash="",
        terms=terms,
        created_at=START,
        updated_at=START,
    )


JOBS = {is_private: [_approved(number, TERMS if is_private else None) for number in range(4)] for is_private in (0, 1)}


class Jobs:
    """Some jobs on one dataset with a budget."""

    def __init__(self, kernel: Kernel, mutant: Mutant | None) -> None:
        self.kernel = kernel
        self.mutant = mutant
        draw = kernel.draw
        kernel.loss = (0.0, 0.5, 1.0)[int(draw() * 3)]
        kernel.refusals = (0.0, 0.05)[int(draw() * 2)]
        kernel.stalls = (0.0, 0.1, 0.3)[int(draw() * 3)]
        self.cost = COSTS[int(draw() * len(COSTS))]
        # What is durable.
        num_jobs = 1 + int(draw() * 3)
        self.jobs = {number: JOBS[draw() < 0.6][number] for number in range(num_jobs)}
        self.is_leased = {number: draw() > 0.5 for number in self.jobs}
        """Whether the Worker of a job is on another machine."""
        self.leases: dict[int, FencedLease] = dict.fromkeys(self.jobs, FREE)
        self.begun: dict[int, bool] = {}
        self.charges: dict[int, ChargeState] = {}
        self.workers: dict[int, tuple[int, float, str | None]] = {}
        """(fence, end of the lease, key of the result) of the Worker of a job that is on another machine. While the job
        has not begun, it is the lease of a Worker that has not renewed it."""
        self.results: dict[int, str] = {}
        self.objects: dict[str, str] = {}
        # What the checks know.
        self.num_begun = dict.fromkeys(self.jobs, 0)
        self.num_released = dict.fromkeys(self.jobs, 0)
        self.holders: dict[int, dict[tuple[Replica, int], float]] = {number: {} for number in self.jobs}
        """When each process sent its last granted claim or renewal, by process and fence."""
        self.topic = Topic("jobs")
        for _ in range(3 if draw() > 0.5 else 2):
            self.start()

    # -- the adversary -------------------------------------------------------------------------------------------------

    def fault(self, kind: float, size: float) -> None:
        """Do something to the processes, or let time pass. See `schedules.running.Model`."""
        kernel = self.kernel
        live = kernel.live
        if kind < 0.15 or not live:
            kernel.log("time passes")
            kernel.pass_time(0.5 + 40.0 * size * size)
            return
        replica = live[int(size * len(live))]
        if kind < 0.45:
            kernel.pause(replica, 3.0 + 100.0 * (kind - 0.15), self._exit)
        elif kind < 0.75:
            kernel.crash(replica)
            kernel.call_at(kernel.now + 8.0 * size, self.start)
        elif kind < 0.9:
            replica.clock_s = 3600.0 if kind < 0.85 else -3600.0
            kernel.log(f"the clock of {replica.instance} jumps by {replica.clock_s:.0f} s")
        else:
            kernel.spawn("requester", self.cancel(replica, int(size * len(self.jobs))), replica)

    def start(self) -> None:
        """Start a process."""
        replica = Replica(f"r{len(self.kernel.replicas) + 1}")
        self.kernel.replicas.append(replica)
        self.kernel.spawn(f"{replica.instance} queue", self.look(replica), replica)

    def _exit(self, replica: Replica) -> None:
        """A process whose row has ended exits: at once, or after what it was about to do."""
        if self.kernel.chance(0.7):
            self.kernel.call_at(self.kernel.now + 8.0, partial(self.kernel.crash, replica))
        else:
            self.kernel.crash(replica)
        self.kernel.call_at(self.kernel.now + 9.0, self.start)

    # -- the queue -----------------------------------------------------------------------------------------------------

    def look(self, replica: Replica) -> Steps:
        """Claim what can be claimed, until all jobs have ended."""
        kernel = self.kernel
        while True:
            number = self._find(replica)
            if number is None:
                if all(job.has_ended for job in self.jobs.values()):
                    return
                yield self.topic, kernel.now + POLL_S
                continue
            yield from self.claim(replica, number)

    def _find(self, replica: Replica) -> int | None:
        """A job that can be claimed and that no transaction has locked (SKIP LOCKED)."""
        now = self._now(replica)
        for number, job in self.jobs.items():
            if job.state is JobState.APPROVED or job.state is JobState.RUNNING:
                lease = self.leases[number]
                if (lease.until is None or lease.until <= now) and (1, number) not in self.kernel.locks:
                    return number
        return None

    def _now(self, replica: Replica) -> Any:
        if self.mutant is Mutant.CLOCK_OF_THE_MACHINE:
            return self.kernel.time_of(replica)
        return self.kernel.time()

    def claim(self, replica: Replica, number: int) -> Steps:
        """Claim a job. An approved one is debited and started in the same transaction."""
        kernel = self.kernel
        transaction = Transaction(kernel, replica)
        sent_s = kernel.now
        if self.mutant is not Mutant.NO_LOCK_AT_DEBIT:
            while (waiting := transaction.lock(AUDIT)) is not None:
                yield waiting
        while (waiting := transaction.lock((1, number))) is not None:
            yield waiting
        job = self.jobs[number]
        lease = leases.claim(self.leases[number], replica.instance, self._now(replica))
        was_running = job.state is JobState.RUNNING
        if lease is None or not (was_running or job.state is JobState.APPROVED):
            transaction.roll_back()
            return
        if not was_running:
            has_charge = not job.is_private or number in self.charges
            if not has_charge and isinstance(self._check_budget(), Rejected):
                job = rules.fail(job, "budget_exhausted", "nothing was charged")
            else:
                if not has_charge:
                    transaction.put(self.charges, number, partial(self._reserved, number))
                job = rules.start(job)
        transaction.put(self.jobs, number, job)
        transaction.put(self.leases, number, lease)
        yield kernel.stall(4.0)
        try:
            transaction.commit()
        except (CommitRefused, CommitUnknown):
            return  # if it was committed, its lease ends, and the job is taken over
        if kernel.trace is not None:
            kernel.log(f"claims job {number}, fence {lease.fence}: {job.state}")
        yield
        if job.has_ended:
            return
        self._hold(replica, number, lease.fence, sent_s)
        steps = self.take_over if was_running else self.begin
        kernel.spawn(f"{replica.instance} job {number}", steps(replica, number, lease.fence, sent_s), replica)

    def _check_budget(self) -> Any:
        """Whether another charge fits into the budget."""
        num = sum(state is not ChargeState.REFUNDED for state in self.charges.values())
        spent = Spending(num * self.cost.at(CAP.order).divergence)
        return ledger.check((spent, CAP), (spent, CAP), self.cost)

    def _reserved(self, number: int, before: ChargeState | None) -> ChargeState:
        """Check the budget when a charge is committed."""
        if before is not None or isinstance(self._check_budget(), Rejected):
            raise Broken("the ledger is within its cap", f"job {number} after {self.charges}")
        return ChargeState.RESERVED

    def _hold(self, replica: Replica, number: int, fence: int, sent_s: float) -> None:
        """Note that a process knows that it holds a job; check that no other one believes the same."""
        if not leases.may_continue(sent_s, self.kernel.now):
            return  # the answer came too late: it knows that
        holders = self.holders[number]
        for (other, other_fence), other_s in holders.items():
            if other_fence != fence and not other.is_dead and leases.may_continue(other_s, self.kernel.now):
                raise Broken("a job has one holder", f"job {number}: {other.instance} and {replica.instance}")
        holders[replica, fence] = sent_s

    # -- work ----------------------------------------------------------------------------------------------------------

    def begin(self, replica: Replica, number: int, fence: int, sent_s: float) -> Steps:
        """Record that a Worker gets the job, and run it here; or lease it to one elsewhere, which begins later."""
        yield self.kernel.stall(20.0)

        def change(transaction: Transaction, job: JobRecord) -> bool:
            if self.is_leased[number]:
                transaction.put(self.workers, number, (fence, self.kernel.now + WORKER_S, None))
            else:
                self._record_begin(transaction, number, job)
            return True

        # If the answer is lost, no Worker gets the job: the lease ends, and the next holder decides.
        if not (yield from self._change(replica, number, fence, change, repeats=False)):
            return
        if self.is_leased[number]:
            self.kernel.spawn(f"Worker {number}", self.work_elsewhere(number, fence))
            yield from self.follow_worker(replica, number, fence, sent_s)
        else:
            self._count_begin(number)
            yield from self.work_here(replica, number, fence, sent_s)

    def _record_begin(self, transaction: Transaction, number: int, job: JobRecord) -> None:
        transaction.put(self.begun, number, True)
        if job.is_private:
            transaction.put(self.charges, number, partial(_moved, ChargeState.RUNNING))

    def _count_begin(self, number: int) -> None:
        self.num_begun[number] += 1
        if self.jobs[number].is_private and self.num_begun[number] > 1:
            raise Broken("a private job begins at most once", f"job {number}")

    def work_here(self, replica: Replica, number: int, fence: int, sent_s: float) -> Steps:
        """Work in this process, and store the result."""
        kernel = self.kernel
        for _ in range(int(kernel.draw() * 5)):
            yield kernel.now + leases.RENEW_S
            sent_s = yield from self._renew(replica, number, fence, sent_s)
            if not leases.may_continue(sent_s, kernel.now):
                return
        yield kernel.stall(30.0)
        key = self._key(number, fence)
        content = f"{replica.instance}, fence {fence}"
        yield from self._put_result(key, content)
        yield from self.finish(replica, number, fence, key)

    def _key(self, number: int, fence: int) -> str:
        return f"jobs/{number}/" + ("" if self.mutant is Mutant.RESULT_WITHOUT_FENCE else f"{fence}/")

    def _put_result(self, key: str, content: str) -> Steps:
        self.kernel.log(f"PUT {key}result")
        self.objects[key + "result"] = content
        yield self.kernel.stall(4.0)
        self.objects[key + "outcome.json"] = content
        yield self.kernel.stall(20.0)

    def _renew(self, replica: Replica, number: int, fence: int, sent_s: float) -> Any:
        """Renew the lease; returns when the last renewal that was granted was sent."""
        kernel = self.kernel
        transaction = Transaction(kernel, replica)
        now_s = kernel.now
        while (waiting := transaction.lock((1, number))) is not None:
            yield waiting
        lease = self.leases[number]
        if self.mutant is Mutant.RENEW_BY_ID:
            renewed = leases.renew(lease, lease.holder or "", lease.fence, kernel.time())
        else:
            renewed = leases.renew(lease, replica.instance, fence, kernel.time())
        if renewed is None or self.jobs[number].state is not JobState.RUNNING:
            transaction.roll_back()
            return -leases.GIVE_UP_S  # lost
        transaction.put(self.leases, number, renewed)
        yield
        try:
            transaction.commit()
        except (CommitRefused, CommitUnknown):
            return sent_s
        yield
        self._hold(replica, number, fence, now_s)
        return now_s

    def _change(
        self,
        replica: Replica,
        number: int,
        fence: int,
        change: Callable[[Transaction, JobRecord], bool],
        *,
        needs_fence: bool = True,
        repeats: bool = True,
    ) -> Any:
        """Change a running job under its fence; returns whether the change was made by a committed transaction.

        Args:
            change: writes into the transaction; False: there is nothing to do.
            needs_fence: False is a fault.
            repeats: whether to try again after a commit that failed or may have failed.
        """
        kernel = self.kernel
        while True:
            transaction = Transaction(kernel, replica)
            for row in (AUDIT, (1, number)):
                while (waiting := transaction.lock(row)) is not None:
                    yield waiting
            job = self.jobs[number]
            is_mine = leases.is_held(self.leases[number], replica.instance, fence)
            if (needs_fence and not is_mine) or job.state is not JobState.RUNNING or not change(transaction, job):
                transaction.roll_back()
                return False
            yield
            try:
                transaction.commit()
            except (CommitRefused, CommitUnknown):
                if not repeats:
                    return False
                yield kernel.now + 0.5  # again: the second time it finds what the first one did
                continue
            yield
            return True

    def finish(self, replica: Replica, number: int, fence: int, key: str) -> Steps:
        """Store the row of a result: ``running -> released | held``."""
        content = self.objects[key + "result"]

        def change(transaction: Transaction, job: JobRecord) -> bool:
            ended = rules.finish(job, Result(content, 1, "text/plain"), {})
            self._end(transaction, number, ended, ChargeState.RELEASED)
            transaction.put(self.results, number, key + "result")
            return True

        needs_fence = self.mutant is not Mutant.RESULT_WITHOUT_FENCE
        if (yield from self._change(replica, number, fence, change, needs_fence=needs_fence)):
            self._moved(number)

    def _end(self, transaction: Transaction, number: int, job: JobRecord, charge: ChargeState) -> None:
        """Write a job that leaves the state running, with its charge; its lease is free."""
        transaction.put(self.jobs, number, partial(self._released, number, job))
        if number in self.charges and job.state is not JobState.APPROVED:
            transaction.put(self.charges, number, partial(_moved, charge))
        fence = self.leases[number].fence
        transaction.put(self.leases, number, FencedLease(None, fence, None))
        transaction.then(self.holders[number].clear)

    def _released(self, number: int, job: JobRecord, before: JobRecord) -> JobRecord:
        """Count releases at their commit."""
        if job.state is JobState.RELEASED:
            self.num_released[number] += 1
            if self.num_released[number] > 1:
                raise Broken("a job is released at most once", f"job {number}")
        if job.state is JobState.HELD:
            for person in (1, 2):
                self.kernel.spawn(f"person {person}", self.release(number))
        return job

    def _moved(self, number: int) -> None:
        if self.kernel.trace is not None:
            self.kernel.log(f"job {number} is {self.jobs[number].state}")
        self.kernel.notify(self.topic)

    # -- takeovers -----------------------------------------------------------------------------------------------------

    def take_over(self, replica: Replica, number: int, fence: int, sent_s: float) -> Steps:
        """Decide about a running job whose earlier holder was lost."""
        yield self.kernel.stall(4.0)
        found = [key for old in range(1, fence) if (key := self._key(number, old)) + "outcome.json" in self.objects]
        worker = self.workers.get(number)
        left = LeftBehind(
            has_result=bool(found),
            has_begun=self.begun.get(number, False),
            is_worker_alive=worker is not None and self.kernel.now < worker[1],
        )
        decision = take_over(self.jobs[number], left)
        self.kernel.log(f"takes job {number} over: {decision.name}")
        yield
        match decision:
            case TakeOver.FINISH:
                yield from self.finish(replica, number, fence, found[-1])
            case TakeOver.WAIT:
                yield from self.follow_worker(replica, number, fence, sent_s)
            case _:
                yield from self.end_lost(replica, number, fence, decision)

    def end_lost(self, replica: Replica, number: int, fence: int, decision: TakeOver) -> Steps:
        """Start a lost job again, or end it. The lease of its Worker ends in the same transaction."""

        def change(transaction: Transaction, job: JobRecord) -> bool:
            worker, decided = self.workers.get(number), decision
            if self.mutant is not Mutant.DECISION_BEFORE_LOCK:
                if worker is not None and (self.kernel.now < worker[1] or worker[2] is not None):
                    return False  # the Worker is back: the lease ends, and the next holder waits for it
                decided = take_over(job, LeftBehind(False, self.begun.get(number, False)))
            if worker is not None:
                transaction.put(self.workers, number, None)
            if decided is TakeOver.START_AGAIN:
                self._end(transaction, number, rules.requeue(job), ChargeState.FAILED)
            elif decided is TakeOver.PUT_BACK:
                self._end(transaction, number, rules.put_back(job, "", "no Worker had begun"), ChargeState.FAILED)
            else:
                self._end(transaction, number, rules.fail(job, "lost", "the job was lost"), ChargeState.FAILED)
            return True

        if (yield from self._change(replica, number, fence, change)):
            self._moved(number)

    # -- Workers on other machines -------------------------------------------------------------------------------------

    def work_elsewhere(self, number: int, fence: int) -> Steps:
        """A Worker that begins at any process, renews its own lease at any, and brings the result to any."""
        kernel = self.kernel
        yield kernel.stall(40.0)
        if not (yield from self._tell(number, fence, None)):
            return
        self._count_begin(number)
        for _ in range(int(kernel.draw() * 4)):
            yield kernel.now + WORKER_RENEW_S
            if kernel.chance(0.1):
                kernel.log("vanishes")
                return
            yield from self._tell(number, fence, None)
        yield kernel.stall(40.0)
        content = f"Worker, fence {fence}"
        yield from self._put_result(self._key(number, fence), content)
        yield from self._tell(number, fence, self._key(number, fence))

    def _tell(self, number: int, fence: int, key: str | None) -> Any:
        """Renew the lease of a Worker, or report its result, at a process that lives, until it answers.

        The first renewal records that the job begins, in the same transaction. Returns False if the lease is over.
        """
        kernel = self.kernel
        while True:
            live = kernel.live
            if not live:
                yield kernel.now + 1.0
                continue
            transaction = Transaction(kernel, live[int(kernel.draw() * len(live))])
            for row in (AUDIT, (1, number)):
                while (waiting := transaction.lock(row)) is not None:
                    yield waiting
            worker, job = self.workers.get(number), self.jobs[number]
            is_mine = worker is not None and worker[0] == fence
            if self.mutant is Mutant.BEGIN_WITHOUT_LEASE and not self.begun.get(number):
                is_mine = True
            if not is_mine or job.state is not JobState.RUNNING:
                transaction.roll_back()
                return False
            if not self.begun.get(number):
                self._record_begin(transaction, number, job)
            transaction.put(self.workers, number, (fence, kernel.now + WORKER_S, key))
            yield
            try:
                transaction.commit()
            except (CommitRefused, CommitUnknown):
                yield kernel.now + 1.0
                continue
            kernel.notify(self.topic)
            return True

    def follow_worker(self, replica: Replica, number: int, fence: int, sent_s: float) -> Steps:
        """Hold a job until its Worker on another machine has brought the result, or is lost."""
        kernel = self.kernel
        while True:
            worker = self.workers.get(number)
            if worker is None:
                return
            if worker[2] is not None:
                yield from self.finish(replica, number, fence, worker[2])
                return
            if kernel.now >= worker[1]:
                left = LeftBehind(has_result=False, has_begun=self.begun.get(number, False))
                yield kernel.stall(20.0)
                yield from self.end_lost(replica, number, fence, take_over(self.jobs[number], left))
                return
            yield self.topic, kernel.now + leases.RENEW_S
            sent_s = yield from self._renew(replica, number, fence, sent_s)
            if not leases.may_continue(sent_s, kernel.now):
                return

    # -- people --------------------------------------------------------------------------------------------------------

    def release(self, number: int) -> Steps:
        """A person releases a held result, and repeats that if the answer is lost."""
        kernel = self.kernel
        while True:
            live = kernel.live
            if not live:
                yield kernel.now + 1.0
                continue
            transaction = Transaction(kernel, live[int(kernel.draw() * len(live))])
            for row in (AUDIT, (1, number)):
                while (waiting := transaction.lock(row)) is not None:
                    yield waiting
            job = self.jobs[number]
            try:
                released = rules.release(job, OWNER, job.request_hash, "")
            except Conflict:
                transaction.roll_back()
                return
            transaction.put(self.jobs, number, partial(self._released, number, released))
            yield
            try:
                transaction.commit()
            except (CommitRefused, CommitUnknown):
                yield kernel.now + 1.0
                continue
            self._moved(number)
            return

    def cancel(self, replica: Replica, number: int) -> Steps:
        """The requester cancels a job once."""
        transaction = Transaction(self.kernel, replica)
        for row in (AUDIT, (1, number)):
            while (waiting := transaction.lock(row)) is not None:
                yield waiting
        try:
            cancelled = rules.cancel(self.jobs[number])
        except Conflict:
            transaction.roll_back()
            return
        self._end(transaction, number, cancelled, ChargeState.FAILED)
        yield
        try:
            transaction.commit()
        except (CommitRefused, CommitUnknown):
            return
        self._moved(number)

    # -- invariants ----------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Check what holds at the end."""
        for number, job in self.jobs.items():
            if not job.has_ended:
                raise Broken("everything ends", f"job {number} is {job.state}")
            if job.result is not None and self.objects[self.results[number]] != job.result.hash:
                stored = self.objects[self.results[number]]
                raise Broken("a result has the bytes of its row", f"job {number}: {stored}, not {job.result.hash}")
            if self.num_released[number] != (job.state is JobState.RELEASED):
                raise Broken("a job is released at most once", f"job {number}")
            if job.is_private and self.num_begun[number] and self.charges.get(number) in (None, ChargeState.REFUNDED):
                raise Broken("a private job that began is charged", f"job {number}")


def _moved(after: ChargeState, before: ChargeState | None) -> ChargeState:
    """Move a charge. A state that does not allow it is a fault of the model."""
    if before is None or after not in ledger.TRANSITIONS[before]:
        raise Broken("charges follow their diagram", f"{before} to {after}")
    return after
