"""The use case of listing people, in pages."""

from __future__ import annotations

from pygrid.core.access import Principal, require
from pygrid.features.accounts.service import AccountService
from pygrid.storage.people import PersonRow as PersonRow
from pygrid.storage.people import list_people
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
        return await self._database.read(
            lambda connection: list_people(connection, after=after, limit=limit, text=text)
        )
