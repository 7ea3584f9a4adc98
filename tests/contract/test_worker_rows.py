"""Rows of Workers of other machines, on SQLite and on PostgreSQL."""

from __future__ import annotations

import datetime as dt

import pytest

from pygrid.errors import Conflict, NotFound
from pygrid.storage import workers as rows
from pygrid.storage.sql.database import Database
from pygrid.storage.sql.migrations import migrate
from pygrid.storage.workers import Worker

NOW = dt.datetime(2026, 5, 1, 12, tzinfo=dt.UTC)


def put(database: Database, name: str) -> Worker:
    return database.write_now(lambda connection: rows.put_worker(connection, name, name * 10, 5, NOW))


def find(database: Database, token_hash: str) -> Worker | None:
    return database.read_now(lambda connection: rows.find_worker(connection, token_hash))


def test_a_worker_is_found_by_its_token_until_it_is_released(database: Database) -> None:
    migrate(database)
    first, second = put(database, "a"), put(database, "b")
    assert (first.name, first.last_seen_at) == ("a", None)
    database.write_now(lambda connection: rows.update_seen(connection, first.id, NOW))
    seen = Worker(first.id, "a", NOW, NOW)
    assert find(database, "a" * 10) == seen
    assert database.read_now(rows.list_workers) == [seen, second]
    database.write_now(lambda connection: rows.release_worker(connection, first.id))
    assert find(database, "a" * 10) is None
    assert database.read_now(rows.list_workers) == [second]
    with pytest.raises(NotFound, match="no Worker"):
        database.write_now(lambda connection: rows.release_worker(connection, first.id))
    assert put(database, "a").id > second.id, "the number of a Worker that was is not given again"


def test_a_name_is_given_once(database: Database) -> None:
    migrate(database)
    first = put(database, "a")
    with pytest.raises(Conflict, match="already"):
        put(database, "a")
    assert database.read_now(rows.list_workers) == [first]
