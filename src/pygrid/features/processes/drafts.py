"""Draft processes: checked and stored with notes, to be hosted later. Only their creator may use them.

A training across Domains begins after the data owners have decided, which can take days. The draft keeps everything
that is necessary to begin and follow it, so that the data scientist can continue from any machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import sqlalchemy as sa

from pygrid import codes
from pygrid.clock import Clock
from pygrid.core.access import Permission, Principal, require
from pygrid.errors import InvalidConfig, InvalidInput, NotFound, TooManyRequests
from pygrid.features.processes.hosting import (
    PLAN_PREFIX,
    Candidate,
    HostForm,
    Hosting,
    check_free,
    process_exists,
    split_parts,
)
from pygrid.features.processes.presenter import describe_process
from pygrid.messages.decoding import decode_json
from pygrid.messages.processes import DraftFile, DraftInfo, DraftRequest, HostRequest, ProcessInfo
from pygrid.plans.archive import Plan
from pygrid.plans.gate import GateReport, check_async
from pygrid.storage import drafts as rows
from pygrid.storage import processes
from pygrid.storage.blobs.protocol import BlobBatch, BlobWriter
from pygrid.storage.drafts import DraftRow, File
from pygrid.storage.hosted_processes import read_model_layout
from pygrid.storage.idempotency import once
from pygrid.storage.store import Store

logger = logging.getLogger(__name__)

MAX_DRAFTS = 50
"""Drafts of one user that were not hosted."""
MAX_NOTES_BYTES = 128 * 1024
KEEP_DAYS = 366
"""Age in days at which a draft that was not hosted is removed, at the next start."""
_MODEL, _AVERAGING = "model", "averaging_plan"
_COPY_BYTES = 4 * 1024 * 1024


class DraftsService:
    """The use cases of drafts."""

    def __init__(self, store: Store, hosting: Hosting, clock: Clock) -> None:
        self._store = store
        self._hosting = hosting
        self._clock = clock
        # A file is written before its row and removed after it. The lock keeps these pairs of steps apart.
        self._files = asyncio.Lock()

    async def recover(self) -> None:
        """Remove the files that a crash left, and old drafts; called before the first request."""
        before = self._clock.now() - dt.timedelta(days=KEEP_DAYS)

        def transaction(connection: sa.Connection) -> set[str]:
            rows.delete_old(connection, before)
            return rows.list_files(connection)

        referenced = await self._store.database.write(transaction)
        await asyncio.to_thread(self._store.drafts.sweep, referenced)

    @contextlib.asynccontextmanager
    async def receive(self, principal: Principal) -> AsyncIterator[BlobWriter]:
        """Check that the caller may create drafts, and yield the writer for the model of a form.

        What is written is removed at the end of the block, unless the draft was created.
        """
        require(principal, Permission.HOST_MODELS)
        with self._store.drafts.writer() as model:
            yield model

    async def create(self, principal: Principal, model: BlobWriter, form: HostForm) -> DraftInfo:
        """Store a form as a draft and reserve its name and version; it is checked as for hosting.

        Args:
            model: the writer that `receive` has yielded.
        Raises:
            InvalidInput, InvalidConfig, InvalidPlan, ShapeMismatch. Conflict: ``process_exists``.
            TooManyRequests: ``too_many_drafts``.
        """
        require(principal, Permission.HOST_MODELS)
        candidate = await self._hosting.check(form)
        notes = _read_notes(form.config)
        async with self._files:
            with self._store.drafts.batch() as kept:
                files = await asyncio.to_thread(_keep, kept, candidate, model)
                stored = await self._store.database.write(
                    once(lambda connection: self._put(connection, principal, candidate, notes, files), _describe)
                )
        logger.info("draft kept", extra={"draft_id": stored.id})
        return _describe(stored)

    def _put(
        self,
        connection: sa.Connection,
        principal: Principal,
        candidate: Candidate,
        notes: dict[str, Any],
        files: tuple[File, ...],
    ) -> DraftRow:
        if rows.count_waiting(connection, principal.user_id) >= MAX_DRAFTS:
            detail = f"you have {MAX_DRAFTS} drafts that are not hosted, the most that are allowed; delete one first"
            raise TooManyRequests(detail, code=codes.TOO_MANY_DRAFTS)
        new = candidate.process
        check_free(connection, new.name, new.version)
        try:
            return rows.put_draft(
                connection,
                created_by=principal.user_id,
                name=new.name,
                version=new.version,
                client_config=new.client_config,
                server_config=new.server_config,
                notes=notes,
                files=files,
                created_at=self._clock.now(),
            )
        except sa.exc.IntegrityError:
            raise process_exists(new.name, new.version) from None

    async def list_drafts(self, principal: Principal, name: str | None, version: str | None) -> list[DraftInfo]:
        """Return the caller's drafts, newest first."""
        require(principal, Permission.HOST_MODELS)
        found = await self._store.database.read(
            lambda connection: rows.list_drafts(connection, principal.user_id, name=name, version=version)
        )
        return [_describe(draft) for draft in found]

    async def get(self, principal: Principal, draft_id: int) -> DraftInfo:
        """Return one of the caller's drafts. Raises NotFound: ``draft_not_found``."""
        return _describe(await self._get(principal, draft_id))

    async def find_file(self, principal: Principal, draft_id: int, digest: str) -> str:
        """Return the hash of a draft's file.

        Raises:
            NotFound: ``draft_not_found``; ``file_not_found``: it has no file of this hash, or was hosted.
        """
        draft = await self._get(principal, draft_id)
        if digest not in [known for _, known, _ in draft.files]:
            raise NotFound(
                "this draft has no such file; a hosted draft has no files", code=codes.FILE_NOT_FOUND, hash=digest
            )
        return digest

    async def set_notes(self, principal: Principal, draft_id: int, notes: dict[str, Any]) -> DraftInfo:
        """Replace the notes of a draft. Raises NotFound: ``draft_not_found``. InvalidConfig: ``notes_too_long``."""
        require(principal, Permission.HOST_MODELS)
        _check_notes(notes)

        def transaction(connection: sa.Connection) -> DraftRow:
            rows.get_draft(connection, draft_id, principal.user_id)
            rows.set_notes(connection, draft_id, notes)
            return rows.get_draft(connection, draft_id, principal.user_id)

        return _describe(await self._store.database.write(transaction))

    async def review(self, principal: Principal, draft_id: int) -> list[tuple[str, Plan, GateReport]]:
        """Return the training plans of a draft by name, each with what the gate found.

        Raises:
            NotFound: ``draft_not_found``; ``file_not_found``: it was hosted, so it has no files.
        """
        draft = await self._get(principal, draft_id)
        if draft.process_id is not None:
            raise NotFound(
                f"the draft was hosted as process {draft.process_id}, so it has no files", code=codes.FILE_NOT_FOUND
            )
        form = await asyncio.to_thread(self._read_form, draft, b"")
        return [(name, Plan.from_bytes(data), await check_async(data)) for name, data in form.plans.items()]

    async def host(
        self,
        principal: Principal,
        draft_id: int,
        server_config: dict[str, Any],
        client_config: dict[str, Any] | None = None,
    ) -> ProcessInfo:
        """Host a draft, or return the process of a hosted draft unchanged.

        Args:
            server_config: replaces the server configuration of the draft.
            client_config: replaces its client configuration, except the name and the version; None: it stays.
        Raises:
            NotFound: ``draft_not_found``. InvalidConfig: the error names the field.
        """
        async with self._files:
            draft = await self._get(principal, draft_id)
            if draft.process_id is not None:
                return await self._get_process(draft.process_id)
            names = {"name": draft.name, "version": draft.version}
            devices = draft.client_config if client_config is None else {**client_config, **names}
            config = msgspec.json.encode(HostRequest(devices, server_config))
            form = await asyncio.to_thread(self._read_form, draft, config)
            candidate = await self._hosting.check(form, draft_id)
            with self._store.blobs.writer() as model:
                await asyncio.to_thread(self._copy, _file(draft, _MODEL), model)
                info = await self._hosting.host(candidate, model, principal.user_id, draft_id)
            await self._drop(draft.files)
        logger.info("draft hosted", extra={"draft_id": draft_id, "process_id": info.id})
        return info

    async def delete(self, principal: Principal, draft_id: int) -> None:
        """Delete a draft; the process of a hosted draft stays. Raises NotFound: ``draft_not_found``."""
        require(principal, Permission.HOST_MODELS)

        def transaction(connection: sa.Connection) -> DraftRow:
            draft = rows.get_draft(connection, draft_id, principal.user_id)
            rows.delete_draft(connection, draft_id)
            return draft

        async with self._files:
            draft = await self._store.database.write(transaction)
            await self._drop(draft.files)

    async def _get(self, principal: Principal, draft_id: int) -> DraftRow:
        require(principal, Permission.HOST_MODELS)
        return await self._store.database.read(
            lambda connection: rows.get_draft(connection, draft_id, principal.user_id)
        )

    async def _get_process(self, process_id: int) -> ProcessInfo:
        return await self._store.database.read(
            lambda connection: describe_process(connection, processes.get_process(connection, process_id))
        )

    def _read_form(self, draft: DraftRow, config: bytes) -> HostForm:
        blobs = self._store.drafts
        parts = {part: blobs.read(digest) for part, digest, _ in draft.files if part != _MODEL}
        averaging = parts.pop(_AVERAGING, None)
        plans, variants = split_parts(parts)
        return HostForm(config, plans, averaging, read_model_layout(blobs, _file(draft, _MODEL)), variants)

    def _copy(self, digest: str, target: BlobWriter) -> None:
        with self._store.drafts.local(digest) as path, path.open("rb") as file:
            while chunk := file.read(_COPY_BYTES):
                target.write(chunk)

    async def _drop(self, files: tuple[File, ...]) -> None:
        """Remove those of the files that no other draft has."""
        still = await self._store.database.read(rows.list_files)
        for _, digest, _ in files:
            if digest not in still:
                await asyncio.to_thread(self._store.drafts.drop, digest)


def _keep(kept: BlobBatch, candidate: Candidate, model: BlobWriter) -> tuple[File, ...]:
    files = [(_MODEL, kept.commit(model), model.size)]
    plans = {PLAN_PREFIX + name: data for name, data in candidate.plans.items()}
    plans |= {f"{PLAN_PREFIX}{name}:{dialect}": data for (name, dialect), data in candidate.variants.items()}
    if candidate.averaging_plan is not None:
        plans[_AVERAGING] = candidate.averaging_plan
    return (*files, *((part, kept.put(data), len(data)) for part, data in plans.items()))


def _file(draft: DraftRow, wanted: str) -> str:
    return next(digest for part, digest, _ in draft.files if part == wanted)


def _read_notes(config: bytes) -> dict[str, Any]:
    try:
        request = msgspec.convert(decode_json(config), DraftRequest)
    except msgspec.ValidationError as error:
        raise InvalidConfig(f"config must be JSON with client_config, server_config and notes: {error}") from error
    _check_notes(request.notes)
    return request.notes


def _check_notes(notes: dict[str, Any]) -> None:
    try:
        size = len(msgspec.json.encode(notes))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"the notes cannot be written as JSON: {error}", code=codes.INVALID_NOTES) from error
    if size > MAX_NOTES_BYTES:
        raise InvalidConfig(
            f"the notes have {size:,} bytes as JSON; at most {MAX_NOTES_BYTES:,} are allowed", code=codes.NOTES_TOO_LONG
        )


def _describe(draft: DraftRow) -> DraftInfo:
    return DraftInfo(
        id=draft.id,
        name=draft.name,
        version=draft.version,
        client_config=draft.client_config,
        server_config=draft.server_config,
        notes=draft.notes,
        files=[DraftFile(*file) for file in draft.files],
        process=draft.process_id,
        created_at=draft.created_at,
    )
