"""Runs planned processes together: started in order, each line of their logs named, started again if they end, ended in order.

    waiting ──> starting ──> ready          stopped by a signal, the last started first
                 ▲    │        │
                 │    ▼        ▼
                 └── ended by itself ──> ended for good, where the restart rule says no more

Each has a session of its own, so that Ctrl-C in the terminal reaches this process only, which then ends them in order; and the
kernel tells each when this process dies, however suddenly, so that none is left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import enum
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from pygrid.cli.terminal import Terminal
from pygrid.deploy.health import find_trouble
from pygrid.deploy.plan import Launch

START_TIMEOUT_S = 120.0
"""For what others wait for; as long as an image's health check gives."""
_POLL_S = 0.1
_LOOK_S = 0.02
_MIN_PAUSE_S = 0.5
_MAX_PAUSE_S = 30.0
_HEALED_S = 30.0
"""A process that ran so long starts again after the shortest pause."""
_MAX_LINE_BYTES = 16 * 1024
_PR_SET_PDEATHSIG = 1


class State(enum.Enum):
    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    ENDED = "ended"
    """For good: its restart rule says no more."""


class Processes:
    """All processes of one `pygrid up`.

    Args:
        launches: in an order in which they can be started.
        inherited: the variables that all of them get.
    """

    def __init__(self, launches: Sequence[Launch], inherited: Mapping[str, str], terminal: Terminal) -> None:
        self._terminal = terminal
        self._all = {launch.name: _Process(launch, inherited, terminal, self) for launch in launches}
        self._changed = asyncio.Condition()
        self._stop = asyncio.Event()
        self._num_signals = 0

    async def run(self) -> int:
        """Start them, keep them up until a signal says to stop or none is left, stop them. Gives the exit code:
        0 after a signal; 1 if one failed to start, or all ended by themselves.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)
        keepers = {name: asyncio.create_task(process.keep()) for name, process in self._all.items()}
        stopping = asyncio.create_task(self._stop.wait())
        watching = asyncio.create_task(self._watch())
        try:
            await asyncio.wait([stopping, watching], return_when=asyncio.FIRST_COMPLETED)
            for task in (watching, *keepers.values()):
                if task.done():
                    task.result()  # a fault of this program is told as one
            return 0 if self._stop.is_set() else 1
        finally:
            stopping.cancel()
            watching.cancel()
            for name, process in reversed(self._all.items()):
                await process.stop()
                keepers[name].cancel()
            await asyncio.gather(stopping, watching, *keepers.values(), return_exceptions=True)
            self._terminal.say("pygrid", "all stopped")

    async def wait_until(self, name: str, ready: bool) -> None:
        """Return once ``name`` has been started, or is ready."""
        wanted = (State.READY,) if ready else (State.STARTING, State.READY)
        async with self._changed:
            await self._changed.wait_for(lambda: self._all[name].state in wanted)

    async def announce(self, process: _Process, state: State) -> None:
        """Note a new state, and wake who waits for it."""
        async with self._changed:
            process.state = state
            self._changed.notify_all()

    async def _watch(self) -> None:
        """Return when it makes no sense to go on: one ended for good while others wait for it, or all did."""

        def is_hopeless() -> bool:
            states = [process.state for process in self._all.values()]
            return set(states) == {State.ENDED} or any(self._waits_in_vain(process) for process in self._all.values())

        async with self._changed:
            await self._changed.wait_for(lambda: is_hopeless() or self._are_all_ready())
        if self._are_all_ready():
            self._greet()
            async with self._changed:
                await self._changed.wait_for(is_hopeless)
        gone = [name for name, process in self._all.items() if process.state is State.ENDED]
        self._terminal.say("pygrid", f"stops, because {', '.join(gone)} ended")

    def _waits_in_vain(self, process: _Process) -> bool:
        return process.state is State.WAITING and any(self._all[name].state is State.ENDED for name in process.waits_for)

    def _are_all_ready(self) -> bool:
        return all(process.state is State.READY for process in self._all.values())

    def _greet(self) -> None:
        for name, process in self._all.items():
            self._terminal.say("pygrid", f"{name} is ready{': ' + process.address if process.address else ''}")
        self._terminal.say("pygrid", f"all {len(self._all)} are up; Ctrl-C stops them")

    def _on_signal(self) -> None:
        self._num_signals += 1
        self._stop.set()
        if self._num_signals == 1:
            self._terminal.say("pygrid", "stopping; once more, and they are ended by force")
        else:
            for process in self._all.values():
                process.kill()


class _Process:
    """One of them: started once its turn comes, and again by its rule."""

    def __init__(self, launch: Launch, inherited: Mapping[str, str], terminal: Terminal, others: Processes) -> None:
        self._launch = launch
        self._environment = {**inherited, **launch.environment, "PYTHONUNBUFFERED": "1"}
        self._terminal = terminal
        self._others = others
        self._running: subprocess.Popen[bytes] | None = None
        self._is_stopping = False
        self._has_been_ready = False
        self.state = State.WAITING

    @property
    def address(self) -> str | None:
        return self._launch.address

    @property
    def waits_for(self) -> Iterable[str]:
        """The names of those that come first."""
        return self._launch.wait_for

    async def keep(self) -> None:
        """Run the process, over and over as its rule says, until it ended for good."""
        for name, ready in self._launch.wait_for.items():
            await self._others.wait_until(name, ready)
        pause_s, num_restarts = _MIN_PAUSE_S, 0
        while not self._is_stopping:
            begun = time.monotonic()
            code = await self._run_once()
            if self._is_stopping:
                return
            self._say(f"{_how_it_ended(code)}{'' if self._may_restart(code, num_restarts) else '; it is not started again'}")
            if not self._may_restart(code, num_restarts):
                await self._others.announce(self, State.ENDED)
                return
            num_restarts += 1
            if time.monotonic() - begun > _HEALED_S:
                pause_s = _MIN_PAUSE_S
            self._say(f"is started again in {pause_s:g} s")
            await self._others.announce(self, State.STARTING)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _MAX_PAUSE_S)

    async def stop(self) -> None:
        """End the process: by SIGTERM, and by force if that takes longer than it is given."""
        self._is_stopping = True
        running = self._running
        if running is None or running.poll() is not None:
            return
        self._say("stopping")
        running.terminate()
        if await _ended(running, self._launch.stop_grace_s) is None:
            self._say(f"has not ended in {self._launch.stop_grace_s} s, and is ended by force")
            self.kill()
            await _ended(running)

    def kill(self) -> None:
        """End the process and what it started, at once."""
        if self._running is not None and self._running.poll() is None:
            _kill_session(self._running)

    async def _run_once(self) -> int:
        """Start it, follow it until it ends; its exit code."""
        self._running = running = self._start()
        await self._others.announce(self, State.STARTING)
        health = asyncio.create_task(self._wait_ready())
        reading = asyncio.create_task(self._pass_on(running))
        try:
            code = await _ended(running)
            assert code is not None
            return code
        finally:
            health.cancel()
            # What it started has nobody to answer to any more, and would hold its output open.
            _kill_session(running)
            await reading

    def _start(self) -> subprocess.Popen[bytes]:
        self._launch.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        return subprocess.Popen(
            [sys.executable, "-m", "pygrid", *self._launch.arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self._environment,
            cwd=self._launch.data_dir,
            start_new_session=True,
            preexec_fn=_end_with_parent(os.getpid()),
        )

    async def _wait_ready(self) -> None:
        """Announce it once it is ready; end it if that takes too long."""
        port, deadline = self._launch.port, time.monotonic() + START_TIMEOUT_S
        while port is not None and (trouble := await asyncio.to_thread(find_trouble, self._launch.host, port)) is not None:
            if time.monotonic() > deadline:
                self._say(f"was not ready after {START_TIMEOUT_S:.0f} s ({trouble}), and is ended")
                self.kill()
                return
            await asyncio.sleep(_POLL_S)
        if self._has_been_ready:
            self._say("is ready again")
        self._has_been_ready = True
        await self._others.announce(self, State.READY)

    async def _pass_on(self, running: subprocess.Popen[bytes]) -> None:
        """Print each line that it writes, until it closes its output; a line without end is cut into pieces."""
        stream = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), running.stdout
        )
        rest = b""
        try:
            while block := await stream.read(_MAX_LINE_BYTES):
                *lines, rest = (rest + block).split(b"\n")
                if len(rest) > _MAX_LINE_BYTES:
                    lines.append(rest)
                    rest = b""
                for line in lines:
                    self._say(line.decode(errors="replace").rstrip("\r"))
            if rest:
                self._say(rest.decode(errors="replace"))
        finally:
            transport.close()

    def _may_restart(self, code: int, num_restarts: int) -> bool:
        restart = self._launch.restart
        if restart.when == "on-failure":
            return code != 0 and (restart.max_times is None or num_restarts < restart.max_times)
        return restart.when != "no"

    def _say(self, text: str) -> None:
        self._terminal.say(self._launch.name, text)


def _how_it_ended(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


async def _ended(running: subprocess.Popen[bytes], timeout_s: float | None = None) -> int | None:
    """The exit code, once there is one; None if it takes longer.

    Looks again and again: asyncio's own way waits, in some versions, for what a grandchild holds open as well.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        code = running.poll()
        if code is not None or (deadline is not None and time.monotonic() > deadline):
            return code
        await asyncio.sleep(_LOOK_S)


def _kill_session(running: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(running.pid, signal.SIGKILL)


def _end_with_parent(parent: int) -> Callable[[], None] | None:
    """What a new process does before it becomes the program: have itself ended when its parent dies. Linux offers that."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)

    def ask_kernel() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before that
            os._exit(1)

    return ask_kernel
