"""The price of a job before it is requested. Nothing is stored, and no record is read."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from pygrid.attempts import AttemptSketch, Bound
from pygrid.core import job_terms
from pygrid.core.access import Principal, require
from pygrid.core.datasets import Schema, can_see, dataset_not_found
from pygrid.core.job_checks import check_request, read_statistics
from pygrid.core.job_terms import make_terms
from pygrid.core.jobs import NOBODY, sees_all
from pygrid.core.statistic_errors import expected_margin
from pygrid.features.jobs.charges import Account, describe_price, get_account
from pygrid.messages.jobs import JobCost, JobRequest
from pygrid.privacy import ledger
from pygrid.privacy.ledger import Cap, Cost
from pygrid.storage import datasets as rows
from pygrid.storage.budgets import Budget, find_budget
from pygrid.storage.sql.database import Database

MAX_QUOTES = 30
"""Quotes of one account in a minute."""


@dataclass(frozen=True, slots=True)
class UsualShare:
    """What a job would take of the share of a person without a grant of their own."""

    cap: float
    price: float
    num_fitting: int
    """How many such jobs fit if nothing of the share is spent."""


@dataclass(frozen=True)
class Quote:
    """What a job would cost."""

    cost: JobCost | None
    """None: a job without noise. ``fits`` is about the caller's own share alone: the rest of the budget would show what
    others spent."""
    margins: Sequence[float | None]
    """Half of the 95% interval of each statistic; None: not known, or without noise."""
    num_in_share: int | None = None
    """How many such jobs fit into the caller's share now; None: not private."""
    num_in_budget: int | None = None
    """How many fit into the whole budget; None for a caller who may not see it."""
    usual_share: UsualShare | None = None
    """None for a caller who may not see the whole budget."""


class QuotesService:
    """Computes prices from declared and published numbers."""

    def __init__(self, database: Database, attempts: AttemptSketch) -> None:
        self._database = database
        self._attempts = attempts

    async def quote(self, principal: Principal, request: JobRequest) -> Quote:
        """Return the price of a request, and how exact its statistics would be.

        Raises:
            InvalidInput, InvalidConfig: as for submitting. NotFound: ``dataset_not_found``.
            Conflict: ``no_budget``, ``no_grant``. TooManyRequests: ``too_many_attempts``.
        """
        require(principal)
        check_request(request)
        self._attempts.record(Bound(f"quote {principal.user_id}", MAX_QUOTES))

        def load(connection: sa.Connection) -> tuple[Schema, Account | None, Budget | None]:
            dataset = rows.get_dataset(connection, request.dataset)
            if not can_see(principal, dataset.holding):
                raise dataset_not_found(request.dataset)
            version = rows.get_version(connection, dataset.id, request.version)
            account = None if request.privacy is None else get_account(connection, dataset.id, principal.user_id)
            is_all_seen = sees_all(principal, NOBODY, dataset.holding)
            whole = find_budget(connection, dataset.id) if is_all_seen else None
            return rows.get_schema(connection, version.id), account, whole

        schema, account, whole = await self._database.read(load)
        statistics = read_statistics(request, schema) if request.kind == "statistics" else ()
        caps, unit = ((), None) if account is None else (account.caps, account.unit)
        terms = await asyncio.to_thread(make_terms, request, schema, caps, unit)
        if terms is None or account is None:
            return Quote(None, [None] * len(statistics))
        num_units = float(schema.num_subjects or schema.num_records)
        margins = [expected_margin(one, len(statistics), terms, num_units) for one in statistics]
        own = ledger.cost_of(job_terms.events_of(terms))
        return Quote(
            describe_price(terms, account, sees_all=whole is not None, is_own_share=True),
            margins,
            _num_fitting(account.spent_by_user, own, account.user_cap),
            None if whole is None else _num_fitting(account.spent, own, account.cap),
            None if whole is None else _usual_share(own, whole.user_cap),
        )


def _usual_share(each: Cost, cap: Cap | None) -> UsualShare | None:
    if cap is None:
        return None
    return UsualShare(cap.epsilon, ledger.epsilon_spent(each, cap), _num_fitting(ledger.cost_of(()), each, cap) or 0)


def _num_fitting(spent: Cost, each: Cost, cap: Cap | None) -> int | None:
    return 0 if cap is None else ledger.count_fitting(spent.at(cap.order), each.at(cap.order), cap)
