"""A Domain whose files cannot grow: a limit on their size that is set while it runs (RLIMIT_FSIZE), a real one.

SQLite sees an I/O error, and the files of blobs a file that is too large.

Should happen: every call that stores something is refused with 503 or 507, ``Retry-After`` and a stable code; calls
that only read are answered; all works again once the limit is lifted.
Should not: a 500; files or rows of what was refused; a report that counts twice; a Domain that has to be started again.
"""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from test_job_crash import BINDING, DATASETS, JOBS, POLICY, Site
from test_start import started

from pygrid.tensors import encode
from support.plans.handmade import logistic_data, logistic_params, logistic_plan

CODES = {503: {"database_unavailable", "storage_unavailable"}, 507: {"storage_full"}}
RULES = {"num_cycles": 1, "cycle_length": 600, "min_workers": 1, "min_diffs": 1, "max_diffs": 1}
Call = Callable[[], httpx.Response]


def process_form(name: str) -> dict[str, bytes]:
    config = {"client_config": {"name": name, "version": "1"}, "server_config": RULES}
    plan = logistic_plan().data
    return {"config": json.dumps(config).encode(), "model": encode(logistic_params()), "plan:training_plan": plan}


def calls_of(site: Site, dataset: int, device: dict[str, str]) -> dict[str, Call]:
    """Calls that store something, by what they store."""

    def call(verb: str, path: str, who: dict[str, str] = site.owner, **more: Any) -> Call:
        return lambda: site.web.request(verb, site.address + path, headers=who, **more)

    job = {"dataset": dataset, "kind": "train", "reason": "a test", "binding": BINDING}
    job_files = {"config": json.dumps(job).encode(), "plan": logistic_plan().data, "model": encode(logistic_params())}
    upload = {"config": json.dumps({"name": "other"}).encode(), "data": encode(logistic_data(50))}
    diff = encode({name: np.full_like(array, 0.5) for name, array in logistic_params().items()})
    return {
        "sign-in": call(
            "POST", "/users/login", {}, json={"email": "owner@example.org", "password": "correct horse battery"}
        ),
        "account": call("POST", "/users", {}, json={"email": "new@example.org", "password": "correct horse battery"}),
        "e-mail": call("PUT", "/users/2/email", site.scientist, json={"email": "science@example.org"}),
        "group": call("POST", "/groups", json={"name": "nurses"}),
        "process": call("POST", "/model-centric/host-training", files=process_form("second")),
        "draft": call("POST", "/model-centric/drafts", files=process_form("third")),
        "dataset": call("POST", DATASETS, files=upload),
        "policy": call("PUT", f"{DATASETS}/{dataset}/policy", json=POLICY),
        "job": call("POST", JOBS, site.scientist, files=job_files),
        "report": call("POST", "/model-centric/report", device, content=diff),
    }


def stored(site: Site) -> dict[str, int]:
    listed = {
        "/model-centric/processes": "processes",
        "/model-centric/drafts": "drafts",
        DATASETS: "datasets",
        JOBS: "jobs",
        "/groups": "groups",
        "/users": "users",
    }
    return {name: len(site.call("GET", path, site.owner)[name]) for path, name in listed.items()}


def files_of(folder: Path) -> set[Path]:
    """Files of users, not those of the database and of the app."""
    return {
        path
        for name in ("blobs", "drafts", "datasets", "jobs", "diffs")
        for path in (folder / name).rglob("*")
        if path.is_file()
    }


@pytest.mark.slow
@pytest.mark.parametrize("max_bytes", [0, 16 * 1024], ids=["no file", "small files only"])
def test_files_that_cannot_grow_are_told_and_the_domain_goes_on(tmp_path: Path, max_bytes: int) -> None:
    with started(tmp_path) as domain, httpx.Client(timeout=180) as web:
        site = Site(web)
        site.sign_up(domain.wait_ready())
        site.log_in(domain.wait_ready())
        config = {"name": "points", "visibility": "listed", "columns": [{"name": "y", "meaning": "label 0..2"}]}
        files = {"config": json.dumps(config).encode(), "data": encode(logistic_data(100))}
        dataset = site.call("POST", DATASETS, site.owner, files=files)["id"]
        # So that the Workers' server has started: it would inherit the limit.
        first = site.submit(dataset, kind="train", binding=BINDING)
        site.wait(first, lambda job: job["state"] == "waiting")
        process = site.call("POST", "/model-centric/host-training", site.owner, files=process_form("first"))
        told = site.call("POST", "/model-centric/authenticate", {}, json={"model_name": "first"})
        asked = {"worker_id": told["worker_id"], "model": "first", "version": "1", "wait_s": 0}
        key = site.call("POST", "/model-centric/cycle-request", {}, json=asked)["request_key"]
        calls = calls_of(site, dataset, {"Authorization": f"Bearer {key}"})
        before, files_before = stored(site), files_of(tmp_path / "pygrid-data")

        resource.prlimit(domain.process.pid, resource.RLIMIT_FSIZE, (max_bytes, resource.RLIM_INFINITY))
        for _ in range(2):
            for name, call in calls.items():
                answer = call()
                assert answer.status_code in CODES, (name, answer.text)
                assert answer.json()["code"] in CODES[answer.status_code], (name, answer.text)
                assert int(answer.headers["retry-after"]) >= 1, name
        assert stored(site) == before
        assert files_of(tmp_path / "pygrid-data") - files_before <= {
            tmp_path / "pygrid-data" / "diffs" / f"{process['id']}.segment"
        }

        resource.prlimit(domain.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        for name, call in calls.items():
            answer = call()
            assert answer.status_code in (200, 201), (name, answer.text)
        after = stored(site)
        assert {name: after[name] - before[name] for name in after} == {
            "processes": 1,
            "drafts": 1,
            "datasets": 1,
            "jobs": 1,
            "groups": 1,
            "users": 1,
        }
        path = f"/model-centric/processes/{process['id']}/contributions"
        assert len(site.call("GET", path, site.owner)["contributions"]) == 1
        domain.process.terminate()
        assert domain.process.wait(180) == 0
