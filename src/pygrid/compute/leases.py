"""Leases: each assigns one job to one Worker on another machine.

                assign()              the first renew
    (a job) ----------------> leased ----------------> running ----> (result)
                                |                         |
                            no renew:            no renew, token revoked, returned:
                            never began               ``lost``

A lease ends with the result, if it is not renewed in time, if the authorization of the Worker is revoked, or if the
result is not wanted; later requests under it are refused (``lease_over``). A Worker begins only after its first renewal
was answered, so a job whose lease was never renewed has not begun, and can run elsewhere.

Leases live in this process alone. A Domain that starts again knows none of them, and treats each job that was running
by its row: a non-private one is started once more, a private one has failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from pygrid import codes
from pygrid.compute.driver import Begin
from pygrid.compute.results import OnProgress, find_fault
from pygrid.core.job_spec import (
    Facts,
    Failure,
    JobResult,
    JobSpec,
    Outcome,
    Progress,
    check_spec,
    list_paths,
    move_paths,
)
from pygrid.errors import Conflict, Gone, NotFound, PayloadTooLarge

logger = logging.getLogger(__name__)

LEASE_S = 15.0
"""Longest time between two renewals."""
_MAX_HASHES = 10_000
_READ_BYTES = 1024 * 1024


@dataclass
class LeasedJob:
    """A job that a Worker on another machine runs."""

    spec: JobSpec
    on_progress: OnProgress | None
    done: asyncio.Future[JobResult | None]
    """None: the job never began."""
    begin: Begin | None = None
    """Called once, before the answer to the first renewal."""
    sent: JobSpec | None = None
    """The specification with hashes instead of paths."""
    files: dict[str, Path] = field(default_factory=dict)
    lease: HeldLease | None = None

    def give_up(self) -> None:
        """End a job that has not begun; nothing happens if it has ended."""
        if not self.done.done():
            self.done.set_result(None)

    async def wait(self, timeout_s: float) -> JobResult | None:
        """Return the result of the Worker, as it is; None: the job never began."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self.done
        except TimeoutError:
            return JobResult(Facts(), Failure("out_of_time", "the job took longer than its limit"))


@dataclass
class HeldLease:
    id: str
    worker_id: int
    worker: str
    job: LeasedJob
    timer: asyncio.TimerHandle
    begun: bool = False
    """Whether the Worker may have read a record, as far as the Domain knows."""
    may_read: bool = False
    """Whether the Worker may fetch files: the begin of its job is recorded."""


@dataclass(frozen=True)
class Offer:
    """A job as it is sent to a Worker."""

    lease_id: str
    spec: JobSpec
    """With hashes instead of paths."""
    files: dict[str, Path]
    """By SHA-256."""


class Leases:
    """All leases of a Domain.

    Args:
        lease_s: see `LEASE_S`.
    """

    def __init__(self, lease_s: float = LEASE_S) -> None:
        self.lease_s = lease_s
        self._jobs: dict[str, LeasedJob] = {}
        self._leases: dict[str, HeldLease] = {}
        self._hashes: dict[tuple[str, int, int], str] = {}

    # For drivers

    @contextlib.asynccontextmanager
    async def open(
        self, spec: JobSpec, on_progress: OnProgress | None, begin: Begin | None = None
    ) -> AsyncIterator[LeasedJob]:
        """Yield a job that is ready for a lease, which ends with the block.

        Raises:
            InvalidInput: the specification is not valid. Conflict: ``job_exists``. OSError: a file is missing.
        """
        check_spec(spec)
        if spec.id in self._jobs:
            raise Conflict(f"job {spec.id} already waits for a Worker, or runs", code=codes.JOB_EXISTS, job_id=spec.id)
        job = self._jobs[spec.id] = LeasedJob(spec, on_progress, asyncio.get_running_loop().create_future(), begin)
        try:
            job.sent, job.files = await asyncio.to_thread(self._pack, spec)
            yield job
        finally:
            self._jobs.pop(spec.id, None)
            if job.lease is not None:
                self._end(job.lease)

    def assign(self, job: LeasedJob, worker_id: int, worker: str) -> HeldLease:
        lease_id = secrets.token_hex(16)
        lease = HeldLease(lease_id, worker_id, worker, job, self._start_timer(lease_id))
        job.lease = self._leases[lease_id] = lease
        return lease

    def lose(self, lease: HeldLease, why: str) -> None:
        """End a lease without a result: its job is ``lost``, or never began."""
        self._end(lease)
        logger.warning("lease lost", extra={"job_id": lease.job.spec.id, "worker": lease.worker, "why": why})
        if lease.begun and not lease.job.done.done():
            lease.job.done.set_result(JobResult(Facts(worker=lease.worker), Failure("lost", why)))
        lease.job.give_up()

    def stop(self, job: LeasedJob) -> None:
        """End a job because the Domain stops: its lease is lost, or it never began."""
        if job.lease is not None:
            self.lose(job.lease, "the Domain is stopping")
        job.give_up()

    async def check(self, job: LeasedJob, result: JobResult) -> JobResult:
        """Return a result of a Worker, or the failure that it is not what the job asked for."""
        fault = result.failure or await asyncio.to_thread(find_fault, job.spec, result.payload)
        return result if fault is None else JobResult(result.facts, fault)

    def count(self, worker_id: int) -> int:
        return sum(lease.worker_id == worker_id for lease in self._leases.values())

    def drop_worker(self, worker_id: int, why: str) -> None:
        for lease in list(self._leases.values()):
            if lease.worker_id == worker_id:
                self.lose(lease, why)

    # For Workers

    async def renew(self, worker_id: int, lease_id: str, progress: Progress | None = None) -> None:
        """Renew a lease, and note the progress of its job. Raises Gone: ``lease_over``."""
        lease = self._get(worker_id, lease_id)
        if lease.begun and not lease.may_read:
            raise _not_begun()
        lease.timer.cancel()
        lease.timer = self._start_timer(lease_id)
        if not lease.begun:
            await self._begin(lease)
            self._get(worker_id, lease_id)
        if progress is not None and lease.job.on_progress is not None and lease.job.spec.privacy is None:
            lease.job.on_progress(progress)

    async def _begin(self, lease: HeldLease) -> None:
        """Record that the job begins; a lease that ends meanwhile counts as begun."""
        lease.begun = True
        try:
            if lease.job.begin is None or await lease.job.begin():
                lease.may_read = True
            else:
                self.lose(lease, "the job is not wanted any longer")
        except BaseException:
            self.lose(lease, "the Domain could not record that the job begins")
            raise

    def find_file(self, worker_id: int, lease_id: str, name: str) -> Path:
        """A file that the job under this lease needs. Raises Gone: ``lease_over``. NotFound: ``file_not_found``."""
        lease = self._get(worker_id, lease_id)
        if not lease.may_read:
            raise _not_begun()
        if name not in lease.job.files:
            raise NotFound("the job under this lease has no such file", code=codes.FILE_NOT_FOUND, hash=name)
        return lease.job.files[name]

    def max_result_bytes(self, worker_id: int, lease_id: str) -> int:
        """The size of the longest result that is accepted under a lease. Raises Gone: ``lease_over``."""
        return self._get(worker_id, lease_id).job.spec.limits.max_result_bytes

    def finish(self, worker_id: int, lease_id: str, outcome: Outcome, payload: bytes) -> None:
        """Accept a result, once; its lease is over.

        Raises:
            Gone: ``lease_over``. PayloadTooLarge. Conflict: ``lease_not_begun``.
        """
        lease = self._get(worker_id, lease_id)
        if not lease.may_read:
            raise _not_begun()
        if len(payload) > lease.job.spec.limits.max_result_bytes:
            raise PayloadTooLarge(
                "the result is larger than the limit of the job", max_bytes=lease.job.spec.limits.max_result_bytes
            )
        self._end(lease)
        facts = msgspec.structs.replace(outcome.facts, bytes_out=len(payload), worker=lease.worker)
        lease.job.done.set_result(JobResult(facts, outcome.failure, outcome.media_type, payload))

    def give_back(self, worker_id: int, lease_id: str) -> None:
        """End a lease whose Worker stops, as if its time had run out. Raises Gone: ``lease_over``."""
        lease = self._get(worker_id, lease_id)
        self.lose(lease, f"Worker {lease.worker!r} was stopped")

    def _start_timer(self, lease_id: str) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(self.lease_s, self._expire, lease_id)

    def _expire(self, lease_id: str) -> None:
        if (lease := self._leases.get(lease_id)) is not None:
            self.lose(lease, f"Worker {lease.worker!r} did not renew its lease for {self.lease_s:g} s")

    def _end(self, lease: HeldLease) -> None:
        lease.timer.cancel()
        self._leases.pop(lease.id, None)

    def _get(self, worker_id: int, lease_id: str) -> HeldLease:
        lease = self._leases.get(lease_id)
        # For a Worker, the lease of another Worker is like one that is over.
        if lease is None or lease.worker_id != worker_id or lease.job.done.done():
            raise Gone("this lease is over: the job has ended, or another Worker has it", code=codes.LEASE_OVER)
        return lease

    # Files

    def _pack(self, spec: JobSpec) -> tuple[JobSpec, dict[str, Path]]:
        names = {path: self._hash(path) for path in list_paths(spec)}
        return move_paths(spec, names.__getitem__), {name: Path(path) for path, name in names.items()}

    def _hash(self, path: str) -> str:
        """SHA-256 of a file; a file that was hashed before and has not changed is not read again."""
        with open(path, "rb") as file:
            stat = Path(path).stat()
            key = path, stat.st_size, stat.st_mtime_ns
            if key not in self._hashes:
                if len(self._hashes) >= _MAX_HASHES:
                    self._hashes.clear()
                digest = hashlib.sha256()
                while piece := file.read(_READ_BYTES):
                    digest.update(piece)
                self._hashes[key] = digest.hexdigest()
        return self._hashes[key]


def _not_begun() -> Conflict:
    return Conflict("renew the lease once before any other request under it", code=codes.LEASE_NOT_BEGUN)
