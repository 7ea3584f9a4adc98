"""Generated requests, valid and not, to the routes of jobs, against the Domain's OpenAPI document.

Should happen: every answer has a status, a content type and a body that the document names.
Should not happen: a 5xx; a job, a policy or a budget that was there is harmed.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.python.asgi import get_client
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from pygrid.compute.pools import Pools
from pygrid.domain import build_domain
from pygrid.features.jobs.running.scheduler import JobScheduler
from pygrid.settings import DomainSettings
from support.jobs import DATASETS, JOBS, POLICY, npz, records
from support.thorough import examples

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
ENDLESS = {"/data-centric/jobs/{job_id}/events"}
"""Answers that end with the job: tried by hand in `test_job_decisions`."""


@pytest.fixture
def fuzzed(settings: DomainSettings, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Any, dict[str, str], str]]:
    """The document, a client, the headers of an Owner, and the id of a job that nobody takes up."""

    async def start(_pools: Pools) -> None:
        """Nothing is run here."""

    async def run(_scheduler: JobScheduler) -> None:
        """No job is taken up."""

    monkeypatch.setattr(Pools, "start", start)
    monkeypatch.setattr(JobScheduler, "run", run)
    app = build_domain(dataclasses.replace(settings, hosts="testserver"))
    with get_client(app) as client:
        person = {"email": "owner@example.org", "password": "correct horse battery"}
        assert client.post("/users", json={**person, "setup_code": "c" * 16}).status_code == 200
        owner = {"token": client.post("/users/login", json=person).json()["token"]}
        files = {"config": json.dumps({"name": "points"}).encode(), "data": npz(records())}
        dataset = client.post(DATASETS, files=files, headers=owner)
        assert dataset.status_code == 201, dataset.text
        assert client.put(f"{DATASETS}/1/policy", json=POLICY, headers=owner).status_code == 200
        request = {"dataset": 1, "kind": "statistics", "reason": "r", "statistics": [{"kind": "count"}]}
        job = client.post(JOBS, files={"config": json.dumps(request).encode()}, headers=owner)
        assert job.status_code == 201, job.text
        yield schemathesis.openapi.from_asgi("/schema/openapi.json", app), client, owner, job.json()["id"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")
def test_every_answer_is_as_described(fuzzed: tuple[Any, Any, dict[str, str], str]) -> None:
    schema, client, owner, job_id = fuzzed
    num_operations = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        if "jobs" not in operation.definition.raw.get("tags", []) or operation.path in ENDLESS:
            continue
        num_operations += 1
        _fuzz(operation, owner, {})
        if "{job_id}" in operation.path and not operation.path.endswith("/cancel"):
            _fuzz(operation, owner, {"job_id": job_id})
        if "{dataset_id}" in operation.path and operation.method.upper() == "GET":
            _fuzz(operation, owner, {"dataset_id": 1})
    assert num_operations >= 11
    shown = client.get(f"{JOBS}/{job_id}", headers=owner).json()
    assert (shown["state"], shown["decided_by"]) == ("checking", None)
    assert client.get(f"{DATASETS}/1/policy", headers=owner).json()["epsilon"] == POLICY["epsilon"]


def _fuzz(operation: Any, headers: dict[str, str], path: dict[str, Any]) -> None:
    modes = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
    cases = hypothesis.strategies.one_of([operation.as_strategy(generation_mode=mode) for mode in modes])

    @hypothesis.settings(
        max_examples=examples(15),
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=cases)
    def check(case: Any) -> None:
        case.path_parameters.update(path)
        case.call_and_validate(headers=headers, checks=CHECKS)

    check()
