"""The two forms of a request about accounts: native, and that of clients of 2020.

native      ``Authorization: Bearer TOKEN``
published   ``token: TOKEN`` and ``private-key: KEY``, which must belong to one user

The private key of the published form is checked after the body, as published: bad JSON, then a missing key, then a
wrong one.
"""

from __future__ import annotations

from litestar.handlers import BaseRouteHandler

from pygrid import codes
from pygrid.core.access import Principal
from pygrid.errors import Unauthenticated
from pygrid.features.accounts.presenter import AccountPresenter
from pygrid.features.accounts.service import AccountService
from pygrid.web.addresses import client_address
from pygrid.web.auth import Connection, authenticate, find_bearer, find_token
from pygrid.web.requests import AppRequest
from pygrid.web.services import service


def find_private_key(connection: Connection) -> str | None:
    """Return the private key of the request. Some clients write its header with an underscore."""
    return connection.headers.get("private-key") or connection.headers.get("private_key") or None


def is_published_form(connection: Connection) -> bool:
    """Return whether the caller is identified in the published form, by the header ``token``."""
    return find_bearer(connection) is None and find_token(connection) is not None


async def find_caller(request: AppRequest) -> Principal:
    """Return the caller of a route with the guard `require`; checks the private key of the published form.

    Raises:
        Unauthenticated: ``missing_request_key``. InvalidCredentials: the key is not that of the caller.
    """
    await _check_key(request, request.user)
    return request.user


async def needs_private_key(connection: Connection, _handler: BaseRouteHandler) -> None:
    """A guard as `find_caller`, for routes that clients of 2020 do not know."""
    if is_published_form(connection):
        await _check_key(connection, await authenticate(connection))


def present(request: AppRequest) -> AccountPresenter:
    access = service(request.app.state, AccountService).access
    return AccountPresenter(access, is_published=is_published_form(request))


async def _check_key(connection: Connection, principal: Principal) -> None:
    if not is_published_form(connection):
        return
    key = find_private_key(connection)
    if key is None:
        raise private_key_missing()
    await service(connection.app.state, AccountService).check_private_key(principal, key, client_address(connection))


def private_key_missing() -> Unauthenticated:
    """Return the error for a token in the published form without a private key."""
    return Unauthenticated(
        "a token in the header or field 'token' needs the 'private-key' of its user; scripts can send the token as "
        "'Authorization: Bearer TOKEN' alone",
        code=codes.MISSING_REQUEST_KEY,
    )
