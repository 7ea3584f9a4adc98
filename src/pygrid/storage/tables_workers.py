"""The table of Workers on other machines. Their leases are not here: a lease lives as long as the Domain that gave it."""

from __future__ import annotations

import sqlalchemy as sa

from pygrid.storage.schema import UtcDateTime, metadata

workers = sa.Table(
    "workers",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(100), nullable=False, unique=True),
    # SHA-256 of the token, which was shown once.
    sa.Column("token_hash", sa.String(64), nullable=False, unique=True),
    # A user, who is not referred to: a Worker outlives their account.
    sa.Column("created_by", sa.Integer, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("last_seen_at", UtcDateTime, nullable=True),
    # A number is never given twice, so that the audit log stays clear.
    sqlite_autoincrement=True,
)
