"""Two apps on one data folder, and a folder with the database of another, as processes.

Should happen: the second app exits with 1 and says who holds the folder; commands that only read work meanwhile; what a
killed Domain leaves is free at once.
Should not: a second Domain that takes the jobs of the first for lost; a lock that a Worker keeps for a Domain that is
gone.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest
from test_start import _environment, started

PYGRID = str(Path(sys.executable).with_name("pygrid"))


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PYGRID, *arguments], cwd=folder, env=_environment(), capture_output=True, text=True, timeout=180, check=False
    )


def assert_refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert result.returncode == 1, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


@pytest.mark.slow
def test_a_second_app_on_a_data_folder_refuses_to_start(tmp_path: Path) -> None:
    with started(tmp_path) as domain:
        address = domain.wait_ready()
        second = run(tmp_path, "domain", "--port", "0")
        assert_refused(second, "in use by a Domain", address, f"process {domain.process.pid} ", "--data-dir")
        assert_refused(run(tmp_path, "network", "--port", "0", "--data-dir", "pygrid-data"), "in use by a Domain")
        assert httpx.get(f"{address}/readyz").status_code == 200
        assert run(tmp_path, "audit", "verify", "--data-dir", "pygrid-data").returncode == 0
        assert run(tmp_path, "budget", "show", "--data-dir", "pygrid-data").returncode == 0
        # Only the Domain holds it: a child that outlived it would keep the next one from starting.
        lock = (tmp_path / "pygrid-data" / "lock").resolve()
        for child in psutil.Process(domain.process.pid).children(recursive=True):
            assert str(lock) not in [str(Path(link).resolve()) for link in Path(f"/proc/{child.pid}/fd").iterdir()]
        domain.process.kill()
        domain.process.wait()
    with started(tmp_path) as domain:
        domain.wait_ready()
    assert_refused(run(tmp_path, "network", "--port", "0", "--data-dir", "pygrid-data"), "belongs to a Domain")
    forgotten = run(tmp_path, "domain", "--port", "0", "--database-url", f"sqlite:///{tmp_path / 'new.db'}")
    assert_refused(forgotten, "DATABASE_URL", "pygrid-data")
    swapped = run(
        tmp_path,
        "domain",
        "--port",
        "0",
        "--data-dir",
        "new",
        "--database-url",
        f"sqlite:///{tmp_path}/pygrid-data/domain.db",
    )
    assert_refused(swapped, "belongs to another data folder")
    with started(tmp_path) as domain:
        domain.wait_ready()
