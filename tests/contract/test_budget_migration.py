"""A ledger of version 0.1 is priced again for replaced units; the audit log is compared with what the tables say."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from pygrid.privacy.events import Gaussian, PoissonSampledGaussian
from pygrid.privacy.ledger import cost_of, epsilon_left, open_cap
from pygrid.storage import audit, budget_log, budgets, charges
from pygrid.storage.sql.database import Database
from pygrid.storage.sql.migrations import FOLDER, migrate
from support.postgres import new_database

NOW = dt.datetime(2026, 5, 1, 12, tzinfo=dt.UTC)
SAMPLED = '[{"noise_multiplier":1.5,"rounds":200,"sampling_rate":0.01,"type":"poisson_sampled_gaussian"}]'
ONCE = '[{"noise_multiplier":5.0,"rounds":1,"type":"gaussian"}]'
CAP = {"epsilon": 3.0, "delta": 1e-6, "basic_epsilon": 0.0, "basic_delta": 0.0, "order": 9}


class Undone(Exception):
    """Ends a transaction without a commit."""


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


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def migrated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A migrated database of each kind, which no test changes."""
    with contextlib.ExitStack() as stack:
        if request.param == "sqlite":
            url = f"sqlite:///{tmp_path_factory.mktemp('first') / 'test.db'}"
        else:
            url = stack.enter_context(new_database(request.getfixturevalue("postgres_server")))
        database = stack.enter_context(contextlib.closing(Database(url)))
        database.write_now(bring_to_first)
        database.write_now(fill_as_first)
        migrate(database)
        yield database


def found_after(database: Database, change: Callable[[sa.Connection], object]) -> str | None:
    """What the log finds after a change, which is undone."""
    found: list[str | None] = []

    def try_out(connection: sa.Connection) -> None:
        change(connection)
        found.append(budget_log.find_altered(connection))
        raise Undone

    with pytest.raises(Undone):
        database.write_now(try_out)
    return found[0]


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


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE budgets SET epsilon = 100 WHERE dataset_id = 1",
        "UPDATE budgets SET user_epsilon = 100 WHERE dataset_id = 1",
        "UPDATE budgets SET unit = 'domain' WHERE dataset_id = 2",
        "UPDATE budgets SET delta = 0.1 WHERE dataset_id = 1",
        "UPDATE grants SET epsilon = 100",
        "DELETE FROM budgets WHERE dataset_id = 2",
    ],
)
def test_a_cap_that_was_changed_behind_the_log_is_found(migrated: Database, statement: str) -> None:
    assert found_after(migrated, lambda connection: connection.execute(sa.text(statement))) is not None


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        (
            "UPDATE charges SET state = 'refunded' WHERE job_id = 'b'",
            "the state of the charge of job b is refunded, but failed in the log",
        ),
        (
            "UPDATE charges SET user_id = 8 WHERE job_id = 'a'",
            "the user_id of the charge of job a is 8, but 7 in the log",
        ),
        ("UPDATE charges SET curve_id = 2 WHERE job_id = 'a'", "the charge of job a has other events in the log"),
        ("UPDATE charges SET job_id = 'z' WHERE job_id = 'a'", "the log has no entry for the charge of job z"),
        ("DELETE FROM charges WHERE job_id = 'c'", "the charge of job c is in the log, but not in the database"),
    ],
)
def test_a_charge_that_was_changed_behind_the_log_is_named(migrated: Database, statement: str, fault: str) -> None:
    found = found_after(migrated, lambda connection: connection.execute(sa.text(statement)))
    assert (found or "").startswith(fault)


def test_changes_that_the_log_knows_are_no_fault(migrated: Database) -> None:
    def change(connection: sa.Connection) -> None:
        budgets.update_budget(connection, 1, epsilon=4.0, user_epsilon=3.5, actor=1, now=NOW)
        budgets.put_grant(connection, 2, 9, 1.0, actor=1, now=NOW)
        budgets.put_grant(connection, 2, 9, 1.5, actor=1, now=NOW)
        charges.reserve(connection, job_id="x", dataset_id=2, user_id=8, events=[Gaussian(50.0)], now=NOW)
        budgets.update_budget(connection, 2, epsilon=5.0, user_epsilon=2.0, actor=1, now=NOW)

    assert found_after(migrated, change) is None
    assert open_cap(3.0, 1e-6).order == CAP["order"]
