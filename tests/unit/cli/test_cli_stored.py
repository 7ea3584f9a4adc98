"""``pygrid budget`` and ``pygrid audit``, on the data of a Domain that is not running."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner, Result

from pygrid.cli import app
from pygrid.errors import InvalidInput
from pygrid.privacy.events import Gaussian, PureDp
from pygrid.privacy.ledger import open_cap
from pygrid.storage import audit, budgets, charges
from pygrid.storage.accounts import put_user, seed_roles
from pygrid.storage.datasets import datasets
from pygrid.storage.sql.database import Database
from pygrid.storage.sql.migrations import migrate

NOW = dt.datetime(2026, 5, 1, 12, tzinfo=dt.UTC)


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "PYGRID_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The data folder of a Domain with two charges on one dataset, one of them by somebody whose account is gone."""
    database = Database(f"sqlite:///{tmp_path / 'domain.db'}")
    migrate(database)

    def prepare(connection: sa.Connection) -> None:
        seed_roles(connection)
        who = put_user(
            connection,
            email="ana@example.org",
            password_hash="x",
            private_key_hash="y",
            role_id=1,
            now=NOW,
        )
        values = {
            "name": "patients",
            "name_key": "patients",
            "description": "",
            "visibility": "private",
            "search_text": "",
        }
        connection.execute(datasets.insert().values(id=3, created_at=NOW, updated_at=NOW, **values))
        budgets.open_budget(connection, budgets.Budget(3, open_cap(3.0, 1e-6), open_cap(2.0, 1e-6), NOW), actor=None)
        for job_id, user_id, event in (("a", who, PureDp(0.5)), ("b", 99, Gaussian(8.0))):
            charges.reserve(connection, job_id=job_id, dataset_id=3, user_id=user_id, events=[event], now=NOW)

    database.write_now(prepare)
    database.close()
    return tmp_path


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def write(folder: Path, statement: str) -> None:
    database = Database(f"sqlite:///{folder / 'domain.db'}")
    database.write_now(lambda connection: connection.execute(sa.text(statement)))
    database.close()


def test_spending_is_shown_in_all_and_by_user(folder: Path) -> None:
    lines = run("budget", "show", "--data-dir", folder).stdout.splitlines()
    assert [line.split("\t")[:3] for line in lines] == [
        ["dataset", "id", "user"],
        ["patients", "3", "all users"],
        ["patients", "3", "ana@example.org"],
        ["patients", "3", "removed account 99"],
    ]
    whole, ana, gone = json.loads(run("budget", "show", "--data-dir", folder, "--json").stdout)
    assert (whole["num_charges"], ana["num_charges"], gone["num_charges"]) == (2, 1, 1)
    assert whole["epsilon_spent"] > max(ana["epsilon_spent"], gone["epsilon_spent"])
    assert ana["epsilon_spent"] + ana["epsilon_left"] == pytest.approx(ana["epsilon"])
    assert 0 < whole["epsilon_left"] < whole["epsilon"]


def test_a_dataset_without_a_budget_is_told(folder: Path) -> None:
    assert run("budget", "show", "--data-dir", folder, "--dataset", "4").stdout == "dataset 4 has no privacy budget\n"


def test_a_sound_log_verifies_and_is_shown(folder: Path) -> None:
    result = run("audit", "verify", "--data-dir", folder)
    assert result.exit_code == 0
    assert "3 entries" in result.stdout
    assert "no exported head" in result.stdout
    result = run("audit", "show", "--data-dir", folder, "--last", "2")
    assert result.exit_code == 0, repr(result.exception)
    shown = result.stdout.splitlines()
    assert [line.split("\t")[0] for line in shown] == ["entry", "2", "3"]
    assert [shown[1].split("\t")[place] for place in (3, 2)] == ["budget_reserved", "ana@example.org"]
    entries = json.loads(run("audit", "show", "--data-dir", folder, "--json").stdout)
    assert [entry["number"] for entry in entries] == [1, 2, 3]


def test_a_log_that_was_changed_ends_with_2_and_says_where(folder: Path) -> None:
    write(folder, "UPDATE audit_entries SET entry = replace(entry, '0.5', '0.1') WHERE number = 2")
    result = run("audit", "verify", "--data-dir", folder)
    assert result.exit_code == 2
    assert result.stdout.startswith("BROKEN at entry 2: ")


def test_spending_that_is_not_that_of_the_charges_is_found(folder: Path) -> None:
    write(folder, "UPDATE grants SET spent_in_dataset = 0 WHERE user_id = 99")
    result = run("audit", "verify", "--data-dir", folder)
    assert result.exit_code == 2
    assert "the total that removed account 99 spent" in result.stdout


def test_the_exported_head_is_compared_with(folder: Path) -> None:
    database = Database(f"sqlite:///{folder / 'domain.db'}")
    head = database.read_now(audit.get_head)
    database.close()
    audit.export_head(head, folder / audit.HEAD_FILE)
    assert "contains entry 3" in run("audit", "verify", "--data-dir", folder).stdout
    elsewhere = folder / "copy.json"
    audit.export_head(audit.Head(9, "f"), elsewhere)
    result = run("audit", "verify", "--data-dir", folder, "--head", elsewhere)
    assert result.exit_code == 2
    assert "old copy" in result.stdout


@pytest.mark.parametrize("command", [("budget", "show"), ("audit", "verify"), ("audit", "show")])
def test_a_folder_without_a_domain_is_told(tmp_path: Path, command: tuple[str, str]) -> None:
    result = run(*command, "--data-dir", tmp_path)
    assert isinstance(result.exception, InvalidInput)
    assert result.exception.code == "no_domain_data"
    assert list(tmp_path.iterdir()) == []


def test_a_database_of_another_kind_is_told(tmp_path: Path) -> None:
    (tmp_path / "domain.db").touch()
    result = run("audit", "verify", "--data-dir", tmp_path)
    assert isinstance(result.exception, InvalidInput)
    assert "start the Domain once" in result.exception.detail
