"""Hosts a process from its form: checks all of it, then stores it with its first cycle in one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import sqlalchemy as sa

from pygrid import codes
from pygrid.clock import Clock
from pygrid.core.cycles import Cycle
from pygrid.core.process_config import ProcessConfig, read_client_config, read_server_config
from pygrid.core.processes import check_fits
from pygrid.errors import Conflict, InvalidConfig, InvalidInput, InvalidPlan
from pygrid.features.processes.presenter import describe_process
from pygrid.messages.decoding import decode_json
from pygrid.messages.processes import HostRequest, ProcessInfo
from pygrid.plans.archive import Plan
from pygrid.plans.gate import GateLimits, GateReport, check_async
from pygrid.storage import cycles as rows
from pygrid.storage import drafts, processes
from pygrid.storage.blobs.files import BlobBatch, BlobWriter
from pygrid.storage.cycle_transitions import begin_cycle
from pygrid.storage.idempotency import once
from pygrid.storage.store import Store
from pygrid.tensors.flat import num_values
from pygrid.tensors.safetensors import Layout

WatchCycle = Callable[[Cycle], None]
PLAN_PREFIX = "plan:"
"""The name of a part of the form that holds a training plan begins with it."""


@dataclass(frozen=True)
class HostForm:
    """The parts of the form. The model's bytes are in a blob writer, checked, not committed."""

    config: bytes
    plans: dict[str, bytes]
    averaging_plan: bytes | None
    model: Layout | None


@dataclass(frozen=True)
class Candidate:
    """A process that passed all checks and is not stored."""

    name: str
    version: str
    client_config: dict[str, Any]
    server_config: dict[str, Any]
    config: ProcessConfig
    model: Layout
    plans: dict[str, bytes]
    averaging_plan: bytes | None


@dataclass(frozen=True)
class _Files:
    """Hashes of a candidate's files."""

    model: str
    plans: dict[str, str]
    averaging_plan: str | None


def _put_files(blobs: BlobBatch, candidate: Candidate, model: BlobWriter) -> _Files:
    averaging = candidate.averaging_plan
    return _Files(
        blobs.commit(model),
        {name: blobs.put(data) for name, data in candidate.plans.items()},
        None if averaging is None else blobs.put(averaging),
    )


class Hosting:
    """Checks and hosts processes.

    Args:
        watch_cycle: called with each cycle that begins here, so that its deadline is kept.
    """

    def __init__(self, store: Store, watch_cycle: WatchCycle, clock: Clock) -> None:
        self._store = store
        self._watch_cycle = watch_cycle
        self._clock = clock

    async def check(self, form: HostForm, draft_id: int | None = None) -> Candidate:
        """Check a form, and return the process that it describes.

        Args:
            draft_id: id of the form's draft, which reserves its name.
        Raises:
            InvalidInput, InvalidConfig, InvalidPlan, ShapeMismatch: the form is not valid.
            Conflict: ``process_exists``: another process or draft has the name and version.
        """
        if not form.config or form.model is None or not form.plans:
            raise InvalidInput(
                "the form needs the parts config, model and at least one plan:NAME", code=codes.INVALID_FORM
            )
        try:
            request = msgspec.convert(decode_json(form.config), HostRequest)
        except (InvalidInput, msgspec.ValidationError) as error:
            raise InvalidConfig(f"config must be JSON with client_config and server_config: {error}") from error
        name, version = read_client_config(request.client_config)
        config = read_server_config(request.server_config)
        await self._store.database.read(lambda connection: check_free(connection, name, version, draft_id))
        for plan_name, data in form.plans.items():
            report = await check_async(data)
            _check_kind(report, plan_name, "training")
            check_fits(form.model, _spec(report), plan_name)
        if form.averaging_plan is not None:
            await _check_averaging(form.averaging_plan, config, form.model)
        return Candidate(
            name,
            version,
            request.client_config,
            request.server_config,
            config,
            form.model,
            form.plans,
            form.averaging_plan,
        )

    async def host(
        self, candidate: Candidate, model: BlobWriter, user_id: int | None, draft_id: int | None = None
    ) -> ProcessInfo:
        """Store a process and begin its first cycle.

        Args:
            model: writer of the model's bytes in the store's blobs, not committed.
            draft_id: id of the process's draft, which is marked as hosted.
        Raises:
            Conflict: ``process_exists``; nothing was hosted.
        """
        with self._store.blobs.batch() as blobs:
            files = await asyncio.to_thread(_put_files, blobs, candidate, model)
            info, cycle = await self._put(candidate, files, user_id, draft_id)
        self._watch_cycle(cycle)
        if candidate.config.is_public:
            await self._store.public.changed()
        return info

    async def _put(
        self, candidate: Candidate, files: _Files, user_id: int | None, draft_id: int | None
    ) -> tuple[ProcessInfo, Cycle]:
        """Write the rows of a process with stored files."""

        def transaction(connection: sa.Connection) -> tuple[ProcessInfo, Cycle]:
            now = self._clock.now()
            check_free(connection, candidate.name, candidate.version, draft_id)
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
                raise process_exists(candidate.name, candidate.version) from None
            for name, plan_hash in files.plans.items():
                processes.put_plan(connection, process_id, name, "training", plan_hash, len(candidate.plans[name]))
            if files.averaging_plan is not None and candidate.averaging_plan is not None:
                size = len(candidate.averaging_plan)
                processes.put_plan(connection, process_id, "averaging_plan", "averaging", files.averaging_plan, size)
            checkpoint = processes.Checkpoint(process_id, 1, files.model, candidate.model.total_bytes, {}, now)
            processes.put_checkpoint(connection, checkpoint)
            rows.put_event(connection, process_id, 1, "process_hosted", now)
            cycle = begin_cycle(connection, process_id, candidate.config, 1, 1, now)
            if draft_id is not None:
                drafts.set_hosted(connection, draft_id, process_id)
            return describe_process(connection, processes.get_process(connection, process_id)), cycle

        return await self._store.database.write(once(transaction, lambda found: found[0]))


def check_free(connection: sa.Connection, name: str, version: str, draft_id: int | None = None) -> None:
    """Check that no process, and no other draft, has this name and version.

    Raises:
        Conflict: ``process_exists``.
    """
    is_taken = bool(processes.list_processes(connection, name=name, version=version, limit=1))
    if is_taken or drafts.find_reservation(connection, name, version) not in (None, draft_id):
        raise process_exists(name, version)


def process_exists(name: str, version: str) -> Conflict:
    """Return the error for a name and version in use."""
    detail = f"FL Process already exists. {name!r} has a version {version!r}; choose another version or name."
    return Conflict(detail, code=codes.PROCESS_EXISTS, name=name, version=version)


def _spec(report: GateReport) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (array.dtype, array.shape) for name, array in report.model_spec.items()}


def _check_kind(report: GateReport, name: str, kind: str) -> None:
    if report.kind != kind:
        raise InvalidPlan(
            f"plan {name!r} is of kind {report.kind!r}, expected {kind!r}", code=codes.PLAN_KIND, plan=name
        )


async def _check_averaging(data: bytes, config: ProcessConfig, model: Layout) -> None:
    report = await check_async(data)
    _check_kind(report, "averaging_plan", "averaging")
    check_fits(model, _spec(report), "averaging_plan")
    iterative = Plan.from_bytes(data).manifest.iterative
    if iterative != config.iterative_plan:
        raise InvalidConfig(
            f"server_config.iterative_plan is {config.iterative_plan}, but the averaging plan has {iterative}",
            field="iterative_plan",
        )
    most = min(n for n in (config.max_diffs, config.max_workers, float("inf")) if n is not None)
    limit = GateLimits().max_diffs
    if not iterative and most > limit:
        raise InvalidConfig(
            f"an averaging plan that takes all diffs at once needs max_diffs or max_workers of at most {limit}",
            field="max_diffs",
        )
