"""Generated requests, valid and not, to the routes of search, against the OpenAPI document of a Network with a Domain.

Should happen: every answer has a status, a content type and a body that the document names.
Should not happen: a 5xx.
"""

from __future__ import annotations

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

from pygrid.features.discovery import routes
from pygrid.features.discovery.service import DiscoveryService
from pygrid.network import build_network
from pygrid.settings import load_network_settings
from pygrid.web.services import service
from support.fleet import dataset
from support.thorough import examples

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


class Answering:
    """A Domain that answers everything."""

    name, state, address, identity, catalog = "one", "online", "", "ed25519:" + "a" * 52, "1"

    async def request(self, type: str, payload: Any, timeout_s: float) -> dict[str, Any]:
        if type == "summary":
            return {"version": "1", "tags": ["census"], "models": ["digits"]}
        return {"version": "1", "datasets": [dataset(tags=["census"])]}


class Fleet:
    def members(self) -> list[Answering]:
        return [Answering()]


@pytest.fixture
def schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(routes, "MAX_SEARCHES", 1_000_000)
    app = build_network(load_network_settings({}, data_dir=tmp_path, hosts="testserver"))
    with get_client(app):
        service(app.state, DiscoveryService).domains = Fleet()
        yield schemathesis.openapi.from_asgi("/schema/openapi.json", app)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")
def test_every_answer_is_as_described(schema: Any) -> None:
    num_operations = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        if "discovery" in operation.definition.raw.get("tags", []):
            num_operations += 1
            _fuzz(operation)
    assert num_operations == 12


def _fuzz(operation: Any) -> None:
    modes = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
    cases = hypothesis.strategies.one_of([operation.as_strategy(generation_mode=mode) for mode in modes])

    @hypothesis.settings(
        max_examples=examples(40),
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=cases)
    def check(case: Any) -> None:
        case.call_and_validate(checks=CHECKS)

    check()
