"""A data folder on a file system that is full, a real one (tmpfs); needs the right to mount.

Should happen: every route that stores something answers 507 ``storage_full`` until there is room, and then works, by
itself. Should not happen: files or rows of what was refused, a 500.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import httpx
import pytest

from pygrid.settings import load_settings
from pygrid.tensors import encode
from support.jobs import BINDING, DATASETS, JOBS, MODEL, PLAN, Site, npz, records, running_site
from support.plans.models import form as serving_form
from support.plans.models import linear
from support.training import config, form, gate_in_process, model
from support.web import assert_problem

SIZE_BYTES = 24 * 1024**2
STEP_BYTES = 16 * 1024
"""Room is given back in pieces of this size, so that a call fails at each of its writes in turn."""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no file system of its own can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


class Filler:
    """Takes all room of a disk, and gives it back piece by piece."""

    def __init__(self, disk: Path) -> None:
        self._path = disk / "filler"

    def fill(self) -> None:
        with self._path.open("ab", buffering=0) as file:
            for num_bytes in (1024**2, 4096, 1):
                try:
                    while file.write(bytes(num_bytes)) == num_bytes:
                        pass
                except OSError:
                    continue

    def give_back(self, num_bytes: int) -> None:
        with self._path.open("rb+") as file:
            file.truncate(max(0, self._path.stat().st_size - num_bytes))


def files_of(disk: Path) -> set[Path]:
    """Every file but those of the database, and the empty folders that are there for all."""
    return {
        path for path in disk.rglob("*") if path.is_file() and "domain.db" not in path.name and path.name != "filler"
    }


async def send_until_there_is_room(send: Callable[[], Awaitable[httpx.Response]], disk: Path) -> int:
    """How often the call was refused before there was room for it."""
    filler, before = Filler(disk), files_of(disk)
    filler.fill()
    num_refused = 0
    while (answer := await send()).status_code not in (200, 201):
        assert_problem(answer, 507, "storage_full")
        assert files_of(disk) == before
        num_refused += 1
        filler.give_back(STEP_BYTES)
    filler.give_back(SIZE_BYTES)
    return num_refused


@pytest.mark.slow
async def test_a_full_disk_is_told_and_nothing_is_left(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pygrid.features.processes.hosting.check_async", gate_in_process)
    settings = load_settings({}, data_dir=small_disk / "data", id="test", min_free_mb=0)
    async with running_site(settings) as site:
        calls = await _calls(site)
        refused = {name: await send_until_there_is_room(send, small_disk) for name, send in calls.items()}
        assert all(refused.values()), refused
        listed = {
            "/model-centric/processes": "processes",
            "/model-centric/drafts": "drafts",
            JOBS: "jobs",
            DATASETS: "datasets",
            "/data-centric/detailed-models-list": "models",
        }
        for path, name in listed.items():
            found = (await site.owner.call("GET", path)).json()[name]
            assert len(found) == (2 if name == "datasets" else 1), (path, "what was refused left no row")


async def _calls(site: Site) -> dict[str, Callable[[], Awaitable[httpx.Response]]]:
    dataset = await site.owner.upload("first")
    job = {"dataset": dataset, "kind": "train", "reason": "a test", "binding": BINDING}

    def post(path: str, files: object) -> Callable[[], Awaitable[httpx.Response]]:
        return lambda: site.owner.call("POST", path, files=files)

    upload = {"name": "points", "columns": [{"name": "label", "meaning": "label 0..2"}]}
    return {
        "host": post("/model-centric/host-training", form(config("a"), encode(model()))),
        "draft": post("/model-centric/drafts", form(config("b"), encode(model()))),
        "serve": post("/data-centric/serve-model", serving_form(linear(), "scores")),
        "dataset": post(DATASETS, {"config": json.dumps(upload).encode(), "data": npz(records())}),
        "group": lambda: site.owner.call("POST", "/groups", json={"name": "x" * 100}),
        # The last one: it is tried on its mock twin in the background, for which files come and go.
        "job": post(JOBS, {"config": json.dumps(job).encode(), "plan": PLAN, "model": MODEL}),
    }
