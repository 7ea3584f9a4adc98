"""The driver that runs jobs in processes of this machine."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from typing import Any

import msgspec

from pygrid import codes
from pygrid.compute.driver import Begin, LocalLimits
from pygrid.compute.onnx_versions import check_version
from pygrid.compute.results import Answer, BadAnswerError, Ended, OnProgress, make_result, read_answer
from pygrid.compute.runtime import forkserver
from pygrid.core.job_spec import SPEC, Facts, Failure, JobResult, JobSpec, check_spec, held_s
from pygrid.errors import Conflict, Unavailable
from pygrid.sandbox.frames import frame
from pygrid.sandbox.process import Child, spawn

logger = logging.getLogger(__name__)

_ENVIRONMENT = {
    # A job is short and makes arrays of the same sizes repeatedly: keep freed memory instead of mapping new pages.
    "MALLOC_MMAP_THRESHOLD_": "268435456",
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
}
_START_S = 60.0
_GRACE_S = 10.0
_MAX_PACKET = 65_536


class LocalDriver:
    """The driver that runs each job in a sandboxed process of this machine, forked from a warm one.

    Use it as an async context manager.
    """

    name = "local"

    def __init__(self, limits: LocalLimits | None = None) -> None:
        self._limits = limits or LocalLimits()
        self._places = asyncio.Semaphore(self._limits.max_concurrent)
        self._starting = asyncio.Lock()
        self._server: _Server | None = None
        self._job_ids: set[str] = set()
        self._closed = False

    async def __aenter__(self) -> LocalDriver:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def capacity(self) -> int:
        return self._limits.max_concurrent

    async def start(self) -> tuple[str, ...]:
        """Start the warm process, if it does not run, and return the layers of its sandbox.

        Raises:
            Unavailable: it does not start (``worker_not_started``), cannot sandbox a plan (``sandbox_unavailable``), or
                has another version of ONNX Runtime than those that were tested (``runtime_untested``).
        """
        async with self._starting:
            if self._closed:
                raise Unavailable("the Domain is stopping and starts no more jobs", code=codes.WORKER_NOT_STARTED)
            if self._server is not None and self._server.is_gone:
                await self._server.close()
                self._server = None
            if self._server is None:
                self._server = await _Server.start(self._limits)
            check_version(self._server.runtime)
            return self._server.layers

    @property
    def is_sound(self) -> bool:
        """Whether the process was started, and its sandbox is enough for an untrusted plan."""
        return self._server is not None and self._server.is_sound

    async def run(
        self, spec: JobSpec, on_progress: OnProgress | None = None, *, pad: bool = True, begin: Begin | None = None
    ) -> JobResult:
        check_spec(spec)
        if spec.id in self._job_ids:
            raise Conflict(f"job {spec.id} is here already", code=codes.JOB_EXISTS, job_id=spec.id)
        self._job_ids.add(spec.id)
        try:
            async with self._places:
                await self.start()
                if begin is not None and not await begin.record(""):
                    return JobResult(Facts(), Failure("cancelled", "the job is not wanted any longer"))
                return await self._run_now(spec, on_progress, pad)
        finally:
            self._job_ids.remove(spec.id)

    async def _run_now(self, spec: JobSpec, on_progress: OnProgress | None, pad: bool) -> JobResult:
        assert self._server is not None
        began = time.monotonic()
        result = await self._server.run(spec, on_progress)
        if pad and spec.privacy is not None:
            # Neither the end of a job nor its free place may be visible before a time that does not depend on the data.
            elapsed = time.monotonic() - began
            await asyncio.sleep(held_s(elapsed, result.facts.planned_s) - elapsed)
        return result

    async def close(self) -> None:
        self._closed = True
        if self._server is not None:
            await self._server.close()


class _Server:
    """A fork server: its process, its socket of packets, and the jobs whose end is awaited."""

    def __init__(self, child: Child) -> None:
        self._child, self._control = child, child.channel
        self._control.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._ends: dict[str, asyncio.Future[Ended | None]] = {}
        self.layers: tuple[str, ...] = ()
        self.is_sound = False
        self.runtime = ""
        self.is_gone = False
        self._loop.add_reader(self._control, self._receive)

    @classmethod
    async def start(cls, limits: LocalLimits) -> _Server:
        decided = forkserver.ServerSettings(allow_weak_sandbox=limits.allow_weak_sandbox)
        server = cls(
            await asyncio.to_thread(spawn, forkserver.main, decided, channel="packets", environment=_ENVIRONMENT)
        )
        try:
            ready = await asyncio.wait_for(asyncio.shield(server._ready), _START_S)
            server.layers, server.is_sound = tuple(ready["layers"]), bool(ready["sound"])
            server.runtime = ready["runtime"]
            if not server.is_sound and not limits.allow_weak_sandbox:
                raise Unavailable(
                    "this machine cannot sandbox an untrusted plan, so it runs no job. `pygrid worker doctor` shows "
                    "what is missing",
                    code=codes.SANDBOX_UNAVAILABLE,
                )
        except (TimeoutError, EOFError) as error:
            await server.close()
            raise Unavailable(
                "the process of the Worker does not start; see the log", code=codes.WORKER_NOT_STARTED
            ) from error
        except BaseException:
            await server.close()
            raise
        return server

    async def run(self, spec: JobSpec, on_progress: OnProgress | None) -> JobResult:
        """Run one job and wait until its process is gone."""
        end: asyncio.Future[Ended | None] = self._loop.create_future()
        self._ends[spec.id] = end
        try:
            answer, trouble = Answer(), ""
            try:
                async with asyncio.timeout(spec.limits.wall_s + _GRACE_S):
                    await self._talk(spec, on_progress, answer)
                    ended = await end
            except BadAnswerError as error:
                trouble = str(error)
                self.cancel(spec.id)
                ended = await end
            except TimeoutError:
                # The fork server did not end the job in time; the job ends with it.
                await self.close()
                ended = None
        finally:
            if not end.done():  # the caller was cancelled
                self.cancel(spec.id)
            self._ends.pop(spec.id, None)
        return make_result(spec, answer, ended, trouble)

    async def _talk(self, spec: JobSpec, on_progress: OnProgress | None, answer: Answer) -> None:
        ours, theirs = socket.socketpair()
        try:
            packet = msgspec.json.encode({"start": spec.id, "limits": spec.limits})
            socket.send_fds(self._control, [packet], [theirs.fileno()])
        except OSError:
            ours.close()
            return
        finally:
            theirs.close()
        reader, writer = await asyncio.open_connection(sock=ours)
        try:
            writer.write(frame(SPEC, msgspec.json.encode(spec)))
            await writer.drain()
            await read_answer(reader, spec, on_progress, answer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the process is gone; the fork server reports its end
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def cancel(self, job_id: str) -> None:
        with contextlib.suppress(OSError):
            self._control.send(msgspec.json.encode({"cancel": job_id}))

    def _receive(self) -> None:
        try:
            packet = self._control.recv(_MAX_PACKET)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            self._lose()
            return
        message = msgspec.json.decode(packet)
        if "ready" in message:
            self._ready.set_result(message)
            return
        end = self._ends.get(message.pop("ended"))
        if end is not None and not end.done():
            end.set_result(Ended(**message))

    def _lose(self) -> None:
        """Note that the process is gone, and every job with it."""
        if self.is_gone:
            return
        self.is_gone = True
        self._loop.remove_reader(self._control)
        self._control.close()
        if not self._ready.done():
            self._ready.set_exception(EOFError())
        for end in self._ends.values():
            if not end.done():
                end.set_result(None)

    async def close(self) -> None:
        """End the process, and its jobs with it."""
        self._lose()
        if self._ready.done() and not self._ready.cancelled():
            self._ready.exception()  # seen
        await asyncio.to_thread(self._child.end, _GRACE_S)
