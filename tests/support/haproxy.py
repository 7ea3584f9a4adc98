"""HAProxy's check of its configuration."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def check_haproxy(config: Path, environment: dict[str, str]) -> None:
    """Check a file. A name that cannot be resolved is a warning, because a replica can start later."""
    program = shutil.which("haproxy")
    if program is None:
        assert "CI" not in os.environ, "haproxy is not installed"
        pytest.skip("needs haproxy")
    command = [program, "-c", "-f", str(config)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
