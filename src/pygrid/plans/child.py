"""Runs a module of pygrid in a child process with hard limits, for work on hostile bytes.

The parent writes the input parts to the child's standard input. It reads one answer, of bounded length, from the
child's standard output. The child limits itself before it reads anything, and enters the sandbox before it parses
anything (`pygrid.sandbox`). So a child that was taken over reaches no file and no network. The parent kills the child's whole
process group when time is up.

If the machine cannot provide the sandbox, the child continues with its limits, and the parent logs a warning, once. The
child never meets private data, except the file that an owner uploads. Plans meet private data in a Worker, which
refuses to run on such a machine.
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
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Self

from pygrid import sandbox
from pygrid.errors import PygridError, Unavailable

logger = logging.getLogger(__name__)

EXIT_OUT_OF_MEMORY = 97
"""Exit code of a child that could not allocate memory."""

_LOCKED_IN, _NOT_LOCKED_IN = b"\x01", b"\x00"
_LENGTH_BYTES = 8
_CHUNK = 65_536
_MAX_OPEN_FILES = 64
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
    begin = len(_LOCKED_IN) + _LENGTH_BYTES
    length = int.from_bytes(output[len(_LOCKED_IN) : begin], "little")
    if len(output) < begin or len(output) != begin + length:
        raise failed(_death(code))
    if not output.startswith(_LOCKED_IN):
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


def _exchange(process: subprocess.Popen[bytes], parts: Sequence[bytes], limits: ChildLimits, stop: Stop | None) -> bytes | None:
    """Write and read at once, so that neither side can block the other; None if time is up or ``stop`` is set."""
    assert process.stdin is not None
    assert process.stdout is not None
    deadline = time.monotonic() + limits.wall_s
    pending = memoryview(b"".join(len(part).to_bytes(_LENGTH_BYTES, "little") + part for part in parts))
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


def limit_this_process(arguments: Sequence[str], *, max_file_bytes: int | None = 0, num_files: int = _MAX_OPEN_FILES) -> None:
    """In the child: apply the limits that `run_child` passed, before anything untrusted is read."""
    import resource

    memory, cpu = int(arguments[0]), int(arguments[1])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if max_file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    num_files = num_files if most == resource.RLIM_INFINITY else min(num_files, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (num_files, num_files))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


def lock_in(
    arguments: Sequence[str],
    *,
    keep: Collection[int] = (),
    threads: bool = False,
    num_files: int = _MAX_OPEN_FILES,
    output: sandbox.Output | None = None,
) -> sandbox.Layers | None:
    """In the child: enter the sandbox before untrusted bytes are parsed. Import everything that is needed first.

    Args:
        arguments: as `limit_this_process`.
        keep: descriptors that are read from, in addition to standard output.
        output: the folder to write to, if any.
    Returns:
        The layers that hold. None: the sandbox could not be closed, or this is not Linux.
    """
    global _locked_in
    if sys.platform != "linux":
        return None
    sys.stdin.buffer.close()
    empty = sandbox.open_empty_folder() if output is None else None
    try:
        layers = sandbox.apply(
            sandbox.Limits(int(arguments[0]), int(arguments[1]), threads, num_files),
            keep={1, *keep, *(() if empty is None else (empty,))},
            empty_root=None if empty is None else f"/proc/self/fd/{empty}",
            output=output,
            allow_weak=True,
        )
    except Unavailable:
        return None
    _locked_in = layers.sound
    return layers


_locked_in = False


def read_parts() -> list[bytes]:
    """In the child: the input parts."""
    data = sys.stdin.buffer.read()
    parts, position = [], 0
    while position < len(data):
        length = int.from_bytes(data[position : position + _LENGTH_BYTES], "little")
        position += _LENGTH_BYTES
        parts.append(data[position : position + length])
        position += length
    return parts


def write_answer(answer: bytes) -> None:
    """In the child: write the answer, once."""
    sys.stdout.buffer.write(_LOCKED_IN if _locked_in else _NOT_LOCKED_IN)
    sys.stdout.buffer.write(len(answer).to_bytes(_LENGTH_BYTES, "little"))
    sys.stdout.buffer.write(answer)
    sys.stdout.buffer.flush()
