"""Rows of Workers of other machines and of their leases, on SQLite and on PostgreSQL.

Should happen: a lease has one Worker and one job, and ends once, with its job, its time or its Worker.
Should not happen: a lease that another Worker uses, or that is renewed or begun after its end.
"""

from __future__ import annotations

import datetime as dt

import pytest
import sqlalchemy as sa
from test_job_rows import new_job, put_dataset
from test_job_rows import put as put_new

from pygrid.core import jobs as rules
from pygrid.core.jobs import JobState
from pygrid.core.worker_leases import WorkerLease
from pygrid.errors import Conflict, NotFound
from pygrid.storage import engine_starts as starts
from pygrid.storage import jobs
from pygrid.storage import workers as rows
from pygrid.storage.sql.database import Database
from pygrid.storage.sql.migrations import migrate
from pygrid.storage.workers import Worker

NOW = dt.datetime(2026, 5, 1, 12, tzinfo=dt.UTC)


def put(database: Database, name: str) -> Worker:
    return database.write_now(lambda connection: rows.put_worker(connection, name, name * 10, 5, NOW))


def find(database: Database, token_hash: str) -> Worker | None:
    return database.read_now(lambda connection: rows.find_worker(connection, token_hash))


def test_a_worker_is_found_by_its_token_until_it_is_released(database: Database) -> None:
    migrate(database)
    first, second = put(database, "a"), put(database, "b")
    assert (first.name, first.last_seen_at) == ("a", None)
    database.write_now(lambda connection: rows.update_seen(connection, first.id, NOW))
    seen = Worker(first.id, "a", NOW, NOW)
    assert find(database, "a" * 10) == seen
    assert database.read_now(rows.list_workers) == [seen, second]
    database.write_now(lambda connection: rows.release_worker(connection, first.id))
    assert find(database, "a" * 10) is None
    assert database.read_now(rows.list_workers) == [second]
    with pytest.raises(NotFound, match="no Worker"):
        database.write_now(lambda connection: rows.release_worker(connection, first.id))
    assert put(database, "a").id > second.id, "the number of a Worker that was is not given again"


def test_a_name_is_given_once(database: Database) -> None:
    migrate(database)
    first = put(database, "a")
    with pytest.raises(Conflict, match="already"):
        put(database, "a")
    assert database.read_now(rows.list_workers) == [first]


LATER, LATEST = NOW + dt.timedelta(seconds=15), NOW + dt.timedelta(seconds=30)
LEASE = WorkerLease("a" * 64, "job", 7, "gpu-1")


def find_lease(database: Database, id_hash: str = "a" * 64, worker_id: int = 7) -> WorkerLease | None:
    return database.read_now(lambda connection: rows.find_lease(connection, id_hash, worker_id))


def test_a_lease_is_one_workers_until_it_ends(database: Database) -> None:
    migrate(database)
    write = database.write_now
    write(lambda connection: rows.put_lease(connection, LEASE, NOW, LATER))
    assert find_lease(database) == LEASE
    assert find_lease(database, worker_id=8) is None
    assert find_lease(database, id_hash="b" * 64) is None
    assert write(lambda connection: rows.begin_lease(connection, "a" * 64))
    assert not write(lambda connection: rows.begin_lease(connection, "a" * 64)), "it begins once"
    assert find_lease(database) == WorkerLease("a" * 64, "job", 7, "gpu-1", is_begun=True)
    assert database.read_now(rows.count_leases) == {7: 1}
    assert write(lambda connection: rows.end_of_job(connection, "job", expired_at=NOW)) is None
    assert write(lambda connection: rows.renew_lease(connection, "a" * 64, LATEST))
    assert write(lambda connection: rows.end_of_job(connection, "job", expired_at=LATER)) is None, "it was renewed"
    assert write(lambda connection: rows.end_of_job(connection, "job", "b" * 64)) is None, "another lease"
    adopted = write(lambda connection: rows.adopt_lease(connection, "job", LATER, LATEST))
    assert adopted == WorkerLease("a" * 64, "job", 7, "gpu-1", is_begun=True, age_s=15.0)
    ended = write(lambda connection: rows.end_of_job(connection, "job", expired_at=LATEST))
    assert ended is not None
    assert ended.is_begun
    assert find_lease(database) is None
    for change in (rows.begin_lease, lambda connection, name: rows.renew_lease(connection, name, LATEST)):
        assert not write(lambda connection, change=change: change(connection, "a" * 64))  # type: ignore[misc]
    assert write(lambda connection: rows.adopt_lease(connection, "job", NOW, LATER)) is None


def test_a_job_has_its_newest_lease_alone(database: Database) -> None:
    migrate(database)
    newer = WorkerLease("b" * 64, "job", 8, "gpu-2")
    database.write_now(lambda connection: rows.put_lease(connection, LEASE, NOW, LATER))
    database.write_now(lambda connection: rows.put_lease(connection, newer, NOW, LATER))
    assert find_lease(database) is None
    assert find_lease(database, "b" * 64, 8) == newer


def test_a_lease_ends_in_the_transaction_that_ends_its_job(database: Database) -> None:
    migrate(database)
    database.write_now(lambda connection: put_dataset(connection, "points", 5))
    job = put_new(database, new_job(state=JobState.APPROVED))
    job = database.write_now(lambda connection: jobs.update_job(connection, rules.start(job), NOW, lease_until=LATER))
    lease = WorkerLease("a" * 64, job.id, 7, "gpu-1")
    database.write_now(lambda connection: rows.put_lease(connection, lease, NOW, LATER))
    assert database.read_now(lambda connection: starts.find_pool_at_work(connection, job.id)) == "leased"
    database.write_now(starts.end_orphans)
    assert find_lease(database) == lease, "its job runs"

    def fail_then_raise(connection: sa.Connection) -> None:
        jobs.update_job(connection, rules.fail(job, "lost", ""), NOW)
        raise NotFound("x")

    with pytest.raises(NotFound):
        database.write_now(fail_then_raise)
    assert find_lease(database) == lease
    database.write_now(lambda connection: jobs.update_job(connection, rules.fail(job, "lost", ""), NOW))
    assert find_lease(database) is None
    assert database.read_now(lambda connection: starts.find_pool_at_work(connection, job.id)) is None
    database.write_now(lambda connection: rows.put_lease(connection, lease, NOW, LATER))
    database.write_now(starts.end_orphans)
    assert find_lease(database) is None, "its job does not run"


def test_the_worker_of_an_engine_is_at_work_from_its_start_to_the_end_of_its_lease(database: Database) -> None:
    migrate(database)

    def pool() -> str | None:
        return database.read_now(lambda connection: starts.find_pool_at_work(connection, "job"))

    assert pool() is None
    first = database.write_now(lambda connection: starts.put_start(connection, "job", "hpc", "1" * 64, NOW))
    assert pool() == "hpc"
    database.write_now(lambda connection: starts.finish_start(connection, first.number))
    assert pool() is None
    start = database.write_now(lambda connection: starts.put_start(connection, "job", "ray", "2" * 64, NOW))
    database.write_now(lambda connection: starts.claim_start(connection, "2" * 64, "3" * 64))
    assert pool() is None, "the Worker has used its token, and has no lease"
    stale = WorkerLease("a" * 64, "job", -first.number, "hpc")
    database.write_now(lambda connection: rows.put_lease(connection, stale, NOW, LATER))
    assert pool() is None, "the lease is of another start"
    lease = WorkerLease("b" * 64, "job", -start.number, "ray")
    database.write_now(lambda connection: rows.put_lease(connection, lease, NOW, LATER))
    assert pool() == "ray"
    database.write_now(starts.finish_orphans)
    assert database.read_now(lambda connection: starts.find_current(connection, "job")) is None, "no such job runs"
