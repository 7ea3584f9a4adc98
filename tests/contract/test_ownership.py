"""Who may use a data folder and a database.

Should happen: one owner at a time; a new pair, and one of version 0.1, get an id; the same pair opens again; a replica
takes over from an owner that is paused.
Should not: a second owner; a write of an owner that lost its database; a folder with another folder's database; a
process that is paused and keeps its locks.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa

from pygrid.errors import InvalidConfig, Unavailable
from pygrid.storage import installation, ownership
from pygrid.storage.installation import check_folder, match_database
from pygrid.storage.ownership import DatabaseLock, FolderLock
from pygrid.storage.sql import database as sql_database
from pygrid.storage.sql.database import Database
from pygrid.storage.sql.migrations import migrate
from pygrid.storage.sql.prepared import Prepared
from support.eventually import eventually


def refusal(code: str, call: object, *arguments: object) -> InvalidConfig:
    with pytest.raises(InvalidConfig) as caught:
        call(*arguments)  # type: ignore[operator]
    assert caught.value.code == code
    return caught.value


def test_a_folder_has_one_owner_who_is_named(tmp_path: Path) -> None:
    first = FolderLock.acquire(tmp_path, "domain")
    first.announce("http://127.0.0.1:5001")
    error = refusal("already_running", FolderLock.acquire, tmp_path, "domain")
    assert "http://127.0.0.1:5001" in error.detail
    assert f"process {error.fields['pid']} " in error.detail
    first.release()
    FolderLock.acquire(tmp_path, "domain").release()


@pytest.fixture
def migrated(database: Database) -> Database:
    migrate(database)
    return database


def test_a_folder_and_its_database_know_each_other(migrated: Database, tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    own.mkdir()
    other.mkdir()
    known = match_database(migrated, own, "domain")
    assert match_database(migrated, own, "domain") == known
    refusal("wrong_database", match_database, migrated, other, "domain")
    assert list(other.iterdir()) == [], "a refusal leaves nothing behind"
    elsewhere = Database(f"sqlite:///{tmp_path / 'elsewhere.db'}")
    try:
        migrate(elsewhere)
        error = refusal("wrong_database", match_database, elsewhere, own, "domain")
        assert "DATABASE_URL" in error.detail
        match_database(elsewhere, other, "domain")
        refusal("wrong_database", match_database, elsewhere, own, "domain")
    finally:
        elsewhere.close()
    assert match_database(migrated, own, "domain") == known


def test_a_start_that_was_cut_off_between_folder_and_database_goes_on(migrated: Database, tmp_path: Path) -> None:
    pending = installation.FolderId("ab" * 16, "domain", is_pending=True)
    (tmp_path / installation.FILE).write_bytes(msgspec.json.encode(pending))
    assert match_database(migrated, tmp_path, "domain") == pending.id
    (tmp_path / installation.FILE).write_bytes(msgspec.json.encode(pending))
    assert match_database(migrated, tmp_path, "domain") == pending.id, "the database had it already"


def test_replicas_that_start_together_on_a_new_database_share_its_id(
    migrated: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other replica writes its id between the look at the database and the write of this one."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    find, known = installation.find_installation, []

    def find_too_early(connection: sa.Connection) -> str | None:
        found = find(connection)
        monkeypatch.setattr(installation, "find_installation", find)
        known.append(match_database(migrated, tmp_path / "first", "domain", is_disposable=True))
        return found

    monkeypatch.setattr(installation, "find_installation", find_too_early)
    assert match_database(migrated, tmp_path / "second", "domain", is_disposable=True) == known[0]
    pending = installation.FolderId("ab" * 16, "domain", is_pending=True)
    (tmp_path / "second" / installation.FILE).write_bytes(msgspec.json.encode(pending))
    assert match_database(migrated, tmp_path / "second", "domain", is_disposable=True) == known[0], "it starts again"
    (tmp_path / "second" / installation.FILE).write_bytes(msgspec.json.encode(pending))
    refusal("wrong_database", match_database, migrated, tmp_path / "second", "domain")


def test_bytes_of_version_0_1_are_not_joined_with_an_empty_database(migrated: Database, tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / ("ab" * 32)).write_bytes(b"a model")
    refusal("wrong_database", match_database, migrated, tmp_path, "domain")


def test_an_app_of_another_kind_is_refused(migrated: Database, tmp_path: Path) -> None:
    match_database(migrated, tmp_path, "network")
    refusal("wrong_data_dir", check_folder, tmp_path, "domain")
    old = tmp_path / "of 0.1"
    old.mkdir()
    (old / "network.db").touch()
    refusal("wrong_data_dir", check_folder, old, "domain")
    check_folder(old, "network")


async def test_the_lock_of_a_sqlite_database_needs_no_checks(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'domain.db'}")
    try:
        await asyncio.wait_for(DatabaseLock(database).keep(), 60)
    finally:
        database.close()


@pytest.fixture
def two(migrated_postgres_url: str, tmp_path: Path) -> tuple[Database, Database]:
    first, second = Database(migrated_postgres_url), Database(migrated_postgres_url)
    migrate(first)
    match_database(first, tmp_path, "domain")
    return first, second


async def test_a_postgresql_database_has_one_owner(
    two: tuple[Database, Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection of the first owner is cut: it takes the lock again. It is cut again, and another is quicker."""
    monkeypatch.setattr(ownership, "CHECK_S", 0.01)
    database, other = two
    owner, rival = DatabaseLock(database), DatabaseLock(other)
    try:
        owner.acquire()
        refusal("already_running", rival.acquire)
        keeping = asyncio.create_task(owner.keep())
        before = _holders(other)
        _cut(other)
        await eventually(lambda: _holders(other) not in ([], before))
        refusal("already_running", rival.acquire)
        await database.write(lambda connection: connection.execute(sa.text("SELECT 1")).scalar_one())

        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        # A check that had begun goes on in its thread, and would take the lock again.
        await asyncio.get_running_loop().run_in_executor(owner._checker, lambda: None)
        _cut(other)
        await eventually(rival.try_acquire)  # the server ends a connection later than it says
        with pytest.raises(Unavailable) as caught:
            await database.write(lambda connection: connection.execute(sa.text("DELETE FROM installation")))
        cause = caught.value if caught.value.code == "database_taken" else caught.value.__cause__
        assert isinstance(cause, Unavailable)
        assert cause.code == "database_taken"
        assert other.read_now(lambda c: c.execute(sa.text("SELECT count(*) FROM installation")).scalar_one()) == 1
        with pytest.raises(Unavailable, match="another app"):
            await asyncio.wait_for(owner.keep(), 60)
    finally:
        for lock, used in ((owner, database), (rival, other)):
            lock.release()
            used.close()


_HOLDERS = """
    SELECT pid FROM pg_locks JOIN pg_database ON pg_locks.database = pg_database.oid
    WHERE locktype = 'advisory' AND datname = current_database()
"""


def _holders(database: Database) -> list[int]:
    return list(database.read_now(lambda connection: connection.execute(sa.text(_HOLDERS)).scalars().all()))


def _cut(database: Database) -> None:
    for pid in _holders(database):
        database.read_now(
            lambda connection, pid=pid: connection.execute(sa.text(f"SELECT pg_terminate_backend({pid}, 5000)")).all()
        )


async def test_a_replica_takes_over_from_an_owner_that_is_silent(
    two: tuple[Database, Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner is paused in the middle of a transaction, and wakes up when it has a successor."""
    monkeypatch.setattr(ownership, "SILENT_S", 0.5)
    paused, other = two
    owner, follower = DatabaseLock(paused), DatabaseLock(other)
    begun, wake = threading.Event(), threading.Event()

    def pause(connection: sa.Connection) -> None:
        connection.execute(sa.text("UPDATE installation SET app = 'late'"))
        begun.set()
        wake.wait(60)

    try:
        owner.acquire()
        assert owner.is_sure
        late = asyncio.create_task(paused.write(pause))
        await asyncio.to_thread(begun.wait, 60)
        assert not await asyncio.to_thread(follower.try_acquire), "it was heard a moment ago"
        await eventually(lambda: asyncio.to_thread(follower.try_acquire))
        await other.write(lambda connection: connection.execute(sa.text("UPDATE installation SET app = app")))
        wake.set()
        with pytest.raises(Unavailable) as caught:
            await late
        assert caught.value.code == "outcome_unknown", "its commit came too late; it cannot know"
        assert not paused.read_now(lambda c: c.execute(sa.text("SELECT app = 'late' FROM installation")).scalar_one())
        with pytest.raises(Unavailable, match="another app"):
            await asyncio.wait_for(owner.keep(), 60)
        assert not owner.is_sure
    finally:
        wake.set()
        for lock, used in ((owner, paused), (follower, other)):
            lock.release()
            used.close()


async def test_an_owner_that_is_heard_stays(two: tuple[Database, Database], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "SILENT_S", 0.5)
    monkeypatch.setattr(ownership, "CHECK_S", 0.01)
    owner, follower = (DatabaseLock(database) for database in two)
    keeping = None
    try:
        owner.acquire()
        keeping = asyncio.create_task(owner.keep())
        end = asyncio.get_running_loop().time() + 3 * ownership.SILENT_S
        while asyncio.get_running_loop().time() < end:
            assert not await asyncio.to_thread(follower.try_acquire)
        assert not keeping.done()
        assert owner.is_sure
    finally:
        if keeping is not None:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
        for lock, used in zip((owner, follower), two, strict=True):
            lock.release()
            used.close()


def test_a_paused_transaction_does_not_keep_its_locks(
    migrated_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_database, "IDLE_TRANSACTION_S", 1)
    paused, other = Database(migrated_postgres_url), Database(migrated_postgres_url)
    try:
        migrate(paused)
        lock = sa.text("LOCK TABLE audit_head IN EXCLUSIVE MODE")
        with paused.engine.connect() as connection:
            connection.execute(lock)
            other.write_now(lambda connection: connection.execute(lock))
            with pytest.raises(sa.exc.DBAPIError):
                connection.execute(sa.text("SELECT 1"))
    finally:
        paused.close()
        other.close()


async def test_a_connection_that_breaks_in_a_prepared_statement_is_no_internal_error(
    migrated_postgres_url: str,
) -> None:
    database = Database(migrated_postgres_url)
    try:
        migrate(database)
        find = Prepared(
            sa.select(installation.installation.c.app).where(installation.installation.c.id == sa.bindparam("id"))
        )

        def read(connection: sa.Connection) -> object:
            find.run(connection, {"id": 99})
            with socket.socket(fileno=os.dup(connection.connection.driver_connection.fileno())) as cut:  # type: ignore[union-attr]
                cut.shutdown(socket.SHUT_RDWR)
            return find.run(connection, {"id": 99})

        with pytest.raises(Unavailable) as caught:
            await database.read(read)
        assert caught.value.code == "database_unavailable"
        assert await database.read(lambda connection: find.run(connection, {"id": 99})) is None
    finally:
        database.close()
