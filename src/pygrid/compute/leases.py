"""Leases: each assigns one job to one Worker on another machine.

                assign()              the first renew
    (a job) ----------------> leased ----------------> running ----> (result)
                                |                         |
                            no renew:            no renew, token revoked, returned:
                            never began               ``lost``

A lease ends with the result, if it is not renewed in time, if the authorization of the Worker is revoked, or if the
result is not wanted; later requests under it are refused (``lease_over``). A Worker begins only after its first renewal
was answered, so a job whose lease was never renewed has not begun, and can run elsewhere.

Leases are rows of the database, so they outlive this process. A process that takes a job over adopts its lease, and
waits for its Worker (`Leases.open`). Here are only the jobs that this process waits for.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

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
from pygrid.core.worker_leases import WorkerLease
from pygrid.errors import Conflict, Gone, NotFound, PayloadTooLarge, PygridError, Unavailable
from pygrid.ids import hash_secret

logger = logging.getLogger(__name__)

LEASE_S = 15.0
"""Longest time between two renewals."""
_MAX_HASHES = 10_000
_READ_BYTES = 1024 * 1024
VANISHED = JobResult(Facts(), Failure("lost", "its Worker returned it, or was revoked, while the Domain started"))
"""The result of a resumed job that no Worker has now."""


class LeaseStore(Protocol):
    """The stored leases, which all processes of a Domain share. Its own clock decides which have expired."""

    async def put(self, lease: WorkerLease, lease_s: float) -> None:
        """Add a lease whose Worker has not begun. It replaces an earlier one of the job."""

    async def find(self, id_hash: str, worker_id: int) -> WorkerLease | None:
        """The lease with this id, if this Worker holds it."""

    async def renew(self, id_hash: str, lease_s: float) -> bool:
        """Extend a lease; False: it has ended."""

    async def begin(self, id_hash: str) -> bool:
        """Record that the Worker begins a job that records nothing itself; False: the lease has ended."""

    async def adopt(self, job_id: str, lease_s: float) -> WorkerLease | None:
        """Extend the lease of a job that another process has assigned; None: it has none."""

    async def end(self, job_id: str, *, id_hash: str = "", only_expired: bool = False) -> WorkerLease | None:
        """End the lease of a job and return it; None: it has none.

        Args:
            id_hash: end only the lease with this id.
            only_expired: end it only if it has expired.
        """


@dataclass
class LeasedJob:
    """A job that a Worker on another machine runs, and that this process waits for."""

    spec: JobSpec
    on_progress: OnProgress | None
    done: asyncio.Future[JobResult | None]
    """None: the job never began."""
    begin: Begin | None = None
    """Called before the answer to the first renewal."""
    sent: JobSpec | None = None
    """The specification with hashes instead of paths."""
    files: dict[str, Path] = field(default_factory=dict)
    leased: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a Worker has the job."""
    age_s: float = 0.0
    """For how long a Worker had the job before this process waited for it."""
    stored_at: float = 0.0
    """When the last renewal was stored, by the monotonic clock."""
    is_beginning: bool = False
    taken_from: str = ""
    """Hash of the lease under which the result came."""

    @property
    def is_resumed(self) -> bool:
        return self.begin is not None and self.begin.is_resumed

    def give_up(self) -> None:
        """End a job that has not begun; nothing happens if it has ended."""
        if not self.done.done():
            self.done.set_result(None)


@dataclass(frozen=True)
class Offer:
    """A job as it is sent to a Worker."""

    lease_id: str
    spec: JobSpec
    """With hashes instead of paths."""
    files: dict[str, Path]
    """By SHA-256."""


class Leases:
    """The jobs that Workers on other machines run, and their leases.

    Args:
        lease_s: see `LEASE_S`.
    """

    def __init__(self, store: LeaseStore, lease_s: float = LEASE_S) -> None:
        self.lease_s = lease_s
        self._store = store
        self._jobs: dict[str, LeasedJob] = {}
        self._hashes: dict[tuple[str, int, int], str] = {}

    # For drivers

    @contextlib.asynccontextmanager
    async def open(
        self, spec: JobSpec, on_progress: OnProgress | None, begin: Begin | None = None
    ) -> AsyncIterator[LeasedJob]:
        """Yield a job that is ready for a lease, or whose lease is adopted.

        The lease of a job that records its begin stays until its row changes, so that its Worker outlives this process.

        Raises:
            InvalidInput: the specification is not valid. Conflict: ``job_exists``. OSError: a file is missing.
        """
        check_spec(spec)
        if spec.id in self._jobs:
            raise Conflict(f"job {spec.id} already waits for a Worker, or runs", code=codes.JOB_EXISTS, job_id=spec.id)
        job = self._jobs[spec.id] = LeasedJob(spec, on_progress, asyncio.get_running_loop().create_future(), begin)
        try:
            job.sent, job.files = await asyncio.to_thread(self._pack, spec)
            if job.is_resumed and (lease := await self._store.adopt(spec.id, self.lease_s)) is not None:
                logger.info("lease adopted", extra={"job_id": spec.id, "worker": lease.worker})
                job.age_s, job.stored_at = lease.age_s, time.monotonic()
                job.leased.set()
            yield job
        finally:
            self._jobs.pop(spec.id, None)
            if begin is None:
                with contextlib.suppress(Unavailable):  # the next start removes it
                    await self._store.end(spec.id)

    async def wait(self, job: LeasedJob, timeout_s: float) -> JobResult | None:
        """Return the checked result of the Worker; None: the job never began.

        Args:
            timeout_s: longest time from the assignment to the result.
        """
        watching = asyncio.create_task(self._watch(job))
        try:
            async with asyncio.timeout(timeout_s - job.age_s):
                result = await job.done
        except TimeoutError:
            return JobResult(Facts(), Failure("out_of_time", "the job took longer than its limit"))
        finally:
            watching.cancel()
        if result is None or result.failure is not None:
            return result
        fault = await asyncio.to_thread(find_fault, job.spec, result.payload)
        return result if fault is None else JobResult(result.facts, fault)

    async def assign(self, job: LeasedJob, worker_id: int, worker: str) -> Offer | None:
        """Lease a job to a Worker; None: the job has ended meanwhile."""
        lease_id = secrets.token_hex(16)
        job.leased.set()
        job.stored_at = time.monotonic()
        try:
            await self._store.put(WorkerLease(hash_secret(lease_id), job.spec.id, worker_id, worker), self.lease_s)
        except BaseException:
            job.give_up()  # no Worker has the id of this lease
            raise
        if job.done.done():
            await self._store.end(job.spec.id)
            return None
        assert job.sent is not None
        return Offer(lease_id, job.sent, job.files)

    async def lose(self, job: LeasedJob, why: str) -> None:
        """End the lease of a job without a result: it is ``lost``, or never began."""
        if (lease := await self._store.end(job.spec.id)) is not None:
            self.note_lost(lease, why)

    def note_lost(self, lease: WorkerLease, why: str) -> None:
        """As `lose`, for a lease that has ended in the store."""
        logger.warning("lease lost", extra={"job_id": lease.job_id, "worker": lease.worker, "why": why})
        job = self._jobs.get(lease.job_id)
        if job is None:
            return
        if lease.is_begun and not job.done.done():
            job.done.set_result(JobResult(Facts(worker=lease.worker), Failure("lost", why)))
        job.give_up()

    async def _watch(self, job: LeasedJob) -> None:
        """End the lease of a job that its Worker does not renew in time."""
        await job.leased.wait()
        is_away = False
        while True:
            left_s = job.stored_at + self.lease_s - time.monotonic()
            await asyncio.sleep(max(left_s, self.lease_s / 20))
            if time.monotonic() < job.stored_at + self.lease_s:
                continue
            try:
                if is_away:  # no Worker could renew meanwhile
                    await self._store.adopt(job.spec.id, self.lease_s)
                    is_away, job.stored_at = False, time.monotonic()
                elif (lease := await self._store.end(job.spec.id, only_expired=True)) is not None:
                    self.note_lost(lease, f"Worker {lease.worker!r} did not renew its lease for {self.lease_s:g} s")
            except PygridError:  # for example, the database is away
                is_away = True

    # For Workers

    async def renew(self, worker_id: int, lease_id: str, progress: Progress | None = None) -> None:
        """Renew a lease, and note the progress of its job. Raises Gone: ``lease_over``. Unavailable: as `find_file`."""
        lease = await self._get(worker_id, lease_id)
        job = self._jobs.get(lease.job_id)
        if not lease.is_begun:
            await self._begin(lease)
        # A Worker that reports progress renews so often that not each renewal is stored.
        if job is None or time.monotonic() >= job.stored_at + self.lease_s / 6:
            sent_at = time.monotonic()
            if not await self._store.renew(lease.id_hash, self.lease_s):
                raise _over()
            if job is not None:
                job.stored_at = sent_at
        if job is not None and progress is not None and job.on_progress is not None and job.spec.privacy is None:
            job.on_progress(progress)

    async def _begin(self, lease: WorkerLease) -> None:
        """Record that the job begins. If that fails, the Worker renews again, and begins then."""
        job = self._find_job(lease)
        if job.is_beginning:
            raise _not_begun()
        job.is_beginning = True
        try:
            record = self._store.begin if job.begin is None else job.begin.record
            if not await record(lease.id_hash):
                raise _over()
        finally:
            job.is_beginning = False

    async def find_file(self, worker_id: int, lease_id: str, name: str) -> Path:
        """A file that the job under this lease needs.

        Raises:
            Gone: ``lease_over``. NotFound: ``file_not_found``. Conflict: ``lease_not_begun``.
            Unavailable: ``job_resumes``: this process is about to continue the job.
        """
        job = self._find_job(await self._get_begun(worker_id, lease_id))
        if name not in job.files:
            raise NotFound("the job under this lease has no such file", code=codes.FILE_NOT_FOUND, hash=name)
        return job.files[name]

    async def max_result_bytes(self, worker_id: int, lease_id: str) -> int:
        """The size of the longest result that is accepted under a lease. Raises as `find_file`."""
        return self._find_job(await self._get(worker_id, lease_id)).spec.limits.max_result_bytes

    async def finish(self, worker_id: int, lease_id: str, outcome: Outcome, payload: bytes) -> None:
        """Accept a result, once. The lease ends when it is stored (`find_job_id`).

        Raises:
            As `find_file`. PayloadTooLarge.
        """
        lease = await self._get_begun(worker_id, lease_id)
        job = self._find_job(lease)
        if len(payload) > job.spec.limits.max_result_bytes:
            raise PayloadTooLarge(
                "the result is larger than the limit of the job", max_bytes=job.spec.limits.max_result_bytes
            )
        if not job.done.done():
            facts = msgspec.structs.replace(outcome.facts, bytes_out=len(payload), worker=lease.worker)
            job.taken_from = lease.id_hash
            job.done.set_result(JobResult(facts, outcome.failure, outcome.media_type, payload))
        elif job.taken_from != lease.id_hash:
            raise _over()

    async def find_job_id(self, worker_id: int, lease_id: str) -> str | None:
        """The id of the job under a lease; None: the lease is over."""
        lease = await self._store.find(hash_secret(lease_id), worker_id)
        return None if lease is None else lease.job_id

    async def give_back(self, worker_id: int, lease_id: str) -> None:
        """End a lease whose Worker stops, as if its time had run out. Raises Gone: ``lease_over``."""
        lease = await self._get(worker_id, lease_id)
        if (ended := await self._store.end(lease.job_id, id_hash=lease.id_hash)) is not None:
            self.note_lost(ended, f"Worker {lease.worker!r} was stopped")

    async def _get(self, worker_id: int, lease_id: str) -> WorkerLease:
        lease = await self._store.find(hash_secret(lease_id), worker_id)
        if lease is None:  # for a Worker, the lease of another Worker is like one that is over
            raise _over()
        return lease

    async def _get_begun(self, worker_id: int, lease_id: str) -> WorkerLease:
        lease = await self._get(worker_id, lease_id)
        if not lease.is_begun:
            raise _not_begun()
        return lease

    def _find_job(self, lease: WorkerLease) -> LeasedJob:
        job = self._jobs.get(lease.job_id)
        if job is None or job.sent is None or job.done.cancelled():
            raise job_resumes()
        return job

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


def job_resumes() -> Unavailable:
    """The refusal of a request about a job that this process does not wait for yet, or no longer."""
    return Unavailable(
        "the Domain has just started, or is about to stop, and continues this job in a moment: try again",
        code=codes.JOB_RESUMES,
        retry_after_s=1,
    )


def _over() -> Gone:
    return Gone("this lease is over: the job has ended, or another Worker has it", code=codes.LEASE_OVER)


def _not_begun() -> Conflict:
    return Conflict("renew the lease once before any other request under it", code=codes.LEASE_NOT_BEGUN)
