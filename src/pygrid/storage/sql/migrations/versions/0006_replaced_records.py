"""Budgets protect a unit, charges are priced for replaced units, versions have a hash of their content.

Version 0.1 priced a unit that is added or removed. Each charge is priced again from its stored events, for a unit that
is replaced by any other. Caps stay: a budget that is overdrawn by the new prices has nothing left.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import sqlalchemy as sa
from alembic import op

from pygrid.privacy.events import decode_events, replaced
from pygrid.privacy.ledger import Cost, cost_of
from pygrid.storage import audit

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Change the tables and what is in them."""
    with op.batch_alter_table("dataset_versions", schema=None) as batch_op:
        batch_op.add_column(sa.Column("content_hash", sa.String(length=64), nullable=True))
        batch_op.create_index(batch_op.f("ix_dataset_versions_content_hash"), ["content_hash"], unique=False)
    # With a default, so that SQLite adds it in place: other tables refer to this one.
    op.add_column("budgets", sa.Column("unit", sa.String(length=16), nullable=False, server_default="record"))
    connection = op.get_bind()
    tables = sa.MetaData()
    names = ("budgets", "grants", "charges", "curves", "dataset_versions")
    tables.reflect(connection, only=names)
    units = _derive_units(connection, tables)
    if units:
        _reprice(connection, tables)
        now = dt.datetime.now(dt.UTC)
        data = {"neighbors": "replaced", "units": {str(dataset_id): unit for dataset_id, unit in units.items()}}
        audit.append(connection, "budgets_repriced", data, actor=None, now=now)


def _derive_units(connection: sa.Connection, tables: sa.MetaData) -> dict[int, str]:
    """Set the unit of each budget to that of the newest version of its dataset."""
    budgets, versions = tables.tables["budgets"], tables.tables["dataset_versions"]
    schema = sa.type_coerce(versions.c.schema, sa.JSON)
    units = {}
    for dataset_id in connection.execute(sa.select(budgets.c.dataset_id)).scalars().all():
        newest = (
            sa.select(schema).where(versions.c.dataset_id == dataset_id).order_by(versions.c.number.desc()).limit(1)
        )
        found = connection.execute(newest).scalar() or {}
        units[dataset_id] = "record" if found.get("subject") is None else "subject"
        connection.execute(budgets.update().where(budgets.c.dataset_id == dataset_id).values(unit=units[dataset_id]))
    return units


def _reprice(connection: sa.Connection, tables: sa.MetaData) -> None:
    """Price each charge again, and sum the charges of each grant."""
    budgets, grants, charges, curves = (tables.tables[name] for name in ("budgets", "grants", "charges", "curves"))
    costs: dict[int, Cost] = {}
    for row in connection.execute(sa.select(curves.c.id, curves.c.events)).all():
        costs[row.id] = cost_of(map(replaced, decode_events(row.events)))
        divergences = costs[row.id].curve.astype("<f8").tobytes()
        connection.execute(curves.update().where(curves.c.id == row.id).values(divergences=divergences))
    orders = {row.dataset_id: row.order for row in connection.execute(sa.select(budgets)).all()}
    user_orders = {(row.dataset_id, row.user_id): row.order for row in connection.execute(sa.select(grants)).all()}
    spent: dict[tuple[int, int], dict[str, float]] = {
        key: dict.fromkeys(("spent_divergence", "spent_in_dataset", "spent_basic_epsilon", "spent_basic_delta"), 0.0)
        for key in user_orders
    }
    for row in connection.execute(sa.select(charges)).all():
        key, cost = (row.dataset_id, row.user_id), costs[row.curve_id]
        values: dict[str, Any] = {
            "dataset_cost": cost.at(orders[row.dataset_id]).divergence,
            "user_cost": cost.at(user_orders[key]).divergence,
            "basic_epsilon": cost.basic_epsilon,
            "basic_delta": cost.basic_delta,
        }
        connection.execute(charges.update().where(charges.c.id == row.id).values(values))
        if row.state != "refunded":
            total = spent[key]
            total["spent_divergence"] += values["user_cost"]
            total["spent_in_dataset"] += values["dataset_cost"]
            total["spent_basic_epsilon"] += cost.basic_epsilon
            total["spent_basic_delta"] += cost.basic_delta
    for (dataset_id, user_id), total in spent.items():
        where = (grants.c.dataset_id == dataset_id, grants.c.user_id == user_id)
        connection.execute(grants.update().where(*where).values(total))
