"""What the audit log says that budgets and grants are, to compare with what the tables say."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from pygrid.storage import audit
from pygrid.storage.budgets import grants, list_budgets

_PAGE = 1000


def find_altered_cap(connection: sa.Connection) -> str | None:
    """In words, the first budget or grant that is not what the log says of it; None if all are. Reads the whole log."""
    opened, granted = _replay(connection)
    for budget in list_budgets(connection):
        logged = opened.pop(budget.dataset_id, None)
        if logged is None:
            return f"the log says nothing of a budget of dataset {budget.dataset_id}"
        user_cap = None if budget.user_cap is None else asdict(budget.user_cap)
        for what, found in (("cap", asdict(budget.cap)), ("user_cap", user_cap), ("unit", budget.unit)):
            if logged[what] != found:
                return f"the {what} of dataset {budget.dataset_id} is {found}, but the log says {logged[what]}"
        for row in connection.execute(sa.select(grants).where(grants.c.dataset_id == budget.dataset_id)).mappings():
            # A grant that came of what everybody gets has its epsilon, at the order that this had when it was first
            # used.
            key = budget.dataset_id, row["user_id"]
            expected = logged["user_cap"] if row["is_default"] else granted.get(key)
            if expected is None or row["epsilon"] != expected["epsilon"] or row["delta"] != expected["delta"]:
                return f"the grant of user {row['user_id']} on dataset {budget.dataset_id} is not the one in the log"
            if not row["is_default"] and row["order"] != expected["order"]:
                return (
                    f"the order of the grant of user {row['user_id']} on dataset {budget.dataset_id} is not in the log"
                )
    return f"the budget of dataset {min(opened)} is in the log, but not in the database" if opened else None


def _replay(connection: sa.Connection) -> tuple[dict[int, dict[str, Any]], dict[tuple[int, int], dict[str, Any]]]:
    """Budgets by dataset, and grants by dataset and user, as the entries of the log leave them."""
    opened: dict[int, dict[str, Any]] = {}
    granted: dict[tuple[int, int], dict[str, Any]] = {}
    after = 0
    while entries := audit.list_entries(connection, after, _PAGE):
        for entry in entries:
            data = entry.data
            if entry.action == "budget_opened":
                # Those of 0.1 have no unit; the entry of the migration tells it.
                opened[data["dataset_id"]] = {
                    "cap": data["cap"],
                    "user_cap": data["user_cap"],
                    "unit": data.get("unit"),
                }
            elif entry.action == "budget_changed":
                _change(opened.get(data["dataset_id"]), data)
            elif entry.action == "budget_granted":
                granted[data["dataset_id"], data["user_id"]] = data["cap"]
            elif entry.action == "budgets_repriced":
                for dataset_id, unit in data["units"].items():
                    if int(dataset_id) in opened:
                        opened[int(dataset_id)]["unit"] = unit
        after = entries[-1].number
    return opened, granted


def _change(logged: dict[str, Any] | None, data: dict[str, Any]) -> None:
    if logged is None:
        return
    if "cap" in data:
        logged |= {"cap": data["cap"], "user_cap": data["user_cap"]}
        return
    # An entry of 0.1 has the epsilons alone.
    logged["cap"] = {**logged["cap"], "epsilon": data["epsilon"]}
    if logged["user_cap"] is not None:
        logged["user_cap"] = {**logged["user_cap"], "epsilon": data["user_epsilon"]}
