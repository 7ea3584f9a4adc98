"""The queries on processes, cycles, assignments, reports and events, on SQLite and on PostgreSQL.

Should happen: what was put is what is got; lists are in their order and within their bounds; counts follow what they
count. Should not happen: two processes, checkpoints, reports or assignments where one is allowed; a lease that two
hold.
"""

from __future__ import annotations

import datetime as dt
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from pygrid.configuration import read_server_config
from pygrid.core import cycles as rules
from pygrid.core.cycles import Assignment, AssignmentState, Cycle, CycleState
from pygrid.errors import NotFound
from pygrid.storage import cycle_transitions, processes, reports
from pygrid.storage import cycles as rows
from pygrid.storage.cycles import CycleTotals
from pygrid.storage.last_cycles import LastCycle, find_last_cycle
from pygrid.storage.processes import Checkpoint
from pygrid.storage.reports import Report
from pygrid.storage.sql.database import Database
from pygrid.storage.sql.migrations import migrate

TAKEN = (sa.exc.IntegrityError, sqlite3.IntegrityError, psycopg.IntegrityError)
"""What a constraint raises: SQLAlchemy's error, or the driver's own where a statement is run by it."""

NOW = dt.datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=dt.UTC)


def _after(seconds: float) -> dt.datetime:
    return NOW + dt.timedelta(seconds=seconds)


class Rows:
    """A database with tables, each call in a transaction of its own."""

    def __init__(self, database: Database) -> None:
        migrate(database)
        self._database = database

    def __call__(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return self._database.write_now(lambda connection: fn(connection, *args, **kwargs))

    def process(self, name: str = "digits", version: str = "1.0") -> int:
        client_config = {"name": name, "version": version, "text": "é\\u0000", "deep": [1, None, {"a": 0.1}]}
        new = processes.NewProcess(name, version, client_config, {"cycle_length": None}, num_parameters=10**12)
        process_id: int = self(processes.put_process, new, NOW)
        return process_id

    def cycle(self, process_id: int, sequence: int = 1, state: CycleState = CycleState.OPEN, **changes: Any) -> Cycle:
        values = {"checkpoint": sequence, "deadline_at": _after(60), **changes}
        cycle: Cycle = self(rows.put_cycle, rows.NewCycle(process_id, sequence, state, **values), NOW)
        return cycle

    def assigned(self, process_id: int, cycle: Cycle, client: str, key: str | None = None) -> Assignment:
        self(rows.put_client, rows.NewClient(client, process_id), NOW)
        return self.assigned_again(cycle, client, key)

    def assigned_again(self, cycle: Cycle, client: str, key: str | None = None) -> Assignment:
        key = key or f"key of {client} in {cycle.id}"
        self(reports.put_assignment, cycle.id, client, key, NOW)
        self.count(cycle.id)
        assignment: Assignment = self(reports.find_by_key, key)[0]
        return assignment

    def reported(self, assignment: Assignment, **changes: Any) -> Report:
        values: dict[str, Any] = {
            "id": assignment.id,
            "cycle_id": assignment.cycle_id,
            "file": "segment",
            "offset": 2**40,
            "length": 2**33,
            "num_examples": 10**12,
            "weight": 10,
            "norm": 1.5,
            "scale": None,
            "metrics": {},
            "fingerprint": f"print of {assignment.id}",
        }
        report = Report(**{**values, **changes})
        self(reports.put_reports, [report], NOW)
        num_reports = len(self(reports.list_reports, report.cycle_id))
        self(reports.set_report_counts, {report.cycle_id: num_reports})
        return report

    def count(self, cycle_id: int) -> None:
        """Count one more admitted client."""
        cycle = self(rows.get_cycle, cycle_id)
        self(reports.set_num_assigned, replace(cycle, num_assigned=cycle.num_assigned + 1))


@pytest.fixture
def store(database: Database) -> Rows:
    return Rows(database)


# -- processes ---------------------------------------------------------------------------------------------------------


def test_a_process_is_got_as_it_was_put(store: Rows) -> None:
    process_id = store.process()
    process = store(processes.get_process, process_id)
    assert (process.id, process.name, process.version, process.state) == (process_id, "digits", "1.0", "active")
    assert process.client_config["deep"] == [1, None, {"a": 0.1}]
    assert (process.num_parameters, process.created_at) == (10**12, NOW)
    store(processes.set_process_state, process_id, "finished")
    assert store(processes.get_process, process_id).state == "finished"


def test_a_name_and_version_are_taken_once(store: Rows) -> None:
    store.process()
    with pytest.raises(TAKEN):
        store.process()
    store.process(version="1.1")
    store.process(name="Digits")


def test_processes_are_listed_newest_first(store: Rows) -> None:
    ids = [store.process(name, version) for name, version in (("a", "1"), ("b", "1"), ("a", "2"))]
    for params, expected in (
        ({}, [2, 1, 0]),
        ({"name": "a"}, [2, 0]),
        ({"version": "1"}, [1, 0]),
        ({"limit": 2}, [2, 1]),
    ):
        assert [process.id for process in store(processes.list_processes, **params)] == [
            ids[place] for place in expected
        ]
    assert store(processes.get_process_by_name, "a", None).version == "2"
    assert store(processes.get_process_by_name, "a", "1").id == ids[0]


def test_a_process_that_is_not_there_is_not_found(store: Rows) -> None:
    store.process()
    for fn, *args in (
        (processes.get_process, 99),
        (processes.get_process_by_name, "nobody", None),
        (processes.get_process_by_name, "digits", "9"),
    ):
        with pytest.raises(NotFound) as refused:
            store(fn, *args)
        assert refused.value.code == "process_not_found"


def test_plans_are_those_of_their_process(store: Rows) -> None:
    one, two = store.process("one"), store.process("two")
    first = store(processes.put_plan, one, "training_plan", "training", "a" * 64, 2**33)
    second = store(processes.put_plan, one, "averaging_plan", "averaging", "b" * 64, 1)
    assert [(plan.id, plan.kind, plan.size_bytes) for plan in store(processes.list_plans, one)] == [
        (first, "training", 2**33),
        (second, "averaging", 1),
    ]
    assert store(processes.list_plans, two) == []
    assert store(processes.find_plan, one, first).plan_hash == "a" * 64
    assert store(processes.find_plan, two, first) is None
    assert store(processes.find_plan, one, 99) is None
    with pytest.raises(TAKEN):
        store(processes.put_plan, one, "training_plan", "training", "c" * 64, 1)
    with pytest.raises(TAKEN):
        store(processes.put_plan, 99, "training_plan", "training", "c" * 64, 1)


def test_checkpoints_are_numbered(store: Rows) -> None:
    process_id = store.process()
    made = [
        Checkpoint(process_id, number, f"{number}" * 64, 2**33, {"m": "x" * 64} if number > 1 else {}, _after(number))
        for number in (1, 2, 3)
    ]
    for checkpoint in made:
        store(processes.put_checkpoint, checkpoint)
    assert store(processes.list_checkpoints, process_id) == made
    assert store(processes.get_checkpoint, process_id) == made[-1]
    assert store(processes.get_checkpoint, process_id, 2) == made[1]
    with pytest.raises(TAKEN):
        store(processes.put_checkpoint, made[0])
    with pytest.raises(NotFound) as refused:
        store(processes.get_checkpoint, process_id, 4)
    assert refused.value.code == "checkpoint_not_found"


# -- cycles ------------------------------------------------------------------------------------------------------------


def test_a_cycle_is_got_as_it_was_put(store: Rows) -> None:
    process_id = store.process()
    opened = store.cycle(process_id)
    assert opened == store(rows.get_cycle, opened.id)
    assert (opened.opened_at, opened.deadline_at, opened.completed_at) == (NOW, _after(60), None)
    waiting = store.cycle(process_id, 2, CycleState.HOSTED)
    assert (waiting.state, waiting.opened_at, waiting.deadline_at) == (CycleState.HOSTED, None, None)
    assert store(rows.get_newest_cycle, process_id) == waiting
    with pytest.raises(TAKEN):
        store.cycle(process_id, 2)


def test_cycles_are_listed_in_pages(store: Rows) -> None:
    process_id, other = store.process(), store.process("other")
    for sequence in (3, 1, 2):
        store.cycle(process_id, sequence)
    store.cycle(other)
    for after, limit, expected in (
        (0, 10, [1, 2, 3]),
        (1, 10, [2, 3]),
        (0, 2, [1, 2]),
        (3, 10, []),
        (2**31 - 1, 10, []),
    ):
        assert [cycle.sequence for cycle in store(rows.list_cycles, process_id, after, limit)] == expected


def test_unfinished_cycles_are_those_to_take_up_again(store: Rows) -> None:
    process_id = store.process()
    made = [store.cycle(process_id, number, state) for number, state in enumerate(CycleState, 1)]
    assert [cycle.id for cycle in store(rows.list_unfinished_cycles)] == [
        cycle.id for cycle in made if cycle.state is not CycleState.COMPLETED
    ]


def test_one_holder_has_the_lease(store: Rows, database_url: str) -> None:
    cycle = store.cycle(store.process())
    assert store(rows.acquire_lease, cycle.id, NOW) is None, "it is not closing"
    assert not store(rows.renew_lease, cycle.id, 0, NOW), "it is not closing"
    closing = store(cycle_transitions.close_cycle, cycle, NOW)
    assert (closing.state, closing.lease_fence) == (CycleState.CLOSING, 1)
    assert store(rows.acquire_lease, cycle.id, _after(1)) == 1, "who closed it holds it"
    opened = Database(database_url)
    other = Rows(opened)
    try:
        assert other(rows.acquire_lease, cycle.id, _after(12)) is None
        assert store(rows.is_leased, cycle.id, 1)
        assert store(rows.renew_lease, cycle.id, 1, _after(12))
        assert other(rows.acquire_lease, cycle.id, _after(23)) is None, "it was renewed"
        assert not other(rows.renew_lease, cycle.id, 1, _after(23)), "it is another's"
        store(_end_lease, cycle.id)
        assert store(rows.is_leased, cycle.id, 1), "nobody has taken it"
        assert other(rows.acquire_lease, cycle.id, _after(24)) == 2, "it has run out"
        assert not store(rows.is_leased, cycle.id, 1), "the former holder cannot end its work"
        assert not store(rows.is_leased, cycle.id, 2)
        assert not store(rows.renew_lease, cycle.id, 1, _after(24)), "nor revive its lease"
        assert other(rows.is_leased, cycle.id, 2)
        store(rows.release_lease, cycle.id, 1)
        assert store(rows.acquire_lease, cycle.id, _after(25)) is None
        other(rows.release_lease, cycle.id, 2)
        assert store(rows.acquire_lease, cycle.id, NOW) == 3
        other(rows.release_all_leases)
        assert other(rows.acquire_lease, cycle.id, NOW) == 4
    finally:
        opened.close()


def test_leases_have_the_time_of_postgresql(store: Rows, database_url: str) -> None:
    # A clock of a replica that is wrong neither shortens nor prolongs a lease.
    cycle = store.cycle(store.process())
    store(cycle_transitions.close_cycle, cycle, NOW)
    found = store(lambda connection: connection.execute(sa.select(rows.cycles.c.lease_until)).scalar_one())
    if database_url.startswith("sqlite"):
        assert found == _after(12)
    else:
        assert abs((found - dt.datetime.now(dt.UTC)).total_seconds()) < 60


def _end_lease(connection: sa.Connection, cycle_id: int) -> None:
    connection.execute(rows.cycles.update().where(rows.cycles.c.id == cycle_id).values(lease_until=_after(-1)))


def test_transitions_are_stored_with_their_events(store: Rows) -> None:
    process_id = store.process()
    config = read_server_config({"cycle_length": 60, "min_workers": 2})
    waiting = store(cycle_transitions.begin_cycle, process_id, config, 1, 1, NOW)
    opened = rules.open_cycle(waiting, config, _after(1))
    store(cycle_transitions.store_opening, opened, _after(1))
    assigned = store.assigned(process_id, opened, "client")
    reopened = store(cycle_transitions.reopen_cycle, opened, config, _after(61))
    assert store(rows.get_cycle, opened.id) == reopened
    assert (reopened.attempt, reopened.deadline_at) == (2, _after(121))
    assert store(reports.find_by_key, "key of client in 1")[0] == replace(assigned, state=AssignmentState.EXPIRED)
    store(cycle_transitions.close_cycle, reopened, _after(70))
    events = store(rows.list_events, process_id, 0, 10)
    assert [(event.kind, event.cycle, event.at) for event in events] == [
        ("cycle_waiting", 1, NOW),
        ("cycle_opened", 1, _after(1)),
        ("cycle_expired", 1, _after(61)),
        ("cycle_closing", 1, _after(70)),
    ]


# -- clients, assignments, reports -------------------------------------------------------------------------------------


def test_an_application_has_all_that_decides(store: Rows) -> None:
    process_id, other = store.process(), store.process("other")
    first = store.cycle(process_id, 1, CycleState.COMPLETED)
    newest = store.cycle(process_id, 2)
    store.cycle(other, 7)
    store.assigned(process_id, first, "client")
    found = store(reports.get_application, "client", process_id)
    assert (found.process_state, found.cycle, found.own) == ("active", newest, None)
    assignment = store.assigned_again(newest, "client")
    found = store(reports.get_application, "client", process_id)
    assert found.own == replace(assignment, fingerprint=None)
    assert found.cycle.num_assigned == 1
    for client, process in (("nobody", process_id), ("client", other), ("", process_id)):
        with pytest.raises(NotFound) as refused:
            store(reports.get_application, client, process)
        assert refused.value.code == "worker_not_found"


def test_the_last_cycle_of_a_client_is_known(store: Rows) -> None:
    process_id = store.process()
    cycles = [store.cycle(process_id, sequence) for sequence in (1, 2, 3, 4)]
    store.assigned(process_id, cycles[0], "client")
    store.assigned_again(cycles[2], "client")
    assert [store(reports.find_last_sequence, "client", before) for before in (1, 2, 3, 4, 5)] == [None, 1, 1, 3, 3]
    assert store(reports.find_last_sequence, "nobody", 5) is None


def test_an_assignment_is_stored_once_and_renewed(store: Rows) -> None:
    process_id = store.process()
    cycle = store.cycle(process_id)
    assignment = store.assigned(process_id, cycle, "client", "old")
    with pytest.raises(TAKEN):
        store(reports.put_assignment, cycle.id, "client", "another", NOW)
    store(reports.renew_assignment, assignment, "new", NOW, None)
    assert store(reports.find_by_key, "old") is None
    found, of = store(reports.find_by_key, "new")
    assert (found.id, found.state, of.num_assigned) == (assignment.id, AssignmentState.ASSIGNED, 1)
    store(reports.expire_assignments, cycle.id)
    expired = store(reports.find_by_key, "new")[0]
    assert expired.state is AssignmentState.EXPIRED
    store(reports.renew_assignment, expired, "newest", NOW, None)
    assert store(reports.find_by_key, "newest")[0].state is AssignmentState.ASSIGNED


def test_a_request_that_is_answered_late_does_not_end_a_later_key(store: Rows) -> None:
    process_id = store.process()
    cycle = store.cycle(process_id)
    assignment = store.assigned(process_id, cycle, "client", "first")
    second = dt.timedelta(seconds=1)
    assert store(reports.renew_assignment, assignment, "later", NOW + 3 * second, NOW + 2 * second) is not None
    assert store(reports.renew_assignment, assignment, "late", NOW + 4 * second, NOW + second) is None
    assert store(reports.find_by_key, "late") is None
    assert store(reports.find_by_key, "later") is not None
    # The clock was set back by an hour.
    before = NOW - dt.timedelta(hours=1)
    assert store(reports.renew_assignment, assignment, "in another hour", before, before) is not None
    assert store(reports.renew_assignment, assignment, "in order", before - second, None) is not None


def test_a_key_belongs_to_one_assignment(store: Rows) -> None:
    process_id = store.process()
    cycle = store.cycle(process_id)
    store.assigned(process_id, cycle, "one", "the key")
    store(rows.put_client, rows.NewClient("two", process_id), NOW)
    with pytest.raises(TAKEN):
        store(reports.put_assignment, cycle.id, "two", "the key", NOW)
    assert store(rows.get_cycle, cycle.id).num_assigned == 1


def test_a_report_is_stored_marked_and_counted(store: Rows) -> None:
    process_id = store.process()
    cycle = store.cycle(process_id)
    assignment = store.assigned(process_id, cycle, "client", "key")
    report = store.reported(assignment, metrics={"loss": 0.1, "é": -1e300})
    assert store(reports.list_reports, cycle.id) == [report]
    found, of = store(reports.find_by_key, "key")
    assert (found.state, found.fingerprint) == (AssignmentState.REPORTED, f"print of {assignment.id}")
    assert of.num_reports == 1
    with pytest.raises(TAKEN):
        store.reported(assignment)
    assert store(rows.get_cycle, cycle.id).num_reports == 1
    # What has reported does not end with the others.
    store(reports.expire_assignments, cycle.id)
    assert store(reports.find_by_key, "key")[0].state is AssignmentState.REPORTED


def test_totals_add_up_and_are_kept(store: Rows) -> None:
    process_id = store.process()
    cycle = store.cycle(process_id)
    for number, weight in enumerate((1, 3)):
        assignment = store.assigned(process_id, cycle, f"client {number}")
        metrics = {"loss": float(number)} if number else {"loss": 0.0, "only": 2.0}
        store.reported(assignment, num_examples=weight, weight=weight, length=100, metrics=metrics)
    spread = {"loss": (0.0, 0.5, 1.0, 2), "only": (2.0, 2.0, 2.0, 1)}
    so_far = CycleTotals(4, 0, 200, {"loss": 0.75, "only": 2.0}, spread)
    assert store(reports.get_totals, cycle.id) == so_far
    first, second = store(reports.list_reports, cycle.id)
    store(reports.set_counted, [replace(first, scale=1.0), replace(second, scale=0.25, weight=2)])
    store(reports.set_counted, [])
    counted = store(reports.list_reports, cycle.id)
    assert [(report.scale, report.weight) for report in counted] == [(1.0, 1), (0.25, 2)]
    assert reports.add_up(counted, num_clipped=1) == CycleTotals(
        4, 1, 200, {"loss": pytest.approx(2 / 3), "only": 2.0}, spread
    )
    done = replace(store(rows.get_cycle, cycle.id), state=CycleState.COMPLETED, completed_at=_after(9))
    assert store(find_last_cycle, process_id) is None
    store(rows.complete_cycle, done, replace(so_far, num_clipped=1), 0.5)
    last = LastCycle(0.5, max(one.norm * one.scale * one.weight for one in counted), len(counted))
    assert store(find_last_cycle, process_id) == last
    assert store(reports.get_totals, cycle.id) == replace(so_far, num_clipped=1)
    assert store(rows.get_cycle, cycle.id) == done
    later = store.cycle(process_id, 2)
    assert store(reports.get_totals, later.id) == CycleTotals(0, 0, 0, {})
    # A cycle without reports says nothing.
    store(rows.complete_cycle, replace(later, state=CycleState.COMPLETED), CycleTotals(0, 0, 0, {}))
    assert store(find_last_cycle, process_id) == last


def test_files_of_unfinished_cycles_are_known(store: Rows) -> None:
    process_id = store.process()
    cycles = [store.cycle(process_id, sequence) for sequence in (1, 2, 3)]
    for number, (cycle, file) in enumerate(
        [(cycles[0], "segment"), (cycles[1], "segment"), (cycles[1], "segment"), (cycles[1], "a.report")]
    ):
        store.reported(store.assigned(process_id, cycle, f"client {number}"), file=file)
    store(rows.update_cycle, replace(store(rows.get_cycle, cycles[0].id), state=CycleState.COMPLETED))
    assert store(reports.list_report_files) == {"segment", "a.report"}


def test_accepted_norms_are_those_of_the_last_cycles_that_had_reports(store: Rows) -> None:
    process_id, other = store.process(), store.process("other")
    for sequence in (1, 2, 3, 4):
        cycle = store.cycle(process_id, sequence)
        for number in range(3 if sequence != 3 else 0):
            assignment = store.assigned(process_id, cycle, f"client {sequence} {number}")
            scale = 0.5 if number == 2 else None
            store.reported(assignment, norm=10.0 * sequence + number, weight=sequence, scale=scale)
    store.reported(store.assigned(other, store.cycle(other), "stranger"), norm=1e9)
    first, second = [(10.0, 1), (11.0, 1), (6.0, 1)], [(20.0, 2), (21.0, 2), (11.0, 2)]
    assert store(reports.list_accepted, process_id, 4, 5, 1000) == first + second
    assert store(reports.list_accepted, process_id, 4, 1, 1000) == second
    assert store(reports.list_accepted, process_id, 4, 5, 3) == second
    assert store(reports.list_accepted, process_id, 4, 5, 4) == first + second
    assert store(reports.list_accepted, process_id, 1, 5, 1000) == []


def test_events_are_listed_in_order_from_any_place(store: Rows) -> None:
    process_id, other = store.process(), store.process("other")
    for number in range(5):
        store(
            rows.put_event,
            process_id,
            number,
            "cycle_opened",
            _after(number),
            {"number": number, "metrics": {"loss": 0.1}},
        )
        store(rows.put_event, other, number, "cycle_closing", NOW)
    events = store(rows.list_events, process_id, 0, 100)
    assert [event.data["number"] for event in events] == [0, 1, 2, 3, 4]
    assert store(rows.list_events, process_id, events[1].number, 2) == events[2:4]
    assert store(rows.list_events, process_id, events[-1].number, 100) == []
    assert store(rows.list_events, other, 0, 1)[0].data == {}
    assert [event.number for event in events] == [1, 2, 3, 4, 5], "each process counts its own"


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_follower_skips_no_event_of_two_writers(store: Rows, database: Database) -> None:
    """Of PostgreSQL alone: the writer that began first commits last, and a follower reads in between."""
    process_id, other = store.process(), store.process("other")
    with ThreadPoolExecutor(1) as pool:
        with database.engine.begin() as first:
            rows.put_event(first, process_id, 1, "cycle_opened", NOW)
            waiting = pool.submit(store, rows.put_event, process_id, 1, "cycle_closing", NOW)
            seen = database.read_now(lambda connection: rows.list_events(connection, process_id, 0, 10))
            assert seen == [], "the second event is not there before the first"
        waiting.result(60)
    followed = database.read_now(lambda connection: rows.list_events(connection, process_id, 0, 10))
    assert [(event.number, event.kind) for event in followed] == [(1, "cycle_opened"), (2, "cycle_closing")]
    store(rows.put_event, other, 1, "cycle_opened", NOW)
    assert [event.number for event in store(rows.list_events, other, 0, 10)] == [1]
