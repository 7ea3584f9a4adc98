"""A ledger of version 0.1 is priced again for replaced units; the audit log is compared with what the tables say."""

from __future__ import annotations

import datetime as dt

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from pygrid.privacy.events import Gaussian, PoissonSampledGaussian, PureDp
from pygrid.privacy.ledger import ChargeState, cost_of, epsilon_left, open_cap
from pygrid.storage import audit, budget_log, budgets, charges
from pygrid.storage.sql.database import Database
from pygrid.storage.sql.migrations import FOLDER, migrate

NOW = dt.datetime(2026, 5, 1, 12, tzinfo=dt.UTC)
SAMPLED = '[{"noise_multiplier":1.5,"rounds":200,"sampling_rate":0.01,"type":"poisson_sampled_gaussian"}]'
ONCE = '[{"noise_multiplier":5.0,"rounds":1,"type":"gaussian"}]'
pytestmark = pytest.mark.empty_database

CAP = {"epsilon": 3.0, "delta": 1e-6, "basic_epsilon": 0.0, "basic_delta": 0.0, "order": 9}


def bring_to_first(connection: sa.Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "0001")


def fill_as_first(connection: sa.Connection) -> None:
    """Two budgets, one of them on a dataset with a subject column, and three charges, with the prices of 0.1."""
    tables = sa.MetaData()
    tables.reflect(connection)
    for dataset_id, subject in ((1, None), (2, "person")):
        words = {
            "name": "d",
            "name_key": f"d{dataset_id}",
            "description": "",
            "visibility": "private",
            "search_text": "",
        }
        times = {"created_at": NOW.replace(tzinfo=None), "updated_at": NOW.replace(tzinfo=None)}
        connection.execute(tables.tables["datasets"].insert().values(id=dataset_id, **words, **times))
        connection.execute(
            tables.tables["dataset_versions"]
            .insert()
            .values(
                dataset_id=dataset_id,
                number=1,
                folder="f",
                mock="none",
                schema={"columns": [], "num_records": 5, "subject": subject},
                num_records=5,
                num_columns=0,
                size_bytes=0,
                note="",
                created_at=times["created_at"],
            )
        )
        user = {f"user_{name}": value for name, value in CAP.items()}
        opened = {"dataset_id": dataset_id, "opened_at": times["created_at"], **CAP, **user}
        connection.execute(tables.tables["budgets"].insert().values(opened))
        data = {"dataset_id": dataset_id, "cap": CAP, "user_cap": CAP}
        audit.append(connection, "budget_opened", data, actor=1, now=NOW)
    sums = {"spent_divergence": 0.1, "spent_in_dataset": 0.1, "spent_basic_epsilon": 0.0, "spent_basic_delta": 0.0}
    grant = {"dataset_id": 1, "user_id": 7, **CAP, "is_default": True, "granted_at": NOW.replace(tzinfo=None), **sums}
    connection.execute(tables.tables["grants"].insert().values(grant))
    for curve_id, text in ((1, SAMPLED), (2, ONCE)):
        values = {"events_hash": f"h{curve_id}", "events": text, "divergences": bytes(156 * 8)}
        # The database counts the ids, as in the first version: the next row gets the next one.
        assert connection.execute(tables.tables["curves"].insert().values(values)).inserted_primary_key == (curve_id,)
    for job_id, curve_id, state in (("a", 1, "released"), ("b", 2, "failed"), ("c", 2, "refunded")):
        costs = {"dataset_cost": 0.05, "user_cost": 0.05, "basic_epsilon": 0.0, "basic_delta": 0.0}
        charge = {"job_id": job_id, "dataset_id": 1, "user_id": 7, "state": state, "curve_id": curve_id, **costs}
        times = {"created_at": NOW.replace(tzinfo=None), "updated_at": NOW.replace(tzinfo=None)}
        connection.execute(tables.tables["charges"].insert().values(**charge, **times))
        events = SAMPLED if curve_id == 1 else ONCE
        data = {"job_id": job_id, "dataset_id": 1, "user_id": 7, "events": events}
        audit.append(connection, "budget_reserved", data, actor=7, now=NOW)
        audit.append(connection, f"charge_{state}", {"job_id": job_id}, actor=None, now=NOW)


@pytest.fixture
def migrated(database: Database) -> Database:
    database.write_now(bring_to_first)
    database.write_now(fill_as_first)
    migrate(database)
    return database


def test_charges_of_the_first_version_are_priced_for_replaced_units(migrated: Database) -> None:
    expected = cost_of([PoissonSampledGaussian(0.01, 1.5, 200), Gaussian(5.0)])
    total = migrated.read_now(lambda connection: charges.get_total(connection, 1))
    assert total.curve == pytest.approx(expected.curve)
    assert migrated.read_now(charges.find_mismatch) is None
    assert migrated.read_now(audit.verify) is None
    budget = migrated.read_now(lambda connection: budgets.get_budget(connection, 1))
    assert budget.cap.epsilon == 3.0
    # Overdrawn by the new prices: nothing is left, and nothing is accepted.
    assert epsilon_left(cost_of([Gaussian(0.5)]), budget.cap) == 0.0


def test_ledgers_of_the_first_version_get_the_unit_of_their_dataset(migrated: Database) -> None:
    units = {budget.dataset_id: budget.unit for budget in migrated.read_now(budgets.list_budgets)}
    assert units == {1: "record", 2: "subject"}
    assert migrated.read_now(budget_log.find_altered) is None


class _RolledBack(Exception):
    pass


def fault_after(database: Database, *statements: str) -> str | None:
    """What is found after these statements, which are rolled back."""
    found: list[str | None] = []

    def change(connection: sa.Connection) -> None:
        for statement in statements:
            assert connection.execute(sa.text(statement)).rowcount, statement
        found.append(budget_log.find_altered(connection))
        raise _RolledBack

    with pytest.raises(_RolledBack):
        database.write_now(change)
    return found[0]


def test_a_cap_that_was_changed_behind_the_log_is_found(migrated: Database) -> None:
    for statement in (
        "UPDATE budgets SET epsilon = 100 WHERE dataset_id = 1",
        "UPDATE budgets SET user_epsilon = 100 WHERE dataset_id = 1",
        "UPDATE budgets SET unit = 'domain' WHERE dataset_id = 2",
        "UPDATE budgets SET delta = 0.1 WHERE dataset_id = 1",
        "UPDATE grants SET epsilon = 100",
        "UPDATE grants SET basic_epsilon = 1",
        'UPDATE grants SET "order" = 2',
        "UPDATE grants SET is_default = NOT is_default",
        "DELETE FROM grants",
        "DELETE FROM budgets WHERE dataset_id = 2",
    ):
        assert fault_after(migrated, statement) is not None, statement
    assert migrated.read_now(budget_log.find_altered) is None


def test_a_charge_that_was_changed_behind_the_log_is_named(migrated: Database) -> None:
    cheaper = "SET {0} = {0} / 2"
    sums = "UPDATE grants SET spent_{} = (SELECT sum({}) FROM charges WHERE state <> 'refunded')"
    added = (
        "INSERT INTO charges SELECT 9, 'z', dataset_id, user_id, state, curve_id, dataset_cost, user_cost, "
        "basic_epsilon, basic_delta, created_at, updated_at FROM charges WHERE job_id = 'a'"
    )
    for statements, fault in (
        (
            ["UPDATE charges SET state = 'refunded' WHERE job_id = 'b'"],
            "the state of the charge of job b is refunded, but failed in the log",
        ),
        (
            ["UPDATE charges SET user_id = 8 WHERE job_id = 'a'"],
            "the user_id of the charge of job a is 8, but 7 in the log",
        ),
        (["UPDATE charges SET curve_id = 2 WHERE job_id = 'a'"], "the charge of job a has other events in the log"),
        (["UPDATE charges SET job_id = 'z' WHERE job_id = 'a'"], "the log has no entry for the charge of job z"),
        (["DELETE FROM charges WHERE job_id = 'c'"], "the charge of job c is in the log, but not in the database"),
        ([added], "the log has no entry for the charge of job z"),
        ([f"UPDATE charges {cheaper.format('user_cost')} WHERE job_id = 'b'"], "the user_cost of the charge of job b"),
        (
            [f"UPDATE charges {cheaper.format('dataset_cost')}", sums.format("in_dataset", "dataset_cost")],
            "the dataset_cost of the charge of job a is ",
        ),
        (
            ["UPDATE charges SET user_cost = 1e-12", sums.format("divergence", "user_cost")],
            "the user_cost of the charge of job a is 1e-12, but ",
        ),
        (
            ["UPDATE charges SET basic_epsilon = -1", sums.format("basic_epsilon", "basic_epsilon")],
            "the basic_epsilon of the charge of job a is -1, but 0 by the log",
        ),
        (
            ["UPDATE curves SET divergences = (SELECT divergences FROM curves WHERE id = 2) WHERE id = 1"],
            "the curve of the charge of job a is not that of its events in the log",
        ),
    ):
        assert (fault_after(migrated, *statements) or "").startswith(fault), statements


def test_changes_that_the_log_knows_are_no_fault(migrated: Database) -> None:
    def change(connection: sa.Connection) -> None:
        budgets.update_budget(connection, 1, epsilon=4.0, user_epsilon=3.5, actor=1, now=NOW)
        budgets.put_grant(connection, 2, 9, 1.0, actor=1, now=NOW)
        budgets.put_grant(connection, 2, 9, 1.5, actor=1, now=NOW)
        for user_id, events in ((8, [Gaussian(50.0)]), (9, [Gaussian(60.0, 2), PureDp(1e-3)])):
            job_id = f"x{user_id}"
            charges.reserve(connection, job_id=job_id, dataset_id=2, user_id=user_id, events=events, now=NOW)
            charges.move_charge(connection, job_id, ChargeState.REFUNDED, NOW)
            again = f"y{user_id}"
            charges.reserve(connection, job_id=again, dataset_id=2, user_id=user_id, events=events, now=NOW)
        budgets.update_budget(connection, 2, epsilon=5.0, user_epsilon=2.0, actor=1, now=NOW)
        budgets.put_grant(connection, 2, 8, 1.5, actor=1, now=NOW)

    migrated.write_now(change)
    assert migrated.read_now(budget_log.find_altered) is None
    assert migrated.read_now(charges.find_mismatch) is None
    assert open_cap(3.0, 1e-6).order == CAP["order"]
