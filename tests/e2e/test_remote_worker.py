"""A Domain and a Worker of another machine as two processes, and what goes wrong between them.

Should happen: jobs on datasets that allow it run there, exact ones with progress; an exact job whose Worker is killed
runs on the Domain's machine; a private one fails and stays charged; a Worker that is let in no more ends; a Worker goes
on with its jobs when the Domain is killed or stopped, and starts again.
Should not happen: a job of another dataset that leaves the machine; files of jobs that stay longer than they may.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from test_job_crash import BINDING, COUNT, DATASETS, JOBS, LONG, POLICY, TERMS, Site

from pygrid.storage import audit
from pygrid.storage.sql.database import Database
from pygrid.tensors import decode, encode
from support.eventually import eventually_blocking
from support.plans.handmade import logistic_data
from support.plans.models import WEIGHT, linear
from support.processes import port_of

WORKERS = "/data-centric/workers"
TRAIN: dict[str, Any] = {"kind": "train", "epochs": 2, "binding": BINDING}
LONG_PRIVATE = LONG | {"epochs": 1500, "batch_size": 10, "privacy": TERMS}


class Running:
    """A Domain that runs, with its people, and two datasets: records of the one may leave the machine."""

    def __init__(self, folder: Path, web: httpx.Client, address: str, process: subprocess.Popen[bytes]) -> None:
        self.folder, self.process = folder, process
        self.site = Site(web)
        self.site.sign_up(address)
        self.site.log_in(address)
        self.open, self.closed = self._upload("open", True), self._upload("closed", False)

    def _upload(self, name: str, allow: bool) -> int:
        config = {"name": name, "visibility": "listed", "columns": [{"name": "y", "meaning": "label 0..2"}]}
        files = {"config": _json(config), "data": encode(logistic_data(300))}
        dataset: int = self.site.call("POST", DATASETS, self.site.owner, files=files)["id"]
        policy = POLICY | {"allow_remote_workers": allow}
        stored = self.site.call(
            "PUT", f"{DATASETS}/{dataset}/policy", self.site.owner, json=policy | {"fresh_budget": True}
        )
        assert {**stored, **policy} == stored
        return dataset

    def let_in(self, name: str) -> dict[str, Any]:
        new: dict[str, Any] = self.site.call("POST", WORKERS, self.site.owner, json={"name": name})
        return new

    def command(self, *arguments: str) -> str:
        """What ``pygrid worker`` prints, in the Owner's name."""
        environment = {
            **os.environ,
            "PYGRID_URL": self.site.address,
            "PYGRID_TOKEN": self.site.owner["Authorization"].removeprefix("Bearer "),
        }
        command = [sys.executable, "-m", "pygrid", "worker", *arguments]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=180).stdout

    def known(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.site.call("GET", f"{WORKERS}/authorized", self.site.owner)["workers"]
        return found

    @contextlib.contextmanager
    def worker(self, token: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        """A Worker with this token that has asked for a job."""
        environment = {**os.environ, "PYGRID_WORKER_TOKEN": token}
        command = [sys.executable, "-m", "pygrid", "worker", "--domain", self.site.address, "--cache-dir"]
        with (self.folder / "worker.log").open("ab") as log:
            process = subprocess.Popen(
                [*command, str(self.folder / "kept"), *options],
                env=environment,
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )
        try:
            self.until(lambda: any(one["num_waiting"] for one in self.known()) or process.poll() is not None)
            assert process.poll() is None, (self.folder / "worker.log").read_text()
            yield process
        finally:
            process.kill()
            process.wait()

    def until(self, is_there: Callable[[], object], seconds: float = 180) -> None:
        eventually_blocking(is_there, seconds)

    def finished(self, job_id: str) -> dict[str, Any]:
        return self.site.wait(job_id, lambda job: job["state"] not in ("checking", "approved", "running"))

    def actions(self, job_id: str) -> list[str]:
        """The audit entries of a job."""
        database = Database(f"sqlite:///{self.folder / 'data' / 'domain.db'}")
        try:
            entries = database.read_now(lambda connection: audit.list_entries(connection, limit=1000))
        finally:
            database.close()
        return [entry.action for entry in entries if entry.data.get("job_id") == job_id]

    def spent(self) -> float:
        spent: float = self.site.call("GET", f"{DATASETS}/{self.open}/budget", self.site.owner)["spent"]
        return spent


def _json(value: object) -> bytes:
    import json

    return json.dumps(value).encode()


@contextlib.contextmanager
def started(folder: Path, port: int = 0) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A Domain as a process, and its address."""
    port_file = folder / "port"
    port_file.unlink(missing_ok=True)
    command = [
        sys.executable,
        "-m",
        "pygrid",
        "domain",
        "--port",
        str(port),
        "--port-file",
        str(port_file),
        "--data-dir",
    ]
    options = [str(folder / "data"), "--prefer-remote-workers", "--num-workers", "1"]
    with (folder / "domain.log").open("ab") as log:
        process = subprocess.Popen([*command, *options], stdout=log, stderr=log, cwd=folder)
    try:
        yield process, f"http://127.0.0.1:{port_of(process, port_file, (folder / 'domain.log').read_text)}"
    finally:
        process.terminate()
        process.wait()
    assert "Traceback" not in (folder / "domain.log").read_text()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with started(tmp_path) as (process, address), httpx.Client(timeout=180) as web:
        yield Running(tmp_path, web, address, process)


@pytest.mark.slow
def test_jobs_run_on_another_machine_where_the_policy_allows_it(running: Running) -> None:
    site = running.site
    token = running.let_in("gpu-1")["token"]
    with running.worker(token) as process:
        private = site.submit(running.open, **TRAIN, privacy=TERMS)
        job = running.finished(private)
        assert (job["state"], job["facts"]["worker"]) == ("released", "gpu-1"), job
        assert "seccomp" in job["facts"]["sandbox"]
        trained = httpx.get(f"{site.address}{JOBS}/{private}/result", headers=site.scientist).content
        assert set(decode(trained)[0]) == {"weight", "bias"}
        # The other dataset's jobs stay here, though the Worker waits.
        count = site.submit(running.closed, **COUNT, privacy=TERMS)
        job = running.finished(count)
        assert (job["state"], job["facts"]["worker"]) == ("released", "")
        # Exact jobs tell how far they are.
        exact = site.submit(running.open, **LONG | {"epochs": 500})
        site.approve(exact, "waiting")
        site.wait(exact, lambda job: job["state"] == "held" or 0 < job["progress"] < 1)
        assert running.known()[0]["num_running"] == 1
        job = running.finished(exact)
        assert (job["state"], job["facts"]["worker"]) == ("held", "gpu-1")
        # One file of a kind for all of these jobs, and no column that none of them is bound to.
        kept = [path for path in (running.folder / "kept").iterdir() if not path.name.startswith(".")]
        assert len(kept) == 4
        # A stranger's model answers there too, for as many records as were asked for.
        config = {"dataset": running.open, "kind": "predict", "reason": "r", "binding": {"x": "x"}, "max_records": 7}
        files = {"config": _json(config), "model": linear()}
        predict = site.call("POST", JOBS, site.scientist, files=files)["id"]
        site.approve(predict, "waiting")
        job = running.finished(predict)
        assert (job["state"], job["facts"]["worker"], job["facts"]["num_records"]) == ("held", "gpu-1", 7)
        found = decode(httpx.get(f"{site.address}{JOBS}/{predict}/result", headers=site.owner).content)[0]["y"]
        np.testing.assert_allclose(found, logistic_data(300)["x"][:7] @ WEIGHT, rtol=1e-5)
        process.terminate()
        assert process.wait(180) == 0
    assert "Traceback" not in (running.folder / "worker.log").read_text()


@pytest.mark.slow
def test_nothing_is_lost_or_run_twice_when_a_worker_is_killed(running: Running) -> None:
    site = running.site
    token = running.let_in("gpu-1")["token"]
    with running.worker(token, "--jobs", "2") as process:
        exact = site.submit(running.open, **LONG)
        site.approve(exact, "waiting")
        site.wait(exact, lambda job: job["progress"] > 0)
        # Last, as it must not end before the Worker does.
        private = site.submit(running.open, **LONG_PRIVATE)
        running.until(lambda: running.known()[0]["num_running"] == 2)
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        spent = running.spent()
        assert spent > 0
        _, alive = psutil.wait_procs(children, timeout=180)
        assert not alive, "a job goes on without its Worker"
        job = running.finished(private)
        assert (job["state"], job["code"]) == ("failed", "job_failed")
        assert "Worker 'gpu-1' did not renew" in job["detail"]
        assert running.spent() == spent
        # The exact one runs again, on the Domain's machine.
        running.until(lambda: running.known()[0]["num_running"] == 0)
        site.wait(exact, lambda job: job["state"] == "running" and "once more" not in job["detail"])
        site.call("POST", f"{JOBS}/{exact}/cancel", site.scientist)


@pytest.mark.slow
def test_a_worker_that_is_stopped_gives_its_job_back(running: Running) -> None:
    site = running.site
    with running.worker(running.let_in("gpu-1")["token"], "--num-threads", "2") as process:
        exact = site.submit(running.open, **LONG)
        site.approve(exact, "waiting")
        site.wait(exact, lambda job: job["progress"] > 0)
        process.terminate()
        assert process.wait(180) == 0
    assert "Traceback" not in (running.folder / "worker.log").read_text()
    site.wait(exact, lambda job: job["state"] == "running" and running.known()[0]["num_running"] == 0)
    told = (running.folder / "domain.log").read_text()
    assert "was stopped" in told
    assert "did not renew" not in told
    site.call("POST", f"{JOBS}/{exact}/cancel", site.scientist)


@pytest.mark.slow
def test_a_worker_that_is_let_in_no_more_loses_its_job_and_ends(running: Running) -> None:
    site = running.site
    new = running.let_in("gpu-1")
    with running.worker(new["token"], "--cache-bytes", "0") as process:
        exact = site.submit(running.open, **LONG)
        site.approve(exact, "waiting")
        site.wait(exact, lambda job: job["progress"] > 0)
        site.call("DELETE", f"{WORKERS}/{new['id']}", site.owner)
        assert process.wait(180) == 1
        told = (running.folder / "worker.log").read_text()
        assert "no authorized Worker has this token" in told
        assert "Traceback" not in told
        assert [path.name for path in (running.folder / "kept").iterdir()] == [".lock"], "records stay on the machine"
        site.wait(exact, lambda job: job["state"] == "running")
        site.call("POST", f"{JOBS}/{exact}/cancel", site.scientist)


@pytest.mark.slow
@pytest.mark.parametrize("end", [subprocess.Popen.kill, subprocess.Popen.terminate], ids=["killed", "stopped"])
def test_a_worker_keeps_its_jobs_when_its_domain_starts_again(
    running: Running, end: Callable[[subprocess.Popen[bytes]], None]
) -> None:
    site = running.site
    token = running.command("token", "gpu-1").strip()
    assert "gpu-1" in running.command("list")
    with running.worker(token, "--jobs", "2"):
        exact = site.submit(running.open, **LONG | {"epochs": 300})
        site.approve(exact, "waiting")
        site.wait(exact, lambda job: job["progress"] > 0)
        private = site.submit(running.open, **LONG_PRIVATE | {"epochs": 100})
        running.until(lambda: "charge_running" in running.actions(private))
        end(running.process)
        running.process.wait()
        with started(running.folder, int(site.address.rpartition(":")[2])) as (_, address):
            site.log_in(address)
            assert running.known()[0]["num_running"] == 2
            for job_id, state in ((private, "released"), (exact, "held")):
                job = running.finished(job_id)
                assert (job["state"], job["facts"]["worker"]) == (state, "gpu-1"), job
                assert running.actions(job_id).count("job_started") == 1
            assert (running.folder / "worker.log").read_text().count("job starts") == 2, "each was computed once"
            running.until(lambda: running.known()[0]["num_waiting"] == 2)
            after = running.finished(site.submit(running.open, **TRAIN, privacy=TERMS))
            assert (after["state"], after["facts"]["worker"]) == ("released", "gpu-1")
            running.command("revoke", "gpu-1")
            assert "no Worker" in running.command("list")
    assert "Traceback" not in (running.folder / "worker.log").read_text()
    actions = running.actions(private)
    for action in ("budget_reserved", "charge_running", "charge_released", "job_released"):
        assert actions.count(action) == 1, actions
    verify = [sys.executable, "-m", "pygrid", "audit", "verify", "--data-dir", str(running.folder / "data")]
    assert subprocess.run(verify, capture_output=True, timeout=180).returncode == 0
