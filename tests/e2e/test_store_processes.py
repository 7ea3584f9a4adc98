"""A Domain on PostgreSQL and SeaweedFS as a process: it is killed and its disk is lost; files move to a bucket.

Should happen: devices go on in the middle of a cycle; every acknowledged report is in exactly one checkpoint; a Domain
whose files were moved has all of them. Should not: a report counted twice or lost; a Domain with its files in a bucket
that needs anything of its disk.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import crash
from loadgen import Address, Process, checkpoint, host, sign_up
from server_process import start_domain
from support import stores
from vector_model import model_bytes, plan_bytes


@pytest.fixture(scope="module")
def seaweedfs() -> Iterator[str]:
    with stores.seaweedfs() as endpoint:
        yield endpoint


@pytest.fixture
def url(seaweedfs: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of an empty store; the environment has everything that a Domain needs, except this URL."""
    environment = {
        **stores.CREDENTIALS,
        "DATABASE_URL": postgres_url,
        "SECRET_KEY": "k" * 32,
        "PYGRID_S3_ENDPOINT": seaweedfs,
        "PYGRID_S3_PATH_STYLE": "1",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return stores.new_address(seaweedfs).url


def pygrid(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pygrid", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, env=dict(os.environ))


@pytest.mark.slow
def test_no_acknowledged_report_is_lost_with_the_disk(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYGRID_STORE", url)
    result = asyncio.run(crash.run(tmp_path / "data", num_kills=3, seed=1, size=4000, loses_disk=True))
    assert result.problems == []
    assert result.num_kills >= 3  # more if no report came before the first ones
    assert result.num_acknowledged > 8
    assert result.num_checkpoints > 2


@pytest.mark.slow
def test_files_move_to_a_bucket(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "data"

    async def host_one(address: Address) -> Process:
        token = await sign_up(address, "owner@example.org", "correct horse battery staple")
        return await host(address, token, "marks", model_bytes(100), plan_bytes(100), crash.SERVER_CONFIG)

    with start_domain(folder) as server:
        process = asyncio.run(host_one(server.address))
        refused = pygrid("store", "move", url, "--data-dir", str(folder))
        assert (refused.returncode, "in use" in refused.stderr) == (1, True), "the Domain runs"
    moved = pygrid("store", "move", url, "--data-dir", str(folder))
    assert moved.returncode == 0, moved.stderr
    assert "2 files are in" in moved.stdout
    again = pygrid("store", "move", url, "--data-dir", str(folder))
    assert "0 were sent" in again.stdout, again.stderr
    shutil.rmtree(folder)
    monkeypatch.setenv("PYGRID_STORE", url)
    with start_domain(folder) as server:
        assert asyncio.run(checkpoint(server.address, process, 1)) == model_bytes(100)


@pytest.mark.slow
def test_the_doctor_tries_each_step(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = pygrid("doctor", "store", url)
    assert fit.returncode == 0, fit.stderr
    assert f"{url} is fit for a Domain." in fit.stdout
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    unfit = pygrid("doctor", "store", url, "--json")
    assert unfit.returncode == 1
    answer = json.loads(unfit.stdout)
    assert answer["is_fit"] is False
    assert "create an object" in answer["checks"][-1]["name"]
