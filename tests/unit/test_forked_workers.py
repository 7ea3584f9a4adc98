"""Processes of xdist that are forks: a run with tests that pass, fail, crash and cannot be collected.

Should happen: one process imports the tests; outcomes and output arrive; a crashed process is replaced.
Should not: temporary folders, captured output or numbers of processes that two processes share.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from support.forked_workers import check_threads

TESTS = str(Path(__file__).parents[1])
CONFTEST = """
from support.forked_workers import ForkedWorkers

def pytest_configure(config):
    config.pluginmanager.register(ForkedWorkers())
"""
FIRST = """
import os, signal
from pathlib import Path

import pytest

IMPORTED_BY = os.getpid()
with open("imports", "a") as imports:
    imports.write("x")

@pytest.mark.parametrize("number", range(6))
def test_forks(number, tmp_path, worker_id, capfd):
    os.write(1, b"seen")
    assert capfd.readouterr().out == "seen"
    assert os.getpid() != IMPORTED_BY
    assert os.environ["PYTEST_XDIST_WORKER"] == worker_id
    assert f"popen-{worker_id}" in tmp_path.parts
    Path("workers", worker_id).touch()

def test_fails(worker_id):
    print("printed by", worker_id[:2])
    assert [1, 2] == [1, 3]

def test_crashes():
    os.kill(os.getpid(), signal.SIGKILL)
"""
BROKEN = "import a_module_that_is_missing"


def test_forks_run_the_tests_of_one_collection(tmp_path: Path) -> None:
    for name, text in (("conftest", CONFTEST), ("test_first", FIRST), ("test_broken", BROKEN)):
        (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "pytest.ini").write_text(f"[pytest]\npythonpath = {TESTS}\n")
    (tmp_path / "workers").mkdir()
    command = [sys.executable, "-m", "pytest", "-p", "xdist", "-n2", "--continue-on-collection-errors"]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    assert "2 failed, 6 passed, 1 error" in run.stdout
    assert run.returncode == 1
    assert "No module named 'a_module_that_is_missing'" in run.stdout
    assert "At index 1 diff: 2 != 3" in run.stdout
    assert "printed by gw" in run.stdout
    assert "crashed while running 'test_first.py::test_crashes'" in run.stdout
    assert (tmp_path / "imports").read_text() == "x"
    assert len(list((tmp_path / "workers").iterdir())) >= 2


def test_a_thread_that_forks_would_lack_is_refused() -> None:
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    with pytest.raises(pytest.UsageError, match="starts threads when it is imported: py"):
        check_threads()
    over.set()
    thread.join()
