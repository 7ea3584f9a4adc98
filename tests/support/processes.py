"""Apps of these tests that run as processes of their own."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil

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


def children_of(process: psutil.Process, word: str) -> list[psutil.Process]:
    """The children whose command line has this word; a process of tests has others, such as browsers."""
    found = []
    for child in process.children():
        with contextlib.suppress(psutil.Error):  # it has ended
            if word in " ".join(child.cmdline()):
                found.append(child)
    return found


def job_processes(process: psutil.Process | None = None) -> list[psutil.Process]:
    """The processes of jobs: the children of the fork servers of a process, or of this one."""
    servers = children_of(process or psutil.Process(), "forkserver")
    return [child for server in servers for child in server.children()]
