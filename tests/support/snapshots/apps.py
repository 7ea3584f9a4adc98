"""Recordings of the running apps: OpenAPI documents, metrics, background tasks."""

from __future__ import annotations

import ast
import asyncio
import functools
import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from litestar import Litestar
from prometheus_client import CollectorRegistry

from pygrid.domain import build_domain
from pygrid.network import build_network
from pygrid.settings import load_network_settings, load_settings
from support.snapshots.sources import passed, texts_of, trees

_TEXTS = {"description", "summary", "title", "example", "examples", "externalDocs"}
_MAPS = {"properties", "patternProperties", "schemas", "securitySchemes", "responses", "headers", "content", "$defs"}
"""Keys whose value is an object with names for keys."""
_UNORDERED = {"required", "enum", "oneOf", "anyOf", "allOf", "type", "tags", "security", "parameters"}


class _Seen(NamedTuple):
    openapi: dict[str, Any]
    families: dict[str, Any]
    tasks: list[str]


@functools.cache
def _look(name: str) -> _Seen:
    """What a Domain or a Network shows of itself while it runs."""

    async def run(app: Litestar) -> _Seen:
        async with app.lifespan():
            document = app.openapi_schema.to_schema()
            return _Seen(_plain(document), _families(app.state.metrics.registry), app.state.tasks.names)

    with tempfile.TemporaryDirectory(prefix="pygrid-snapshots-") as folder:
        data_dir = Path(folder) / "data"
        if name == "domain":
            return asyncio.run(run(build_domain(load_settings({}, data_dir=data_dir))))
        return asyncio.run(run(build_network(load_network_settings({}, data_dir=data_dir))))


def _plain(document: dict[str, Any]) -> dict[str, Any]:
    """Paths, operations and components of an OpenAPI document, without texts and in one order."""
    paths = {path: _without_texts(item) for path, item in document["paths"].items()}
    components = {kind: _without_texts(items, is_map=True) for kind, items in document["components"].items()}
    return {"paths": paths, "components": components}


def _without_texts(node: Any, *, is_map: bool = False) -> Any:
    if isinstance(node, list):
        return [_without_texts(item) for item in node]
    if not isinstance(node, dict):
        return node
    if is_map:
        return {name: _without_texts(value) for name, value in node.items()}
    found = {}
    for key, value in node.items():
        if key in _TEXTS:
            continue
        plain = _without_texts(value, is_map=key in _MAPS)
        found[key] = sorted(plain, key=_order) if key in _UNORDERED and isinstance(plain, list) else plain
    return found


def _order(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _families(registry: CollectorRegistry) -> dict[str, Any]:
    """Name -> type and labels. A histogram has its buckets too, which are values of its label ``le``."""
    found = {}
    for collector in registry._collector_to_names:
        labels = sorted(getattr(collector, "_labelnames", ()))
        buckets = [str(bound) for bound in getattr(collector, "_kwargs", {}).get("buckets", ())]
        for family in collector.collect():
            if family.name.startswith("pygrid_"):
                found[family.name] = {
                    "type": family.type,
                    "labels": labels,
                    **({"buckets": buckets} if buckets else {}),
                }
    return found


def domain_openapi() -> dict[str, Any]:
    """The OpenAPI document of a Domain, without texts."""
    return _look("domain").openapi


def network_openapi() -> dict[str, Any]:
    """The OpenAPI document of a Network, without texts."""
    return _look("network").openapi


def metric_families() -> dict[str, Any]:
    """The families of pygrid's own metrics, by app; those of the process are the library's."""
    return {name: _look(name).families for name in ("domain", "network")}


def task_names() -> dict[str, list[str]]:
    """The names that ``/health`` and the metric ``pygrid_task_failures`` show: of background tasks by app, and of steps
    in them whose failures are counted on their own.
    """
    return {**{name: _look(name).tasks for name in ("domain", "network")}, "steps": sorted(_steps())}


def _steps() -> set[str]:
    """The labels of ``task_failures`` in the source, also those that a function takes as ``task``."""
    values = [item.value for item in passed("task")]
    for tree in trees().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("task_failures.labels"):
                values += node.args
    return set().union(*map(texts_of, values))
