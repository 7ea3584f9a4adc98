"""What was spent of budgets: sums by dataset, shares by person, and charges in their order. For people who look at it.

Queries inside a transaction of the caller; `pygrid.storage.budgets` and `pygrid.storage.charges` have the tables.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from dataclasses import dataclass

import sqlalchemy as sa

from pygrid.core.access import Principal
from pygrid.privacy.ledger import Cap, ChargeState, Spending
from pygrid.storage.accounts import key_of_email, users
from pygrid.storage.budgets import Budget, budgets, grants, read_budget, read_cap
from pygrid.storage.charges import charges
from pygrid.storage.datasets import datasets
from pygrid.storage.jobs import jobs, seen_by

_SPENT = (grants.c.spent_basic_epsilon, grants.c.spent_basic_delta)
_counts = charges.c.state != ChargeState.REFUNDED.value


@dataclass(frozen=True, slots=True)
class SpentBudget:
    """A budget, and what was spent of it."""

    budget: Budget
    spent: Spending
    """At the order of the dataset's cap."""
    user_cap: Cap | None
    """The cap of one user; None: the user may spend nothing."""
    spent_by_user: Spending


@dataclass(frozen=True, slots=True)
class Share:
    """One user's part of a budget."""

    user_id: int
    cap: Cap
    spent: Spending
    num_charges: int
    is_default: bool


@dataclass(frozen=True, slots=True)
class ChargeLine:
    id: int
    job_id: str
    user_id: int
    state: ChargeState
    cost: Spending
    created_at: dt.datetime


def list_spent(connection: sa.Connection, dataset_ids: Collection[int], user_id: int) -> dict[int, SpentBudget]:
    """The budgets of those of these datasets that have one, by dataset, with the share of one user."""
    found = connection.execute(sa.select(budgets).where(budgets.c.dataset_id.in_(dataset_ids)))
    opened = {row.dataset_id: read_budget(row) for row in found}
    sums = sa.select(grants.c.dataset_id, *map(sa.func.sum, (grants.c.spent_in_dataset, *_SPENT)))
    total = {
        row[0]: Spending(*row[1:])
        for row in connection.execute(sums.where(grants.c.dataset_id.in_(opened)).group_by(grants.c.dataset_id))
    }
    own = {
        row.dataset_id: row
        for row in connection.execute(
            sa.select(grants).where(grants.c.dataset_id.in_(opened), grants.c.user_id == user_id)
        )
    }
    return {
        dataset_id: SpentBudget(
            budget,
            total.get(dataset_id, Spending()),
            read_cap(own[dataset_id]) if dataset_id in own else budget.user_cap,
            _spent(own[dataset_id]) if dataset_id in own else Spending(),
        )
        for dataset_id, budget in opened.items()
    }


def list_shares(connection: sa.Connection, dataset_id: int, limit: int | None = None) -> list[Share]:
    """The parts of those who have spent something or have a grant, largest spending first."""
    of_user = charges.c.user_id == grants.c.user_id
    num_charges = (
        sa.select(sa.func.count())
        .where(charges.c.dataset_id == dataset_id, of_user, _counts)
        .correlate(grants)
        .scalar_subquery()
    )
    statement = (
        sa.select(grants, num_charges.label("num_charges"))
        .where(grants.c.dataset_id == dataset_id)
        .order_by(grants.c.spent_in_dataset.desc(), grants.c.user_id)
        .limit(limit)
    )
    return [
        Share(row.user_id, read_cap(row), _spent(row), row.num_charges, row.is_default)
        for row in connection.execute(statement)
    ]


def list_user_spending(
    connection: sa.Connection, principal: Principal, user_ids: Collection[int]
) -> list[tuple[int, Cap, Spending]]:
    """User, cap and sum of what these users have spent of each budget that the caller may see."""
    has_spent = sa.or_(grants.c.spent_divergence > 0, grants.c.spent_basic_epsilon > 0)
    where = (grants.c.user_id.in_(user_ids), has_spent, datasets.c.deleted_at.is_(None))
    statement = sa.select(grants).join(datasets, datasets.c.id == grants.c.dataset_id)
    found = connection.execute(statement.where(*where, seen_by(principal, grants.c.user_id)))
    return [(row.user_id, read_cap(row), _spent(row)) for row in found]


def find_requester(connection: sa.Connection, holder_id: int, email: str) -> int | None:
    """The id of the user with this e-mail, if it is the holder, or has a job or a grant on a dataset of the holder.

    One statement in each case, so that the time of the answer does not depend on whether the e-mail has an account.
    """
    held = sa.select(datasets.c.id).where(datasets.c.created_by == holder_id)
    has_asked = sa.exists().where(jobs.c.requested_by == users.c.id, jobs.c.dataset_id.in_(held))
    has_grant = sa.exists().where(grants.c.user_id == users.c.id, grants.c.dataset_id.in_(held))
    known = sa.or_(users.c.id == holder_id, has_asked, has_grant)
    found = connection.execute(sa.select(users.c.id).where(users.c.email_key == key_of_email(email), known)).scalar()
    return None if found is None else int(found)


def list_charges(
    connection: sa.Connection, dataset_id: int, *, user_id: int | None, before: int | None, limit: int
) -> list[ChargeLine]:
    """Charges of a dataset, newest first; refunded ones too.

    Args:
        user_id: only those of this user, at the order of the user's cap; None: all, at the order of the dataset's cap.
    """
    columns = (*(charges.c[name] for name in ("id", "job_id", "user_id", "state")), *_amounts(user_id))
    statement = (
        sa.select(*columns, charges.c.created_at)
        .where(charges.c.dataset_id == dataset_id)
        .order_by(charges.c.id.desc())
        .limit(limit)
    )
    if user_id is not None:
        statement = statement.where(charges.c.user_id == user_id)
    if before is not None:
        statement = statement.where(charges.c.id < before)
    return [
        ChargeLine(row[0], row[1], row[2], ChargeState(row[3]), Spending(*row[4:7]), row[7])
        for row in connection.execute(statement)
    ]


def list_totals(
    connection: sa.Connection, dataset_id: int, *, user_id: int | None, since: dt.datetime | None, num_points: int
) -> list[tuple[dt.datetime, Spending]]:
    """The sum of the charges of a dataset over time, oldest first.

    Args:
        user_id: as for `list_charges`.
        since: only times after this one; the sums count earlier charges too.
        num_points: about the number of points: some of many charges are left out, never the last one.
    """
    where = [charges.c.dataset_id == dataset_id, _counts]
    if user_id is not None:
        where.append(charges.c.user_id == user_id)
    amounts = _amounts(user_id)
    running = sa.select(
        charges.c.id,
        charges.c.created_at,
        *(sa.func.sum(amount).over(order_by=charges.c.id).label(amount.name) for amount in amounts),
    ).where(*where)
    shown = running.subquery()
    rank = sa.func.row_number().over(order_by=shown.c.id.desc()).label("rank")
    numbered = sa.select(shown, rank, sa.func.count().over().label("num_rows"))
    if since is not None:
        numbered = numbered.where(shown.c.created_at >= since)
    points = numbered.subquery()
    step = points.c.num_rows // num_points + 1
    statement = (
        sa.select(points.c.created_at, *(points.c[amount.name] for amount in amounts))
        .where((points.c.rank - 1) % step == 0)
        .order_by(points.c.id)
    )
    return [(row[0], Spending(*row[1:])) for row in connection.execute(statement)]


def _amounts(user_id: int | None) -> tuple[sa.Column[float], ...]:
    divergence = charges.c.dataset_cost if user_id is None else charges.c.user_cost
    return divergence, charges.c.basic_epsilon, charges.c.basic_delta


def _spent(row: sa.Row[tuple[object, ...]]) -> Spending:
    return Spending(row.spent_divergence, row.spent_basic_epsilon, row.spent_basic_delta)
