"""Reserving a charge beside 100,000 others of the same dataset, on SQLite.

    python benchmarks/ledger.py [--rows 100000]

Claim: the check takes less than 20 ms. The baseline in the same run is the same call on an empty
ledger, so the difference is what the rows cost. Each time is the best of some, to leave out what else the machine does.
"""

from __future__ import annotations

import argparse
import datetime as dt
import sys
import tempfile
import time
from pathlib import Path

import sqlalchemy as sa

from pygrid.privacy.events import Gaussian
from pygrid.privacy.ledger import Accepted, Use, cost_of, open_cap
from pygrid.storage import budgets, charges
from pygrid.storage.budgets import grants
from pygrid.storage.datasets import datasets
from pygrid.storage.sql.database import Database
from pygrid.storage.sql.migrations import migrate

BUDGET_MS = 20.0
TURNS = 20
NOW = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)
EVENTS = (Gaussian(9_000.0),)
CAP = open_cap(900.0, 1e-6, Use.STATISTICS)
DATASET, USER = 1, 1


def prepare(connection: sa.Connection) -> None:
    """A dataset with a budget that is large enough for all rows."""
    values = {"name": "d", "name_key": "d", "description": "", "visibility": "private", "search_text": ""}
    connection.execute(datasets.insert().values(id=DATASET, created_at=NOW, updated_at=NOW, **values))
    budgets.open_budget(connection, budgets.Budget(DATASET, CAP, CAP, NOW), actor=None)


def fill(connection: sa.Connection, num_rows: int) -> None:
    """Charges as if reserved one by one; every other one by the user who is measured."""
    first = connection.execute(sa.select(charges.charges).limit(1)).mappings().one()
    price = cost_of(EVENTS).at(CAP.order).divergence
    common = {name: value for name, value in first.items() if name != "id"} | {"dataset_cost": price}
    rows = [{**common, "job_id": f"filled-{number}", "user_id": USER + number % 2} for number in range(num_rows)]
    connection.execute(charges.charges.insert(), rows)
    connection.execute(
        grants.insert().from_select(
            list(grants.c.keys()),
            sa.select(*(sa.literal(USER + 1) if column.name == "user_id" else column for column in grants.c)),
        )
    )
    totals = {
        grants.c[name]: grants.c[name] + price * (num_rows / 2) for name in ("spent_divergence", "spent_in_dataset")
    }
    connection.execute(grants.update().values(totals))


def reserve_ms(database: Database, name: str) -> tuple[float, float]:
    """The best time of a reservation: inside the transaction, and with its durable commit."""
    inside, whole = [], []
    for turn in range(TURNS):

        def reserve(connection: sa.Connection, job_id: str = f"{name}-{turn}") -> None:
            start = time.perf_counter()
            answer = charges.reserve(
                connection, job_id=job_id, dataset_id=DATASET, user_id=USER, events=EVENTS, now=NOW
            )
            inside.append(time.perf_counter() - start)
            assert answer == Accepted(), answer

        start = time.perf_counter()
        database.write_now(reserve)
        whole.append(time.perf_counter() - start)
    return min(inside) * 1e3, min(whole) * 1e3


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Time to reserve a charge beside many others.")
    parser.add_argument("--rows", type=int, default=100_000)
    num_rows = parser.parse_args(arguments).rows
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{Path(folder) / 'ledger.db'}")
        try:
            migrate(database)
            database.write_now(prepare)
            database.write_now(
                lambda connection: charges.reserve(
                    connection, job_id="first", dataset_id=DATASET, user_id=USER, events=EVENTS, now=NOW
                )
            )
            empty, empty_whole = reserve_ms(database, "empty")
            database.write_now(lambda connection: fill(connection, num_rows))
            full, full_whole = reserve_ms(database, "full")
        finally:
            database.close()
    print(f"empty ledger      {empty:7.2f} ms to check and insert, {empty_whole:7.2f} ms with the commit")
    print(f"{num_rows:,} rows      {full:7.2f} ms to check and insert, {full_whole:7.2f} ms with the commit")
    print(f"ratio {full / empty:.1f}; budget {BUDGET_MS:.0f} ms: {'kept' if full < BUDGET_MS else 'MISSED'}")
    return 0 if full < BUDGET_MS else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
