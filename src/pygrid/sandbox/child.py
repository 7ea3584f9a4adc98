"""The program of a child process that `pygrid.sandbox.process` started.

    python -I -m pygrid.sandbox.child MODULE FUNCTION run MEMORY_BYTES CPU_S NUM_FILES MAX_FILE_BYTES
    python -I -m pygrid.sandbox.child MODULE FUNCTION serve DESCRIPTOR SETTINGS

``run`` applies the limits (-1: no limit on files), imports the module, reads the parts from standard input, and calls
``FUNCTION(parts, sandbox)``. That function enters the sandbox before it parses anything. Its value, or the error that
it raised, goes to standard output. ``serve`` calls ``FUNCTION(descriptor, settings)``, which does everything itself.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any

import msgspec

from pygrid import sandbox
from pygrid.errors import PygridError, Unavailable
from pygrid.sandbox.frames import frame, split_frames

EXIT_OUT_OF_MEMORY = 97
"""Exit code of a child that could not allocate memory."""
PART = b"P"
SANDBOX, VALUE, PROBLEM = b"S", b"V", b"E"
"""Frames of the answer: whether a sandbox holds, then the value or the problem document."""
SOUND, WEAK = b"1", b"0"


class ChildSandbox:
    """The sandbox that a child enters before it parses untrusted bytes."""

    def __init__(self, memory_bytes: int, cpu_s: int, num_files: int) -> None:
        self._memory_bytes, self._cpu_s, self._num_files = memory_bytes, cpu_s, num_files
        self.is_sound = False

    def enter(
        self, *, keep: Collection[int] = (), threads: bool = False, output: sandbox.Output | None = None
    ) -> sandbox.Layers | None:
        """Enter the sandbox. Import everything that is needed first: inside, no file can be opened.

        Args:
            keep: descriptors that are read from, in addition to standard output.
            output: the folder to write to, if any.
        Returns:
            The layers that hold. None: there is no sandbox, because the machine refused it or is not Linux.
        """
        if sys.platform != "linux":
            return None
        sys.stdin.buffer.close()
        empty = sandbox.open_empty_folder() if output is None else None
        try:
            layers = sandbox.apply(
                sandbox.Limits(self._memory_bytes, self._cpu_s, threads, self._num_files),
                keep={1, *keep},
                empty=empty,
                output=output,
                allow_weak=True,
            )
        except Unavailable:
            return None
        self.is_sound = layers.sound
        return layers


def _limit_this_process(memory_bytes: int, cpu_s: int, num_files: int, max_file_bytes: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if max_file_bytes >= 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    num_files = num_files if most == resource.RLIM_INFINITY else min(num_files, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (num_files, num_files))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


def _find(module: str, function: str) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


def _run(module: str, function: str, limits: Sequence[str]) -> None:
    memory_bytes, cpu_s, num_files, max_file_bytes = map(int, limits)
    _limit_this_process(memory_bytes, cpu_s, num_files, max_file_bytes)
    box = ChildSandbox(memory_bytes, cpu_s, num_files)
    try:
        main = _find(module, function)
        kind, body = VALUE, main([part for _, part in split_frames(sys.stdin.buffer.read())], box)
    except MemoryError:
        sys.exit(EXIT_OUT_OF_MEMORY)
    except PygridError as error:
        kind, body = PROBLEM, msgspec.json.encode(error.to_problem())
    for data in (frame(SANDBOX, SOUND if box.is_sound else WEAK), frame(kind, body)):
        sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def main() -> None:
    module, function, mode, *arguments = sys.argv[1:]
    if mode == "run":
        _run(module, function, arguments)
    else:
        descriptor, settings = arguments
        _find(module, function)(int(descriptor), settings.encode())


if __name__ == "__main__":
    main()
