"""Apps of these tests that run as processes of their own."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from support.eventually import eventually_blocking


def port_of(process: subprocess.Popen[bytes] | subprocess.Popen[str], file: Path, output: Callable[[], object]) -> int:
    """The port that an app writes into its ``--port-file`` once it is ready.

    Args:
        output: what the app printed, for the message if it ends before.
    """

    def is_ready() -> bool:
        assert process.poll() is None, output()
        return file.exists()

    eventually_blocking(is_ready, within_s=180)
    return int(file.read_text())
