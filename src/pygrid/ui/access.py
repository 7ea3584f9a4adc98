"""Sessions of browsers: the cookie, the guard of pages, and which requests may change something.

The cookie is sent to ``/admin`` only, and only pages read it: the API reads ``Authorization``. So a page of another
site that makes a browser send requests reaches no route of the API with a credential, and here is refused by its
origin.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, unquote, urlsplit

from litestar.datastructures import Cookie
from litestar.handlers import BaseRouteHandler

from pygrid import codes
from pygrid.core.access import API_TOKEN_PREFIX, Permission, Principal, require
from pygrid.errors import Forbidden, InvalidCredentials, Unauthenticated
from pygrid.settings import AppSettings, is_loopback_host
from pygrid.ui.console import Console
from pygrid.ui.session_limits import SessionLimits
from pygrid.web.auth import Connection, Guard, find_authenticator
from pygrid.web.services import service

MAX_AGE_S = 7 * 24 * 3600
START = "/admin/"
_MAX_PATH = 1500


def signed_in(*permissions: Permission) -> Guard:
    """Return a guard that admits browsers with a session and, if some are named, one of the permissions.

    The guard raises:
        Unauthenticated: ``unauthenticated``, ``invalid_credentials``; the page of the error leads to the sign-in.
        Forbidden: ``not_permitted``; ``cross_origin_refused`` as `check_origin`.
        TooManyRequests: ``rate_limited``: the session opens too many pages.
    """

    async def guard(connection: Connection, _handler: BaseRouteHandler) -> None:
        check_origin(connection)
        token = find_cookie(connection)
        if token is None:
            raise Unauthenticated("sign in first")
        principal = await _authenticate(connection, token)
        if permissions and not any(map(principal.may, permissions)):
            require(principal, permissions[0])

    return guard


async def maybe_signed_in(connection: Connection, _handler: BaseRouteHandler) -> None:
    """Admit every browser; one with a session is known. Raises Forbidden as `check_origin`."""
    check_origin(connection)
    connection.scope["user"] = None
    if (token := find_cookie(connection)) is not None:
        try:
            await _authenticate(connection, token)
        except InvalidCredentials:
            return


async def _authenticate(connection: Connection, token: str) -> Principal:
    principal = await find_authenticator(connection).authenticate(token)
    service(connection.app.state, SessionLimits).pages.take(token)
    connection.scope["user"] = principal
    return principal


def check_origin(connection: Connection) -> None:
    """Refuse a request that changes something unless a page of this console has made it.

    Raises:
        Forbidden: ``cross_origin_refused``: ``Sec-Fetch-Site`` is not ``same-origin``, or without it ``Origin`` is not
            this host, or the request has neither.
    """
    if connection.scope.get("method") in ("GET", "HEAD"):
        return
    fetched, origin = connection.headers.get("sec-fetch-site"), connection.headers.get("origin")
    if fetched is not None:
        is_own = fetched == "same-origin"
    else:
        is_own = origin is not None and urlsplit(origin).netloc == connection.headers.get("host")
    if not is_own:
        raise Forbidden(
            "the request does not come from a page of this console: open the page again and repeat it there",
            code=codes.CROSS_ORIGIN_REFUSED,
        )


def check_confidential(connection: Connection) -> None:
    """Refuse to take a password over a connection that others can read.

    Raises:
        Forbidden: ``insecure_connection``: the connection is plain HTTP and does not stay on this machine.
    """
    if not is_confidential(connection) and not service(connection.app.state, AppSettings).admin_insecure:
        raise Forbidden(
            "this connection is not encrypted, so others could read the password: put a proxy with TLS before the app "
            "(docs/how-to/tls.md), or open the console on the machine itself",
            code=codes.INSECURE_CONNECTION,
        )


def is_confidential(connection: Connection) -> bool:
    """Return whether the browser's connection is encrypted, or stays on its machine.

    The app itself speaks plain HTTP. Its address (``ADDRESS``) says that a proxy with TLS is in front of it; headers do
    not, because anybody can send them.
    """
    given = connection.headers.get("host", "")
    host = urlsplit(f"//{given}").hostname or ""
    if is_loopback_host(host) or host == "localhost" or host.endswith(".localhost"):
        return True
    own = urlsplit(service(connection.app.state, AppSettings).address)
    return connection.scope["scheme"] == "https" or (own.scheme, own.netloc) == ("https", given)


def own_origin(connection: Connection) -> str:
    """Return the scheme and host by which the browser reaches the app; a proxy with TLS may be in front of it."""
    given = connection.headers.get("host", "")
    own = urlsplit(service(connection.app.state, AppSettings).address)
    scheme = own.scheme if own.netloc == given else connection.scope["scheme"]
    return f"{scheme}://{given}"


def find_cookie(connection: Connection) -> str | None:
    """Return the session token of a browser. API tokens do not count, because pages do not check their scope."""
    token = connection.cookies.get(service(connection.app.state, Console).cookie) or None
    return None if token is None or token.startswith(API_TOKEN_PREFIX) else token


def session_cookie(connection: Connection, token: str) -> Cookie:
    """Return the cookie of a session; an empty token removes it."""
    return Cookie(
        key=service(connection.app.state, Console).cookie,
        value=token,
        path="/admin",
        max_age=MAX_AGE_S if token else 0,
        httponly=True,
        samesite="lax",
        secure=is_confidential(connection),
    )


def sign_in_path(connection: Connection) -> str:
    """Return the address of the sign-in page that leads back to this one."""
    path = connection.url.path + (f"?{connection.url.query}" if connection.url.query else "")
    return f"/admin/login?next={quote(path)}"


def next_path(given: Any) -> str:
    """Return the address to go to after the sign-in: a path of the console, whatever a link says.

    It is short, because a cookie holds it.
    """
    path = given if isinstance(given, str) and len(given) <= _MAX_PATH else ""
    is_plain = path.isascii() and path.isprintable() and "\\" not in path
    # A browser takes %2e for a dot.
    is_own = path.startswith("/admin/") and ".." not in unquote(path.partition("?")[0])
    return path if is_plain and is_own else START
