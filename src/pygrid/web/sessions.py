"""Ends long answers together with the session of their request."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from pygrid.core.access import Authenticator, Principal
from pygrid.web.auth import Connection, find_authenticator, find_token


class SessionWatch:
    """The session of one request, while its answer lasts."""

    def __init__(self, authenticator: Authenticator, token: str, principal: Principal) -> None:
        self._authenticator = authenticator
        self._token = token
        self._principal = principal

    def wait(self) -> Coroutine[Any, Any, bool]:
        """Wait until `is_over` can have changed; expiry does not wake it."""
        return self._authenticator.session_changes.wait()

    async def is_over(self) -> bool:
        """Return whether the session has ended, or its user's role or permissions changed since the request."""
        return await self._authenticator.find_principal(self._token) != self._principal


def watch_session(connection: Connection) -> SessionWatch:
    """Return the session that a guard has checked."""
    token = find_token(connection)
    assert token is not None, "a guard has checked it"
    return SessionWatch(find_authenticator(connection), token, connection.scope["user"])
