"""The check of tests/conftest.py for what a test leaves open."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CONFTEST = Path(__file__).parents[1] / "conftest.py"
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
    # The fixture alone, without what the other fixtures of that file need.
    (tmp_path / "conftest.py").write_text(
        "import importlib.util\n"
        f"spec = importlib.util.spec_from_file_location('root_conftest', {str(CONFTEST)!r})\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "_nothing_left_open = module._nothing_left_open\n"
    )
    command = [sys.executable, "-m", "pytest", "-W", "error", "-p", "no:cacheprovider", "-p", "no:asyncio", "-rA", "."]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(CONFTEST.parent)}, capture_output=True, text=True, timeout=120
    )
    assert "ERROR test_both.py::test_leaves_a_socket_open" in done.stdout, done.stdout + done.stderr
    assert "ResourceWarning: unclosed <socket" in done.stdout
    assert "PASSED test_both.py::test_collects" in done.stdout
    assert "1 error" in done.stdout
