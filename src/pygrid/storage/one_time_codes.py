"""One-time codes: invitations to create an account, and resets of a lost password. Only their hashes are stored."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from pygrid import codes
from pygrid.errors import NotFound
from pygrid.messages.accounts import UserInvitation
from pygrid.storage.accounts import roles, users
from pygrid.storage.sql.metadata import UtcDateTime, metadata

one_time_codes = sa.Table(
    "one_time_codes",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("code_hash", sa.Text, nullable=False, unique=True),
    # An invitation has an e-mail and a role, a reset has a user.
    sa.Column("email", sa.Text, nullable=True),
    sa.Column("email_key", sa.Text, nullable=True, unique=True),
    sa.Column("role_id", sa.ForeignKey("roles.id", ondelete="CASCADE"), nullable=True),
    sa.Column("user_id", sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=True, unique=True),
    # Nobody stands behind the code of a person whose account is gone.
    sa.Column("created_by", sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False, index=True),
    sqlite_autoincrement=True,
)


@dataclass(frozen=True, slots=True)
class CodeRow:
    """A code that was not used. A used one has no row."""

    id: int
    email: str | None
    role_id: int | None
    user_id: int | None
    created_by: int | None
    """None: it was made on the machine of the app."""
    expires_at: dt.datetime


_CODE = [one_time_codes.c[field] for field in CodeRow.__dataclass_fields__]
_inviter = users.alias("inviter")


def put_code(
    connection: sa.Connection, row: CodeRow, code_hash: str, email_key: str | None, created_at: dt.datetime
) -> CodeRow:
    """Add a code, in place of an earlier one for the same e-mail or user; the id of ``row`` is not used."""
    own = one_time_codes.c.email_key == email_key if email_key else one_time_codes.c.user_id == row.user_id
    connection.execute(sa.delete(one_time_codes).where(own))
    values = {field: getattr(row, field) for field in CodeRow.__dataclass_fields__ if field != "id"}
    values |= {"code_hash": code_hash, "email_key": email_key, "created_at": created_at}
    statement = sa.insert(one_time_codes).values(values).returning(one_time_codes.c.id)
    return CodeRow(connection.execute(statement).scalar_one(), *(values[field] for field in list(values)[:5]))


def find_code(connection: sa.Connection, code_hash: str) -> CodeRow | None:
    """The unused code with this hash, expired or not."""
    row = connection.execute(sa.select(*_CODE).where(one_time_codes.c.code_hash == code_hash)).first()
    return None if row is None else CodeRow(*row)


def find_invitation(connection: sa.Connection, email_key: str) -> CodeRow | None:
    """The invitation of this e-mail, expired or not."""
    row = connection.execute(sa.select(*_CODE).where(one_time_codes.c.email_key == email_key)).first()
    return None if row is None else CodeRow(*row)


def delete_code(connection: sa.Connection, code_id: int) -> None:
    connection.execute(sa.delete(one_time_codes).where(one_time_codes.c.id == code_id))


def delete_invitation(connection: sa.Connection, invitation_id: int) -> None:
    """End an invitation. Raises NotFound: ``user_invitation_not_found``."""
    own = (one_time_codes.c.id == invitation_id, one_time_codes.c.email.is_not(None))
    if not connection.execute(sa.delete(one_time_codes).where(*own)).rowcount:
        raise NotFound("there is no such open invitation", code=codes.USER_INVITATION_NOT_FOUND)


def delete_codes_of(connection: sa.Connection, user_id: int) -> None:
    """End the reset of a user's password, if there is one."""
    connection.execute(sa.delete(one_time_codes).where(one_time_codes.c.user_id == user_id))


def delete_expired_codes(connection: sa.Connection, now: dt.datetime) -> None:
    connection.execute(sa.delete(one_time_codes).where(one_time_codes.c.expires_at <= now))


def list_invitations(connection: sa.Connection, now: dt.datetime) -> Sequence[UserInvitation]:
    """The invitations that can be accepted, oldest first."""
    statement = (
        sa.select(
            one_time_codes.c.id, one_time_codes.c.email, roles.c.name, _inviter.c.email, one_time_codes.c.expires_at
        )
        .join_from(one_time_codes, roles, one_time_codes.c.role_id == roles.c.id)
        .outerjoin(_inviter, one_time_codes.c.created_by == _inviter.c.id)
        .where(one_time_codes.c.email.is_not(None), one_time_codes.c.expires_at > now)
        .order_by(one_time_codes.c.id)
    )
    return [UserInvitation(*row) for row in connection.execute(statement)]
