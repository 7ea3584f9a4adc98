"""Processes of xdist as forks of one process that has collected the tests, so that they are collected once.

Collecting takes 15 s of processor time, and 40 s in a new checkout. `ForkedWorkers` starts one process, the collector,
which does what each process of xdist does otherwise until it waits for its first test. Then it forks for each process
that xdist asks for.
"""

from __future__ import annotations

import contextlib
import gc
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from _pytest import tmpdir
from execnet import gateway_base, gateway_io

_HAND_OVER = """
from support import forked_workers

forked_workers.channels.put(channel)
forked_workers.over.wait()
"""
"""What a thread of a fork does: the main thread reports tests by this channel."""


class ForkedWorkers:
    """A plugin of pytest for the process that shares out the tests."""

    _collector: subprocess.Popen[bytes] | None = None
    _control: socket.socket
    _create_io = staticmethod(gateway_io.create_io)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_setupnodes(self, config: pytest.Config) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            arguments = theirs.fileno(), list(map(str, config.invocation_params.args))
            code = f"import sys; sys.path[:] = {sys.path}; from support import forked_workers as forked"
            command = [sys.executable, "-c", f"{code}; forked.collect(*{arguments})"]
            self._collector = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
            )
        gateway_io.create_io = lambda spec, execmodel: _Connection(self._control, execmodel)  # type: ignore[assignment]

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_getremotemodule(self) -> str:
        return _HAND_OVER

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """After xdist has ended its processes."""
        if self._collector is not None:
            gateway_io.create_io = self._create_io
            self._control.close()
            self._collector.wait()


class _Connection(gateway_base.Popen2IO):
    """What execnet reads from and writes to a new fork."""

    def __init__(self, control: socket.socket, execmodel: Any) -> None:
        reader, their_writer = os.pipe()
        their_reader, writer = os.pipe()
        socket.send_fds(control, [b"fork"], [their_reader, their_writer])
        for descriptor in (their_reader, their_writer):
            os.close(descriptor)
        answer = control.recv(100)
        if not answer:
            raise pytest.UsageError("the process that collects the tests has ended")
        self._pid = int(answer)
        super().__init__(open(writer, "wb"), open(reader, "rb"), execmodel)  # noqa: SIM115

    def wait(self) -> None:
        """The collector waits for its forks."""

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)


# The side of the collector and of its forks


channels: queue.SimpleQueue[Any] = queue.SimpleQueue()
over = threading.Event()


def collect(control: int, args: Sequence[str]) -> None:
    """Collect the tests; run them in the forks."""
    collector = _Collector(socket.socket(fileno=control))
    code = pytest.main(list(args), plugins=[collector])
    if collector.thread is not None:
        over.set()
        collector.thread.join()
        os._exit(code)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()


class _Collector:
    """A plugin of pytest that forks when the tests are collected."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._reports: list[pytest.CollectReport] = []
        self.thread: threading.Thread | None = None
        """In a fork, what reads the messages of xdist."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_cmdline_main(self, config: Any) -> None:
        from xdist import remote  # not before pytest has prepared the modules of its plugins

        remote.setup_config(config, None)
        config.workerinput, config.workeroutput = {}, {}

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._reports.append(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Returns in the collector once all forks have their tests, and in each fork after its last test."""
        capture: Any = session.config.pluginmanager.getplugin("capturemanager")
        capture.stop_global_capturing()  # The forks would share its files.
        gc.freeze()
        check_threads()
        descriptors = self._fork()
        if descriptors is None:
            return True
        capture.start_global_capturing()
        capture.suspend_global_capture()
        self.thread = threading.Thread(target=_serve, args=descriptors, daemon=True)
        self.thread.start()
        return self._worker(session).pytest_runtestloop(session)

    def _fork(self) -> list[int] | None:
        """Fork for each request; returns None at the end, and in a fork what it reads from and writes to."""
        while True:
            packet, descriptors, _, _ = socket.recv_fds(self._control, 100, 2, socket.MSG_CMSG_CLOEXEC)
            if not packet:
                return None
            if (pid := os.fork()) == 0:
                self._control.close()
                return descriptors
            for descriptor in descriptors:
                os.close(descriptor)
            self._control.send(b"%d" % pid)

    def _worker(self, session: pytest.Session) -> Any:
        """What `xdist.remote` prepares before the first test."""
        from xdist import remote

        channel = channels.get()
        given, _, options, _ = channel.receive()
        config: Any = session.config
        config.workerinput.update(given)
        for name, key in (("TESTRUNUID", "testrunuid"), ("WORKER", "workerid"), ("WORKER_COUNT", "workercount")):
            os.environ[f"PYTEST_XDIST_{name}"] = str(given[key])
        config.option.basetemp = options.get("basetemp")
        tmpdir.pytest_configure(config)
        remote.interactor = worker = remote.WorkerInteractor(config, channel)
        worker.pytest_sessionstart(session)
        for report in self._reports:
            worker.pytest_collectreport(report)
        worker.pytest_collection_finish(session)
        return worker


def check_threads() -> None:
    """Forks lack the threads of the collector; jemalloc starts its own again."""
    tasks = (task for task in Path("/proc/self/task").iterdir() if task.name != str(os.getpid()))
    threads = {(task / "comm").read_text().strip() for task in tasks}
    if others := threads - {"jemalloc_bg_thd"}:
        raise pytest.UsageError(f"a module of tests starts threads when it is imported: {', '.join(sorted(others))}")


def _serve(reader: int, writer: int) -> None:
    execmodel = gateway_base.get_execmodel("main_thread_only")
    with open(writer, "wb") as written, open(reader, "rb") as read:
        connection = gateway_base.Popen2IO(written, read, execmodel)
        read.readline()  # What a new interpreter would run.
        connection.write(b"1")
        gateway_base.serve(connection, id="worker")
    if not over.is_set():  # Xdist has ended before it began.
        os._exit(1)
