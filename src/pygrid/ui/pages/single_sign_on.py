"""Sign-in by an OpenID Connect provider, to its page and back, and how a signed-in person connects their account."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import msgspec
from litestar import Response, get, post
from litestar.datastructures import Cookie, State
from litestar.params import FromQuery

from pygrid import codes
from pygrid.core.access import Principal
from pygrid.core.oidc import BrowserAnswer
from pygrid.errors import Forbidden, PygridError
from pygrid.features.accounts.oidc.sealed import SIGN_IN_S
from pygrid.features.accounts.oidc.service import NeedsPassword, OidcService, no_provider
from pygrid.features.accounts.service import AccountService
from pygrid.features.accounts.sessions import SessionsService
from pygrid.settings import AppSettings
from pygrid.ui.access import (
    START,
    check_confidential,
    find_cookie,
    is_confidential,
    maybe_signed_in,
    next_path,
    session_cookie,
    signed_in,
)
from pygrid.ui.confirmation import confirm_password
from pygrid.ui.console import Console, console_of, see_other
from pygrid.ui.forms import MAX_FORM_BYTES, read_fields, read_form
from pygrid.ui.pages.sign_in import show_login
from pygrid.web.addresses import client_address, client_agent
from pygrid.web.requests import AppRequest
from pygrid.web.services import service

CALLBACK = "/admin/oidc/callback"


class ConfirmForm(msgspec.Struct):
    secret: str = ""
    email: str = ""
    password: str = ""


class ConfirmView(msgspec.Struct, frozen=True):
    problem: dict[str, Any] | None
    email: str
    secret: str
    provider: str


class ConnectView(msgspec.Struct, frozen=True):
    email: str
    provider: str


@get("/oidc/start", guards=[maybe_signed_in])
async def begin(
    request: AppRequest, state: State, next: FromQuery[str] = "", connect: FromQuery[str] = ""
) -> Response[bytes]:
    """Lead the browser to the provider; with ``connect=1`` to connect the caller's account."""
    if request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        raise Forbidden(
            "a page of another site cannot begin a sign-in: open the console and begin there",
            code=codes.CROSS_ORIGIN_REFUSED,
        )
    check_confidential(request)
    person = await _confirmed_person(request, state) if connect else None
    if connect and person is None:
        return see_other("/admin/me")
    request.scope["user"] = None
    try:
        url, begun_here = await service(state, OidcService).begin(
            _callback(request), next_path(next), client_address(request), person
        )
    except PygridError as error:
        return await show_login(request, error, next_path(next))
    return see_other(url, [_cookie(request, begun_here)])


@get("/oidc/callback", guards=[maybe_signed_in])
async def finish(request: AppRequest, code: FromQuery[str] = "", iss: FromQuery[str | None] = None) -> Response[bytes]:
    """Take the provider's answer, and begin the session."""
    principal: Principal | None = request.scope["user"]
    request.scope["user"] = None
    oidc, begun_here = service(request.app.state, OidcService), request.cookies.get(_cookie_name(request), "")
    answer = BrowserAnswer(request.query_params.get("state", ""), code, iss)
    try:
        found = await oidc.finish(answer, begun_here, client_address(request), client_agent(request), principal)
    except PygridError as error:
        return await show_login(request, error, START)
    if isinstance(found, NeedsPassword):
        return await _ask(request, None, found.email, found.secret)
    session = [] if found.session is None else [session_cookie(request, found.session.token)]
    return see_other(found.next_path, [*session, _cookie(request, "")])


@post("/oidc/confirm", guards=[maybe_signed_in], request_max_body_size=MAX_FORM_BYTES)
async def confirm(request: AppRequest, state: State) -> Response[bytes]:
    """Connect an account by its password."""
    check_confidential(request)
    form = await read_form(request, ConfirmForm)
    request.scope["user"] = None
    try:
        found = await service(state, OidcService).confirm(
            form.secret, form.password, client_address(request), client_agent(request)
        )
    except PygridError as error:
        if error.code in (codes.OIDC_STATE_INVALID, codes.OIDC_DISCONNECTED):
            return await show_login(request, error, START)
        return await _ask(request, error, form.email, form.secret)
    assert found.session is not None, "the password began one"
    return see_other(found.next_path, [session_cookie(request, found.session.token), _cookie(request, "")])


@post("/me/connect", guards=[signed_in()], request_max_body_size=MAX_FORM_BYTES)
async def connect(request: AppRequest, state: State) -> Response[bytes]:
    """Show the link to the provider, whose sign-in connects the caller's account.

    A browser follows no form to another site (``form-action``), so a link begins the sign-in.
    """
    provider = service(state, AppSettings).oidc_shown_name
    if not provider:
        raise no_provider()
    await confirm_password(request, state, await read_fields(request), f"connect your account with {provider}")
    user = await service(state, AccountService).get_user(request.user, request.user.user_id)
    view = ConnectView(user.email, provider)
    return await console_of(request).page(request, "connect.html", "Connect your account", view)


async def _confirmed_person(request: AppRequest, state: State) -> Principal | None:
    """Return whom the session belongs to, if the password was typed recently."""
    principal: Principal | None = request.scope["user"]
    token = find_cookie(request)
    if principal is None or token is None:
        return None
    return principal if await service(state, SessionsService).is_confirmed(principal, token) else None


async def _ask(request: AppRequest, error: PygridError | None, email: str, secret: str) -> Response[bytes]:
    provider = service(request.app.state, AppSettings).oidc_shown_name
    view = ConfirmView(error.to_problem() if error else None, email, secret, provider)
    status = error.status if error else 200
    return await console_of(request).page(request, "confirm.html", "Confirm your account", view, status=status)


def _callback(request: AppRequest) -> str:
    """Return the address that the provider leads back to: that of the app, or of this machine."""
    own = service(request.app.state, AppSettings).address.rstrip("/")
    if own and urlsplit(own).netloc != request.headers.get("host", ""):
        raise Forbidden(f"the sign-in provider leads to {own}: begin at {own}/admin/", code=codes.OIDC_STATE_INVALID)
    return f"{own or 'http://' + request.headers.get('host', '')}{CALLBACK}"


def _cookie_name(request: AppRequest) -> str:
    return f"{service(request.app.state, Console).cookie}_oidc"


def _cookie(request: AppRequest, value: str) -> Cookie:
    """Return the cookie that binds a sign-in to the browser; an empty value removes it."""
    return Cookie(
        key=_cookie_name(request),
        value=value,
        path="/admin/oidc",
        max_age=SIGN_IN_S if value else 0,
        httponly=True,
        samesite="lax",
        secure=is_confidential(request),
    )
