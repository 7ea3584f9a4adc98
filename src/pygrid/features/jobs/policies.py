"""Policies that a data owner sets: the privacy budget of a dataset, and the jobs that need no decision of a person."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import msgspec
import sqlalchemy as sa

from pygrid import codes
from pygrid.clock import Clock
from pygrid.core.access import Principal
from pygrid.core.datasets import Schema, can_see, check_manage, dataset_not_found
from pygrid.core.job_pools import BUILT_IN, LEASED, read_allowed
from pygrid.core.job_terms import unit_of
from pygrid.core.jobs import NOBODY, sees_all
from pygrid.core.preconditions import ANY, Precondition
from pygrid.errors import Conflict, InvalidConfig, InvalidInput, NotFound
from pygrid.features.jobs.charges import find_account
from pygrid.messages.jobs import BudgetInfo, PolicyInfo, Unit
from pygrid.privacy import ledger
from pygrid.privacy.events import check_epsilon
from pygrid.privacy.ledger import Use
from pygrid.storage import audit, budgets, spending
from pygrid.storage import datasets as dataset_rows
from pygrid.storage import policies as policy_rows
from pygrid.storage.accounts import list_emails
from pygrid.storage.audit import AuditedWrites
from pygrid.storage.budgets import Budget
from pygrid.storage.content import confirm_content
from pygrid.storage.datasets import DatasetRow
from pygrid.storage.policies import Policy
from pygrid.storage.sql.database import Database
from pygrid.units import decimal


@dataclass(frozen=True)
class PoliciesService:
    """The use cases of policies and budgets."""

    database: Database
    writes: AuditedWrites
    clock: Clock
    pools: tuple[str, ...] = BUILT_IN
    """Names of the pools of this Domain."""

    async def get(self, principal: Principal, dataset_id: int) -> PolicyInfo:
        """Return the policy of a dataset that the caller may see.

        Raises:
            NotFound: ``dataset_not_found``; ``policy_not_found``: without a policy, private jobs are refused.
        """

        def load(connection: sa.Connection) -> PolicyInfo:
            _get_seen(connection, principal, dataset_id)
            return _policy(connection, dataset_id)

        return await self.database.read(load)

    async def put(
        self, principal: Principal, dataset_id: int, wanted: PolicyInfo, precondition: Precondition = ANY
    ) -> PolicyInfo:
        """Set the policy of a dataset.

        The first policy opens the budget, whose delta, use and unit never change. What is spent stays spent.

        Raises:
            NotFound: ``dataset_not_found``. Forbidden: ``not_permitted``, ``not_your_dataset``.
            InvalidInput: a number is out of range; ``invalid_delta``: delta is not well below 1 / records, when the
                budget is opened or raised; ``pool_unknown``; ``invalid_policy``.
            Conflict: ``budget_fixed``: another delta, use or unit; ``content_has_budget``: another dataset with the
                same content has a budget, and ``fresh_budget`` is not set.
            PreconditionFailed: the policy has changed since the caller read it.
        """
        for epsilon in (wanted.epsilon, wanted.epsilon_per_user, wanted.max_epsilon_per_job):
            if epsilon is not None:
                check_epsilon(epsilon)
        if wanted.epsilon_per_user > wanted.epsilon:
            raise InvalidConfig(
                f"epsilon_per_user is {wanted.epsilon_per_user}, more than the {wanted.epsilon} of the whole dataset",
                code=codes.INVALID_POLICY,
            )
        use = Use(wanted.use)
        pools = read_allowed(wanted.pools, wanted.allow_remote_workers, self.pools)

        def transaction(connection: sa.Connection) -> PolicyInfo:
            now = self.clock.now()
            check_manage(principal, dataset_rows.get_dataset(connection, dataset_id).holding, dataset_id)
            precondition.check(_find_policy(connection, dataset_id))
            budget = budgets.find_budget(connection, dataset_id)
            if budget is None:
                self._open(connection, principal, dataset_id, wanted, now)
            else:
                self._change(connection, principal, budget, wanted)
            policy = Policy(wanted.auto_approve, wanted.max_epsilon_per_job, use, pools)
            policy_rows.put_policy(connection, dataset_id, policy, now)
            data = {
                "dataset_id": dataset_id,
                "policy": msgspec.to_builtins(msgspec.structs.replace(wanted, pools=pools)),
            }
            audit.append(connection, "policy_changed", data, actor=principal.user_id, now=now)
            return _policy(connection, dataset_id)

        return await self.writes.write(transaction)

    def _open(
        self, connection: sa.Connection, principal: Principal, dataset_id: int, wanted: PolicyInfo, now: dt.datetime
    ) -> None:
        version = dataset_rows.get_version(connection, dataset_id)
        ledger.check_delta_for(wanted.delta, version.num_records)
        confirm_content(
            connection,
            dataset_id,
            dataset_rows.list_content_hashes(connection, dataset_id),
            is_confirmed=wanted.fresh_budget,
            principal=principal,
            now=now,
        )
        unit = _unit_to_open(wanted.unit, dataset_rows.get_schema(connection, version.id))
        use = Use(wanted.use)
        cap = ledger.open_cap(wanted.epsilon, wanted.delta, use)
        user_cap = ledger.open_cap(wanted.epsilon_per_user, wanted.delta, use)
        budgets.open_budget(connection, Budget(dataset_id, cap, user_cap, now, unit), actor=principal.user_id)

    def _change(self, connection: sa.Connection, principal: Principal, budget: Budget, wanted: PolicyInfo) -> None:
        policy = policy_rows.find_policy(connection, budget.dataset_id)
        if wanted.unit not in (None, budget.unit):
            raise Conflict(
                f"the budget was opened to protect the unit {budget.unit!r}, which never changes; omit unit",
                code=codes.BUDGET_FIXED,
                dataset_id=budget.dataset_id,
            )
        if wanted.delta != budget.cap.delta or (policy is not None and policy.use.value != wanted.use):
            raise Conflict(
                f"the budget was opened for delta {decimal(budget.cap.delta)}"
                f"{f' and {policy.use}' if policy is not None else ''}, which never change; only "
                "epsilon can be changed",
                code=codes.BUDGET_FIXED,
                dataset_id=budget.dataset_id,
            )
        before = None if budget.user_cap is None else budget.user_cap.epsilon
        if wanted.epsilon > budget.cap.epsilon or wanted.epsilon_per_user > (before or 0.0):
            num_records = dataset_rows.get_version(connection, budget.dataset_id).num_records
            ledger.check_delta_for(budget.cap.delta, num_records)
        if (wanted.epsilon, wanted.epsilon_per_user) != (budget.cap.epsilon, before):
            budgets.update_budget(
                connection,
                budget.dataset_id,
                epsilon=wanted.epsilon,
                user_epsilon=wanted.epsilon_per_user,
                actor=principal.user_id,
                now=self.clock.now(),
            )

    async def budget(self, principal: Principal, dataset_id: int) -> BudgetInfo:
        """Return the spent part of the caller's share of a budget; for the data owner, also of the whole budget.

        Raises:
            NotFound: ``dataset_not_found``, ``policy_not_found``.
        """

        def load(connection: sa.Connection) -> BudgetInfo:
            dataset = _get_seen(connection, principal, dataset_id)
            policy = _policy(connection, dataset_id)
            account = find_account(connection, dataset_id, principal.user_id)
            assert account is not None
            user_cap = account.user_cap
            info = BudgetInfo(
                dataset=dataset_id,
                policy=policy,
                spent=None,
                yours=0.0 if user_cap is None else ledger.epsilon_spent(account.spent_by_user, user_cap),
                your_cap=0.0 if user_cap is None else user_cap.epsilon,
                your_left=0.0 if user_cap is None else ledger.epsilon_left(account.spent_by_user, user_cap),
            )
            if not sees_all(principal, NOBODY, dataset.holding):
                return info
            shares = spending.list_shares(connection, dataset_id)
            emails = list_emails(connection, {one.user_id for one in shares})
            users = {emails[one.user_id]: ledger.in_epsilon(one.spent, one.cap) for one in shares}
            spent, left = (count(account.spent, account.cap) for count in (ledger.epsilon_spent, ledger.epsilon_left))
            return msgspec.structs.replace(info, spent=spent, left=left, users=users)

        return await self.database.read(load)


def _unit_to_open(wanted: Unit | None, schema: Schema) -> Unit:
    derived = unit_of(schema)
    if wanted in (None, derived):
        return derived
    if wanted == "domain":
        return "domain"
    why = "has a subject column, so one person can have several records"
    if derived == "record":
        why = "has no subject column"
    raise InvalidInput(
        f"the unit is {wanted!r}, but the dataset {why}: use {derived!r}, or 'domain', which protects nobody within "
        "the Domain",
        code=codes.INVALID_POLICY,
        unit=derived,
    )


def _policy(connection: sa.Connection, dataset_id: int) -> PolicyInfo:
    found = _find_policy(connection, dataset_id)
    if found is None:
        raise NotFound(
            "this dataset has no policy: every job waits for a person, and private jobs are refused",
            code=codes.POLICY_NOT_FOUND,
            id=dataset_id,
        )
    return found


def _find_policy(connection: sa.Connection, dataset_id: int) -> PolicyInfo | None:
    budget, policy = budgets.find_budget(connection, dataset_id), policy_rows.find_policy(connection, dataset_id)
    if budget is None or policy is None:
        return None
    return PolicyInfo(
        epsilon=budget.cap.epsilon,
        delta=budget.cap.delta,
        epsilon_per_user=0.0 if budget.user_cap is None else budget.user_cap.epsilon,
        auto_approve=policy.auto_approve,
        max_epsilon_per_job=policy.max_epsilon_per_job,
        use=policy.use.value,
        allow_remote_workers=LEASED in policy.pools,
        pools=policy.pools,
        unit=budget.unit,
    )


def _get_seen(connection: sa.Connection, principal: Principal, dataset_id: int) -> DatasetRow:
    dataset = dataset_rows.get_dataset(connection, dataset_id)
    if not can_see(principal, dataset.holding):
        raise dataset_not_found(dataset_id)
    return dataset
