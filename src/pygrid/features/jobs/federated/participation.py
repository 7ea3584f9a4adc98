"""One federated job from its first cycle to its last.

    request ──accepted──> fetch the model ──> record ──> train in a Worker ──> store the diff ──> report ──┐
     ^     └─rejected──> wait                                                                              │
     └──────────────────────┴──────────────────────────────── cycle over ──────────────────────────────────┘

until its cycles are used up, or the training has ended. Each step is durable before the next. After a crash, an
interrupted training counts as used, and a stored diff is reported with the same bytes. Nothing else of the job leaves,
and nothing at all when it is not running.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa
from msgspec import UNSET

from pygrid import codes
from pygrid.clock import Clock
from pygrid.core import federated as rules
from pygrid.core.federated import ParticipationResult, PartState, RoundAttempt, Trainer
from pygrid.core.job_spec import Failure
from pygrid.core.jobs import JobRecord, JobState
from pygrid.errors import Conflict, Gone, NotFound, PygridError, Unauthenticated, Unavailable
from pygrid.features.jobs.federated.coordinator import CoordinatorConnection, ModelFiles, check_accepted, check_offered
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

MAX_CONSECUTIVE_ERRORS = 5
"""Consecutive malformed answers that end a job."""
_MAX_WORDS = 500


async def _sleep(seconds: float) -> None:
    """Wait for 50% to 100% of the time, so that Domains do not all return at once."""
    await asyncio.sleep(seconds * random.uniform(0.5, 1.0))


@dataclass(frozen=True)
class ParticipationTimings:
    """The times of a participation, in seconds."""

    connect_patience_s: float = 30.0
    """Tries to reach a coordinator before the job reports it; later it is tried again."""
    wait_s: float = 25.0
    """Longest time for which a coordinator may hold a request for work."""
    give_up_s: float = 7 * 24 * 3600.0
    """Time without an answer from the coordinator, or without the process there, after which a job ends."""
    max_idle_s: float = 30 * 24 * 3600.0
    """Time without work from a coordinator that answers, after which a job ends and frees its reservation."""
    first_backoff_s: float = 0.2
    """Pause after a failed attempt; each further failure doubles it."""
    max_backoff_s: float = 10.0
    max_pause_s: float = 5.0
    """Longest pause after a coordinator without work that did not hold the request."""
    sleep: Callable[[float], Awaitable[None]] = _sleep


@dataclass(frozen=True)
class Given:
    """The inputs of a participation."""

    job: JobRecord
    approved: Layout
    """Layout of the job's model; the coordinator's models must have the same arrays."""
    num_records: int
    """The public number of records, which is the weight of each diff."""
    models: ModelFiles
    reports: Blobs
    coordinator: CoordinatorConnection
    trainer: Trainer
    notify: Callable[[], None]
    """Notifies the followers of the job of a change."""
    timings: ParticipationTimings


@dataclass
class FederatedParticipation:
    """The participation of one job in a training."""

    given: Given
    database: Database
    writes: AuditedWrites
    clock: Clock
    parts: list[RoundAttempt]
    doing: str = ""
    """The present step, as text."""
    _is_known: bool = False
    """Whether the coordinator has answered as a coordinator."""
    _may_use_key: bool = True
    """Whether the key of a stored diff can be valid."""
    _consecutive_errors: int = 0
    _backoff_s: float = field(init=False)
    _failing_since: float | None = field(default=None)
    _idle_since: float | None = None

    def __post_init__(self) -> None:
        self._backoff_s = self.given.timings.first_backoff_s

    async def run(self) -> ParticipationResult:
        """Take part until the job has ended, and return the result."""
        self._is_known = bool(self.parts)
        while True:
            try:
                result = await self._step()
            except PygridError as error:
                result = await self._handle_error(error)
            else:
                self._consecutive_errors, self._failing_since = 0, None
            if result is not None:
                return result

    async def _step(self) -> ParticipationResult | None:
        await self._fail_interrupted()
        kept = next((part for part in self.parts if part.state is PartState.TRAINED), None)
        if kept is not None and self._may_use_key:
            return await self._report(kept)
        if kept is None and (result := self._find_end()) is not None:
            return result
        answer = await self._request_cycle()
        if isinstance(answer, CycleRejected):
            return self._idle() if answer.timeout is not UNSET else self._end("the training has ended")
        self._idle_since = None
        check_accepted(answer, self.given.coordinator.client.client_id)
        if kept is not None:
            if rules.fits_cycle(kept, _cycle(answer), str(answer.model_hash)):
                await self._change(replace(kept, request_key=answer.request_key))
                self._may_use_key = True
            else:
                await self._change(rules.expired(kept, self.clock.now()))
            return None
        return await self._train(answer)

    # Requests for cycles

    async def _request_cycle(self) -> CycleAccepted | CycleRejected:
        client, loop, timings = self.given.coordinator.client, asyncio.get_running_loop(), self.given.timings
        self._say("waits for a cycle" if self._is_known else "waits for the training to begin")
        began = loop.time()
        answer = await self.given.coordinator.call(lambda: client.request_cycle(timings.wait_s))
        self._is_known = True
        was_held = loop.time() - began >= 0.8 * timings.wait_s
        if isinstance(answer, CycleRejected) and answer.timeout is not UNSET and not was_held:
            # This Domain must wait itself.
            await timings.sleep(min(max(float(answer.timeout), timings.first_backoff_s), timings.max_pause_s))
        return answer

    def _idle(self) -> ParticipationResult | None:
        """Return None, or the result after too long a wait."""
        now = asyncio.get_running_loop().time()
        self._idle_since = self._idle_since or now
        if now - self._idle_since > self.given.timings.max_idle_s:
            return self._end("the coordinator had no work for thirty days", "coordinator_idle")
        return None

    async def _handle_error(self, error: PygridError) -> ParticipationResult | None:
        """Back off before another attempt, or return the result of a job that cannot go on."""
        now = asyncio.get_running_loop().time()
        words = one_line(error.detail, _MAX_WORDS)
        if isinstance(error, Gone) or (isinstance(error, Unauthenticated | Conflict) and error.code in _KEY_ENDED):
            await self._back_off()
            return None  # only this cycle is over
        if isinstance(error, NotFound) and error.code == "worker_not_found":
            self.given.coordinator.client.client_id = None
        elif isinstance(error, NotFound) and error.code == "process_not_found":
            if self._is_known:
                return self._end("the coordinator does not have this training anymore", "coordinator_forgot")
        elif isinstance(error, Unauthenticated):
            return self._end(f"the coordinator does not let this job take part: {words}", "coordinator_refused")
        elif isinstance(error, Unavailable):
            self._say(f"tries again: {words}")
        else:
            self._consecutive_errors += 1
            logger.warning("coordinator answered wrongly", extra={"job_id": self.given.job.id, "code": error.code})
            if self._consecutive_errors >= MAX_CONSECUTIVE_ERRORS:
                return self._end(f"the coordinator violates the protocol: {words}", "coordinator_misbehaves")
        self._failing_since = self._failing_since or now
        if now - self._failing_since > self.given.timings.give_up_s:
            return self._end(f"the training could not be reached for seven days: {words}", "coordinator_unreachable")
        await self._back_off()
        return None

    async def _back_off(self) -> None:
        """Wait, so that a coordinator cannot keep this Domain busy with useless answers."""
        await self.given.timings.sleep(self._backoff_s)
        self._backoff_s = min(2 * self._backoff_s, self.given.timings.max_backoff_s)

    # Training

    async def _train(self, accepted: CycleAccepted) -> ParticipationResult | None:
        given = self.given
        loop = asyncio.get_running_loop()
        over_at = loop.time() + (accepted.deadline_s if isinstance(accepted.deadline_s, float) else math.inf)
        model = await given.coordinator.call(given.coordinator.client.fetch_model)
        await asyncio.to_thread(check_offered, model, given.approved)
        self._say(f"waits for a Worker for cycle {accepted.cycle}")
        # After a lost training, the next one runs on this machine, as it does for other jobs.
        was_lost = bool(self.parts) and self.parts[-1].state is PartState.LOST
        async with given.trainer.place(given.job, may_leave=not was_lost) as train:
            if loop.time() > over_at:
                # No cycle is used up.
                raise Gone("the cycle was over before a Worker was free", code=codes.CYCLE_CLOSED)
            await asyncio.to_thread(given.models.check, str(accepted.model_hash))
            part = await self._begin(accepted)
            if isinstance(part, ParticipationResult):
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
            except PygridError as error:  # the result of a Worker is untrusted
                failure = Failure("crashed", f"its result cannot be used: {error.detail}", error.code)
        if failure is not None:
            await self._change(rules.failed(part, f"{failure.kind}: {failure.detail}", self.clock.now(), facts))
            return None
        kept = rules.trained(part, name, facts)
        self._may_use_key = True
        if not await self._keep(kept):
            return self._end("it was ended")
        self._backoff_s = self.given.timings.first_backoff_s
        return None

    async def _begin(self, accepted: CycleAccepted) -> RoundAttempt | ParticipationResult:
        """Record a training and its charge before it begins; or return the result if it may not begin."""
        job, client_id = self.given.job, self.given.coordinator.client.client_id
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

        def transaction(connection: sa.Connection) -> ParticipationResult | None:
            if (ended := self._look(connection, lock=True)) is not None:
                return ended
            # Counted in the transaction and not from memory, because this bounds how often the data is used.
            if rules.num_spent(rows.list_parts(connection, job.id), is_private=job.is_private) >= most:
                return self._end("it has used all the cycles that it was approved for")
            if job.is_private and charges.get_charge(connection, job.id).state is ChargeState.RESERVED:
                charges.move_charge(connection, job.id, ChargeState.RUNNING, part.begun_at)
            rows.put_part(connection, part)
            data = {"job_id": job.id, "number": part.number, "cycle": part.cycle, "model_hash": part.model_hash}
            audit.append(connection, "federated_training_begun", data, actor=None, now=part.begun_at)
            return None

        if (result := await self.writes.write(transaction)) is not None:
            return result
        self.parts.append(part)
        return part

    def _look(self, connection: sa.Connection, *, lock: bool = False) -> ParticipationResult | None:
        """Return the result if nothing more may be trained or leave; else None."""
        now_is = job_rows.get_job(connection, self.given.job.id, lock=lock)
        if now_is.state is not JobState.RUNNING:
            return self._end("it was ended")
        if job_rows.get_job_dataset(connection, now_is).is_deleted:
            return self._end("the dataset was deleted", "dataset_not_found")
        return None

    async def _keep(self, part: RoundAttempt) -> bool:
        """Record a diff, so that it may be reported; False: the job has ended meanwhile, so it may not."""

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

    async def _report(self, part: RoundAttempt) -> ParticipationResult | None:
        assert part.diff_hash is not None
        if (result := await self.database.read(self._look)) is not None:
            return result
        with contextlib.ExitStack() as held:
            try:
                diff = await asyncio.to_thread(held.enter_context, self.given.reports.local(part.diff_hash))
            except PygridError as error:
                if not (is_damage(error) or isinstance(error, NotFound)):
                    raise
                await self._change(rules.failed(part, error.detail, self.clock.now()))
                return None
            await self._send(part, diff)
        return None

    async def _send(self, part: RoundAttempt, diff: Path) -> None:
        self._say(f"reports for cycle {part.cycle}")
        coordinator, federation = self.given.coordinator, self.given.job.request.federation
        assert federation is not None
        coordinator.client.assignment = CycleAccepted(
            "accepted", part.request_key, federation.version, federation.process, {}, {}, {}, model_id=0
        )
        body = coordinator.body(diff)
        try:
            await coordinator.call(lambda: coordinator.client.send_report(body))
        except PygridError as error:
            if isinstance(error, Unavailable):
                raise
            self._may_use_key = False
            if not (isinstance(error, Gone) or error.code in _KEY_ENDED):
                await self._change(rules.expired(part, self.clock.now()))
            raise
        await self._change(rules.report(part, self.clock.now()))
        self._backoff_s = self.given.timings.first_backoff_s

    async def _change(self, part: RoundAttempt) -> None:
        """Write a changed part; the report of an ended part is deleted."""

        def transaction(connection: sa.Connection) -> None:
            rows.update_part(connection, part)
            data = {"job_id": part.job_id, "number": part.number, "cycle": part.cycle, "state": part.state.value}
            audit.append(connection, "federated_training_moved", data, actor=None, now=self.clock.now())

        await self.writes.write(transaction)
        self.parts[part.number - 1] = part
        if part.has_ended and part.diff_hash is not None:
            self.given.reports.drop(part.diff_hash)
        self.given.notify()

    async def _fail_interrupted(self) -> None:
        for part in self.parts:
            if part.state is PartState.TRAINING:
                await self._change(
                    rules.failed(part, "lost: the Domain stopped or failed during the training", self.clock.now())
                )

    # The end

    def _find_end(self) -> ParticipationResult | None:
        """Return the result if the job cannot go on; else None."""
        job = self.given.job
        assert job.request.federation is not None
        if rules.is_hopeless(self.parts):
            return self._end("several trainings returned no diff; what it was charged stays charged", "job_failed")
        if rules.num_spent(self.parts, is_private=job.is_private) >= job.request.federation.cycles:
            return self._end("it has used all the cycles that it was approved for")
        return None

    def _end(self, detail: str, code: str = "") -> ParticipationResult:
        num = sum(part.state is PartState.REPORTED for part in self.parts)
        private = next((part.private_detail for part in reversed(self.parts) if part.private_detail), "")
        text = f"{detail}; {num} of its diffs went into the training"
        return ParticipationResult(
            text, code, f"{text}. The last failure: {private}" if private else "", rules.add_facts(self.parts)
        )

    def _say(self, doing: str) -> None:
        if doing != self.doing:
            self.doing = doing
            self.given.notify()


_KEY_ENDED = frozenset({"invalid_request_key", "missing_request_key", "cycle_closed"})
"""Codes of refusals after which a key is not valid; they are not errors."""


def _cycle(accepted: CycleAccepted) -> int:
    assert isinstance(accepted.cycle, int)
    return accepted.cycle
