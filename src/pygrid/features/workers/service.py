"""Workers on other machines: the Owner authorizes them, and they lease jobs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import sqlalchemy as sa

from pygrid import codes
from pygrid.clock import Clock
from pygrid.compute.engines import Engines
from pygrid.compute.leased import LeasedDriver, OnDisconnect
from pygrid.compute.leases import Offer, job_resumes
from pygrid.core.access import Permission, Principal, require
from pygrid.core.job_spec import MAX_MESSAGE_BYTES, OUTCOME, RESULT, Outcome, Progress
from pygrid.core.worker_leases import WorkerLease
from pygrid.errors import Forbidden, Gone, InvalidConfig, InvalidInput, Unauthenticated
from pygrid.ids import hash_secret, new_secret
from pygrid.lifecycle import Stopping
from pygrid.messages import workers as messages
from pygrid.sandbox.frames import FRAME_HEADER_BYTES, parse_frame_header
from pygrid.storage import audit
from pygrid.storage import engine_starts as starts
from pygrid.storage import workers as rows
from pygrid.storage.audit import AuditedWrites
from pygrid.storage.idempotency import once
from pygrid.storage.signals import Signals, job_topic, wait_for_any
from pygrid.storage.sql.database import Database
from pygrid.storage.workers import Worker, count_leases, end_leases, worker_leases

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_NAME = 100
_FRAMES_BYTES = 2 * FRAME_HEADER_BYTES
_LOOK_S = 0.5
"""Longest time between two looks whether the end of a job is stored, if a signal came before the wait for it."""


@dataclass(frozen=True)
class LeaseHolder:
    id: int
    """The id of an authorized Worker; below 0: of a start by an engine."""


@dataclass(frozen=True)
class WorkersService:
    """The use cases of Workers, and of the people who authorize them."""

    database: Database
    writes: AuditedWrites
    driver: LeasedDriver
    engines: Engines
    clock: Clock
    stopping: Stopping
    signals: Signals
    allow_weak_sandbox: bool = False

    # For people

    async def create(self, principal: Principal, name: str) -> messages.NewWorker:
        """Authorize a Worker; only the answer has its token.

        Raises:
            InvalidConfig: ``invalid_name``. Conflict: ``worker_exists``.
        """
        require(principal, Permission.MANAGE_INFRASTRUCTURE)
        name = name.strip()
        if not (name and len(name) <= MAX_NAME and name.isprintable()):
            raise InvalidConfig(
                f"the name {name[:MAX_NAME]!r} is not valid: use 1 to {MAX_NAME} printable characters",
                code=codes.INVALID_NAME,
            )
        token, now = new_secret(), self.clock.now()

        def transaction(connection: sa.Connection) -> Worker:
            worker = rows.put_worker(connection, name, hash_secret(token), principal.user_id, now)
            data = {"worker_id": worker.id, "name": name}
            audit.append(connection, "worker_let_in", data, actor=principal.user_id, now=now)
            return worker

        worker = await self.writes.write(once(transaction, lambda new: messages.NewWorker(new.id, new.name, token)))
        return messages.NewWorker(worker.id, worker.name, token)

    async def list_workers(self, principal: Principal) -> list[messages.WorkerInfo]:
        """Return all authorized Workers, oldest first."""
        require(principal, Permission.MANAGE_INFRASTRUCTURE)
        found, held = await self.database.read(
            lambda connection: (rows.list_workers(connection), count_leases(connection))
        )
        return [
            messages.WorkerInfo(
                worker.id,
                worker.name,
                worker.created_at,
                worker.last_seen_at,
                self.driver.count_waiting(worker.id),
                held.get(worker.id, 0),
            )
            for worker in found
        ]

    async def revoke(self, principal: Principal, worker_id: int) -> None:
        """Revoke a Worker's authorization and end its leases. Raises NotFound: ``worker_not_found``."""
        require(principal, Permission.MANAGE_INFRASTRUCTURE)

        def transaction(connection: sa.Connection) -> list[WorkerLease]:
            rows.release_worker(connection, worker_id)
            data = {"worker_id": worker_id}
            audit.append(connection, "worker_revoked", data, actor=principal.user_id, now=self.clock.now())
            return end_leases(connection, worker_leases.c.worker_id == worker_id)

        self.driver.drop_worker(worker_id, await self.writes.write(transaction))

    # For Workers

    async def authenticate(self, token: str | None) -> Worker:
        """Return the Worker of a token.

        Raises:
            Unauthenticated: ``worker_token_missing``; ``invalid_worker_token``: no authorized Worker has this token.
        """
        if token is None:
            raise Unauthenticated(
                "send 'Authorization: Bearer TOKEN' with the token of a Worker", code=codes.WORKER_TOKEN_MISSING
            )
        token_hash = hash_secret(token)
        worker = await self.database.look_up(lambda connection: rows.find_worker(connection, token_hash))
        if worker is None:
            raise Unauthenticated(
                "no authorized Worker has this token; the Owner of the Domain creates one: pygrid worker token NAME",
                code=codes.INVALID_WORKER_TOKEN,
            )
        return worker

    async def authenticate_holder(self, token: str | None) -> LeaseHolder:
        """Return who holds leases with this token: an authorized Worker, or one that an engine started.

        Raises:
            Unauthenticated: as `authenticate`.
        """
        if token is not None:
            secret_hash = hash_secret(token)
            start = await self.database.look_up(lambda connection: starts.find_claimed(connection, secret_hash))
            if start is not None:
                return LeaseHolder(-start.number)
        return LeaseHolder((await self.authenticate(token)).id)

    async def claim(self, token: str | None, request: messages.ClaimRequest) -> messages.ClaimAnswer:
        """Lease its job to a Worker that an engine started. The start token is used then, whatever follows.

        Raises:
            Unauthenticated: ``worker_token_missing``. Gone: ``start_token_used``.
            Forbidden: ``sandbox_unavailable``: the Worker's machine cannot sandbox a plan, and gets no job.
            Unavailable: ``job_resumes``: the Domain has just started; the token was not used.
        """
        if token is None:
            raise Unauthenticated(
                "send 'Authorization: Bearer TOKEN' with a start token", code=codes.WORKER_TOKEN_MISSING
            )
        token_hash, secret = hash_secret(token), new_secret()
        waiting = await self.database.look_up(lambda connection: starts.find_starting(connection, token_hash))
        driver = None if waiting is None else self.engines.drivers.get(waiting.pool)
        if waiting is not None and driver is not None:
            try:
                self._check_sandbox(request.layers, is_sound=request.is_sound)
            except Forbidden as error:
                driver.refuse(waiting, error.detail)
                raise
            if not driver.is_waiting(waiting):
                raise job_resumes()
            start = await self.database.write(
                lambda connection: starts.claim_start(connection, token_hash, hash_secret(secret))
            )
            if start is not None and (offer := await driver.assign(start)) is not None:
                return messages.ClaimAnswer(await self._describe(offer), secret)
        raise Gone("this start token was used, has expired, or is of a job that is over", code=codes.START_TOKEN_USED)

    def _check_sandbox(self, layers: Sequence[str], *, is_sound: bool) -> None:
        if not (is_sound or self.allow_weak_sandbox):
            raise Forbidden(
                "this Domain leases jobs only to machines that can sandbox an untrusted plan; this one has the layers: "
                f"{', '.join(layers) or 'none'}. `pygrid worker doctor` shows the missing ones",
                code=codes.SANDBOX_UNAVAILABLE,
            )

    async def _describe(self, offer: Offer) -> messages.Lease:
        sizes = await asyncio.to_thread(lambda: {name: path.stat().st_size for name, path in offer.files.items()})
        files = [messages.LeasedFile(name, size) for name, size in sizes.items()]
        return messages.Lease(offer.lease_id, self.driver.leases.lease_s, msgspec.to_builtins(offer.spec), files)

    async def lease(self, worker: Worker, request: messages.LeaseRequest, gone: OnDisconnect) -> messages.LeaseAnswer:
        """Lease a job to this Worker, if there is one within ``wait_s``.

        Raises:
            Forbidden: ``sandbox_unavailable``: the Worker's machine cannot sandbox a plan.
            InvalidInput: ``wait_s`` is out of range.
        """
        if not 0 <= request.wait_s <= messages.MAX_WAIT_S:
            raise InvalidInput(f"wait_s is {request.wait_s}; it must be from 0 to {messages.MAX_WAIT_S:g}")
        self._check_sandbox(request.layers, is_sound=request.is_sound)
        now = self.clock.now()
        await self.database.write(lambda connection: rows.update_seen(connection, worker.id, now))
        offer = await self.driver.lease(worker.id, worker.name, request.wait_s, lambda: self._until_gone(gone))
        return messages.LeaseAnswer() if offer is None else messages.LeaseAnswer(await self._describe(offer))

    async def _until_gone(self, gone: OnDisconnect) -> None:
        """Return when the Worker has disconnected, or the Domain is about to stop."""
        waits = [asyncio.create_task(gone()), asyncio.create_task(self.stopping.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def renew(self, worker: LeaseHolder, lease_id: str, request: messages.RenewRequest) -> messages.Renewed:
        """Extend a lease. Raises Gone: ``lease_over``. InvalidInput: the progress is malformed."""
        progress = None
        if request.progress is not None:
            try:
                progress = msgspec.convert(request.progress, Progress)
            except msgspec.ValidationError as error:
                raise InvalidInput(f"the progress of the job is malformed: {error}") from error
        await self.driver.leases.renew(worker.id, lease_id, progress)
        return messages.Renewed(self.driver.leases.lease_s)

    async def give_back(self, worker: LeaseHolder, lease_id: str) -> messages.LeaseGivenBack:
        """End the lease of a stopping Worker. Raises Gone: ``lease_over``."""
        await self.driver.leases.give_back(worker.id, lease_id)
        return messages.LeaseGivenBack(lease_id)

    async def find_file(self, worker: LeaseHolder, lease_id: str, name: str) -> Path:
        """Return the path of a file that the leased job needs.

        Raises:
            Gone, NotFound, Conflict, Unavailable: as `Leases.find_file`.
        """
        return await self.driver.leases.find_file(worker.id, lease_id, name)

    async def max_answer_bytes(self, worker: LeaseHolder, lease_id: str) -> int:
        """Return the largest body that `finish` takes. Raises as `Leases.find_file`."""
        most = await self.driver.leases.max_result_bytes(worker.id, lease_id)
        return most + MAX_MESSAGE_BYTES + _FRAMES_BYTES

    async def finish(self, worker: LeaseHolder, lease_id: str, data: bytes) -> messages.ResultTaken:
        """Take the end of a job: the outcome, and the result of a successful job, each in a frame.

        It returns when the end of the job is stored, because until then the Worker may have to send it again.

        Raises:
            Gone: ``lease_over``; nothing was stored. InvalidInput: ``invalid_result``. PayloadTooLarge.
            Unavailable: ``job_resumes``: send it again.
        """
        leases, (outcome, payload) = self.driver.leases, _read_end(data)
        await leases.finish(worker.id, lease_id, outcome, payload)
        while (job_id := await leases.find_job_id(worker.id, lease_id)) is not None:
            if self.stopping.is_set():
                raise job_resumes()
            await wait_for_any([self.signals.next(job_topic(job_id))], _LOOK_S)
        return messages.ResultTaken(lease_id)


def _read_end(data: bytes) -> tuple[Outcome, bytes]:
    parts: dict[bytes, bytes] = {}
    while data:
        kind, length = parse_frame_header(data)
        body = data[FRAME_HEADER_BYTES : FRAME_HEADER_BYTES + length]
        if kind not in (OUTCOME, RESULT) or kind in parts or len(data) < FRAME_HEADER_BYTES + length:
            raise _invalid("it is truncated, or has an unknown part")
        parts[kind] = body
        data = data[FRAME_HEADER_BYTES + length :]
    try:
        outcome = msgspec.json.decode(parts.get(OUTCOME, b""), type=Outcome)
    except msgspec.DecodeError as error:
        raise _invalid(str(error)) from error
    if (outcome.failure is None) != bool(parts.get(RESULT)):
        raise _invalid("only a successful outcome must have a result")
    return outcome, parts.get(RESULT, b"")


def _invalid(why: str) -> InvalidInput:
    return InvalidInput(f"the end of the job is not valid: {why}", code=codes.INVALID_RESULT)
