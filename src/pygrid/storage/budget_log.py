"""Budgets, grants and charges as the audit log records them, compared with the tables."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import sqlalchemy as sa

from pygrid.privacy.ledger import ChargeState
from pygrid.storage import audit
from pygrid.storage.budgets import grants, list_budgets
from pygrid.storage.charges import charges, curves

_PAGE = 1000
_MOVED = {f"charge_{state.value}": state.value for state in ChargeState}
_COMPARED = ("dataset_id", "user_id", "state")


@dataclass
class _Logged:
    """What the entries of the log say."""

    opened: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Budgets by dataset."""
    granted: dict[tuple[int, int], dict[str, Any]] = field(default_factory=dict)
    """Grants by dataset and user."""
    charged: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Charges by job."""


def find_altered(connection: sa.Connection) -> str | None:
    """The first budget, grant or charge that differs from the log, in words; None if all agree. Reads the whole log."""
    logged = _replay(connection)
    return _find_altered_cap(connection, logged.opened, logged.granted) or _find_altered_charge(
        connection, logged.charged
    )


def _find_altered_charge(connection: sa.Connection, charged: dict[str, dict[str, Any]]) -> str | None:
    query = sa.select(charges.c.job_id, *(charges.c[name] for name in _COMPARED), curves.c.events)
    for row in connection.execute(query.join_from(charges, curves).order_by(charges.c.id)).mappings():
        logged = charged.pop(row["job_id"], None)
        if logged is None:
            return f"the log has no entry for the charge of job {row['job_id']}"
        for name in _COMPARED:
            if row[name] != logged[name]:
                return f"the {name} of the charge of job {row['job_id']} is {row[name]}, but {logged[name]} in the log"
        if row["events"] != logged["events"]:
            return f"the charge of job {row['job_id']} has other events in the log"
    return f"the charge of job {min(charged)} is in the log, but not in the database" if charged else None


def _find_altered_cap(
    connection: sa.Connection, opened: dict[int, dict[str, Any]], granted: dict[tuple[int, int], dict[str, Any]]
) -> str | None:
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


def _replay(connection: sa.Connection) -> _Logged:
    """Budgets, grants and charges after the last entry of the log."""
    logged = _Logged()
    opened, granted, charged = logged.opened, logged.granted, logged.charged
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
            elif entry.action == "budget_reserved":
                charged[data["job_id"]] = {**data, "state": ChargeState.RESERVED.value}
            elif entry.action in _MOVED and data["job_id"] in charged:
                charged[data["job_id"]]["state"] = _MOVED[entry.action]
            elif entry.action == "budgets_repriced":
                for dataset_id, unit in data["units"].items():
                    if int(dataset_id) in opened:
                        opened[int(dataset_id)]["unit"] = unit
        after = entries[-1].number
    return logged


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
