"""The check that the same records are in two datasets with privacy budgets only if the owner confirms it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection

import sqlalchemy as sa

from pygrid import codes
from pygrid.errors import Conflict
from pygrid.storage import audit, budgets, charges
from pygrid.storage.datasets import list_same_content


def confirm_content(
    connection: sa.Connection,
    dataset_id: int,
    hashes: Collection[str],
    *,
    is_confirmed: bool,
    actor: int,
    now: dt.datetime,
) -> None:
    """Refuse a second budget for the same records, unless the owner confirms it, which the audit log records.

    A deleted dataset counts if anything was charged to it.

    Args:
        hashes: content hashes of the records that get the budget of the dataset.
    Raises:
        Conflict: ``content_has_budget``.
    """
    others = [
        other
        for other, is_deleted in list_same_content(connection, dataset_id, hashes).items()
        if budgets.find_budget(connection, other) is not None
        and not (is_deleted and charges.count_charges(connection, other) == 0)
    ]
    if not others:
        return
    if not is_confirmed:
        raise Conflict(
            "the same records are, or were, in another dataset that has a privacy budget, so what both budgets allow "
            "adds up: add a version to that dataset instead, or confirm a second budget with fresh_budget",
            code=codes.CONTENT_HAS_BUDGET,
            dataset_id=dataset_id,
        )
    audit.append(
        connection, "fresh_budget_confirmed", {"dataset_id": dataset_id, "others": others}, actor=actor, now=now
    )
