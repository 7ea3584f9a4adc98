"""The child's side of `pygrid.sandbox.process`: it limits itself, reads its input, locks itself in, answers."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence

from pygrid import sandbox
from pygrid.errors import Unavailable

EXIT_OUT_OF_MEMORY = 97
"""Exit code of a child that could not allocate memory."""


LOCKED_IN, NOT_LOCKED_IN = b"\x01", b"\x00"
LENGTH_BYTES = 8
_MAX_OPEN_FILES = 64


def limit_this_process(
    arguments: Sequence[str], *, max_file_bytes: int | None = 0, num_files: int = _MAX_OPEN_FILES
) -> None:
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
        length = int.from_bytes(data[position : position + LENGTH_BYTES], "little")
        position += LENGTH_BYTES
        parts.append(data[position : position + length])
        position += length
    return parts


def write_answer(answer: bytes) -> None:
    """In the child: write the answer, once."""
    sys.stdout.buffer.write(LOCKED_IN if _locked_in else NOT_LOCKED_IN)
    sys.stdout.buffer.write(len(answer).to_bytes(LENGTH_BYTES, "little"))
    sys.stdout.buffer.write(answer)
    sys.stdout.buffer.flush()
