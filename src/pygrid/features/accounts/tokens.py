"""API tokens: credentials of a user for scripts and notebooks."""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa

from pygrid import codes
from pygrid.core.access import API_TOKEN_PREFIX, Credential, Principal
from pygrid.errors import InvalidCredentials, InvalidInput, TooManyRequests
from pygrid.features.accounts.signing import SESSION_TOUCH, SignIn
from pygrid.ids import hash_secret, new_secret
from pygrid.storage import api_tokens as rows
from pygrid.storage.api_tokens import ApiTokenRow as ApiTokenRow

USUAL_DAYS = 90
MAX_DAYS = 366
MAX_TOKENS = 50


class TokenSignIn(SignIn):
    """Use cases of API tokens; `AccountService` inherits them.

    A token has the permissions that its user's role has at the time of the request, or reads only. It never changes
    accounts, roles or credentials (`pygrid.web.auth`).
    """

    async def make_api_token(
        self, principal: Principal, name: str, scope: Credential, expires_in_days: int | None
    ) -> tuple[ApiTokenRow, str]:
        """Return a new token of the principal, and its text, which is not stored.

        Raises:
            InvalidInput: ``invalid_name``, ``invalid_expiry``. Conflict: ``token_exists``.
            TooManyRequests: ``too_many_tokens``.
        """
        if not 1 <= len(name) <= 100 or not name.isprintable() or name != name.strip():
            raise InvalidInput("the name of a token has 1 to 100 printable characters", code=codes.INVALID_NAME)
        days = USUAL_DAYS if expires_in_days is None else expires_in_days
        if not 1 <= days <= MAX_DAYS:
            raise InvalidInput(f"expires_in_days is {days}: it must be 1 to {MAX_DAYS}", code=codes.INVALID_EXPIRY)
        text, now = API_TOKEN_PREFIX + new_secret(), self._clock.now()

        def put(connection: sa.Connection) -> ApiTokenRow:
            rows.delete_expired_api_tokens(connection, principal.user_id, now)
            if len(rows.list_api_tokens(connection, principal.user_id)) >= MAX_TOKENS:
                raise TooManyRequests(
                    f"you have {MAX_TOKENS} tokens, the most that are allowed: revoke one first",
                    code=codes.TOO_MANY_TOKENS,
                )
            row = ApiTokenRow(0, principal.user_id, name, scope.value, now, now + dt.timedelta(days=days), None)
            kept = rows.put_api_token(connection, row, hash_secret(text))
            self._append(connection, "token_made", _audited(kept), principal)
            return kept

        return await self._writes.write(put), text

    async def list_api_tokens(self, principal: Principal) -> list[ApiTokenRow]:
        """Return the principal's tokens, oldest first."""
        return await self._database.read(lambda connection: rows.list_api_tokens(connection, principal.user_id))

    async def list_api_tokens_of(self, principal: Principal, user_id: int) -> list[ApiTokenRow]:
        """Return the tokens of a user, oldest first. Raises Forbidden: as for a change of the user's password."""

        def read(connection: sa.Connection) -> list[ApiTokenRow]:
            self._manage(connection, principal, user_id)
            return rows.list_api_tokens(connection, user_id)

        return await self._database.read(read)

    async def revoke_api_token(self, principal: Principal, user_id: int, token_id: int) -> ApiTokenRow:
        """End a token of a user: the principal, or with ``can_create_users`` a user whose role is not above theirs.

        Raises:
            NotFound: ``token_not_found``. Forbidden: as for a change of the user's password.
        """

        def revoke(connection: sa.Connection) -> ApiTokenRow:
            self._manage(connection, principal, user_id)
            gone = rows.delete_api_token(connection, user_id, token_id)
            self._append(connection, "token_revoked", {"user_id": user_id, **_audited(gone)}, principal)
            return gone

        gone = await self._writes.write(revoke)
        self.session_changes.notify()
        return gone

    async def authenticate(self, token: str) -> Principal:
        """Return the user of a session or an API token with their present role, and note its use.

        Raises:
            InvalidCredentials: the session or token does not exist or has ended.
        """
        if not token.startswith(API_TOKEN_PREFIX):
            return await super().authenticate(token)
        found, now = await self._find_api_token(token), self._clock.now()
        if found is None:
            raise InvalidCredentials("this API token is unknown, was revoked or has expired: make another one")
        row, principal = found
        if row.last_used_at is None or now - row.last_used_at >= SESSION_TOUCH:
            await self._database.write(lambda connection: rows.touch_api_token(connection, row.id, now))
        return principal

    async def find_principal(self, token: str) -> Principal | None:
        """Return the user of a session or an API token, None if it has ended; does not note a use."""
        if not token.startswith(API_TOKEN_PREFIX):
            return await super().find_principal(token)
        found = await self._find_api_token(token)
        return None if found is None else found[1]

    async def _find_api_token(self, token: str) -> tuple[ApiTokenRow, Principal] | None:
        token_hash = hash_secret(token)
        found = await self._database.look_up(lambda connection: rows.find_api_token(connection, token_hash))
        return None if found is None or found[0].expires_at <= self._clock.now() else found


def _audited(row: ApiTokenRow) -> dict[str, str | int]:
    return {"token_id": row.id, "scope": row.scope, "expires_at": row.expires_at.isoformat()}
