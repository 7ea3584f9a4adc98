"""The sessions of a user, and acts that need a password that was typed a short time ago."""

from __future__ import annotations

import datetime as dt

from pygrid import codes
from pygrid.clock import Clock
from pygrid.core.access import Principal
from pygrid.errors import NotFound
from pygrid.features.accounts.service import AccountService
from pygrid.features.accounts.signing import NewSession
from pygrid.ids import hash_secret
from pygrid.storage import user_sessions as rows
from pygrid.storage.sql.database import Database
from pygrid.storage.user_sessions import UserSession

CONFIRMED = dt.timedelta(minutes=15)
"""Time after a sign-in in which its session needs no further password."""


class SessionsService:
    """Use cases of sessions."""

    def __init__(self, database: Database, clock: Clock, accounts: AccountService) -> None:
        self._database = database
        self._clock = clock
        self._accounts = accounts

    async def list_sessions(self, principal: Principal) -> list[UserSession]:
        """Return the principal's sessions, the one used last first."""
        now = self._clock.now()
        return await self._database.read(lambda connection: rows.list_sessions(connection, principal.user_id, now))

    def session_id(self, token: str) -> str:
        return hash_secret(token)[: rows.ID_CHARS]

    async def end_session(self, principal: Principal, session_id: str) -> None:
        """End a session of the principal. Raises NotFound: ``session_not_found``."""
        found = await self._database.write(
            lambda connection: rows.release_named(connection, principal.user_id, session_id)
        )
        if not found:
            raise NotFound("you have no such session: it has ended", code=codes.SESSION_NOT_FOUND)
        self._accounts.session_changes.notify()

    async def is_confirmed(self, principal: Principal, token: str) -> bool:
        """Whether the password of the principal's session was typed within the last 15 minutes."""
        token_hash = hash_secret(token)
        begin = await self._database.read(lambda connection: rows.find_begin(connection, principal.user_id, token_hash))
        return begin is not None and self._clock.now() - begin <= CONFIRMED

    async def confirm(
        self, principal: Principal, token: str, password: str, address: str, agent: str = ""
    ) -> NewSession:
        """Begin a session in place of this one, after a check of the password. Raises as `AccountService.log_in`."""
        user = await self._accounts.get_user(principal, principal.user_id)
        session = await self._accounts.log_in(user.email, password, address, agent=agent)
        await self._accounts.log_out(principal, token)
        return session
