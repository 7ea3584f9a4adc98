"""The published client of browsers, syft.js 0.1.4 from npm, unchanged, in a cache outside of the repository."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).parent
HINT = "install Node 18 or newer with npm (apt-get install nodejs npm), and let npm reach its registry once"
TIMEOUT_S = 120.0


def needs_node() -> Path:
    """The folder with the client and its ``node_modules``; it is filled on the first call.

    Without Node, or without the registry at the first call, the test is skipped; in CI it fails.
    """
    lock = (HERE / "package-lock.json").read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / f"pygrid-syftjs-{hashlib.sha256(lock).hexdigest()[:16]}"
    if shutil.which("node") is None or (not _is_filled(folder) and not _fill(folder)):
        if os.environ.get("CI") == "true":
            pytest.fail(f"the published client cannot run: {HINT}")
        pytest.skip(HINT)
    return folder


def _is_filled(folder: Path) -> bool:
    return (folder / "filled").exists()


def _fill(folder: Path) -> bool:
    if shutil.which("npm") is None:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests can run in several processes
        if _is_filled(folder):
            return True
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, folder)
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=300)
        if done.returncode == 0:
            (folder / "filled").touch()
        return done.returncode == 0


def task(
    url: str, process: dict[str, Any], batches: list[tuple[np.ndarray, np.ndarray]], **more: Any
) -> dict[str, Any]:
    """What one device does: train on these batches of ``X`` and one-hot ``y`` in one cycle."""
    return {
        "url": url,
        "model": process["name"],
        "version": process["version"],
        "plan": "training_plan",
        "batches": [
            {"x": x.ravel().tolist(), "xShape": x.shape, "y": y.ravel().tolist(), "yShape": y.shape} for x, y in batches
        ],
        **more,
    }


async def run_in_node(folder: Path, tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The results of tasks, which run one after the other in one process."""
    program = str(HERE / "node.cjs")
    process = await asyncio.create_subprocess_exec(
        "node", program, str(folder), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            out, _ = await process.communicate(json.dumps(tasks).encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    found: list[dict[str, Any]] = json.loads(out)
    return found
