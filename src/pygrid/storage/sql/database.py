"""One database behind two calls: `Database.write` and `Database.read`.

All writes of the process go through one thread, which runs the waiting units of work in one transaction (group
commit). Each caller gets its own answer after the commit, so what `write` returned is durable. If a unit raises, only
its changes are undone, and its caller gets the error. Then the other units of the batch run a second time, each in a
savepoint, so a unit may change only the database. Reads run at the same time on connections of their own.

    caller --write(fn)--> queue --+
    caller --write(fn)--> queue --+--> BEGIN; fn x n; COMMIT --> n answers
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa

from pygrid import codes
from pygrid.errors import InvalidConfig, Unavailable
from pygrid.storage.sql import failures

logger = logging.getLogger(__name__)

T = TypeVar("T")
Bytes = bytes | bytearray | memoryview

MAX_BATCH = 128
"""Largest number of units of work in one transaction; limits the wait of the first one."""
SQLITE_PATIENCE_S = 30.0
NUM_READERS = 4
_POSTGRES_PATIENCE = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "tcp_user_timeout": 30_000,
}
"""Time until a silent server counts as unreachable: seconds, the last one milliseconds. ``DATABASE_URL`` prevails."""


_Outcome = tuple[Any, BaseException | None]
_Waiter = asyncio.Future[Any] | Future[Any]
_Answer = tuple[_Waiter, Any, BaseException | None]


class ByteLog(Protocol):
    """A log for the bytes that a row refers to; they are durable before the row."""

    def append(self, data: Bytes) -> int:
        """Write at the end; returns the offset of the first byte. Not durable before `sync`."""
        ...

    def sync(self) -> None:
        """Make everything that was appended durable."""
        ...


class _Unit:
    """One call of `Database.write`: the function, the bytes to append before it, and the future of the caller."""

    __slots__ = ("args", "data", "fn", "log", "waiter")

    def __init__(self, fn: Callable[..., Any], waiter: _Waiter, log: ByteLog | None = None, data: Bytes = b"") -> None:
        self.fn = fn
        self.waiter = waiter
        self.log = log
        self.data = data
        self.args: tuple[int, ...] = ()


class Database:
    """A SQLite file or a PostgreSQL database.

    Args:
        url: ``sqlite:///PATH`` or ``postgresql://USER:PASSWORD@HOST:PORT/NAME``.
    Raises:
        InvalidConfig: another kind of URL, or the driver of its database is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = sa.engine.make_url(_with_driver(url))
        self.engine = _make_engine(self.url)
        self._writing = self.engine.execution_options(pygrid_writes=True)
        self._queue: queue.SimpleQueue[_Unit | None] = queue.SimpleQueue()
        self._readers = ThreadPoolExecutor(NUM_READERS, thread_name_prefix="database-read")
        self._lookups: sa.Connection | None = None
        self._write_connection: sa.Connection | None = None
        self._closed = False
        self._guard: Callable[[sa.Connection], None] | None = None
        self._writer = threading.Thread(target=self._write_loop, name="database-write", daemon=True)
        self._writer.start()

    @property
    def dialect(self) -> str:
        """``sqlite`` or ``postgresql``."""
        return self.engine.dialect.name

    async def write(self, fn: Callable[[sa.Connection], T]) -> T:
        """Run ``fn`` in a transaction; returns its result when it is durable.

        Raises:
            What ``fn`` raised, after its changes were undone.
            StorageFull, InvalidInput: see `pygrid.storage.sql.failures`.
            Unavailable: ``database_unavailable``, ``storage_failed``: the commit failed; ``shutting_down``: the
                database is closed.
        """
        waiter: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._put(_Unit(fn, waiter))
        return await waiter

    async def write_with_bytes(self, fn: Callable[[sa.Connection, int], T], log: ByteLog, data: Bytes) -> T:
        """Append ``data`` to ``log``, make it durable, then run ``fn(connection, offset)`` as `write` does.

        If ``fn`` raises, the bytes stay in the log with no row that refers to them.
        """
        waiter: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._put(_Unit(fn, waiter, log, data))
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
        self._put(_Unit(fn, waiter))
        return waiter.result()

    def write_later(self, fn: Callable[[sa.Connection], object]) -> None:
        """`write` without waiting. A failure is only logged, so use it for writes that may be lost."""
        waiter: Future[Any] = Future()
        waiter.add_done_callback(_log_failure)
        self._put(_Unit(fn, waiter))

    def read_now(self, fn: Callable[[sa.Connection], T]) -> T:
        """`read` for code outside the event loop."""
        with _explained(), self.engine.connect() as connection:
            return fn(connection)

    def guard_writes(self, guard: Callable[[sa.Connection], None]) -> None:
        """Call ``guard`` first in each writing transaction; if it raises, no unit of the transaction runs."""
        self._guard = guard

    def close(self) -> None:
        """Run the waiting units, then close all connections. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        self._writer.join()
        self._readers.shutdown()
        if self._lookups is not None:
            self._lookups.close()
        self.engine.dispose()

    def _put(self, unit: _Unit) -> None:
        if self._closed:
            raise Unavailable("the database is closed", code=codes.SHUTTING_DOWN)
        self._queue.put(unit)

    def _write_loop(self) -> None:
        while (first := self._queue.get()) is not None:
            batch = [first]
            stop = False
            while len(batch) < MAX_BATCH:
                try:
                    unit = self._queue.get_nowait()
                except queue.Empty:
                    break
                if unit is None:
                    stop = True
                    break
                batch.append(unit)
            self._commit(batch)
            if stop:
                break
        if self._write_connection is not None:
            self._write_connection.close()

    def _commit(self, batch: list[_Unit]) -> None:
        """Run a batch in one transaction and answer each caller. Only this method commits."""
        try:
            self._append_bytes(batch)
            try:
                outcomes = self._run_together(batch)
            except _CommitLost:
                raise
            except Exception:
                # A unit or the commit failed. Units may run twice, so run them again, each in a savepoint.
                outcomes = self._run_apart(batch)
        except Exception as error:
            logger.exception("commit failed", extra={"num_units": len(batch)})
            refusal = failures.outcome_unknown() if isinstance(error, _CommitLost) else failures.explain(error)
            if refusal is None:
                refusal = Unavailable(
                    "the database could not store this; nothing was changed", code=codes.STORAGE_FAILED
                )
            refusal.__cause__ = error
            outcomes = [(None, refusal) for _ in batch]
        self._answer([(unit.waiter, *outcome) for unit, outcome in zip(batch, outcomes, strict=True)])

    def _answer(self, answers: list[_Answer]) -> None:
        """Wake all callers; those of the same event loop by one call."""
        by_loop: dict[asyncio.AbstractEventLoop, list[_Answer]] = {}
        for answer in answers:
            waiter = answer[0]
            if isinstance(waiter, asyncio.Future):
                by_loop.setdefault(waiter.get_loop(), []).append(answer)
            else:
                _resolve([answer])
        for loop, its_answers in by_loop.items():
            # In a closed loop, no caller waits.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_resolve, its_answers)

    def _append_bytes(self, batch: list[_Unit]) -> None:
        logs: set[ByteLog] = set()
        for unit in batch:
            if unit.log is not None:
                unit.args = (unit.log.append(unit.data),)
                logs.add(unit.log)
        for log in logs:
            log.sync()

    def _run_together(self, batch: list[_Unit]) -> list[_Outcome]:
        """Run all units without savepoints, which is faster; enough unless one fails."""
        connection = self._write_connection = self._write_connection or self._writing.connect()
        try:
            with connection.begin() as transaction:
                self._check_guard(connection)
                outcomes: list[_Outcome] = [(unit.fn(connection, *unit.args), None) for unit in batch]
                _commit(transaction)
                return outcomes
        except BaseException:
            # The connection may be broken; the pool provides another.
            self._write_connection = None
            connection.close()
            raise

    def _check_guard(self, connection: sa.Connection) -> None:
        if self._guard is not None:
            self._guard(connection)

    def _run_apart(self, batch: list[_Unit]) -> list[_Outcome]:
        """Run each unit in a savepoint, so that it fails alone.

        If SQLite undoes the whole transaction because of a unit, the others run again without it.
        """
        failed: dict[_Unit, _Outcome] = {}
        while True:
            left = [unit for unit in batch if unit not in failed]
            try:
                done = dict(zip(left, self._run_in_savepoints(left), strict=True))
            except _Undone as undone:
                failed[undone.unit] = None, _explain(undone.error)
            else:
                return [failed.get(unit) or done[unit] for unit in batch]

    def _run_in_savepoints(self, units: list[_Unit]) -> list[_Outcome]:
        """Raises _Undone: the transaction has ended. Also what broken connections raise."""
        outcomes: list[_Outcome] = []
        with self._writing.connect() as connection, connection.begin() as transaction:
            self._check_guard(connection)
            for unit in units:
                savepoint = connection.begin_nested()
                try:
                    result = unit.fn(connection, *unit.args)
                    savepoint.commit()
                except Exception as error:
                    if connection.invalidated:
                        raise
                    if _is_undone(connection):
                        raise _Undone(unit, error) from error
                    savepoint.rollback()
                    outcomes.append((None, _explain(error)))
                else:
                    outcomes.append((result, None))
            _commit(transaction)
        return outcomes


class _Undone(Exception):
    """SQLite undid a whole transaction because of a unit, as it does for a full disk and for I/O errors."""

    def __init__(self, unit: _Unit, error: Exception) -> None:
        super().__init__(str(error))
        self.unit, self.error = unit, error


def _is_undone(connection: sa.Connection) -> bool:
    """Whether SQLite has ended the transaction; then a commit would silently do nothing."""
    raw = connection.connection.dbapi_connection
    return isinstance(raw, sqlite3.Connection) and not raw.in_transaction


class _CommitLost(Exception):
    """The connection broke during a commit, whose outcome is unknown."""


def _commit(transaction: sa.RootTransaction) -> None:
    """Raises _CommitLost: the transaction may be committed, so a repetition could have its effect twice."""
    try:
        transaction.commit()
    except Exception as error:
        if failures.is_lost(error):
            raise _CommitLost from error
        raise


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Turn failures of the database in the block into errors of pygrid."""
    try:
        yield
    except Exception as error:
        explained = _explain(error)
        if explained is error:
            raise
        raise explained from error


def _explain(error: Exception) -> Exception:
    explained = failures.explain(error)
    if explained is None:
        return error
    if explained.status >= 500:
        logger.error("database failed", extra={"code": explained.code, "reason": str(error)[:500]})
    explained.__cause__ = error
    return explained


def _resolve(answers: list[_Answer]) -> None:
    for waiter, result, failure in answers:
        if waiter.done():
            continue  # the caller was cancelled; its write is committed
        if failure is None:
            waiter.set_result(result)
        else:
            waiter.set_exception(failure)


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


def _make_engine(url: sa.URL) -> sa.Engine:
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
        patience = {name: value for name, value in _POSTGRES_PATIENCE.items() if name not in url.query}
        engine = sa.create_engine(url, pool_size=NUM_READERS + 2, pool_pre_ping=True, connect_args=patience)
    except ModuleNotFoundError as error:
        raise InvalidConfig(
            "PostgreSQL needs its driver: pip install 'pygrid[postgres]'", code=codes.DRIVER_MISSING
        ) from error
    return engine


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
