"""The table of calls that were done under an ``Idempotency-Key``. Users are not referred to: an id is never given twice."""

from __future__ import annotations

import sqlalchemy as sa

from pygrid.storage.schema import UtcDateTime, metadata

kept_answers = sa.Table(
    "kept_answers",
    metadata,
    # In the order of the calls.
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("user_id", sa.Integer, nullable=False),
    sa.Column("route", sa.Text, nullable=False),
    # SHA-256 of the key.
    sa.Column("key_hash", sa.String(64), nullable=False),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("body_bytes", sa.BigInteger, nullable=False),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("answer_bytes", sa.Integer, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False, index=True),
    # JSON; NULL: it held a secret.
    sa.Column("answer", sa.LargeBinary, nullable=True),
    sa.UniqueConstraint("user_id", "route", "key_hash"),
    sa.Index("ix_kept_answers_user_id_number", "user_id", "number"),
)
