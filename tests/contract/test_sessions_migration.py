"""Sessions and accounts of older databases stay: their origin is unknown, and no account counts as disconnected."""

from __future__ import annotations

import datetime as dt

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from pygrid.storage.provided_identities import is_disconnected
from pygrid.storage.sql.database import Database
from pygrid.storage.sql.migrations import FOLDER, migrate
from pygrid.storage.user_sessions import list_sessions, put_session

pytestmark = pytest.mark.empty_database

NOW = dt.datetime(2026, 5, 1, 12)


def test_a_session_of_an_older_database_stays(database: Database) -> None:
    def fill(connection: sa.Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
        config.attributes["connection"] = connection
        command.upgrade(config, "0016")
        tables = sa.MetaData()
        tables.reflect(connection, only=("users", "sessions", "roles"))
        flags = {column.name: False for column in tables.tables["roles"].columns if column.name.startswith("can_")}
        connection.execute(tables.tables["roles"].insert().values({"id": 1, "name": "User", **flags}))
        user = {"email": "ann@example.org", "email_key": "ann@example.org", "password_hash": "x", "created_at": NOW}
        connection.execute(tables.tables["users"].insert().values(user | {"private_key_hash": "y", "role_id": 1}))
        times = {"created_at": NOW, "last_seen_at": NOW, "expires_at": NOW + dt.timedelta(hours=12)}
        connection.execute(tables.tables["sessions"].insert().values(times | {"token_hash": "a" * 64, "user_id": 1}))

    database.write_now(fill)
    migrate(database)
    now = NOW.replace(tzinfo=dt.UTC)
    database.write_now(lambda connection: put_session(connection, "b" * 64, 1, now, "Firefox on Windows"))
    found = database.read_now(lambda connection: list_sessions(connection, 1, now))
    assert {(one.id, one.label) for one in found} == {("a" * 16, ""), ("b" * 16, "Firefox on Windows")}
    assert database.read_now(lambda connection: is_disconnected(connection, 1)) is False
