"""Who the clients of a process are, on both databases.

Should happen: clients are counted by address and found by subject; unused ones go; those of a released version stay in
use. Should not happen: a client that reported, has a name or was used meanwhile is removed.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from test_store_rows import NOW, Rows

from pygrid.core.cycles import CycleState
from pygrid.storage import clients, reports
from pygrid.storage import cycles as rows
from pygrid.storage.sql.database import Database
from pygrid.storage.sql.migrations import FOLDER, migrate

DAY = dt.timedelta(days=1)


@pytest.fixture
def store(database: Database) -> Rows:
    return Rows(database)


def test_clients_are_counted_by_address_and_found_by_subject(store: Rows) -> None:
    process_id, other = store.process(), store.process("other")
    for number in range(3):
        store(rows.put_client, rows.NewClient(f"one {number}", process_id, address_mark="here"), NOW - number * DAY)
        store(rows.put_client, rows.NewClient(f"alice {number}", process_id, subject_mark="alice"), NOW - number * DAY)
    store(rows.put_client, rows.NewClient("elsewhere", process_id, address_mark="there"), NOW)
    store(rows.put_client, rows.NewClient("of another", other, address_mark="here", subject_mark="alice"), NOW)
    assert store(clients.count_of_address, process_id, "here", None) == 3
    assert store(clients.count_of_address, process_id, "here", NOW - DAY) == 2
    assert store(clients.list_of_subject, process_id, "alice") == ["alice 2", "alice 1", "alice 0"]
    store(clients.touch_client, "alice 2", NOW + DAY)
    assert store(clients.list_of_subject, process_id, "alice") == ["alice 1", "alice 0", "alice 2"]
    store.cycle(process_id)
    assert store(reports.get_application, "alice 2", process_id).used_at == NOW + DAY


def test_only_what_brought_nothing_and_is_not_used_is_removed(store: Rows) -> None:
    process_id = store.process()
    cycle = store.cycle(process_id)
    reported, expired = (store.assigned(process_id, cycle, name) for name in ("reported", "expired"))
    store.reported(reported)
    store(reports.expire_assignments, cycle.id)
    for name, subject in (("idle", None), ("used", None), ("named", "bob")):
        store(rows.put_client, rows.NewClient(name, process_id, subject=subject), NOW)
    later = NOW + DAY
    assert store(clients.list_old_assignments, later, 10) == []
    done = replace(store(rows.get_cycle, cycle.id), state=CycleState.COMPLETED)
    store(rows.complete_cycle, done, rows.CycleTotals(0, 0, 0, {}))
    assert store(clients.list_old_assignments, NOW, 10) == []
    assert store(clients.list_old_assignments, later, 10) == [expired.id]
    assert sorted(store(clients.list_unused_clients, later, NOW, 10)) == ["idle", "used"]
    store(clients.delete_assignments, [expired.id, reported.id])
    assert store(reports.find_by_key, f"key of reported in {cycle.id}") is not None
    found = store(clients.list_unused_clients, later, NOW, 10)
    assert sorted(found) == ["expired", "idle", "used"]
    store(clients.touch_client, "used", later)
    store(clients.delete_clients, [*found, "reported"], later, NOW)
    left = store(lambda connection: set(connection.execute(sa.text("SELECT id FROM clients")).scalars()))
    assert left == {"reported", "used", "named"}


@pytest.mark.empty_database
def test_clients_and_reports_of_the_first_release_stay_in_use(database: Database) -> None:
    def upgrade(connection: sa.Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for statement in (
            "INSERT INTO processes (id, name, version, state, client_config, server_config, num_parameters, "
            "created_at) VALUES (1, 'digits', '1.0', 'active', '{}', '{}', 1, :at)",
            "INSERT INTO cycles (id, process_id, sequence, state, attempt, checkpoint, num_assigned, num_reports, "
            "created_at) VALUES (1, 1, 1, 'open', 1, 1, 1, 1, :at)",
            "INSERT INTO clients (id, process_id, created_at) VALUES ('old', 1, :at)",
            "INSERT INTO assignments (id, cycle_id, client_id, state, key_hash, created_at) "
            "VALUES (1, 1, 'old', 'reported', 'key', :at)",
            'INSERT INTO reports (id, cycle_id, fingerprint, file, "offset", length, num_examples, weight, norm, '
            "metrics, "
            "received_at) VALUES (1, 1, 'f', '1.segment', 0, 10, 7, 7, 2.5, '{}', :at)",
        ):
            connection.execute(sa.text(statement), {"at": "2020-01-01 00:00:00.000000"})

    database.write_now(upgrade)
    began = dt.datetime.now(dt.UTC)
    migrate(database)
    (report,) = database.read_now(lambda connection: reports.list_reports(connection, 1))
    assert (report.norm, report.distance, report.weight) == (2.5, None, 7)
    assert database.read_now(lambda connection: rows.get_cycle(connection, 1)).state is CycleState.OPEN
    used_at = database.read_now(lambda connection: reports.get_application(connection, "old", 1)).used_at
    assert used_at is not None
    assert used_at >= began - dt.timedelta(seconds=5)
