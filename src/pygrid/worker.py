"""A Worker on another machine: it requests jobs from its Domain, runs them in sandboxes, and returns the results.

    request ──> renew once ──> fetch files ──> run ──> send the result ──> request
                  └── every third of the lease: renew, and report progress; if refused, the job is ended

While the Domain is away, the Worker goes on for `AWAY_S`: the next process of the Domain knows its lease.

It listens on no port: it makes every connection itself. It runs several jobs at once in several such loops.

A Worker that an engine started runs one job, and ends:

    claim with a start token ──> renew once ──> ... ──> send the result ──> exit 0
      └── 4: no job                └── 6: lost
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import signal
import tempfile
import threading
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from pygrid import codes
from pygrid.compute.driver import LocalLimits
from pygrid.compute.job_cache import JobCache
from pygrid.compute.local import LocalDriver
from pygrid.core.job_spec import OUTCOME, RESULT, Facts, Failure, JobResult, JobSpec, Outcome, Progress, move_paths
from pygrid.errors import Gone, InvalidInput, NotFound, PygridError, Unauthenticated
from pygrid.messages.media import TENSORS
from pygrid.messages.workers import (
    ClaimAnswer,
    ClaimRequest,
    Lease,
    LeaseAnswer,
    LeasedFile,
    LeaseRequest,
    Renewed,
    RenewRequest,
    ResultTaken,
)
from pygrid.sandbox.frames import frame, frame_header
from pygrid.transport import Api, Request, RetryPolicy, Transport, open_transport
from pygrid.transport.base import BytesBody
from pygrid.transport.retry import NO_RETRIES

logger = logging.getLogger(__name__)

T = TypeVar("T")

WAIT_S = 20.0
AWAY_S = 600.0
"""Seconds for which a Worker goes on with its job while the Domain is away, and keeps its result."""
_ANSWER_SLACK_S = 30.0
_PROGRESS_S = 0.5
"""Shortest time between two renewals that report progress."""
_MAX_PAUSE_S = 30.0
_GIVE_BACK_S = 3.0
_LEASES = "/data-centric/workers/leases"
_CLAIM_RETRIES = RetryPolicy(max_delay_s=5.0, max_elapsed_s=60.0)
START_TOKEN_VARIABLE = "PYGRID_START_TOKEN"


@dataclass(frozen=True)
class RemoteSettings:
    """Settings of the operator of this machine."""

    num_jobs: int = 1
    """Number of jobs at once."""
    num_threads: int = 1
    """Number of threads of each job."""
    allow_weak_sandbox: bool = False


class RemoteWorker:
    """Runs jobs of one Domain until `run` is cancelled.

    Args:
        transport: connects to the Domain; the caller closes it.
        token: the token that the Owner of the Domain made for this Worker.
        files: keeps the files of jobs; the caller closes it.
        wait_s: seconds that the Domain may hold its answer while there is no job.
        driver: runs the jobs; the caller closes it. None: one with these settings.
    """

    def __init__(
        self,
        transport: Transport,
        token: str,
        files: JobCache,
        settings: RemoteSettings | None = None,
        *,
        wait_s: float = WAIT_S,
        driver: LocalDriver | None = None,
    ) -> None:
        self._settings = settings or RemoteSettings()
        self._once = Api(transport, token=token, retries=NO_RETRIES)
        self._patient = Api(transport, token=token, retries=RetryPolicy(max_delay_s=5.0, max_elapsed_s=AWAY_S))
        self._files = files
        self._wait_s = wait_s
        limits = LocalLimits(self._settings.num_jobs, self._settings.allow_weak_sandbox)
        self._driver = driver or LocalDriver(limits)

    async def run(self) -> None:
        """Run jobs until cancelled; then the running jobs are ended, and their leases given back.

        Raises:
            Unavailable: this machine cannot sandbox a plan (``sandbox_unavailable``), or has an ONNX Runtime that was
                not tested (``runtime_untested``).
            Unauthenticated, Forbidden, NotFound: the Domain has not authorized this Worker, or has revoked it.
        """
        layers = await self._driver.start()
        loops = [asyncio.create_task(self._loop(tuple(layers))) for _ in range(self._settings.num_jobs)]
        try:
            await asyncio.gather(*loops)
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            await self._driver.close()

    async def _loop(self, layers: tuple[str, ...]) -> None:
        request = LeaseRequest(layers, self._driver.is_sound, self._wait_s)
        pause_s = 1.0
        while True:
            try:
                answer = await _in_thread(lambda: self._ask(request))
            except PygridError as error:
                if error.status < 500:
                    raise
                logger.warning(
                    "Domain not reached", extra={"code": error.code, "detail": error.detail, "retry_s": pause_s}
                )
                await asyncio.sleep(pause_s)
                pause_s = min(_MAX_PAUSE_S, 2 * pause_s)
                continue
            pause_s = 1.0
            if answer.lease is not None:
                await self._run_lease(answer.lease)

    def _ask(self, request: LeaseRequest) -> LeaseAnswer:
        path = "/data-centric/workers/lease"
        return self._once.post(path, LeaseAnswer, json=request, timeout_s=self._wait_s + _ANSWER_SLACK_S)

    async def run_one(self, lease: Lease) -> bool:
        """Run the job of a lease, and return whether the Domain took its result."""
        try:
            return await self._run_lease(lease)
        except Unauthenticated:
            return False  # the job is over, and its credential with it

    async def _run_lease(self, lease: Lease) -> bool:
        """Run one job from the first renewal to its result, and return whether the Domain took it.

        An error of the job does not end the Worker.
        """
        held = _Held(lease, self._once)
        try:
            await held.renew(self._patient)
            keeping = asyncio.create_task(held.keep())
            working = asyncio.create_task(self._work(held))
            try:
                await asyncio.wait({keeping, working}, return_when=asyncio.FIRST_COMPLETED)
                if not working.done():
                    logger.warning("lease over", extra={"lease": lease.id})
                    return False
                await working
                return True
            finally:
                keeping.cancel()
                working.cancel()
                await asyncio.gather(keeping, working, return_exceptions=True)
        except asyncio.CancelledError:
            await held.give_back()
            raise
        except (Gone, NotFound):
            logger.warning("result not wanted", extra={"lease": lease.id})
        except Unauthenticated:
            raise
        except PygridError as error:
            logger.warning("job given up", extra={"lease": lease.id, "code": error.code, "detail": error.detail})
        return False

    async def _work(self, held: _Held) -> None:
        lease = held.lease
        result = await self._result(held)
        await _in_thread(lambda: self._send_result(lease, result))
        how = "done" if result.failure is None else result.failure.kind
        logger.info("job ended", extra={"lease": lease.id, "how": how})

    def _send_result(self, lease: Lease, result: JobResult) -> ResultTaken:
        outcome = Outcome(result.facts, result.failure, result.media_type)
        parts = [frame(OUTCOME, msgspec.json.encode(outcome))]
        if result.failure is None:
            parts += [frame_header(RESULT, len(result.payload)), result.payload]
        path, headers = f"{_LEASES}/{lease.id}/result", {"Content-Type": TENSORS}
        return self._patient.send_body(path, ResultTaken, BytesBody(b"".join(parts)), headers=headers, idempotent=True)

    async def _result(self, held: _Held) -> JobResult:
        try:
            spec = msgspec.convert(held.lease.spec, JobSpec)
            with self._files.using(file.hash for file in held.lease.files):
                here = self._with_threads(await _in_thread(lambda: self._fetch(held.lease, spec)))
                logger.info("job starts", extra={"lease": held.lease.id, "kind": spec.kind})
                # The driver holds a private job on this machine until its planned time, so that the time of the
                # transfers does not add up with that of the job.
                on_progress = held.report if spec.privacy is None else None
                return await self._driver.run(here, on_progress)
        except Gone:
            raise
        except PygridError as error:
            return JobResult(Facts(), Failure("refused", error.detail, error.code))
        except (msgspec.ValidationError, OSError) as error:
            return JobResult(Facts(), Failure("refused", f"the Worker cannot run this job: {error}", "worker_fault"))

    def _with_threads(self, spec: JobSpec) -> JobSpec:
        """The job with the number of threads that the operator of this machine set, and CPU time for all of them."""
        number = self._settings.num_threads
        limits = msgspec.structs.replace(spec.limits, cpu_s=spec.limits.cpu_s * number)
        return msgspec.structs.replace(spec, num_threads=number, limits=limits)

    def _fetch(self, lease: Lease, spec: JobSpec) -> JobSpec:
        """Fetch all files; returns the specification with paths of this machine."""
        paths: dict[str, str] = {}
        for file in lease.files:
            paths[file.hash] = str(self._files.find(file.hash) or self._download(lease, file))

        def moved(name: str) -> str:
            if name not in paths:
                raise PygridError("the job names a file that the Domain did not list", code=codes.UNEXPECTED_ANSWER)
            return paths[name]

        return move_paths(spec, moved)

    def _download(self, lease: Lease, file: LeasedFile) -> Path:
        request = Request("GET", f"{_LEASES}/{lease.id}/files/{file.hash}")
        return self._patient.exchange(
            request, lambda answer: self._files.receive_chunks(file.hash, file.num_bytes, answer.chunks())
        )


class _Held:
    """A lease that this Worker holds."""

    def __init__(self, lease: Lease, api: Api) -> None:
        self.lease = lease
        self._api = api
        self._progress: Progress | None = None
        self._renewed_at = time.monotonic()
        self._pause_s = lease.expires_in_s / 3

    def report(self, progress: Progress) -> None:
        """Report this progress with the next renewal."""
        self._progress = progress

    async def renew(self, api: Api | None = None) -> None:
        """Renew the lease, and report new progress. Raises Gone, Unauthenticated: it is over."""
        new, self._progress = self._progress, None
        progress: dict[str, Any] | None = None if new is None else msgspec.to_builtins(new)
        sent_at = time.monotonic()
        path, patience_s = f"{_LEASES}/{self.lease.id}/renew", max(1.0, self._pause_s)
        answer = await _in_thread(
            lambda: (api or self._api).post(
                path, Renewed, json=RenewRequest(progress), timeout_s=patience_s, idempotent=True
            )
        )
        self._renewed_at = sent_at
        self._pause_s = answer.expires_in_s / 3

    async def give_back(self) -> None:
        """Return the lease, because this Worker stops. If the request fails, the lease expires later."""
        path = f"{_LEASES}/{self.lease.id}"
        request = Request("DELETE", path, timeout_s=_GIVE_BACK_S)
        with contextlib.suppress(PygridError):
            await _in_thread(lambda: self._api.exchange(request, lambda answer: None))

    async def keep(self) -> None:
        """Renew the lease until it is over: the Domain refuses, or is away for `AWAY_S`."""
        while time.monotonic() < self._renewed_at + AWAY_S:
            await asyncio.sleep(min(self._pause_s, _PROGRESS_S))
            if self._progress is None and time.monotonic() < self._renewed_at + self._pause_s:
                continue
            try:
                await self.renew()
            except PygridError as error:
                if error.status < 500:
                    return
                logger.warning("lease not renewed", extra={"lease": self.lease.id, "code": error.code})


async def _in_thread(call: Callable[[], T]) -> T:
    """The result of a blocking call.

    The thread does not keep the process alive, unlike those of `asyncio.to_thread`.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def resolve(result: T | None, error: BaseException | None) -> None:
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result)  # type: ignore[arg-type]  # there was no error

    def work() -> None:
        result, failure = None, None
        try:
            result = call()
        except BaseException as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nothing waits for the result
            loop.call_soon_threadsafe(resolve, result, failure)

    threading.Thread(target=work, daemon=True, name="to-domain").start()
    return await answer


# A Worker that an engine started


class ExitCode(enum.IntEnum):
    """How a Worker of an engine ended."""

    DONE = 0
    NO_CLAIM = 4
    """The Domain has no job for the token, or was not reached."""
    UNFIT = 5
    """This machine cannot sandbox an untrusted plan."""
    LOST = 6
    """The job was ended, or its result did not arrive."""


def take_token(file: Path | None, environment: MutableMapping[str, str]) -> str:
    """Return the start token of a file, or of the environment, and remove it there, so that no job can read it.

    Raises:
        InvalidInput: ``worker_token_missing``. OSError: the file cannot be read or removed.
    """
    variable = environment.pop(START_TOKEN_VARIABLE, "").strip()
    if file is None:
        token = variable
    else:
        token = file.read_text().strip()
        file.unlink()
    if not token:
        raise InvalidInput(
            f"no start token: the engine sets {START_TOKEN_VARIABLE}, or names a file with --token-file",
            code=codes.WORKER_TOKEN_MISSING,
        )
    return token


def run_once(domain: str, token: str, settings: RemoteSettings) -> ExitCode:
    """Run the job of a start token, and return how it ended. SIGINT and SIGTERM return the job."""
    transport = open_transport(domain)
    try:
        with tempfile.TemporaryDirectory(prefix="pygrid-job-") as folder:
            files = JobCache(Path(folder), 0)
            try:
                return asyncio.run(_until_stopped(transport, token, files, settings))
            finally:
                files.close()
    finally:
        transport.close()


async def _until_stopped(transport: Transport, token: str, files: JobCache, settings: RemoteSettings) -> ExitCode:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        return await _run(transport, token, files, settings)
    except asyncio.CancelledError:
        logger.warning("Worker stopped")
        return ExitCode.LOST


async def _run(transport: Transport, token: str, files: JobCache, settings: RemoteSettings) -> ExitCode:
    driver = LocalDriver(LocalLimits(1, settings.allow_weak_sandbox))
    try:
        request = ClaimRequest(await driver.start(), driver.is_sound)
        claims = Api(transport, token=token, retries=_CLAIM_RETRIES)
        path = "/data-centric/workers/claim"
        claim = await _in_thread(lambda: claims.post(path, ClaimAnswer, json=request, idempotent=True))
        worker = RemoteWorker(transport, claim.secret, files, settings, driver=driver)
        return ExitCode.DONE if await worker.run_one(claim.lease) else ExitCode.LOST
    except PygridError as error:
        is_unfit = error.code in (codes.SANDBOX_UNAVAILABLE, codes.RUNTIME_UNTESTED, codes.WORKER_NOT_STARTED)
        logger.error("no job claimed", extra={"code": error.code, "detail": error.detail})
        return ExitCode.UNFIT if is_unfit else ExitCode.NO_CLAIM
    finally:
        await driver.close()
