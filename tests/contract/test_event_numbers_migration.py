"""Events of older databases keep their ids as numbers, so a follower that remembers an id skips and repeats nothing."""

from __future__ import annotations

import datetime as dt

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from pygrid.storage.cycles import list_events, put_event
from pygrid.storage.sql.database import Database
from pygrid.storage.sql.migrations import FOLDER, migrate

pytestmark = pytest.mark.empty_database

NOW = dt.datetime(2026, 5, 1, 12)


@pytest.fixture
def old(database: Database) -> Database:
    """A database with three processes; the events of two of them alternate."""

    def fill(connection: sa.Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
        config.attributes["connection"] = connection
        command.upgrade(config, "0013")
        tables = sa.MetaData()
        tables.reflect(connection, only=("processes", "events"))
        for name in ("a", "b", "c"):
            row = {"name": name, "version": "1", "state": "active", "client_config": {}, "created_at": NOW}
            values = {**row, "num_parameters": 1, "server_config": {}}
            connection.execute(tables.tables["processes"].insert().values(values))
        for number in range(6):
            event = {"process_id": 1 + number % 2, "cycle": 1, "kind": f"event {number}", "data": {}, "at": NOW}
            connection.execute(tables.tables["events"].insert().values(event))

    database.write_now(fill)
    migrate(database)
    return database


def test_a_follower_goes_on_from_the_id_that_it_remembers(old: Database) -> None:
    for process_id, expected in ((1, [1, 3, 5, 6]), (2, [2, 4, 6, 7]), (3, [1])):
        old.write_now(lambda connection, p=process_id: put_event(connection, p, 1, "new", NOW.replace(tzinfo=dt.UTC)))
        found = old.read_now(lambda connection, p=process_id: list_events(connection, p, 0, 10))
        assert [event.number for event in found] == expected
    after = old.read_now(lambda connection: list_events(connection, 2, 4, 10))
    assert [event.kind for event in after] == ["event 5", "new"]
