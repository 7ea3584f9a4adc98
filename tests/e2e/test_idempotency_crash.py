"""A Domain that is killed (``kill -9``) while jobs with an ``Idempotency-Key`` are sent, and the same jobs sent again.

Should happen: each call is done once, whatever was answered before; what was answered is answered again.
Should not happen: a job that is there twice, or one that was answered and is gone.
"""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from test_job_crash import DATASETS, JOBS, Site, kill
from test_start import started

from pygrid.tensors import encode
from support.plans.handmade import logistic_data

NUM_CALLS = 18
"""Fewer than the jobs that a user may have at a time."""


def submit(site: Site, dataset: int, number: int) -> dict[str, Any] | None:
    """The answer; None: the Domain was killed before it came."""
    config = {
        "dataset": dataset,
        "reason": f"call {number}",
        "kind": "statistics",
        "statistics": [{"kind": "count"}],
    }
    try:
        answer = site.web.post(
            site.address + JOBS,
            files={"config": json.dumps(config).encode()},
            headers={**site.scientist, "Idempotency-Key": f"call-{number}"},
        )
    except httpx.TransportError:
        return None
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


@pytest.mark.slow
def test_each_call_is_done_once_whenever_the_domain_is_killed(tmp_path: Path) -> None:
    with httpx.Client(timeout=180) as web:
        site, answered = Site(web), {}
        for kill_after in (1, 6):
            with started(tmp_path) as domain:
                if not answered:
                    site.sign_up(domain.wait_ready())
                site.log_in(domain.wait_ready())
                if not answered:
                    files = {"config": json.dumps({"name": "points", "visibility": "listed"}).encode()}
                    dataset = site.call(
                        "POST", DATASETS, site.owner, files={**files, "data": encode(logistic_data(30))}
                    )["id"]
                enough = threading.Semaphore(0)

                def send(
                    number: int, dataset: int = dataset, enough: threading.Semaphore = enough
                ) -> tuple[int, dict[str, Any] | None]:
                    made = submit(site, dataset, number)
                    enough.release()
                    return number, made

                with ThreadPoolExecutor(6) as pool:
                    sent = [pool.submit(send, number) for number in range(NUM_CALLS)]
                    for _ in range(kill_after):
                        enough.acquire(timeout=180)
                    kill(domain)
                for number, made in (one.result() for one in sent):
                    if made is not None:
                        assert answered.setdefault(number, made) == made
        assert answered
        with started(tmp_path) as domain:
            site.log_in(domain.wait_ready())
            for number in range(NUM_CALLS):
                made = submit(site, dataset, number)
                assert answered.setdefault(number, made) == made
            jobs = site.call("GET", f"{JOBS}?limit=1000", site.scientist)["jobs"]
            assert sorted(job["reason"] for job in jobs) == sorted(f"call {number}" for number in range(NUM_CALLS))
            assert {job["id"] for job in jobs} == {made["id"] for made in answered.values()}
