"""Budgets, grants and charges. Each function takes a connection inside a transaction of its caller.

Whatever changes one of them writes an entry of the audit log in the same transaction. `reserve` sums, decides and
inserts under the lock of the audit log and of the dataset's budget, so that charges at once never overspend; it is
durable when the caller's transaction is, and only then may the job start.

Tables of privacy budgets and of the audit log.

    datasets 1--1 budgets 1--n grants           a cap for the dataset, and one for each user of it
                  budgets 1--n charges n--1 curves
    audit_entries, audit_head

A grant carries the sums of its user's charges, so a check takes the same time however many there are. The Renyi curve
of a charge is kept once for all charges of equal events. Users are not referred to: what they spent outlives their
accounts.
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
from pygrid.core.job_spec import Unit
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
    # Of the dataset, not of a version of it. The row is the lock under which its charges are summed.
    sa.Column("dataset_id", sa.ForeignKey("datasets.id"), primary_key=True, autoincrement=False),
    *_cap_columns(),
    # What each user gets who has no grant of their own; NULL: nothing.
    *_cap_columns("user_", nullable=True),
    # What it protects: record, subject or domain. It never changes.
    sa.Column("unit", sa.String(16), nullable=False, server_default="record"),
    sa.Column("opened_at", UtcDateTime, nullable=False),
)


grants = sa.Table(
    "grants",
    metadata,
    sa.Column("dataset_id", sa.ForeignKey("budgets.dataset_id"), primary_key=True, autoincrement=False),
    sa.Column("user_id", sa.Integer, primary_key=True, autoincrement=False),
    *_cap_columns(),
    # Whether it came of what everybody gets, and changes with that.
    sa.Column("is_default", sa.Boolean, nullable=False),
    # The sums of the user's charges that count, at the order of this cap and at that of the dataset's. A check adds up
    # these, not the charges; both change in one transaction, under the lock of the log, and `pygrid audit verify`
    # compares them.
    sa.Column("spent_divergence", sa.Double, nullable=False),
    sa.Column("spent_in_dataset", sa.Double, nullable=False),
    sa.Column("spent_basic_epsilon", sa.Double, nullable=False),
    sa.Column("spent_basic_delta", sa.Double, nullable=False),
    sa.Column("granted_at", UtcDateTime, nullable=False),
)


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
    # The divergence at the order of the dataset's cap, and at that of the user's.
    sa.Column("dataset_cost", sa.Double, nullable=False),
    sa.Column("user_cost", sa.Double, nullable=False),
    sa.Column("basic_epsilon", sa.Double, nullable=False),
    sa.Column("basic_delta", sa.Double, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.Index("ix_charges_dataset_user", "dataset_id", "user_id"),
)


_CAP_FIELDS = tuple(Cap.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class Budget:
    """The ledger of a dataset: its cap, what each user gets who has no grant of their own (None: nothing), and its
    unit.
    """

    dataset_id: int
    cap: Cap
    user_cap: Cap | None
    opened_at: dt.datetime
    unit: Unit = "record"


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


# Budgets and grants


def open_budget(
    connection: sa.Connection,
    dataset_id: int,
    cap: Cap,
    user_cap: Cap | None,
    *,
    unit: Unit = "record",
    actor: int | None,
    now: dt.datetime,
) -> None:
    """Open the ledger of a dataset; both caps keep their orders from now on, and the ledger its unit.

    Raises:
        Conflict: ``budget_exists``.
    """
    audit.lock(connection)
    if find_budget(connection, dataset_id) is not None:
        raise Conflict(
            f"dataset {dataset_id} has a budget already; its epsilon can be changed",
            code=codes.BUDGET_EXISTS,
            dataset_id=dataset_id,
        )
    values = {"dataset_id": dataset_id, "opened_at": now, "unit": unit, **asdict(cap), **_prefixed(user_cap)}
    connection.execute(budgets.insert().values(values))
    data = {"dataset_id": dataset_id, "unit": unit, **_caps_data(cap, user_cap)}
    audit.append(connection, "budget_opened", data, actor=actor, now=now)


def update_budget(
    connection: sa.Connection,
    dataset_id: int,
    *,
    epsilon: float,
    user_epsilon: float | None = None,
    actor: int | None,
    now: dt.datetime,
) -> Budget:
    """Give the dataset another epsilon, and (if given) those without a grant of their own another one; what is spent
    stays.

    Raises:
        NotFound: ``budget_not_found``. InvalidInput: ``budget_too_small`` for the order that the ledger is kept at.
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
    """The ledger of a dataset, if one was opened."""
    row = connection.execute(sa.select(budgets).where(budgets.c.dataset_id == dataset_id)).first()
    return None if row is None else _budget(row)


def get_budget(connection: sa.Connection, dataset_id: int) -> Budget:
    """Raises NotFound: ``budget_not_found``."""
    budget = find_budget(connection, dataset_id)
    if budget is None:
        raise NotFound(
            f"dataset {dataset_id} has no privacy budget", code=codes.BUDGET_NOT_FOUND, dataset_id=dataset_id
        )
    return budget


def list_budgets(connection: sa.Connection) -> list[Budget]:
    """All ledgers, by dataset."""
    return [_budget(row) for row in connection.execute(sa.select(budgets).order_by(budgets.c.dataset_id))]


def put_grant(
    connection: sa.Connection,
    dataset_id: int,
    user_id: int,
    epsilon: float,
    *,
    delta: float | None = None,
    use: ledger.Use = ledger.Use.MIXED,
    actor: int | None,
    now: dt.datetime,
) -> Cap:
    """Let a user have so much of a dataset: a grant of their own, or another epsilon for the one they have.

    Args:
        delta, use: of a new grant; default: the dataset's delta. A grant that exists keeps its delta and order.
    Raises:
        NotFound: ``budget_not_found``. InvalidInput: a value out of range, or too small for the order of the grant.
    """
    audit.lock(connection)
    budget = get_budget(connection, dataset_id)
    existing = find_grant(connection, dataset_id, user_id)
    if existing is None:
        cap = ledger.open_cap(epsilon, budget.cap.delta if delta is None else delta, use)
        _insert_grant(connection, dataset_id, user_id, cap, now, is_default=False)
    else:
        cap = ledger.change_cap(existing, epsilon)
        connection.execute(
            grants.update()
            .where(grants.c.dataset_id == dataset_id, grants.c.user_id == user_id)
            .values(epsilon=cap.epsilon, is_default=False, granted_at=now)
        )
    data = {"dataset_id": dataset_id, "user_id": user_id, "cap": asdict(cap)}
    audit.append(connection, "budget_granted", data, actor=actor, now=now)
    return cap


def find_grant(connection: sa.Connection, dataset_id: int, user_id: int) -> Cap | None:
    """The cap of a user on a dataset, if they were given one or have used what everybody gets."""
    where = (grants.c.dataset_id == dataset_id, grants.c.user_id == user_id)
    row = connection.execute(sa.select(grants).where(*where)).first()
    return None if row is None else _cap(row)


def list_grants(connection: sa.Connection, dataset_id: int) -> dict[int, Cap]:
    """Caps by user id."""
    query = sa.select(grants).where(grants.c.dataset_id == dataset_id).order_by(grants.c.user_id)
    return {row.user_id: _cap(row) for row in connection.execute(query)}


# Charges


def reserve(
    connection: sa.Connection,
    *,
    job_id: str,
    dataset_id: int,
    user_id: int,
    events: Sequence[Event],
    now: dt.datetime,
) -> Accepted | Rejected:
    """Debit a job before it starts, if it fits into the cap of the dataset and into that of the user.

    The job may start once the transaction is committed. Fanout again for the same job debits nothing more and gives the
    same answer, until the charge has ended: then it is `BudgetRefusal.ALREADY_SETTLED`. A refusal leaves nothing
    behind.

    Raises:
        Conflict: ``job_charged_otherwise``: the job has a charge for another dataset, user or other events.
    """
    audit.lock(connection)
    if (charge := find_charge(connection, job_id)) is not None:
        return _repeated(charge, dataset_id, user_id, events)
    row = connection.execute(sa.select(budgets).where(budgets.c.dataset_id == dataset_id).with_for_update()).first()
    if row is None:
        return Rejected(BudgetRefusal.NO_BUDGET)
    budget = _budget(row)
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
        # From here on this user's charges are summed at this order, whatever others are given later.
        _insert_grant(connection, dataset_id, user_id, user_cap, now, is_default=True)
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
    """Take a charge to another state; `pygrid.privacy.ledger` draws which may follow which.

    Of several that try at once exactly one does it. Refund only what provably never started.

    Raises:
        NotFound: ``charge_not_found``. Conflict: ``charge_state``: it is in a state that does not lead there.
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
    """The charge of a job."""
    row = connection.execute(sa.select(*_CHARGE).join_from(charges, curves).where(charges.c.job_id == job_id)).first()
    return None if row is None else _charge(row)


def get_charge(connection: sa.Connection, job_id: str) -> Charge:
    """Raises NotFound: ``charge_not_found``."""
    charge = find_charge(connection, job_id)
    if charge is None:
        raise NotFound(f"job {job_id} was charged nothing", code=codes.CHARGE_NOT_FOUND, job_id=job_id)
    return charge


def list_charges(
    connection: sa.Connection, dataset_id: int, user_id: int | None = None, limit: int = 1000
) -> list[Charge]:
    """Charges of a dataset, or those of one user, newest first."""
    query = sa.select(*_CHARGE).join_from(charges, curves).where(charges.c.dataset_id == dataset_id)
    if user_id is not None:
        query = query.where(charges.c.user_id == user_id)
    return [_charge(row) for row in connection.execute(query.order_by(charges.c.id.desc()).limit(limit))]


def find_mismatch(connection: sa.Connection) -> tuple[int, int] | None:
    """The dataset and user of the first grant whose sums are not those of its charges; None if all are right."""
    sums = {name: sa.func.coalesce(sa.func.sum(charges.c[column]), 0.0) for name, column in _SUMS.items()}
    joined = (charges.c.dataset_id == grants.c.dataset_id) & (charges.c.user_id == grants.c.user_id) & _counts
    query = (
        sa.select(grants, *(value.label(f"true_{name}") for name, value in sums.items()))
        .join_from(grants, charges, joined, isouter=True)
        .group_by(*grants.c)
        .order_by(grants.c.dataset_id, grants.c.user_id)
    )
    for row in connection.execute(query).mappings():
        for name in _SUMS:
            # Up to the rounding of sums in another order.
            if not math.isclose(row[name], row[f"true_{name}"], rel_tol=1e-9, abs_tol=1e-12):
                return row["dataset_id"], row["user_id"]
    return None


def count_charges(connection: sa.Connection, dataset_id: int, user_id: int | None = None) -> int:
    """How many charges count against a dataset, or against one user of it."""
    query = sa.select(sa.func.count()).select_from(charges).where(charges.c.dataset_id == dataset_id, _counts)
    if user_id is not None:
        query = query.where(charges.c.user_id == user_id)
    return int(connection.execute(query).scalar_one())


def get_total(connection: sa.Connection, dataset_id: int, user_id: int | None = None) -> Cost:
    """All that was charged to a dataset, or to one user of it, at every order: what `ledger.epsilon_spent` turns into
    words.
    """
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


_SUMS = {
    "spent_divergence": "user_cost",
    "spent_in_dataset": "dataset_cost",
    "spent_basic_epsilon": "basic_epsilon",
    "spent_basic_delta": "basic_delta",
}
"""Which sum of a grant is of which column of its charges."""
_COUNTED = ("dataset_id", "user_id", *_SUMS.values())

_CHARGE = [
    *(charges.c[name] for name in ("job_id", "dataset_id", "user_id", "state", "created_at", "updated_at")),
    curves.c.events,
]
# All states but the one that gives back: what is unknown counts.
_counts = charges.c.state != ChargeState.REFUNDED.value


def _spent(connection: sa.Connection, dataset_id: int, user_id: int) -> tuple[Spending, Spending]:
    """What the dataset and the user of it have spent, each at the order of its cap."""
    total, here = sa.func.sum, grants.c.dataset_id == dataset_id
    basic = (grants.c.spent_basic_epsilon, grants.c.spent_basic_delta)
    of_dataset = connection.execute(sa.select(total(grants.c.spent_in_dataset), *map(total, basic)).where(here)).one()
    of_user = connection.execute(
        sa.select(grants.c.spent_divergence, *basic).where(here, grants.c.user_id == user_id)
    ).first()
    return Spending(*(value or 0.0 for value in of_dataset)), Spending(*(of_user or ()))


def _count(connection: sa.Connection, charge: Mapping[str, Any], sign: int = 1) -> None:
    """Add a charge to the sums of its user's grant, or take it off."""
    where = (grants.c.dataset_id == charge["dataset_id"], grants.c.user_id == charge["user_id"])
    added = {grants.c[name]: grants.c[name] + sign * charge[column] for name, column in _SUMS.items()}
    connection.execute(grants.update().where(*where).values(added))


def _repeated(charge: Charge, dataset_id: int, user_id: int, events: Sequence[Event]) -> Accepted | Rejected:
    asked = (dataset_id, user_id, encode_events(events))
    if (charge.dataset_id, charge.user_id, encode_events(charge.events)) != asked:
        raise Conflict(
            f"job {charge.job_id} was charged for something else: a changed job needs an id of its own",
            code=codes.JOB_CHARGED_OTHERWISE,
            job_id=charge.job_id,
        )
    if charge.state in (ChargeState.RESERVED, ChargeState.RUNNING):
        return Accepted()
    return Rejected(BudgetRefusal.ALREADY_SETTLED)


def _put_curve(connection: sa.Connection, events: str, curve: Curve) -> int:
    """The id of the row that holds the curve of these events; added if they are new. The lock of the log is held."""
    events_hash = hashlib.sha256(events.encode()).hexdigest()
    found = connection.execute(sa.select(curves.c.id).where(curves.c.events_hash == events_hash)).scalar()
    if found is not None:
        return int(found)
    values = {"events_hash": events_hash, "events": events, "divergences": curve.astype("<f8").tobytes()}
    return int(connection.execute(curves.insert().values(values).returning(curves.c.id)).scalar_one())


def _insert_grant(
    connection: sa.Connection, dataset_id: int, user_id: int, cap: Cap, now: dt.datetime, *, is_default: bool
) -> None:
    values = {"dataset_id": dataset_id, "user_id": user_id, "is_default": is_default, "granted_at": now}
    connection.execute(grants.insert().values({**values, **asdict(cap), **dict.fromkeys(_SUMS, 0.0)}))


def _prefixed(cap: Cap | None) -> dict[str, Any]:
    values = dict.fromkeys(_CAP_FIELDS) if cap is None else asdict(cap)
    return {f"user_{name}": value for name, value in values.items()}


def _caps_data(cap: Cap, user_cap: Cap | None) -> dict[str, Any]:
    return {"cap": asdict(cap), "user_cap": None if user_cap is None else asdict(user_cap)}


def _cap(row: sa.Row[Any], prefix: str = "") -> Cap:
    return Cap(**{name: row._mapping[prefix + name] for name in _CAP_FIELDS})


def _budget(row: sa.Row[Any]) -> Budget:
    user_cap = None if row.user_epsilon is None else _cap(row, "user_")
    return Budget(row.dataset_id, _cap(row), user_cap, row.opened_at, row.unit)


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
