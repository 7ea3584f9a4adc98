"""Commands whose output nobody reads: they end with 141, as other programs do, and print no error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.fresh_processes


@pytest.mark.parametrize("arguments", [["--help"], ["domain", "--help"], ["worker", "doctor"]])
def test_a_reader_that_is_gone_ends_the_command(arguments: list[str], tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "pygrid", *arguments],
        cwd=tmp_path,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")
