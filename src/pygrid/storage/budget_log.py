"""Budgets and grants as the audit log records them, compared with the tables."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from pygrid.storage import audit
from pygrid.storage.budgets import grants, list_budgets

_PAGE = 1000


def find_altered_cap(connection: sa.Connection) -> str | None:
    """The first budget or grant that differs from the log, in words; None if all agree. Reads the whole log."""
    opened, granted = _replay(connection)
    for budget in list_budgets(connection):
        logged = opened.pop(budget.dataset_id, None)
        if logged is None:
            return f"the log has no entry for the budget of dataset {budget.dataset_id}"
        user_cap = None if budget.user_cap is None else asdict(budget.user_cap)
        for what, found in (("cap", asdict(budget.cap)), ("user_cap", user_cap), ("unit", budget.unit)):
            if logged[what] != found:
                return f"the {what} of dataset {budget.dataset_id} is {found}, but {logged[what]} in the log"
        for row in connection.execute(sa.select(grants).where(grants.c.dataset_id == budget.dataset_id)).mappings():
            # A default grant has the epsilon of the cap for every user, and the order that this cap had at the user's
            # first charge.
            key = budget.dataset_id, row["user_id"]
            expected = logged["user_cap"] if row["is_default"] else granted.get(key)
            if expected is None or row["epsilon"] != expected["epsilon"] or row["delta"] != expected["delta"]:
                return f"the grant of user {row['user_id']} on dataset {budget.dataset_id} differs from the log"
            if not row["is_default"] and row["order"] != expected["order"]:
                return f"the order of user {row['user_id']}'s grant on dataset {budget.dataset_id} differs from the log"
    return f"the budget of dataset {min(opened)} is in the log, but not in the database" if opened else None


def _replay(connection: sa.Connection) -> tuple[dict[int, dict[str, Any]], dict[tuple[int, int], dict[str, Any]]]:
    """Budgets by dataset, and grants by dataset and user, after the last entry of the log."""
    opened: dict[int, dict[str, Any]] = {}
    granted: dict[tuple[int, int], dict[str, Any]] = {}
    after = 0
    while entries := audit.list_entries(connection, after, _PAGE):
        for entry in entries:
            data = entry.data
            if entry.action == "budget_opened":
                # Entries of 0.1 have no unit; the entry of the migration has it.
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
    # An entry of 0.1 has only the epsilons.
    logged["cap"] = {**logged["cap"], "epsilon": data["epsilon"]}
    if logged["user_cap"] is not None:
        logged["user_cap"] = {**logged["user_cap"], "epsilon": data["user_epsilon"]}
