"""What drives jobs beside the requests: tries them on the mock twin, starts what is approved, takes in what Workers return.

    checking --try_on_mock--> waiting | approved | rejected
    approved --take_next: debit and start in one transaction--> running --finish--> released | held | failed

A private job is started once. Its charge is debited before its Worker starts and stands whatever becomes of it; the one thing
that a restart may still do with it is to release a result that was stored before.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec
import sqlalchemy as sa

from pygrid.clock import Clock
from pygrid.core import jobs as rules
from pygrid.core.datasets import Schema
from pygrid.core.execution import Facts, Failure, FailureKind, JobResult, JobSpec, Progress
from pygrid.core.federation import Departure
from pygrid.core.job_checks import metrics_of, name_groups, schema_for_mock
from pygrid.core.job_terms import epsilon_alone, events_of
from pygrid.core.jobs import Job, JobState, Result
from pygrid.core.mocks import draw_mock
from pygrid.errors import Conflict, InvalidInput, InvalidTensors, PygridError, Unavailable
from pygrid.features.jobs.audited import AuditedWrites
from pygrid.features.jobs.budgets import end_charge, find_account
from pygrid.features.jobs.federated import FederatedJobs, Federation, WorkerPlaces
from pygrid.features.jobs.service import job_topic
from pygrid.features.jobs.specs import Inputs, RunLimits, data_bytes, make_mock_specs, make_spec
from pygrid.messages import media
from pygrid.messages.jobs import JobKind
from pygrid.metrics import Metrics
from pygrid.privacy.ledger import Accepted, ChargeState, Refusal, Rejected, cost_of
from pygrid.storage import audit, budgets
from pygrid.storage import datasets as dataset_rows
from pygrid.storage import jobs as rows
from pygrid.storage.columns import ColumnFiles, Draft, map_columns
from pygrid.storage.database import Database
from pygrid.storage.job_files import JobFiles
from pygrid.storage.jobs import JobDataset
from pygrid.storage.signals import Signals
from pygrid.tensors import read_layout

logger = logging.getLogger(__name__)

LOOK_S = 5.0
"""The queue is looked at this often, even if nothing woke it."""
RETRY_S = 30.0
"""After no Worker could be had."""
LEASE_S = 60.0
NUM_MOCK_RECORDS = 100

_WORDS: dict[FailureKind, str] = {
    "refused": "the Worker refused the job",
    "plan_failed": "the plan failed on the data",
    "out_of_memory": "the job needs more memory than it may use",
    "out_of_cpu": "the job took more computing time than it may",
    "out_of_time": "the job took longer than it may",
    "crashed": "the job's process ended without a result",
    "cancelled": "the job was ended",
    "result_too_large": "the result is larger than it may be",
    "lost": "the job's Worker was lost",
}
_MEDIA_TYPES: dict[JobKind, str] = {
    "train": media.TENSORS,
    "evaluate": "application/json",
    "statistics": "application/json",
    "predict": media.TENSORS,
}
_NO_RESULT = "the job came to no result; what it was charged stays charged"
"""All that is told of a private job that failed: what it failed of may depend on single records."""


class Workers(Protocol):
    """What runs jobs in sandboxes."""

    @property
    def prefer_remote(self) -> bool:
        """Whether jobs that may go to another machine do so while this one has room."""

    @property
    def num_remote(self) -> int:
        """How many jobs can run on other machines at once, now."""

    async def start(self) -> object:
        """Raises Unavailable: no Worker can be had, or only one that can't be locked in."""

    async def run(
        self,
        spec: JobSpec,
        on_progress: Callable[[Progress], None] | None = None,
        *,
        pad: bool = True,
        remote: bool = False,
    ) -> JobResult:
        """Run a job; what goes wrong with it is a failure in the result. If the caller is cancelled, the job is ended.

        Args:
            pad: have a private job end at the end of a coarse bucket of time, as its time may depend on single records.
            remote: on another machine, if one takes it.
        """


class Outcome(msgspec.Struct, frozen=True):
    """What is kept beside the bytes of a result until the row is written."""

    media_type: str
    facts: dict[str, Any]


@dataclass(frozen=True)
class Services:
    """What the runner works with."""

    database: Database
    writes: AuditedWrites
    files: JobFiles
    columns: ColumnFiles
    signals: Signals
    clock: Clock
    metrics: Metrics


class JobRunner:
    """Sees to it that every job goes on until a person has to decide, or it has ended.

    Args:
        max_concurrent: how many jobs are run at once, and how many are tried on their mock twins beside them.
    """

    def __init__(
        self, services: Services, workers: Workers, federation: Federation, *, max_concurrent: int, limits: RunLimits
    ) -> None:
        self._services = services
        self._workers = workers
        self._federation = federation
        self._federated = FederatedJobs(federation, self, self._end_federated, services.metrics, self.poke)
        self._places = WorkerPlaces(self.poke)
        self._max_concurrent = max_concurrent
        self._limits = limits
        self._changed = asyncio.Event()
        self._checking: dict[str, asyncio.Task[None]] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._remote: set[str] = set()
        """Those that run on other machines; they take no room here."""
        self._progress: dict[str, float] = {}
        self._stopped: set[str] = set()

    # What requests ask of it

    async def ready(self) -> None:
        """Have a Worker ready. Raises Unavailable."""
        await self._workers.start()

    def poke(self) -> None:
        """Look at the queue now."""
        self._changed.set()

    def stop(self, job_id: str) -> None:
        """End what runs of a job here; its Worker goes with the task that waits for it."""
        for task in (self._checking.get(job_id), self._running.get(job_id)):
            if task is not None:
                self._stopped.add(job_id)
                task.cancel()
        self._federated.stop(job_id)

    def doing(self, job_id: str) -> str:
        """What a federated job does now, in words; empty if it takes no part now."""
        return self._federation.doing(job_id)

    def leave(self, job: Job) -> None:
        """Tell the coordinator of a federated job that has ended."""
        self._federated.leave(job)

    def progress(self, job_id: str) -> float:
        """How far a running exact job is, 0 to 1; of a private one nothing is told."""
        return self._progress.get(job_id, 0.0)

    # Its life

    async def recover(self) -> None:
        """Take up what was left at the last stop; called once, before the first request."""
        await self._services.writes.recover()
        for job in await self._services.database.read(lambda connection: rows.list_in_state(connection, JobState.RUNNING)):
            if not job.is_federated:  # those go on with their next cycle
                await self._end_lost(job)
        unfinished = await self._services.database.read(rows.list_unfinished_ids)
        with_result = await self._services.database.read(rows.list_result_ids)
        await asyncio.to_thread(self._services.files.sweep, unfinished, with_result)

    async def run(self) -> None:
        """Work until cancelled; what runs then is cut off, as by a crash."""
        try:
            for job in await self._services.database.read(lambda connection: rows.list_in_state(connection, JobState.RUNNING)):
                if job.is_federated:
                    self._federated.begin(job)
            while True:
                self._changed.clear()
                try:
                    pause_s = await self._tick()
                except Exception:
                    # Jobs that run go on: theirs is not this fault.
                    self._services.metrics.task_failures.labels("look-for-jobs").inc()
                    logger.exception("jobs not looked at", extra={"retry_s": RETRY_S})
                    pause_s = RETRY_S
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._changed.wait()
        finally:
            tasks = [*self._checking.values(), *self._running.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._federated.close()

    async def _tick(self) -> float:
        """Do everything that is due now; gives how long to wait at most until the next look."""
        now = self._services.clock.now()
        await self._keep_leases(now)
        for job in await self._services.database.read(lambda connection: rows.list_lost(connection, now)):
            if job.is_federated:
                self._federated.begin(job)
            elif job.id not in self._running:
                await self._end_lost(job)
        self._places.give(self._num_free)
        waiting = await self._services.database.read(lambda connection: rows.list_in_state(connection, JobState.CHECKING))
        is_queued = bool(
            await self._services.database.read(lambda connection: rows.list_in_state(connection, JobState.APPROVED, 1))
        )
        if not waiting and not is_queued:
            return LOOK_S
        try:
            await self._workers.start()
        except Unavailable as error:
            logger.warning("no Worker", extra={"code": error.code, "detail": error.detail})
            return RETRY_S
        for job in waiting:
            if len(self._checking) < self._max_concurrent and job.id not in self._checking:
                self._spawn(self._checking, job, self._try_on_mock(job))
        for start in (
            (self._start_remote, self._start_here) if self._workers.prefer_remote else (self._start_here, self._start_remote)
        ):
            await start()
        while self._federated.has_room and (taken := await self._take_next(federated=True)) is not None:
            self._begin(taken)
        return LOOK_S

    @property
    def _num_free(self) -> int:
        """Places for Workers on this machine."""
        return self._max_concurrent - (len(self._running) - len(self._remote)) - self._places.num_taken

    async def _start_here(self) -> None:
        # Who waits for a place has a cycle that waits for them.
        while self._places.give(self._num_free) > 0 and (taken := await self._take_next()) is not None:
            self._begin(taken)

    async def _start_remote(self) -> None:
        while len(self._remote) < self._workers.num_remote and (taken := await self._take_next(remote=True)) is not None:
            self._begin(taken, remote=True)

    def _begin(self, taken: Job, *, remote: bool = False) -> None:
        self._announce(taken)
        if taken.state is JobState.RUNNING and taken.is_federated:
            self._federated.begin(taken)
        elif taken.state is JobState.RUNNING:
            if remote:
                self._remote.add(taken.id)
            self._spawn(self._running, taken, self._run(taken, remote=remote))

    def _spawn(self, among: dict[str, asyncio.Task[None]], job: Job, work: Coroutine[Any, Any, None]) -> None:
        task = among[job.id] = asyncio.create_task(work, name=f"job-{job.id}")

        def done(task: asyncio.Task[None]) -> None:
            among.pop(job.id, None)
            self._remote.discard(job.id)
            self._progress.pop(job.id, None)
            if job.id in self._stopped:
                self._stopped.discard(job.id)
                self._services.files.drop_result(job.id)
            if not task.cancelled() and (error := task.exception()) is not None:
                self._services.metrics.task_failures.labels("run-job").inc()
                logger.error("job not seen through", exc_info=error, extra={"job_id": job.id})
            self._changed.set()

        task.add_done_callback(done)

    async def _keep_leases(self, now: dt.datetime) -> None:
        if job_ids := {*self._running, *self._federated.ids}:
            until = now + dt.timedelta(seconds=LEASE_S)
            await self._services.database.write(lambda connection: rows.renew_leases(connection, job_ids, until))

    def _announce(self, job: Job) -> None:
        if job.has_ended:
            self._services.files.drop_inputs(job.id)
        self._services.signals.notify(job_topic(job.id))

    # checking

    async def _try_on_mock(self, job: Job) -> None:
        """``checking -> waiting | approved | rejected``."""
        metrics: dict[str, float] = {}
        try:
            with self._services.columns.draft() as draft:
                inputs = await self._mock_inputs(job, draft)
                specs = await asyncio.to_thread(make_mock_specs, job, inputs, self._limits)
                for number, spec in enumerate(specs):
                    result = await self._workers.run(msgspec.structs.replace(spec, id=f"{job.id}-mock-{number}"), pad=False)
                    if result.failure is not None:
                        return await self._reject(job, result.failure.code or result.failure.kind, result.failure.detail)
                    if spec.privacy is None:
                        metrics = read_metrics(job, result.payload)
                    elif result.facts.num_zeroed and result.facts.num_zeroed >= spec.privacy.rounds * inputs.schema.num_records:
                        return await self._reject(job, "plan_failed", "the plan failed on every record of the mock twin")
        except Unavailable:
            raise  # it stays as it is, and is tried again
        except PygridError as error:
            return await self._reject(job, error.code, error.detail)
        except Exception:
            logger.exception("trial failed", extra={"job_id": job.id})
            return await self._reject(job, "internal", "the Domain failed to try this job; its log tells why")
        await self._decide_by_policy(job, metrics)

    async def _mock_inputs(self, job: Job, draft: Draft) -> Inputs:
        """The mock twin that was uploaded; else one drawn for this job from the schema."""

        def load(connection: sa.Connection) -> tuple[JobDataset, Schema]:
            return rows.get_job_dataset(connection, job), dataset_rows.get_schema(connection, job.version_id)

        dataset, schema = await self._services.database.read(load)
        files = self._services.files.inputs(job.id)

        def prepare() -> Inputs:
            if dataset.mock == "uploaded" and dataset.mock_folder is not None:
                folder = self._services.columns.path(dataset.mock_folder)
                return Inputs(map_columns(folder)[0], folder, files)
            plan = Inputs(schema, draft.path, files).plan(job)
            wanted = schema_for_mock(schema, job.request, None if plan is None else plan.manifest)
            drawn, arrays = draw_mock(wanted, NUM_MOCK_RECORDS, seed=0)
            draft.put(drawn, arrays)
            return Inputs(drawn, draft.path, files)

        return await asyncio.to_thread(prepare)

    async def _reject(self, job: Job, code: str, detail: str) -> None:
        await self._move(job, lambda now: (rules.reject(now, code, detail), "job_rejected"))

    async def _decide_by_policy(self, job: Job, metrics: dict[str, float]) -> None:
        may_dial = not job.is_federated or await self._federation.may_dial(job)

        def transaction(connection: sa.Connection) -> Job | None:
            now_is = rows.get_job(connection, job.id, lock=True)
            if now_is.state is not JobState.CHECKING:
                return None
            if not may_dial or not _passes(connection, now_is):
                return self._write(connection, rules.present(now_is, metrics), "job_presented")
            return self._write(connection, rules.admit(now_is, metrics), "job_approved")

        moved = await self._services.writes.write(transaction)
        if moved is not None:
            self._announce(moved)

    # running

    async def _take_next(self, *, remote: bool = False, federated: bool = False) -> Job | None:
        """``approved -> running`` for the job that has waited longest, debited in the same transaction; ``-> failed`` if the
        ledger refuses it, and then nothing is debited. None: nothing to do. ``remote``: only those that may go elsewhere.

        The debit of a federated job is reserved until it begins to train: it can be given back until then.
        """

        def transaction(connection: sa.Connection) -> Job | None:
            exact_only = self._services.writes.is_rolled_back
            job = rows.find_next(connection, exact_only=exact_only, remote_only=remote, federated=federated)
            if job is None:
                return None
            now = self._services.clock.now()
            if rows.get_job_dataset(connection, job).is_deleted:
                gone = rules.fail(job, "dataset_not_found", "the dataset was deleted; nothing was charged")
                return self._write(connection, gone, "job_failed")
            if job.terms is not None:
                decision = budgets.reserve(
                    connection,
                    job_id=job.id,
                    dataset_id=job.dataset_id,
                    user_id=job.requested_by,
                    events=events_of(job.terms),
                    now=now,
                )
                if isinstance(decision, Rejected):
                    return self._write(connection, _refused(job, decision.reason), "job_failed")
                if not job.is_federated:
                    budgets.move_charge(connection, job.id, ChargeState.RUNNING, now)
            return self._write(connection, rules.start(job), "job_started", lease_s=LEASE_S)

        return await self._services.writes.write(transaction)

    async def _run(self, job: Job, *, remote: bool) -> None:
        """``running -> released | held | failed``, or back to ``approved``."""
        on_progress = None if job.is_private else self._watch(job)
        bytes_in = 0
        try:
            spec = await self._spec(job)
            bytes_in = data_bytes(spec)
            result = await self._workers.run(spec, on_progress, remote=remote)
        except PygridError as error:
            result = JobResult(Facts(), Failure("refused", error.detail, error.code))
        except Exception as error:
            logger.exception("job failed", extra={"job_id": job.id})
            result = JobResult(Facts(), Failure("crashed", f"a fault of the Domain: {type(error).__name__}"))
        if result.failure is None:
            await self._keep(job, result, bytes_in)
        elif result.failure.kind == "lost" and rules.may_run_again(job):
            await self._move(job, lambda now: (rules.requeue(now), "job_requeued"))
        else:
            await self._fail(job, result.failure, result.facts)

    # Federated jobs: of which each has Workers, one after the other

    def place(self) -> AbstractAsyncContextManager[None]:
        """The place of a Worker, once one is free."""
        return self._places.one()

    async def train(self, job: Job, model: Path, number: int) -> JobResult:
        """What a Worker of a federated job makes of the model in a file; each has another seed."""
        await self._workers.start()
        try:
            spec = await self._spec(job)
            spec = msgspec.structs.replace(
                spec, id=f"{job.id}-cycle-{number}", model_path=str(model), seed=(spec.seed + number) % 2**63
            )
            result = await self._workers.run(spec)
        except PygridError as error:
            return JobResult(Facts(), Failure("refused", error.detail, error.code))
        facts = msgspec.structs.replace(result.facts, bytes_in=data_bytes(spec), bytes_out=len(result.payload))
        return msgspec.structs.replace(result, facts=facts)

    async def _end_federated(self, job: Job, departure: Departure) -> None:
        """``running -> released | failed``."""

        def step(now: Job) -> tuple[Job, str]:
            if departure.code:
                failed = rules.fail(now, departure.code, departure.detail, departure.private_detail, departure.facts)
                return failed, "job_failed"
            return rules.depart(now, departure.detail, departure.facts), "job_departed"

        await self._move(job, step, ChargeState.FAILED if departure.code else ChargeState.RELEASED)
        self._federated.leave(job)

    async def _spec(self, job: Job) -> JobSpec:
        def load(connection: sa.Connection) -> tuple[JobDataset, Schema]:
            return rows.get_job_dataset(connection, job), dataset_rows.get_schema(connection, job.version_id)

        dataset, schema = await self._services.database.read(load)
        folder = self._services.columns.path(dataset.folder)
        return await asyncio.to_thread(
            make_spec, job, Inputs(schema, folder, self._services.files.inputs(job.id)), self._limits
        )

    def _watch(self, job: Job) -> Callable[[Progress], None]:
        def on_progress(progress: Progress) -> None:
            self._progress[job.id] = min(1.0, progress.done / max(1, progress.total))
            self._services.signals.notify(job_topic(job.id))

        return on_progress

    async def _keep(self, job: Job, result: JobResult, bytes_in: int) -> None:
        """Store the bytes once, then say so. How much data there was is not the Worker's to tell: who signs off looks at it."""
        try:
            payload = await asyncio.to_thread(_finished, job, result.payload)
        except (InvalidInput, msgspec.DecodeError, ValueError, KeyError) as error:
            # What came from a Worker may have been in a stranger's hand.
            return await self._fail(job, Failure("crashed", f"the result can't be read: {error}"), result.facts)
        facts = msgspec.structs.replace(result.facts, bytes_in=bytes_in, bytes_out=len(payload))
        told = {**_facts(facts), "bytes_out_ratio": len(payload) / bytes_in if bytes_in else None}
        outcome = msgspec.json.encode(Outcome(_MEDIA_TYPES[job.request.kind], told))
        await asyncio.to_thread(self._services.files.put_result, job.id, payload, outcome)
        await self._finish(job)

    async def _finish(self, job: Job) -> bool:
        """``running -> released | held`` by the result that is stored; False if there is none."""
        found = await asyncio.to_thread(self._services.files.find_result, job.id)
        if found is None:
            return False
        name, payload, raw = found
        outcome = msgspec.json.decode(raw, type=Outcome)
        metrics = await asyncio.to_thread(read_metrics, job, payload)
        result = Result(name, len(payload), outcome.media_type, metrics)

        def step(now: Job) -> tuple[Job, str]:
            return rules.finish(now, result, outcome.facts), "job_released" if now.is_private else "job_held"

        if await self._move(job, step, ChargeState.RELEASED) is None:
            self._services.files.drop_result(job.id)  # cancelled meanwhile
        return True

    async def _fail(self, job: Job, failure: Failure, facts: Facts | None) -> None:
        code = "job_failed" if job.is_private else failure.kind
        words = _WORDS[failure.kind]
        if job.request.kind == "predict":
            words = words.replace("the plan", "the model")
        detail = _NO_RESULT if job.is_private else words
        private = f"{words}: {failure.detail}"
        told = None if facts is None else _facts(facts)
        await self._move(job, lambda now: (rules.fail(now, code, detail, private, told), "job_failed"), ChargeState.FAILED)

    async def _end_lost(self, job: Job) -> None:
        """A job that was running when its Domain went away: release what was stored, start an exact one again, or fail it."""
        logger.warning("job was cut off", extra={"job_id": job.id})
        if await self._finish(job):
            return
        if rules.may_run_again(job):
            await self._move(job, lambda now: (rules.requeue(now), "job_requeued"))
        else:
            await self._fail(job, Failure("lost", "the Domain was stopped while it ran"), None)

    # Transitions

    async def _move(self, job: Job, step: Callable[[Job], tuple[Job, str]], charge: ChargeState | None = None) -> Job | None:
        """Make one transition from the state in which ``job`` was read, and move its charge; None if it has left that state."""

        def transaction(connection: sa.Connection) -> Job | None:
            now_is = rows.get_job(connection, job.id, lock=True)
            if now_is.state is not job.state:
                return None
            moved, action = step(now_is)
            if charge is not None and now_is.is_private:
                end_charge(connection, now_is, charge, self._services.clock.now())
            return self._write(connection, moved, action)

        try:
            moved = await self._services.writes.write(transaction)
        except Conflict:
            return None
        if moved is not None:
            logger.info("job moved", extra={"job_id": job.id, "state": moved.state.value})
            self._announce(moved)
        return moved

    def _write(self, connection: sa.Connection, moved: Job, action: str, lease_s: float | None = None) -> Job:
        now = self._services.clock.now()
        rows.update_job(connection, moved, now, lease_until=None if lease_s is None else now + dt.timedelta(seconds=lease_s))
        data = {"job_id": moved.id, "dataset_id": moved.dataset_id, "request_hash": moved.request_hash}
        if moved.result is not None:
            data |= {"result_hash": moved.result.hash}
        audit.append(connection, action, data, actor=None, now=now)
        return moved


def _passes(connection: sa.Connection, job: Job) -> bool:
    """Whether the dataset's policy lets a job run without a person."""
    policy = rows.find_policy(connection, job.dataset_id)
    if job.terms is None or policy is None or not policy.auto_approve:
        return False
    if policy.max_epsilon_per_job is not None and epsilon_alone(job.terms) > policy.max_epsilon_per_job:
        return False
    account = find_account(connection, job.dataset_id, job.requested_by)
    return account is not None and isinstance(account.check(cost_of(events_of(job.terms))), Accepted)


def _refused(job: Job, reason: Refusal) -> Job:
    if reason in (Refusal.DATASET_EXHAUSTED, Refusal.USER_EXHAUSTED):
        whose = "the dataset's privacy budget" if reason is Refusal.DATASET_EXHAUSTED else "your part of the privacy budget"
        return rules.fail(job, "budget_exhausted", f"{whose} has no room for this job; nothing was charged")
    return rules.fail(job, reason.value, "the privacy budget refused this job; nothing was charged")


def _facts(facts: Facts) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.to_builtins(facts)
    return told


def _finished(job: Job, payload: bytes) -> bytes:
    """The bytes as they may leave: groups are called by their declared keys, not by codes."""
    if job.request.kind != "statistics":
        return payload
    answers = msgspec.json.decode(payload, type=dict[str, list[dict[str, Any]]])["answers"]
    return msgspec.json.encode({"answers": name_groups(answers, job.request)})


def read_metrics(job: Job, payload: bytes) -> dict[str, float]:
    """The metrics in a result; none if it holds none, or something else."""
    try:
        if job.request.kind == "train":
            return metrics_of(msgspec.json.decode(read_layout(payload).metadata.get("metrics", "{}"), type=dict[str, Any]))
        if job.request.kind == "evaluate":
            return metrics_of(msgspec.json.decode(payload, type=dict[str, Any]).get("metrics", {}))
    except (InvalidTensors, msgspec.DecodeError, AttributeError):
        return {}
    return {}
