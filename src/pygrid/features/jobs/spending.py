"""How the privacy budgets of datasets were spent: over time, by person, by job; and what each person may spend."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import sqlalchemy as sa

from pygrid import codes
from pygrid.clock import Clock
from pygrid.core.access import DOMAIN_ACCESS, Principal, require
from pygrid.core.datasets import Holding, can_see, check_manage, dataset_not_found
from pygrid.core.jobs import NOBODY, sees_all
from pygrid.errors import InvalidConfig, NotFound
from pygrid.privacy import ledger
from pygrid.privacy.events import check_epsilon
from pygrid.privacy.ledger import Cap, ChargeState, Spending
from pygrid.storage import budgets, spending
from pygrid.storage import datasets as dataset_rows
from pygrid.storage.accounts import find_user_id, list_emails, list_seen_emails
from pygrid.storage.audit import AuditedWrites
from pygrid.storage.jobs import count_undecided
from pygrid.storage.sql.database import Database

NUM_POINTS = 200
MAX_PEOPLE = 200


@dataclass(frozen=True, slots=True)
class BudgetLevel:
    """How much of a budget is spent, in epsilon."""

    dataset: int
    is_whole: bool
    """Whether it is the budget of the dataset; else it is the caller's share."""
    spent: float
    cap: float


@dataclass(frozen=True, slots=True)
class Standing:
    """What a list shows of a dataset, in addition to its description."""

    owner: str
    """E-mail of the data owner; empty: the caller may not see it."""
    num_waiting: int | None
    """Requests of others that wait for a decision; None: the caller may not see them."""
    level: BudgetLevel | None
    """None: no budget is open."""


@dataclass(frozen=True, slots=True)
class PersonSpending:
    """One person's share of a budget, in epsilon."""

    user_id: int
    email: str
    spent: float
    cap: float
    num_jobs: int
    is_default: bool
    """Whether the cap is the one that everybody gets."""


@dataclass(frozen=True, slots=True)
class JobSpending:
    """A charge to a budget, in epsilon."""

    id: int
    job_id: str
    email: str
    state: ChargeState
    epsilon: float
    created_at: dt.datetime


@dataclass(frozen=True, slots=True)
class BudgetHistory:
    """How a budget was spent; for a caller who may not see all of it, only their own share."""

    level: BudgetLevel
    points: list[tuple[dt.datetime, float]]
    """The spent epsilon when the budget was opened, after charges, and now; empty: nothing was spent."""
    jobs: list[JobSpending]
    """Newest first."""
    people: list[PersonSpending] = field(default_factory=list)
    """Those who have spent most come first."""


class SpendingService:
    """The use cases of looking at spent budgets, and of the share of one person."""

    def __init__(self, database: Database, writes: AuditedWrites, clock: Clock) -> None:
        self._database = database
        self._writes = writes
        self._clock = clock

    async def standings(self, principal: Principal, dataset_ids: Collection[int]) -> Mapping[int, Standing]:
        """Return how those of these datasets stand that the caller may see, by dataset."""
        require(principal)

        def load(connection: sa.Connection) -> dict[int, Standing]:
            held = dataset_rows.list_holdings(connection, dataset_ids)
            seen = {key: one for key, one in held.items() if can_see(principal, one)}
            decided = [key for key, one in seen.items() if sees_all(principal, NOBODY, one)]
            waiting = dict.fromkeys(decided, 0) | count_undecided(connection, principal, decided)
            emails = list_seen_emails(connection, principal, {one.created_by for one in seen.values()})
            spent = spending.list_spent(connection, seen, principal.user_id)
            return {
                key: Standing(
                    emails.get(one.created_by, ""),
                    waiting.get(key),
                    _level(principal, spent[key], one) if key in spent else None,
                )
                for key, one in seen.items()
            }

        return await self._database.read(load)

    async def history(
        self,
        principal: Principal,
        dataset_id: int,
        *,
        days: int | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> BudgetHistory:
        """Return how a budget was spent.

        Args:
            days: points of this number of days only; None: all.
            before: only jobs whose charges have a smaller id.
        Raises:
            NotFound: ``dataset_not_found``, ``policy_not_found``: no budget is open.
        """
        require(principal)
        since = None if days is None else self._clock.now() - dt.timedelta(days=days)

        def load(connection: sa.Connection) -> BudgetHistory:
            holding = dataset_rows.get_dataset(connection, dataset_id).holding
            if not can_see(principal, holding):
                raise dataset_not_found(dataset_id)
            account = spending.list_spent(connection, [dataset_id], principal.user_id).get(dataset_id)
            if account is None:
                raise NotFound("this dataset has no open budget", code=codes.POLICY_NOT_FOUND, id=dataset_id)
            level = _level(principal, account, holding)
            user_id, cap = (None, account.budget.cap) if level.is_whole else (principal.user_id, account.user_cap)
            totals = spending.list_totals(connection, dataset_id, user_id=user_id, since=since, num_points=NUM_POINTS)
            points = [(at, _epsilon(total, cap)) for at, total in totals]
            if points and since is None:
                points.insert(0, (account.budget.opened_at, 0.0))
            if points:
                points.append((self._clock.now(), points[-1][1]))
            lines = spending.list_charges(connection, dataset_id, user_id=user_id, before=before, limit=limit)
            emails = list_emails(connection, {one.user_id for one in lines})
            return BudgetHistory(
                level,
                points,
                [
                    JobSpending(
                        one.id, one.job_id, emails[one.user_id], one.state, _epsilon(one.cost, cap), one.created_at
                    )
                    for one in lines
                ],
                _people(connection, dataset_id) if level.is_whole else [],
            )

        return await self._database.read(load)

    async def grant(self, principal: Principal, dataset_id: int, email: str, epsilon: float) -> None:
        """Set the share of one person. What the person has spent stays spent.

        Raises:
            NotFound: ``dataset_not_found``, ``policy_not_found``; ``user_not_found``: the caller sees nobody with this
                e-mail. The error is the same with and without an account.
            Forbidden: ``not_permitted``, ``not_your_dataset``.
            InvalidConfig: ``invalid_policy``: the share is more than the budget. InvalidInput: it is out of range.
        """
        check_epsilon(epsilon)

        def transaction(connection: sa.Connection) -> None:
            check_manage(principal, dataset_rows.get_dataset(connection, dataset_id).holding, dataset_id)
            budget = budgets.find_budget(connection, dataset_id)
            if budget is None:
                raise NotFound("this dataset has no open budget", code=codes.POLICY_NOT_FOUND, id=dataset_id)
            if epsilon > budget.cap.epsilon:
                raise InvalidConfig(
                    f"the share is {epsilon:g}, more than the {budget.cap.epsilon:g} of the whole dataset",
                    code=codes.INVALID_POLICY,
                    field="epsilon",
                )
            user_id = _find_seen(connection, principal, email)
            now = self._clock.now()
            budgets.put_grant(connection, dataset_id, user_id, epsilon, actor=principal.user_id, now=now)

        await self._writes.write(transaction)


def _find_seen(connection: sa.Connection, principal: Principal, email: str) -> int:
    """Return the id of a person whose account the caller may know of.

    An upload of data needs no permission to see accounts, so it must not become a way to find out who has one.

    Raises:
        NotFound: ``user_not_found``.
    """
    if principal.may(DOMAIN_ACCESS.see_users):
        user_id, advice = find_user_id(connection, email), "invite the person first"
    else:
        user_id = spending.find_requester(connection, principal.user_id, email)
        advice = f"after a first request, the person can get a share; {DOMAIN_ACCESS.see_users} allows it before"
    if user_id is None:
        whom = "here" if principal.may(DOMAIN_ACCESS.see_users) else "with a request on your datasets"
        raise NotFound(f"nobody {whom} has the e-mail {email[:80]!r}: {advice}", code=codes.USER_NOT_FOUND)
    return user_id


def _people(connection: sa.Connection, dataset_id: int) -> list[PersonSpending]:
    shares = spending.list_shares(connection, dataset_id, MAX_PEOPLE)
    emails = list_emails(connection, {one.user_id for one in shares})
    return [
        PersonSpending(
            one.user_id,
            emails[one.user_id],
            _epsilon(one.spent, one.cap),
            one.cap.epsilon,
            one.num_charges,
            one.is_default,
        )
        for one in shares
    ]


def _level(principal: Principal, found: spending.SpentBudget, holding: Holding) -> BudgetLevel:
    key = found.budget.dataset_id
    if sees_all(principal, NOBODY, holding):
        return BudgetLevel(
            key, is_whole=True, spent=_epsilon(found.spent, found.budget.cap), cap=found.budget.cap.epsilon
        )
    cap = found.user_cap
    return BudgetLevel(
        key, is_whole=False, spent=_epsilon(found.spent_by_user, cap), cap=0.0 if cap is None else cap.epsilon
    )


def _epsilon(spent: Spending, cap: Cap | None) -> float:
    return 0.0 if cap is None else ledger.in_epsilon(spent, cap)
