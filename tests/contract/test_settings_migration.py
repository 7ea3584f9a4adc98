"""Settings of version 0.1 that had no effect are removed from what is stored, so processes and drafts can be read."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from pygrid.configuration import read_server_config
from pygrid.storage.sql.database import Database
from pygrid.storage.sql.migrations import FOLDER, migrate

pytestmark = pytest.mark.empty_database

NOW = dt.datetime(2026, 5, 1, 12)
SECRET = {"secret": "s" * 32}
STORED: list[tuple[dict[str, Any], set[str]]] = [
    ({"num_cycles": 3, "max_diffs": 2}, set()),
    ({"server_optimizer": {"name": "sgd", "momentum": 0.9, "tau": 0.1, "learning_rate": 0.5}}, {"momentum", "tau"}),
    ({"server_optimizer": {"name": "adam", "beta1": 0.5, "momentum": 0.9}}, {"momentum"}),
    ({"aggregation": {"name": "mean", "radius": 2.0, "bound": None}}, {"radius"}),
    ({"aggregation": {"bound": 3.0, "radius": 2.0}, "max_weight": 5}, {"bound", "max_weight"}),
    ({"aggregation": None, "authentication": None, "pool_window_s": 2.0}, {"pool_window_s"}),
    ({"outlier_factor": 4.0, "max_weight": 5, "clients_per_subject": 2}, {"clients_per_subject"}),
    ({"named_clients": True, "authentication": SECRET, "max_weight": 9}, set()),
    ({"authentication": SECRET, "clients_per_subject": 0, "pool_selection": "random", "pool_window_s": 0.5}, set()),
]


def bring_to(connection: sa.Connection, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def names(config: dict[str, Any]) -> set[str]:
    inner = [value for value in config.values() if isinstance(value, dict)]
    return {*config, *(name for value in inner for name in value)}


@pytest.fixture
def database(database_url: str):
    database = Database(database_url)
    yield database
    database.close()


def test_what_had_no_effect_is_gone_and_the_rest_stays(database: Database) -> None:
    def fill(connection: sa.Connection) -> None:
        bring_to(connection, "0006")
        tables = sa.MetaData()
        tables.reflect(connection, only=("processes",))
        for number, (config, _) in enumerate(STORED):
            row = {"name": f"p{number}", "version": "1", "state": "active", "client_config": {}, "created_at": NOW}
            values = {**row, "num_parameters": 1, "server_config": {"cycle_length": 60, **config}}
            connection.execute(tables.tables["processes"].insert().values(values))

    database.write_now(fill)
    migrate(database)

    def read(connection: sa.Connection) -> list[dict[str, Any]]:
        tables = sa.MetaData()
        tables.reflect(connection, only=("processes",))
        table = tables.tables["processes"]
        config = sa.type_coerce(table.c.server_config, sa.JSON)
        return list(connection.execute(sa.select(config).order_by(table.c.id)).scalars())

    for kept, (config, gone) in zip(database.read_now(read), STORED, strict=True):
        assert names({"cycle_length": 60, **config}) - names(kept) == gone
        read_server_config(kept)
