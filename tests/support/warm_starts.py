"""Commands of pygrid as forks of a process that has imported it, instead of new interpreters.

A Domain uses 2.5 s of processor time until it is ready, and nearly all of them go into imports and into an app whose
parts are the same each time. `install` replaces `subprocess.Popen`: ``python -m pygrid ...`` and the start scripts of
the apps then become forks of one process for each process of the test run. A fork is a process as any other: a child of
the test, with its own descriptors, environment, folder, session and exit code; ``kill -9`` ends it.

Tests of the start itself, of command lines and of memory are marked ``fresh_processes``, which starts all as usual. So
do commands with an environment for the interpreter or the loader, or with a function to call in the child.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import ctypes
import fcntl
import gc
import importlib
import json
import os
import re
import runpy
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_MODULE = str(ROOT / "src" / "pygrid" / "__main__.py")
_SCRIPT = str(Path(sys.executable).parent / "pygrid")
_APPS = {str(ROOT / "apps" / kind / "run.sh"): kind for kind in ("domain", "network")}
_CHILD = "pygrid.sandbox.child"
_MAX_REQUEST = 1 << 17
_MAX_TITLE = 4096
_CHECKS = ("plans.gate", "plans.picture", "plans.serving", "plans.averaging_child", "features.datasets.conversion")
_COMMANDS, _PROGRAMS = "commands", "programs"
_PR_SET_CHILD_SUBREAPER = 36
_FOR_THE_INTERPRETER = ("PYTHON", "LD_")
_STARTERS = ("domain", "worker", "edge")
"""Commands of pygrid that start processes."""
_IMPORTS_TORCH = re.compile(r"^(import torch|from torch|from pygrid.plans.authoring)\b", re.MULTILINE)

_Popen = subprocess.Popen


class Popen(_Popen):  # type: ignore[type-arg]
    """Starts commands of pygrid as forks, and all others as usual."""

    def _execute_child(  # type: ignore[no-untyped-def]
        self,
        args,
        executable,
        preexec_fn,
        close_fds,
        pass_fds,
        cwd,
        env,
        startupinfo,
        creationflags,
        shell,
        p2cread,
        p2cwrite,
        c2pread,
        c2pwrite,
        errread,
        errwrite,
        restore_signals,
        *more,
    ) -> None:
        gid, gids, uid, umask, start_new_session, process_group = more
        folder = os.fspath(cwd or os.getcwd())
        command = None if isinstance(args, str | bytes | os.PathLike) else Command.find(args, folder)
        plain = (executable, preexec_fn, gid, gids, uid) == (None,) * 5 and umask < 0 and process_group in (None, -1)
        environment = {**(os.environ if env is None else env), **(command.variables if command else {})}
        is_warm = is_enabled and plain and close_fds and not shell and os.path.isdir(folder)
        is_same = command is not None and (command.is_isolated or _has_same_interpreter(environment))
        if command is None or not is_warm or not is_same:
            super()._execute_child(
                args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell,
                p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, restore_signals, *more,
            )  # type: ignore[misc]  # fmt: skip
            return
        standard = [given if given >= 0 else number for number, given in enumerate((p2cread, c2pwrite, errwrite))]
        descriptors = {**dict(enumerate(standard)), **{number: number for number in pass_fds}}
        request = {
            "words": command.words,
            "title": command.title,
            "folder": folder,
            "environment": environment,
            "is_leader": bool(start_new_session),
        }
        parent = _torch_parent if command.needs_torch and not _parent.is_fork else _parent
        self.pid = parent.start(request, descriptors)
        self._child_created = True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)


is_enabled = True
"""Whether commands become forks."""


def install() -> None:
    """Start commands of pygrid as forks from now on."""
    subprocess.Popen = Popen  # type: ignore[misc]


@dataclass(frozen=True)
class Command:
    """A command that can be a fork."""

    words: list[str]
    """What `sys.argv` is in it."""
    title: list[str]
    """Its command line, as ``ps`` shows it."""
    variables: Mapping[str, str]
    """What ``env`` sets for it."""
    is_isolated: bool = False
    """Whether the interpreter uses no variables."""
    needs_torch: bool = False
    """Whether it is a program that imports PyTorch, which takes twice as long as all else."""

    @classmethod
    def find(cls, given: Sequence[Any], folder: str) -> Command | None:
        """The command, child or start script of pygrid, or the program, in these words; None for others."""
        title, variables = list(map(os.fspath, given)), {}
        if title[0] == "env":
            title = title[1:]
            while "=" in title[0]:
                name, _, variables[name] = title.pop(0).partition("=")
        if title[:3] == [sys.executable, "-m", "pygrid"]:
            return cls([_MODULE, *title[3:]], title, variables)
        if title[:4] == [sys.executable, "-I", "-m", _CHILD]:
            return cls([_CHILD, *title[4:]], title, variables, is_isolated=True)
        if title[0] == sys.executable and title[1:] and title[1].endswith(".py") and "benchmarks" not in title[1]:
            return cls(title[1:], title, variables, needs_torch=_imports_torch(Path(folder, title[1])))
        words = [_SCRIPT, _APPS[title[0]], *title[1:]] if title[0] in _APPS else title
        return cls(words, [sys.executable, *words], variables) if words[0] == _SCRIPT else None


def _imports_torch(program: Path) -> bool:
    return program.is_file() and _IMPORTS_TORCH.search(program.read_text()) is not None


def _has_same_interpreter(environment: Mapping[str, str]) -> bool:
    def of_interpreter(variables: Mapping[str, str]) -> dict[str, str]:
        return {name: value for name, value in variables.items() if name.startswith(_FOR_THE_INTERPRETER)}

    return of_interpreter(environment) == of_interpreter(os.environ)


# The side of the tests


class _Parent:
    """The process that has imported everything and forks, and the connection to it.

    Args:
        kind: `_COMMANDS`, or `_PROGRAMS` with PyTorch.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self.is_fork = False
        """Whether this process is itself a fork, and the connection leads to another one."""
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def use(self, control: socket.socket) -> None:
        """Let the process at the other end of this connection fork."""
        self._control, self.is_fork = control, True

    def start(self, request: Mapping[str, Any], descriptors: Mapping[int, int]) -> int:
        """The number of a new child of this process, whose descriptor ``key`` is ``descriptors[key]`` of this one."""
        with self._lock:
            control = self._control or self._begin()
            packet = json.dumps({**request, "numbers": list(descriptors)}).encode()
            # A process whose parent ends becomes a child of its next ancestor that asks for it.
            with _adopting():
                socket.send_fds(control, [packet], list(descriptors.values()))
                return int(control.recv(100))

    def _begin(self) -> socket.socket:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, __file__, str(theirs.fileno()), self._kind, " " * _MAX_TITLE]
            # One arena, as in children, whose address space is limited; pyarrow must not start a thread.
            settings = {"MALLOC_ARENA_MAX": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
            self._process = _Popen(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, cwd="/", env={**os.environ, **settings}
            )
        return self._control

    def end(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            self._process.wait()
            self._process = None


_parent, _torch_parent = _Parent(_COMMANDS), _Parent(_PROGRAMS)


def end() -> None:
    """End the processes that fork."""
    _parent.end()
    _torch_parent.end()


@contextlib.contextmanager
def _adopting() -> Iterator[None]:
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 0)


# The side of the forks


def _serve(control: socket.socket) -> dict[str, Any] | None:
    """Fork for each request until the tests are over; returns None then, and the request in each fork."""
    while True:
        packet, descriptors, _, _ = socket.recv_fds(control, _MAX_REQUEST, 64)
        if not packet:
            return None
        reader, writer = os.pipe()
        between = os.fork()
        if between == 0:
            # Its only child is adopted by the test as soon as it has ended.
            between = os.getpid()
            if pid := os.fork():
                os.write(writer, b"%d" % pid)
                os._exit(0)
            while os.getppid() == between:
                os.sched_yield()
            control.close()
            os.close(reader)
            os.close(writer)
            request: dict[str, Any] = json.loads(packet)
            _take_over(request, descriptors)
            return request
        for descriptor in (writer, *descriptors):
            os.close(descriptor)
        os.waitpid(between, 0)
        control.send(os.read(reader, 100))
        os.close(reader)


def _take_over(request: Mapping[str, Any], descriptors: Sequence[int]) -> None:
    """Become what a new interpreter with this command would be."""
    if request["is_leader"]:
        os.setsid()
    _show(request["title"])
    # First above all numbers that are wanted, so that none of them is overwritten.
    numbers = request["numbers"]
    high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, max(numbers) + 1) for descriptor in descriptors]
    for descriptor in descriptors:
        os.close(descriptor)
    for number, descriptor in zip(numbers, high, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update({"ORT_DISABLE_TELEMETRY": "1"} | request["environment"])
    time.tzset()
    for name, mode, number in (("stdin", "r", 0), ("stdout", "w", 1), ("stderr", "w", 2)):
        stream = open(number, mode, closefd=False)  # noqa: SIM115
        stream.reconfigure(
            line_buffering=number == 2 or (number == 1 and os.isatty(1)),
            write_through=bool(os.environ.get("PYTHONUNBUFFERED")),
            errors="backslashreplace" if number == 2 else None,
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    sys.argv = list(request["words"])
    sys.path[0] = request["folder"]
    sys.modules["__main__"].__package__ = "pygrid" if sys.argv[0] == _MODULE else None


def _show(title: Sequence[str]) -> None:
    """Write a command line over that of this process, which has been started with a long one. Source: proc(5)."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    line = "\0".join(title).encode()[: end - start - 1]
    ctypes.memmove(start, line.ljust(end - start, b"\0"), end - start)


def _prepare() -> None:
    """Import what commands need, and make once what all apps share (`support.shared_work`)."""
    from pygrid.cli import COMMANDS
    from pygrid.compute.runtime.job_process import preload
    from pygrid.settings import load_network_settings, load_settings
    from support import shared_work
    from support.web import running

    apps = ("pygrid.client", "pygrid.edge", "pygrid.storage.start", "pygrid.web.server", "uvloop")
    children = ("compute.runtime.forkserver", "compute.runtime.model_server", "plans.structure", *_CHECKS)
    for name in (*apps, *(f"pygrid.{name}" for name in children), *(module for module, _ in COMMANDS.values())):
        importlib.import_module(name)
    preload()
    from pygrid.domain import build_domain
    from pygrid.network import build_network

    async def start(app: Any) -> None:
        async with running(app):
            pass

    shared_work.share()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(start(build_domain(load_settings({}, data_dir=Path(folder) / "domain"))))
        asyncio.run(start(build_network(load_network_settings({}, data_dir=Path(folder) / "network"))))


def _prepare_programs() -> None:
    """Import what programs with PyTorch need."""
    for name in ("plans.authoring", "plans.authoring.decorators", "client", "edge", "cli", "sandbox.child"):
        importlib.import_module(f"pygrid.{name}")


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    sys.path[0] = str(Path(__file__).parents[1])
    from support.eventually import eventually_blocking

    (_prepare if sys.argv[2] == _COMMANDS else _prepare_programs)()
    gc.collect()
    # A thread whose pool is collected ends a moment later.
    eventually_blocking(lambda: len(os.listdir("/proc/self/task")) == 1, within_s=60)
    gc.freeze()
    request = _serve(control)
    if request is not None and _starts_processes(sys.argv):
        request = _start_forking()
    if request is not None:
        _exit(_run())


def _starts_processes(words: Sequence[str]) -> bool:
    if words[0] in (_MODULE, _SCRIPT):
        return words[1:2] != [] and words[1] in _STARTERS
    return words[0] != _CHILD


def _start_forking() -> dict[str, Any] | None:
    """Give a program that starts commands of pygrid a process that forks; returns in both, and in the forks."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        ours.close()
        _show([sys.executable, __file__])
        return _serve(theirs)
    theirs.close()
    _parent.use(ours)
    install()
    return {}


def _run() -> object:
    """Run the command in `sys.argv`; returns what it exits with."""
    from pygrid.cli import main
    from pygrid.sandbox import child

    try:
        if sys.argv[0] == _CHILD:
            child.main()
        elif sys.argv[0] in (_MODULE, _SCRIPT):
            main()
        else:
            sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        return ended.code
    return 0


def _exit(code: object) -> None:
    """End as the interpreter does, but without taking apart each module, which is half of a short command."""
    if not isinstance(code, int | None):
        sys.exit(code)  # type: ignore[call-overload]
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        sys.exit(code)
    os._exit(code or 0)


if __name__ == "__main__":
    main()
