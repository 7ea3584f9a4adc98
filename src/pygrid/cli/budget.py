"""``pygrid budget``: what was spent of the privacy of each dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pygrid.cli.friendly import friendly
from pygrid.cli.stored import DatabaseUrl, DataDir, stored_domain

if TYPE_CHECKING:
    from sqlalchemy import Connection

app = typer.Typer(help="Look at the privacy budgets of a Domain's datasets.", no_args_is_help=True, add_completion=False)


@app.callback()
def _group() -> None:
    """Look at the privacy budgets of a Domain's datasets."""


@app.command("show")
@friendly
def show(
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    dataset: Annotated[int | None, typer.Option(help="Id of a dataset; default: all that have a budget.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """Show what was spent of each dataset, in all and by each user, and what is allowed.

    EPSILON is what all charges together imply at the delta beside it. ROOM is the share that the ledger has left; it decides.

    Example: pygrid budget show --data-dir ./pygrid-data
    """
    import msgspec

    with stored_domain(data_dir, database_url) as (_, database):
        found = database.read_now(lambda connection: _rows(connection, dataset))
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
        return
    if not found:
        print("no dataset has a privacy budget" if dataset is None else f"dataset {dataset} has no privacy budget")
        return
    table = [("DATASET", "WHO", "EPSILON", "OF", "DELTA", "ROOM", "JOBS")]
    table += [
        (
            f"{row['dataset']} (id {row['dataset_id']})",
            row["who"],
            f"{row['epsilon_spent']:.3f}",
            f"{row['epsilon']:g}",
            f"{row['delta']:g}",
            f"{row['room']:.0%}",
            str(row["num_charges"]),
        )
        for row in found
    ]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _rows(connection: Connection, dataset_id: int | None) -> list[dict[str, Any]]:
    """One row for each dataset as a whole, followed by one for each user of it."""
    import sqlalchemy as sa

    from pygrid.privacy.ledger import Cap, epsilon_spent
    from pygrid.storage import budgets
    from pygrid.storage.schema import users
    from pygrid.storage.tables_datasets import datasets

    names = {row.id: row.name for row in connection.execute(sa.select(datasets.c.id, datasets.c.name))}
    emails = {row.id: row.email for row in connection.execute(sa.select(users.c.id, users.c.email))}

    def row(budget: budgets.Budget, who: str, user_id: int | None, cap: Cap) -> dict[str, Any]:
        total = budgets.get_total(connection, budget.dataset_id, user_id)
        share = total.at(cap.order).divergence / cap.divergence
        return {
            "dataset_id": budget.dataset_id,
            "dataset": names[budget.dataset_id],
            "user_id": user_id,
            "who": who,
            "epsilon_spent": epsilon_spent(total, cap),
            "epsilon": cap.epsilon,
            "delta": cap.delta,
            "room": min(1.0, max(0.0, 1.0 - share)),
            "num_charges": budgets.count_charges(connection, budget.dataset_id, user_id),
        }

    rows = []
    for budget in budgets.list_budgets(connection):
        if dataset_id in (None, budget.dataset_id):
            rows.append(row(budget, "all users", None, budget.cap))
            for user_id, cap in budgets.list_grants(connection, budget.dataset_id).items():
                rows.append(row(budget, emails.get(user_id, f"user {user_id}"), user_id, cap))
    return rows
