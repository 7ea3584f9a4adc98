"""The use case of listing people, in pages."""

from __future__ import annotations

import sqlalchemy as sa

from pygrid.core.access import Permission, Principal, require
from pygrid.features.accounts.service import AccountService
from pygrid.storage.people import PersonRow as PersonRow
from pygrid.storage.people import list_people, with_figures
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
            return with_figures(connection, principal, found) if self.has_jobs else found

        return await self._database.read(load)

    @property
    def has_jobs(self) -> bool:
        """Whether people of the app have groups and ask for jobs, as on a Domain."""
        return Permission.CREATE_GROUPS in self._accounts.access.permissions
