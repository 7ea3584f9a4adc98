"""The check that the same records are in two datasets with privacy budgets only if the owner confirms it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection

import sqlalchemy as sa

from pygrid import codes
from pygrid.core.access import Principal
from pygrid.core.datasets import is_holder
from pygrid.errors import Conflict
from pygrid.storage import audit, budgets, charges
from pygrid.storage.datasets import list_same_content


def confirm_content(
    connection: sa.Connection,
    dataset_id: int,
    hashes: Collection[str],
    *,
    is_confirmed: bool,
    principal: Principal,
    now: dt.datetime,
) -> None:
    """Refuse a second budget for the same records, unless the owner confirms it. The audit log records the second one.

    A deleted dataset counts if anything was charged to it. Datasets of other owners refuse nothing: the refusal would
    tell somebody who guesses the last record of such a dataset that the guess is right.

    Args:
        hashes: content hashes of the records that get the budget of the dataset.
    Raises:
        Conflict: ``content_has_budget``.
    """
    others = {
        other: created_by
        for other, (created_by, is_deleted) in list_same_content(connection, dataset_id, hashes).items()
        if budgets.find_budget(connection, other) is not None
        and not (is_deleted and charges.count_charges(connection, other) == 0)
    }
    if not others:
        return
    if not is_confirmed and any(is_holder(principal, created_by) for created_by in others.values()):
        raise Conflict(
            "the same records are, or were, in another dataset that has a privacy budget, so what both budgets allow "
            "adds up: add a version to that dataset instead, or confirm a second budget with fresh_budget",
            code=codes.CONTENT_HAS_BUDGET,
            dataset_id=dataset_id,
        )
    action = "fresh_budget_confirmed" if is_confirmed else "same_records_budgeted"
    data = {"dataset_id": dataset_id, "others": list(others)}
    audit.append(connection, action, data, actor=principal.user_id, now=now)
