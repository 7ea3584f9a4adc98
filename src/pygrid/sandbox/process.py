"""Runs a module of pygrid in a child process with hard limits, for work on hostile bytes.

The parent writes the input parts to the child's standard input and reads one answer, of bounded length, from its
standard output. The child (`pygrid.sandbox.child`) limits itself before it reads anything, and locks itself in before
it parses anything (`pygrid.sandbox`), so that one that was taken over reaches no file and no network; the parent kills
its whole process group when time is up.

Where the machine offers too little to lock it in, the child goes on with its limits, and the parent logs a warning,
once. It never meets private data, but for the file that an owner uploads; plans meet theirs in a Worker, which refuses
there.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from pygrid.errors import PygridError
from pygrid.sandbox.child import EXIT_OUT_OF_MEMORY, LENGTH_BYTES, LOCKED_IN

logger = logging.getLogger(__name__)
_CHUNK = 65_536
_ENVIRONMENT = {
    "ORT_DISABLE_TELEMETRY": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    # pyarrow brings an allocator with a thread that it does not use; a sandbox is closed around one thread.
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "HOME": "/nonexistent",
    "LC_ALL": "C.UTF-8",
}


@dataclass(frozen=True)
class ChildLimits:
    """Limits of a child process."""

    memory_bytes: int
    """Size of the address space (RLIMIT_AS)."""
    cpu_s: int
    wall_s: float
    max_output_bytes: int


class Stop:
    """Lets another thread end the child of `run_child`. Use it as a context manager around that call."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        self.is_set = False

    def set(self) -> None:
        """End the child, now or as soon as it exists."""
        self.is_set = True
        os.write(self._write, b"x")

    def fileno(self) -> int:
        """A descriptor that can be read once `set` was called."""
        return self._read

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._read)
        os.close(self._write)


def run_child(
    module: str,
    parts: Sequence[bytes],
    *,
    limits: ChildLimits,
    failed: Callable[[str], PygridError],
    stop: Stop | None = None,
) -> bytes:
    """Run ``python -m module`` on these input parts and return its answer.

    Args:
        stop: ends the child from another thread.
    Raises:
        PygridError: made by ``failed`` from the reason, if the child does not end well, in time, with a short answer.
    """
    command = [sys.executable, "-I", "-m", module, str(limits.memory_bytes), str(limits.cpu_s)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env=_ENVIRONMENT,
        start_new_session=True,
    )
    try:
        output = _exchange(process, parts, limits, stop)
    finally:
        # Killed before the wait: until then, the child's number and that of its group, which can have other members,
        # belong to the child. A child that closed its output has ended, or has nothing more to say.
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
    begin = len(LOCKED_IN) + LENGTH_BYTES
    length = int.from_bytes(output[len(LOCKED_IN) : begin], "little")
    if len(output) < begin or len(output) != begin + length:
        raise failed(_death(code))
    if not output.startswith(LOCKED_IN):
        _warn_once(module)
    return output[begin:]


_warned: set[str] = set()


def _warn_once(module: str) -> None:
    if module not in _warned:
        _warned.add(module)
        logger.warning(
            "a process that reads untrusted bytes is protected by limits only; pygrid worker doctor shows why",
            extra={"child": module},
        )


def _exchange(
    process: subprocess.Popen[bytes], parts: Sequence[bytes], limits: ChildLimits, stop: Stop | None
) -> bytes | None:
    """Write and read at once, so that neither side can block the other; None if time is up or ``stop`` is set."""
    assert process.stdin is not None
    assert process.stdout is not None
    deadline = time.monotonic() + limits.wall_s
    pending = memoryview(b"".join(len(part).to_bytes(LENGTH_BYTES, "little") + part for part in parts))
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
    except BrokenPipeError:  # the child is gone; its exit code has the reason
        return pending[:0]


def _death(code: int) -> str:
    if code == EXIT_OUT_OF_MEMORY:
        return "it ran out of memory"
    if code < 0:
        return f"it was ended by signal {-code} ({signal.strsignal(-code) or 'unknown'})"
    return f"it ended with code {code} and without an answer"
