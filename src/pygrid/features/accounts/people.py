"""The use case of listing people, in pages."""

from __future__ import annotations

from dataclasses import replace

import sqlalchemy as sa

from pygrid.core.access import Permission, Principal, require
from pygrid.features.accounts.service import AccountService
from pygrid.privacy.ledger import in_epsilon
from pygrid.storage.jobs import count_asked
from pygrid.storage.people import PersonRow as PersonRow
from pygrid.storage.people import list_group_names, list_people
from pygrid.storage.spending import list_user_spending
from pygrid.storage.sql.database import Database


class PeopleService:
    """Lists of users that stay quick with any number of accounts."""

    def __init__(self, database: Database, accounts: AccountService) -> None:
        self._database = database
        self._accounts = accounts

    async def list_people(self, principal: Principal, *, after: int, limit: int, text: str) -> list[PersonRow]:
        """Return users with ids above ``after``, in order.

        Args:
            text: part of the e-mail; empty: all users.
        """
        require(principal, self._accounts.access.see_users)

        def load(connection: sa.Connection) -> list[PersonRow]:
            found = list_people(connection, after=after, limit=limit, text=text)
            return _with_jobs(connection, principal, found) if self.has_jobs else found

        return await self._database.read(load)

    @property
    def has_jobs(self) -> bool:
        """Whether people of the app have groups and ask for jobs, as on a Domain."""
        return Permission.CREATE_GROUPS in self._accounts.access.permissions


def _with_jobs(connection: sa.Connection, principal: Principal, people: list[PersonRow]) -> list[PersonRow]:
    """Add the groups of people, and figures of the jobs that the principal may see."""
    keys = [one.id for one in people]
    names, jobs = list_group_names(connection, keys), count_asked(connection, principal, keys)
    spent = dict.fromkeys(keys, 0.0)
    for key, cap, spending in list_user_spending(connection, principal, keys):
        spent[key] += in_epsilon(spending, cap)
    return [
        replace(one, groups=names.get(one.id, ""), num_jobs=jobs.get(one.id, 0), epsilon_spent=spent[one.id])
        for one in people
    ]
