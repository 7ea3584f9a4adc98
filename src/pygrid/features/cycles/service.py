"""The use cases of devices: one function per message, for all encodings.

The steps of a report: `redeem_key` -> `receive_report` -> `submit_report` -> folded into the sum; later
`Completion.complete`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pygrid import codes
from pygrid.clock import Clock
from pygrid.core import cycles as rules
from pygrid.core.cycles import AdmissionRefusal, Assignment, AssignmentState, Cycle, CycleState, Redeemed
from pygrid.core.processes import HostedPlan, HostedProcess, process_not_native
from pygrid.core.reports import ReportContent
from pygrid.durable import Bytes
from pygrid.errors import InvalidInput, NotFound, PygridError, Unauthenticated, Unavailable
from pygrid.features.cycles.accumulator import CycleSums
from pygrid.features.cycles.admission import Admission, Admissions
from pygrid.features.cycles.centres import Centres
from pygrid.features.cycles.cycle_metrics import CycleCounts
from pygrid.features.cycles.quotas import DeviceQuotas
from pygrid.features.cycles.report_intake import Received, ReportBuffers, receive_report
from pygrid.features.cycles.scheduler import CycleScheduler
from pygrid.ids import hash_secret
from pygrid.messages.cycles import MAX_WAIT_S, CycleAccepted, CycleRejected, CycleRequest
from pygrid.storage import reports as rows
from pygrid.storage.admission_batches import Applicant
from pygrid.storage.blobs.protocol import Place
from pygrid.storage.processes import Checkpoint
from pygrid.storage.report_batches import INVALID_KEY, AcceptReports, OfferedReport
from pygrid.storage.reports import Report
from pygrid.storage.signals import event_topic, progress_topic
from pygrid.storage.sql.failures import may_be_done
from pygrid.storage.store import Store


@dataclass(frozen=True)
class RedeemedKey:
    """The assignment, cycle and process of a valid request key."""

    key_hash: str
    assignment: Assignment
    cycle: Cycle
    process: HostedProcess


class CyclesService:
    """The use cases of devices.

    Args:
        executor: has one thread, which folds reports in the order of their acceptance and completes cycles.
    """

    def __init__(
        self,
        store: Store,
        admissions: Admissions,
        sums: CycleSums,
        scheduler: CycleScheduler,
        clock: Clock,
        executor: ThreadPoolExecutor,
        counts: CycleCounts,
        quotas: DeviceQuotas,
    ) -> None:
        self._store = store
        self._quotas = quotas
        self._admissions = admissions
        self._sums = sums
        self._scheduler = scheduler
        self._clock = clock
        self._executor = executor
        self._counts = counts
        self._centres = Centres(store)
        self._accepting = AcceptReports(clock.now)
        self._spooling = ThreadPoolExecutor(2, thread_name_prefix="spool")
        self._submitting: set[asyncio.Task[Report | None]] = set()
        self._buffers = ReportBuffers()

    def take_speed_test(self, address: str, *, is_ping: bool = False) -> None:
        """Count a speed test, or a ping of one. Raises TooManyRequests: ``rate_limited``."""
        if is_ping:
            self._quotas.take_ping(address)
        else:
            self._quotas.take_speed_test(address)

    def close(self) -> None:
        """End the threads."""
        self._spooling.shutdown()

    async def request_cycle(
        self, message: CycleRequest, address: str, departed: Callable[[], Awaitable[None]]
    ) -> CycleAccepted | CycleRejected:
        """Admit a client to the current cycle of its process, or answer when to come back.

        Args:
            address: network address of the device.
            departed: returns once the client has disconnected.
        Raises:
            NotFound: ``process_not_found``, ``worker_not_found``. InvalidInput: ``speed_missing``, ``invalid_input``.
            TooManyRequests: ``rate_limited``.
        """
        self._quotas.take_cycle_request(address)
        process = await self._store.processes.get_by_name(message.model, message.version)
        _check_numbers(message, process)
        if not message.worker_id.isprintable():  # PostgreSQL takes no NUL
            raise InvalidInput("'worker_id' is not an id that authenticate returned", field="worker_id")
        native = message.wait_s is not None
        if native and not process.is_native:
            raise process_not_native(process.name)
        obstacle = "" if native else self._find_obstacle(process)
        applicant = Applicant(message.worker_id, message.download, message.upload, native, obstacle)
        outcome = await self._admissions.request(process, applicant, message.wait_s or 0.0, departed)
        self._counts.admissions.labels(outcome.reason if isinstance(outcome, AdmissionRefusal) else "accepted").inc()
        self._store.signals.notify(progress_topic(process.id))
        if isinstance(outcome, AdmissionRefusal):
            self._counts.count_refusal(process.id, outcome.reason)
            return _rejected(outcome, native)
        return await self._accepted(process, outcome, native)

    def _find_obstacle(self, process: HostedProcess) -> str:
        """Why a client of 2020 cannot train in the current cycle; empty if it can."""
        current = self._scheduler.current.get(process.id)
        return process.find_obstacle(current.sequence if current is not None else 1)

    async def _accepted(self, process: HostedProcess, admission: Admission, native: bool) -> CycleAccepted:
        cycle = admission.cycle
        accepted = CycleAccepted(
            status="accepted",
            request_key=admission.request_key,
            version=process.version,
            model=process.name,
            plans={plan.name: plan.id for plan in process.plans},
            protocols={},
            client_config={**process.client_config, **process.config.client_values_in(cycle.sequence)},
            model_id=process.id,
        )
        if not native:
            accepted.client_config.setdefault("batch_size", process.batch_size_in(cycle.sequence))
        if native:
            checkpoint = await self._store.processes.get_checkpoint(process.id, cycle.checkpoint)
            accepted.cycle = cycle.sequence
            accepted.checkpoint = cycle.checkpoint
            accepted.model_hash = checkpoint.model_hash
            accepted.plan_hashes = {plan.name: plan.plan_hash for plan in process.plans}
            accepted.deadline_s = None
            if cycle.deadline_at is not None:
                accepted.deadline_s = max(0.0, (cycle.deadline_at - self._clock.now()).total_seconds())
            accepted.grace_s = process.config.grace_s
            accepted.max_report_bytes = process.max_report_bytes
        return accepted

    async def redeem_key(self, request_key: str, client_id: str | None = None) -> RedeemedKey:
        """Return the assignment, cycle and process of a request key.

        Args:
            client_id: if present, the key must belong to this client.
        Raises:
            Unauthenticated: ``invalid_request_key``: the key does not exist, or belongs to another client.
        """
        key_hash = hash_secret(request_key)
        found = self._admissions.recall(key_hash)
        if found is None:
            found = await self._store.database.look_up(lambda connection: rows.find_by_key(connection, key_hash))
        if found is None or (client_id is not None and client_id != found[0].client_id):
            raise Unauthenticated(INVALID_KEY, code=codes.INVALID_REQUEST_KEY)
        assignment, cycle = found
        return RedeemedKey(key_hash, assignment, cycle, await self._store.processes.get(cycle.process_id))

    async def find_model(self, redeemed: RedeemedKey, model_id: int) -> Checkpoint:
        """Return the checkpoint that the key's cycle starts from.

        Raises:
            Gone: ``cycle_closed``. NotFound: ``model_not_found``: not the model of this key.
        """
        self._check_open(redeemed)
        if model_id != redeemed.process.id:
            raise NotFound("Model ID not found!", code=codes.MODEL_NOT_FOUND, model_id=model_id)
        return await self._store.processes.get_checkpoint(redeemed.process.id, redeemed.cycle.checkpoint)

    def find_plan(self, redeemed: RedeemedKey, plan_id: int) -> HostedPlan:
        """Return a plan of the key's process.

        Raises:
            Gone: ``cycle_closed``. NotFound: ``plan_not_found``: not a plan of this key's process.
        """
        self._check_open(redeemed)
        for plan in redeemed.process.plans:
            if plan.id == plan_id:
                return plan
        raise NotFound("Plan ID not found!", code=codes.PLAN_NOT_FOUND, plan_id=plan_id)

    async def take_report(
        self, request_key: str, client_id: str | None, read: Callable[[int], AsyncIterator[Bytes]]
    ) -> None:
        """Take a report through `redeem_key`, `receive_report` and `submit_report`, and count its outcome.

        Args:
            read: `max_bytes -> pieces` of the body; refuses a longer body. With a valid key, the body is read to its
                end before a refusal.
        """
        redeemed: RedeemedKey | None = None
        pieces: AsyncIterator[Bytes] | None = None
        try:
            redeemed = await self.redeem_key(request_key, client_id)
            pieces = read(redeemed.process.max_report_bytes)
            received = await self.receive_report(redeemed, pieces)
            report = await self.submit_report(redeemed, received)
        except PygridError as error:
            self._counts.reports.labels(error.code).inc()
            if redeemed is not None:
                self._counts.count_refusal(redeemed.process.id, error.code)
                self._store.signals.notify(progress_topic(redeemed.process.id))
            if pieces is not None:
                await _read_on(pieces)
            raise
        self._counts.reports.labels("repeated" if report is None else "accepted").inc()
        if report is not None:
            self._counts.report_bytes.inc(report.length)

    async def receive_report(self, redeemed: RedeemedKey, pieces: AsyncIterator[Bytes]) -> Received:
        """Read and check the bytes of a report. See `report_intake.receive_report`.

        Raises:
            Gone, Conflict: the key does not allow a report now; nothing was read.
        """
        config = redeemed.process.config
        _raise_refused(rules.redeem(redeemed.cycle, config, redeemed.assignment, self._clock.now(), None))
        cycle_id = redeemed.cycle.id
        centre = await self._centres.find(redeemed.process, redeemed.cycle.checkpoint)
        return await receive_report(
            pieces, redeemed.process, centre, lambda: self._store.diffs.spool(cycle_id), self._spooling, self._buffers
        )

    async def submit_report(self, redeemed: RedeemedKey, received: Received) -> Report | None:
        """Accept a checked report: when this returns it is durable and will be in exactly one checkpoint.

        Returns:
            The recorded report, or None if it was accepted before.
        Raises:
            Conflict: ``already_reported``. Gone: ``cycle_closed``. Nothing was changed.
        """
        # A caller that is cancelled while it waits must not leave a part of this behind: a row without its bytes, or a
        # closing cycle that is never completed.
        submitting = asyncio.create_task(self._submit(redeemed, received))
        self._submitting.add(submitting)
        submitting.add_done_callback(self._submitting.discard)
        return await asyncio.shield(submitting)

    async def _submit(self, redeemed: RedeemedKey, received: Received) -> Report | None:
        process_id, spool = redeemed.process.id, received.spool
        keeps_bytes = spool is not None or self._may_count(redeemed)
        log, place = None, Place("" if spool is None else spool.name, 0)
        if received.data is not None and keeps_bytes:
            log = self._store.diffs.log(process_id)
            if log is not None:
                place = Place(log.name, 0)
            else:
                place = await self._store.diffs.append(redeemed.cycle.id, received.data)

        def offer(offset: int = place.offset) -> OfferedReport:
            return _offer(redeemed, received.content, Place(place.file, offset), keeps_bytes=keeps_bytes)

        database = self._store.database
        try:
            if received.data is not None and log is not None:
                stored = await database.write_all_with_bytes(self._accepting, offer, log, received.data)
            else:
                stored = await database.write_all(self._accepting, offer(), redeemed.cycle.id)
        except Exception as error:
            # After a failed commit, or a cancellation at the stop, a row can still name these bytes. The next sweep
            # decides.
            is_refused = isinstance(error, Unavailable) and error.code == "storage_failed"
            if spool is not None and not is_refused and not may_be_done(error):
                spool.discard()
            raise
        report, cycle = stored.report, stored.cycle
        self._admissions.forget(redeemed.key_hash)
        if report is None:
            if spool is not None:
                spool.discard()
            return None
        self._fold_soon(redeemed.process, report, received, cycle.num_reports)
        self._store.signals.notify(progress_topic(process_id))
        if cycle.state is CycleState.CLOSING or self._has_new_grace(cycle):
            self._scheduler.watch(cycle)
            self._store.signals.notify(event_topic(process_id))
        return report

    def _has_new_grace(self, cycle: Cycle) -> bool:
        """Whether the grace period of an open cycle has begun, and the scheduler does not know it."""
        current = self._scheduler.current.get(cycle.process_id)
        is_known = current is not None and (current.id, current.state) == (cycle.id, CycleState.OPEN)
        return is_known and current is not None and current.grace_until != cycle.grace_until

    def _may_count(self, redeemed: RedeemedKey) -> bool:
        """Whether a report can count, so that its bytes are kept: it is the first one, and its cycle is current."""
        if redeemed.assignment.state is not AssignmentState.ASSIGNED:
            return False
        current = self._scheduler.current.get(redeemed.process.id)
        if self._store.is_shared and (current is None or current.id < redeemed.cycle.id):
            return True  # another replica has begun this cycle, and this one has not heard of it
        return current is not None and current.id == redeemed.cycle.id

    def _fold_soon(self, process: HostedProcess, report: Report, received: Received, num_reports: int) -> None:
        """Fold an accepted report into the running sum; the completion folds those that are missing there."""
        if process.averaging_plan is None and self._sums.queue(
            process, report, received.data, received.content, num_reports
        ):
            self._executor.submit(self._fold_queued)

    def _fold_queued(self) -> None:
        if self._sums.fold_queued():
            self._executor.submit(self._fold_queued)

    def _check_open(self, redeemed: RedeemedKey) -> None:
        config = redeemed.process.config
        outcome = _raise_refused(rules.redeem(redeemed.cycle, config, redeemed.assignment, self._clock.now(), None))
        if outcome.repeated:
            raise rules.cycle_closed(redeemed.cycle)


def _offer(redeemed: RedeemedKey, content: ReportContent, place: Place, *, keeps_bytes: bool) -> OfferedReport:
    """Return the item of a batch for a checked report whose bytes are at a place."""
    process = redeemed.process
    report = Report(
        id=redeemed.assignment.id,
        cycle_id=redeemed.cycle.id,
        file=place.file,
        offset=place.offset,
        length=content.length,
        num_examples=content.num_examples,
        weight=1 if process.rule.has_equal_votes else min(content.num_examples, process.config.max_weight),
        norm=content.norm,
        scale=None,
        metrics=content.metrics,
        fingerprint=content.fingerprint,
        distance=content.distance,
    )
    return OfferedReport(redeemed.key_hash, process.id, process.config, report, keeps_bytes)


async def _read_on(pieces: AsyncIterator[Bytes]) -> None:
    """Read the rest of a refused report.

    A server that answers and closes a connection on which a client still sends resets it, and the client loses the
    answer. Most clients look for one only after they have sent all.
    """
    with contextlib.suppress(PygridError):
        async for _ in pieces:
            pass


def _raise_refused(outcome: Redeemed | PygridError) -> Redeemed:
    if isinstance(outcome, PygridError):
        raise outcome
    return outcome


def _check_numbers(message: CycleRequest, process: HostedProcess) -> None:
    for name in ("ping", "download", "upload"):
        value = getattr(message, name)
        if value is None:
            if process.config.needs_speed_test:
                raise InvalidInput(f"'{name}' is required", code=codes.SPEED_MISSING, field=name)
        elif not (math.isfinite(value) and value >= 0):
            raise InvalidInput(f"'{name}' needs to be a positive number", field=name)
    wait_s = message.wait_s
    if wait_s is not None and not 0 <= wait_s <= MAX_WAIT_S:
        raise InvalidInput(f"'wait_s' must be from 0 to {MAX_WAIT_S:.0f}", field="wait_s")


def _rejected(refusal: AdmissionRefusal, native: bool) -> CycleRejected:
    rejected = CycleRejected("rejected")
    if refusal.timeout_s is not None:
        rejected.timeout = refusal.timeout_s
    if native:
        rejected.reason = refusal.reason
        rejected.detail = refusal.detail
    return rejected
