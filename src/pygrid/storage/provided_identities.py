"""Which account belongs to a person at an OpenID Connect provider."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import sqlalchemy as sa

from pygrid.storage.accounts import users
from pygrid.storage.sql.metadata import UtcDateTime, metadata

provided_identities = sa.Table(
    "provided_identities",
    metadata,
    sa.Column("issuer", sa.Text, primary_key=True),
    sa.Column("subject", sa.Text, primary_key=True),
    sa.Column("user_id", sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
)


@dataclass(frozen=True, slots=True)
class ConnectedIdentity:
    """A person at a provider who is connected with an account."""

    issuer: str
    subject: str
    created_at: dt.datetime


def find_provided_user(connection: sa.Connection, issuer: str, subject: str) -> int | None:
    """The id of the account of this person."""
    own = (provided_identities.c.issuer == issuer, provided_identities.c.subject == subject)
    return connection.execute(sa.select(provided_identities.c.user_id).where(*own)).scalar()


def put_provided_identity(connection: sa.Connection, issuer: str, subject: str, user_id: int, now: dt.datetime) -> None:
    """Connect a person at a provider to an account, in place of an earlier person of this issuer.

    The account is no longer one that was disconnected.
    """
    own = (provided_identities.c.issuer == issuer, provided_identities.c.user_id == user_id)
    connection.execute(sa.delete(provided_identities).where(*own))
    values = {"issuer": issuer, "subject": subject, "user_id": user_id, "created_at": now}
    connection.execute(sa.insert(provided_identities).values(values))
    _set_disconnected(connection, user_id, False)


def list_provided_identities(connection: sa.Connection, user_id: int) -> list[ConnectedIdentity]:
    """The persons at providers who are connected with an account, by issuer."""
    columns = (provided_identities.c[name] for name in ("issuer", "subject", "created_at"))
    found = sa.select(*columns).where(provided_identities.c.user_id == user_id).order_by(provided_identities.c.issuer)
    return [ConnectedIdentity(*row) for row in connection.execute(found)]


def delete_provided_identities(connection: sa.Connection, user_id: int) -> None:
    """Disconnect an account from all persons at providers."""
    connection.execute(sa.delete(provided_identities).where(provided_identities.c.user_id == user_id))
    _set_disconnected(connection, user_id, True)


def is_disconnected(connection: sa.Connection, user_id: int) -> bool:
    """Whether an account was disconnected, so that only its signed-in person connects it again."""
    return bool(connection.execute(sa.select(users.c.is_disconnected).where(users.c.id == user_id)).scalar())


def _set_disconnected(connection: sa.Connection, user_id: int, value: bool) -> None:
    connection.execute(sa.update(users).where(users.c.id == user_id).values(is_disconnected=value))
