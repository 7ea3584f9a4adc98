"""`pygrid up`: a Network and Domains as processes of this machine.

Should happen: the apps start in order, find each other, and stop in order; a mistake is reported before anything
starts. Should not happen: a process left behind, however `pygrid up` ends; a setting from the caller's shell; a secret
in the output.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pygrid.client import connect_network
from support.eventually import eventually_blocking

pytestmark = pytest.mark.fresh_processes

TIMEOUT_S = 90.0
FREE_PORTS = ("--port", "0", "--network-port", "0")


class Up:
    """A running `pygrid up` and its output."""

    def __init__(self, folder: Path, *arguments: str, env: dict[str, str] | None = None) -> None:
        self._log = folder / "up.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pygrid", "up", *arguments],
                cwd=folder,
                env=os.environ | (env or {}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def output(self) -> str:
        return self._log.read_text()

    def wait_for(self, is_there: Callable[[], object]) -> None:
        def holds() -> object:
            assert self.process.poll() is None, self.output
            return is_there()

        eventually_blocking(holds, TIMEOUT_S)

    def wait_until_ready(self) -> dict[str, str]:
        """The address of each app, once all are ready."""
        self.wait_for(lambda: "apps are ready" in self.output)
        return dict(re.findall(r"^(\S+) +\| is ready: (\S+)$", self.output, re.MULTILINE))

    def family(self) -> list[psutil.Process]:
        """All processes that it started, directly or not."""
        return psutil.Process(self.process.pid).children(recursive=True)


@contextlib.contextmanager
def started(folder: Path, *arguments: str, env: dict[str, str] | None = None) -> Iterator[Up]:
    up = Up(folder, *arguments, env=env)
    try:
        yield up
    finally:
        if up.process.poll() is None:
            up.process.terminate()
        up.process.wait(TIMEOUT_S)


def are_gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=180)
    return not alive


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_domains_join_the_network_until_a_signal_stops_all(tmp_path: Path, how: signal.Signals) -> None:
    with started(tmp_path, *FREE_PORTS, "alice", "bob", env={"NODE_ID": "evil", "DATABASE_URL": "mysql://evil"}) as up:
        addresses = up.wait_until_ready()
        assert list(addresses) == ["network", "alice", "bob"]
        with contextlib.closing(connect_network(addresses["network"])) as network:
            up.wait_for(lambda: [one.state for one in network.domains()] == ["online", "online"])
            assert sorted(one.name for one in network.domains()) == ["alice", "bob"]
            answer = network.search("people")
            assert (answer.num_domains, list(answer.missing)) == (2, [])
        family = up.family()
        up.process.send_signal(how)
        assert up.process.wait(TIMEOUT_S) == 0
    assert are_gone(family)
    order = [up.output.index(f"{name:7} | stopping") for name in ("bob", "alice", "network")]
    assert order == sorted(order)
    assert up.output.endswith("all apps are stopped\n")
    assert "Traceback" not in up.output
    invitation = tmp_path / "pygrid-up" / "invitation"
    assert invitation.stat().st_mode & 0o777 == 0o600
    assert invitation.read_text() not in up.output
    assert (tmp_path / "pygrid-up" / "bob").stat().st_mode & 0o777 == 0o700


def test_nothing_is_left_behind_when_it_is_killed(tmp_path: Path) -> None:
    with started(tmp_path, *FREE_PORTS, "--no-network") as up:
        assert list(up.wait_until_ready()) == ["alice"]
        family = up.family()
        assert family
        up.process.kill()
        up.process.wait(TIMEOUT_S)
        assert are_gone(family)


def test_all_stop_when_one_ends(tmp_path: Path) -> None:
    with started(tmp_path, *FREE_PORTS) as up:
        up.wait_until_ready()
        family = up.family()
        domain = next(one for one in psutil.Process(up.process.pid).children() if "domain" in one.cmdline())
        domain.kill()
        assert up.process.wait(TIMEOUT_S) == 1
    assert are_gone(family)
    assert "alice ended with exit status -9, so all apps are stopped" in up.output


def test_an_app_that_does_not_start_stops_the_others(tmp_path: Path) -> None:
    (tmp_path / "pygrid-up" / "alice").mkdir(parents=True)
    (tmp_path / "pygrid-up" / "alice" / "domain.db").mkdir()
    with started(tmp_path, *FREE_PORTS) as up:
        assert up.process.wait(TIMEOUT_S) == 1
    assert "alice   | ended with exit status 1" in up.output
    assert "network | stopping" in up.output
    assert "Traceback" not in up.output


def test_a_second_signal_kills_what_does_not_stop(tmp_path: Path) -> None:
    with started(tmp_path, *FREE_PORTS, "--no-network") as up:
        up.wait_until_ready()
        (domain,) = (one for one in psutil.Process(up.process.pid).children() if "domain" in one.cmdline())
        domain.suspend()
        up.process.send_signal(signal.SIGINT)
        up.wait_for(lambda: "alice   | stopping" in up.output)
        up.process.send_signal(signal.SIGINT)
        assert up.process.wait(TIMEOUT_S) == 0
    assert "alice   | killed" in up.output
    assert are_gone([domain])


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pygrid", "up", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


def test_a_taken_port_is_reported_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = run(tmp_path, "--port", str(port), "--network-port", "0")
    assert result.returncode == 1
    assert "nothing was started" in result.stderr
    assert f"alice: port {port} of 127.0.0.1: Address already in use" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "pygrid-up").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-f", "docker-compose.yml"), "reads no compose file; use `docker compose up`"),
        (("--profile", "worker"), "reads no compose file"),
        (("Alice",), "'Alice' cannot name a Domain"),
        (("../alice",), "'../alice' cannot name a Domain"),
        (("alice", "alice"), "'alice' would name two apps"),
        (("network",), "'network' would name two apps"),
        (("--port", "70000"), "alice: port 70000"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    result = run(tmp_path, *arguments)
    assert result.returncode == 1
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "pygrid-up").exists()


def test_a_dry_run_prints_the_commands(tmp_path: Path) -> None:
    result = run(tmp_path, "--dry-run", "alice", "bob", "--port", "5005")
    assert result.returncode == 0
    assert result.stdout == (
        "network: pygrid network --id network --host 127.0.0.1 --port 7000\n"
        "alice: pygrid domain --id alice --host 127.0.0.1 --port 5005 --network http://127.0.0.1:7000\n"
        "bob: pygrid domain --id bob --host 127.0.0.1 --port 5006 --network http://127.0.0.1:7000\n"
    )
    assert not (tmp_path / "pygrid-up").exists()


def test_help_has_an_example(tmp_path: Path) -> None:
    assert "pygrid up alice bob" in run(tmp_path, "--help").stdout
