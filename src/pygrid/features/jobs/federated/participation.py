"""One federated job from its first cycle to its last.

    ask ──accepted──> fetch the model ──> record ──> train in a Worker ──> keep the diff ──> report ──┐
     ^ └─rejected──> wait                                                                             │
     └────────────────────┴─────────────────────────────── cycle over ────────────────────────────────┘

until its cycles are used up, or the training is over. Each step is durable before the next: after a crash, training
that was under way counts as used, and a diff that was kept is reported, the very same bytes. Nothing else of the job
leaves, and nothing at all once it is not running any more.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa
from msgspec import UNSET

from pygrid import codes
from pygrid.clock import Clock
from pygrid.core import federated as rules
from pygrid.core.federated import Departure, PartState, RoundAttempt, Trainer
from pygrid.core.job_spec import Failure
from pygrid.core.jobs import JobRecord, JobState
from pygrid.errors import Conflict, Gone, NotFound, PygridError, Unauthenticated, Unavailable
from pygrid.features.jobs.federated.coordinator import Line, ModelFiles, check_accepted, check_offered
from pygrid.features.jobs.federated.reports import write_report
from pygrid.messages.cycles import CycleAccepted, CycleRejected
from pygrid.plans.text import one_line
from pygrid.privacy.ledger import ChargeState
from pygrid.storage import audit, charges
from pygrid.storage import federated as rows
from pygrid.storage import jobs as job_rows
from pygrid.storage.audit import AuditedWrites
from pygrid.storage.blobs.checked import is_damage
from pygrid.storage.blobs.protocol import Blobs
from pygrid.storage.sql.database import Database
from pygrid.tensors.safetensors import Layout

logger = logging.getLogger(__name__)

T = TypeVar("T")

WAIT_S = 25.0
"""How long a coordinator may hold a question for work."""
GIVE_UP_S = 7 * 24 * 3600.0
"""A coordinator that cannot be reached, or has no such process yet, is tried for so long."""
MAX_IDLE_S = 30 * 24 * 3600.0
"""A coordinator that answers, and has no work for so long, keeps neither a place nor a reservation any longer."""
MAX_STRIKES = 5
"""So many answers that make no sense, one after the other, end a job."""
_FIRST_REST_S, _LONGEST_REST_S = 0.2, 10.0
"""Before something is tried again that came to nothing: twice as long each time, until something does come of it."""
_SHORT_PAUSE_S = 5.0
_MAX_WORDS = 500


@dataclass(frozen=True)
class Given:
    """What a participation begins with."""

    job: JobRecord
    approved: Layout
    """Of the model that the job came with: the coordinator's have the same arrays."""
    num_records: int
    """As published: the weight of each diff."""
    models: ModelFiles
    reports: Blobs
    line: Line
    trainer: Trainer
    notify: Callable[[], None]
    """Tells those who follow the job that something has changed."""


@dataclass
class FederatedParticipation:
    """A job that takes part; `run` sees it through."""

    given: Given
    database: Database
    writes: AuditedWrites
    clock: Clock
    parts: list[RoundAttempt]
    doing: str = ""
    """What it does now, in words."""
    _is_known: bool = False
    """Whether the coordinator has answered as one."""
    _may_use_key: bool = True
    """Whether the key of a kept diff may still be good."""
    _strikes: int = 0
    _rest_s: float = _FIRST_REST_S
    _in_vain_since: float | None = field(default=None)
    _idle_since: float | None = None

    async def run(self) -> Departure:
        """Take part until there is nothing left to do."""
        self._is_known = bool(self.parts)
        while True:
            try:
                departure = await self._step()
            except PygridError as error:
                departure = await self._bear(error)
            else:
                self._strikes, self._in_vain_since = 0, None
            if departure is not None:
                return departure

    async def _step(self) -> Departure | None:
        await self._lose_interrupted()
        kept = next((part for part in self.parts if part.state is PartState.TRAINED), None)
        if kept is not None and self._may_use_key:
            return await self._report(kept)
        if kept is None and (departure := self._departure()) is not None:
            return departure
        answer = await self._ask()
        if isinstance(answer, CycleRejected):
            return self._idle() if answer.timeout is not UNSET else self._end("the training is over")
        self._idle_since = None
        check_accepted(answer, self.given.line.client.client_id)
        if kept is not None:
            if rules.fits_cycle(kept, _cycle(answer), str(answer.model_hash)):
                await self._change(replace(kept, request_key=answer.request_key))
                self._may_use_key = True
            else:
                await self._change(rules.expired(kept, self.clock.now()))
            return None
        return await self._train(answer)

    # Fanout

    async def _ask(self) -> CycleAccepted | CycleRejected:
        client, loop = self.given.line.client, asyncio.get_running_loop()
        self._say("waits for a cycle" if self._is_known else "waits for the training to begin")
        began = loop.time()
        answer = await self.given.line.call(lambda: client.request_cycle(WAIT_S))
        self._is_known = True
        if isinstance(answer, CycleRejected) and answer.timeout is not UNSET and loop.time() - began < 0.8 * WAIT_S:
            # It did not hold the question, so asking again at once would be no waiting.
            await _sleep(min(max(float(answer.timeout), _FIRST_REST_S), _SHORT_PAUSE_S))
        return answer

    def _idle(self) -> Departure | None:
        """Wait on, or have waited for too long."""
        now = asyncio.get_running_loop().time()
        self._idle_since = self._idle_since or now
        if now - self._idle_since > MAX_IDLE_S:
            return self._end("the coordinator had no work for thirty days", "coordinator_idle")
        return None

    async def _bear(self, error: PygridError) -> Departure | None:
        """What follows from an error: another try, or the end."""
        now = asyncio.get_running_loop().time()
        words = one_line(error.detail, _MAX_WORDS)
        if isinstance(error, Gone) or (isinstance(error, Unauthenticated | Conflict) and error.code in _KEY_ENDED):
            await self._rest()
            return None  # the cycle is over; there is another
        if isinstance(error, NotFound) and error.code == "worker_not_found":
            self.given.line.client.client_id = None
        elif isinstance(error, NotFound) and error.code == "process_not_found":
            if self._is_known:
                return self._end("the coordinator has no such training any more", "coordinator_forgot")
        elif isinstance(error, Unauthenticated):
            return self._end(f"the coordinator does not let this job take part: {words}", "coordinator_refused")
        elif isinstance(error, Unavailable):
            self._say(f"tries again: {words}")
        else:
            self._strikes += 1
            logger.warning("coordinator not understood", extra={"job_id": self.given.job.id, "code": error.code})
            if self._strikes >= MAX_STRIKES:
                return self._end(f"the coordinator does what it should not: {words}", "coordinator_misbehaves")
        self._in_vain_since = self._in_vain_since or now
        if now - self._in_vain_since > GIVE_UP_S:
            return self._end(f"the training could not be reached for seven days: {words}", "coordinator_unreachable")
        await self._rest()
        return None

    async def _rest(self) -> None:
        """Wait, so that no coordinator can keep this Domain busy with answers that lead nowhere."""
        await _sleep(self._rest_s)
        self._rest_s = min(2 * self._rest_s, _LONGEST_REST_S)

    # Training

    async def _train(self, accepted: CycleAccepted) -> Departure | None:
        given = self.given
        loop = asyncio.get_running_loop()
        over_at = loop.time() + (accepted.deadline_s if isinstance(accepted.deadline_s, float) else math.inf)
        model = await given.line.call(given.line.client.fetch_model)
        await asyncio.to_thread(check_offered, model, given.approved)
        self._say(f"waits for a Worker for cycle {accepted.cycle}")
        # After one that was lost the next is trained here, as other jobs are.
        was_lost = bool(self.parts) and self.parts[-1].state is PartState.LOST
        async with given.trainer.place(given.job, may_leave=not was_lost) as train:
            if loop.time() > over_at:
                raise Gone("the cycle was over before a Worker was free", code=codes.CYCLE_CLOSED)  # nothing is used up
            await asyncio.to_thread(given.models.check, str(accepted.model_hash))
            part = await self._begin(accepted)
            if isinstance(part, Departure):
                return part
            self._say(f"trains for cycle {part.cycle}")
            result = await train(given.models.path(part.model_hash), part.number)
        facts: dict[str, Any] = msgspec.to_builtins(result.facts)
        failure = result.failure
        if failure is None:
            try:
                name = await asyncio.to_thread(
                    write_report,
                    given.reports,
                    model,
                    result.payload,
                    given.num_records,
                    with_metrics=not given.job.is_private,
                )
            except PygridError as error:  # what came from a Worker may have been in a stranger's hand
                failure = Failure("crashed", f"its result can't be used: {error.detail}", error.code)
        if failure is not None:
            await self._change(rules.failed(part, f"{failure.kind}: {failure.detail}", self.clock.now(), facts))
            return None
        kept = rules.trained(part, name, facts)
        self._may_use_key = True
        if not await self._keep(kept):
            return self._end("it was ended")
        self._rest_s = _FIRST_REST_S
        return None

    async def _begin(self, accepted: CycleAccepted) -> RoundAttempt | Departure:
        """Record that a training begins, with what is charged for it, before it does; or why it may not (any more)."""
        job, client_id = self.given.job, self.given.line.client.client_id
        assert client_id is not None
        assert job.request.federation is not None
        most = job.request.federation.cycles
        if job.is_private:
            self.writes.check()
        part = RoundAttempt(
            job_id=job.id,
            number=len(self.parts) + 1,
            state=PartState.TRAINING,
            cycle=_cycle(accepted),
            model_hash=str(accepted.model_hash),
            client_id=client_id,
            request_key=accepted.request_key,
            begun_at=self.clock.now(),
        )

        def transaction(connection: sa.Connection) -> Departure | None:
            if (ended := self._look(connection, lock=True)) is not None:
                return ended
            # Counted here and not from memory: this is what bounds how often the data is touched.
            if rules.num_spent(rows.list_parts(connection, job.id), is_private=job.is_private) >= most:
                return self._end("it has used all the cycles that it was approved for")
            if job.is_private and charges.get_charge(connection, job.id).state is ChargeState.RESERVED:
                charges.move_charge(connection, job.id, ChargeState.RUNNING, part.begun_at)
            rows.put_part(connection, part)
            data = {"job_id": job.id, "number": part.number, "cycle": part.cycle, "model_hash": part.model_hash}
            audit.append(connection, "federated_training_begun", data, actor=None, now=part.begun_at)
            return None

        if (departure := await self.writes.write(transaction)) is not None:
            return departure
        self.parts.append(part)
        return part

    def _look(self, connection: sa.Connection, *, lock: bool = False) -> Departure | None:
        """Why nothing more may be trained, or leave; None: it may."""
        now_is = job_rows.get_job(connection, self.given.job.id, lock=lock)
        if now_is.state is not JobState.RUNNING:
            return self._end("it was ended")
        if job_rows.get_job_dataset(connection, now_is).is_deleted:
            return self._end("the dataset was deleted", "dataset_not_found")
        return None

    async def _keep(self, part: RoundAttempt) -> bool:
        """Record a diff, which may then be reported; False: the job was ended meanwhile, and it may not."""

        def transaction(connection: sa.Connection) -> bool:
            if job_rows.get_job(connection, part.job_id, lock=True).state is not JobState.RUNNING:
                return False
            rows.update_part(connection, part)
            data = {"job_id": part.job_id, "number": part.number, "cycle": part.cycle, "report_hash": part.diff_hash}
            audit.append(connection, "federated_diff_kept", data, actor=None, now=self.clock.now())
            return True

        is_kept = await self.writes.write(transaction)
        if is_kept:
            self.parts[part.number - 1] = part
        return is_kept

    async def _report(self, part: RoundAttempt) -> Departure | None:
        assert part.diff_hash is not None
        if (departure := await self.database.read(self._look)) is not None:
            return departure
        try:
            diff = await asyncio.to_thread(self.given.reports.path, part.diff_hash)
        except PygridError as error:
            if not (is_damage(error) or isinstance(error, NotFound)):
                raise
            await self._change(rules.failed(part, error.detail, self.clock.now()))
            return None
        self._say(f"reports for cycle {part.cycle}")
        line, federation = self.given.line, self.given.job.request.federation
        assert federation is not None
        line.client.assignment = CycleAccepted(
            "accepted", part.request_key, federation.version, federation.process, {}, {}, {}, model_id=0
        )
        body = line.body(diff)
        try:
            await line.call(lambda: line.client.send_report(body))
        except PygridError as error:
            if isinstance(error, Unavailable):
                raise
            self._may_use_key = False
            if not (isinstance(error, Gone) or error.code in _KEY_ENDED):
                await self._change(rules.expired(part, self.clock.now()))
            raise
        await self._change(rules.report(part, self.clock.now()))
        self._rest_s = _FIRST_REST_S
        return None

    async def _change(self, part: RoundAttempt) -> None:
        """Write a part that has changed; a report that is over with is deleted."""

        def transaction(connection: sa.Connection) -> None:
            rows.update_part(connection, part)
            data = {"job_id": part.job_id, "number": part.number, "cycle": part.cycle, "state": part.state.value}
            audit.append(connection, "federated_training_moved", data, actor=None, now=self.clock.now())

        await self.writes.write(transaction)
        self.parts[part.number - 1] = part
        if part.has_ended and part.diff_hash is not None:
            self.given.reports.drop(part.diff_hash)
        self.given.notify()

    async def _lose_interrupted(self) -> None:
        for part in self.parts:
            if part.state is PartState.TRAINING:
                await self._change(
                    rules.failed(part, "lost: the Domain was stopped, or failed, while it ran", self.clock.now())
                )

    # Ending

    def _departure(self) -> Departure | None:
        """Why it can't go on; None: it can."""
        job = self.given.job
        assert job.request.federation is not None
        if rules.is_hopeless(self.parts):
            return self._end("it came to no diff several times; what it was charged stays charged", "job_failed")
        if rules.num_spent(self.parts, is_private=job.is_private) >= job.request.federation.cycles:
            return self._end("it has used all the cycles that it was approved for")
        return None

    def _end(self, detail: str, code: str = "") -> Departure:
        num = sum(part.state is PartState.REPORTED for part in self.parts)
        private = next((part.private_detail for part in reversed(self.parts) if part.private_detail), "")
        told = f"{detail}; {num} of its diffs went into the training"
        return Departure(
            told, code, f"{told}. The last that failed: {private}" if private else "", rules.add_facts(self.parts)
        )

    def _say(self, doing: str) -> None:
        if doing != self.doing:
            self.doing = doing
            self.given.notify()


_KEY_ENDED = frozenset({"invalid_request_key", "missing_request_key", "cycle_closed"})
"""Codes of refusals that tell that a key is good for nothing any more, not that anything is wrong."""


async def _sleep(seconds: float) -> None:
    """About so long: Domains that wait for the same do not come back at once."""
    await asyncio.sleep(seconds * random.uniform(0.5, 1.0))


def _cycle(accepted: CycleAccepted) -> int:
    assert isinstance(accepted.cycle, int)
    return accepted.cycle
