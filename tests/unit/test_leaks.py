"""The check of tests/support/leaks.py for what a test leaves open."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TESTS_FOLDER = Path(__file__).parents[1]
TESTS = """
import gc
import socket


class Holder:
    def __init__(self, kept):
        self.kept, self.itself = kept, self


def test_leaves_a_socket_open():
    Holder(socket.socket())


def test_collects():
    gc.unfreeze()
    gc.collect()
"""


def test_a_socket_left_open_fails_the_test_that_left_it(tmp_path):
    (tmp_path / "test_both.py").write_text(TESTS)
    (tmp_path / "conftest.py").write_text("from support.leaks import _nothing_left_open\n")
    command = [sys.executable, "-m", "pytest", "-W", "error", "-p", "no:cacheprovider", "-rA", "."]
    environment = {"PYTHONPATH": str(TESTS_FOLDER), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert "ERROR test_both.py::test_leaves_a_socket_open" in done.stdout, done.stdout + done.stderr
    assert "ResourceWarning: unclosed <socket" in done.stdout
    assert "PASSED test_both.py::test_collects" in done.stdout
    assert "1 error" in done.stdout
