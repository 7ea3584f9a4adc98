"""What a model owner can ask of a Domain: host a process, look at it, take its checkpoints, finish it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import msgspec
import sqlalchemy as sa

from pygrid.clock import Clock
from pygrid.core.config import ServerConfig, read_client_config, read_server_config
from pygrid.core.cycles import Cycle, CycleState
from pygrid.core.processes import check_fits
from pygrid.errors import Conflict, InvalidConfig, InvalidInput, InvalidPlan, NotFound
from pygrid.features.processes.uploads import HostForm, read_host_form
from pygrid.messages.processes import CheckpointInfo, Contribution, CycleInfo, Event, HostRequest, PlanInfo, ProcessInfo
from pygrid.plans.archive import Plan
from pygrid.plans.gate import GateLimits, GateReport, check_async
from pygrid.storage import cycles as rows
from pygrid.storage import processes
from pygrid.storage.signals import wait_for_any
from pygrid.storage.store import Store, cycle_topic, event_topic
from pygrid.storage.transitions import begin_cycle, close_cycle
from pygrid.tensors.flat import num_values
from pygrid.tensors.safetensors import Layout
from pygrid.web.lifecycle import Stopping
from pygrid.web.requests import decode_json

EVENTS_AT_ONCE = 100
REFRESH_S = 10.0
"""An event stream looks at the store this often, even if nothing woke it."""

WatchCycle = Callable[[Cycle], None]


@dataclass(frozen=True)
class _Candidate:
    """A process that passed every check and is not stored yet."""

    name: str
    version: str
    client_config: dict[str, Any]
    server_config: dict[str, Any]
    config: ServerConfig
    model: Layout
    plans: dict[str, bytes]
    averaging_plan: bytes | None


class ProcessesService:
    """The use cases of model owners.

    Args:
        watch_cycle: told of each cycle that begins or closes here, so that its deadline is kept.
    """

    def __init__(self, store: Store, watch_cycle: WatchCycle, clock: Clock, stopping: Stopping) -> None:
        self._store = store
        self._watch_cycle = watch_cycle
        self._clock = clock
        self._stopping = stopping

    async def host(self, content_type: str, body: AsyncIterator[bytes], user_id: int | None) -> ProcessInfo:
        """Host a process from the form in ``body``: all of it is checked before anything is stored.

        Raises:
            InvalidInput, InvalidConfig, InvalidPlan, InvalidTensors, ShapeMismatch, NonFinite, PayloadTooLarge.
            Conflict: ``process_exists``.
        """
        blobs = self._store.blobs
        with blobs.writer() as model_writer:
            form = await read_host_form(content_type, body, model_writer)
            candidate = await self._check(form)
            model_hash = await asyncio.to_thread(model_writer.commit)
        plan_hashes = {name: await asyncio.to_thread(blobs.put, data) for name, data in candidate.plans.items()}
        averaging_hash = None
        if candidate.averaging_plan is not None:
            averaging_hash = await asyncio.to_thread(blobs.put, candidate.averaging_plan)

        def transaction(connection: sa.Connection) -> tuple[ProcessInfo, Cycle]:
            now = self._clock.now()
            try:
                process_id = processes.put_process(
                    connection,
                    name=candidate.name,
                    version=candidate.version,
                    client_config=candidate.client_config,
                    server_config=candidate.server_config,
                    num_parameters=num_values(candidate.model),
                    now=now,
                    created_by=user_id,
                )
            except sa.exc.IntegrityError:
                raise _exists(candidate.name, candidate.version) from None
            for name, plan_hash in plan_hashes.items():
                processes.put_plan(connection, process_id, name, "training", plan_hash, len(candidate.plans[name]))
            if averaging_hash is not None and candidate.averaging_plan is not None:
                size = len(candidate.averaging_plan)
                processes.put_plan(connection, process_id, "averaging_plan", "averaging", averaging_hash, size)
            checkpoint = processes.Checkpoint(process_id, 1, model_hash, candidate.model.total_bytes, {}, now)
            processes.put_checkpoint(connection, checkpoint)
            rows.put_event(connection, process_id, 1, "process_hosted", now)
            cycle = begin_cycle(connection, process_id, candidate.config, 1, 1, now)
            return self._describe(connection, processes.get_process(connection, process_id)), cycle

        info, cycle = await self._store.database.write(transaction)
        self._watch_cycle(cycle)
        if candidate.config.is_public:
            await self._store.public.changed()
        return info

    async def _check(self, form: HostForm) -> _Candidate:
        if not form.config or form.model is None or not form.plans:
            raise InvalidInput("the form needs the parts config, model and at least one plan:NAME", code="invalid_form")
        try:
            request = msgspec.convert(decode_json(form.config), HostRequest)
        except (InvalidInput, msgspec.ValidationError) as error:
            raise InvalidConfig(f"config is not {{client_config, server_config}} in JSON: {error}") from error
        name, version = read_client_config(request.client_config)
        config = read_server_config(request.server_config)
        if await self._store.database.read(
            lambda connection: processes.list_processes(connection, name=name, version=version, limit=1)
        ):
            raise _exists(name, version)
        for plan_name, data in form.plans.items():
            report = await check_async(data)
            _check_kind(report, plan_name, "training")
            check_fits(form.model, _spec(report), plan_name)
        if form.averaging_plan is not None:
            await _check_averaging(form.averaging_plan, config, form.model)
        return _Candidate(
            name,
            version,
            request.client_config,
            request.server_config,
            config,
            form.model,
            form.plans,
            form.averaging_plan,
        )

    async def list_processes(self, name: str | None, version: str | None) -> list[ProcessInfo]:
        """Processes, newest first."""

        def load(connection: sa.Connection) -> list[ProcessInfo]:
            found = processes.list_processes(connection, name=name, version=version)
            return [self._describe(connection, process) for process in found]

        return await self._store.database.read(load)

    async def get(self, process_id: int) -> ProcessInfo:
        """A process. Raises NotFound: ``process_not_found``."""
        return await self._store.database.read(
            lambda connection: self._describe(connection, processes.get_process(connection, process_id))
        )

    async def finish(self, process_id: int) -> ProcessInfo:
        """End training: no client is admitted any more; what the open cycle has received becomes a last checkpoint."""

        def transaction(connection: sa.Connection) -> tuple[ProcessInfo, Cycle | None]:
            process = processes.get_process(connection, process_id)
            cycle = rows.get_newest_cycle(connection, process_id)
            closing = None
            if process.state == "active":
                processes.set_process_state(connection, process_id, "finished")
                if cycle.state in (CycleState.HOSTED, CycleState.OPEN):
                    closing = close_cycle(connection, cycle, self._clock.now())
            return self._describe(connection, processes.get_process(connection, process_id)), closing

        info, closing = await self._store.database.write(transaction)
        if closing is not None:
            self._watch_cycle(closing)
        self._store.signals.notify(cycle_topic(process_id))
        await self._store.public.changed()
        return info

    async def list_cycles(self, process_id: int, after: int, limit: int) -> list[CycleInfo]:
        """Cycles with a sequence above ``after``, oldest first. Raises NotFound: ``process_not_found``."""

        def load(connection: sa.Connection) -> list[CycleInfo]:
            processes.get_process(connection, process_id)
            return [_describe_cycle(connection, cycle) for cycle in rows.list_cycles(connection, process_id, after, limit)]

        return await self._store.database.read(load)

    async def list_contributions(self, process_id: int, after: int, limit: int) -> list[Contribution]:
        """Accepted reports with an id above ``after``, by admission. Raises NotFound: ``process_not_found``."""

        def load(connection: sa.Connection) -> list[Contribution]:
            processes.get_process(connection, process_id)
            return [Contribution(**asdict(one)) for one in rows.list_contributions(connection, process_id, after, limit)]

        return await self._store.database.read(load)

    async def list_checkpoints(self, process_id: int) -> list[CheckpointInfo]:
        """All checkpoints, oldest first. Raises NotFound: ``process_not_found``."""

        def load(connection: sa.Connection) -> list[CheckpointInfo]:
            processes.get_process(connection, process_id)
            found = processes.list_checkpoints(connection, process_id)
            return [
                CheckpointInfo(c.number, "latest" if c is found[-1] else "", c.model_hash, c.size_bytes, c.created_at)
                for c in found
            ]

        return await self._store.database.read(load)

    async def find_plan(self, process_id: int, plan_id: int) -> str:
        """The name of a plan's bytes. Raises NotFound: ``plan_not_found``."""
        plan = await self._store.database.read(lambda connection: processes.find_plan(connection, process_id, plan_id))
        if plan is None:
            raise NotFound("Plan ID not found!", code="plan_not_found", plan_id=plan_id)
        return plan.plan_hash

    async def find_checkpoint(self, name: str, version: str | None, checkpoint: str) -> processes.Checkpoint:
        """A checkpoint by number or alias (``latest``).

        Raises:
            NotFound: ``process_not_found``, ``checkpoint_not_found``.
        """

        def load(connection: sa.Connection) -> processes.Checkpoint:
            process = processes.get_process_by_name(connection, name, version)
            if checkpoint == "latest":
                return processes.get_checkpoint(connection, process.id)
            if not (checkpoint.isascii() and checkpoint.isdigit() and len(checkpoint) <= 9):
                raise NotFound(f"there is no checkpoint {checkpoint[:50]!r}", code="checkpoint_not_found")
            return processes.get_checkpoint(connection, process.id, int(checkpoint))

        return await self._store.database.read(load)

    async def follow(self, process_id: int, after: int) -> AsyncIterator[Event]:
        """Events with an id above ``after``, then each new one as it happens. Raises NotFound: ``process_not_found``."""
        read: Callable[..., Awaitable[Any]] = self._store.database.read
        await read(lambda connection: processes.get_process(connection, process_id))
        return self._events(process_id, after)

    async def _events(self, process_id: int, after: int) -> AsyncIterator[Event]:
        while not self._stopping.is_set():
            changed = self._store.signals.next(event_topic(process_id))
            stored, is_over = await self._store.database.read(partial(_read_events, process_id=process_id, after=after))
            for event in stored:
                after = event.id
                yield Event(event.id, event.kind, event.at, event.cycle, event.data)  # type: ignore[arg-type]
            if not stored and is_over:
                return
            if not stored:
                await wait_for_any([changed], REFRESH_S)

    def _describe(self, connection: sa.Connection, process: processes.Process) -> ProcessInfo:
        newest = processes.get_checkpoint(connection, process.id)
        plans = processes.list_plans(connection, process.id)
        return ProcessInfo(
            id=process.id,
            name=process.name,
            version=process.version,
            state=process.state,
            created_at=process.created_at,
            num_parameters=process.num_parameters,
            model_bytes=newest.size_bytes,
            num_checkpoints=newest.number,
            plans=[PlanInfo(p.id, p.name, p.kind, p.plan_hash, p.size_bytes) for p in plans],
            client_config=process.client_config,
            server_config=read_server_config(process.server_config).public(),
            cycle=_describe_cycle(connection, rows.get_newest_cycle(connection, process.id)),
        )


def _read_events(connection: sa.Connection, process_id: int, after: int) -> tuple[list[rows.StoredEvent], bool]:
    """The next events, and whether none will come after those that are stored."""
    stored = rows.list_events(connection, process_id, after, EVENTS_AT_ONCE)
    finished = processes.get_process(connection, process_id).state == "finished"
    return stored, finished and rows.get_newest_cycle(connection, process_id).state is CycleState.COMPLETED


def _describe_cycle(connection: sa.Connection, cycle: Cycle) -> CycleInfo:
    totals = rows.get_totals(connection, cycle.id)
    return CycleInfo(
        sequence=cycle.sequence,
        state=cycle.state.value,
        attempt=cycle.attempt,
        checkpoint=cycle.checkpoint,
        num_assigned=cycle.num_assigned,
        num_reports=cycle.num_reports,
        created_at=cycle.created_at,
        opened_at=cycle.opened_at,
        deadline_at=cycle.deadline_at,
        completed_at=cycle.completed_at,
        **asdict(totals),
    )


def _spec(report: GateReport) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (array.dtype, array.shape) for name, array in report.model_spec.items()}


def _check_kind(report: GateReport, name: str, kind: str) -> None:
    if report.kind != kind:
        raise InvalidPlan(f"plan {name!r} is of kind {report.kind!r}, expected {kind!r}", code="plan_kind", plan=name)


async def _check_averaging(data: bytes, config: ServerConfig, model: Layout) -> None:
    report = await check_async(data)
    _check_kind(report, "averaging_plan", "averaging")
    check_fits(model, _spec(report), "averaging_plan")
    iterative = Plan.from_bytes(data).manifest.iterative
    if iterative != config.iterative_plan:
        raise InvalidConfig(
            f"server_config.iterative_plan is {config.iterative_plan}, the averaging plan says {iterative}",
            field="iterative_plan",
        )
    most = min(n for n in (config.max_diffs, config.max_workers, float("inf")) if n is not None)
    limit = GateLimits().max_diffs
    if not iterative and most > limit:
        raise InvalidConfig(
            f"an averaging plan that takes all diffs at once needs max_diffs or max_workers of at most {limit}",
            field="max_diffs",
        )


def _exists(name: str, version: str) -> Conflict:
    detail = f"FL Process already exists. {name!r} has a version {version!r}; choose another version or name."
    return Conflict(detail, code="process_exists", name=name, version=version)
