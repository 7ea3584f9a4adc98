"""Rows of jobs, policies and the queue, on SQLite and on PostgreSQL; and the files of jobs.

Should happen: a job comes back as it was put; a change is written once; the queue gives the oldest that nobody else
has. Should not happen: two changes at once that both count; a list that shows what the rules would not.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from pygrid.aggregation.optimizers import ServerOptimizer
from pygrid.core import jobs as rules
from pygrid.core.access import ADMINISTRATOR, COMPLIANCE_OFFICER, OWNER, USER, Principal
from pygrid.core.datasets import Visibility
from pygrid.core.job_spec import PrivacyTerms
from pygrid.core.jobs import Change, JobRecord, JobState, Result
from pygrid.errors import Conflict, NotFound, Unavailable
from pygrid.messages.datasets import Column, Schema, UploadRequest
from pygrid.messages.jobs import JobRequest, PrivacyRequest, StatisticRequest
from pygrid.privacy.ledger import Use
from pygrid.storage import accounts
from pygrid.storage import datasets as dataset_rows
from pygrid.storage import jobs as rows
from pygrid.storage.datasets import NewVersion
from pygrid.storage.job_files import JobFiles, new_job_id
from pygrid.storage.policies import Policy, find_policy, put_policy
from pygrid.storage.sql.database import Database
from pygrid.storage.sql.migrations import migrate

NOW = dt.datetime(2026, 5, 1, 12, tzinfo=dt.UTC)
LATER = NOW + dt.timedelta(minutes=1)
SCHEMA = Schema((Column("x", "float32"),), 10)
TERMS = PrivacyTerms(clip=1.0, noise_multiplier=1.5, rounds=7, delta=1e-6, expected_size=5.0, sampling_rate=0.5)


def put_dataset(connection: sa.Connection, name: str, holder: int, visibility: Visibility = "listed") -> int:
    request = UploadRequest(name=name, visibility=visibility)
    dataset_id = dataset_rows.put_dataset(connection, request, search_text="", created_by=holder, now=NOW)
    dataset_rows.put_version(
        connection, dataset_id, NewVersion("folder", None, "none", SCHEMA, "", "hash"), holder, NOW
    )
    return dataset_id


@pytest.fixture
def filled(database: Database) -> Database:
    """A database with dataset 1, whose holder is user 5."""
    migrate(database)
    database.write_now(lambda connection: put_dataset(connection, "points", 5))
    return database


def new_job(dataset_id: int = 1, asker: int = 7, state: JobState = JobState.CHECKING, **more: object) -> JobRecord:
    request = JobRequest(
        dataset=dataset_id,
        kind="statistics",
        reason="why\nnot",
        hyper={"lr": 0.1},
        statistics=(StatisticRequest("count", by="x", keys=(1, "é")),),
        privacy=PrivacyRequest(1.0, 1e-6),
        optimizer={"name": ServerOptimizer().name},
    )
    made = JobRecord(
        id=new_job_id(),
        dataset_id=dataset_id,
        version_id=dataset_id,
        state=state,
        request=request,
        request_hash="e" * 64,
        requested_by=asker,
        plan_id="",
        plan_name="",
        plan_summary="in words",
        model_hash="",
        terms=TERMS,
        created_at=NOW,
        updated_at=NOW,
    )
    return replace(made, **more)  # type: ignore[arg-type]


def put(database: Database, job: JobRecord) -> JobRecord:
    database.write_now(lambda connection: rows.put_job(connection, job))
    return database.read_now(lambda connection: rows.get_job(connection, job.id))


def update(
    database: Database, job: JobRecord, at: dt.datetime = LATER, lease_until: dt.datetime | None = None
) -> JobRecord:
    database.write_now(lambda connection: rows.update_job(connection, job, at, lease_until=lease_until))
    return database.read_now(lambda connection: rows.get_job(connection, job.id))


def test_a_job_comes_back_as_it_was_put(filled: Database) -> None:
    job = new_job()
    stored = put(filled, job)
    assert stored == replace(job, history=(Change(JobState.CHECKING, NOW),))
    assert put(filled, new_job(terms=None)).terms is None
    with pytest.raises(NotFound) as caught:
        filled.read_now(lambda connection: rows.get_job(connection, "0" * 32))
    assert caught.value.code == "job_not_found"


def test_each_change_is_kept_with_its_time(filled: Database) -> None:
    job = put(filled, new_job())
    job = update(filled, rules.admit(job, {"loss": 0.5}))
    job = update(filled, rules.start(job), lease_until=LATER)
    result = Result("f" * 64, 12, "application/json", {"loss": 0.25})
    done = update(filled, rules.finish(job, result, {"num_records": 10, "bytes_out_ratio": None}))
    assert done.result == result
    assert done.facts == {"num_records": 10, "bytes_out_ratio": None}
    assert done.mock_metrics == {"loss": 0.5}
    assert [change.state.value for change in done.history] == ["checking", "approved", "running", "released"]
    assert [change.at for change in done.history] == [NOW, LATER, LATER, LATER]
    assert (done.updated_at, done.sequence, done.num_attempts) == (LATER, 3, 1)


def test_of_changes_from_one_state_exactly_one_is_written(filled: Database, database_url: str) -> None:
    job = put(filled, new_job(state=JobState.WAITING))
    moves = [
        rules.approve(job, 5, job.request_hash, ""),
        rules.deny(job, 6, job.request_hash, ""),
        rules.cancel(job),
    ] * 4
    barrier = threading.Barrier(len(moves))

    def decide(moved: JobRecord) -> bool:
        database = Database(database_url)
        try:
            barrier.wait()
            update(database, moved)
        except Conflict:
            return False
        else:
            return True
        finally:
            database.close()

    with ThreadPoolExecutor(len(moves)) as pool:
        won = list(pool.map(decide, moves))
    assert won.count(True) == 1
    stored = filled.read_now(lambda connection: rows.get_job(connection, job.id))
    assert stored.state is moves[won.index(True)].state
    assert len(stored.history) == 2


def test_the_queue_gives_the_oldest(filled: Database) -> None:
    approved = [put(filled, new_job(state=JobState.APPROVED)) for _ in range(3)]
    put(filled, new_job(state=JobState.WAITING))
    taken = []
    while (job := filled.write_now(rows.find_next)) is not None:
        taken.append(job.id)
        update(filled, rules.start(job), lease_until=LATER)
    assert taken == [job.id for job in approved]


def test_nobody_keeps_all_workers_for_themselves(filled: Database) -> None:
    first = [put(filled, new_job(state=JobState.APPROVED, asker=7)) for _ in range(3)]
    other = [put(filled, new_job(state=JobState.APPROVED, asker=8)) for _ in range(2)]
    taken = []
    while (job := filled.write_now(rows.find_next)) is not None:
        taken.append(job.id)
        update(filled, rules.start(job), lease_until=LATER)
    assert taken == [first[0].id, other[0].id, first[1].id, other[1].id, first[2].id]


def test_the_queue_can_leave_out_what_would_be_charged(filled: Database) -> None:
    put(filled, new_job(state=JobState.APPROVED))
    exact = put(filled, new_job(state=JobState.APPROVED, terms=None))
    found = filled.write_now(lambda connection: rows.find_next(connection, exact_only=True))
    assert found is not None
    assert found.id == exact.id


def test_the_queue_gives_to_other_machines_what_may_go_there_for_the_first_time(filled: Database) -> None:
    other = filled.write_now(lambda connection: put_dataset(connection, "lines", 5))
    lost = put(filled, new_job(dataset_id=other, state=JobState.APPROVED, num_attempts=1))
    put(filled, new_job(state=JobState.APPROVED))
    may_go = put(filled, new_job(dataset_id=other, state=JobState.APPROVED))

    def found() -> JobRecord | None:
        return filled.write_now(lambda connection: rows.find_next(connection, pool="leased"))

    assert found() is None, "no dataset has a policy"
    for allowed, job in ((False, None), (True, may_go)):
        policy = Policy(True, None, Use.MIXED, ("local", "leased") if allowed else ("local",))
        filled.write_now(lambda connection, p=policy: put_policy(connection, other, p, NOW))
        taken = found()
        assert (taken and taken.id) == (job and job.id)
    oldest = filled.write_now(rows.find_next)
    assert oldest is not None
    assert oldest.id == lost.id


def test_a_job_runs_in_a_pool_that_the_policy_and_the_job_allow(filled: Database) -> None:
    def found(pool: str) -> str | None:
        job = filled.write_now(lambda connection: rows.find_next(connection, pool=pool))
        return job and job.id

    put(filled, new_job(state=JobState.APPROVED))
    assert (found("leased"), found("hpc"), found("hp")) == (None, None, None)
    policy = Policy(True, None, Use.MIXED, ("hpc",))
    filled.write_now(lambda connection: put_policy(connection, 1, policy, NOW))
    assert found("local") is None, "the policy allows the engine alone"
    assert (found("hp"), found("leased")) == (None, None)
    assert found("hpc") is not None


def test_a_job_that_names_a_pool_runs_in_no_other(filled: Database) -> None:
    policy = Policy(True, None, Use.MIXED, ("local", "leased", "hpc"))
    filled.write_now(lambda connection: put_policy(connection, 1, policy, NOW))
    job = new_job(state=JobState.APPROVED)
    job = put(filled, replace(job, terms=None, request=msgspec.structs.replace(job.request, pool="hpc")))
    taken = [
        filled.write_now(lambda connection, pool=pool: rows.find_next(connection, pool=pool))
        for pool in ("local", "leased", "hpc")
    ]
    assert [one and one.id for one in taken] == [None, None, job.id]
    # It lost a Worker: it starts again where it may.
    job = update(filled, rules.start(job))
    update(filled, rules.requeue(job))
    again = filled.write_now(lambda connection: rows.find_next(connection, pool="hpc"))
    assert again is not None


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_two_that_take_at_once_take_different_jobs(filled: Database) -> None:
    """Of PostgreSQL alone: SQLite has one writer at a time."""
    first, second = (put(filled, new_job(state=JobState.APPROVED)) for _ in range(2))
    with filled.engine.begin() as one, filled.engine.begin() as other:
        found = [rows.find_next(one), rows.find_next(other), rows.find_next(other)]
        assert [job and job.id for job in found] == [first.id, second.id, second.id]


def test_a_lease_that_is_not_renewed_shows_a_lost_job(filled: Database) -> None:
    def lost(at: dt.datetime) -> list[str]:
        return [job.id for job in filled.read_now(lambda connection: rows.list_lost(connection, at))]

    job = put(filled, new_job(state=JobState.APPROVED))
    job = update(filled, rules.start(job), lease_until=NOW)
    assert lost(NOW) == []
    assert lost(LATER) == [job.id]
    assert filled.write_now(lambda connection: rows.renew_leases(connection, {job.id: job.lease_fence}, LATER)) == set()
    assert lost(LATER) == []
    update(filled, rules.fail(job, "lost", ""))
    assert lost(LATER + dt.timedelta(days=1)) == []


def test_a_lost_lease_is_not_revived(filled: Database, database_url: str) -> None:
    """The holder pauses, another instance takes the job over, and the holder goes on."""
    job = put(filled, new_job(state=JobState.APPROVED))
    job = update(filled, rules.start(job), lease_until=NOW)
    assert job.lease_fence == 1
    other = Database(database_url)
    try:
        assert other.write_now(lambda connection: rows.acquire_lease(connection, job, LATER, NOW)) is None, "not lost"
        taken = other.write_now(lambda connection: rows.acquire_lease(connection, job, LATER, LATER))
        assert taken is not None
        assert taken.lease_fence == 2
        assert other.write_now(lambda connection: rows.acquire_lease(connection, job, LATER, None)) is None, "taken"
        much_later = LATER + dt.timedelta(days=1)

        def renew(database: Database, fence: int) -> set[str]:
            return database.write_now(lambda connection: rows.renew_leases(connection, {job.id: fence}, much_later))

        assert renew(filled, 1) == {job.id}
        assert renew(filled, 2) == {job.id}, "the fence of another holder"
        assert not filled.write_now(lambda connection: rows.holds_lease(connection, job))
        assert not filled.write_now(lambda connection: rows.holds_lease(connection, taken))
        assert other.write_now(lambda connection: rows.holds_lease(connection, taken))
        lost = filled.read_now(lambda connection: rows.list_lost(connection, much_later))
        assert [one.id for one in lost] == [job.id], "nothing of the former holder has renewed it"
        assert renew(other, 2) == set()
        assert filled.read_now(lambda connection: rows.list_lost(connection, much_later)) == []
        ended = other.write_now(lambda connection: rows.update_job(connection, rules.fail(taken, "lost", ""), LATER))
        assert ended.lease_fence == 2
        assert renew(filled, 1) == set(), "an ended job is lost to nobody"
    finally:
        other.close()


def test_lists_show_what_the_rules_show(filled: Database) -> None:
    kinds: tuple[Visibility, ...] = ("private", "listed", "public")
    sets = [
        filled.write_now(lambda connection, h=holder, v=kind: put_dataset(connection, f"{h} {v}", h, v))
        for holder, kind in itertools.product((5, 7), kinds)
    ]
    made = [put(filled, new_job(dataset_id, asker)) for dataset_id in sets for asker in (5, 6, 7)]
    for role, user in itertools.product((USER, COMPLIANCE_OFFICER, ADMINISTRATOR, OWNER), (5, 6, 7, 8)):
        principal = Principal(user, role)

        def load(connection: sa.Connection, principal: Principal = principal) -> tuple[list[str], list[str]]:
            listed = [job.id for job in rows.list_jobs(connection, principal, rows.JobFilter())]
            seen = [
                job.id
                for job in reversed(made)
                if rules.may_see(principal, job.requested_by, rows.get_job_dataset(connection, job).holding)
            ]
            return listed, seen

        listed, seen = filled.read_now(load)
        assert listed == seen, (role.name, user)


def test_lists_can_be_narrowed_and_go_on(filled: Database) -> None:
    made = [put(filled, new_job(state=state)) for state in (JobState.WAITING, JobState.HELD, JobState.WAITING)]
    other = put(filled, new_job(asker=8))
    owner = Principal(5, OWNER)

    def ids(principal: Principal = owner, **more: Any) -> list[str]:
        found = filled.read_now(lambda connection: rows.list_jobs(connection, principal, rows.JobFilter(**more)))
        return [job.id for job in found]

    newest_first = [other.id, *(job.id for job in reversed(made))]
    assert ids() == newest_first
    assert ids(limit=2) == newest_first[:2]
    assert ids(before=newest_first[1], limit=2) == newest_first[2:]
    assert ids(states=[JobState.WAITING]) == [made[2].id, made[0].id]
    assert ids(states=[JobState.HELD, JobState.CHECKING]) == [other.id, made[1].id]
    assert ids(Principal(8, USER), mine=True) == [other.id]
    assert ids(dataset_id=2) == []
    opened = filled.read_now(lambda connection: rows.list_open(connection, 7))
    assert [job.id for job in opened] == [job.id for job in made]
    assert filled.read_now(lambda connection: rows.count_waiting(connection, 1)) == 2


def test_a_policy_is_put_and_replaced(filled: Database) -> None:
    assert filled.read_now(lambda connection: find_policy(connection, 1)) is None
    for policy in (Policy(True, 0.5, Use.MIXED), Policy(False, None, Use.MIXED, ("local", "leased", "hpc"))):
        filled.write_now(lambda connection, p=policy: put_policy(connection, 1, p, NOW))
        assert filled.read_now(lambda connection: find_policy(connection, 1)) == policy


def test_the_dataset_of_a_job_is_told_when_it_is_deleted(filled: Database) -> None:
    job = put(filled, new_job())
    filled.write_now(lambda connection: dataset_rows.delete_dataset(connection, 1, NOW))
    found = filled.read_now(lambda connection: rows.get_job_dataset(connection, job))
    assert (found.name, found.version, found.is_deleted, found.holding.created_by) == ("points", 1, True, 5)


# Files


def test_a_result_is_there_complete_or_not_at_all(tmp_path: Path) -> None:
    files = JobFiles(tmp_path)
    job_id = new_job_id()
    assert files.find_result(job_id) is None
    name = files.put_result(job_id, b"result", b"{}")
    assert files.find_result(job_id) == (name, b"result", b"{}")
    assert files.result(job_id).path(name).read_bytes() == b"result"
    # Only what was told beside it is there: the crash came before the result itself.
    half = new_job_id()
    files.put_result(half, b"x", b"{}")
    files.result(half).path(files.find_result(half)[0]).unlink()  # type: ignore[index]
    assert files.find_result(half) is None
    files.drop_result(job_id)
    with pytest.raises(NotFound):
        files.result(job_id).path(name)


def test_a_damaged_outcome_is_noticed(tmp_path: Path) -> None:
    files = JobFiles(tmp_path)
    job_id = new_job_id()
    name = files.put_result(job_id, b"result", b'{"metrics":{"loss":1.5}}')
    path = tmp_path / "results" / job_id / "outcome.json"
    stored = path.read_bytes()
    path.write_bytes(stored.replace(b"1.5", b"2.5"))
    with pytest.raises(Unavailable, match="damaged") as error:
        files.find_result(job_id)
    assert error.value.code == "blob_damaged"
    path.write_bytes(b'{"metrics":{}}')  # as version 0.1 wrote it
    assert files.find_result(job_id) == (name, b"result", b'{"metrics":{}}')


def test_what_nobody_names_is_swept(tmp_path: Path) -> None:
    files = JobFiles(tmp_path)
    ids = {name: new_job_id() for name in ("open", "released", "gone")}
    for job_id in ids.values():
        with files.receive(job_id) as inputs:
            inputs.put(b"plan")
        files.put_result(job_id, b"result", b"{}")
    files.sweep({ids["open"]}, {ids["released"]})
    assert {path.name for path in (tmp_path / "inputs").iterdir()} == {ids["open"]}
    assert {path.name for path in (tmp_path / "results").iterdir()} == {ids["open"], ids["released"]}


def test_what_was_refused_leaves_no_files(tmp_path: Path) -> None:
    files = JobFiles(tmp_path)
    with contextlib.suppress(Conflict), files.receive(new_job_id()) as inputs:
        inputs.put(b"plan")
        raise Conflict("refused")
    assert list((tmp_path / "inputs").iterdir()) == []


def test_jobs_whose_askers_are_gone_are_found(filled: Database) -> None:
    def put_asker(connection: sa.Connection) -> int:
        accounts.seed_roles(connection)
        texts = dict.fromkeys(("email", "password_hash", "private_key_hash"), "a@b.c")
        return accounts.put_user(connection, **texts, role_id=1, now=NOW)

    asker = filled.write_now(put_asker)
    put(filled, new_job(asker=asker))
    gone = [put(filled, new_job(asker=asker + 1, state=state)).id for state in (JobState.RUNNING, JobState.CHECKING)]
    for state in (JobState.HELD, JobState.RELEASED, JobState.CANCELLED, JobState.FAILED):
        put(filled, new_job(asker=asker + 1, state=state))
    assert filled.read_now(rows.list_abandoned_ids) == gone
    assert filled.read_now(lambda connection: rows.has_account(connection, asker))
    assert not filled.read_now(lambda connection: rows.has_account(connection, asker + 1))


def test_a_released_result_is_forgotten_when_it_is_old(filled: Database) -> None:
    result = Result("f" * 64, 10, "application/json", {"loss": 0.5})
    old = put(filled, new_job(state=JobState.RELEASED, result=result))
    held = put(filled, new_job(state=JobState.HELD, result=result))
    young = put(filled, new_job(state=JobState.RELEASED, result=result, updated_at=LATER))
    assert filled.read_now(lambda connection: rows.list_old_results(connection, LATER)) == [old.id]
    for job in (old, held):
        filled.write_now(lambda connection, job=job: rows.forget_result(connection, job.id, "it was kept for a day"))
    assert filled.read_now(lambda connection: rows.get_job(connection, old.id)) == replace(
        old, result=None, code="result_expired", detail="it was kept for a day"
    )
    assert filled.read_now(lambda connection: rows.get_job(connection, held.id)) == held
    assert filled.read_now(rows.list_result_ids) == {held.id, young.id}
    assert filled.read_now(lambda connection: rows.list_old_results(connection, LATER)) == []
