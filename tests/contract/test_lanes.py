"""Several processes write to one PostgreSQL at once, each in all of its lanes; and transactions that conflict.

Should happen: the history is serial; a transaction that conflicts is run again, a bounded number of times.
Should not happen: a follower that skips an event; a report in a cycle that had closed; a lost entry of the
audit log.
"""

from __future__ import annotations

import collections
import json
import os
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

import pygrid
from pygrid.core.cycles import CycleState
from pygrid.errors import Unavailable
from pygrid.storage import audit, reports
from pygrid.storage import cycles as rows
from pygrid.storage.sql.database import Database
from pygrid.storage.sql.lanes import MAX_RETRIES, Lane
from pygrid.storage.sql.migrations import migrate
from support import lane_writer

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
NUM_PROCESSES, NUM_UNITS = 4, 50
CONFLICTS = {"serialization": "40001", "deadlock": "40P01"}


class Follower(threading.Thread):
    """Reads the events of a process as they come, as `events` of an SDK does."""

    def __init__(self, database: Database, process_id: int) -> None:
        super().__init__()
        self._database, self._process_id = database, process_id
        self.ended = threading.Event()
        self.seen: list[int] = []

    def run(self) -> None:
        while True:
            is_last = self.ended.is_set()
            after = self.seen[-1] if self.seen else 0
            found = self._database.read_now(
                partial(rows.list_events, process_id=self._process_id, after=after, limit=3)
            )
            self.seen += [event.number for event in found]
            if is_last and not found:
                return
            self.ended.wait(0.002)


def test_processes_that_write_at_once_have_a_serial_history(database: Database) -> None:
    migrate(database)
    database.write_now(lane_writer.prepare)
    url = database.url.render_as_string(hide_password=False).replace("postgresql+psycopg", "postgresql")
    followers = [Follower(database, process_id) for process_id in (1, 2, 3)]
    for follower in followers:
        follower.start()
    path = os.pathsep.join([str(Path(pygrid.__file__).parents[1]), str(Path(lane_writer.__file__).parents[1])])
    command = [sys.executable, "-m", "support.lane_writer", url]
    running = [
        subprocess.Popen(
            [*command, str(seed), str(NUM_UNITS)], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
        )
        for seed in range(NUM_PROCESSES)
    ]
    told = [json.loads(process.communicate(timeout=300)[0]) for process in running]
    assert [process.returncode for process in running] == [0] * NUM_PROCESSES
    for follower in followers:
        follower.ended.set()
        follower.join()

    taken = sorted(value for one in told for value in one["taken"])
    assert taken == list(range(len(taken))), "each unit saw what the ones before it wrote"
    codes = collections.Counter(code for one in told for code in one["refused"])
    assert set(codes) <= {"cycle_closed", "already_reported", "invalid_request_key"}

    def load(connection: sa.Connection) -> None:
        assert audit.verify(connection) is None
        assert audit.get_head(connection).number == sum(one["entries"] for one in told)
        for follower in followers:
            events = rows.list_events(connection, followers.index(follower) + 1, 0, 1000)
            assert follower.seen == [event.number for event in events] == list(range(1, len(events) + 1))
            closing = {event.cycle: event.data["num_reports"] for event in events if event.kind == "cycle_closing"}
            for cycle in rows.list_cycles(connection, followers.index(follower) + 1, 0, 1000):
                stored = reports.list_reports(connection, cycle.id)
                assert cycle.num_reports == len(stored) <= 4
                assert (cycle.sequence in closing) is (cycle.state is not CycleState.OPEN)
                assert closing.get(cycle.sequence, 4) == 4
                assert cycle.state is CycleState.OPEN or len(stored) == 4, "none came after it had closed"
        stored_ids = connection.execute(sa.select(reports.reports.c.id)).scalars().all()
        assert sorted(stored_ids) == sorted({number for one in told for number in one["accepted"]})
        completed = sa.select(sa.func.count()).where(rows.cycles.c.state == CycleState.COMPLETED.value)
        assert connection.execute(completed).scalar_one() > 0, "cycles were completed while others reported"

    database.read_now(load)


@pytest.mark.parametrize("state", CONFLICTS.values(), ids=CONFLICTS)
@pytest.mark.parametrize("lane", Lane)
async def test_a_transaction_that_conflicts_is_run_again(database: Database, lane: Lane, state: str) -> None:
    migrate(database)
    runs: list[int] = []

    def unit(connection: sa.Connection) -> int:
        runs.append(len(runs))
        if len(runs) <= 3:
            _conflict(connection, state)
        return len(runs)

    assert await database.write(unit, lane) == 4


async def test_a_transaction_that_always_conflicts_is_refused(database: Database) -> None:
    migrate(database)
    runs: list[int] = []

    def unit(connection: sa.Connection) -> None:
        runs.append(len(runs))
        _conflict(connection, "40001")

    with pytest.raises(Unavailable) as refused:
        await database.write(unit)
    assert (refused.value.code, refused.value.fields["retry_after_s"]) == ("storage_busy", 1)
    assert len(runs) == MAX_RETRIES + 1
    assert await database.write(lambda connection: connection.execute(sa.text("SELECT 1")).scalar_one()) == 1


def _conflict(connection: sa.Connection, state: str) -> None:
    """End the transaction as PostgreSQL does for one that conflicts with another."""
    connection.execute(sa.text(f"DO $$ BEGIN RAISE EXCEPTION 'conflict' USING ERRCODE = '{state}'; END $$"))


async def test_lanes_do_not_wait_for_each_other(database: Database) -> None:
    migrate(database)
    held, begun = threading.Event(), threading.Event()

    def hold(_connection: sa.Connection) -> None:
        begun.set()
        held.wait(60)

    database.write_later(hold)
    begun.wait(60)
    for lane in (Lane.REPORTS, Lane.ADMISSIONS, Lane.AUDITED):
        assert await database.write(lambda _connection: 1, lane) == 1
    held.set()


@pytest.mark.parametrize(
    ("lane", "isolation"),
    [
        (Lane.REPORTS, "read committed"),
        (Lane.ADMISSIONS, "read committed"),
        (Lane.AUDITED, "serializable"),
        (Lane.REST, "serializable"),
    ],
)
async def test_each_lane_has_its_isolation(database: Database, lane: Lane, isolation: str) -> None:
    migrate(database)
    query = sa.text("SELECT current_setting('transaction_isolation')")
    assert await database.write(lambda connection: connection.execute(query).scalar_one(), lane) == isolation
