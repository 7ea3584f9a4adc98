"""What users rely on is as it was recorded.

Should happen: every recording equals what the code offers; additions to the Python interface are allowed.
Should not happen: a recording that names a module of pygrid's inside, a path of a machine or an address in memory.

If a change for users is meant, ``scripts/snapshots`` records it; it needs a line in ``CHANGELOG.md``.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from pygrid.storage.sql.database import Database
from pygrid.storage.sql.metadata import metadata
from pygrid.storage.sql.migrations import migrate
from support import snapshots
from support.snapshots.python_names import MODULES, NEEDS_TORCH, public_api

API = "public_api.json"
_INTERNAL = re.compile(r"\bpygrid\.(?!(?:client|edge|plans|errors|transport)\b(?!\.))[a-z]\w*")


@functools.cache
def current_api() -> Any:
    return json.loads(snapshots.to_text(public_api()))


@pytest.mark.parametrize("module", [*MODULES, "types"])
def test_the_python_interface_lacks_nothing_that_was_recorded(module: str) -> None:
    if module in (NEEDS_TORCH, "types"):
        pytest.importorskip("torch")
    recorded = snapshots.read_json(API)[module]
    assert recorded
    found = snapshots.differences(recorded, current_api()[module], allow_additions=True, at=module)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", [name for name in snapshots.JSON if name != API])
def test_a_recording_equals_what_the_code_offers(name: str) -> None:
    current = json.loads(snapshots.to_text(snapshots.JSON[name]()))
    assert current
    found = snapshots.differences(snapshots.read_json(name), current)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", snapshots.SQL)
def test_the_tables_are_as_recorded(name: str) -> None:
    assert snapshots.SQL[name]() == (snapshots.FOLDER / name).read_text()


def test_the_migrations_make_the_recorded_tables(database: Database) -> None:
    """Alembic's comparison, in the contract of `Database`, leaves out checks and the columns of primary keys."""
    migrate(database)
    migrated = database.read_now(shape)
    del migrated["alembic_version"]
    database.write_now(drop_everything)
    database.write_now(metadata.create_all)
    assert migrated == database.read_now(shape)


def drop_everything(connection: sa.Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("DROP SCHEMA public CASCADE"))
        connection.execute(sa.text("CREATE SCHEMA public"))
        return
    for name in sa.inspect(connection).get_table_names():
        connection.execute(sa.text(f'DROP TABLE "{name}"'))


def shape(connection: sa.Connection) -> dict[str, Any]:
    """Each table as the database describes it, in whichever order it was put together."""
    inspector = sa.inspect(connection)

    def describe(table: str) -> dict[str, Any]:
        columns = inspector.get_columns(table)
        constraints = [
            inspector.get_pk_constraint(table),
            *inspector.get_unique_constraints(table),
            *inspector.get_check_constraints(table),
            *inspector.get_foreign_keys(table),
            *inspector.get_indexes(table),
        ]
        return {
            "columns": {
                column["name"]: (str(column["type"]), column["nullable"], column["default"]) for column in columns
            },
            "constraints": sorted(json.dumps(constraint, sort_keys=True, default=str) for constraint in constraints),
        }

    return {table: describe(table) for table in inspector.get_table_names()}


def test_no_recording_names_what_is_internal() -> None:
    for name in (*snapshots.JSON, *snapshots.SQL):
        text = (snapshots.FOLDER / name).read_text()
        assert not _INTERNAL.findall(text), name
        assert " at 0x" not in text, name
        assert f"{Path.home()}/" not in text, name


@pytest.mark.parametrize(
    ("recorded", "current", "all_found", "found_with_additions"),
    [
        ({"a": {"b": 1}}, {"a": {"b": 1}}, [], []),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, ["/a/b: was 1, is 2"], ["/a/b: was 1, is 2"]),
        ({"a": {"b": 1}}, {"a": {}}, ["/a/b: removed"], ["/a/b: removed"]),
        ({"a": {}}, {"a": {"b": 1}}, ["/a/b: added"], []),
        ({"a": ["x"]}, {"a": ["x", "y"]}, ["/a: was ['x'], is ['x', 'y']"], []),
        ({"a": ["x", "y"]}, {"a": ["x"]}, ["/a: was ['x', 'y'], is ['x']"], ["/a: 'y' removed"]),
        ({"a": None}, {"a": {}}, ["/a: was None, is {}"], ["/a: was None, is {}"]),
    ],
)
def test_differences_are_found(
    recorded: Any, current: Any, all_found: list[str], found_with_additions: list[str]
) -> None:
    assert snapshots.differences(recorded, current) == all_found
    assert snapshots.differences(recorded, current, allow_additions=True) == found_with_additions
