"""The tables, on one `metadata`: accounts here, the rest in ``tables_*.py`` beside it.

A change to a table needs a migration (``docs/development.md``); a test compares the two.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import sqlalchemy as sa

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(column_0_N_label)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class UtcDateTime(sa.types.TypeDecorator[dt.datetime]):
    """An aware time in UTC. A naive one is refused: it does not say which hour it means."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: dt.datetime | None, dialect: sa.Dialect) -> dt.datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a stored time must be aware")
        value = value.astimezone(dt.UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: dt.datetime | None, dialect: sa.Dialect) -> dt.datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value.astimezone(dt.UTC)

    def __repr__(self) -> str:
        return "UtcDateTime()"


def _flag(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.Boolean, nullable=False)


roles = sa.Table(
    "roles",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    _flag("can_triage_requests"),
    _flag("can_edit_settings"),
    _flag("can_create_users"),
    _flag("can_create_groups"),
    _flag("can_edit_roles"),
    _flag("can_manage_infrastructure"),
    _flag("can_upload_data"),
    # Only roles of a Network have it, as they have only some of the others.
    _flag("can_manage_nodes"),
    sqlite_autoincrement=True,
)

users = sa.Table(
    "users",
    metadata,
    # An id is never given twice (autoincrement), so nothing that outlived an account falls to the next one.
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("email", sa.Text, nullable=False),
    # The e-mail, normalised and case-folded: what makes it the same address.
    sa.Column("email_key", sa.Text, nullable=False, unique=True),
    sa.Column("password_hash", sa.Text, nullable=False),
    sa.Column("private_key_hash", sa.Text, nullable=False, unique=True),
    sa.Column("role_id", sa.ForeignKey("roles.id"), nullable=False, index=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sqlite_autoincrement=True,
)

first_owner = sa.Table(
    "first_owner",
    metadata,
    # One row at most: whoever inserts it is the first user. It also serves as the lock under which Owners are counted.
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.CheckConstraint("id = 1", name="one_row"),
)

installation = sa.Table(
    "installation",
    metadata,
    # One row: what the database shares with its data folder. None before the first start of a version that writes it.
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("instance_id", sa.String(32), nullable=False),
    sa.Column("app", sa.String(16), nullable=False),
    # Counts the apps that have owned the database; a write of one that owns it no longer is refused by it.
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.CheckConstraint("id = 1", name="one_row"),
)

groups = sa.Table(
    "groups",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sqlite_autoincrement=True,
)

memberships = sa.Table(
    "memberships",
    metadata,
    sa.Column("user_id", sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("group_id", sa.ForeignKey("groups.id", ondelete="CASCADE"), primary_key=True, index=True),
)

sessions = sa.Table(
    "sessions",
    metadata,
    # SHA-256 of the token; the token itself is nowhere.
    sa.Column("token_hash", sa.Text, primary_key=True),
    sa.Column("user_id", sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("last_seen_at", UtcDateTime, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False, index=True),
)
