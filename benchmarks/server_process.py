"""A Domain, or the floor, as a process that can be measured, stopped and killed."""

from __future__ import annotations

import http.client
import io
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
START_TIMEOUT_S = 60.0
FLOOR = Path(__file__).parent / "floor.py"


def extract_commit(commit: str, folder: Path) -> Path:
    """Write the package of a commit to a folder; returns what ``PYTHONPATH`` is for it."""
    packed = subprocess.run(["git", "archive", commit, "src"], cwd=ROOT, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return folder / "src"


class ServerProcess:
    """A running server on a free port of the loopback interface; use it as a context manager.

    Args:
        command: the program and its arguments; it writes its port to the file named by ``--port-file``, which is added.
        folder: for the port file and the log; made if it is not there.
        ready_path: the server is ready once this answers 200; empty: once it has told its port.
        environment: variables in addition to those of this process.
    Raises:
        RuntimeError: it ended or was not ready within `START_TIMEOUT_S`; holds the end of its log.
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        ready_path: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._port_file = folder / "port"
        self._port_file.unlink(missing_ok=True)
        self.log = folder / "server.log"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--port-file", str(self._port_file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", **(environment or {})},
                start_new_session=True,
            )
        try:
            self.address = ("127.0.0.1", self._wait_until_ready(ready_path))
        except BaseException:
            self.kill()
            raise

    def _wait_until_ready(self, ready_path: str) -> int:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            text = self._port_file.read_text() if self._port_file.exists() else ""
            if text.strip() and (not ready_path or _answers(int(text), ready_path)):
                return int(text)
            time.sleep(0.02)
        log = self.log.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"the server was not ready (exit code {self._process.poll()}); the end of its log:\n{log}")

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Its number, as long as it runs."""
        return self._process.pid

    @property
    def cpu_s(self) -> float:
        """CPU seconds, user and system, of all threads that it has or had.

        Source: clock_getcpuclockid(3); on Linux the clock of a process has the number ~pid << 3 | 2, and counts
        nanoseconds, where /proc counts hundredths of a second.
        """
        return time.clock_gettime((~self._process.pid << 3) | 2)

    @property
    def peak_bytes(self) -> int:
        """The most memory that it has held at once since its start (VmHWM)."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        match = re.search(r"VmHWM:\s+(\d+) kB", status)
        if match is None:
            raise RuntimeError("this system does not tell the peak memory of a process")
        return int(match.group(1)) * 1024

    @property
    def held_bytes(self) -> int:
        """The memory that it holds now (VmRSS)."""
        match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{self._process.pid}/status").read_text())
        return int(match.group(1)) * 1024 if match else 0

    def forget_peak(self) -> None:
        """Let `peak_bytes` count from now on. Source: proc_pid_clear_refs(5)."""
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")

    def stop(self) -> None:
        """End it gently, by force after 15 seconds."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal. Nothing happens if it has ended."""
        self._process.send_signal(number)

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        self._process.kill()
        self._process.wait()


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def leave_nothing_behind() -> None:
    """Let SIGTERM end this program as Ctrl-C does, so that the servers it started are ended too."""
    # By way of SIGINT, which asyncio turns into an orderly cancellation.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


def start_floor(folder: Path) -> ServerProcess:
    return ServerProcess([sys.executable, str(FLOOR)], folder)


def start_domain(folder: Path, port: int = 0, environment: Mapping[str, str] | None = None) -> ServerProcess:
    """A Domain whose database and files lie in ``folder``; started again there, it goes on where it was."""
    command = [
        sys.executable,
        "-m",
        "pygrid",
        "domain",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--data-dir",
        str(folder),
    ]
    return ServerProcess(command, folder, ready_path="/readyz", environment=environment)
