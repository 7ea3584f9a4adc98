"""The clock of replicas.

Should happen: it is the time of PostgreSQL, also on a machine whose clock is wrong; a wrong clock is logged once.
Should not happen: a jump of the machine's clock, or a slow or missing answer of the database, moves it.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from pygrid.errors import Unavailable
from pygrid.storage.database_clock import MAX_ANSWER_S, DatabaseClock
from pygrid.storage.sql.database import Database

HOUR = dt.timedelta(hours=1)


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[Database]:
    database = Database(postgres_url)
    yield database
    database.close()


class Machine:
    """A machine whose clocks the test sets."""

    def __init__(self) -> None:
        self.wall_s, self.elapsed_s = 1e9, 100.0
        self.step_s = 0.0
        """What passes at each look at the monotonic clock."""

    def elapsed(self) -> float:
        self.elapsed_s += self.step_s
        return self.elapsed_s


def time_of(database: Database) -> dt.datetime:
    return database.read_now(lambda connection: connection.execute(sa.text("SELECT clock_timestamp()")).scalar_one())


def test_a_wrong_clock_of_the_machine_does_not_count(postgres: Database, caplog: pytest.LogCaptureFixture) -> None:
    """It is years behind when the app starts, and then jumps. Far less than an hour passes in this test."""
    machine = Machine()
    with caplog.at_level(logging.WARNING):
        clock = DatabaseClock(postgres, lambda: machine.wall_s, machine.elapsed)
        began = clock.now()
        assert abs(began - time_of(postgres)) < HOUR
        for _ in range(3):
            machine.wall_s += 7200.0
            clock.look()
            assert abs(clock.now() - began) < HOUR
    assert [record.message for record in caplog.records] == ["machine's clock differs from the database's"]


def test_a_slow_answer_does_not_count(postgres: Database) -> None:
    machine = Machine()
    clock = DatabaseClock(postgres, lambda: machine.wall_s, machine.elapsed)
    began, began_s = clock.now(), machine.elapsed_s
    machine.step_s = 100 * MAX_ANSWER_S
    clock.look()
    machine.step_s = 0.0
    passed_s = (clock.now() - began).total_seconds()
    assert passed_s == pytest.approx(machine.elapsed_s - began_s, abs=1e-3)  # no part of it is a slew


def test_it_goes_on_while_the_database_is_away(postgres: Database) -> None:
    machine = Machine()
    clock = DatabaseClock(postgres, lambda: machine.wall_s, machine.elapsed)
    began = clock.now()
    postgres.engine.dispose()
    postgres.engine = sa.create_engine("postgresql+psycopg://nobody@127.0.0.1:1/nothing")
    with pytest.raises(Unavailable):
        clock.look()
    machine.elapsed_s += 30.0
    assert clock.now() - began == dt.timedelta(seconds=30)
