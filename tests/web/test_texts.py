"""Texts that a database cannot hold, in every place of every route, on PostgreSQL.

Should happen: NUL characters and halves of surrogate pairs are refused with 400 in a path, a query, a header and a
body. Should not happen: a 5xx, from any route of the OpenAPI document of either app.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import sqlalchemy as sa
from litestar import Litestar

from pygrid.domain import build_domain
from pygrid.errors import InvalidInput
from pygrid.network import build_network
from pygrid.settings import load_network_settings, load_settings
from pygrid.storage.sql.database import Database
from support.web import PASSWORD, People, assert_problem, running

NUL, SURROGATE = "a\0b", "a\ud800b"
BAD = {"NUL": NUL, "surrogate": SURROGATE}


@pytest.fixture(params=["domain", "network"])
def app(request: pytest.FixtureRequest, migrated_postgres_url: str, tmp_path: Path) -> Litestar:
    values = {"DATABASE_URL": migrated_postgres_url}
    if request.param == "domain":
        return build_domain(load_settings(values, data_dir=tmp_path, id="test"))
    return build_network(load_network_settings(values, data_dir=tmp_path, id="test"))


@pytest.mark.slow
async def test_no_route_fails_at_a_text_that_cannot_be_stored(app: Litestar) -> None:
    document = app.openapi_schema.to_schema()
    num_calls = 0
    async with running(app) as web:
        people = People(web)
        headers = await people.owner()
        for verb, path, operation in _operations(document):
            for call in _calls(document, path, operation):
                answer = await web.request(
                    verb, call.pop("path"), headers={**headers, **call.pop("headers", {})}, **call
                )
                assert answer.status_code < 500, (verb, path, call, answer.text)
                if answer.status_code == 401 or "logout" in path:
                    headers = await people.log_in("owner@example.org")
                num_calls += 1
    assert num_calls > 100


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, operations in document["paths"].items():
        for verb in ("get", "post", "put", "delete"):
            if verb in operations and "/events" not in path:
                yield verb.upper(), path, operations[verb]


def _calls(document: dict[str, Any], path: str, operation: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Each has one bad text in one place; all else is well-formed."""
    parameters = operation.get("parameters", [])
    good_path = path
    for parameter in parameters:
        if parameter["in"] == "path":
            good_path = good_path.replace(f"{{{parameter['name']}}}", "1" * 32 if "str" in _types(parameter) else "1")
    query = {p["name"]: "1" for p in parameters if p["in"] == "query" and p.get("required")}
    body = _body(document, operation)
    for bad in BAD.values():
        raw = quote(bad.encode("utf-8", "surrogatepass"))
        for parameter in parameters:
            if parameter["in"] == "path":
                yield {
                    "path": path.replace(f"{{{parameter['name']}}}", raw).replace("{", "").replace("}", ""),
                    "json": body,
                }
            elif parameter["in"] == "query":
                pairs = "&".join(
                    f"{name}={raw if name == parameter['name'] else value}" for name, value in query.items()
                )
                yield {"path": f"{good_path}?{pairs}&{parameter['name']}={raw}", "json": body}
            else:
                value = bad.encode("utf-8", "surrogatepass")
                yield {"path": good_path, "headers": {parameter["name"]: value}, "params": query, "json": body}
        for spoiled in _spoil(body, bad):
            text = json.dumps(spoiled)
            yield {"path": good_path, "params": query, "content": text.encode()}


def _types(parameter: dict[str, Any]) -> str:
    return json.dumps(parameter.get("schema", {}))


def _body(document: dict[str, Any], operation: dict[str, Any]) -> Any:
    content = operation.get("requestBody", {}).get("content", {})
    return _example(document, next(iter(content.values()))["schema"]) if content else {}


def _example(document: dict[str, Any], schema: dict[str, Any], depth: int = 0) -> Any:
    """A value of a schema, with everything that is optional."""
    if "$ref" in schema:
        return _example(document, document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]], depth + 1)
    for several in ("oneOf", "anyOf", "allOf"):
        if several in schema:
            return _example(document, next((one for one in schema[several] if one.get("type") != "null"), {}), depth)
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "string")
    if kind == "object" and depth < 6:
        return {name: _example(document, inner, depth + 1) for name, inner in schema.get("properties", {}).items()}
    values = {"integer": 1, "number": 1.0, "boolean": False, "object": {}, "string": PASSWORD}
    return [_example(document, schema.get("items", {}), depth + 1)] if kind == "array" else values.get(kind)


def _spoil(value: Any, bad: str) -> Iterator[Any]:
    """The value with one of its texts, or of its names, replaced."""
    if isinstance(value, str):
        yield bad
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        for inner in _spoil(value[key], bad):
            spoiled = copy.deepcopy(value)
            spoiled[key] = inner
            yield spoiled
    if isinstance(value, dict):
        yield {**value, bad: "x"}


async def test_a_nul_is_refused_wherever_it_comes(app: Litestar) -> None:
    async with running(app) as web:
        owner = await People(web).owner()
        sent: list[httpx.Response] = [
            await web.get("/users/%00", headers=owner),
            await web.get("/users?x=%00", headers=owner),
            await web.get("/users", headers={**owner, "X-Name": b"a\0b"}),
            await web.post("/users/login", json={"email": "a\0@example.org", "password": PASSWORD}),
            await web.post("/users/login", content=b'{"email": "a", "password": "b", "\\u0000": 1}'),
        ]
        for answer in sent:
            assert_problem(answer, 400, "invalid_text")
        literal = await web.post("/users/login", content=b'{"email": "a@example.org", "password": "\\\\u0000"}')
        assert literal.status_code == 403, "a backslash and u0000 are six characters"


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
async def test_leave_refuses_it(migrated_postgres_url: str, tmp_path: Path, bad: str) -> None:
    app = build_domain(load_settings({"DATABASE_URL": migrated_postgres_url}, data_dir=tmp_path, id="test"))
    async with running(app) as web:
        for field in ("worker_id", "model", "version"):
            message = json.dumps({"worker_id": "x", "model": "m", "version": "1", field: bad})
            assert (await web.post("/model-centric/leave", content=message.encode())).status_code == 400


@pytest.mark.parametrize("bad", [pytest.param(NUL, id="NUL"), pytest.param(SURROGATE, id="surrogate")])
async def test_what_comes_as_far_as_the_database_is_refused_there(database: Database, bad: str) -> None:
    """As a name within a file does, which no check of a request sees."""

    def use(connection: sa.Connection) -> object:
        return connection.execute(sa.text("SELECT CAST(:bad AS TEXT)"), {"bad": bad}).scalar()

    if database.dialect == "sqlite" and bad == NUL:
        assert await database.read(use)
        return
    for call in (database.read, database.write, database.look_up):
        with pytest.raises(InvalidInput) as refused:
            await call(use)
        assert refused.value.code == "invalid_text"
    assert await database.write(lambda connection: connection.execute(sa.text("SELECT 1")).scalar()) == 1
