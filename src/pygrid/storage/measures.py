"""Numbers about what is stored, for monitoring. None of them names a dataset or a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from pygrid.core.jobs import JobState
from pygrid.storage.budgets import budgets, grants, list_budgets
from pygrid.storage.datasets import dataset_versions, datasets
from pygrid.storage.jobs import jobs
from pygrid.storage.workers import workers


@dataclass(frozen=True, slots=True)
class StoreMeasures:
    """What a Domain holds at a moment.

    Attributes:
        num_jobs: by state, ended ones included.
        budget_shares: of each open budget, the part that is spent, 0 to 1.
        num_workers: authorized Workers on other machines.
    """

    num_jobs: Mapping[JobState, int]
    budget_shares: Sequence[float]
    num_workers: int
    num_datasets: int
    dataset_bytes: int


def measure_store(connection: sa.Connection) -> StoreMeasures:
    count = sa.func.count()
    counted = connection.execute(sa.select(jobs.c.state.label("state"), count.label("number")).group_by(jobs.c.state))
    by_state = {row.state: row.number for row in counted}
    kept = sa.select(count, sa.func.coalesce(sa.func.sum(dataset_versions.c.size_bytes), 0)).select_from(
        dataset_versions.join(datasets)
    )
    return StoreMeasures(
        num_jobs={state: by_state.get(state.value, 0) for state in JobState},
        budget_shares=_shares(connection),
        num_workers=connection.execute(sa.select(count).select_from(workers)).scalar_one(),
        num_datasets=connection.execute(
            sa.select(count).select_from(datasets).where(datasets.c.deleted_at.is_(None))
        ).scalar_one(),
        dataset_bytes=int(connection.execute(kept.where(datasets.c.deleted_at.is_(None))).one()[1]),
    )


def _shares(connection: sa.Connection) -> list[float]:
    query = (
        sa.select(
            grants.c.dataset_id,
            sa.func.sum(grants.c.spent_in_dataset).label("divergence"),
            sa.func.sum(grants.c.spent_basic_epsilon).label("basic"),
        )
        .join(budgets, budgets.c.dataset_id == grants.c.dataset_id)
        .group_by(grants.c.dataset_id)
    )
    spent = {row.dataset_id: row for row in connection.execute(query)}
    gone = set(connection.execute(sa.select(datasets.c.id).where(datasets.c.deleted_at.is_not(None))).scalars())
    shares = []
    for budget in list_budgets(connection):
        if budget.dataset_id in gone:
            continue
        row, cap = spent.get(budget.dataset_id), budget.cap
        parts = [] if row is None else [row.divergence / cap.divergence if cap.divergence > 0 else 0.0]
        if row is not None and cap.basic_epsilon > 0:
            parts.append(row.basic / cap.basic_epsilon)
        shares.append(max(parts, default=0.0))
    return shares
