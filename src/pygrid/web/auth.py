"""Authentication of callers, by ``Authorization: Bearer TOKEN`` or, for clients of 2020, the header ``token``.

@get("/things", guards=[require(Permission.UPLOAD_DATA)])
async def things(request: AppRequest) -> ...:
    request.user        # the Principal
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from pygrid import codes
from pygrid.core.access import (
    API_TOKEN_PREFIX,
    Authenticator,
    Credential,
    Permission,
    Principal,
    not_logged_in,
    session_needed,
    token_reads_only,
)
from pygrid.core.access import require as require_permission
from pygrid.errors import Unauthenticated

Connection = ASGIConnection[Any, Any, Any, Any]
Guard = Callable[[Connection, BaseRouteHandler], Awaitable[None]]
SESSION: list[dict[str, list[str]]] = [{"session": []}]
"""The ``security=`` of a handler that needs a session, for the OpenAPI document."""


def find_bearer(connection: Connection) -> str | None:
    """Return the text after ``Bearer`` in the header ``Authorization``, if there is one.

    Raises:
        Unauthenticated: ``ambiguous_credentials``: there is more than one such header. A proxy and this app could use
            different ones.
    """
    given = connection.headers.getall("authorization", [])
    if len(given) > 1:
        raise _ambiguous()
    scheme, _, credential = given[0].partition(" ") if given else ("", "", "")
    return credential.strip() if scheme.lower() == "bearer" and credential.strip() else None


def find_token(connection: Connection) -> str | None:
    """Return the session token of the request, if it has one.

    Raises:
        Unauthenticated: ``ambiguous_credentials``: two headers name different tokens.
    """
    bearer = find_bearer(connection)
    tokens = {token for token in (bearer, *connection.headers.getall("token", [])) if token}
    if len(tokens) > 1:
        raise _ambiguous()
    return next(iter(tokens), None)


def find_authenticator(connection: Connection) -> Authenticator:
    """Return the authenticator of the app (`build_app`)."""
    authenticator: Authenticator = connection.app.state.authenticator
    return authenticator


async def authenticate(connection: Connection) -> Principal:
    """Return the caller, and store it as the connection's ``user``.

    Raises:
        Unauthenticated: ``unauthenticated``: the request has no token; ``invalid_credentials``: the token is invalid or
            has expired. Forbidden: ``token_reads_only``.
    """
    token = find_token(connection)
    if token is None:
        raise not_logged_in()
    principal = await find_authenticator(connection).authenticate(token)
    if principal.credential is Credential.READ and connection.scope.get("method") not in ("GET", "HEAD"):
        raise token_reads_only()
    connection.scope["user"] = principal
    return principal


def require(permission: Permission | None = None) -> Guard:
    """Return a guard that admits callers with a session and, if one is named, the permission.

    The guard raises:
        Unauthenticated: as `authenticate`. Forbidden: ``not_permitted``, with the missing permission.
    """

    async def guard(connection: Connection, _handler: BaseRouteHandler) -> None:
        require_permission(await authenticate(connection), permission)

    return guard


async def needs_session(connection: Connection, handler: BaseRouteHandler) -> None:
    """A guard for changes of accounts, roles and credentials: it refuses API tokens. Handlers with
    ``opt={"reads": True}`` change nothing.

    Raises:
        Forbidden: ``session_needed``.
    """
    if connection.scope.get("method") in ("GET", "HEAD") or handler.opt.get("reads"):
        return
    if (find_token(connection) or "").startswith(API_TOKEN_PREFIX):
        raise session_needed()


async def anyone(connection: Connection, _handler: BaseRouteHandler) -> None:
    """A guard that admits callers without a token, and callers with a valid token.

    Raises:
        Unauthenticated: ``invalid_credentials``.
    """
    if find_token(connection) is None:
        connection.scope["user"] = None
    else:
        await authenticate(connection)


def find_principal(connection: Connection) -> Principal | None:
    """Return the caller of a route that is open to `anyone`; None: a caller without an account."""
    principal: Principal | None = connection.scope.get("user")
    return principal


def _ambiguous() -> Unauthenticated:
    return Unauthenticated(
        "the request has more than one credential: send one header Authorization or token",
        code=codes.AMBIGUOUS_CREDENTIALS,
    )
