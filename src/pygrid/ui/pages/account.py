"""The caller's own account, and the pages of one-time links."""

from __future__ import annotations

import datetime as dt

import msgspec
from litestar import Response, get, post
from litestar.datastructures import State

from pygrid import codes
from pygrid.core.access import Credential
from pygrid.errors import InvalidInput, PygridError
from pygrid.features.accounts.oidc.connections import ProviderConnections
from pygrid.features.accounts.service import AccountService
from pygrid.features.accounts.sessions import SessionsService
from pygrid.features.accounts.tokens import ApiTokenRow
from pygrid.messages.accounts import PERMISSIONS
from pygrid.settings import AppSettings
from pygrid.ui.access import (
    START,
    check_confidential,
    find_cookie,
    maybe_signed_in,
    own_origin,
    session_cookie,
    signed_in,
)
from pygrid.ui.confirmation import confirm_password
from pygrid.ui.console import console_of, see_other
from pygrid.ui.forms import MAX_FORM_BYTES, PathId, PathText, read_fields
from pygrid.web.addresses import client_address, client_agent
from pygrid.web.requests import AppRequest
from pygrid.web.services import service


class SessionLine(msgspec.Struct, frozen=True):
    id: str
    label: str
    created_at: dt.datetime
    last_seen_at: dt.datetime
    expires_at: dt.datetime
    is_this: bool


class AccountView(msgspec.Struct, frozen=True):
    email: str
    role: str
    permissions: list[tuple[str, str]]
    sessions: list[SessionLine]
    tokens: list[ApiTokenRow]
    providers: list[tuple[str, dt.datetime]]
    """Issuers of the connected providers, and since when."""
    provider: str
    """Name of the sign-in provider of the app; empty: there is none."""
    new_token: str
    python: str


class OneTimeView(msgspec.Struct, frozen=True):
    action: str
    words: str
    button: str


@get("/me", guards=[signed_in()])
async def account_page(request: AppRequest, state: State) -> Response[bytes]:
    """Show the caller's account, sessions and tokens."""
    return await _account(request, state)


async def _account(
    request: AppRequest, state: State, error: PygridError | None = None, new_token: str = ""
) -> Response[bytes]:
    accounts, sessions, principal = service(state, AccountService), service(state, SessionsService), request.user
    user = await accounts.get_user(principal, principal.user_id)
    token = find_cookie(request)
    assert token is not None, "a guard has checked it"
    this = sessions.session_id(token)
    view = AccountView(
        user.email,
        user.role.name,
        [(str(name), PERMISSIONS.get(name, "")) for name in sorted(user.role.permissions)],
        [
            SessionLine(one.id, one.label, one.created_at, one.last_seen_at, one.expires_at, one.id == this)
            for one in await sessions.list_sessions(principal)
        ],
        await accounts.list_api_tokens(principal),
        [
            (one.issuer, one.created_at)
            for one in await service(state, ProviderConnections).list_identities(principal, principal.user_id)
        ],
        service(state, AppSettings).oidc_shown_name,
        new_token,
        f'domain = pygrid.client.connect("{own_origin(request)}", token="pgt_...")',
    )
    return await console_of(request).page(request, "me.html", "Your account", view, error=error)


@post("/me/password", guards=[signed_in()], request_max_body_size=MAX_FORM_BYTES)
async def change_password(request: AppRequest, state: State) -> Response[bytes]:
    """Change the caller's password, after a check of the present one."""
    check_confidential(request)
    fields, accounts = await read_fields(request), service(state, AccountService)
    principal, address, agent = request.user, client_address(request), client_agent(request)
    try:
        user = await accounts.get_user(principal, principal.user_id)
        # A stolen session must not be enough.
        await accounts.log_in(user.email, fields.get("password", ""), address)
        await accounts.change_password(principal, principal.user_id, fields.get("new_password", ""))
        session = await accounts.log_in(user.email, fields.get("new_password", ""), address, agent=agent)
    except PygridError as error:
        return await _account(request, state, error)
    return see_other("/admin/me", [session_cookie(request, session.token)])


@post("/me/disconnect", guards=[signed_in()], request_max_body_size=MAX_FORM_BYTES)
async def disconnect_account(request: AppRequest, state: State) -> Response[bytes]:
    """Disconnect the caller's account from the sign-in provider, after a check of the password."""
    check_confidential(request)
    fields = await read_fields(request)
    try:
        session = await service(state, ProviderConnections).disconnect_own(
            request.user, fields.get("password", ""), client_address(request), client_agent(request)
        )
    except PygridError as error:
        return await _account(request, state, error)
    return see_other("/admin/me", [session_cookie(request, session.token)])


@post("/me/sessions/{session_id:str}/end", guards=[signed_in()])
async def end_session(request: AppRequest, state: State, session_id: PathText) -> Response[bytes]:
    """End a session of the caller."""
    await service(state, SessionsService).end_session(request.user, session_id)
    return see_other("/admin/me")


@post("/me/sessions/end", guards=[signed_in()], request_max_body_size=MAX_FORM_BYTES)
async def end_other_sessions(request: AppRequest, state: State) -> Response[bytes]:
    """End all sessions of the caller but this one."""
    token, fields = find_cookie(request), await read_fields(request)
    assert token is not None, "a guard has checked it"
    if fields.get("act") != "end":
        raise InvalidInput("choose End all other sessions", code=codes.INVALID_FORM, field="act")
    await service(state, AccountService).end_sessions(request.user, request.user.user_id, token)
    return see_other("/admin/me")


@post("/me/tokens", guards=[signed_in()], request_max_body_size=MAX_FORM_BYTES)
async def make_token(request: AppRequest, state: State) -> Response[bytes]:
    """Make an API token; the page shows its text once."""
    fields = await read_fields(request)
    try:
        scope, days = fields.get("scope", ""), fields.get("days", "").strip()
        if scope not in ("all", "read"):
            raise InvalidInput("choose what the token may do", code=codes.INVALID_FORM, field="scope")
        if days and not (days.isascii() and days.isdigit() and len(days) < 5):
            raise InvalidInput("days is a whole number", code=codes.INVALID_FORM, field="days")
        await confirm_password(request, state, fields, "make an API token")
        _, text = await service(state, AccountService).make_api_token(
            request.user, fields.get("name", "").strip(), Credential(scope), int(days) if days else None
        )
    except PygridError as error:
        return await _account(request, state, error)
    return await _account(request, state, new_token=text)


@post("/me/tokens/{token_id:int}/revoke", guards=[signed_in()])
async def revoke_token(request: AppRequest, state: State, token_id: PathId) -> Response[bytes]:
    """End an API token of the caller."""
    await service(state, AccountService).revoke_api_token(request.user, request.user.user_id, token_id)
    return see_other("/admin/me")


@get("/join/{code:str}", guards=[maybe_signed_in])
async def join_page(request: AppRequest, code: PathText) -> Response[bytes]:
    """Show the form of an invitation. The link itself changes nothing."""
    return await _one_time(request, "join", code)


@post("/join/{code:str}", guards=[maybe_signed_in], request_max_body_size=MAX_FORM_BYTES)
async def join(request: AppRequest, state: State, code: PathText) -> Response[bytes]:
    """Create the account of an invitation, and sign it in."""
    return await _use(request, state, "join", code)


@get("/recover/{code:str}", guards=[maybe_signed_in])
async def recover_page(request: AppRequest, code: PathText) -> Response[bytes]:
    """Show the form of a password reset."""
    return await _one_time(request, "recover", code)


@post("/recover/{code:str}", guards=[maybe_signed_in], request_max_body_size=MAX_FORM_BYTES)
async def recover(request: AppRequest, state: State, code: PathText) -> Response[bytes]:
    """Set the password of a reset, and sign in."""
    return await _use(request, state, "recover", code)


async def _use(request: AppRequest, state: State, page: str, code: str) -> Response[bytes]:
    check_confidential(request)
    accounts, fields, address = service(state, AccountService), await read_fields(request), client_address(request)
    password = fields.get("password", "")
    request.scope["user"] = None
    try:
        use = accounts.accept_invitation if page == "join" else accounts.reset_password
        user = await use(code, password, address)
        session = await accounts.log_in(user.email, password, address, agent=client_agent(request))
    except PygridError as error:
        return await _one_time(request, page, code, error)
    return see_other(START, [session_cookie(request, session.token)])


async def _one_time(request: AppRequest, page: str, code: str, error: PygridError | None = None) -> Response[bytes]:
    request.scope["user"] = None
    app = console_of(request).name
    is_join = page == "join"
    view = OneTimeView(
        f"/admin/{page}/{code}",
        f"You are invited to {app}. Choose a password for your account." if is_join else "Choose a new password.",
        "Make my account" if is_join else "Set the password",
    )
    title = f"Join {app}" if is_join else "New password"
    return await console_of(request).page(request, "one_time.html", title, view, error=error)
