"""A Domain as a process whose jobs run on engines, and its people."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx
import sqlalchemy as sa

from pygrid.core.engine_starts import EngineStart
from pygrid.storage import audit, engine_starts
from pygrid.storage.audit import AuditEntry
from pygrid.storage.sql.database import Database
from pygrid.tensors import encode
from support.eventually import eventually_blocking
from support.plans.handmade import logistic_data, logistic_params, logistic_plan
from support.processes import port_of
from support.slurm import free_port

T = TypeVar("T")

JOBS, DATASETS, WORKERS = "/data-centric/jobs", "/data-centric/datasets", "/data-centric/workers"
PROGRAM = str(Path(sys.executable).with_name("pygrid"))
PASSWORD = "correct horse battery"
POLICY = {"epsilon": 8.0, "delta": 1e-6, "epsilon_per_user": 8.0, "auto_approve": True}
TERMS = {"epsilon": 0.5, "delta": 1e-6}
BINDING = {"x": "x", "y": "y"}
COUNT: dict[str, Any] = {"kind": "statistics", "statistics": [{"kind": "count"}]}
TRAIN: dict[str, Any] = {"kind": "train", "epochs": 2, "binding": BINDING}
LONG: dict[str, Any] = {"kind": "train", "epochs": 10_000, "batch_size": 1, "binding": BINDING}


def write_pools(path: Path, domain: str, *pools: Mapping[str, object]) -> None:
    """Write a ``pools.toml`` whose Workers are this machine's pygrid."""
    common = {"program": PROGRAM, "domain": domain, "memory_mb": 2048, "places": 2, "start_s": 60}
    tables = [
        "\n".join(["[[pool]]", *(f"{key} = {json.dumps(value)}" for key, value in {**common, **pool}.items())])
        for pool in pools
    ]
    path.write_text("\n\n".join(tables) + "\n")


class EngineSite:
    """A Domain with pools, its data owner and a scientist, and a dataset."""

    def __init__(
        self,
        folder: Path,
        address: str,
        web: httpx.Client,
        running: list[subprocess.Popen[bytes]],
        start: Callable[[], subprocess.Popen[bytes]],
    ) -> None:
        self.folder, self.address, self.web = folder, address, web
        self._running, self._start = running, start
        self.owner, self.scientist = self._sign_up("owner"), self._sign_up("scientist")
        config = {"name": "points", "visibility": "listed", "columns": [{"name": "y", "meaning": "label 0..2"}]}
        files = {"config": json.dumps(config).encode(), "data": encode(logistic_data(300))}
        self.dataset: int = self.call("POST", DATASETS, self.owner, files=files)["id"]

    def kill_and_start(self) -> None:
        """Kill the Domain, and start it again."""
        self._running[0].kill()
        self._running[0].wait()
        self._running[0] = self._start()

    def _sign_up(self, name: str) -> dict[str, str]:
        account = {"email": f"{name}@example.org", "password": PASSWORD}
        self.web.post(f"{self.address}/users", json=account)
        return {"Authorization": f"Bearer {self.web.post(f'{self.address}/users/login', json=account).json()['token']}"}

    def call(self, verb: str, path: str, who: dict[str, str], **more: Any) -> Any:
        answer = self.web.request(verb, self.address + path, headers=who, **more)
        assert answer.status_code in (200, 201), answer.text
        return answer.json()

    def allow(self, *pools: str) -> dict[str, Any]:
        """Let jobs run in these pools."""
        body = {**POLICY, "pools": pools, "allow_remote_workers": "leased" in pools}
        policy: dict[str, Any] = self.call("PUT", f"{DATASETS}/{self.dataset}/policy", self.owner, json=body)
        return policy

    def submit(self, **request: Any) -> str:
        config = {"dataset": self.dataset, "reason": "a test", **request}
        files = {"config": json.dumps(config).encode()}
        if request["kind"] == "train":
            files |= {"plan": logistic_plan().data, "model": encode(logistic_params())}
        job_id: str = self.call("POST", JOBS, self.scientist, files=files)["id"]
        return job_id

    def job(self, job_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", f"{JOBS}/{job_id}", self.owner)
        return found

    def wait(self, job_id: str, is_there: Callable[[dict[str, Any]], bool], seconds: float = 60) -> dict[str, Any]:
        def found() -> dict[str, Any] | None:
            job = self.job(job_id)
            return job if is_there(job) else None

        try:
            job: dict[str, Any] = eventually_blocking(found, seconds)
        except AssertionError as error:
            raise AssertionError(f"{self.job(job_id)}\n{(self.folder / 'domain.log').read_text()[-4000:]}") from error
        return job

    def wait_state(self, job_id: str, *states: str, seconds: float = 60) -> dict[str, Any]:
        return self.wait(job_id, lambda job: job["state"] in states, seconds)

    def approve(self, job_id: str, state: str = "waiting") -> None:
        job = self.wait_state(job_id, state)
        body = {"request_hash": job["request_hash"], "state": state}
        self.call("POST", f"{JOBS}/{job_id}/approve", self.owner, json=body)

    def result(self, job_id: str) -> bytes:
        answer = self.web.get(f"{self.address}{JOBS}/{job_id}/result", headers=self.scientist)
        assert answer.status_code == 200, answer.text
        return answer.content

    def spent(self) -> float:
        spent: float = self.call("GET", f"{DATASETS}/{self.dataset}/budget", self.owner)["spent"]
        return spent

    def read(self, query: Callable[[sa.Connection], T]) -> T:
        """What a query finds in the database of the Domain."""
        database = Database(f"sqlite:///{self.folder / 'data' / 'domain.db'}")
        try:
            return database.read_now(query)
        finally:
            database.close()

    def open_starts(self) -> list[EngineStart]:
        """The starts of engines that have not ended."""
        return self.read(engine_starts.list_open)

    def audited(self, job_id: str) -> list[AuditEntry]:
        """The audit entries of a job, in their order."""
        entries = self.read(lambda connection: audit.list_entries(connection, limit=1000))
        return sorted((one for one in entries if one.data.get("job_id") == job_id), key=lambda one: one.number)


@contextlib.contextmanager
def engine_site(
    folder: Path, make_pools: Callable[[str], list[Mapping[str, object]]], environment: Mapping[str, str]
) -> Iterator[EngineSite]:
    """A Domain as a process with these pools.

    Args:
        make_pools: returns the pools, given the address of the Domain.
    """
    port, port_file = free_port(), folder / "port"
    address = f"http://127.0.0.1:{port}"
    write_pools(folder / "pools.toml", address, *make_pools(address))
    command = [PROGRAM, "domain", "--port", str(port), "--port-file", str(port_file)]
    options = ["--data-dir", str(folder / "data"), "--pools", str(folder / "pools.toml"), "--num-workers", "1"]

    def start() -> subprocess.Popen[bytes]:
        port_file.unlink(missing_ok=True)
        with (folder / "domain.log").open("ab") as log:
            process = subprocess.Popen(
                [*command, *options], stdout=log, stderr=log, cwd=folder, env={**os.environ, **environment}
            )
        port_of(process, port_file, (folder / "domain.log").read_text)
        return process

    with httpx.Client(timeout=180) as web:
        running = [start()]
        try:
            yield EngineSite(folder, address, web, running, start)
        finally:
            running[0].terminate()
            running[0].wait()
    assert "Traceback" not in (folder / "domain.log").read_text()
