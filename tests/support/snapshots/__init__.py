"""Recordings of everything that users rely on: Python names, routes, commands, settings, metrics, error codes, tables.

They are the files in ``tests/snapshots``. A test compares each with what the code offers, so that a change of the code
that should change nothing for users can be proved to do so. ``scripts/snapshots`` writes them; a difference belongs
into ``CHANGELOG.md``.

No recording names an internal module, a version of a library, a path of a machine, or a text for people: modules can
move and texts can be rewritten without a difference.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from support.snapshots.apps import domain_openapi, metric_families, network_openapi, task_names
from support.snapshots.codes import error_codes
from support.snapshots.commands import command_line
from support.snapshots.python_names import public_api
from support.snapshots.schema import postgresql_schema, sqlite_schema
from support.snapshots.setting_fields import setting_fields

FOLDER = Path(__file__).parents[2] / "snapshots"

JSON: Mapping[str, Callable[[], Any]] = {
    "public_api.json": public_api,
    "openapi-domain.json": domain_openapi,
    "openapi-network.json": network_openapi,
    "cli.json": command_line,
    "settings.json": setting_fields,
    "metrics.json": metric_families,
    "tasks.json": task_names,
    "codes.json": error_codes,
}
SQL: Mapping[str, Callable[[], str]] = {
    "schema_sqlite.sql": sqlite_schema,
    "schema_postgresql.sql": postgresql_schema,
}


def read_json(name: str) -> Any:
    """The value of a recording."""
    return json.loads((FOLDER / name).read_text())


def to_text(value: Any) -> str:
    """JSON with sorted keys, a line for each value."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def write_all() -> list[str]:
    """Write every recording. Returns the names of those that changed."""
    texts = {name: to_text(take()) for name, take in JSON.items()}
    texts |= {name: take() for name, take in SQL.items()}
    changed = []
    for name, text in texts.items():
        path = FOLDER / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            changed.append(name)
    return changed


def differences(recorded: Any, current: Any, *, allow_additions: bool = False, at: str = "") -> list[str]:
    """What differs between a recording and the value of today, a line for each place.

    Args:
        allow_additions: keys of objects and items of lists that only ``current`` has are no difference.
    """
    if isinstance(recorded, dict) and isinstance(current, dict):
        found = [f"{at}/{key}: removed" for key in sorted(recorded.keys() - current.keys())]
        if not allow_additions:
            found += [f"{at}/{key}: added" for key in sorted(current.keys() - recorded.keys())]
        for key in sorted(recorded.keys() & current.keys()):
            found += differences(recorded[key], current[key], allow_additions=allow_additions, at=f"{at}/{key}")
        return found
    if allow_additions and isinstance(recorded, list) and isinstance(current, list):
        return [f"{at}: {item!r} removed" for item in recorded if item not in current]
    return [] if recorded == current else [f"{at}: was {recorded!r}, is {current!r}"]
