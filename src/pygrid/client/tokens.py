"""API tokens of the user, for scripts and notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pygrid import codes
from pygrid.client.display.tables import Table, TableColumn
from pygrid.client.listing import Listing
from pygrid.configs import did_you_mean
from pygrid.errors import NotFound
from pygrid.messages.accounts import ApiTokenInfo, ApiTokenList, ApiTokenRequest, Done, NewApiToken
from pygrid.transport import Api


class ApiTokenTable(Table[ApiTokenInfo]):
    """API tokens, without their texts."""

    def columns(self) -> Sequence[TableColumn[ApiTokenInfo]]:
        return (
            TableColumn("name", lambda token: token.name, weight=5),
            TableColumn("scope", lambda token: token.scope, weight=4),
            TableColumn("until", lambda token: f"{token.expires_at:%Y-%m-%d}", min=10, weight=4),
            TableColumn("last used", _last_used, min=16, weight=3),
        )


def revoke_by_name(api: Api, user: int | Literal["me"], name: str) -> None:
    """End a token of a user, by its name. Raises NotFound: there is none (``token_not_found``)."""
    there = tokens_of(api, user)
    for token in there:
        if token.name == name:
            api.change("DELETE", f"/users/{user}/tokens/{token.id}", Done)
            return
    names = [token.name for token in there]
    raise NotFound(
        f"there is no token named {name!r} on {api.url}{did_you_mean(name, names)}", code=codes.TOKEN_NOT_FOUND
    )


def tokens_of(api: Api, user: int | Literal["me"]) -> ApiTokenTable:
    """The tokens of a user, oldest first."""
    return ApiTokenTable(api.get(f"/users/{user}/tokens", ApiTokenList).api_tokens)


class ApiTokens(Listing):
    """``client.tokens()`` lists your API tokens."""

    def __call__(self) -> ApiTokenTable:
        """Your tokens, oldest first."""
        return tokens_of(self._api, "me")

    def make(self, name: str, *, scope: Literal["all", "read"] = "all", days: int = 90) -> NewApiToken:
        """Make a token; its text ``token`` is not shown again. ``PYGRID_TOKEN`` and ``connect(token=)`` take it.

        Args:
            scope: ``read``: it can only read. ``all``: whatever your role allows, without accounts, roles and
                credentials.
            days: its lifetime, 1 to 366. It ends earlier with a change of your password or with your account.
        Raises:
            Conflict: you have a token of this name (``token_exists``).
            Forbidden: you are logged in with an API token (``session_needed``).
        """
        return self._api.post("/users/me/tokens", NewApiToken, json=ApiTokenRequest(name, scope, days))

    def revoke(self, name: str) -> None:
        """End a token, by its name. Raises NotFound: you have no such token (``token_not_found``)."""
        revoke_by_name(self._api, "me", name)


def _last_used(token: ApiTokenInfo) -> str:
    return f"{token.last_used_at:%Y-%m-%d %H:%M}" if token.last_used_at else "never"
