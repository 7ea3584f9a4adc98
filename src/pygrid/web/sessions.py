"""What lasts longer than a request ends with the session that began it."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from pygrid.core.access import Authenticator, Principal
from pygrid.web.auth import Connection, find_authenticator, find_token


class SessionWatch:
    """The session of one request, for as long as the answer lasts."""

    def __init__(self, authenticator: Authenticator, token: str, principal: Principal) -> None:
        self._authenticator = authenticator
        self._token = token
        self._principal = principal

    def wait(self) -> Coroutine[Any, Any, bool]:
        """Wait until it is worth asking `is_over` again; expiry does not wake it."""
        return self._authenticator.session_changes.wait()

    async def is_over(self) -> bool:
        """Whether the session has ended, or its user's role or permissions have changed since the request."""
        return await self._authenticator.find_principal(self._token) != self._principal


def watch_session(connection: Connection) -> SessionWatch:
    """The session that a guard let in."""
    token = find_token(connection)
    assert token is not None, "a guard has checked it"
    return SessionWatch(find_authenticator(connection), token, connection.scope["user"])
