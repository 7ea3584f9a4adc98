"""A Ray cluster of one node for tests, on loopback, from the environment that `scripts/engines` makes."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from support.eventually import eventually_blocking
from support.slurm import free_port

VERSION = "2.60.0"


def find_ray() -> Path:
    """The program ``ray``. Where it is not installed, the test is skipped; in CI that is an error."""
    folder = os.environ.get("PYGRID_ENGINES_DIR") or str(Path.home() / ".cache" / "pygrid-engines")
    program = Path(folder) / f"ray-{VERSION}" / "bin" / "ray"
    if not (Path(folder) / f"ray-{VERSION}" / "complete").exists():
        text = f"Ray is not installed in {folder}: run scripts/engines"
        assert not os.environ.get("CI"), text
        pytest.skip(text)
    return program


@contextlib.contextmanager
def ray_cluster() -> Iterator[str]:
    """Run a cluster for the length of the block, and yield the address of its dashboard."""
    program = find_ray()
    # Short, because the paths of sockets are.
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    dashboard = free_port()
    address = f"http://127.0.0.1:{dashboard}"
    options = {
        "node-ip-address": "127.0.0.1",
        "port": free_port(),
        "dashboard-host": "127.0.0.1",
        "dashboard-port": dashboard,
        "num-cpus": 2,
        "memory": 8 * 1024**3,
        "object-store-memory": 80 * 1024**2,
        "temp-dir": folder,
    }
    command = [str(program), "start", "--head", "--block", "--disable-usage-stats"]
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    with (folder / "ray.out").open("wb") as log:
        process = subprocess.Popen(
            [*command, *(f"--{name}={value}" for name, value in options.items())],
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:

        def answers() -> bool:
            assert process.poll() is None, (folder / "ray.out").read_text()
            with contextlib.suppress(httpx.HTTPError):
                return httpx.get(f"{address}/api/jobs/", timeout=5, trust_env=False).status_code == 200
            return False

        eventually_blocking(answers, 90)
        yield address
    finally:
        children = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        process.wait(180)
        _, alive = psutil.wait_procs(children, timeout=180)
        for child in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        shutil.rmtree(folder, ignore_errors=True)
