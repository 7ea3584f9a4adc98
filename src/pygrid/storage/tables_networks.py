"""Tables of associations: on a Network the Domains it knows and the invitations it gave; on a Domain its Networks.

domains n--1 invitations        networks
"""

from __future__ import annotations

import sqlalchemy as sa

from pygrid.storage.schema import UtcDateTime, metadata

_HOLDS = sa.text("state IN ('accepted', 'revoked', 'left')")
"""`pygrid.core.associations.HOLDING`"""

invitations = sa.Table(
    "invitations",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    # SHA-256 of the token, which was shown once.
    sa.Column("token_hash", sa.String(64), nullable=False, unique=True),
    # Null: a Domain of any name may use it.
    sa.Column("domain", sa.String(100), nullable=True),
    sa.Column("max_uses", sa.Integer, nullable=False),
    sa.Column("num_uses", sa.Integer, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False),
    # A user, who is not referred to: an invitation outlives their account.
    sa.Column("created_by", sa.Integer, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sqlite_autoincrement=True,
)

domains = sa.Table(
    "domains",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(100), nullable=False),
    # The name, case-folded: what makes it the same one.
    sa.Column("name_key", sa.String(100), nullable=False),
    # The text of its key; null: a node of 2020, which has an address only.
    sa.Column("identity", sa.String(64), nullable=True, index=True),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    # What it says of itself, and its signature of that; null: a node of 2020, which signs nothing.
    sa.Column("entry", sa.JSON, nullable=False),
    sa.Column("entry_signature", sa.String(100), nullable=True),
    # Where it can be called directly: checked, or of a node of 2020.
    sa.Column("address", sa.String(300), nullable=True),
    sa.Column("address_checked_at", UtcDateTime, nullable=True),
    sa.Column("invitation_id", sa.ForeignKey("invitations.id", ondelete="SET NULL"), nullable=True),
    sa.Column("reason", sa.String(500), nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("decided_at", UtcDateTime, nullable=True),
    sa.Column("decided_by", sa.Integer, nullable=True),
    sa.Column("last_seen_at", UtcDateTime, nullable=True),
    # Any number of keys may ask for a name; one holds it.
    sa.UniqueConstraint("name_key", "identity"),
    sa.Index("ix_domains_held_name", "name_key", unique=True, sqlite_where=_HOLDS, postgresql_where=_HOLDS),
    sqlite_autoincrement=True,
)

networks = sa.Table(
    "networks",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("url", sa.String(300), nullable=False, unique=True),
    # What it called itself, and its key, as they were when it was first reached; null until then.
    sa.Column("name", sa.String(100), nullable=True),
    sa.Column("identity", sa.String(64), nullable=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("reason", sa.String(500), nullable=False),
    # Kept until the Network has accepted: the Domain may be started again before.
    sa.Column("invitation", sa.String(200), nullable=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sqlite_autoincrement=True,
)
