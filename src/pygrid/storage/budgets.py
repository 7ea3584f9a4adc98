"""Privacy budgets and grants. Each function takes a connection inside a transaction of its caller.

    datasets 1--1 budgets 1--n grants           a cap for the dataset, and one for each user of it
                  budgets 1--n charges          see `pygrid.storage.charges`

A function that changes a budget writes an entry of the audit log in the same transaction. A grant carries the sums of
its user's charges, so a check takes the same time for any number of charges. The tables do not refer to users, because
what a user spent outlives the account.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from pygrid import codes
from pygrid.errors import Conflict, NotFound
from pygrid.messages.jobs import Unit
from pygrid.privacy import ledger
from pygrid.privacy.ledger import Cap
from pygrid.storage import audit
from pygrid.storage.sql.metadata import UtcDateTime, metadata


def _cap_columns(prefix: str = "", *, nullable: bool = False) -> list[sa.Column[Any]]:
    doubles = ("epsilon", "delta", "basic_epsilon", "basic_delta")
    return [
        *(sa.Column(prefix + name, sa.Double, nullable=nullable) for name in doubles),
        sa.Column(prefix + "order", sa.Integer, nullable=nullable),
    ]


budgets = sa.Table(
    "budgets",
    metadata,
    # A budget belongs to the dataset, not to a version of it. The row is the lock under which its charges are summed.
    sa.Column("dataset_id", sa.ForeignKey("datasets.id"), primary_key=True, autoincrement=False),
    *_cap_columns(),
    # The cap of each user without a grant of their own; NULL: such users may spend nothing.
    *_cap_columns("user_", nullable=True),
    # The unit that is protected: record, subject or domain. It never changes.
    sa.Column("unit", sa.String(16), nullable=False, server_default="record"),
    sa.Column("opened_at", UtcDateTime, nullable=False),
)

grants = sa.Table(
    "grants",
    metadata,
    sa.Column("dataset_id", sa.ForeignKey("budgets.dataset_id"), primary_key=True, autoincrement=False),
    sa.Column("user_id", sa.Integer, primary_key=True, autoincrement=False),
    *_cap_columns(),
    # Whether the cap is the budget's cap for every user, and changes with it.
    sa.Column("is_default", sa.Boolean, nullable=False),
    # Sums of the user's charges that count, at the order of this cap and at the order of the dataset's cap. A check
    # adds up these, not the charges. Both change in one transaction, under the lock of the audit log, and
    # `pygrid audit verify` compares them.
    sa.Column("spent_divergence", sa.Double, nullable=False),
    sa.Column("spent_in_dataset", sa.Double, nullable=False),
    sa.Column("spent_basic_epsilon", sa.Double, nullable=False),
    sa.Column("spent_basic_delta", sa.Double, nullable=False),
    sa.Column("granted_at", UtcDateTime, nullable=False),
)

SUMS = {
    "spent_divergence": "user_cost",
    "spent_in_dataset": "dataset_cost",
    "spent_basic_epsilon": "basic_epsilon",
    "spent_basic_delta": "basic_delta",
}
"""Sums of a grant, and the columns of charges that they are sums of."""
_CAP_FIELDS = tuple(Cap.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class Budget:
    """The privacy budget of a dataset."""

    dataset_id: int
    cap: Cap
    user_cap: Cap | None
    """The cap of each user without a grant of their own; None: such users may spend nothing."""
    opened_at: dt.datetime
    unit: Unit = "record"


def open_budget(connection: sa.Connection, budget: Budget, *, actor: int | None) -> None:
    """Open the budget of a dataset. The orders of both caps and the unit never change after this.

    Raises:
        Conflict: ``budget_exists``.
    """
    audit.lock(connection)
    if find_budget(connection, budget.dataset_id) is not None:
        raise Conflict(
            f"dataset {budget.dataset_id} has a budget already; its epsilon can be changed",
            code=codes.BUDGET_EXISTS,
            dataset_id=budget.dataset_id,
        )
    data = {"dataset_id": budget.dataset_id, "unit": budget.unit}
    values = {**data, "opened_at": budget.opened_at, **asdict(budget.cap), **_prefixed(budget.user_cap)}
    connection.execute(budgets.insert().values(values))
    data |= _caps_data(budget.cap, budget.user_cap)
    audit.append(connection, "budget_opened", data, actor=actor, now=budget.opened_at)


def update_budget(
    connection: sa.Connection,
    dataset_id: int,
    *,
    epsilon: float,
    user_epsilon: float | None = None,
    actor: int | None,
    now: dt.datetime,
) -> Budget:
    """Change the epsilon of the dataset and, if given, the epsilon of users without a grant of their own.

    What is spent stays spent.

    Raises:
        NotFound: ``budget_not_found``.
        InvalidInput: ``budget_too_small``: an epsilon is too small for the order of its cap.
    """
    audit.lock(connection)
    before = get_budget(connection, dataset_id)
    cap = ledger.change_cap(before.cap, epsilon)
    user_cap = before.user_cap
    if user_epsilon is not None:
        user_cap = ledger.change_cap(user_cap, user_epsilon) if user_cap else ledger.open_cap(user_epsilon, cap.delta)
        by_default = (grants.c.dataset_id == dataset_id, grants.c.is_default)
        connection.execute(grants.update().where(*by_default).values(epsilon=user_cap.epsilon))
    connection.execute(
        budgets.update().where(budgets.c.dataset_id == dataset_id).values({**asdict(cap), **_prefixed(user_cap)})
    )
    data = {"dataset_id": dataset_id, **_caps_data(cap, user_cap)}
    audit.append(connection, "budget_changed", data, actor=actor, now=now)
    return Budget(dataset_id, cap, user_cap, before.opened_at, before.unit)


def find_budget(connection: sa.Connection, dataset_id: int) -> Budget | None:
    """The budget of a dataset, if one was opened."""
    row = connection.execute(sa.select(budgets).where(budgets.c.dataset_id == dataset_id)).first()
    return None if row is None else read_budget(row)


def lock_budget(connection: sa.Connection, dataset_id: int) -> Budget | None:
    """As `find_budget`; no other transaction locks the budget before this one ends."""
    row = connection.execute(sa.select(budgets).where(budgets.c.dataset_id == dataset_id).with_for_update()).first()
    return None if row is None else read_budget(row)


def get_budget(connection: sa.Connection, dataset_id: int) -> Budget:
    """The budget of a dataset. Raises NotFound: ``budget_not_found``."""
    budget = find_budget(connection, dataset_id)
    if budget is None:
        raise NotFound(
            f"dataset {dataset_id} has no privacy budget", code=codes.BUDGET_NOT_FOUND, dataset_id=dataset_id
        )
    return budget


def list_budgets(connection: sa.Connection) -> list[Budget]:
    """All budgets, by dataset."""
    return [read_budget(row) for row in connection.execute(sa.select(budgets).order_by(budgets.c.dataset_id))]


def find_grant(connection: sa.Connection, dataset_id: int, user_id: int) -> Cap | None:
    """The cap of a user on a dataset; None if the user has no grant of their own and no charge."""
    where = (grants.c.dataset_id == dataset_id, grants.c.user_id == user_id)
    row = connection.execute(sa.select(grants).where(*where)).first()
    return None if row is None else read_cap(row)


def list_grants(connection: sa.Connection, dataset_id: int) -> dict[int, Cap]:
    query = sa.select(grants).where(grants.c.dataset_id == dataset_id).order_by(grants.c.user_id)
    return {row.user_id: read_cap(row) for row in connection.execute(query)}


def put_grant(
    connection: sa.Connection, dataset_id: int, user_id: int, epsilon: float, *, actor: int | None, now: dt.datetime
) -> Cap:
    """Set the cap of one user. What the user has spent stays spent.

    Raises:
        NotFound: ``budget_not_found``. InvalidInput: ``budget_too_small``, or epsilon is out of range.
    """
    audit.lock(connection)
    budget = get_budget(connection, dataset_id)
    before = find_grant(connection, dataset_id, user_id)
    if before is None:
        cap = ledger.open_cap(epsilon, budget.cap.delta)
        key = {"dataset_id": dataset_id, "user_id": user_id, "is_default": False, "granted_at": now}
        connection.execute(grants.insert().values({**key, **asdict(cap), **dict.fromkeys(SUMS, 0.0)}))
    else:
        cap = ledger.change_cap(before, epsilon)
        where = (grants.c.dataset_id == dataset_id, grants.c.user_id == user_id)
        connection.execute(grants.update().where(*where).values(epsilon=cap.epsilon, is_default=False))
    data = {"dataset_id": dataset_id, "user_id": user_id, "cap": asdict(cap)}
    audit.append(connection, "budget_granted", data, actor=actor, now=now)
    return cap


def _prefixed(cap: Cap | None) -> dict[str, Any]:
    values = dict.fromkeys(_CAP_FIELDS) if cap is None else asdict(cap)
    return {f"user_{name}": value for name, value in values.items()}


def _caps_data(cap: Cap, user_cap: Cap | None) -> dict[str, Any]:
    return {"cap": asdict(cap), "user_cap": None if user_cap is None else asdict(user_cap)}


def read_cap(row: sa.Row[Any], prefix: str = "") -> Cap:
    return Cap(**{name: row._mapping[prefix + name] for name in _CAP_FIELDS})


def read_budget(row: sa.Row[Any]) -> Budget:
    user_cap = None if row.user_epsilon is None else read_cap(row, "user_")
    return Budget(row.dataset_id, read_cap(row), user_cap, row.opened_at, row.unit)
