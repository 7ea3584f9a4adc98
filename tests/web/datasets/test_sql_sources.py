"""Datasets from queries of real databases: PostgreSQL, SQLite and DuckDB.

Should happen: the records of a query are stored as they are, and a refresh makes a version of those of that time.
Should not happen: user or password in the catalog, an answer, an error or a log; a query that writes; the query in the
view of another user.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import sqlite3
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import msgspec
import psycopg
import pytest

from pygrid.client import DomainClient, SqlQuery
from pygrid.core.datasets import visible_schema
from pygrid.core.sql_origins import check_origin
from pygrid.errors import InvalidConfig, InvalidInput
from pygrid.messages.sql_origins import SqlOrigin
from support.sdk import owner_of, running_domain

PASSWORD = "Sälz&25@x/y"
ROWS = [
    ("007", 30, 1.5, "f", dt.date(1990, 5, 1)),
    ("008", None, 2.0, "m", None),
    ("O'Brien", 2**53 - 1, -1e-3, None, dt.date(2020, 12, 31)),
]
CREATE = "CREATE TABLE visits (patient TEXT, age {int}, score {float}, sex TEXT, born {date})"
SELECT = "SELECT patient, age, score, sex, born FROM visits ORDER BY patient"
COLUMNS = {"born": "date", "sex": "category,categories=f|m", "age": "float64"}
STORED = {
    "patient": ["007", "008", "O'Brien"],
    "age": [30.0, None, 2.0**53 - 1],
    "score": [1.5, 2.0, -0.001],
    "sex": ["f", "m", None],
    "born": ["1990-05-01", None, "2020-12-31"],
}

Execute = Callable[[str], object]


@contextlib.contextmanager
def sqlite_database(folder: Path) -> Iterator[tuple[str, Execute]]:
    path = folder / "clinic one.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(CREATE.format(int="INTEGER", float="REAL", date="TEXT"))
        texts = [(*row[:4], None if row[4] is None else row[4].isoformat()) for row in ROWS]
        connection.executemany("INSERT INTO visits VALUES (?, ?, ?, ?, ?)", texts)
        yield f"sqlite:///{path}", connection.execute


@contextlib.contextmanager
def duckdb_database(folder: Path) -> Iterator[tuple[str, Execute]]:
    path = folder / "clinic.duckdb"

    def execute(statement: str) -> None:  # each time a connection: one that writes locks the file
        with duckdb.connect(str(path)) as connection:
            connection.execute(statement)

    with duckdb.connect(str(path)) as connection:
        connection.execute(CREATE.format(int="BIGINT", float="DOUBLE", date="DATE"))
        connection.executemany("INSERT INTO visits VALUES (?, ?, ?, ?, ?)", ROWS)
    yield f"duckdb:///{path}", execute


@pytest.fixture(scope="module")
def clinic(postgres_server: str) -> Iterator[str]:
    """The address of PostgreSQL with a table, and a user who can only read it."""
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(CREATE.format(int="BIGINT", float="DOUBLE PRECISION", date="DATE"))
        with connection.cursor() as cursor:
            cursor.executemany("INSERT INTO visits VALUES (%s, %s, %s, %s, %s)", ROWS)
        connection.execute(f"CREATE ROLE reader LOGIN PASSWORD '{PASSWORD}'".encode())
        connection.execute("GRANT SELECT ON visits TO reader")
        yield postgres_server
        connection.execute("DROP TABLE visits")
        connection.execute("DROP ROLE reader")


@contextlib.contextmanager
def postgres_database(address: str) -> Iterator[tuple[str, Execute]]:
    parts = urllib.parse.urlsplit(address)
    database = f"postgresql://reader:{urllib.parse.quote(PASSWORD, safe='')}@{parts.netloc.rpartition('@')[2]}"
    with psycopg.connect(address, autocommit=True) as connection:
        yield f"{database}{parts.path}?{parts.query}", lambda statement: connection.execute(statement.encode())


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DomainClient]:
    with running_domain(tmp_path_factory.mktemp("domain")) as transport:
        yield owner_of(transport)


@pytest.mark.parametrize("system", ["postgresql", "sqlite", "duckdb"])
def test_from_a_query_to_a_refreshed_dataset(
    system: str, domain: DomainClient, clinic: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    opened = {
        "postgresql": lambda: postgres_database(clinic),
        "sqlite": lambda: sqlite_database(tmp_path),
        "duckdb": lambda: duckdb_database(tmp_path),
    }
    with opened[system]() as (url, execute):
        query = SqlQuery(url, SELECT)
        dataset = domain.datasets.upload(f"of {system}", query, columns=COLUMNS, visibility="listed")
        assert dataset.preview().columns == STORED
        origin = dataset.schema.origin
        assert origin == query.origin
        assert origin is not None
        assert (origin.query, origin.database.partition(":")[0]) == (SELECT, system)
        execute("INSERT INTO visits VALUES ('1000', 41, 0.5, 'f', '2000-01-01')")
        info = dataset.refresh(url, note="again")
        assert (info.version, info.num_records, info.versions[0].note) == (2, 4, "again")
        assert "1000" in dataset.preview().columns["patient"]
        assert dataset.schema.origin == origin
        for statement in ("DELETE FROM visits", "INSERT INTO visits VALUES ('x', 1, 1.0, 'f', NULL) RETURNING age"):
            with pytest.raises(InvalidInput) as refused:
                dataset.refresh(url, statement)
            assert refused.value.code == "invalid_sql_source"
        execute("DELETE FROM visits WHERE patient = '1000'")
        shown = [repr(query), str(msgspec.json.encode(dataset.info())), caplog.text, refused.value.detail]
        for secret in (PASSWORD, urllib.parse.quote(PASSWORD, safe="")):
            assert all(secret not in text for text in shown)
        assert not any("reader" in text for text in shown[1:])
        assert visible_schema(dataset.schema, to_owner=False).origin is None


def test_errors_of_postgresql_name_no_user_and_no_password(clinic: str) -> None:
    with postgres_database(clinic) as (url, _):
        for query, why in (("SELECT nothing FROM visits", "nothing"), ("SELECT '%' FROM patients", "patients")):
            with pytest.raises(InvalidInput, match=why) as refused:
                SqlQuery(url, query).save_arrow(Path("/nowhere"))
        wrong = url.replace("reader:", "nobody_here:")
        for address in (wrong, "postgresql://nobody_here:s3cret-word@127.0.0.1:1/clinic?connect_timeout=2"):
            with pytest.raises(InvalidInput) as refused:
                SqlQuery(address, SELECT).save_arrow(Path("/nowhere"))
            text = "".join(map(str, (refused.value.detail, refused.value.fields, refused.value.__cause__)))
            assert "nobody_here" not in text
            assert "s3cret-word" not in text
            assert PASSWORD not in text


@pytest.mark.parametrize(
    ("url", "query", "why"),
    [
        ("mysql://ann:s3cret-word@host/db", "SELECT 1", "'mysql' is not a database"),
        ("s3cret-word", "SELECT 1", "is not valid"),
        ("postgresql://ann:s3cret-word@host:port/db", "SELECT 1", "is not valid"),
        ("sqlite:///no/such/file", " ", "the query is empty"),
        ("sqlite:///no/such/file", "SELECT 1", "there is no database file"),
        ("duckdb:///no/such/file", "SELECT 1", "there is no database file"),
        ("sqlite://", "SELECT 1 AS a, 2 AS a", "two columns 'a'"),
        ("sqlite://", "SELECT 1 AS a WHERE 1 = 0", "no records"),
        ("sqlite://", "CREATE TABLE x (y)", "returns no table"),
        ("sqlite://", "SELECT 1 AS a UNION ALL SELECT 'x'", "column 'a' cannot be sent"),
    ],
)
def test_sources_that_are_refused(url: str, query: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=why) as refused:
        SqlQuery(url, query).save_arrow(tmp_path / "data")
    assert refused.value.code == "invalid_sql_source"
    assert "s3cret-word" not in refused.value.detail


def test_types_that_differ_between_pieces(domain: DomainClient, tmp_path: Path) -> None:
    """Whole numbers first, then gaps, then fractions: the column has all of them exactly."""
    query = """
        WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 30000)
        SELECT i, CASE WHEN i < 10000 THEN NULL WHEN i < 20000 THEN i ELSE i + 0.5 END AS x FROM n
    """
    dataset = domain.datasets.upload("pieces", SqlQuery("sqlite://", query))
    schema = dataset.schema
    assert [(column.name, column.dtype, column.has_missing) for column in schema.columns] == [
        ("i", "int64", None),
        ("x", "float64", True),
    ]
    assert schema.num_records == 30_001
    refused = SqlQuery("sqlite://", query.replace("i + 0.5", "i + 9007199254740993").replace("THEN i ", "THEN 0.5 "))
    with pytest.raises(InvalidInput):
        refused.save_arrow(tmp_path / "data")


@pytest.mark.parametrize(
    "database",
    [
        "postgresql://ann@host/db",
        "postgresql://ann:pw@host/db",
        "postgresql:///db?password=x",
        "postgresql:///db?host=ann:pw@host",
        "postgresql:///db?x",
        "mysql://host/db",
        "/etc/passwd",
        "sqlite:///a\nb",
        "sqlite:///" + "a" * 1000,
    ],
)
def test_a_domain_stores_no_credentials(database: str) -> None:
    with pytest.raises(InvalidConfig) as refused:
        check_origin(SqlOrigin(database, "SELECT 1"))
    assert refused.value.code == "invalid_sql_source"
    assert "ann" not in refused.value.detail
    check_origin(SqlOrigin("postgresql://host:5432/db?sslmode=require", "SELECT 1"))
    check_origin(SqlOrigin("sqlite:////home/ann@example.org/a.db", "SELECT 1"))


def test_a_refresh_sends_no_column_that_was_skipped(domain: DomainClient, tmp_path: Path) -> None:
    with sqlite_database(tmp_path) as (url, execute):
        dataset = domain.datasets.upload("skipping", SqlQuery(url, "SELECT * FROM visits"), skip=["patient", "born"])
        execute("ALTER TABLE visits ADD COLUMN phone TEXT DEFAULT '555'")
        assert [column.name for column in dataset.refresh().schema.columns] == ["age", "score", "sex"]
        info = dataset.refresh(query="SELECT sex, age, score, phone FROM visits")
        assert [column.name for column in info.schema.columns] == ["sex", "age", "score", "phone"]


def test_a_dataset_of_a_file_has_no_query_to_refresh(domain: DomainClient) -> None:
    dataset = domain.datasets.upload("arrays", {"a": [1.0, 2.0]})
    with pytest.raises(InvalidInput, match="does not come from a query"):
        dataset.refresh()
