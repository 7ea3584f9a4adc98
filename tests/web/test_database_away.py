"""A database that is stopped under a running Domain, and started again; a real PostgreSQL, and a SQLite file that is
locked, read-only or full.

Should happen: every route that needs it answers 503 ``database_unavailable`` or 507 ``storage_full`` with
``Retry-After``, and works again by itself.
Should not happen: a 500; a call that is done twice; a commit whose outcome is unknown, told as one that changed
nothing.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from pygrid.domain import build_domain
from pygrid.errors import Unavailable
from pygrid.settings import load_settings
from pygrid.storage.sql.database import Database
from pygrid.web.services import service
from support.postgres import PostgresServer
from support.web import People, assert_problem, running

CALLS = [("GET", "/users"), ("GET", "/model-centric/processes"), ("POST", "/groups"), ("PUT", "/users/1/email")]
BODIES: dict[str, Any] = {"/groups": {"name": "nurses"}, "/users/1/email": {"email": "new@example.org"}}


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server that this test may stop."""
    with PostgresServer() as server:
        yield server


@pytest.mark.slow
async def test_a_stopped_postgresql_is_told_and_found_again(own_postgres: PostgresServer, tmp_path: Path) -> None:
    settings = load_settings({"DATABASE_URL": own_postgres.url}, data_dir=tmp_path, id="test")
    async with running(build_domain(settings)) as web:
        owner = await People(web).owner()
        own_postgres.stop()
        for _ in range(2):
            for verb, path in CALLS:
                answer = await web.request(verb, path, headers=owner, json=BODIES.get(path))
                assert_problem(answer, 503, "database_unavailable")
                assert int(answer.headers["retry-after"]) >= 1
        own_postgres.start()
        for verb, path in CALLS:
            answer = await web.request(verb, path, headers=owner, json=BODIES.get(path))
            assert answer.status_code == 200, answer.text
        assert [group["name"] for group in (await web.get("/groups", headers=owner)).json()["groups"]] == ["nurses"]


async def test_a_locked_sqlite_is_told_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pygrid.storage.sql.database.SQLITE_PATIENCE_S", 0.05)
    async with running(build_domain(load_settings({}, data_dir=tmp_path, id="test"))) as web:
        owner = await People(web).owner()
        other = sqlite3.connect(tmp_path / "domain.db", isolation_level=None)
        try:
            other.execute("BEGIN IMMEDIATE")
            answer = await web.post("/groups", json={"name": "nurses"}, headers=owner)
            assert_problem(answer, 503, "database_unavailable")
            assert int(answer.headers["retry-after"]) >= 1
            other.execute("ROLLBACK")
        finally:
            other.close()
        assert (await web.post("/groups", json={"name": "nurses"}, headers=owner)).status_code == 200


@pytest.mark.parametrize(
    ("fault", "cure", "status", "code"),
    [
        ("query_only = ON", "query_only = OFF", 503, "database_unavailable"),
        ("max_page_count = 1", "max_page_count = 1000000", 507, "storage_full"),
    ],
    ids=["read-only", "full"],
)
async def test_a_sqlite_that_takes_no_writes_is_told_and_found_again(
    tmp_path: Path, fault: str, cure: str, status: int, code: str
) -> None:
    app = build_domain(load_settings({}, data_dir=tmp_path, id="test"))
    pragma = ""

    @sa.event.listens_for(service(app.state, Database).engine, "before_cursor_execute")
    def _apply(connection: sa.Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if pragma and statement.startswith("BEGIN"):
            connection.connection.dbapi_connection.execute(f"PRAGMA {pragma}")

    # More than the free space of the pages that there are.
    groups = [{"name": f"{number} {'x' * 90}"} for number in range(200)]
    async with running(app) as web:
        owner = await People(web).owner()
        pragma = fault
        refused = 0
        for group in groups:
            answer = await web.post("/groups", json=group, headers=owner)
            if answer.status_code == 200:
                continue
            refused += 1
            assert_problem(answer, status, code)
            assert int(answer.headers["retry-after"]) >= 1
            assert (await web.get("/groups", headers=owner)).status_code == 200
            if refused == 3:
                break
        assert refused == 3
        pragma = cure
        assert (await web.post("/groups", json={"name": "nurses"}, headers=owner)).status_code == 200


@pytest.mark.slow
async def test_a_commit_that_is_cut_off_is_not_done_again(postgres_url: str) -> None:
    """The server ends the connection while it commits: a deferred trigger, run by COMMIT, waits for that."""
    database = Database(postgres_url)
    killer = Database(postgres_url)
    runs = 0

    def make(connection: sa.Connection) -> None:
        connection.execute(sa.text("CREATE TABLE notes (pid INTEGER)"))
        connection.execute(
            sa.text(
                "CREATE FUNCTION wait() RETURNS trigger AS 'BEGIN PERFORM pg_sleep(60); RETURN NULL; END' LANGUAGE "
                "plpgsql"
            )
        )
        connection.execute(
            sa.text(
                "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON notes DEFERRABLE INITIALLY DEFERRED "
                "FOR EACH ROW EXECUTE FUNCTION wait()"
            )
        )

    def put(connection: sa.Connection) -> None:
        nonlocal runs
        runs += 1
        connection.execute(sa.text("INSERT INTO notes VALUES (pg_backend_pid())"))

    def end(connection: sa.Connection) -> int:
        query = (
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query = "
            "'COMMIT'"
        )
        return int(connection.execute(sa.text(query)).scalar_one())

    def end_when_it_waits() -> None:
        while not killer.read_now(end):
            pass

    try:
        await database.write(make)
        thread = threading.Thread(target=end_when_it_waits)
        thread.start()
        with pytest.raises(Unavailable) as refused:
            await database.write(put)
        thread.join()
        assert (refused.value.code, runs) == ("outcome_unknown", 1)
        assert "retry_after_s" not in refused.value.fields
        count = sa.text("SELECT count(*) FROM notes")
        assert await database.read(lambda connection: connection.execute(count).scalar_one()) == 0
    finally:
        database.close()
        killer.close()
