"""Charges of jobs to the privacy budget of a dataset, as its requester and its data owner see them."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import sqlalchemy as sa

from pygrid import codes
from pygrid.core import job_terms
from pygrid.core.jobs import JobRecord, JobState
from pygrid.errors import Conflict
from pygrid.messages.jobs import JobCost, Unit
from pygrid.privacy import ledger
from pygrid.privacy.ledger import Accepted, Cap, ChargeState, Cost, Rejected
from pygrid.storage import budgets, charges


@dataclass(frozen=True)
class Account:
    """A dataset's budget, and one user's part of it."""

    cap: Cap
    spent: Cost
    user_cap: Cap | None
    spent_by_user: Cost
    unit: Unit

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
            f"this job takes {job_cost:.3g} of the requester's part of the privacy budget, which has {left:.3g} of "
            f"{account.user_cap.epsilon:g} left"
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
    if job.terms is None:
        return None
    epsilon = job_terms.epsilon_alone(job.terms)
    cost = JobCost(
        epsilon=epsilon,
        delta=job.terms.delta,
        noise_multiplier=job.terms.noise_multiplier,
        rounds=job.terms.rounds * job.terms.cycles,
        certainty=ledger.best_guess(epsilon),
    )
    if account is None:
        return cost
    own = ledger.cost_of(job_terms.events_of(job.terms))
    yours_before = yours_after = your_cap = your_price = None
    if account.user_cap is not None:
        your_cap = account.user_cap.epsilon
        your_price = ledger.epsilon_spent(own, account.user_cap)
        yours_before = ledger.epsilon_spent(account.spent_by_user, account.user_cap)
        yours_after = ledger.epsilon_spent(job_terms.add(account.spent_by_user, own), account.user_cap)
    return JobCost(
        epsilon=epsilon,
        delta=cost.delta,
        noise_multiplier=cost.noise_multiplier,
        rounds=cost.rounds,
        certainty=cost.certainty,
        fits=isinstance(account.check(own), Accepted),
        yours_before=yours_before,
        yours_after=yours_after,
        your_cap=your_cap,
        spent_before=ledger.epsilon_spent(account.spent, account.cap) if sees_all else None,
        spent_after=ledger.epsilon_spent(job_terms.add(account.spent, own), account.cap) if sees_all else None,
        cap=account.cap.epsilon if sees_all else None,
        price=ledger.epsilon_spent(own, account.cap) if sees_all else None,
        your_price=your_price,
    )


def end_charge(connection: sa.Connection, job: JobRecord, state: ChargeState, now: dt.datetime) -> None:
    """Move the charge of a private job that ends; it is refunded if no Worker ever received the job."""
    if charges.get_charge(connection, job.id).state is ChargeState.RESERVED:
        state = ChargeState.REFUNDED
    charges.move_charge(connection, job.id, state, now)
