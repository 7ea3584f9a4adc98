"""Batches of reports and of admissions have the outcome of one transaction each, on SQLite and on PostgreSQL.

Should happen: answers and rows are the same, however the items are grouped; a cycle closes in the middle of a batch.
Should not happen: a report enters a closed cycle; more clients than `max_workers`; a client is counted twice.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from pygrid.core.cycles import CycleState
from pygrid.errors import PygridError
from pygrid.storage import cycles as rows
from pygrid.storage import processes, reports
from pygrid.storage.admission_batches import AdmitClients, Placed
from pygrid.storage.report_batches import AcceptReports, StoredReport
from pygrid.storage.sql.database import Database
from pygrid.storage.sql.migrations import migrate
from support.cycle_rows import NOW, assign, offer, put_clients, put_process, request

TABLES = (rows.cycles, rows.events, processes.processes, reports.assignments, reports.reports)
NUM_SEEDS = 25


@pytest.fixture
def connection(database: Database):
    """A transaction of a write that is never committed."""
    migrate(database)
    with database._writing.connect() as connection, connection.begin() as transaction:
        yield connection
        transaction.rollback()


def state_of(connection: sa.Connection) -> list[list[Any]]:
    """All rows that a batch can change, without the ids that a sequence gives and the time of the database."""
    found = []
    for table in TABLES:
        columns = [one for one in table.c if not (one.name == "id" and table in (rows.events, reports.assignments))]
        keep = [
            one for one in columns if (table, one.name) not in ((reports.reports, "id"), (rows.cycles, "lease_until"))
        ]
        found.append(sorted(map(repr, connection.execute(sa.select(*keep)))))
    return found


def plain(outcome: Any) -> Any:
    """An outcome that can be compared: without ids of assignments, and with the code of a refusal."""
    if isinstance(outcome, PygridError):
        return outcome.code
    if isinstance(outcome, Placed):
        return outcome.assignment.client_id, outcome.assignment.state, outcome.cycle, outcome.is_opening
    return outcome


def try_out(connection: sa.Connection, kind: Any, groups: Sequence[Sequence[Any]]) -> tuple[list[Any], list[Any]]:
    """Outcomes of all items and the rows after them; then everything is undone."""
    savepoint = connection.begin_nested()
    outcomes = [plain(outcome) for group in groups for outcome in kind.run(connection, group)]
    state = state_of(connection)
    savepoint.rollback()
    return outcomes, state


def assert_groups_are_alike(connection: sa.Connection, kind: Any, items: list[Any], choose: random.Random) -> list[Any]:
    outcomes, state = try_out(connection, kind, [[item] for item in items])
    cut = choose.randrange(len(items) + 1)
    for groups in ([items], [group for group in (items[:cut], items[cut:]) if group]):
        assert try_out(connection, kind, groups) == (outcomes, state)
    return outcomes


def test_reports_of_a_batch_are_accepted_as_one_after_the_other(connection: sa.Connection) -> None:
    seen: set[Any] = set()
    for seed in range(NUM_SEEDS):
        choose = random.Random(seed)
        clock = [NOW + dt.timedelta(seconds=choose.choice([1, 1, 61]))]
        items = []
        savepoint = connection.begin_nested()
        for name in ("a", "b"):
            fields = {
                "cycle_length": choose.choice([None, 60]),
                "min_diffs": choose.choice([None, 2]),
                "max_diffs": choose.choice([2, 3, 5]),
                "grace_s": choose.choice([0, 0, 30]),
            }
            config, cycle = put_process(connection, name, fields)
            keys = assign(connection, cycle, put_clients(connection, cycle.process_id, 5))
            known = reports.find_assignments(connection, keys)
            for _ in range(choose.randrange(1, 9)):
                key = choose.choice(keys)
                fingerprint, keeps = choose.choice(["4-0", "4-0", "4-1"]), choose.random() < 0.9
                unknown = "no key" if choose.random() < 0.1 else key
                place = {"offset": 4 * len(items), "keeps_bytes": keeps}
                items.append(offer(config, cycle, known[key].id, unknown, fingerprint, **place))
        choose.shuffle(items)
        accepting = AcceptReports(lambda clock=clock: clock[0])  # type: ignore[misc]
        outcomes = assert_groups_are_alike(connection, accepting, items, choose)
        for outcome in outcomes:
            kind = "repeated" if isinstance(outcome, StoredReport) and outcome.report is None else outcome
            seen.add(kind if isinstance(kind, str) else kind.cycle.state)
        savepoint.rollback()
    errors = {"repeated", "already_reported", "cycle_closed", "cycle_changed", "invalid_request_key"}
    assert seen == {*errors, CycleState.OPEN, CycleState.CLOSING}, "each outcome was tried"


def test_clients_of_a_batch_are_admitted_as_one_after_the_other(connection: sa.Connection) -> None:
    seen: set[Any] = set()
    for seed in range(NUM_SEEDS):
        choose = random.Random(seed)
        clock = [NOW + dt.timedelta(seconds=choose.choice([1, 1, 1, 61]))]
        items = []
        savepoint = connection.begin_nested()
        for name in ("a", "b"):
            fields = {
                "cycle_length": choose.choice([None, 60]),
                "min_workers": choose.choice([0, 2]),
                "max_workers": choose.choice([2, 3, None]),
                "do_not_reuse_workers_until_cycle": choose.choice([0, 1]),
                "minimum_download_speed": choose.choice([None, None, 5]),
            }
            config, cycle = put_process(connection, name, fields)
            if choose.random() < 0.1:
                processes.set_process_state(connection, cycle.process_id, choose.choice(["paused", "finished"]))
            clients = [*put_clients(connection, cycle.process_id, 4), "nobody"]
            for number in range(choose.randrange(1, 8)):
                changes = {"native": choose.random() < 0.5, "is_quorum": choose.random() < 0.7, "download": 6.0}
                changes["obstacle"] = "no variant" if choose.random() < 0.1 else ""
                if choose.random() < 0.1:
                    changes |= {"used_since": NOW + dt.timedelta(days=1)}
                key = f"key {name} {number}"
                items.append(request(config, cycle.process_id, choose.choice(clients), key, **changes))
        choose.shuffle(items)
        admitting = AdmitClients(lambda clock=clock: clock[0])  # type: ignore[misc]
        for outcome in assert_groups_are_alike(connection, admitting, items, choose):
            if isinstance(outcome, tuple):
                assert outcome[2].num_assigned <= (5 if outcome[2].state is CycleState.OPEN else 0)
                seen.add(("opened",) if outcome[3] else ("admitted",))
            else:
                seen.add(outcome if isinstance(outcome, str) else outcome.reason)
        savepoint.rollback()
    refusals = {"cycle_full", "already_assigned", "waiting_for_workers", "between_cycles", "training_finished"}
    errors = {"worker_not_found", "plan_variant_unavailable"}
    assert seen >= {*refusals, *errors, ("opened",), ("admitted",)}, "each outcome was tried"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_no_statement_of_a_batch_reads_a_whole_table(connection: sa.Connection) -> None:
    driver: Any = connection.connection.driver_connection
    statements: list[str] = []
    driver.set_trace_callback(statements.append)
    config, cycle = put_process(connection, "a", {"max_workers": 2})
    names = put_clients(connection, cycle.process_id, 3)
    del statements[:]
    asked = [request(config, cycle.process_id, client, f"key {client}") for client in names]
    AdmitClients(lambda: NOW).run(connection, asked[:1])
    AdmitClients(lambda: NOW).run(connection, asked[1:])
    known = reports.find_assignments(connection, [one.key_hash for one in asked])
    offered = [offer(config, cycle, one.id, key) for key, one in known.items()]
    AcceptReports(lambda: NOW).run(connection, offered[:1])
    AcceptReports(lambda: NOW).run(connection, [*offered[1:], *offered[1:]])
    driver.set_trace_callback(None)
    assert len(statements) > 12
    for statement in statements:
        steps = [row[3] for row in driver.execute("EXPLAIN QUERY PLAN " + statement).fetchall()]
        assert not [step for step in steps if step.startswith("SCAN") and "json_each" not in step], (statement, steps)


def test_a_batch_closes_its_cycle_with_one_event(connection: sa.Connection) -> None:
    config, cycle = put_process(connection, "a", {"max_diffs": 3})
    keys = assign(connection, cycle, put_clients(connection, cycle.process_id, 5))
    known = reports.find_assignments(connection, keys)
    items = [offer(config, cycle, known[key].id, key) for key in keys]
    outcomes = AcceptReports(lambda: NOW).run(connection, items)
    assert [plain(one) if isinstance(one, PygridError) else one.cycle.state for one in outcomes] == [
        CycleState.OPEN,
        CycleState.OPEN,
        CycleState.CLOSING,
        "cycle_closed",
        "cycle_closed",
    ]
    stored = rows.get_cycle(connection, cycle.id)
    assert (stored.state, stored.num_reports, stored.lease_fence) == (CycleState.CLOSING, 3, 1)
    assert rows.is_leased(connection, cycle.id, 1), "the instance that closed it completes it"
    events = rows.list_events(connection, cycle.process_id, 0, 10)
    assert [event.kind for event in events] == ["cycle_opened", "cycle_closing"]
    assert len(reports.list_reports(connection, cycle.id)) == 3


def test_a_client_that_asks_twice_in_a_batch_has_one_place_and_its_last_key(connection: sa.Connection) -> None:
    config, cycle = put_process(connection, "a", {"max_workers": 2})
    (client,) = put_clients(connection, cycle.process_id, 1)
    items = [request(config, cycle.process_id, client, key) for key in ("first", "second")]
    outcomes = AdmitClients(lambda: NOW).run(connection, items)
    assert all(isinstance(outcome, Placed) for outcome in outcomes)
    assert rows.get_cycle(connection, cycle.id).num_assigned == 1
    assert reports.find_by_key(connection, "first") is None
    assert reports.find_by_key(connection, "second") is not None
