"""API tokens of users, for scripts and notebooks. Only their hashes are stored."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from pygrid import codes
from pygrid.core.access import Credential, Principal
from pygrid.errors import Conflict, NotFound
from pygrid.storage.accounts import get_principal
from pygrid.storage.sql.metadata import UtcDateTime, metadata

api_tokens = sa.Table(
    "api_tokens",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("user_id", sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("token_hash", sa.Text, nullable=False, unique=True),
    sa.Column("scope", sa.String(8), nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False),
    sa.Column("last_used_at", UtcDateTime, nullable=True),
    sa.UniqueConstraint("user_id", "name"),
    sqlite_autoincrement=True,
)


@dataclass(frozen=True, slots=True)
class ApiTokenRow:
    """A token, without its secret."""

    id: int
    user_id: int
    name: str
    scope: str
    created_at: dt.datetime
    expires_at: dt.datetime
    last_used_at: dt.datetime | None

    def principal(self, connection: sa.Connection) -> Principal:
        """The user of the token, with their present role."""
        return Principal(self.user_id, get_principal(connection, self.user_id).role, Credential(self.scope))


_TOKEN = [api_tokens.c[field] for field in ApiTokenRow.__dataclass_fields__]


def put_api_token(connection: sa.Connection, row: ApiTokenRow, token_hash: str) -> ApiTokenRow:
    """Add a token; the id of ``row`` is not used. Raises Conflict: ``token_exists``: the user has one of this name."""
    values = {field: getattr(row, field) for field in ApiTokenRow.__dataclass_fields__ if field != "id"}
    statement = sa.insert(api_tokens).values(**values, token_hash=token_hash).returning(*_TOKEN)
    try:
        return ApiTokenRow(*connection.execute(statement).one())
    except IntegrityError:
        raise Conflict(
            f"you have a token named {row.name!r} already: choose another name, or revoke that one",
            code=codes.TOKEN_EXISTS,
        ) from None


def find_api_token(connection: sa.Connection, token_hash: str) -> tuple[ApiTokenRow, Principal] | None:
    """The token with this hash, expired or not, and its user."""
    row = connection.execute(sa.select(*_TOKEN).where(api_tokens.c.token_hash == token_hash)).first()
    if row is None:
        return None
    token = ApiTokenRow(*row)
    return token, token.principal(connection)


def list_api_tokens(connection: sa.Connection, user_id: int) -> list[ApiTokenRow]:
    """The tokens of a user, oldest first, expired ones included."""
    statement = sa.select(*_TOKEN).where(api_tokens.c.user_id == user_id).order_by(api_tokens.c.id)
    return [ApiTokenRow(*row) for row in connection.execute(statement)]


def delete_expired_api_tokens(connection: sa.Connection, user_id: int, now: dt.datetime) -> None:
    """Remove a user's tokens that have expired, so that their names are free."""
    own = (api_tokens.c.user_id == user_id, api_tokens.c.expires_at <= now)
    connection.execute(sa.delete(api_tokens).where(*own))


def touch_api_token(connection: sa.Connection, token_id: int, now: dt.datetime) -> None:
    """Store the time of a token's last use."""
    connection.execute(sa.update(api_tokens).where(api_tokens.c.id == token_id).values(last_used_at=now))


def delete_api_token(connection: sa.Connection, user_id: int, token_id: int) -> ApiTokenRow:
    """End a token of a user, and return it. Raises NotFound: ``token_not_found``."""
    own = (api_tokens.c.id == token_id, api_tokens.c.user_id == user_id)
    row = connection.execute(sa.delete(api_tokens).where(*own).returning(*_TOKEN)).first()
    if row is None:
        raise NotFound("there is no such token", code=codes.TOKEN_NOT_FOUND)
    return ApiTokenRow(*row)


def delete_api_tokens(connection: sa.Connection, user_id: int) -> None:
    connection.execute(sa.delete(api_tokens).where(api_tokens.c.user_id == user_id))
