"""Queries on the sessions of one user."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import sqlalchemy as sa

from pygrid.storage.accounts import sessions

ID_CHARS = 16
"""A session is named by the first characters of the hash of its token, which lead nobody to the token."""
SESSION_IDLE = dt.timedelta(hours=12)
"""Time without a request after which a session ends."""
SESSION_MAX = dt.timedelta(days=7)
"""Time after the proof of the password after which a session ends, however much it is used."""


@dataclass(frozen=True, slots=True)
class UserSession:
    id: str
    created_at: dt.datetime
    last_seen_at: dt.datetime
    expires_at: dt.datetime
    label: str
    """What began it, for example "Firefox on Windows"; empty: unknown."""


def put_session(
    connection: sa.Connection,
    token_hash: str,
    user_id: int,
    now: dt.datetime,
    label: str = "",
    began_at: dt.datetime | None = None,
) -> None:
    """Add a session of the user.

    Args:
        label: what began it, for example "Firefox on Windows"; empty: unknown.
        began_at: when the user proved who they are; None: now.
    """
    values = {
        "token_hash": token_hash,
        "user_id": user_id,
        "created_at": began_at or now,
        "last_seen_at": now,
        "expires_at": end_of_session(began_at or now, now),
        "label": label,
    }
    connection.execute(sa.insert(sessions).values(values))


def end_of_session(began_at: dt.datetime, now: dt.datetime) -> dt.datetime:
    """When a session ends without a further request."""
    return min(now + SESSION_IDLE, began_at + SESSION_MAX)


def list_sessions(connection: sa.Connection, user_id: int, now: dt.datetime) -> list[UserSession]:
    """The valid sessions of a user, the one used last first."""
    columns = [sessions.c[name] for name in ("token_hash", "created_at", "last_seen_at", "expires_at", "label")]
    statement = (
        sa.select(*columns)
        .where(sessions.c.user_id == user_id, sessions.c.expires_at > now)
        .order_by(sessions.c.last_seen_at.desc(), sessions.c.token_hash)
    )
    return [UserSession(row.token_hash[:ID_CHARS], *row[1:]) for row in connection.execute(statement)]


def find_begin(connection: sa.Connection, user_id: int, token_hash: str) -> dt.datetime | None:
    """When a session of a user began; None: it has ended."""
    statement = sa.select(sessions.c.created_at).where(
        sessions.c.user_id == user_id, sessions.c.token_hash == token_hash
    )
    begin: dt.datetime | None = connection.execute(statement).scalar_one_or_none()
    return begin


def release_named(connection: sa.Connection, user_id: int, session_id: str) -> bool:
    """End a session of a user by its id; returns whether there was one."""
    if len(session_id) != ID_CHARS:
        return False
    named = sa.func.substr(sessions.c.token_hash, 1, ID_CHARS) == session_id
    return connection.execute(sa.delete(sessions).where(sessions.c.user_id == user_id, named)).rowcount > 0
