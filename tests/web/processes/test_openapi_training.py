"""Generated requests, valid and not, to the routes of devices and of model owners, against the Domain's OpenAPI
document.

Should happen: every answer has a status, a content type and a body that the document names.
Should not happen: a 5xx; a process that was there is harmed.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
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

from pygrid.clock import ManualClock
from pygrid.domain import build_domain
from pygrid.settings import DomainSettings
from pygrid.tensors import encode
from support.thorough import examples
from support.training import config, form, gate_in_process, model

TAGS = {"devices", "processes", "drafts"}
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
ENDLESS = {"/model-centric/processes/{process_id}/events"}
"""Answers that end only with the Domain: tried by hand in `test_owning`."""


@pytest.fixture
def fuzzed(
    owned_folder: tuple[Path, dict[str, str]],
    settings: DomainSettings,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[tuple[Any, Any, dict[str, str]]]:
    """The document, a client, and the headers of an Owner who hosted a process."""
    monkeypatch.setattr("pygrid.features.processes.hosting.check_async", gate_in_process)
    monkeypatch.setattr("pygrid.features.cycles.routes.SPEED_TEST_BYTES", 1000)
    folder, owner = owned_folder
    shutil.copytree(folder, settings.data_dir)
    app = build_domain(dataclasses.replace(settings, hosts="testserver"), clock=clock)
    with get_client(app) as client:
        hosted = client.post("/model-centric/host-training", files=form(config(), encode(model())), headers=owner)
        assert hosted.status_code == 201, hosted.text
        kept = client.post("/model-centric/drafts", files=form(config(name="later"), encode(model())), headers=owner)
        assert kept.status_code == 201, kept.text
        yield schemathesis.openapi.from_asgi("/schema/openapi.json", app), client, owner


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")
def test_every_answer_is_as_described(fuzzed: tuple[Any, Any, dict[str, str]]) -> None:
    schema, client, owner = fuzzed
    num_operations = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        if not TAGS & set(operation.definition.raw.get("tags", [])) or operation.path in ENDLESS:
            continue
        num_operations += 1
        _fuzz(operation, owner)
    assert num_operations >= 21
    shown = client.get("/model-centric/processes/1", headers=owner).json()
    assert (shown["name"], shown["num_checkpoints"], shown["cycle"]["num_reports"]) == ("digits", 1, 0)


def _fuzz(operation: Any, headers: dict[str, str]) -> None:
    modes = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
    cases = hypothesis.strategies.one_of([operation.as_strategy(generation_mode=mode) for mode in modes])

    @hypothesis.settings(
        max_examples=examples(20),
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=cases)
    def check(case: Any) -> None:
        # Without a wait: an answer may be held for two minutes otherwise.
        if isinstance(case.body, dict) and isinstance(case.body.get("wait_s"), int | float):
            case.body["wait_s"] = min(case.body["wait_s"], 0)
        # A ping is answered with {}, all else of its route with bytes; a document can name one of the two.
        is_ping = case.path == "/model-centric/speed-test" and "is_ping" in (case.query or {})
        case.call_and_validate(headers=headers, checks=CHECKS[:2] if is_ping else CHECKS)

    check()
