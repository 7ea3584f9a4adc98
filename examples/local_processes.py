"""Apps and devices as processes of this machine, all ended when the `with` block is left."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0


class ProcessFailed(Exception):
    """A process ended, or was not ready in time; the text holds the end of its log."""


class LocalProcesses:
    """The processes of a run. Each writes to a log file of its own and has a session of its own, so that Ctrl-C in the
    terminal reaches only the program that started them, which then ends them in order.
    """

    def __init__(self, log_dir: Path) -> None:
        log_dir.mkdir(parents=True, exist_ok=True)
        self._log_dir = log_dir
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> LocalProcesses:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, name: str, arguments: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """Start ``pygrid ARGUMENTS``, with ``env`` beside the environment of this process; its output goes to
        ``NAME.log``.
        """
        # One thread each: eleven processes that each start a thread per core get in each other's way.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **(env or {})}
        with self._log(name).open("wb") as log:
            self._running[name] = subprocess.Popen(
                [sys.executable, "-m", "pygrid", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def start_domain(
        self,
        data_dir: Path,
        name: str = "domain",
        *,
        port: int = 0,
        network: str = "",
        address: str = "",
        env: Mapping[str, str] | None = None,
    ) -> str:
        """Start a Domain that only this machine can reach; gives its address once it is ready.

        Args:
            name: its own, and that of its log.
            port: 0: a free one.
            network: address of the Network that it joins; ``address``: its own, as others are told, if any.
        Raises:
            ProcessFailed: it ended, or was not ready within a minute.
        """
        options = {"--id": "" if name == "domain" else name, "--network": network, "--address": address}
        given = [part for option, value in options.items() if value for part in (option, value)]
        return self._start_app(name, ["domain", "--port", str(port), *given], data_dir, env)

    def start_network(self, data_dir: Path) -> str:
        """Start a Network on a free port that only this machine can reach; gives its address once it is ready.

        Raises:
            ProcessFailed: as `start_domain`.
        """
        return self._start_app("network", ["network", "--port", "0"], data_dir, None)

    def _start_app(self, name: str, arguments: Sequence[str], data_dir: Path, env: Mapping[str, str] | None) -> str:
        data_dir.mkdir(parents=True, exist_ok=True)
        port_file = data_dir / "port"
        port_file.unlink(missing_ok=True)
        shared = ["--host", "127.0.0.1", "--port-file", str(port_file), "--data-dir", str(data_dir)]
        self.start(name, [*arguments, *shared], env)
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            self.check()
            port = port_file.read_text().strip() if port_file.exists() else ""
            if port and _is_ready(int(port)):
                return f"http://127.0.0.1:{port}"
            time.sleep(0.05)
        raise ProcessFailed(self._report(name, f"was not ready after {START_TIMEOUT_S:.0f} s"))

    def check(self) -> None:
        """Raise ProcessFailed if one has ended with an error."""
        for name, process in self._running.items():
            if process.poll() not in (None, 0):
                raise ProcessFailed(self._report(name, f"ended with exit code {process.returncode}"))

    def wait(self, prefix: str, timeout_s: float) -> None:
        """Wait until those whose names begin with ``prefix`` have ended by themselves.

        Raises:
            ProcessFailed: one ended with an error, or is still there after ``timeout_s``.
        """
        deadline = time.monotonic() + timeout_s
        while left := [
            name for name, process in self._running.items() if name.startswith(prefix) and process.poll() is None
        ]:
            if time.monotonic() > deadline:
                raise ProcessFailed(self._report(left[0], f"has not ended after {timeout_s:.0f} s"))
            time.sleep(0.02)
        self.check()

    def kill(self, name: str) -> None:
        """End one at once, as a power cut does."""
        process = self._running.pop(name)
        process.kill()
        process.wait()

    def stop(self) -> None:
        """End them all, the last started first; by force those that do not end within ten seconds."""
        for process in reversed(self._running.values()):
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for process in reversed(self._running.values()):
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()

    def _log(self, name: str) -> Path:
        return self._log_dir / f"{name}.log"

    def _report(self, name: str, what: str) -> str:
        tail = self._log(name).read_text(errors="replace").splitlines()[-15:]
        return "\n".join([f"{name} {what}. The end of {self._log(name)}:", *(f"    {line}" for line in tail)])


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
