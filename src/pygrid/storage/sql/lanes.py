"""Lanes: streams of writing transactions, each with a thread and a connection of its own.

    lane         what                                          PostgreSQL
    reports      batches of `AcceptReports`                    READ COMMITTED, under the locks of processes and cycles
    admissions   batches of `AdmitClients`                     the same
    audited      units that write entries of the audit log     SERIALIZABLE, begins with a lock on the table audit_head
    rest         all other units                               SERIALIZABLE

SQLite has one writer, so all lanes are one thread there. A lane runs what waits in one transaction (group commit). Each
caller gets its own answer after the commit, so what `Database.write` returned is durable. If a unit raises, only its
changes are undone, and its caller gets the error. Then the other units of the transaction run a second time, each in a
savepoint, so a unit may change only the database.

PostgreSQL ends a transaction that conflicts with another one. Then the lane runs each unit in a transaction of its own,
again up to `MAX_RETRIES` times. So a unit reads and decides as if no other writer existed.

Every transaction takes locks by this order: audit_head, budgets, jobs, offers, processes, cycles by id, the rest. An
assignment or a report changes only under the lock of its cycle, a cycle and an event only under that of their process.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import queue
import random
import sqlite3
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa

from pygrid import codes
from pygrid.errors import PygridError, Unavailable
from pygrid.storage.sql import failures

logger = logging.getLogger(__name__)

Bytes = bytes | bytearray | memoryview
I_contra = TypeVar("I_contra", contravariant=True)
A_co = TypeVar("A_co", covariant=True)

MAX_BATCH = 128
"""Largest number of units of work in one transaction; limits the wait of the first one."""
MIN_BATCH = 64
"""Number of units from which a transaction takes no further group."""
MAX_RETRIES = 8
FIRST_RETRY_S = 0.005
MAX_RETRY_S = 0.2
"""Bounds of the random pause before a retry; each attempt doubles the upper one."""

Outcome = tuple[Any, BaseException | None]
Waiter = asyncio.Future[Any] | Future[Any]
_Answer = tuple[Waiter, Any, BaseException | None]


class Lane(enum.StrEnum):
    """See the table at the top of this module."""

    REPORTS = "reports"
    ADMISSIONS = "admissions"
    AUDITED = "audited"
    REST = "rest"


class Batch(Protocol[I_contra, A_co]):
    """A kind of write whose items share their statements.

    ``run`` returns an answer or a refusal for each item, in their order. If it raises, each item runs alone.
    """

    lane: Lane

    def run(self, connection: sa.Connection, items: Sequence[I_contra]) -> Sequence[A_co | PygridError]:
        """Store the items in the caller's transaction."""
        ...


class ByteLog(Protocol):
    """A log for the bytes that a row refers to; they are durable before the row."""

    def append(self, data: Bytes) -> int:
        """Write at the end; returns the offset of the first byte. Not durable before `sync`."""
        ...

    def sync(self) -> None:
        """Make everything that was appended durable."""
        ...


@dataclass(eq=False, slots=True)
class Unit:
    """One call of a writer: the function or the item of a batch, the bytes to append before it, and its caller.

    Args:
        kind: the batch that takes the item; None: ``fn`` is called with the connection.
        fn: makes the item. With a ``log`` it is called with the offset of the bytes, as the last argument.
        is_alone: no other unit is in the transaction, so nothing is appended while it waits.
        group: units with the same one lock the same rows; None: it locks none that others wait for.
    """

    fn: Callable[..., Any]
    waiter: Waiter
    log: ByteLog | None = None
    data: Bytes = b""
    kind: Batch[Any, Any] | None = None
    is_alone: bool = False
    args: tuple[int, ...] = ()
    group: int | None = None


class WriteStep:
    """Units that run together in a transaction: one with a function, or all items of one batch."""

    def __init__(self, units: list[Unit]) -> None:
        self.units = units

    def run(self, connection: sa.Connection) -> list[Outcome]:
        kind = self.units[0].kind
        if kind is None:
            (unit,) = self.units
            return [(unit.fn(connection, *unit.args), None)]
        answers = kind.run(connection, [unit.fn(*unit.args) for unit in self.units])
        return [(None, answer) if isinstance(answer, PygridError) else (answer, None) for answer in answers]

    @classmethod
    def of(cls, units: Sequence[Unit]) -> list[WriteStep]:
        """Functions in their order, then the batches: what was written before an item has happened."""
        batches: dict[int, list[Unit]] = {}
        steps = []
        for unit in units:
            if unit.kind is None:
                steps.append(cls([unit]))
            else:
                batches.setdefault(id(unit.kind), []).append(unit)
        return steps + [cls(items) for items in batches.values()]


class LaneWriter:
    """The thread and the connection of a lane.

    Args:
        engine: with the isolation of the lane.
        begin: called first in each transaction; if it raises, no unit runs.
        on_unknown: called after a commit whose outcome is unknown.
    """

    def __init__(
        self, name: str, engine: sa.Engine, begin: Callable[[sa.Connection], None], on_unknown: Callable[[], None]
    ) -> None:
        self._engine = engine
        self._on_unknown = on_unknown
        self._begin = begin
        self._queue: queue.SimpleQueue[Unit | None] = queue.SimpleQueue()
        self._connection: sa.Connection | None = None
        self._is_closed = False
        self._thread = threading.Thread(target=self._write_loop, name=f"database-{name}", daemon=True)
        self._thread.start()

    def put(self, unit: Unit) -> None:
        """Queue a unit. Raises Unavailable: ``shutting_down``."""
        if self._is_closed:
            raise Unavailable("the database is closed", code=codes.SHUTTING_DOWN)
        self._queue.put(unit)

    def close(self) -> None:
        """Run the waiting units, then close the connection."""
        self._is_closed = True
        self._queue.put(None)
        self._thread.join()

    def _write_loop(self) -> None:
        waiting: deque[Unit] = deque()
        is_open = True
        while is_open or waiting:
            for unit in self._queued(is_waiting=bool(waiting)):
                if unit is None:
                    is_open = False
                else:
                    waiting.append(unit)
            if waiting:
                self._commit(take_batch(waiting))
        if self._connection is not None:
            self._connection.close()

    def _queued(self, *, is_waiting: bool) -> Iterator[Unit | None]:
        """All units of the queue; waits for one, unless others are waiting. None: the lane was closed."""
        with contextlib.suppress(queue.Empty):
            if not is_waiting:
                yield self._queue.get()
            while True:
                yield self._queue.get_nowait()

    def _commit(self, batch: list[Unit]) -> None:
        """Run a batch in one transaction and answer each caller. Only this method and `_commit_alone` commit."""
        try:
            _append_bytes(batch)
            outcomes = self._run(batch)
        except Exception as error:
            if failures.is_conflict(error):
                # The order of the locks is right for each unit, and may be wrong for several together.
                for step in WriteStep.of(batch):
                    self._commit_alone(step.units)
                return
            outcomes = self._refuse(batch, error)
        _answer([(unit.waiter, *outcome) for unit, outcome in zip(batch, outcomes, strict=True)])

    def _commit_alone(self, units: list[Unit]) -> None:
        """As `_commit`, for the units of one step after a conflict: again while the transaction conflicts."""
        for attempt in range(MAX_RETRIES):
            time.sleep(random.uniform(0, min(MAX_RETRY_S, FIRST_RETRY_S * 2.0**attempt)))
            try:
                outcomes = self._run(units)
                break
            except Exception as error:
                if not failures.is_conflict(error) or attempt == MAX_RETRIES - 1:
                    outcomes = self._refuse(units, error)
                    break
        _answer([(unit.waiter, *outcome) for unit, outcome in zip(units, outcomes, strict=True)])

    def _refuse(self, units: list[Unit], error: Exception) -> list[Outcome]:
        logger.error("commit failed", exc_info=error, extra={"num_units": len(units)})
        if isinstance(error, _CommitLost):
            self._on_unknown()
        refusal = failures.outcome_unknown() if isinstance(error, _CommitLost) else failures.explain(error)
        if refusal is None:
            refusal = Unavailable("the database could not store this; nothing was changed", code=codes.STORAGE_FAILED)
        refusal.__cause__ = error
        return [(None, refusal) for _ in units]

    def _run(self, batch: list[Unit]) -> list[Outcome]:
        try:
            return self._run_together(batch)
        except _CommitLost:
            raise
        except Exception as error:
            if failures.is_conflict(error):
                raise
            # A unit or the commit failed. Units may run twice, so run them again, each in a savepoint.
            return self._run_apart(batch)

    def _run_together(self, batch: list[Unit]) -> list[Outcome]:
        """Run all units without savepoints, which is faster; enough unless one fails."""
        connection = self._connection = self._connection or self._engine.connect()
        outcomes: dict[Unit, Outcome] = {}
        try:
            with connection.begin() as transaction:
                self._begin(connection)
                for step in WriteStep.of(batch):
                    outcomes.update(zip(step.units, step.run(connection), strict=True))
                _commit(transaction)
        except BaseException:
            # The connection may be broken; the pool provides another.
            self._connection = None
            connection.close()
            raise
        return [outcomes[unit] for unit in batch]

    def _run_apart(self, batch: list[Unit]) -> list[Outcome]:
        """Run each unit in a savepoint, so that it fails alone.

        If SQLite undoes the whole transaction because of a unit, the others run again without it.
        """
        done: dict[Unit, Outcome] = {}
        while left := [unit for unit in batch if unit not in done]:
            try:
                done.update(zip(left, self._run_in_savepoints(left), strict=True))
            except _Undone as undone:
                done[undone.unit] = None, explained(undone.error)
        return [done[unit] for unit in batch]

    def _run_in_savepoints(self, units: list[Unit]) -> list[Outcome]:
        """Raises _Undone: the transaction has ended. Also conflicts, and what broken connections raise."""
        outcomes: dict[Unit, Outcome] = {}
        with self._engine.connect() as connection, connection.begin() as transaction:
            self._begin(connection)
            # Each item of a batch alone, in the order of a batch.
            for step in WriteStep.of(units):
                for unit in step.units:
                    savepoint = connection.begin_nested()
                    try:
                        (outcomes[unit],) = WriteStep([unit]).run(connection)
                        savepoint.commit()
                    except Exception as error:
                        if connection.invalidated or failures.is_conflict(error):
                            raise
                        if _is_undone(connection):
                            raise _Undone(unit, error) from error
                        savepoint.rollback()
                        outcomes[unit] = None, explained(error)
            _commit(transaction)
        return [outcomes[unit] for unit in units]


def take_batch(waiting: deque[Unit]) -> list[Unit]:
    """Remove the units of the next transaction, at least the first unit.

    It has few groups, those that have waited longest. So two processes that write to the same rows rarely wait for each
    other. The order of units of the same group, and before and after one that is alone, stays.
    """
    first = waiting.popleft()
    batch = [first]
    if first.is_alone:
        return batch
    if first.group is None:
        while waiting and len(batch) < MAX_BATCH and waiting[0].group is None and not waiting[0].is_alone:
            batch.append(waiting.popleft())
        return batch
    ready = [first]
    while waiting and not waiting[0].is_alone:
        ready.append(waiting.popleft())
    num_taken, groups = 0, set()
    for group, size in Counter(unit.group for unit in ready).items():
        if num_taken < MIN_BATCH:
            groups.add(group)
            num_taken += size
    batch = [unit for unit in ready if unit.group in groups][:MAX_BATCH]
    taken = set(batch)
    waiting.extendleft(unit for unit in reversed(ready) if unit not in taken)
    return batch


class _Undone(Exception):
    """SQLite undid a whole transaction because of a unit, as it does for a full disk and for I/O errors."""

    def __init__(self, unit: Unit, error: Exception) -> None:
        super().__init__(str(error))
        self.unit, self.error = unit, error


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


def _is_undone(connection: sa.Connection) -> bool:
    """Whether SQLite has ended the transaction; then a commit would silently do nothing."""
    raw = connection.connection.dbapi_connection
    return isinstance(raw, sqlite3.Connection) and not raw.in_transaction


def _append_bytes(batch: list[Unit]) -> None:
    logs: set[ByteLog] = set()
    for unit in batch:
        if unit.log is not None:
            unit.args = (unit.log.append(unit.data),)
            logs.add(unit.log)
    for log in logs:
        log.sync()


def _answer(answers: list[_Answer]) -> None:
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


def _resolve(answers: list[_Answer]) -> None:
    for waiter, result, failure in answers:
        if waiter.done():
            continue  # the caller was cancelled; its write is committed
        if failure is None:
            waiter.set_result(result)
        else:
            waiter.set_exception(failure)


def explained(error: Exception) -> Exception:
    """The error of pygrid for a failure of the database; other errors as they are."""
    found = failures.explain(error)
    if found is None:
        return error
    if found.status >= 500:
        logger.error("database failed", extra={"code": found.code, "reason": str(error)[:500]})
    found.__cause__ = error
    return found
