"""Charges of jobs to the privacy budget of a dataset, as its requester and its data owner see them."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import msgspec
import sqlalchemy as sa

from pygrid import codes
from pygrid.core import job_terms
from pygrid.core.job_spec import PrivacyTerms
from pygrid.core.jobs import JobRecord, JobState
from pygrid.errors import Conflict
from pygrid.messages.jobs import JobCost, Unit
from pygrid.privacy import ledger
from pygrid.privacy.ledger import Accepted, Cap, ChargeState, Cost, Rejected
from pygrid.privacy.words import best_guess
from pygrid.storage import budgets, charges
from pygrid.units import decimal


@dataclass(frozen=True)
class Account:
    """A dataset's budget, and one user's part of it."""

    cap: Cap
    spent: Cost
    user_cap: Cap | None
    spent_by_user: Cost
    unit: Unit

    @property
    def caps(self) -> tuple[Cap, ...]:
        """The caps of the budget that a charge must fit."""
        return tuple(cap for cap in (self.cap, self.user_cap) if cap is not None)

    def check_share(self, cost: Cost) -> Accepted | Rejected:
        """Check whether a charge fits the user's part, whatever others spent."""
        if self.user_cap is None:
            return Rejected(ledger.BudgetRefusal.NO_GRANT)
        of_user = self.spent_by_user.at(self.user_cap.order), self.user_cap
        return ledger.check(of_user, of_user, cost)

    def check(self, cost: Cost) -> Accepted | Rejected:
        """Check whether a charge fits now; the transaction that charges checks it again under the lock."""
        if self.user_cap is None:
            return Rejected(ledger.BudgetRefusal.NO_GRANT)
        of_dataset = self.spent.at(self.cap.order), self.cap
        of_user = self.spent_by_user.at(self.user_cap.order), self.user_cap
        return ledger.check(of_dataset, of_user, cost)


def find_account(connection: sa.Connection, dataset_id: int, user_id: int) -> Account | None:
    """Return the present state of the budget; None if none is open."""
    budget = budgets.find_budget(connection, dataset_id)
    if budget is None:
        return None
    user_cap = budgets.find_grant(connection, dataset_id, user_id) or budget.user_cap
    spent = charges.get_total(connection, dataset_id)
    return Account(budget.cap, spent, user_cap, charges.get_total(connection, dataset_id, user_id), budget.unit)


def get_account(connection: sa.Connection, dataset_id: int, user_id: int) -> Account:
    """Return a budget in which the user has a part. Raises Conflict: ``no_budget``, ``no_grant``."""
    account = find_account(connection, dataset_id, user_id)
    if account is None:
        raise Conflict(
            "this dataset has no privacy budget: ask its owner to open one, or submit a non-private job, whose release "
            "a person must approve",
            code=codes.NO_BUDGET,
            dataset_id=dataset_id,
        )
    if account.user_cap is None:
        raise Conflict(
            "you have no part of this dataset's privacy budget: ask its owner for a grant",
            code=codes.NO_GRANT,
            dataset_id=dataset_id,
        )
    return account


def check_fits(connection: sa.Connection, job: JobRecord) -> None:
    """Refuse a private job that the ledger would refuse now, before a person waits for it or approves it.

    Raises:
        Conflict: see `find_shortage`.
    """
    if shortage := find_shortage(connection, job):
        raise shortage


def find_shortage(connection: sa.Connection, job: JobRecord) -> Conflict | None:
    """Return why the ledger would refuse a private job now; None: it fits, or is not private.

    Returns:
        ``budget_exhausted``, with the job's privacy cost and the rest of the requester's part; ``no_budget``: none is
        open.
    """
    if job.terms is None:
        return None
    account = find_account(connection, job.dataset_id, job.requested_by)
    if account is None:
        return Conflict("this dataset has no open privacy budget", code=codes.NO_BUDGET, job_id=job.id)
    cost = ledger.cost_of(job_terms.events_of(job.terms))
    decision = account.check(cost)
    if isinstance(decision, Accepted):
        return None
    if account.user_cap is None or decision.reason is ledger.BudgetRefusal.DATASET_EXHAUSTED:
        # The requester may not see how much others have left.
        whose = "the dataset's privacy budget has too little left for this job"
    else:
        job_cost = ledger.epsilon_spent(cost, account.user_cap)
        left = ledger.epsilon_left(account.spent_by_user, account.user_cap)
        whose = (
            f"this job takes {decimal(job_cost, 3)} of the requester's part of the privacy budget, which has "
            f"{decimal(left, 3)} of {decimal(account.user_cap.epsilon)} left"
        )
    return Conflict(
        f"{whose}: use a smaller epsilon, or ask the data owner for more",
        code=codes.BUDGET_EXHAUSTED,
        reason=decision.reason.value,
    )


def needs_account(job: JobRecord) -> bool:
    """Whether a job's cost is shown with the state of its budget: until it is charged."""
    return job.terms is not None and job.state in (JobState.CHECKING, JobState.WAITING, JobState.APPROVED)


def describe_cost(job: JobRecord, account: Account | None, *, sees_all: bool) -> JobCost | None:
    """Return the privacy cost of a job and, with an ``account``, the budget before and after it."""
    return None if job.terms is None else describe_price(job.terms, account, sees_all=sees_all)


def describe_price(
    terms: PrivacyTerms, account: Account | None, *, sees_all: bool, is_own_share: bool = False
) -> JobCost:
    """Return the privacy cost of terms and, with an ``account``, the budget before and after it.

    Args:
        is_own_share: ``fits`` is about the user's part alone.
    """
    epsilon = job_terms.epsilon_alone(terms)
    cost = JobCost(
        epsilon=epsilon,
        delta=terms.delta,
        noise_multiplier=terms.noise_multiplier,
        rounds=terms.rounds * terms.cycles,
        certainty=best_guess(epsilon),
    )
    if account is None:
        return cost
    own = ledger.cost_of(job_terms.events_of(terms))
    cost = msgspec.structs.replace(
        cost, fits=isinstance(account.check_share(own) if is_own_share else account.check(own), Accepted)
    )
    if account.user_cap is not None:
        cost = msgspec.structs.replace(
            cost,
            your_cap=account.user_cap.epsilon,
            your_price=ledger.epsilon_spent(own, account.user_cap),
            yours_before=ledger.epsilon_spent(account.spent_by_user, account.user_cap),
            yours_after=ledger.epsilon_spent(job_terms.add(account.spent_by_user, own), account.user_cap),
        )
    if not sees_all:
        return cost
    return msgspec.structs.replace(
        cost,
        cap=account.cap.epsilon,
        price=ledger.epsilon_spent(own, account.cap),
        spent_before=ledger.epsilon_spent(account.spent, account.cap),
        spent_after=ledger.epsilon_spent(job_terms.add(account.spent, own), account.cap),
    )


def end_charge(connection: sa.Connection, job: JobRecord, state: ChargeState, now: dt.datetime) -> None:
    """Move the charge of a job that ends, if it has one; it is refunded if no Worker ever received the job.

    A private job has a charge once it was started, also while it is approved again because no Worker began it.
    """
    if not job.is_private or (job.state is not JobState.RUNNING and charges.find_charge(connection, job.id) is None):
        return
    if charges.get_charge(connection, job.id).state is ChargeState.RESERVED:
        state = ChargeState.REFUNDED
    charges.move_charge(connection, job.id, state, now)
