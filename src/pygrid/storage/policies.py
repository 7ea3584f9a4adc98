"""Policies of datasets: the table, and queries inside a transaction of the caller."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from pygrid.core.job_pools import LEASED, LOCAL
from pygrid.privacy.ledger import Use
from pygrid.storage.sql.metadata import UtcDateTime, metadata

policies = sa.Table(
    "policies",
    metadata,
    sa.Column("dataset_id", sa.ForeignKey("datasets.id"), primary_key=True, autoincrement=False),
    sa.Column("auto_approve", sa.Boolean, nullable=False),
    sa.Column("max_epsilon_per_job", sa.Double, nullable=True),
    # The use that the budget was opened for, which determines its order. It never changes.
    sa.Column("use", sa.String(16), nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    # Whether the records may be sent to Workers on other machines.
    sa.Column("allow_remote_workers", sa.Boolean, nullable=False, server_default=sa.false()),
    # Names of the pools in which its jobs may run: ",local,leased,".
    sa.Column("pools", sa.Text, nullable=False, server_default=",local,"),
)


@dataclass(frozen=True)
class Policy:
    """The decisions of a data owner on all jobs of a dataset."""

    auto_approve: bool
    max_epsilon_per_job: float | None
    use: Use
    pools: tuple[str, ...] = (LOCAL,)
    """Names of the pools in which its jobs may run, and so of the machines that its records may be sent to."""


def find_policy(connection: sa.Connection, dataset_id: int) -> Policy | None:
    """The policy of a dataset, if it has one."""
    row = connection.execute(sa.select(policies).where(policies.c.dataset_id == dataset_id)).first()
    return None if row is None else _policy(row)


def put_policy(connection: sa.Connection, dataset_id: int, policy: Policy, now: dt.datetime) -> None:
    values = {
        "auto_approve": policy.auto_approve,
        "max_epsilon_per_job": policy.max_epsilon_per_job,
        "use": policy.use.value,
        "allow_remote_workers": LEASED in policy.pools,
        "pools": f",{','.join(policy.pools)},",
        "updated_at": now,
    }
    changed = connection.execute(policies.update().where(policies.c.dataset_id == dataset_id).values(values)).rowcount
    if not changed:
        connection.execute(policies.insert().values(dataset_id=dataset_id, **values))


def list_allowed_pools(connection: sa.Connection, dataset_id: int) -> tuple[str, ...]:
    """Names of the pools that the policy of a dataset allows; without a policy, only this machine."""
    policy = find_policy(connection, dataset_id)
    return (LOCAL,) if policy is None else policy.pools


def allows_pool(dataset_id: sa.ColumnElement[int], pool: str) -> sa.ColumnElement[bool]:
    """Whether the policy of a dataset allows a pool; without a policy, only this machine."""
    allowed = dataset_id.in_(sa.select(policies.c.dataset_id).where(policies.c.pools.contains(f",{pool},")))
    return sa.or_(allowed, dataset_id.not_in(sa.select(policies.c.dataset_id))) if pool == LOCAL else allowed


def _policy(row: sa.Row[Any]) -> Policy:
    return Policy(row.auto_approve, row.max_epsilon_per_job, Use(row.use), tuple(row.pools.strip(",").split(",")))
