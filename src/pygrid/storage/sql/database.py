"""One database behind two calls: `Database.write` and `Database.read`.

Writes go through lanes (`pygrid.storage.sql.lanes`), each of which runs what waits in one transaction. Reads run at the
same time on connections of their own.

    caller --write(fn)--------> queue --+
    caller --write_all(kind)--> queue --+--> BEGIN; fn x n; kind.run(items); COMMIT --> n answers
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa

from pygrid import codes
from pygrid.errors import InvalidConfig
from pygrid.storage.sql.failures import is_conflict
from pygrid.storage.sql.lanes import Batch, ByteLog, Bytes, Lane, LaneWriter, Unit, explained

logger = logging.getLogger(__name__)

T = TypeVar("T")
Item = TypeVar("Item")
SQLITE_PATIENCE_S = 30.0
NUM_READERS = 4
_POSTGRES_PATIENCE = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "tcp_user_timeout": 30_000,
}
"""Time until a silent server counts as unreachable: seconds, the last one milliseconds. ``DATABASE_URL`` prevails."""
IDLE_TRANSACTION_S = 10
"""Seconds after which PostgreSQL ends a transaction that does nothing: a process that is paused keeps no locks."""
SLOW_TRANSACTION_S = 120
"""The same for a transaction that waits for the store of files, see `Database.transact_now`."""

_INSTANCE = "pygrid_instance"
_LOCK_AUDIT_LOG = "LOCK TABLE {table} {mode}".format(table="audit_head", mode="IN EXCLUSIVE MODE")
_POOL_SIZE = NUM_READERS + len(Lane) + 2
"""Connections that stay open: readers, lanes, the lock of the database, and one for a transaction that runs again."""


class Database:
    """A SQLite file or a PostgreSQL database.

    Args:
        url: ``sqlite:///PATH`` or ``postgresql://USER:PASSWORD@HOST:PORT/NAME``.
    Raises:
        InvalidConfig: another kind of URL, or the driver of its database is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = sa.engine.make_url(_with_driver(url))
        self.instance = secrets.token_hex(16)
        """Names this opening of the database as the holder of leases."""
        self.engine = _make_engine(self.url, f"pygrid {self.instance}")
        self._writing = self.engine.execution_options(pygrid_writes=True, **{_INSTANCE: self.instance})
        self.num_unknown = 0
        """Commits whose outcome is unknown. What is known of the rows from before such a commit may be wrong."""
        self._readers = ThreadPoolExecutor(NUM_READERS, thread_name_prefix="database-read")
        self._lookups: sa.Connection | None = None
        self._closed = False
        self._guard: Callable[[sa.Connection], None] | None = None
        self._lanes = self._make_lanes()

    @property
    def dialect(self) -> str:
        """``sqlite`` or ``postgresql``."""
        return self.engine.dialect.name

    def _make_lanes(self) -> dict[Lane, LaneWriter]:
        """A writer for each lane; on SQLite one for all, because it has one writer at a time."""
        if self.dialect == "sqlite":
            only = LaneWriter("write", self._writing, self._check_guard, self._count_unknown)
            return dict.fromkeys(Lane, only)
        committed = self._writing.execution_options(isolation_level="READ COMMITTED")
        serializable = self._writing.execution_options(isolation_level="SERIALIZABLE")
        return {
            Lane.REPORTS: LaneWriter("reports", committed, self._check_guard, self._count_unknown),
            Lane.ADMISSIONS: LaneWriter("admissions", committed, self._check_guard, self._count_unknown),
            Lane.AUDITED: LaneWriter("audited", serializable, self._begin_audited, self._count_unknown),
            Lane.REST: LaneWriter("rest", serializable, self._check_guard, self._count_unknown),
        }

    async def write(self, fn: Callable[[sa.Connection], T], lane: Lane = Lane.REST) -> T:
        """Run ``fn`` in a transaction; returns its result when it is durable.

        ``fn`` runs again if its transaction conflicts with another one, or if another unit of it fails.

        Raises:
            What ``fn`` raised, after its changes were undone.
            StorageFull, InvalidInput: see `pygrid.storage.sql.failures`.
            Unavailable: ``database_unavailable``, ``storage_failed``: the commit failed; ``storage_busy``: each attempt
                conflicted with other transactions; ``shutting_down``: the database is closed.
        """
        waiter: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._put(Unit(fn, waiter), lane)
        return await waiter

    async def write_all(self, kind: Batch[Item, T], item: Item, group: int | None = None) -> T:
        """Store an item together with the other items of its kind that wait; returns its answer when it is durable.

        Args:
            group: items with the same one lock the same rows. A transaction has few groups.
        Raises:
            The refusal of the item. Others as `write`.
        """
        waiter: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        group = None if self.dialect == "sqlite" else group
        self._put(Unit(lambda: item, waiter, kind=kind, group=group), kind.lane)
        return await waiter

    async def write_all_with_bytes(
        self, kind: Batch[Item, T], make: Callable[[int], Item], log: ByteLog, data: Bytes
    ) -> T:
        """Append ``data`` to ``log``, make it durable, then store the item ``make(offset)`` as `write_all` does.

        If the item is refused, the bytes stay in the log with no row that refers to them.
        """
        waiter: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._put(Unit(make, waiter, log, data, kind), kind.lane)
        return await waiter

    async def look_up(self, fn: Callable[[sa.Connection], T]) -> T:
        """`read` for a lookup by key. On SQLite it runs in the caller's thread, because that is faster than another."""
        if self.dialect != "sqlite":
            return await self.read(fn)
        with _explained():
            connection = self._lookups = self._lookups or self.engine.connect()
            try:
                return fn(connection)
            except sa.exc.DBAPIError:
                # The connection may be broken; the next lookup opens another.
                self._lookups = None
                connection.close()
                raise
            finally:
                if self._lookups is not None:
                    connection.rollback()

    async def read(self, fn: Callable[[sa.Connection], T]) -> T:
        """Run ``fn``, which only reads, on a connection of its own; it sees every earlier commit."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self.read_now, fn)

    def write_now(self, fn: Callable[[sa.Connection], T]) -> T:
        """`write` for code outside the event loop; blocks until the commit."""
        waiter: Future[T] = Future()
        self._put(Unit(fn, waiter), Lane.REST)
        return waiter.result()

    def write_apart(self, fn: Callable[[sa.Connection], T]) -> T:
        """Run ``fn`` in a transaction of no lane, READ COMMITTED, so each statement sees what others have committed.

        For code that waits for a lock of its own, such as a migration; blocks until the commit.
        """
        with _explained(), self._writing.begin() as connection:
            return fn(connection)

    def write_later(
        self, fn: Callable[[sa.Connection], object], lane: Lane = Lane.REST, *, is_alone: bool = False
    ) -> None:
        """`write` without waiting. A failure is only logged, so use it for writes that may be lost.

        Args:
            is_alone: in a transaction of its own, so that bytes that are queued later are also appended later.
        """
        waiter: Future[Any] = Future()
        waiter.add_done_callback(_log_failure)
        self._put(Unit(fn, waiter, is_alone=is_alone), lane)

    def read_now(self, fn: Callable[[sa.Connection], T]) -> T:
        """`read` for code outside the event loop."""
        with _explained():
            try:
                return self._read(fn)
            except Exception as error:
                # A migration locks whole tables, so a read of two tables can be the victim of a deadlock.
                if not is_conflict(error):
                    raise
            return self._read(fn)

    def _read(self, fn: Callable[[sa.Connection], T]) -> T:
        with self.engine.connect() as connection:
            return fn(connection)

    def transact_now(self, fn: Callable[[sa.Connection], T]) -> T:
        """Run ``fn`` in a transaction of its own, outside of the writer, because it waits for something else.

        Only for tables whose rows no other write locks, on PostgreSQL. Raises as `read`.
        """
        with _explained(), self._writing.connect() as connection, connection.begin():
            if self.dialect == "postgresql":
                connection.exec_driver_sql(f"SET LOCAL idle_in_transaction_session_timeout = '{SLOW_TRANSACTION_S}s'")
            self._check_guard(connection)
            return fn(connection)

    def guard_writes(self, guard: Callable[[sa.Connection], None]) -> None:
        """Call ``guard`` first in each writing transaction; if it raises, no unit of the transaction runs."""
        self._guard = guard

    def close(self) -> None:
        """Run the waiting units, then close all connections. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        for writer in set(self._lanes.values()):
            writer.close()
        self._readers.shutdown()
        if self._lookups is not None:
            self._lookups.close()
        self.engine.dispose()

    def _put(self, unit: Unit, lane: Lane) -> None:
        self._lanes[lane].put(unit)

    def _check_guard(self, connection: sa.Connection) -> None:
        if self._guard is not None:
            self._guard(connection)

    def _count_unknown(self) -> None:
        self.num_unknown += 1

    def _begin_audited(self, connection: sa.Connection) -> None:
        # The lock comes before the first query, so the snapshot has all entries of other writers. A row lock would come
        # after it, and each entry of another writer would be a conflict.
        connection.exec_driver_sql(_LOCK_AUDIT_LOG)
        self._check_guard(connection)


def instance_of(connection: sa.Connection) -> str:
    """`Database.instance` of the transaction of a write."""
    return str(connection.get_execution_options()[_INSTANCE])


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Turn failures of the database in the block into errors of pygrid."""
    try:
        yield
    except Exception as error:
        found = explained(error)
        if found is error:
            raise
        raise found from error


def _log_failure(answer: Future[Any]) -> None:
    if (error := answer.exception()) is not None:
        logger.error("write failed", exc_info=error)


def _with_driver(url: str) -> str:
    for given, wanted in (
        ("sqlite://", "sqlite://"),
        ("postgresql://", "postgresql+psycopg://"),
        ("postgres://", "postgresql+psycopg://"),
    ):
        if url.startswith(given):
            return wanted + url[len(given) :]
    raise InvalidConfig(
        "DATABASE_URL must begin with sqlite:/// or postgresql://",
        code=codes.INVALID_DATABASE_URL,
        scheme=url.split(":", 1)[0],
    )


def _make_engine(url: sa.URL, name: str) -> sa.Engine:
    if url.get_backend_name() == "sqlite":
        if not url.database or url.database == ":memory:":
            raise InvalidConfig("the SQLite database must be a file: sqlite:///PATH", code=codes.INVALID_DATABASE_URL)
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        engine = sa.create_engine(
            url, pool_size=NUM_READERS + 2, connect_args={"check_same_thread": False, "timeout": SQLITE_PATIENCE_S}
        )
        sa.event.listen(engine, "connect", _prepare_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
        return engine
    try:
        options = _POSTGRES_PATIENCE | {"application_name": name}
        chosen = {option: value for option, value in options.items() if option not in url.query}
        engine = sa.create_engine(url, pool_size=_POOL_SIZE, pool_pre_ping=True, connect_args=chosen)
    except ModuleNotFoundError as error:
        raise InvalidConfig(
            "PostgreSQL needs its driver: pip install 'pygrid[postgres]'", code=codes.DRIVER_MISSING
        ) from error
    sa.event.listen(engine, "connect", _prepare_postgres)
    return engine


def _prepare_postgres(connection: Any, _record: object) -> None:
    # A startup option would do the same, but connection poolers refuse some of these.
    connection.execute(f"SET idle_in_transaction_session_timeout = '{IDLE_TRANSACTION_S}s'")
    connection.commit()


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # `_begin_sqlite` begins transactions. If the driver did, savepoints would be lost.
    connection.isolation_level = None
    cursor = connection.cursor()
    _switch_to_wal(cursor)
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    # In pages of 4 kB. With the default of 1,000, every few commits would wait until the log is copied to the database.
    cursor.execute("PRAGMA wal_autocheckpoint=8000")
    cursor.close()


def _switch_to_wal(cursor: sqlite3.Cursor) -> None:
    """Retry while another process holds the database: for this statement, SQLite does not wait by itself."""
    give_up_at = time.monotonic() + SQLITE_PATIENCE_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > give_up_at:
                raise
            time.sleep(0.01)


def _begin_sqlite(connection: sa.Connection) -> None:
    # A writing transaction locks first. After a read, SQLite would refuse it if another process had written since.
    writes = connection.get_execution_options().get("pygrid_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
