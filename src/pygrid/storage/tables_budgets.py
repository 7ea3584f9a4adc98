"""Tables of privacy budgets and of the audit log.

    datasets 1--1 budgets 1--n grants           a cap for the dataset, and one for each user of it
                  budgets 1--n charges n--1 curves
    audit_entries, audit_head

A grant carries the sums of its user's charges, so a check takes the same time however many there are. The Renyi curve of a
charge is kept once for all charges of equal events. Users are not referred to: what they spent outlives their accounts.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from pygrid.storage.schema import UtcDateTime, metadata


def _cap_columns(prefix: str = "", *, nullable: bool = False) -> list[sa.Column[Any]]:
    doubles = ("epsilon", "delta", "basic_epsilon", "basic_delta")
    return [
        *(sa.Column(prefix + name, sa.Double, nullable=nullable) for name in doubles),
        sa.Column(prefix + "order", sa.Integer, nullable=nullable),
    ]


budgets = sa.Table(
    "budgets",
    metadata,
    # Of the dataset, not of a version of it. The row is the lock under which its charges are summed.
    sa.Column("dataset_id", sa.ForeignKey("datasets.id"), primary_key=True, autoincrement=False),
    *_cap_columns(),
    # What each user gets who has no grant of their own; NULL: nothing.
    *_cap_columns("user_", nullable=True),
    # What it protects: record, subject or domain. It never changes.
    sa.Column("unit", sa.String(16), nullable=False, server_default="record"),
    sa.Column("opened_at", UtcDateTime, nullable=False),
)

grants = sa.Table(
    "grants",
    metadata,
    sa.Column("dataset_id", sa.ForeignKey("budgets.dataset_id"), primary_key=True, autoincrement=False),
    sa.Column("user_id", sa.Integer, primary_key=True, autoincrement=False),
    *_cap_columns(),
    # Whether it came of what everybody gets, and changes with that.
    sa.Column("is_default", sa.Boolean, nullable=False),
    # The sums of the user's charges that count, at the order of this cap and at that of the dataset's. A check adds up these,
    # not the charges; both change in one transaction, under the lock of the log, and `pygrid audit verify` compares them.
    sa.Column("spent_divergence", sa.Double, nullable=False),
    sa.Column("spent_in_dataset", sa.Double, nullable=False),
    sa.Column("spent_basic_epsilon", sa.Double, nullable=False),
    sa.Column("spent_basic_delta", sa.Double, nullable=False),
    sa.Column("granted_at", UtcDateTime, nullable=False),
)

curves = sa.Table(
    "curves",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    # SHA-256 of the events' canonical JSON.
    sa.Column("events_hash", sa.String(64), nullable=False, unique=True),
    sa.Column("events", sa.Text, nullable=False),
    # 156 little-endian float64, one for each of `pygrid.privacy.accountants.ORDERS`.
    sa.Column("divergences", sa.LargeBinary, nullable=False),
)

charges = sa.Table(
    "charges",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("job_id", sa.String(64), nullable=False, unique=True),
    sa.Column("dataset_id", sa.ForeignKey("budgets.dataset_id"), nullable=False),
    sa.Column("user_id", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("curve_id", sa.ForeignKey("curves.id"), nullable=False),
    # The divergence at the order of the dataset's cap, and at that of the user's.
    sa.Column("dataset_cost", sa.Double, nullable=False),
    sa.Column("user_cost", sa.Double, nullable=False),
    sa.Column("basic_epsilon", sa.Double, nullable=False),
    sa.Column("basic_delta", sa.Double, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.Index("ix_charges_dataset_user", "dataset_id", "user_id"),
)

audit_entries = sa.Table(
    "audit_entries",
    metadata,
    # 1, 2, 3, ...: given by the log itself, without gaps.
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    # Canonical JSON, exactly the bytes that were hashed.
    sa.Column("entry", sa.Text, nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
)

audit_head = sa.Table(
    "audit_head",
    metadata,
    # One row at most: the newest entry. It is the lock under which entries are added.
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
    sa.CheckConstraint("id = 1", name="one_row"),
)
