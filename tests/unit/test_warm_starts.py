"""Commands of pygrid as forks: each test compares one with the same command as a new interpreter.

Should happen: exit code, output, input, environment, folder, session and parent are the same.
Should not: a descriptor, a variable or a signal handler of the tests in the fork; a fork where a fresh process is due.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from pygrid.errors import InvalidPlan
from pygrid.plans.gate import GateLimits, check_in_child
from support import warm_starts
from support.eventually import eventually_blocking
from support.plans.handmade import logistic_plan
from support.processes import port_of

PYGRID = [sys.executable, "-m", "pygrid"]
SCRIPT = [str(Path(sys.executable).with_name("pygrid"))]


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[subprocess.CompletedProcess[str]]]:
    """Runs a command as a fork and as a new interpreter."""

    def run(*command: str, **options: Any) -> list[subprocess.CompletedProcess[str]]:
        done = []
        for is_enabled in (True, False):
            monkeypatch.setattr(warm_starts, "is_enabled", is_enabled)
            done.append(subprocess.run(command, capture_output=True, text=True, timeout=180, check=False, **options))
        return done

    return run


@pytest.mark.parametrize(
    "command",
    [
        [*PYGRID, "--version"],
        [*SCRIPT, "--version"],
        [*PYGRID, "job", "lost"],
        [*PYGRID, "job", "list"],
        [*SCRIPT, "login", "--help"],
        ["env", "COLUMNS=50", *PYGRID, "domain", "--help"],
        [*PYGRID, "plan", "inspect", "missing.plan"],
        [*PYGRID, "domain", "--port", "x"],
        [*PYGRID, "login", "http://127.0.0.1:9", "--sign-up", "--email", "a@example.org", "--password-stdin"],
    ],
    ids=" ".join,
)
def test_output_and_exit_code_are_those_of_a_new_interpreter(
    both: Callable[..., list[subprocess.CompletedProcess[str]]], command: list[str], tmp_path: Path
) -> None:
    environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path)}
    fork, fresh = both(*command, cwd=tmp_path, env=environment, input="a password\n")
    assert (fork.returncode, fork.stdout, fork.stderr) == (fresh.returncode, fresh.stdout, fresh.stderr)


def open_files(pid: int) -> set[str]:
    folder = Path(f"/proc/{pid}/fd")
    return {name for one in folder.iterdir() if not (name := os.readlink(one)).startswith(("anon_inode", "socket"))}


@pytest.mark.parametrize("is_leader", [False, True])
def test_a_domain_is_a_child_with_its_own_folder_environment_and_session(tmp_path: Path, is_leader: bool) -> None:
    log, port_file = tmp_path / "log", tmp_path / "port"
    command = [*PYGRID, "domain", "--port", "0", "--port-file", str(port_file)]
    with socket.socket(), log.open("wb") as output:
        domain = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "NODE_ID": "alice", "OMP_NUM_THREADS": "1"},
            start_new_session=is_leader,
        )
    try:
        port = port_of(domain, port_file, log.read_text)
        process = psutil.Process(domain.pid)
        assert process.ppid() == os.getpid()
        assert process.cwd() == str(tmp_path)
        assert (os.getsid(domain.pid) == domain.pid) == is_leader
        opened = {name for name in open_files(domain.pid) if not name.startswith((str(tmp_path), "pipe:"))}
        assert opened <= {"/dev/null", "/dev/urandom"}
        title = httpx.get(f"http://127.0.0.1:{port}/schema/openapi.json").json()["info"]["title"]
        assert title == "Domain alice"
        domain.send_signal(signal.SIGTERM)
        assert domain.wait(180) == 0
    finally:
        domain.kill()
        domain.wait()
    assert (tmp_path / "pygrid-data" / "domain.db").exists()


def test_a_killed_fork_ends_by_the_signal_and_its_number_is_free(tmp_path: Path) -> None:
    port_file = tmp_path / "port"
    domain = subprocess.Popen(
        [*PYGRID, "domain", "--port", "0", "--port-file", str(port_file), "--data-dir", str(tmp_path / "data")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    with domain:
        port_of(domain, port_file, lambda: "")
        domain.kill()
        assert domain.wait(180) == -signal.SIGKILL
    assert not psutil.pid_exists(domain.pid)


def test_many_threads_start_forks(tmp_path: Path) -> None:
    ended: list[str] = []

    def start() -> None:
        ended.append(subprocess.run([*PYGRID, "--version"], capture_output=True, text=True, check=True).stdout)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ended) == 8
    assert len(set(ended)) == 1


@pytest.fixture
def waiting() -> Iterator[list[str]]:
    """A command that waits for an answer which never comes."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        yield [*PYGRID, "login", f"http://127.0.0.1:{silent.getsockname()[1]}", "--email", "a@example.org"]


def is_fork(command: list[str], env: dict[str, str] | None = None, **options: Any) -> bool:
    """Whether a command is a fork: the kernel shows the environment with which an interpreter started."""
    environment = {**(env or os.environ), "MARK": "this command"}

    def line() -> list[str]:
        shown = Path(f"/proc/{one.pid}/cmdline").read_bytes()
        return shown.rstrip(b"\0").decode().split("\0")

    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options) as one:
        # A new process shows the line of its parent first.
        eventually_blocking(lambda: line() == command)
        started_with = Path(f"/proc/{one.pid}/environ").read_bytes()
        one.kill()
    return b"MARK=this command" not in started_with


def test_a_command_is_a_fork_and_others_are_not(waiting: list[str]) -> None:
    assert is_fork(waiting)
    assert not is_fork(waiting, env={**os.environ, "PYTHONHASHSEED": "1"})
    assert not is_fork(waiting, preexec_fn=lambda: None)
    assert not is_fork([sys.executable, "-c", "input()"])


@pytest.mark.fresh_processes
def test_a_marked_test_starts_new_interpreters(waiting: list[str]) -> None:
    assert not is_fork(waiting)


PROGRAM = """
import os, subprocess, sys
from pathlib import Path
import beside
done = subprocess.run([sys.executable, "-m", "pygrid", "--version"], capture_output=True, text=True, check=True)
print(__name__, beside.NAME, *sys.argv[1:], done.stdout.strip(), sys.stdin.read(), os.getpid())
sys.exit(3)
"""


def test_a_program_is_a_fork_and_starts_forks(
    both: Callable[..., list[subprocess.CompletedProcess[str]]], tmp_path: Path
) -> None:
    (tmp_path / "beside.py").write_text("NAME = 'found'\n")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    fork, fresh = both(sys.executable, str(program), "a", "b c", cwd="/", input="typed")
    assert fork.returncode == fresh.returncode == 3
    assert fork.stdout.split()[:-1] == fresh.stdout.split()[:-1]
    assert fork.stderr == fresh.stderr == ""


def test_a_child_that_checks_plans_is_a_fork_with_the_same_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, answers = logistic_plan().data, []
    for is_enabled in (True, False):
        monkeypatch.setattr(warm_starts, "is_enabled", is_enabled)
        # Limits that no other test has: what passed is remembered.
        limits = GateLimits(max_nodes=23_999 + is_enabled)
        with pytest.raises(InvalidPlan) as refused:
            check_in_child(plan[:-100], limits)
        answers.append((check_in_child(plan, limits), refused.value.code, str(refused.value)))
    assert answers[0] == answers[1]
