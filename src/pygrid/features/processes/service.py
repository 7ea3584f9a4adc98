"""The use cases of model owners: host a process, view it, download its checkpoints, finish it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import sqlalchemy as sa

from pygrid import codes
from pygrid.configuration import read_server_config
from pygrid.core.access import Permission, Principal, require
from pygrid.core.cycles import Cycle, CycleState
from pygrid.core.processes import can_manage
from pygrid.errors import Conflict, Forbidden, NotFound
from pygrid.features.processes.hosting import HostForm, Hosting, WatchCycle
from pygrid.features.processes.presenter import describe_cycles, describe_process
from pygrid.lifecycle import AppContext
from pygrid.messages.processes import CheckpointInfo, Contribution, CycleInfo, Event, ProcessInfo
from pygrid.storage import audit, processes, reports
from pygrid.storage import cycles as rows
from pygrid.storage.accounts import list_seen_emails
from pygrid.storage.audit import AuditedWrites
from pygrid.storage.blobs.protocol import BlobWriter
from pygrid.storage.cycle_transitions import close_cycle, restart_cycle
from pygrid.storage.evaluations import find_best_checkpoint
from pygrid.storage.idempotency import once
from pygrid.storage.process_list import ListedProcess, list_curves, list_process_page
from pygrid.storage.signals import event_topic, notify_process, wait_for_any
from pygrid.storage.sql.lanes import Lane
from pygrid.storage.store import Store

T = TypeVar("T")

EVENTS_AT_ONCE = 100
REFRESH_S = 10.0
"""Longest time between two reads of an event stream from the store."""
BLOBS_S = 3600.0
"""Age from which a file without a process is removed: far longer than a transaction that may still refer to it."""


class ProcessesService:
    """The use cases of model owners.

    Args:
        writes: transactions of the audit log.
        watch_cycle: called with each cycle that closes or restarts here.
        is_open: callers without an account may host processes and download checkpoints.
    """

    def __init__(
        self,
        app: AppContext,
        store: Store,
        writes: AuditedWrites,
        hosting: Hosting,
        watch_cycle: WatchCycle,
        *,
        is_open: bool = False,
    ) -> None:
        self._clock, self._stopping = app.clock, app.stopping
        self._store = store
        self._writes = writes
        self._hosting = hosting
        self._watch_cycle = watch_cycle
        self._is_open = is_open

    @contextlib.asynccontextmanager
    async def receive(self, principal: Principal | None) -> AsyncIterator[BlobWriter]:
        """Check that the caller may host, and yield the writer for the model of a form.

        What is written is removed at the end of the block, unless it was hosted.
        """
        self._check_may_host(principal)
        with self._store.blobs.writer() as model:
            yield model

    async def host(self, principal: Principal | None, model: BlobWriter, form: HostForm) -> ProcessInfo:
        """Host a process. All of the form is checked before anything is stored.

        Args:
            model: the writer that `receive` has yielded.
        Raises:
            InvalidInput, InvalidConfig, InvalidPlan, ShapeMismatch. Conflict: ``process_exists``.
        """
        self._check_may_host(principal)
        user_id = None if principal is None else principal.user_id
        return await self._hosting.host(await self._hosting.check(form), model, user_id)

    def _check_may_host(self, principal: Principal | None) -> None:
        if principal is not None or not self._is_open:
            require(principal, Permission.HOST_MODELS)

    async def list_processes(self, principal: Principal, name: str | None, version: str | None) -> list[ProcessInfo]:
        """Return the processes, newest first."""
        require(principal)

        def load(connection: sa.Connection) -> list[ProcessInfo]:
            found = processes.list_processes(connection, name=name, version=version)
            return [_described(connection, process, principal) for process in found]

        return await self._store.database.read(load)

    async def list_page(
        self, principal: Principal, *, before: int | None, limit: int, state: str = "", text: str = ""
    ) -> list[ListedProcess]:
        """Return processes with an id below ``before``, newest first; see `list_process_page`."""
        require(principal)

        def load(connection: sa.Connection) -> list[ListedProcess]:
            found = list_process_page(connection, before=before, limit=limit, state=state, text=text)
            emails = list_seen_emails(connection, principal, {one.created_by for one in found})
            return [replace(one, owner=emails.get(one.created_by, "")) for one in found]

        return await self._store.database.read(load)

    async def list_curves(self, principal: Principal, after: Mapping[int, int]) -> dict[int, list[Any]]:
        """Return the totals of the completed cycles after one of each process, oldest first, by process."""
        require(principal)
        return await self._store.database.read(lambda connection: list_curves(connection, after))

    async def get(self, principal: Principal, process_id: int) -> ProcessInfo:
        """Return a process. Raises NotFound: ``process_not_found``."""
        require(principal)
        return await self._store.database.read(
            lambda connection: _described(connection, processes.get_process(connection, process_id), principal)
        )

    async def finish(self, principal: Principal, process_id: int) -> ProcessInfo:
        """End the training: no client is admitted, and the reports of the open cycle become a last checkpoint."""

        def transaction(connection: sa.Connection) -> tuple[ProcessInfo, Cycle | None]:
            process = get_managed(connection, principal, process_id)
            cycle = rows.get_newest_cycle(connection, process_id)
            closing = None
            if process.state != "finished":
                processes.set_process_state(connection, process_id, "finished")
                self._append(connection, "process_finished", process, principal)
                if cycle.state in (CycleState.HOSTED, CycleState.OPEN):
                    closing = close_cycle(connection, cycle, self._clock.now())
            return _described(connection, processes.get_process(connection, process_id), principal), closing

        info, closing = await self._writes.write(once(transaction, lambda found: found[0]))
        if closing is not None:
            self._watch_cycle(closing)
        notify_process(self._store.signals, process_id)
        await self._store.public.changed()
        return info

    async def restore(self, principal: Principal, process_id: int, number: int) -> ProcessInfo:
        """Restore an earlier checkpoint: a copy becomes the newest one, from which the cycle starts.

        Reports of the cycle stay and count. Clients that have not reported must begin again.

        Raises:
            NotFound: ``process_not_found``, ``checkpoint_not_found``. Conflict: ``process_finished``.
            Unavailable: ``blob_damaged``: this checkpoint is damaged too.
            After an error, nothing was changed.
        """

        def choose(connection: sa.Connection) -> processes.Checkpoint:
            get_managed(connection, principal, process_id)
            return processes.get_checkpoint(connection, process_id, number)

        chosen = await self._store.database.read(choose)
        for name in (chosen.model_hash, *chosen.optimizer_state.values()):
            await asyncio.to_thread(self._store.blobs.size, name)

        def transaction(connection: sa.Connection) -> tuple[ProcessInfo, Cycle, processes.Checkpoint]:
            now = self._clock.now()
            audit.lock(connection)
            rows.lock_process(connection, process_id)
            process = get_managed(connection, principal, process_id)
            cycle = rows.get_newest_cycle(connection, process_id)
            if process.state == "finished" or cycle.state is CycleState.COMPLETED:
                raise _finished(process_id)
            newest = processes.get_checkpoint(connection, process_id)
            repeated = replace(chosen, number=newest.number + 1, created_at=now)
            processes.put_checkpoint(connection, repeated)
            config = read_server_config(process.server_config)
            cycle = restart_cycle(connection, cycle, config, repeated.number, number, now)
            data = {"process_id": process_id, "checkpoint": repeated.number, "of": number, "hash": chosen.model_hash}
            audit.append(connection, "checkpoint_restored", data, actor=principal.user_id, now=now)
            return _described(connection, process, principal), cycle, repeated

        info, cycle, repeated = await self._writes.write(once(transaction, lambda found: found[0]))
        self._store.processes.keep_checkpoint(repeated)
        self._watch_cycle(cycle)
        notify_process(self._store.signals, process_id)
        return info

    async def pause(self, principal: Principal, process_id: int) -> ProcessInfo:
        """Admit nobody until `resume`. Admitted clients can report, and the open cycle closes by its rules.

        Raises:
            NotFound: ``process_not_found``. Conflict: ``process_finished``.
        """
        return await self._set_paused(principal, process_id, is_paused=True)

    async def resume(self, principal: Principal, process_id: int) -> ProcessInfo:
        """End a pause; clients that wait are admitted at once. Raises as `pause`."""
        return await self._set_paused(principal, process_id, is_paused=False)

    async def _set_paused(self, principal: Principal, process_id: int, *, is_paused: bool) -> ProcessInfo:
        state, act = ("paused", "process_paused") if is_paused else ("active", "process_resumed")

        def transaction(connection: sa.Connection) -> ProcessInfo:
            process = get_managed(connection, principal, process_id)
            if process.state == "finished":
                raise _finished(process_id)
            if process.state != state:
                processes.set_process_state(connection, process_id, state)
                cycle = rows.get_newest_cycle(connection, process_id)
                rows.put_event(connection, process_id, cycle.sequence, act, self._clock.now())
                self._append(connection, act, process, principal)
            return _described(connection, processes.get_process(connection, process_id), principal)

        info = await self._writes.write(once(transaction))
        notify_process(self._store.signals, process_id)
        await self._store.public.changed()
        return info

    async def delete(self, principal: Principal, process_id: int) -> None:
        """Delete a finished process with its plans, checkpoints, cycles and clients. Its name is free again.

        The last cycle can have any state, so one that cannot be completed, for example because a file is damaged, is
        deleted as well. `remove_blobs` removes the files later.

        Raises:
            NotFound: ``process_not_found``. Conflict: ``process_active``: it is not finished.
        """

        def transaction(connection: sa.Connection) -> Cycle:
            process = get_managed(connection, principal, process_id)
            if process.state != "finished":
                detail = f"the training of {process.name!r} {process.version!r} is not over: finish it first"
                raise Conflict(detail, code=codes.PROCESS_ACTIVE, process_id=process_id)
            last = rows.get_newest_cycle(connection, process_id)
            reports.delete_training(connection, process_id)
            self._store.diffs.doom(connection, last.id, self._clock.now())
            processes.delete_process(connection, process_id)
            self._append(connection, "process_deleted", process, principal)
            return last

        last = await self._writes.write(transaction)
        self._store.database.write_later(
            lambda _connection: self._store.diffs.drop(process_id, last.id), Lane.REPORTS, is_alone=True
        )
        self._store.processes.forget(process_id)
        notify_process(self._store.signals, process_id)
        await self._store.public.changed()

    async def remove_blobs(self, min_age_s: float = BLOBS_S) -> None:
        """Remove files of deleted processes that no other process has, and that are at least ``min_age_s`` old."""
        before = time.time() - min_age_s
        referenced = await self._store.database.read(processes.list_blobs)
        await asyncio.to_thread(self._store.blobs.sweep, referenced, before)

    def _append(
        self, connection: sa.Connection, action: str, process: processes.ProcessRow, principal: Principal
    ) -> None:
        data = {"process_id": process.id, "name": process.name, "version": process.version}
        audit.append(connection, action, data, actor=principal.user_id, now=self._clock.now())

    async def list_cycles(self, principal: Principal, process_id: int, after: int, limit: int) -> list[CycleInfo]:
        """Return the cycles with a sequence above ``after``, oldest first. Raises NotFound: ``process_not_found``."""
        require(principal)

        def load(connection: sa.Connection) -> list[CycleInfo]:
            process = processes.get_process(connection, process_id)
            config, is_managed = read_server_config(process.server_config), can_manage(principal, process.created_by)
            found = rows.list_cycles(connection, process_id, after, limit)
            return describe_cycles(connection, found, config, is_managed=is_managed)

        return await self._store.database.read(load)

    async def list_contributions(
        self, principal: Principal, process_id: int, after: int, limit: int
    ) -> list[Contribution]:
        """Return accepted reports with an id above ``after``, by admission. Raises NotFound: ``process_not_found``."""

        def load(connection: sa.Connection) -> list[Contribution]:
            get_managed(connection, principal, process_id)
            return reports.list_contributions(connection, process_id, after, limit)

        return await self._store.database.read(load)

    async def list_checkpoints(self, principal: Principal, process_id: int) -> list[CheckpointInfo]:
        """Return all checkpoints, oldest first. Raises NotFound: ``process_not_found``."""
        require(principal)

        def load(connection: sa.Connection) -> list[CheckpointInfo]:
            process = processes.get_process(connection, process_id)
            found = processes.list_checkpoints(connection, process_id)
            best = find_best_checkpoint(connection, process, visible_sources(principal, process))
            aliases = {found[-1].number: ["latest"]}
            if best is not None:
                aliases.setdefault(best, []).append("best")
            return [
                CheckpointInfo(c.number, ", ".join(aliases.get(c.number, ())), c.model_hash, c.size_bytes, c.created_at)
                for c in found
            ]

        return await self._store.database.read(load)

    async def find_plan(self, principal: Principal, process_id: int, plan_id: int) -> str:
        """Return the hash of a plan's bytes. Raises NotFound: ``plan_not_found``."""
        require(principal)
        plan = await self._store.database.read(lambda connection: processes.find_plan(connection, process_id, plan_id))
        if plan is None:
            raise NotFound("Plan ID not found!", code=codes.PLAN_NOT_FOUND, plan_id=plan_id)
        return plan.plan_hash

    async def find_checkpoint(
        self, principal: Principal | None, name: str, version: str | None, checkpoint: str
    ) -> processes.Checkpoint:
        """Return a checkpoint by number or alias: ``latest``, or ``best`` by the evaluations that the caller may see.

        Raises:
            NotFound: ``process_not_found``, ``checkpoint_not_found``, ``evaluation_not_found``.
        """
        if not self._is_open:
            require(principal)

        def load(connection: sa.Connection) -> processes.Checkpoint:
            process = processes.get_process_by_name(connection, name, version)
            if checkpoint == "latest":
                return processes.get_checkpoint(connection, process.id)
            if checkpoint == "best":
                best = find_best_checkpoint(connection, process, visible_sources(principal, process))
                if best is None:
                    raise NotFound(
                        f"no checkpoint of {process.name!r} has an evaluation; watch(evaluate=...) makes them",
                        code=codes.EVALUATION_NOT_FOUND,
                    )
                return processes.get_checkpoint(connection, process.id, best)
            if not (checkpoint.isascii() and checkpoint.isdigit() and len(checkpoint) <= 9):
                raise NotFound(f"there is no checkpoint {checkpoint[:50]!r}", code=codes.CHECKPOINT_NOT_FOUND)
            return processes.get_checkpoint(connection, process.id, int(checkpoint))

        return await self._store.database.read(load)

    async def find_state(self, checkpoint: processes.Checkpoint) -> str:
        """Return the file name of a checkpoint as a State. Raises InvalidInput: ``plan_variant_unavailable``."""
        process = await self._store.processes.get(checkpoint.process_id)
        return await self._store.states.prepare(process, checkpoint.model_hash)

    async def follow(self, principal: Principal, process_id: int, after: int) -> AsyncIterator[Event]:
        """Return the events with a number above ``after``, followed by new events as they happen.

        Raises:
            NotFound: ``process_not_found``.
        """
        require(principal)
        read: Callable[..., Awaitable[Any]] = self._store.database.read
        await read(lambda connection: processes.get_process(connection, process_id))
        return self._events(process_id, after)

    async def _events(self, process_id: int, after: int) -> AsyncIterator[Event]:
        while not self._stopping.is_set():
            changed = self._store.signals.next(event_topic(process_id))
            stored, is_over = await self._store.database.read(partial(_read_events, process_id=process_id, after=after))
            for event in stored:
                after = event.number
                yield Event(event.number, event.kind, event.at, event.cycle, event.data)  # type: ignore[arg-type]
            if not stored and is_over:
                return
            if not stored:
                await wait_for_any([changed], REFRESH_S)


def _described(connection: sa.Connection, process: processes.ProcessRow, principal: Principal) -> ProcessInfo:
    return describe_process(connection, process, is_managed=can_manage(principal, process.created_by))


def _finished(process_id: int) -> Conflict:
    return Conflict("the training of this process has ended", code=codes.PROCESS_FINISHED, process_id=process_id)


def get_managed(connection: sa.Connection, principal: Principal, process_id: int) -> processes.ProcessRow:
    """Return a process that the caller manages.

    Raises NotFound: ``process_not_found``. Forbidden: ``not_permitted``, ``not_your_process``.
    """
    require(principal, Permission.HOST_MODELS)
    process = processes.get_process(connection, process_id)
    if not can_manage(principal, process.created_by):
        raise Forbidden(
            f"another user hosts {process.name!r}; only they and Owners may change it or list its contributions",
            code=codes.NOT_YOUR_PROCESS,
            process_id=process_id,
        )
    return process


def visible_sources(principal: Principal | None, process: processes.ProcessRow) -> Sequence[str]:
    """The sources of the evaluations that the caller may see.

    What a Domain computed on a dataset may be exact values of private data; they are for who manages the process.
    """
    is_managed = principal is not None and can_manage(principal, process.created_by)
    return ("owner", "domain") if is_managed else ("owner",)


def _read_events(connection: sa.Connection, process_id: int, after: int) -> tuple[list[rows.StoredEvent], bool]:
    """Return the next events, and whether the process cannot have further ones."""
    stored = rows.list_events(connection, process_id, after, EVENTS_AT_ONCE)
    finished = processes.get_process(connection, process_id).state == "finished"
    return stored, finished and rows.get_newest_cycle(connection, process_id).state is CycleState.COMPLETED
