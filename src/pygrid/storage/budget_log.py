"""Budgets, grants and charges as the audit log records them, compared with the tables.

The entry of a charge has its events, and the entries of caps have their orders. So each cost is computed again from the
log. Together with `pygrid.storage.charges.find_mismatch`, this covers every number that a check of a budget reads.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import sqlalchemy as sa

from pygrid.privacy.events import decode_events, replaced
from pygrid.privacy.ledger import ChargeState, Cost, cost_of
from pygrid.storage import audit
from pygrid.storage.budgets import grants, list_budgets, read_cap
from pygrid.storage.charges import charges, curves

_PAGE = 1000
_MOVED = {f"charge_{state.value}": state.value for state in ChargeState}
_COMPARED = ("dataset_id", "user_id", "state")
_COSTS = ("dataset_cost", "user_cost", "basic_epsilon", "basic_delta")
_ROUNDED = 1e-6
"""Largest relative difference between costs of the same events that were computed on different machines."""


@dataclass
class _Logged:
    """What the entries of the log say."""

    opened: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Budgets by dataset."""
    granted: dict[tuple[int, int], dict[str, Any]] = field(default_factory=dict)
    """Grants by dataset and user."""
    charged: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Charges by job."""
    defaults: dict[tuple[int, int], dict[str, Any]] = field(default_factory=dict)
    """The cap of users without a grant of their own, at the first charge of such a user, by dataset and user."""

    def get_grant(self, key: tuple[int, int]) -> dict[str, Any] | None:
        """Return the cap of a user with a grant or a charge. A default one follows the epsilon of the budget."""
        if key in self.granted or key not in self.defaults:
            return self.granted.get(key)
        return {**self.defaults[key], "epsilon": self.opened[key[0]]["user_cap"]["epsilon"]}


def find_altered(connection: sa.Connection) -> str | None:
    """The first budget, grant or charge that differs from the log, in words; None if all agree. Reads the whole log."""
    logged = _replay(connection)
    return (
        _find_altered_budget(connection, logged)
        or _find_altered_grant(connection, logged)
        or _find_altered_charge(connection, logged)
    )


def _find_altered_budget(connection: sa.Connection, logged: _Logged) -> str | None:
    missing = set(logged.opened)
    for budget in list_budgets(connection):
        dataset_id = budget.dataset_id
        if dataset_id not in missing:
            return f"the log has no entry for the budget of dataset {dataset_id}"
        missing.remove(dataset_id)
        user_cap = None if budget.user_cap is None else asdict(budget.user_cap)
        for what, found in (("cap", asdict(budget.cap)), ("user_cap", user_cap), ("unit", budget.unit)):
            expected = logged.opened[dataset_id][what]
            if expected != found:
                return f"the {what} of dataset {dataset_id} is {found}, but {expected} in the log"
    return f"the budget of dataset {min(missing)} is in the log, but not in the database" if missing else None


def _find_altered_grant(connection: sa.Connection, logged: _Logged) -> str | None:
    missing = {*logged.granted, *logged.defaults}
    for row in connection.execute(sa.select(grants)):
        key = row.dataset_id, row.user_id
        is_same = logged.get_grant(key) == asdict(read_cap(row)) and row.is_default == (key not in logged.granted)
        if not is_same:
            return f"the grant of user {row.user_id} on dataset {row.dataset_id} differs from the log"
        missing.remove(key)
    for dataset_id, user_id in sorted(missing):
        return f"the grant of user {user_id} on dataset {dataset_id} is in the log, but not in the database"
    return None


def _find_altered_charge(connection: sa.Connection, logged: _Logged) -> str | None:
    missing, costs = set(logged.charged), dict[tuple[str, bool], Cost]()
    query = sa.select(charges, curves.c.events, curves.c.divergences)
    for row in connection.execute(query.join_from(charges, curves).order_by(charges.c.id)).mappings():
        job_id = row["job_id"]
        if job_id not in missing:
            return f"the log has no entry for the charge of job {job_id}"
        missing.remove(job_id)
        entry = logged.charged[job_id]
        for name in _COMPARED:
            if row[name] != entry[name]:
                return f"the {name} of the charge of job {job_id} is {row[name]}, but {entry[name]} in the log"
        events = entry["events"]
        if row["events"] != events:
            return f"the charge of job {job_id} has other events in the log"
        key = events, entry["is_repriced"]
        if key not in costs:
            found = decode_events(events)
            costs[key] = cost_of(map(replaced, found) if entry["is_repriced"] else found)
        if not np.allclose(np.frombuffer(row["divergences"], "<f8"), costs[key].curve, rtol=_ROUNDED, atol=0.0):
            return f"the curve of the charge of job {job_id} is not that of its events in the log"
        for name, expected in _costs(logged, entry, costs[key]).items():
            if not math.isclose(row[name], expected, rel_tol=_ROUNDED):
                return f"the {name} of the charge of job {job_id} is {row[name]:g}, but {expected:g} by the log"
    return f"the charge of job {min(missing)} is in the log, but not in the database" if missing else None


def _costs(logged: _Logged, entry: dict[str, Any], cost: Cost) -> dict[str, float]:
    """What a charge costs at the orders of the log, by column."""
    cap, user_cap = logged.opened[entry["dataset_id"]]["cap"], logged.get_grant((entry["dataset_id"], entry["user_id"]))
    assert user_cap is not None, "there is one since the charge"
    values = (cost.at(cap["order"]).divergence, cost.at(user_cap["order"]).divergence)
    return dict(zip(_COSTS, (*values, cost.basic_epsilon, cost.basic_delta), strict=True))


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
                charged[data["job_id"]] = {**data, "state": ChargeState.RESERVED.value, "is_repriced": False}
                key = data["dataset_id"], data["user_id"]
                if key not in granted and data["dataset_id"] in opened:
                    logged.defaults.setdefault(key, opened[data["dataset_id"]]["user_cap"])
            elif entry.action in _MOVED and data["job_id"] in charged:
                charged[data["job_id"]]["state"] = _MOVED[entry.action]
            elif entry.action == "budgets_repriced":
                for charge in charged.values():
                    charge["is_repriced"] = True
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
