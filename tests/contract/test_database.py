"""The contract of `Database`, on SQLite and on PostgreSQL.

Should happen: a write is there for every read that starts after it was answered; callers that write at once each get
their own answer; bytes are durable before the row that names them; migrations give the tables of the code, also when
two start at once. Should not happen: a unit that fails takes others with it, or leaves something; a closed or full
database loses an answer.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from typer.testing import CliRunner

import pygrid.storage.tables  # noqa: F401 - adds its tables to the metadata
from pygrid.cli import app
from pygrid.errors import InvalidConfig, StorageFull, Unavailable
from pygrid.storage.accounts import list_roles, seed_roles
from pygrid.storage.app_state import put_state
from pygrid.storage.sql.database import Database
from pygrid.storage.sql.lanes import Lane
from pygrid.storage.sql.metadata import UtcDateTime, metadata
from pygrid.storage.sql.migrations import migrate, newest_revision
from support.eventually import never, turns

_notes_metadata = sa.MetaData()
pytestmark = pytest.mark.empty_database

notes = sa.Table(
    "notes",
    _notes_metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("text", sa.Text, unique=True),
    sa.Column("at", UtcDateTime),
)


@pytest.fixture
def noted(database: Database) -> Database:
    database.write_now(_notes_metadata.create_all)
    return database


def _put(text: str, at: dt.datetime | None = None):
    def put(connection: sa.Connection) -> int:
        return connection.execute(sa.insert(notes).values(text=text, at=at).returning(notes.c.id)).scalar_one()

    return put


def _texts(connection: sa.Connection) -> list[str]:
    return list(connection.execute(sa.select(notes.c.text).order_by(notes.c.id)).scalars())


async def test_a_read_sees_what_was_written_before(noted: Database) -> None:
    assert await noted.write(_put("one")) == 1
    assert await noted.read(_texts) == ["one"]


async def test_writers_at_once_each_get_their_own_answer(noted: Database) -> None:
    ids = await asyncio.gather(*(noted.write(_put(f"text {i}")) for i in range(300)))
    assert sorted(ids) == sorted(set(ids))
    assert len(await noted.read(_texts)) == 300


async def test_a_unit_that_fails_is_undone_alone(noted: Database) -> None:
    def half(connection: sa.Connection) -> None:
        _put("half")(connection)
        raise ValueError("no")

    outcomes = await asyncio.gather(
        noted.write(_put("before")), noted.write(half), noted.write(_put("after")), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [int, ValueError, int]
    assert await noted.read(_texts) == ["before", "after"]


async def test_a_constraint_refuses_one_writer_of_two(noted: Database) -> None:
    outcomes = await asyncio.gather(*(noted.write(_put("same")) for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(outcome, int) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, sa.exc.IntegrityError) for outcome in outcomes) == 4
    assert await noted.read(_texts) == ["same"]


async def test_a_commit_that_fails_reaches_every_caller_and_changes_nothing(noted: Database) -> None:
    """A deferred foreign key is looked at when the transaction commits: too late for any one unit."""

    def make(connection: sa.Connection) -> None:
        connection.execute(sa.text("CREATE TABLE parent (id INTEGER PRIMARY KEY)"))
        connection.execute(
            sa.text("CREATE TABLE child (id INTEGER REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)")
        )

    await noted.write(make)
    with pytest.raises(Unavailable) as refused:
        await noted.write(lambda connection: connection.execute(sa.text("INSERT INTO child (id) VALUES (7)")))
    assert refused.value.code == "storage_failed"
    assert (
        await noted.read(lambda connection: connection.execute(sa.text("SELECT count(*) FROM child")).scalar_one()) == 0
    )
    assert await noted.write(_put("still works")) == 1


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("where", [0, 1, 2])
async def test_a_full_disk_takes_no_other_write_with_it(noted: Database, where: int) -> None:
    """Where a statement has no journal of its own, SQLite undoes the whole transaction when its file is full."""
    limit = 30

    @sa.event.listens_for(noted.engine, "begin")
    def _limit(connection: sa.Connection) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count={limit}")

    plain = sa.Table("plain", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("text", sa.Text))
    await noted.write(plain.create)

    def put(text: str) -> Callable[[sa.Connection], int]:
        return lambda connection: connection.execute(plain.insert().values(text=text)).inserted_primary_key[0]

    texts = ["one", "two"]
    texts.insert(where, "x" * 8_000_000)  # more than the cache of pages, so that it meets the limit before the commit
    outcomes = await at_once(noted, [put(text) for text in texts])
    refused = outcomes.pop(where)
    assert isinstance(refused, StorageFull)
    assert outcomes == [1, 2]
    stored = sa.select(plain.c.text).order_by(plain.c.id)
    assert await noted.read(lambda connection: list(connection.execute(stored).scalars())) == ["one", "two"]
    limit = 2**30
    assert await noted.write(put(texts[where])) == 3


async def at_once(database: Database, units: list[Callable[[sa.Connection], int]]) -> list[int | BaseException]:
    """The outcomes of units that are written in one transaction."""
    begun, go_on = threading.Event(), threading.Event()

    def hold(_connection: sa.Connection) -> None:
        begun.set()
        assert go_on.wait(30)

    holding = asyncio.create_task(database.write(hold))
    assert await asyncio.to_thread(begun.wait, 30)
    outcomes = asyncio.gather(*(database.write(unit) for unit in units), return_exceptions=True)
    await turns()  # the writes are queued, behind the one that is held
    go_on.set()
    await holding
    return await outcomes


async def test_bytes_are_synced_before_the_row_that_names_them(noted: Database) -> None:
    happened: list[str] = []

    class Log:
        size = 0

        def append(self, data: bytes | bytearray | memoryview) -> int:
            happened.append("append")
            self.size += len(data)
            return self.size - len(data)

        def sync(self) -> None:
            happened.append("sync")

    log = Log()

    class Offsets:
        lane = Lane.REPORTS

        def run(self, _connection: sa.Connection, items: Sequence[int]) -> list[int]:
            happened.append("row")
            return list(items)

    assert await noted.write_all_with_bytes(Offsets(), int, log, b"12345") == 0
    assert await noted.write_all_with_bytes(Offsets(), int, log, b"67") == 5
    assert happened == ["append", "sync", "row"] * 2


async def test_what_a_caller_asked_for_that_gave_up_is_done_all_the_same(noted: Database) -> None:
    begun, held = threading.Event(), threading.Event()

    def hold(_connection: sa.Connection) -> None:
        begun.set()
        held.wait(60)

    first = asyncio.create_task(noted.write(hold))
    assert await asyncio.to_thread(begun.wait, 60)
    second = asyncio.create_task(noted.write(_put("given up")))
    await turns()
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    held.set()
    await first
    await noted.write(_put("kept"))
    assert await noted.read(_texts) == ["given up", "kept"]


async def test_a_lookup_sees_what_was_written_before_and_holds_nothing_up(noted: Database) -> None:
    for number in range(3):
        await noted.write(_put(f"{number}"))
        assert len(await noted.look_up(_texts)) == number + 1

    def fail(connection: sa.Connection) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await noted.look_up(fail)
    assert await noted.write(_put("after")) == 4
    assert (await noted.look_up(_texts))[-1] == "after"


async def test_a_write_that_nobody_waits_for_is_done_or_logged(
    noted: Database, caplog: pytest.LogCaptureFixture
) -> None:
    noted.write_later(_put("later"))
    noted.write_later(_put("later"))
    await noted.write(_put("after"))
    assert await noted.read(_texts) == ["later", "after"]
    logged = [record for record in caplog.records if record.exc_info and record.exc_info[1]]
    assert [type(record.exc_info[1]) for record in logged if record.exc_info] == [sa.exc.IntegrityError]


async def test_two_processes_that_read_and_then_write_wait_for_each_other(noted: Database, database_url: str) -> None:
    """Two `Database` on one store stand for two processes: what each read before writing must still be true."""
    other = Database(database_url)
    try:

        def increment(connection: sa.Connection) -> None:
            count = connection.execute(sa.select(sa.func.count()).select_from(notes)).scalar_one()
            _put(f"{threading.get_ident()} {count}")(connection)

        await asyncio.gather(*(db.write(increment) for _ in range(50) for db in (noted, other)))
        assert len(await noted.read(_texts)) == 100
    finally:
        other.close()


async def test_a_time_comes_back_as_the_same_instant_in_utc(noted: Database) -> None:
    written = dt.datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=dt.timezone(dt.timedelta(hours=5, minutes=30)))
    await noted.write(_put("at", written))
    read = await noted.read(lambda connection: connection.execute(sa.select(notes.c.at)).scalar_one())
    assert read == written
    assert read.tzinfo == dt.UTC


async def test_a_naive_time_is_refused(noted: Database) -> None:
    with pytest.raises(sa.exc.StatementError, match="aware"):
        await noted.write(_put("at", dt.datetime(2026, 3, 1)))


async def test_a_closed_database_says_so(noted: Database) -> None:
    waiting = [asyncio.create_task(noted.write(_put(f"{i}"))) for i in range(10)]
    await turns()
    await asyncio.to_thread(noted.close)
    assert len(await asyncio.gather(*waiting)) == 10
    noted.close()
    with pytest.raises(Unavailable) as refused:
        await noted.write(_put("late"))
    assert refused.value.code == "shutting_down"


@pytest.mark.parametrize("url", ["mysql://localhost/x", "sqlite://", "sqlite:///:memory:"])
def test_another_kind_of_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidConfig) as refused:
        Database(url)
    assert refused.value.code == "invalid_database_url"


def test_migrations_give_the_tables_of_the_code(database: Database) -> None:
    assert migrate(database) == newest_revision()

    def compare(connection: sa.Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        return compare_metadata(context, metadata)

    assert database.read_now(compare) == [], "run scripts/make-migration"


def test_migrating_again_changes_nothing(database: Database) -> None:
    migrate(database)
    database.write_now(seed_roles)
    before = database.read_now(list_roles)
    assert migrate(database) == newest_revision()
    database.write_now(seed_roles)
    assert database.read_now(list_roles) == before
    assert [role.name for role in before] == ["User", "Compliance Officer", "Administrator", "Owner", "Model Owner"]


async def test_two_processes_may_migrate_and_seed_at_once(database: Database, database_url: str) -> None:
    others = [Database(database_url) for _ in range(3)]
    try:

        def start(opened: Database) -> None:
            migrate(opened)
            opened.write_now(seed_roles)

        await asyncio.gather(*(asyncio.to_thread(start, opened) for opened in (database, *others)))
        assert len(await database.read(list_roles)) == 5
    finally:
        for opened in others:
            opened.close()


async def test_a_new_sqlite_file_is_waited_for_while_another_process_sets_it_up(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("CREATE TABLE other (x)")
    holder.execute("BEGIN IMMEDIATE")
    opened = Database(f"sqlite:///{path}")
    try:
        with ThreadPoolExecutor(1) as pool:
            migrating = pool.submit(migrate, opened)
            await never(migrating.done)
            holder.execute("COMMIT")
            migrating.result(30)
    finally:
        holder.close()
        opened.close()


async def test_a_read_that_a_migration_ends_by_a_deadlock_runs_again(postgres_url: str) -> None:
    num_runs = 0

    def read(connection: sa.Connection) -> int:
        nonlocal num_runs
        num_runs += 1
        if num_runs == 1:
            connection.execute(sa.text("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40P01'; END $$"))
        return int(connection.execute(sa.text("SELECT 7")).scalar_one())

    opened = Database(postgres_url)
    try:
        assert await opened.read(read) == 7
    finally:
        opened.close()


def test_a_command_migrates_a_database_before_its_replicas_restart(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    database.read_now(lambda connection: connection.execute(sa.text("SELECT 1")))  # makes the file of SQLite
    for _ in range(2):
        done = CliRunner().invoke(
            app, ["store", "upgrade", "--database-url", database_url, "--data-dir", str(tmp_path)]
        )
        assert done.output == f"The database has revision {newest_revision()}.\n", done.exception
    assert migrate(database) == newest_revision()


def _migrate_as_later_version(database: Database, min_revision: str) -> None:
    def transaction(connection: sa.Connection) -> None:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
        put_state(connection, "min_revision", min_revision.encode())

    database.write_now(transaction)


def test_a_database_of_a_later_version_is_used_if_that_version_allows_it(database: Database) -> None:
    newest = migrate(database)
    _migrate_as_later_version(database, newest)
    assert migrate(database) == "9999"
    assert migrate(database) == "9999", "nothing was changed"


def test_a_database_of_a_later_version_is_left_alone(database: Database) -> None:
    migrate(database)
    _migrate_as_later_version(database, "9999")
    with pytest.raises(InvalidConfig) as refused:
        migrate(database)
    assert refused.value.code == "database_too_new"
    assert "9999" in refused.value.detail


def test_a_database_that_does_not_answer_is_named_without_its_password() -> None:
    closed = Database("postgresql://someone:hidden@127.0.0.1:1/nowhere")
    try:
        with pytest.raises(Unavailable) as refused:
            migrate(closed)
    finally:
        closed.close()
    assert refused.value.code == "database_unavailable"
    assert "127.0.0.1:1/nowhere" in refused.value.detail
    assert "hidden" not in refused.value.detail
