"""Jobs for Workers on other machines, which ask for them: the driver's side, and the leases under which they are given
out.

                run()             a Worker asks          the first renew
    (unknown) ---------> queued -----------------> offered -------------> running ----> (result)
                            |                          |                      |
                     no Worker asks:           no renew:            no renew, token revoked, returned:
                     never began               never began          ``lost``

A lease assigns one job to one Worker. It ends with the result, if it is not renewed in time, if the authorization of
the Worker is revoked, or if the result is not wanted; later requests under it are refused (``lease_over``). A Worker
begins only after its first renewal was answered, so a job whose lease was never renewed has not begun, and can run
elsewhere.

Leases live in this process alone. A Domain that starts again knows none of them, and treats each job that was running
by its
row: an exact one is started once more, a private one has failed.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from pygrid import codes
from pygrid.compute.driver import NotStarted
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
OFFER_S = 20.0
"""How long a job waits for the request of a Worker that was connected when the job started."""
OnDisconnect = Callable[[], Coroutine[Any, Any, None]]
_TRANSFER_S = 3600.0
"""Time for the transfer of the files of a job, in addition to its own time."""
_MAX_HASHES = 10_000
_READ_BYTES = 1024 * 1024


@dataclass
class _LeasedJob:
    spec: JobSpec
    on_progress: OnProgress | None
    done: asyncio.Future[JobResult | None]
    """None: the job never began."""
    sent: JobSpec | None = None
    files: dict[str, Path] = field(default_factory=dict)
    lease: _HeldLease | None = None


@dataclass
class _HeldLease:
    id: str
    worker_id: int
    worker: str
    job: _LeasedJob
    timer: asyncio.TimerHandle
    begun: bool = False


@dataclass(frozen=True)
class Offer:
    """A job as it is sent to a Worker."""

    lease_id: str
    spec: JobSpec
    """With hashes instead of paths."""
    files: dict[str, Path]
    """By SHA-256."""


class LeasedDriver:
    """The driver whose jobs Workers of other machines fetch.

    Args:
        wake: set when a Worker requests a job and there is none.
        lease_s, offer_s: see `LEASE_S`, `OFFER_S`.
    """

    name = "leased"

    def __init__(self, wake: asyncio.Event, *, lease_s: float = LEASE_S, offer_s: float = OFFER_S) -> None:
        self.lease_s, self.offer_s = lease_s, offer_s
        self._wake = wake
        self._jobs: dict[str, _LeasedJob] = {}
        self._queue: OrderedDict[str, _LeasedJob] = OrderedDict()
        self._polls: dict[asyncio.Future[_HeldLease], tuple[int, str]] = {}
        self._leases: dict[str, _HeldLease] = {}
        self._hashes: dict[tuple[str, int, int], str] = {}
        self._closed = False

    # The driver

    @property
    def capacity(self) -> int:
        return len(self._polls) + len(self._leases)

    async def start(self) -> None:
        """Do nothing: Workers connect by themselves."""

    async def run(self, spec: JobSpec, on_progress: OnProgress | None = None, *, pad: bool = True) -> JobResult:
        check_spec(spec)
        if spec.id in self._jobs:
            raise Conflict(f"job {spec.id} is here already", code=codes.JOB_EXISTS, job_id=spec.id)
        job = self._jobs[spec.id] = _LeasedJob(spec, on_progress, asyncio.get_running_loop().create_future())
        try:
            return await self._run(job)
        finally:
            self._forget(job)

    async def _run(self, job: _LeasedJob) -> JobResult:
        job.sent, job.files = await asyncio.to_thread(self._pack, job.spec)
        if self._closed:
            raise _not_started("the Domain is stopping")
        self._queue[job.spec.id] = job
        self._match()
        waiting = asyncio.get_running_loop().call_later(self.offer_s, self._withdraw, job)
        try:
            async with asyncio.timeout(job.spec.limits.wall_s + self.offer_s + _TRANSFER_S):
                result = await job.done
        except TimeoutError:
            result = JobResult(Facts(), Failure("out_of_time", "the job took longer than its limit"))
        finally:
            waiting.cancel()
        if result is None:
            raise _not_started("no Worker took it")
        fault = result.failure or await asyncio.to_thread(find_fault, job.spec, result.payload)
        return result if fault is None else JobResult(result.facts, fault)

    async def close(self) -> None:
        self._closed = True
        for lease in list(self._leases.values()):
            self._lose(lease, "the Domain is stopping")
        for job in self._jobs.values():
            if not job.done.done():
                job.done.set_result(None)

    # What Workers ask of it

    async def lease(self, worker_id: int, worker: str, wait_s: float, gone: OnDisconnect) -> Offer | None:
        """A job for a Worker, after a wait of up to ``wait_s`` seconds; None: there is none.

        ``gone`` returns when the Worker has hung up.
        """
        poll: asyncio.Future[_HeldLease] = asyncio.get_running_loop().create_future()
        self._polls[poll] = worker_id, worker
        leaving = asyncio.create_task(gone())
        try:
            self._match()
            if not poll.done():
                self._wake.set()
                both: list[asyncio.Future[Any]] = [poll, leaving]
                await asyncio.wait(both, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            self._polls.pop(poll, None)
        if not poll.done() or poll.cancelled():
            return None
        lease = poll.result()
        assert lease.job.sent is not None
        return Offer(lease.id, lease.job.sent, lease.job.files)

    def renew(self, worker_id: int, lease_id: str, progress: Progress | None = None) -> None:
        """Renew a lease, and note the progress of its job. Raises Gone: ``lease_over``."""
        lease = self._get(worker_id, lease_id)
        lease.begun = True
        lease.timer.cancel()
        lease.timer = self._start_timer(lease_id)
        if progress is not None and lease.job.on_progress is not None and lease.job.spec.privacy is None:
            lease.job.on_progress(progress)

    def find_file(self, worker_id: int, lease_id: str, name: str) -> Path:
        """A file that the job under this lease needs. Raises Gone: ``lease_over``. NotFound: ``file_not_found``."""
        lease = self._get(worker_id, lease_id)
        if not lease.begun:
            raise Conflict("renew the lease once before any other request under it", code=codes.LEASE_NOT_BEGUN)
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
        if not lease.begun:
            raise Conflict("renew the lease once before any other request under it", code=codes.LEASE_NOT_BEGUN)
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
        self._lose(lease, f"Worker {lease.worker!r} was stopped")

    def drop_worker(self, worker_id: int) -> None:
        """End the leases and the waiting requests of a Worker whose authorization was revoked."""
        for poll, (asking, _) in list(self._polls.items()):
            if asking == worker_id and not poll.done():
                self._polls.pop(poll)
                poll.cancel()
        for lease in list(self._leases.values()):
            if lease.worker_id == worker_id:
                self._lose(lease, f"the authorization of Worker {lease.worker!r} was revoked")

    def count(self, worker_id: int) -> tuple[int, int]:
        """Number of jobs that a Worker waits for, and number that it runs."""
        waiting = sum(asking == worker_id for asking, _ in self._polls.values())
        return waiting, sum(lease.worker_id == worker_id for lease in self._leases.values())

    # Leases

    def _match(self) -> None:
        """Assign queued jobs to waiting Workers, both in the order in which they came."""
        while self._queue and (poll := next((poll for poll in self._polls if not poll.done()), None)) is not None:
            _, job = self._queue.popitem(last=False)
            worker_id, worker = self._polls.pop(poll)
            lease_id = secrets.token_hex(16)
            lease = _HeldLease(lease_id, worker_id, worker, job, self._start_timer(lease_id))
            job.lease = self._leases[lease_id] = lease
            poll.set_result(lease)

    def _start_timer(self, lease_id: str) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(self.lease_s, self._expire, lease_id)

    def _expire(self, lease_id: str) -> None:
        if (lease := self._leases.get(lease_id)) is not None:
            self._lose(lease, f"Worker {lease.worker!r} did not renew its lease for {self.lease_s:g} s")

    def _lose(self, lease: _HeldLease, why: str) -> None:
        self._end(lease)
        logger.warning("lease lost", extra={"job_id": lease.job.spec.id, "worker": lease.worker, "why": why})
        if not lease.job.done.done():
            lost = JobResult(Facts(worker=lease.worker), Failure("lost", why))
            lease.job.done.set_result(lost if lease.begun else None)

    def _end(self, lease: _HeldLease) -> None:
        lease.timer.cancel()
        self._leases.pop(lease.id, None)

    def _withdraw(self, job: _LeasedJob) -> None:
        if self._queue.pop(job.spec.id, None) is not None and not job.done.done():
            job.done.set_result(None)

    def _forget(self, job: _LeasedJob) -> None:
        self._jobs.pop(job.spec.id, None)
        self._queue.pop(job.spec.id, None)
        if job.lease is not None:
            self._end(job.lease)

    def _get(self, worker_id: int, lease_id: str) -> _HeldLease:
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


def _not_started(why: str) -> NotStarted:
    return NotStarted(f"no Worker on another machine runs the job: {why}", code=codes.NO_REMOTE_WORKER)
