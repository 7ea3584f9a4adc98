"""Generated requests, valid and not, against the OpenAPI document that the Domain gives of itself.

Should happen: every answer has a status, a content type and a body that the document names.
Should not happen: a 5xx.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
    use_after_free,
)

from pygrid.domain import build_domain
from pygrid.settings import load_settings
from support.thorough import examples

TAGS = {
    "identity",
    "users",
    "roles",
    "groups",
    "health",
    "datasets",
    "models",
    "workers",
    "associations",
    "association-requests",
}
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    use_after_free,
]


@pytest.fixture
def fuzzed(tmp_path: Path) -> Iterator[tuple[Any, Callable[[], dict[str, str]]]]:
    """The document, and what gives the headers of a new session of an Owner who is not user 1."""
    app = build_domain(load_settings({}, data_dir=tmp_path, hosts="testserver"))
    with get_client(app) as client:
        person = {"email": "one@example.org", "password": "correct horse"}
        assert client.post("/users", json=person).status_code == 200
        token = client.post("/users/login", json=person).json()["token"]
        second = {"email": "two@example.org", "password": "correct horse", "role": 4}
        assert client.post("/users", json=second, headers={"Authorization": f"Bearer {token}"}).status_code == 200

        def log_in() -> dict[str, str]:
            return {"Authorization": f"Bearer {client.post('/users/login', json=second).json()['token']}"}

        yield schemathesis.openapi.from_asgi("/schema/openapi.json", app), log_in


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")
def test_every_answer_is_as_described(fuzzed: tuple[Any, Callable[[], dict[str, str]]]) -> None:
    schema, log_in = fuzzed
    num_operations = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        if not TAGS & set(operation.definition.raw.get("tags", [])):
            continue
        num_operations += 1
        # Some operations end the session they come with, so each gets one of its own.
        _fuzz(operation, log_in())
    assert num_operations >= 37


def _fuzz(operation: Any, headers: dict[str, str]) -> None:
    modes = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
    cases = hypothesis.strategies.one_of([operation.as_strategy(generation_mode=mode) for mode in modes])

    @hypothesis.settings(
        max_examples=examples(25),
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=cases)
    def check(case: Any) -> None:
        case.call_and_validate(headers=headers, checks=CHECKS)

    check()
