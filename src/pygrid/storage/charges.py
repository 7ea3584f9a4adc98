"""Charges to privacy budgets. Each function takes a connection inside a transaction of its caller.

    budgets 1--n charges n--1 curves

`reserve` sums, decides and inserts under the lock of the audit log and of the dataset's budget, so concurrent charges
never overspend. A charge is durable when the caller's transaction is, and only then may the job start. The Renyi curve
of a charge is kept once for all charges of equal events. Each change writes an entry of the audit log in the same
transaction.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa

from pygrid import codes
from pygrid.errors import Conflict, NotFound
from pygrid.privacy import ledger
from pygrid.privacy.accountants import Curve, zero_curve
from pygrid.privacy.events import Event, decode_events, encode_events
from pygrid.privacy.ledger import (
    TRANSITIONS,
    Accepted,
    BudgetRefusal,
    Cap,
    ChargeState,
    Cost,
    Rejected,
    Spending,
    cost_of,
)
from pygrid.storage import audit
from pygrid.storage.budgets import SUMS, find_grant, grants, lock_budget
from pygrid.storage.sql.metadata import UtcDateTime, metadata

curves = sa.Table(
    "curves",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    # SHA-256 of the events' canonical JSON.
    sa.Column("events_hash", sa.String(64), nullable=False, unique=True),
    sa.Column("events", sa.Text, nullable=False),
    # 156 little-endian float64, one for each of `pygrid.privacy.accountants.ORDERS`.
    sa.Column("divergences", sa.LargeBinary, nullable=False),
)

charges = sa.Table(
    "charges",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("job_id", sa.String(64), nullable=False, unique=True),
    sa.Column("dataset_id", sa.ForeignKey("budgets.dataset_id"), nullable=False),
    sa.Column("user_id", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("curve_id", sa.ForeignKey("curves.id"), nullable=False),
    # The divergence at the order of the dataset's cap, and at the order of the user's cap.
    sa.Column("dataset_cost", sa.Double, nullable=False),
    sa.Column("user_cost", sa.Double, nullable=False),
    sa.Column("basic_epsilon", sa.Double, nullable=False),
    sa.Column("basic_delta", sa.Double, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.Index("ix_charges_dataset_user", "dataset_id", "user_id"),
)

_COUNTED = ("dataset_id", "user_id", *SUMS.values())

_CHARGE = [
    *(charges.c[name] for name in ("job_id", "dataset_id", "user_id", "state", "created_at", "updated_at")),
    curves.c.events,
]
# All states except refunded: a charge whose job has an unknown outcome counts.
_counts = charges.c.state != ChargeState.REFUNDED.value


@dataclass(frozen=True, slots=True)
class Charge:
    """What a job takes from a budget."""

    job_id: str
    dataset_id: int
    user_id: int
    state: ChargeState
    events: tuple[Event, ...]
    created_at: dt.datetime
    updated_at: dt.datetime


def reserve(
    connection: sa.Connection, *, job_id: str, dataset_id: int, user_id: int, events: Sequence[Event], now: dt.datetime
) -> Accepted | Rejected:
    """Debit a job before it starts, if it fits into the cap of the dataset and into that of the user.

    The job may start once the transaction is committed. A second call for the same job debits nothing and returns the
    same answer, until the charge has ended: then it returns `BudgetRefusal.ALREADY_SETTLED`. A refusal leaves nothing
    behind.

    Raises:
        Conflict: ``job_charged_otherwise``: the job has a charge for another dataset, user or other events.
    """
    audit.lock(connection)
    if (charge := find_charge(connection, job_id)) is not None:
        return _repeated(charge, dataset_id, user_id, events)
    budget = lock_budget(connection, dataset_id)
    if budget is None:
        return Rejected(BudgetRefusal.NO_BUDGET)
    granted = find_grant(connection, dataset_id, user_id)
    user_cap = granted or budget.user_cap
    if user_cap is None:
        return Rejected(BudgetRefusal.NO_GRANT)
    cost = cost_of(events)
    of_dataset, of_user = _spent(connection, dataset_id, user_id)
    decision = ledger.check((of_dataset, budget.cap), (of_user, user_cap), cost)
    if isinstance(decision, Rejected):
        return decision
    if granted is None:
        # From here on this user's charges are summed at this order, also if the cap for every user changes later.
        _insert_default_grant(connection, dataset_id, user_id, user_cap, now)
    in_dataset, in_user = cost.at(budget.cap.order), cost.at(user_cap.order)
    text = encode_events(events)
    values = {
        "job_id": job_id,
        "dataset_id": dataset_id,
        "user_id": user_id,
        "state": ChargeState.RESERVED.value,
        "curve_id": _put_curve(connection, text, cost.curve),
        "dataset_cost": in_dataset.divergence,
        "user_cost": in_user.divergence,
        "basic_epsilon": cost.basic_epsilon,
        "basic_delta": cost.basic_delta,
        "created_at": now,
        "updated_at": now,
    }
    connection.execute(charges.insert().values(values))
    _count(connection, values)
    data = {"job_id": job_id, "dataset_id": dataset_id, "user_id": user_id, "events": text}
    audit.append(connection, "budget_reserved", data, actor=user_id, now=now)
    return decision


def move_charge(connection: sa.Connection, job_id: str, state: ChargeState, now: dt.datetime) -> None:
    """Take a charge to another state; `pygrid.privacy.ledger` draws the transitions.

    Of several concurrent calls exactly one succeeds. Refund only a job that provably never started.

    Raises:
        NotFound: ``charge_not_found``. Conflict: ``charge_state``: there is no transition from its present state.
    """
    audit.lock(connection)
    before = [from_state.value for from_state, following in TRANSITIONS.items() if state in following]
    where = (charges.c.job_id == job_id, charges.c.state.in_(before))
    update = charges.update().where(*where).values(state=state.value, updated_at=now)
    moved = connection.execute(update.returning(*(charges.c[name] for name in _COUNTED))).first()
    if moved is None:
        charge = get_charge(connection, job_id)
        raise Conflict(
            f"the charge of job {job_id} is {charge.state}, so it cannot become {state}",
            code=codes.CHARGE_STATE,
            job_id=job_id,
            state=charge.state.value,
        )
    if state is ChargeState.REFUNDED:
        _count(connection, moved._asdict(), sign=-1)
    audit.append(connection, f"charge_{state.value}", {"job_id": job_id}, actor=None, now=now)


def find_charge(connection: sa.Connection, job_id: str) -> Charge | None:
    row = connection.execute(sa.select(*_CHARGE).join_from(charges, curves).where(charges.c.job_id == job_id)).first()
    return None if row is None else _charge(row)


def get_charge(connection: sa.Connection, job_id: str) -> Charge:
    """The charge of a job. Raises NotFound: ``charge_not_found``."""
    charge = find_charge(connection, job_id)
    if charge is None:
        raise NotFound(f"job {job_id} was charged nothing", code=codes.CHARGE_NOT_FOUND, job_id=job_id)
    return charge


def find_mismatch(connection: sa.Connection) -> tuple[int, int] | None:
    """Dataset and user of the first grant whose sums differ from its charges; None if all are equal."""
    sums = {name: sa.func.coalesce(sa.func.sum(charges.c[column]), 0.0) for name, column in SUMS.items()}
    joined = (charges.c.dataset_id == grants.c.dataset_id) & (charges.c.user_id == grants.c.user_id) & _counts
    query = (
        sa.select(grants, *(value.label(f"true_{name}") for name, value in sums.items()))
        .join_from(grants, charges, joined, isouter=True)
        .group_by(*grants.c)
        .order_by(grants.c.dataset_id, grants.c.user_id)
    )
    for row in connection.execute(query).mappings():
        for name in SUMS:
            # Sums in another order are rounded differently.
            if not math.isclose(row[name], row[f"true_{name}"], rel_tol=1e-9, abs_tol=1e-12):
                return row["dataset_id"], row["user_id"]
    return None


def count_charges(connection: sa.Connection, dataset_id: int, user_id: int | None = None) -> int:
    """Number of charges that count against a dataset, or against one user of it."""
    query = sa.select(sa.func.count()).select_from(charges).where(charges.c.dataset_id == dataset_id, _counts)
    if user_id is not None:
        query = query.where(charges.c.user_id == user_id)
    return int(connection.execute(query).scalar_one())


def get_total(connection: sa.Connection, dataset_id: int, user_id: int | None = None) -> Cost:
    """The sum of all charges to a dataset, or to one user of it, at every order; input of `ledger.epsilon_spent`."""
    query = (
        sa.select(
            curves.c.divergences,
            sa.func.count().label("times"),
            sa.func.sum(charges.c.basic_epsilon).label("basic_epsilon"),
            sa.func.sum(charges.c.basic_delta).label("basic_delta"),
        )
        .join_from(charges, curves)
        .where(charges.c.dataset_id == dataset_id, _counts)
        .group_by(curves.c.id, curves.c.divergences)
    )
    if user_id is not None:
        query = query.where(charges.c.user_id == user_id)
    total, basic_epsilon, basic_delta = zero_curve(), 0.0, 0.0
    for row in connection.execute(query):
        total += row.times * np.frombuffer(row.divergences, "<f8")
        basic_epsilon += row.basic_epsilon
        basic_delta += row.basic_delta
    return Cost(total, basic_epsilon, basic_delta)


def _spent(connection: sa.Connection, dataset_id: int, user_id: int) -> tuple[Spending, Spending]:
    """What the dataset and the user have spent, each at the order of its cap."""
    total, here = sa.func.sum, grants.c.dataset_id == dataset_id
    basic = (grants.c.spent_basic_epsilon, grants.c.spent_basic_delta)
    of_dataset = connection.execute(sa.select(total(grants.c.spent_in_dataset), *map(total, basic)).where(here)).one()
    of_user = connection.execute(
        sa.select(grants.c.spent_divergence, *basic).where(here, grants.c.user_id == user_id)
    ).first()
    return Spending(*(value or 0.0 for value in of_dataset)), Spending(*(of_user or ()))


def _count(connection: sa.Connection, charge: Mapping[str, Any], sign: int = 1) -> None:
    """Add a charge to the sums of its user's grant; subtract it if ``sign`` is -1."""
    where = (grants.c.dataset_id == charge["dataset_id"], grants.c.user_id == charge["user_id"])
    added = {grants.c[name]: grants.c[name] + sign * charge[column] for name, column in SUMS.items()}
    connection.execute(grants.update().where(*where).values(added))


def _repeated(charge: Charge, dataset_id: int, user_id: int, events: Sequence[Event]) -> Accepted | Rejected:
    asked = (dataset_id, user_id, encode_events(events))
    if (charge.dataset_id, charge.user_id, encode_events(charge.events)) != asked:
        raise Conflict(
            f"job {charge.job_id} has a charge for other events, another dataset or user; a changed job needs a new id",
            code=codes.JOB_CHARGED_OTHERWISE,
            job_id=charge.job_id,
        )
    if charge.state in (ChargeState.RESERVED, ChargeState.RUNNING):
        return Accepted()
    return Rejected(BudgetRefusal.ALREADY_SETTLED)


def _put_curve(connection: sa.Connection, events: str, curve: Curve) -> int:
    """The id of the row with the curve of these events; new events get a row. The caller holds the lock of the log."""
    events_hash = hashlib.sha256(events.encode()).hexdigest()
    found = connection.execute(sa.select(curves.c.id).where(curves.c.events_hash == events_hash)).scalar()
    if found is not None:
        return int(found)
    values = {"events_hash": events_hash, "events": events, "divergences": curve.astype("<f8").tobytes()}
    return int(connection.execute(curves.insert().values(values).returning(curves.c.id)).scalar_one())


def _insert_default_grant(connection: sa.Connection, dataset_id: int, user_id: int, cap: Cap, now: dt.datetime) -> None:
    values = {"dataset_id": dataset_id, "user_id": user_id, "is_default": True, "granted_at": now}
    connection.execute(grants.insert().values({**values, **asdict(cap), **dict.fromkeys(SUMS, 0.0)}))


def _charge(row: sa.Row[Any]) -> Charge:
    return Charge(
        row.job_id,
        row.dataset_id,
        row.user_id,
        ChargeState(row.state),
        decode_events(row.events),
        row.created_at,
        row.updated_at,
    )
