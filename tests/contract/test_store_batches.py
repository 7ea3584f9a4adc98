"""What `Database` promises of many writers at once, on SQLite and on PostgreSQL; the basics are in
``test_database.py``.

Should happen: what waits goes into one transaction; a unit that fails is undone alone, and the others, which run again,
give right answers; bytes come before the rows that name them.
Should not happen: an answer reaches another caller; a caller that gave up spoils the batch; a reader sees half of a
unit.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from pygrid.errors import Conflict, StorageFull
from pygrid.storage.sql.database import Database
from pygrid.storage.sql.lanes import MAX_BATCH, MIN_BATCH, ByteLog, Lane, Unit, take_batch
from support.eventually import turns

pytestmark = pytest.mark.empty_database

_metadata = sa.MetaData()
numbers = sa.Table(
    "numbers", _metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("value", sa.Integer, unique=True)
)


@pytest.fixture
def numbered(database: Database) -> Database:
    database.write_now(_metadata.create_all)
    return database


def _put(value: int) -> Callable[[sa.Connection], int]:
    def put(connection: sa.Connection) -> int:
        connection.execute(numbers.insert().values(value=value))
        return value

    return put


def _values(connection: sa.Connection) -> list[int]:
    return list(connection.execute(sa.select(numbers.c.value).order_by(numbers.c.value)).scalars())


class Calls:
    """A `Batch` whose items are functions."""

    lane = Lane.REPORTS

    def run(self, connection: sa.Connection, items: Sequence[Callable[[sa.Connection], Any]]) -> list[Any]:
        return [item(connection) for item in items]


CALLS = Calls()


def _write_with_bytes(
    database: Database, fn: Callable[[sa.Connection, int], Any], log: ByteLog, data: bytes
) -> Awaitable[Any]:
    return database.write_all_with_bytes(CALLS, lambda offset: lambda connection: fn(connection, offset), log, data)


@asynccontextmanager
async def _held(database: Database, lane: Lane = Lane.REST) -> AsyncIterator[None]:
    """The writer of a lane is busy for the length of the block, so what is written in it waits and goes together."""
    begun, held = threading.Event(), threading.Event()

    def hold(_connection: sa.Connection) -> None:
        begun.set()
        held.wait(60)

    holding = asyncio.create_task(database.write(hold, lane))
    assert await asyncio.to_thread(begun.wait, 60)
    try:
        yield
        await turns()  # what the block began to write is in the queue
    finally:
        held.set()
        await holding


def _count_commits(database: Database) -> list[None]:
    commits: list[None] = []
    sa.event.listen(database.engine, "commit", lambda _connection: commits.append(None))
    return commits


async def test_what_waits_goes_into_one_transaction(numbered: Database) -> None:
    commits = _count_commits(numbered)
    async with _held(numbered):
        writing = [asyncio.create_task(numbered.write(_put(number))) for number in range(100)]
    assert await asyncio.gather(*writing) == list(range(100))
    # One for the unit that held the writer, one for the hundred.
    assert len(commits) == 2


async def test_a_batch_is_bounded(numbered: Database) -> None:
    commits = _count_commits(numbered)
    async with _held(numbered):
        writing = [asyncio.create_task(numbered.write(_put(number))) for number in range(2 * MAX_BATCH + 1)]
    await asyncio.gather(*writing)
    assert len(commits) == 1 + 3


async def test_each_of_a_failing_batch_gets_its_own_answer(numbered: Database) -> None:
    """Ten of a hundred fail, each in its own way, before and after they changed something."""

    def fail(number: int) -> Callable[[sa.Connection], int]:
        def unit(connection: sa.Connection) -> int:
            if number % 20 == 0:
                raise Conflict(f"number {number}")
            _put(number)(connection)
            raise ValueError(number)

        return unit

    async with _held(numbered):
        writing = [
            asyncio.create_task(numbered.write(fail(number) if number % 10 == 0 else _put(number)))
            for number in range(100)
        ]
    outcomes = await asyncio.gather(*writing, return_exceptions=True)
    for number, outcome in enumerate(outcomes):
        if number % 20 == 0:
            assert isinstance(outcome, Conflict)
            assert outcome.detail == f"number {number}"
        elif number % 10 == 0:
            assert isinstance(outcome, ValueError)
            assert outcome.args == (number,)
        else:
            assert outcome == number
    assert await numbered.read(_values) == [number for number in range(100) if number % 10]


async def test_units_that_run_twice_change_once(numbered: Database) -> None:
    """Each takes the next number; a failure in their midst makes all run again, and there is no gap and no
    repetition.
    """
    runs: list[int] = []

    def take_next(connection: sa.Connection) -> int:
        value = len(_values(connection))
        runs.append(value)
        return _put(value)(connection)

    def fail(_connection: sa.Connection) -> int:
        raise ValueError

    async with _held(numbered):
        writing = [asyncio.create_task(numbered.write(fail if number == 25 else take_next)) for number in range(50)]
    outcomes = await asyncio.gather(*writing, return_exceptions=True)
    taken = [outcome for outcome in outcomes if isinstance(outcome, int)]
    assert sorted(taken) == list(range(49))
    assert await numbered.read(_values) == list(range(49))
    assert len(runs) > 49, "the first ones ran twice"


async def test_a_unit_sees_what_the_units_before_it_did(numbered: Database) -> None:
    async with _held(numbered):
        first = asyncio.create_task(numbered.write(_put(1)))
        await turns()
        second = asyncio.create_task(numbered.write(_values))
    await first
    assert await second == [1]


async def test_of_many_who_gave_up_none_spoils_the_batch(numbered: Database) -> None:
    """What becomes of a unit whose caller gave up is not said, but it is there whole or not at all; the others are
    answered.
    """
    async with _held(numbered):
        writing = [asyncio.create_task(numbered.write(_put(number))) for number in range(50)]
        await turns()
        for task in writing[::5]:
            task.cancel()
    outcomes = await asyncio.gather(*writing, return_exceptions=True)
    assert [isinstance(outcome, asyncio.CancelledError) for outcome in outcomes] == [n % 5 == 0 for n in range(50)]
    assert set(range(50)) - set(await numbered.read(_values)) <= set(range(0, 50, 5))
    assert await numbered.write(_put(1000)) == 1000


async def test_readers_see_all_of_a_unit_or_nothing(numbered: Database) -> None:
    def put_pair(number: int) -> Callable[[sa.Connection], None]:
        def unit(connection: sa.Connection) -> None:
            _put(2 * number)(connection)
            _put(2 * number + 1)(connection)

        return unit

    done = asyncio.Event()

    async def look() -> None:
        while not done.is_set():
            found = await numbered.read(_values)
            assert found == list(range(len(found)))
            assert len(found) % 2 == 0

    looking = [asyncio.create_task(look()) for _ in range(3)]
    for number in range(50):
        await numbered.write(put_pair(number))
    done.set()
    await asyncio.gather(*looking)


async def test_a_lookup_sees_what_was_written_before(numbered: Database) -> None:
    for number in range(20):
        await numbered.write(_put(number))
        assert await numbered.look_up(_values) == list(range(number + 1))


async def test_a_lookup_that_fails_does_not_spoil_the_next(numbered: Database) -> None:
    def fail(connection: sa.Connection) -> None:
        connection.execute(sa.text("SELECT * FROM nowhere"))

    for _ in range(3):
        with pytest.raises(sa.exc.DBAPIError):
            await numbered.look_up(fail)
    assert await numbered.look_up(_values) == []


async def test_what_nobody_waits_for_is_done_too(numbered: Database, caplog: pytest.LogCaptureFixture) -> None:
    numbered.write_later(_put(1))
    numbered.write_later(_put(1))
    numbered.write_later(_put(2))
    assert await numbered.write(_put(3)) == 3
    assert await numbered.read(_values) == [1, 2, 3]
    assert [record.message for record in caplog.records] == ["write failed"]


def test_threads_may_write_too(numbered: Database) -> None:
    results: list[int] = []
    threads = [threading.Thread(target=lambda n=n: results.append(numbered.write_now(_put(n)))) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == list(range(20))
    with pytest.raises(sa.exc.IntegrityError):
        numbered.write_now(_put(5))


# -- bytes -------------------------------------------------------------------------------------------------------------


class Log:
    """A `ByteLog` in memory that tells what was durable when."""

    def __init__(self) -> None:
        self.data = b""
        self.durable = 0
        self.num_syncs = 0
        self.fails = False

    def append(self, data: Any) -> int:
        offset = len(self.data)
        self.data += bytes(data)
        return offset

    def sync(self) -> None:
        if self.fails:
            raise OSError(28, "No space left on device")
        self.durable = len(self.data)
        self.num_syncs += 1


async def test_many_bytes_are_synced_once_and_before_any_row(numbered: Database) -> None:
    logs = [Log(), Log()]

    def row(number: int) -> Callable[[sa.Connection, int], tuple[int, bytes]]:
        def unit(connection: sa.Connection, offset: int) -> tuple[int, bytes]:
            log = logs[number % 2]
            assert log.durable >= offset + 4
            _put(number)(connection)
            return number, log.data[offset : offset + 4]

        return unit

    async with _held(numbered, Lane.REPORTS):
        writing = [
            asyncio.ensure_future(_write_with_bytes(numbered, row(number), logs[number % 2], b"%04d" % number))
            for number in range(40)
        ]
    assert await asyncio.gather(*writing) == [(number, b"%04d" % number) for number in range(40)]
    assert [log.num_syncs for log in logs] == [1, 1]


async def test_units_that_run_twice_write_their_bytes_once(numbered: Database) -> None:
    log = Log()

    def fail(_connection: sa.Connection, _offset: int) -> int:
        raise ValueError

    def take(_connection: sa.Connection, offset: int) -> int:
        return offset

    async with _held(numbered, Lane.REPORTS):
        writing = [
            asyncio.ensure_future(_write_with_bytes(numbered, fail if number == 5 else take, log, b"ab"))
            for number in range(10)
        ]
    outcomes = await asyncio.gather(*writing, return_exceptions=True)
    assert isinstance(outcomes.pop(5), ValueError)
    assert outcomes == [0, 2, 4, 6, 8, 12, 14, 16, 18]
    assert log.data == b"ab" * 10


async def test_bytes_that_cannot_be_kept_leave_no_row(numbered: Database) -> None:
    log = Log()
    log.fails = True

    def row(connection: sa.Connection, _offset: int) -> int:
        return _put(1)(connection)

    with pytest.raises(StorageFull):
        await _write_with_bytes(numbered, row, log, b"x")
    assert await numbered.read(_values) == []
    log.fails = False
    assert await _write_with_bytes(numbered, row, log, b"x") == 1


# -- batches -----------------------------------------------------------------------------------------------------------


class Numbers:
    """A `Batch` of numbers: one statement for all; an odd one is refused, and a negative one spoils its batch."""

    lane = Lane.ADMISSIONS

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def run(self, connection: sa.Connection, items: Sequence[int]) -> list[int | Conflict]:
        self.batches.append(list(items))
        if even := [{"value": item} for item in items if item % 2 == 0]:
            connection.execute(numbers.insert(), even)
        if min(items) < 0:
            raise ValueError(min(items))
        return [item if item % 2 == 0 else Conflict(f"number {item}") for item in items]


async def test_items_that_wait_share_their_statements(numbered: Database) -> None:
    kind, commits = Numbers(), _count_commits(numbered)
    async with _held(numbered, Lane.ADMISSIONS):
        writing = [asyncio.create_task(numbered.write_all(kind, number)) for number in range(20)]
    outcomes = await asyncio.gather(*writing, return_exceptions=True)
    assert [one.detail if isinstance(one, Conflict) else one for one in outcomes] == [
        number if number % 2 == 0 else f"number {number}" for number in range(20)
    ]
    assert kind.batches == [list(range(20))]
    assert len(commits) == 2
    assert await numbered.read(_values) == list(range(0, 20, 2))


async def test_an_item_that_fails_leaves_the_others(numbered: Database) -> None:
    kind = Numbers()
    async with _held(numbered, Lane.ADMISSIONS):
        writing = [asyncio.create_task(numbered.write_all(kind, number)) for number in (2, -4, 6, 7)]
    outcomes = await asyncio.gather(*writing, return_exceptions=True)
    assert kind.batches == [[2, -4, 6, 7], [2], [-4], [6], [7]]
    assert [type(one) for one in outcomes] == [int, ValueError, int, Conflict]
    assert await numbered.read(_values) == [2, 6]


async def test_units_and_items_of_one_lane_share_a_transaction(numbered: Database) -> None:
    kind, commits = Numbers(), _count_commits(numbered)
    async with _held(numbered, Lane.ADMISSIONS):
        writing = [asyncio.create_task(numbered.write_all(kind, 2))]
        await turns()
        writing.append(asyncio.create_task(numbered.write(_put(3), Lane.ADMISSIONS)))
    assert await asyncio.gather(*writing) == [2, 3]
    assert len(commits) == 2


async def test_items_of_few_groups_share_a_transaction_where_others_write_too(numbered: Database) -> None:
    """So that two processes rarely wait for the same rows. SQLite has one writer, which makes few commits instead."""
    kind, count = Numbers(), 2 * MIN_BATCH + 4
    async with _held(numbered, Lane.ADMISSIONS):
        writing = [asyncio.create_task(numbered.write_all(kind, 2 * n, group=n % 2)) for n in range(count)]
    assert await asyncio.gather(*writing) == list(range(0, 2 * count, 2))
    if numbered.dialect == "sqlite":
        assert [len(batch) for batch in kind.batches] == [MAX_BATCH, count - MAX_BATCH]
    else:
        assert kind.batches == [list(range(0, 2 * count, 4)), list(range(2, 2 * count, 4))]


def _take_all(units: list[Unit]) -> list[list[int]]:
    """The numbers of the units of each batch."""
    numbers, waiting, batches = {unit: number for number, unit in enumerate(units)}, deque(units), []
    while waiting:
        batches.append([numbers[unit] for unit in take_batch(waiting)])
    return batches


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        pytest.param([1, 2, 3, 1], [[0, 1, 2, 3]], id="few of each go together"),
        pytest.param(
            [5] + [6] * MIN_BATCH + [7, 5],
            [[0, *range(1, MIN_BATCH + 1), MIN_BATCH + 2], [MIN_BATCH + 1]],
            id="the group of the oldest comes first, and the youngest one waits",
        ),
        pytest.param([1] * (MAX_BATCH + 1), [list(range(MAX_BATCH)), [MAX_BATCH]], id="a batch has a largest size"),
        pytest.param([None, None, 1], [[0, 1], [2]], id="without a group"),
        pytest.param([1, -1, 2, 1, -1], [[0], [1], [2, 3], [4]], id="nothing passes what is alone"),
    ],
)
def test_a_transaction_has_the_groups_that_have_waited_longest(
    groups: list[int | None], expected: list[list[int]]
) -> None:
    """-1: a unit that is alone."""
    units = [Unit(int, Future(), is_alone=group == -1, group=None if group == -1 else group) for group in groups]
    assert _take_all(units) == expected


async def test_what_is_alone_comes_between_the_bytes(numbered: Database) -> None:
    """As the diffs of a completed cycle are dropped before the bytes of the next one are appended."""
    log = Log()
    async with _held(numbered, Lane.REPORTS):
        first = asyncio.ensure_future(_write_with_bytes(numbered, lambda _connection, offset: offset, log, b"ab"))
        await turns()
        numbered.write_later(lambda _connection: setattr(log, "data", b""), Lane.REPORTS, is_alone=True)
        second = asyncio.ensure_future(_write_with_bytes(numbered, lambda _connection, offset: offset, log, b"cd"))
    assert [await first, await second] == [0, 0]
    assert log.data == b"cd"
