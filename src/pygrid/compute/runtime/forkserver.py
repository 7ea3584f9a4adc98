"""The warm parent of all jobs: a process with all imports done, which forks, watches and ends a child for each job.

The Domain starts `main` with `pygrid.sandbox.process.spawn`. Its descriptor is a connected socket of packets. Each
packet is one JSON document:

    Domain -> here   {"start": ID, "limits": {...}}   with one descriptor: the job's own stream socket
                     {"cancel": ID}
    here -> Domain   {"ready": true, "sound": bool, "layers": [...], "runtime": version of ONNX Runtime}
                     {"ended": ID, "status": wait status, "reason": why it was killed or "", "wall_s", "cpu_s",
                     "max_rss_bytes"}

The child reads its specification from its stream and answers there (`pygrid.core.job_spec`), so no byte of a job passes
through this process, and nothing untrusted is ever parsed in it. It has one thread and no session of ONNX Runtime, so
that a fork copies a quiet process. When the Domain goes away, it ends, and every job with it.
"""

from __future__ import annotations

import contextlib
import gc
import os
import selectors
import signal
import socket
import time
from dataclasses import dataclass, field

import msgspec

from pygrid import sandbox
from pygrid.compute.runtime.job_process import preload, run_job
from pygrid.core.job_spec import JobLimits

_TICK_S = 0.05
_MAX_PACKET = 65_536
_CPU_PROBE_S = 5


class ServerSettings(msgspec.Struct, frozen=True):
    allow_weak_sandbox: bool = False
    niceness: int = 5
    """Added to a job's priority value, so that the Domain answers while jobs compute."""


class Command(msgspec.Struct, frozen=True):
    """A packet from the Domain."""

    start: str = ""
    limits: JobLimits = JobLimits()
    cancel: str = ""


class ProcessEnd(msgspec.Struct, frozen=True):
    """A packet to the Domain: a job's process is gone."""

    ended: str
    status: int
    reason: str
    wall_s: float
    cpu_s: float
    max_rss_bytes: int


class Ready(msgspec.Struct, frozen=True):
    """The first packet to the Domain: the layers that hold in the sandbox of a trial child."""

    sound: bool
    layers: tuple[str, ...]
    runtime: str = ""
    """The version of ONNX Runtime that jobs would use."""
    ready: bool = True


@dataclass
class _ForkedJob:
    id: str
    pid: int
    pidfd: int
    limits: JobLimits
    base_bytes: int
    started: float = field(default_factory=time.monotonic)
    reason: str = ""


class ForkServer:
    """Forks, watches and reaps.

    Serial: one loop, woken by the Domain, by a child's end, or by the clock while jobs run.
    """

    def __init__(self, control: socket.socket, settings: ServerSettings) -> None:
        self._control = control
        self._settings = settings
        self._jobs: dict[str, _ForkedJob] = {}
        self._selector = selectors.DefaultSelector()
        # Removed already, so that nothing is left where this process is killed.
        self._empty = sandbox.open_empty_folder()

    def serve(self) -> None:
        """Work until the Domain is gone."""
        import onnxruntime

        self._send(msgspec.structs.replace(self._try_sandbox(), runtime=onnxruntime.__version__))
        self._selector.register(self._control, selectors.EVENT_READ, None)
        try:
            while True:
                for key, _ in self._selector.select(_TICK_S if self._jobs else None):
                    if key.data is not None:
                        self._reap(key.data)
                    elif not self._obey():
                        return
                self._watch()
        finally:
            for job in list(self._jobs.values()):
                self._kill(job, "cancelled")
                self._reap(job)

    def _obey(self) -> bool:
        packet, descriptors, _, _ = socket.recv_fds(self._control, _MAX_PACKET, 1)
        if not packet:
            return False
        command = msgspec.json.decode(packet, type=Command)
        if command.start and descriptors:
            self._start(command, descriptors[0])
        elif command.cancel in self._jobs:
            self._kill(self._jobs[command.cancel], "cancelled")
        return True

    def _start(self, command: Command, stream: int) -> None:
        pid = os.fork()
        if pid == 0:
            # The child never returns to this loop.
            try:
                self._become_job(command.limits, stream)
                os._exit(0)
            finally:
                os._exit(1)
        os.close(stream)
        # The child may be gone already; until it is reaped its number is its own.
        job = _ForkedJob(command.start, pid, os.pidfd_open(pid), command.limits, _own_bytes(os.getpid()))
        self._jobs[job.id] = job
        self._selector.register(job.pidfd, selectors.EVENT_READ, job)

    def _become_job(self, limits: JobLimits, stream: int) -> None:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        sandbox.die_with_parent()
        os.nice(self._settings.niceness)
        run_job(stream, limits, empty=self._empty, allow_weak=self._settings.allow_weak_sandbox)

    def _watch(self) -> None:
        """Kill the jobs that used up their time or memory, as seen from outside. RLIMIT_CPU and RLIMIT_AS hold too."""
        now = time.monotonic()
        for job in self._jobs.values():
            if now - job.started > job.limits.wall_s:
                self._kill(job, "out_of_time")
            elif _own_bytes(job.pid) - job.base_bytes > job.limits.memory_bytes:
                self._kill(job, "out_of_memory")

    def _kill(self, job: _ForkedJob, reason: str) -> None:
        job.reason = job.reason or reason
        try:
            os.killpg(job.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # not yet the head of a group of its own
            signal.pidfd_send_signal(job.pidfd, signal.SIGKILL)

    def _reap(self, job: _ForkedJob) -> None:
        _, status, usage = os.wait4(job.pid, 0)
        self._selector.unregister(job.pidfd)
        os.close(job.pidfd)
        del self._jobs[job.id]
        wall_s = time.monotonic() - job.started
        self._send(
            ProcessEnd(job.id, status, job.reason, wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)
        )

    def _send(self, packet: Ready | ProcessEnd) -> None:
        # If the Domain is gone, the loop notices it.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._control.send(msgspec.json.encode(packet))

    def _try_sandbox(self) -> Ready:
        """The layers that hold for a child that enters the sandbox and does nothing else."""
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                limits = sandbox.Limits(JobLimits().memory_bytes, _CPU_PROBE_S)
                layers = sandbox.apply(limits, keep={writer}, empty=self._empty, allow_weak=True)
                os.write(writer, msgspec.json.encode(Ready(layers.sound, layers.names)))
            finally:
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as file:
            answer = file.read()
        os.waitpid(pid, 0)
        return msgspec.json.decode(answer, type=Ready) if answer else Ready(False, ())


def _own_bytes(pid: int) -> int:
    """Resident memory of a process that is not backed by files; 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            _, resident, shared, *_ = file.read().split()
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return 0
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def main(descriptor: int, raw_settings: bytes) -> None:
    """Load everything, then serve."""
    control = socket.socket(fileno=descriptor)
    settings = msgspec.json.decode(raw_settings, type=ServerSettings)
    # Ctrl-C in a terminal is for the Domain, which ends this process by closing the socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    preload()
    # The present objects stay shared with every child: the collector must not touch them.
    gc.collect()
    gc.freeze()
    ForkServer(control, settings).serve()
