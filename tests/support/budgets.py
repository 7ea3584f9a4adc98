"""Grants of a user's own, which the tables and the audit log can hold, but no feature makes."""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict

import sqlalchemy as sa

from pygrid.privacy import ledger
from pygrid.storage import audit
from pygrid.storage.budgets import find_grant, get_budget, grants

_UNSPENT = {name: 0.0 for name in grants.c.keys() if name.startswith("spent_")}  # noqa: SIM118


def put_grant(connection: sa.Connection, dataset_id: int, user_id: int, epsilon: float, now: dt.datetime) -> ledger.Cap:
    """Add a grant of the user's own, or change its epsilon."""
    audit.lock(connection)
    existing = find_grant(connection, dataset_id, user_id)
    if existing is None:
        cap = ledger.open_cap(epsilon, get_budget(connection, dataset_id).cap.delta)
        values = {"dataset_id": dataset_id, "user_id": user_id, "is_default": False, "granted_at": now}
        connection.execute(grants.insert().values({**values, **asdict(cap), **_UNSPENT}))
    else:
        cap = ledger.change_cap(existing, epsilon)
        where = (grants.c.dataset_id == dataset_id, grants.c.user_id == user_id)
        connection.execute(grants.update().where(*where).values(epsilon=cap.epsilon))
    data = {"dataset_id": dataset_id, "user_id": user_id, "cap": asdict(cap)}
    audit.append(connection, "budget_granted", data, actor=1, now=now)
    return cap
