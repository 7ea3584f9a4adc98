"""Which person at a sign-in provider an account is connected with, and the end of that connection."""

from __future__ import annotations

import logging

import sqlalchemy as sa

from pygrid import codes
from pygrid.clock import Clock
from pygrid.core import access
from pygrid.core.access import Principal
from pygrid.errors import Forbidden, NotFound
from pygrid.features.accounts.service import AccountService
from pygrid.features.accounts.signing import NewSession, check_may_manage, refuse
from pygrid.storage import accounts as store
from pygrid.storage import audit, provided_identities
from pygrid.storage.accounts import User
from pygrid.storage.audit import NotifiedWrites
from pygrid.storage.provided_identities import ConnectedIdentity
from pygrid.storage.sql.database import Database

logger = logging.getLogger(__name__)


class ProviderConnections:
    """The use cases of connected accounts.

    Args:
        writes: transactions of the audit log.
    """

    def __init__(self, database: Database, writes: NotifiedWrites, clock: Clock, accounts: AccountService) -> None:
        self._database = database
        self._writes = writes
        self._clock = clock
        self._accounts = accounts

    async def list_identities(self, principal: Principal, user_id: int) -> list[ConnectedIdentity]:
        """Return the persons who are connected with the caller's account, or with one that the caller may manage.

        Raises:
            Forbidden: ``not_permitted``. NotFound: ``user_not_found``.
        """

        def load(connection: sa.Connection) -> list[ConnectedIdentity]:
            _get_managed(connection, principal, user_id)
            return provided_identities.list_provided_identities(connection, user_id)

        return await self._database.read(load)

    async def disconnect(self, principal: Principal, user_id: int) -> User:
        """Disconnect the account of another person, and end its sessions. API tokens and the password stay.

        The provider opens the account again only after its signed-in person has connected it, see `OidcService.begin`.

        Raises:
            Forbidden: ``not_permitted``; the caller's own account needs its password, see `disconnect_own`.
            NotFound: ``user_not_found``, ``oidc_not_connected``.
        """
        if user_id == principal.user_id:
            raise Forbidden(
                "your own account is disconnected on the page of your account, with your password",
                code=codes.NOT_PERMITTED,
            )
        user = await self._writes.write(lambda connection: self._disconnect(connection, principal, user_id))
        self._accounts.session_changes.notify()
        logger.info("account disconnected", extra={"user_id": user_id, "by_user_id": principal.user_id})
        return user

    async def disconnect_own(self, principal: Principal, password: str, address: str, agent: str = "") -> NewSession:
        """Disconnect the caller's account, end its sessions, and begin one.

        An account that only the provider opens has no password, so it stays connected.

        Args:
            address: address of the caller, to limit attempts.
            agent: header ``User-Agent`` of the caller.
        Raises:
            NotFound: ``oidc_not_connected``. InvalidCredentials: the password is wrong, or there is none.
            TooManyRequests: as a sign-in.
        """
        if not await self.list_identities(principal, principal.user_id):
            raise _not_connected()
        user = await self._accounts.get_user(principal, principal.user_id)
        await self._accounts.log_in(user.email, password, address)
        await self._writes.write(lambda connection: self._disconnect(connection, principal, principal.user_id))
        self._accounts.session_changes.notify()
        return await self._accounts.log_in(user.email, password, address, agent=agent)

    def _disconnect(self, connection: sa.Connection, principal: Principal, user_id: int) -> User:
        user = _get_managed(connection, principal, user_id)
        identities = provided_identities.list_provided_identities(connection, user_id)
        if not identities:
            raise _not_connected()
        provided_identities.delete_provided_identities(connection, user_id)
        store.release_sessions(connection, user_id)
        for one in identities:
            data = {"user_id": user_id, "issuer": one.issuer, "subject": one.subject}
            audit.append(connection, "user_disconnected", data, actor=principal.user_id, now=self._clock.now())
        return user


def _get_managed(connection: sa.Connection, principal: Principal, user_id: int) -> User:
    """Return the user, if the principal's present role may change it."""
    actor = store.get_principal(connection, principal.user_id)
    check_may_manage(actor, user_id)
    user = store.get_user(connection, user_id)
    refuse(access.can_manage_user(actor, user_id, user.role))
    return user


def _not_connected() -> NotFound:
    return NotFound("this account is not connected with a sign-in provider", code=codes.OIDC_NOT_CONNECTED)
