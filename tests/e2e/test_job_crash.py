"""A Domain that is killed (``kill -9``) while jobs are at each of their states, and Workers that are killed under it.

Should happen: what was asked for is there after each start; a debit stands; an exact job whose Worker was lost is run
once more; a result is released once and stays the same.
Should not happen: a private job that runs twice on one charge; a Worker that goes on without its Domain.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from test_start import DomainProcess, started

from pygrid.storage import audit
from pygrid.storage.sql.database import Database
from pygrid.tensors import encode
from support.eventually import eventually_blocking
from support.plans.handmade import logistic_data, logistic_params, logistic_plan
from support.processes import job_processes

JOBS, DATASETS = "/data-centric/jobs", "/data-centric/datasets"
PASSWORD = "correct horse battery"
POLICY = {"epsilon": 8.0, "delta": 1e-6, "epsilon_per_user": 4.0, "auto_approve": True}
BINDING = {"x": "x", "y": "y"}
LONG: dict[str, Any] = {"kind": "train", "epochs": 10_000, "batch_size": 1, "binding": BINDING}
COUNT: dict[str, Any] = {"kind": "statistics", "statistics": [{"kind": "count"}]}
TERMS = {"epsilon": 1.0, "delta": 1e-6}


class Site:
    """A Domain as a process in one folder, started again and again, and its people."""

    def __init__(self, web: httpx.Client) -> None:
        self.web = web

    def sign_up(self, address: str) -> None:
        for name in ("owner", "scientist"):
            answer = self.web.post(f"{address}/users", json={"email": f"{name}@example.org", "password": PASSWORD})
            assert answer.status_code == 200, answer.text

    def log_in(self, address: str) -> None:
        self.address = address
        self.owner, self.scientist = (
            {"Authorization": f"Bearer {self._token(address, name)}"} for name in ("owner", "scientist")
        )

    def _token(self, address: str, name: str) -> str:
        account = {"email": f"{name}@example.org", "password": PASSWORD}
        token: str = self.web.post(f"{address}/users/login", json=account).json()["token"]
        return token

    def call(self, verb: str, path: str, who: dict[str, str], **more: Any) -> Any:
        answer = self.web.request(verb, self.address + path, headers=who, **more)
        assert answer.status_code in (200, 201), answer.text
        return answer.json()

    def submit(self, dataset: int, **request: Any) -> str:
        config = {"dataset": dataset, "reason": "a test", **request}
        files = {"config": json.dumps(config).encode()}
        if request["kind"] == "train":
            files |= {"plan": logistic_plan().data, "model": encode(logistic_params())}
        job_id: str = self.call("POST", JOBS, self.scientist, files=files)["id"]
        return job_id

    def wait(self, job_id: str, is_there: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        def found() -> dict[str, Any] | None:
            job: dict[str, Any] = self.call("GET", f"{JOBS}/{job_id}", self.owner)
            return job if is_there(job) else None

        job: dict[str, Any] = eventually_blocking(found, within_s=180)
        return job

    def approve(self, job_id: str, state: str) -> None:
        job = self.wait(job_id, lambda job: job["state"] == state)
        body = {"request_hash": job["request_hash"], "state": state}
        self.call("POST", f"{JOBS}/{job_id}/approve", self.owner, json=body)


def has_begun(folder: Path, job_id: str) -> bool:
    """Whether a Worker was given a private job: from then on its charge stands."""
    with closing(sqlite3.connect(folder / "pygrid-data" / "domain.db")) as connection:
        found = connection.execute("SELECT state FROM charges WHERE job_id = ?", (job_id,)).fetchall()
    return found == [("running",)]


def kill(domain: DomainProcess) -> None:
    """Kill the Domain alone; its fork server has to notice, and to take the Workers with it."""
    children = psutil.Process(domain.process.pid).children(recursive=True)
    domain.process.kill()
    domain.process.wait()
    _, alive = psutil.wait_procs(children, timeout=180)
    assert not alive, "a Worker goes on without its Domain"


@pytest.mark.slow
def test_debits_stand_and_releases_happen_once_whenever_the_domain_is_killed(tmp_path: Path) -> None:
    with httpx.Client(timeout=180) as web:
        _kill_at_each_state(Site(web), tmp_path)
    data_dir = tmp_path / "pygrid-data"
    database = Database(f"sqlite:///{data_dir / 'domain.db'}")
    try:
        known = audit.read_head(data_dir / audit.HEAD_FILE)
        assert database.read_now(lambda connection: audit.verify(connection, known)) is None
        actions = [
            entry.action for entry in database.read_now(lambda connection: audit.list_entries(connection, limit=1000))
        ]
    finally:
        database.close()
    assert actions.count("budget_reserved") == 2
    assert actions.count("job_released") == 2


def _kill_at_each_state(site: Site, tmp_path: Path) -> None:
    with started(tmp_path) as domain:
        site.sign_up(domain.wait_ready())
        site.log_in(domain.wait_ready())
        config = {"name": "points", "visibility": "listed", "columns": [{"name": "y", "meaning": "label 0..2"}]}
        files = {"config": json.dumps(config).encode(), "data": encode(logistic_data(300))}
        dataset = site.call("POST", DATASETS, site.owner, files=files)["id"]
        site.call("PUT", f"{DATASETS}/{dataset}/policy", site.owner, json=POLICY)
        checking = site.submit(dataset, **COUNT)
        kill(domain)
    with started(tmp_path) as domain:
        site.log_in(domain.wait_ready())
        site.approve(checking, "waiting")
        kill(domain)
    with started(tmp_path) as domain:
        site.log_in(domain.wait_ready())
        site.wait(checking, lambda job: job["state"] == "held")
        private = site.submit(dataset, **LONG | {"epochs": 1500, "batch_size": 10, "privacy": TERMS})
        site.wait(private, lambda job: job["state"] == "running" and has_begun(tmp_path, private))
        exact = site.submit(dataset, **LONG)
        site.approve(exact, "waiting")
        site.wait(exact, lambda job: job["progress"] > 0)
        spent = site.call("GET", f"{DATASETS}/{dataset}/budget", site.owner)["spent"]
        assert spent > 0
        kill(domain)
    with started(tmp_path) as domain:
        site.log_in(domain.wait_ready())
        assert site.wait(private, lambda job: job["state"] != "running")["state"] == "failed"
        site.wait(exact, lambda job: job["state"] == "running" and job["progress"] > 0)
        site.approve(checking, "held")
        assert site.call("GET", f"{JOBS}/{checking}/result", site.scientist)["answers"][0]["value"] == 300
        # Now the Worker alone: an exact job that was started twice is not started again.
        workers = job_processes(psutil.Process(domain.process.pid))
        max(workers, key=lambda child: float(child.cpu_times().user)).kill()
        assert site.wait(exact, lambda job: job["state"] != "running")["state"] == "failed"
        assert site.call("GET", f"{DATASETS}/{dataset}/budget", site.owner)["spent"] == spent
        small = site.submit(dataset, **COUNT, privacy=TERMS)
        site.wait(small, lambda job: job["state"] == "released")
        first = site.call("GET", f"{JOBS}/{small}/result", site.scientist)
        kill(domain)
    with started(tmp_path) as domain:
        site.log_in(domain.wait_ready())
        assert site.call("GET", f"{JOBS}/{small}/result", site.scientist) == first
        assert site.call("GET", f"{JOBS}/{checking}", site.scientist)["state"] == "released"
