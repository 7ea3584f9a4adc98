"""Users in pages: by id, with a text that their e-mails must have."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from dataclasses import dataclass, replace

import sqlalchemy as sa

from pygrid.core.access import Principal
from pygrid.privacy.ledger import in_epsilon
from pygrid.storage.accounts import groups, memberships, roles, sessions, users
from pygrid.storage.jobs import count_asked
from pygrid.storage.spending import list_user_spending


@dataclass(frozen=True, slots=True)
class PersonRow:
    id: int
    email: str
    role: str
    created_at: dt.datetime
    last_seen_at: dt.datetime | None
    """Last use of a session that has not ended."""
    groups: str = ""
    """Their names."""
    num_jobs: int = 0
    """Number of those that the caller may see."""
    epsilon_spent: float = 0.0
    """Sum over the budgets that the caller may see."""


def list_people(connection: sa.Connection, *, after: int = 0, limit: int = 100, text: str = "") -> list[PersonRow]:
    """Users with ids above ``after``, in order."""
    seen = sa.select(sa.func.max(sessions.c.last_seen_at)).where(sessions.c.user_id == users.c.id).scalar_subquery()
    statement = (
        sa.select(users.c.id, users.c.email, roles.c.name, users.c.created_at, seen)
        .join_from(users, roles, users.c.role_id == roles.c.id)
        .where(users.c.id > after)
        .order_by(users.c.id)
        .limit(limit)
    )
    if text:
        statement = statement.where(users.c.email_key.contains(text.casefold(), autoescape=True))
    return [PersonRow(*row) for row in connection.execute(statement)]


def _group_names(connection: sa.Connection, user_ids: Collection[int]) -> dict[int, str]:
    """The names of the groups of each of these users that has some, in order."""
    statement = sa.select(memberships.c.user_id, groups.c.name).join(groups).where(memberships.c.user_id.in_(user_ids))
    found: dict[int, str] = {}
    for user_id, name in connection.execute(statement.order_by(groups.c.name)):
        found[user_id] = f"{found[user_id]}, {name}" if user_id in found else name
    return found


def with_figures(connection: sa.Connection, principal: Principal, people: list[PersonRow]) -> list[PersonRow]:
    """These people with their groups, and figures of the jobs that the principal may see."""
    keys = [one.id for one in people]
    names, jobs = _group_names(connection, keys), count_asked(connection, principal, keys)
    spent = dict.fromkeys(keys, 0.0)
    for key, cap, spending in list_user_spending(connection, principal, keys):
        spent[key] += in_epsilon(spending, cap)
    return [
        replace(one, groups=names.get(one.id, ""), num_jobs=jobs.get(one.id, 0), epsilon_spent=spent[one.id])
        for one in people
    ]
