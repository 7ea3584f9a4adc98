"""Sign in, sign out, and the first account."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Response, get, post
from litestar.datastructures import State
from litestar.params import FromQuery

from pygrid import codes
from pygrid.core.access import Principal
from pygrid.errors import NotFound, PygridError
from pygrid.features.accounts.service import AccountService
from pygrid.messages.accounts import SignUpRequest
from pygrid.settings import AppSettings
from pygrid.ui.access import (
    START,
    check_confidential,
    find_cookie,
    maybe_signed_in,
    next_path,
    session_cookie,
    signed_in,
)
from pygrid.ui.console import console_of, see_other
from pygrid.ui.forms import MAX_FORM_BYTES, read_form
from pygrid.web.addresses import client_address, client_agent
from pygrid.web.requests import AppRequest
from pygrid.web.services import service


class LoginForm(msgspec.Struct):
    email: str = ""
    password: str = ""
    next: str = ""


class SetupForm(msgspec.Struct):
    email: str = ""
    password: str = ""
    code: str | None = None
    sample: str = ""
    """``1``: load the sample dataset."""


class LoginView(msgspec.Struct, frozen=True):
    problem: dict[str, Any] | None
    email: str
    next: str
    provider: str
    """Name of the sign-in provider; empty: there is none."""


class SetupView(msgspec.Struct, frozen=True):
    problem: dict[str, Any] | None
    email: str
    needs_code: bool
    code: str


@get("/login", guards=[maybe_signed_in])
async def login_page(request: AppRequest, state: State, next: FromQuery[str] = "") -> Response[bytes]:
    """Show the sign-in; while nobody has an account, the set-up."""
    if not await service(state, AccountService).has_owner():
        return see_other("/admin/setup")
    principal: Principal | None = request.scope["user"]
    if principal is not None:
        return see_other(next_path(next))
    return await show_login(request, None, next_path(next))


@post("/login", guards=[maybe_signed_in], request_max_body_size=MAX_FORM_BYTES)
async def log_in(request: AppRequest, state: State) -> Response[bytes]:
    """Begin a session."""
    check_confidential(request)
    form = await read_form(request, LoginForm)
    request.scope["user"] = None
    try:
        session = await service(state, AccountService).log_in(
            form.email, form.password, client_address(request), agent=client_agent(request)
        )
    except PygridError as error:
        return await show_login(request, error, next_path(form.next), form.email)
    return see_other(next_path(form.next), [session_cookie(request, session.token)])


async def show_login(request: AppRequest, error: PygridError | None, next: str, email: str = "") -> Response[bytes]:
    """Return the page of the sign-in, after an error with its text and status."""
    provider = service(request.app.state, AppSettings).oidc_shown_name
    view = LoginView(error.to_problem() if error else None, email, next, provider)
    status = error.status if error else 200
    return await console_of(request).page(request, "login.html", "Sign in", view, status=status)


@post("/logout", guards=[signed_in()])
async def log_out(request: AppRequest, state: State) -> Response[bytes]:
    """End the session."""
    token = find_cookie(request)
    assert token is not None, "a guard has checked it"
    await service(state, AccountService).log_out(request.user, token)
    return see_other("/admin/login", [session_cookie(request, "")])


@get("/setup", guards=[maybe_signed_in])
async def setup_page(request: AppRequest, state: State, code: FromQuery[str] = "") -> Response[bytes]:
    """Show the form of the first account."""
    accounts = service(state, AccountService)
    if await accounts.has_owner():
        raise NotFound("this app has an Owner: sign in", code=codes.PAGE_NOT_FOUND)
    view = SetupView(None, "", accounts.needs_setup_code, code)
    return await console_of(request).page(request, "setup.html", "Set up", view)


@post("/setup", guards=[maybe_signed_in], request_max_body_size=MAX_FORM_BYTES)
async def set_up(request: AppRequest, state: State) -> Response[bytes]:
    """Create the first account, and begin its session."""
    check_confidential(request)
    accounts, form = service(state, AccountService), await read_form(request, SetupForm)
    if await accounts.has_owner():
        raise NotFound("this app has an Owner: sign in", code=codes.PAGE_NOT_FOUND)
    address = client_address(request)
    try:
        await accounts.sign_up(None, SignUpRequest(form.email, form.password, setup_code=form.code), address=address)
        session = await accounts.log_in(form.email, form.password, address, agent=client_agent(request))
        if form.sample == "1" and console_of(request).kind == "domain":
            from pygrid.ui.sample_data import load_sample  # what a Network lacks

            await load_sample(state, await accounts.authenticate(session.token))
    except PygridError as error:
        view = SetupView(error.to_problem(), form.email, accounts.needs_setup_code, form.code or "")
        return await console_of(request).page(request, "setup.html", "Set up", view, status=error.status)
    return see_other(START, [session_cookie(request, session.token)])
