"""``pygrid budget``: show and set the privacy budgets of datasets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pygrid.cli.common import JsonOption, UrlOption, connect
from pygrid.cli.help import App
from pygrid.cli.local_store import DatabaseUrl, DataDir, stored_domain
from pygrid.cli.output import say, say_facts, say_json, say_table
from pygrid.errors import InvalidInput
from pygrid.units import decimal

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from pygrid.cli.tables import BudgetTable
    from pygrid.messages.jobs import PolicyInfo

app = App("Show and set the privacy budgets of datasets.\n\nExample: pygrid budget show patients")


@app.command("show")
def show(
    name: Annotated[
        str | None, typer.Argument(metavar="DATASET", help="Name of a dataset, for the Domain to answer.")
    ] = None,
    url: UrlOption = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    dataset: Annotated[
        int | None, typer.Option(metavar="N", help="Id of a dataset in the data folder; default: all with a budget.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show how much of each privacy budget is spent, in total and by each user.

    With the name of a dataset, the Domain answers with what you may know. Without a name, the command reads the
    Domain's data folder on this machine.

    Example: pygrid budget show patients
    """

    if name is not None:
        if data_dir is not None or database_url is not None or dataset is not None:
            raise InvalidInput(
                "with the name of a dataset, the Domain answers; leave it out to read a data folder with --data-dir, "
                "--database-url or --dataset"
            )
        _show_online(name, url, as_json)
        return
    with stored_domain(data_dir, database_url) as (_, database):
        found = database.read_now(lambda connection: _rows(connection, dataset))
    if as_json:
        say_json([row._asdict() for row in found])
    else:
        say_table(
            found, "no dataset has a privacy budget" if dataset is None else f"dataset {dataset} has no privacy budget"
        )


@app.command("set")
def set_budget(
    name: Annotated[str, typer.Argument(metavar="DATASET", help="Name of the dataset.")],
    epsilon: Annotated[float | None, typer.Option(metavar="X", help="Total epsilon of the dataset.")] = None,
    delta: Annotated[
        float | None, typer.Option(metavar="X", help="Delta of the dataset; well below 1 / number of records.")
    ] = None,
    epsilon_per_user: Annotated[
        float | None, typer.Option(metavar="X", help="Epsilon that one user can spend.")
    ] = None,
    auto_approve: Annotated[
        bool | None,
        typer.Option("--auto-approve/--ask", help="Whether private jobs within the caps run without a decision."),
    ] = None,
    max_epsilon_per_job: Annotated[
        float | None, typer.Option(metavar="X", help="Epsilon above which a job always needs a decision.")
    ] = None,
    use: Annotated[str | None, typer.Option(metavar="USE", help="Main use: statistics, training or mixed.")] = None,
    allow_remote_workers: Annotated[
        bool | None,
        typer.Option("--allow-remote-workers/--here-only", help="Whether records may go to Workers on other machines."),
    ] = None,
    pool: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Pool in which jobs may run, like local or leased; repeatable."),
    ] = None,
    unit: Annotated[
        str | None,
        typer.Option(metavar="UNIT", help="Unit that is protected: record, subject or domain; fixed once set."),
    ] = None,
    fresh_budget: Annotated[
        bool, typer.Option("--fresh-budget", help="Open a second budget for records with one in another dataset.")
    ] = False,
    url: UrlOption = None,
) -> None:
    """Open or change the privacy budget of your dataset; options left out keep their value.

    Example:
        pygrid budget set patients --epsilon 10 --delta 1e-6 --epsilon-per-user 5
    """
    given: dict[str, Any] = {
        "epsilon": epsilon,
        "delta": delta,
        "epsilon_per_user": epsilon_per_user,
        "auto_approve": auto_approve,
        "max_epsilon_per_job": max_epsilon_per_job,
        "use": use,
        "allow_remote_workers": allow_remote_workers,
        "pools": pool or None,
        "unit": unit,
        "fresh_budget": fresh_budget or None,
    }
    changes = {key: value for key, value in given.items() if value is not None}
    if not changes:
        raise InvalidInput("no option was given, so nothing changes; see: pygrid budget set --help")
    with connect(url) as domain:
        _say_policy(name, domain.datasets[name].policy(**changes))


def _say_policy(name: str, policy: PolicyInfo) -> None:
    who = "run without a decision within the caps" if policy.auto_approve else "wait for a decision"
    share = f"{decimal(policy.epsilon_per_user)} for each user"
    say(f"{name}: epsilon {decimal(policy.epsilon)} at delta {decimal(policy.delta)}, {share}")
    say(f"the protected unit is {policy.unit}")
    say(f"private jobs {who}; non-private jobs always wait for a decision")
    say(f"jobs may run in the pools {', '.join(policy.pools or ())}")
    if policy.allow_remote_workers:
        say("its records may be sent to Workers on other machines, which the Owner of the Domain has authorized")


def _show_online(name: str, url: str | None, as_json: bool) -> None:

    with connect(url) as domain:
        budget = domain.datasets[name].budget()
    if as_json:
        say_json(budget)
        return
    policy = budget.policy
    facts = [("dataset", name), ("unit", policy.unit), ("delta", decimal(policy.delta))]
    if budget.spent is not None:
        facts.append(("spent in total", _share(budget.spent, policy.epsilon, budget.left or 0.0)))
    facts.append(("spent by you", _share(budget.yours, budget.your_cap, budget.your_left)))
    facts += [(f"spent by {user}", decimal(spent, 3)) for user, spent in sorted((budget.users or {}).items())]
    say_facts(facts)


def _share(spent: float, cap: float, left: float) -> str:
    return f"epsilon {decimal(spent, 3)} of {decimal(cap)}, {decimal(left, 3)} left"


def _rows(connection: Connection, dataset_id: int | None) -> BudgetTable:
    import sqlalchemy as sa

    from pygrid.cli.tables import BudgetRow, BudgetTable
    from pygrid.privacy.ledger import Cap, epsilon_left, epsilon_spent
    from pygrid.storage import budgets, charges
    from pygrid.storage.accounts import list_emails
    from pygrid.storage.datasets import datasets

    names = {row.id: row.name for row in connection.execute(sa.select(datasets.c.id, datasets.c.name))}

    def row(budget: budgets.Budget, who: str, user_id: int | None, cap: Cap) -> BudgetRow:
        total = charges.get_total(connection, budget.dataset_id, user_id)
        return BudgetRow(
            dataset_id=budget.dataset_id,
            dataset=names[budget.dataset_id],
            user_id=user_id,
            who=who,
            epsilon_spent=epsilon_spent(total, cap),
            epsilon_left=epsilon_left(total, cap),
            epsilon=cap.epsilon,
            delta=cap.delta,
            unit=budget.unit,
            num_charges=charges.count_charges(connection, budget.dataset_id, user_id),
        )

    rows = BudgetTable()
    for budget in budgets.list_budgets(connection):
        if dataset_id in (None, budget.dataset_id):
            rows.append(row(budget, "all users", None, budget.cap))
            grants = budgets.list_grants(connection, budget.dataset_id)
            emails = list_emails(connection, grants.keys())
            for user_id, cap in grants.items():
                rows.append(row(budget, emails[user_id], user_id, cap))
    return rows
