"""Starts child processes: `run` for work on untrusted bytes, `spawn` for one that serves as long as its parent lives.

A child of `run` gets its input parts on standard input, and writes one answer of bounded length to standard output.
`pygrid.sandbox.child` limits the process before it reads anything; its function enters the sandbox before it parses
anything. So a child that was taken over reaches no file and no network. The parent kills its whole process group when
time is up.

Where the machine offers too little for a sandbox, the child of `run` goes on with its limits, and the parent logs a
warning, once. It never handles private data, except the file that an owner uploads; plans meet private data in a
Worker, which refuses there.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import msgspec

from pygrid.errors import PygridError, from_problem
from pygrid.sandbox import child
from pygrid.sandbox.child import EXIT_OUT_OF_MEMORY, PART, PROBLEM, SANDBOX, SOUND, VALUE, ChildSandbox
from pygrid.sandbox.frames import frame, split_frames

logger = logging.getLogger(__name__)
_CHUNK = 65_536
ENVIRONMENT = {
    "ORT_DISABLE_TELEMETRY": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    # pyarrow brings an allocator with a thread that it does not use; a sandbox is closed around one thread.
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "HOME": "/nonexistent",
    "LC_ALL": "C.UTF-8",
}
"""The environment of every child, which inherits nothing of its parent's."""


@dataclass(frozen=True)
class ChildLimits:
    memory_bytes: int
    """Size of the address space (RLIMIT_AS)."""
    cpu_s: int
    wall_s: float
    max_output_bytes: int

    num_files: ClassVar[int] = 64
    """Descriptors open at once."""
    max_file_bytes: ClassVar[int] = 0
    """Longest file that the child can write; -1: its sandbox limits the file, not this class."""


class Stop:
    """Ends the child of `run` from another thread. Use it as a context manager around that call."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        self.is_set = False

    def set(self) -> None:
        """End the child, now or as soon as it exists."""
        self.is_set = True
        os.write(self._write, b"x")

    def fileno(self) -> int:
        """A descriptor that is readable once `set` was called."""
        return self._read

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._read)
        os.close(self._write)


@dataclass(frozen=True)
class ChildReply:
    """The answer of a child: the value that its function returned, or the error that it raised."""

    value: bytes
    error: PygridError | None = None


def run(
    main: Callable[[list[bytes], ChildSandbox], bytes],
    parts: Sequence[bytes],
    *,
    limits: ChildLimits,
    failed: Callable[[str], PygridError],
    stop: Stop | None = None,
) -> ChildReply:
    """Call ``main(parts, sandbox)`` in a child process, and wait for its answer.

    Args:
        main: a function at the top of a module, which imports everything, then enters the sandbox, then parses.
        stop: ends the child from another thread.
    Raises:
        PygridError: made by ``failed`` from the reason, if the child does not end well, in time, with a short answer.
    """
    arguments = (limits.memory_bytes, limits.cpu_s, limits.num_files, limits.max_file_bytes)
    process = subprocess.Popen(
        _command(main, "run", *map(str, arguments)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env=ENVIRONMENT,
        start_new_session=True,
    )
    try:
        output = _exchange(process, parts, limits, stop)
    finally:
        # Killed before the wait: until then, the child's number and that of its group, which can have other members,
        # belong to the child. A child that closed its output has ended, or sends nothing more.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
    if output is None and stop is not None and stop.is_set:
        raise failed("it was stopped")
    if output is None:
        raise failed(f"it took longer than {limits.wall_s:g} s")
    if len(output) > limits.max_output_bytes:
        raise failed("its answer is too long")
    try:
        (first, state), (kind, body) = split_frames(output)
    except ValueError:
        raise failed(_death(code)) from None
    if first != SANDBOX or kind not in (VALUE, PROBLEM):
        raise failed(_death(code))
    if state != SOUND:
        warn_once(main.__module__)
    return ChildReply(body) if kind == VALUE else ChildReply(b"", _error(body, failed))


def _error(problem: bytes, failed: Callable[[str], PygridError]) -> PygridError:
    try:
        return from_problem(msgspec.json.decode(problem, type=dict))
    except msgspec.DecodeError:
        raise failed("its answer cannot be read") from None


def _command(main: Callable[..., object], *arguments: str) -> list[str]:
    return [sys.executable, "-I", "-m", child.__name__, main.__module__, main.__name__, *arguments]


class Child:
    """A process that `spawn` started, and this end of its channel."""

    def __init__(self, process: subprocess.Popen[bytes], channel: socket.socket) -> None:
        self._process = process
        self.channel = channel
        self.pid = process.pid

    def kill(self) -> None:
        """Kill the process, if it still runs."""
        if self._process.poll() is None:
            self._process.kill()

    def end(self, grace_s: float) -> None:
        """Wait for the end of the process, which is killed after ``grace_s`` seconds."""
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def spawn(
    main: Callable[[int, bytes], None],
    settings: msgspec.Struct,
    *,
    channel: Literal["stream", "packets"],
    environment: Mapping[str, str] | None = None,
) -> Child:
    """Start a child process that calls ``main(descriptor, settings)``: its end of the channel, and JSON.

    A child that asked to die with its parent (`pygrid.sandbox.die_with_parent`) dies with the **thread** that called
    this function.

    Args:
        main: a function at the top of a module, which applies limits and enters a sandbox itself.
        environment: variables in addition to `ENVIRONMENT`.
    """
    kind = socket.SOCK_STREAM if channel == "stream" else socket.SOCK_SEQPACKET
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    with theirs:
        try:
            process = subprocess.Popen(
                _command(main, "serve", str(theirs.fileno()), msgspec.json.encode(settings).decode()),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd="/",
                env={**ENVIRONMENT, **(environment or {})},
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
    return Child(process, ours)


@functools.cache
def warn_once(module: str) -> None:
    """Log that the children of a module have limits and no sandbox; once for each module."""
    logger.warning(
        "a process that reads untrusted bytes is protected by limits only; pygrid worker doctor shows why",
        extra={"child": module},
    )


def _exchange(
    process: subprocess.Popen[bytes], parts: Sequence[bytes], limits: ChildLimits, stop: Stop | None
) -> bytes | None:
    """Write and read at the same time, so that neither side blocks the other; None: time is up, or ``stop`` is set."""
    assert process.stdin is not None
    assert process.stdout is not None
    deadline = time.monotonic() + limits.wall_s
    pending = memoryview(b"".join(frame(PART, part) for part in parts))
    answer = bytearray()
    os.set_blocking(process.stdin.fileno(), False)
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        selector.register(process.stdin, selectors.EVENT_WRITE)
        if stop is not None:
            selector.register(stop, selectors.EVENT_READ)
        while selector.get_map():
            left = deadline - time.monotonic()
            ready = selector.select(left) if left > 0 else []
            if not ready:
                return None
            for key, _ in ready:
                if key.fileobj is process.stdout:
                    chunk = os.read(process.stdout.fileno(), _CHUNK)
                    answer += chunk
                    if not chunk or len(answer) > limits.max_output_bytes:
                        return bytes(answer)
                elif key.fileobj is stop:
                    return None
                else:
                    pending = _write(process, pending)
                    if not pending:
                        selector.unregister(process.stdin)
                        process.stdin.close()
    raise AssertionError("the loop ends when standard output does")


def _write(process: subprocess.Popen[bytes], pending: memoryview) -> memoryview:
    assert process.stdin is not None
    try:
        return pending[os.write(process.stdin.fileno(), pending[:_CHUNK]) :]
    except BrokenPipeError:  # the child has ended; its exit code has the reason
        return pending[:0]


def _death(code: int) -> str:
    if code == EXIT_OUT_OF_MEMORY:
        return "it ran out of memory"
    if code < 0:
        return f"it was ended by signal {-code} ({signal.strsignal(-code) or 'unknown'})"
    return f"it ended with code {code} and without an answer"
