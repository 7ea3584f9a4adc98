"""The clients that wait for a cycle at several replicas, on both databases.

Should happen: replicas that exchange at the same time see each other; a client counts once; rows of an ended process
run out, and go when the cycle opens. Should not: a row for a cycle that waits no more.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from pygrid.configuration import ServerConfig
from pygrid.core.cycles import Cycle, open_cycle
from pygrid.storage.cycle_transitions import store_opening
from pygrid.storage.presence import exchange, mark_of, presence
from pygrid.storage.sql.database import Database
from pygrid.storage.sql.migrations import migrate
from support.cycle_rows import NOW, put_process

LATER = NOW + dt.timedelta(seconds=12)


class Replicas:
    """Two replicas, and the cycle that their clients wait for."""

    def __init__(self, one: Database, other: Database) -> None:
        migrate(one)
        self.one, self.other = one, other
        self.cycle = self.new_cycle("digits")

    def new_cycle(self, name: str) -> Cycle:
        return self.one.write_now(lambda connection: put_process(connection, name, {"min_workers": 9}))[1]

    def exchange(
        self, replica: Database, *clients: str, cycle: Cycle | None = None, now: dt.datetime = NOW
    ) -> set[bytes] | None:
        marks, cycle_id = set(map(mark_of, clients)), (cycle or self.cycle).id
        return replica.write_now(lambda connection: exchange(connection, cycle_id, marks, now, LATER))

    def num_rows(self) -> int:
        return self.one.read_now(
            lambda connection: connection.execute(sa.select(sa.func.count()).select_from(presence)).scalar_one()
        )


@pytest.fixture
def replicas(database: Database, database_url: str) -> Iterator[Replicas]:
    other = Database(database_url)
    yield Replicas(database, other)
    other.close()


def test_a_client_at_both_replicas_counts_once(replicas: Replicas) -> None:
    assert replicas.exchange(replicas.one, "a", "b") == set(map(mark_of, "ab"))
    assert replicas.exchange(replicas.other, "b", "c") == set(map(mark_of, "abc"))
    assert replicas.exchange(replicas.one) == set(map(mark_of, "bc"))
    assert replicas.num_rows() == 1


def test_what_an_ended_process_stored_runs_out(replicas: Replicas) -> None:
    replicas.exchange(replicas.one, "a")
    assert replicas.exchange(replicas.other, "b", now=LATER) == {mark_of("b")}


def test_an_open_cycle_has_no_rows(replicas: Replicas) -> None:
    replicas.exchange(replicas.one, "a")
    waiting = replicas.new_cycle("others")
    replicas.exchange(replicas.one, "a", cycle=waiting)
    opened = open_cycle(replicas.cycle, ServerConfig(cycle_length=None), NOW)
    replicas.one.write_now(lambda connection: store_opening(connection, opened, NOW))
    assert replicas.exchange(replicas.other, "b") is None
    assert replicas.num_rows() == 1


def test_replicas_that_exchange_at_the_same_time_see_each_other(replicas: Replicas) -> None:
    both = threading.Barrier(2)

    def run(replica: Database, client: str, cycle: Cycle) -> set[bytes] | None:
        both.wait()
        return replicas.exchange(replica, client, cycle=cycle)

    with ThreadPoolExecutor(2) as threads:
        for number in range(20):
            cycle = replicas.new_cycle(f"process {number}")
            running = [
                threads.submit(run, one, client, cycle) for one, client in ((replicas.one, "a"), (replicas.other, "b"))
            ]
            assert set(map(mark_of, "ab")) in [one.result() for one in running]
