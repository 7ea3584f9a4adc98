"""What jobs take from the budget of a dataset, as the people concerned are told of it."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import sqlalchemy as sa

from pygrid.core import job_terms
from pygrid.core.jobs import Job, JobState
from pygrid.messages.jobs import JobCost
from pygrid.privacy import ledger
from pygrid.privacy.ledger import Accepted, Cap, ChargeState, Cost, Rejected
from pygrid.storage import budgets


@dataclass(frozen=True)
class Account:
    """A dataset's budget, and one user's part in it."""

    cap: Cap
    spent: Cost
    user_cap: Cap | None
    spent_by_user: Cost

    def check(self, cost: Cost) -> Accepted | Rejected:
        """Whether a charge fits now; the one who charges asks again under the lock."""
        if self.user_cap is None:
            return Rejected(ledger.Refusal.NO_GRANT)
        of_dataset = self.spent.at(self.cap.order), self.cap
        of_user = self.spent_by_user.at(self.user_cap.order), self.user_cap
        return ledger.check(of_dataset, of_user, cost)


def find_account(connection: sa.Connection, dataset_id: int, user_id: int) -> Account | None:
    """How the budget stands; None if none is open."""
    budget = budgets.find_budget(connection, dataset_id)
    if budget is None:
        return None
    user_cap = budgets.find_grant(connection, dataset_id, user_id) or budget.user_cap
    spent = budgets.get_total(connection, dataset_id)
    return Account(budget.cap, spent, user_cap, budgets.get_total(connection, dataset_id, user_id))


def needs_account(job: Job) -> bool:
    """Whether a job's cost is told beside how its budget stands: until it is charged."""
    return job.terms is not None and job.state in (JobState.CHECKING, JobState.WAITING, JobState.APPROVED)


def describe_cost(job: Job, account: Account | None, *, sees_all: bool) -> JobCost | None:
    """What a private job costs; and, if ``account`` is given, how that leaves the budget."""
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
    yours_before = yours_after = your_cap = None
    if account.user_cap is not None:
        your_cap = account.user_cap.epsilon
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
    )


def end_charge(connection: sa.Connection, job: Job, state: ChargeState, now: dt.datetime) -> None:
    """Move the charge of a private job that ends. That of a federated one which never began to train is given back."""
    if job.is_federated and budgets.get_charge(connection, job.id).state is ChargeState.RESERVED:
        state = ChargeState.REFUNDED
    budgets.move_charge(connection, job.id, state, now)
