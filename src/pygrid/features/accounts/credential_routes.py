"""Routes of invitations, lost passwords and API tokens."""

from __future__ import annotations

from typing import Any

from litestar import delete, get, post
from litestar.params import JSONBody

from pygrid.core.access import Credential, Permission
from pygrid.features.accounts.browser_login import LINK_S, BrowserLogins
from pygrid.features.accounts.service import AccountService
from pygrid.messages import accounts as messages
from pygrid.storage.api_tokens import ApiTokenRow
from pygrid.web.addresses import client_address, client_agent
from pygrid.web.auth import SESSION, find_token, require
from pygrid.web.parameters import PathId
from pygrid.web.problems import describe_problems
from pygrid.web.requests import AppRequest
from pygrid.web.services import service

_MADE = describe_problems(400, 403, 404, 409, 413, 429)
_READ = describe_problems(400, 403)
_GONE = describe_problems(400, 403, 404)
_may_invite = require(Permission.CREATE_USERS)


@post("/users/invitations", status_code=201, guards=[_may_invite], security=SESSION, responses=_MADE)
async def invite(request: AppRequest, data: JSONBody[messages.InviteRequest]) -> messages.NewUserInvitation:
    """Invite a person to create an account with this e-mail and role; only this answer contains the ``code``.

    It replaces an earlier invitation of the e-mail, so a repeated call leaves one.
    """
    accounts = service(request.app.state, AccountService)
    row, code = await accounts.invite(request.user, data.email, data.role, data.expires_in_h)
    return messages.NewUserInvitation(True, row, code)


@get("/users/invitations", guards=[_may_invite], security=SESSION, responses=_READ)
async def list_invitations(request: AppRequest) -> messages.UserInvitations:
    """List the open invitations, oldest first."""
    found = await service(request.app.state, AccountService).list_invitations(request.user)
    return messages.UserInvitations(True, found)


@delete(
    "/users/invitations/{invitation_id:int}", status_code=200, guards=[_may_invite], security=SESSION, responses=_GONE
)
async def withdraw_invitation(request: AppRequest, invitation_id: PathId) -> messages.Done:
    """End an open invitation."""
    await service(request.app.state, AccountService).withdraw_invitation(request.user, invitation_id)
    return messages.Done(True)


@post("/users/invitations/accept", status_code=200, responses=_MADE)
async def accept_invitation(request: AppRequest, data: JSONBody[messages.CodeRequest]) -> messages.CodeAccepted:
    """Create the account of an invitation, with the password in the request. The code works once."""
    accounts = service(request.app.state, AccountService)
    user = await accounts.accept_invitation(data.code, data.password, client_address(request))
    return messages.CodeAccepted(True, user.email)


@post("/users/{user_id:int}/password-reset", status_code=201, guards=[require()], security=SESSION, responses=_MADE)
async def make_reset(
    request: AppRequest, user_id: PathId, data: JSONBody[messages.ResetRequest]
) -> messages.NewPasswordReset:
    """Make a code with which a user can choose a new password; only this answer contains it.

    It needs the rights for a change of the password. It replaces an earlier code of the user.
    """
    accounts = service(request.app.state, AccountService)
    user, code, expires_at = await accounts.make_reset(request.user, user_id, data.expires_in_h)
    return messages.NewPasswordReset(True, user.email, code, expires_at)


@post("/users/password-reset", status_code=200, responses=_MADE)
async def reset_password(request: AppRequest, data: JSONBody[messages.CodeRequest]) -> messages.CodeAccepted:
    """Set the password of the code's user; ends their sessions, API tokens and private key. The code works once."""
    accounts = service(request.app.state, AccountService)
    user = await accounts.reset_password(data.code, data.password, client_address(request))
    return messages.CodeAccepted(True, user.email)


@post("/users/me/tokens", status_code=201, guards=[require()], security=SESSION, responses=_MADE)
async def make_token(request: AppRequest, data: JSONBody[messages.ApiTokenRequest]) -> messages.NewApiToken:
    """Make an API token of the caller; only this answer contains its text."""
    row, text = await service(request.app.state, AccountService).make_api_token(
        request.user, data.name, Credential(data.scope), data.expires_in_days
    )
    return messages.NewApiToken(True, _token(row), text)


@get("/users/me/tokens", guards=[require()], security=SESSION, responses=_READ)
async def list_tokens(request: AppRequest) -> messages.ApiTokenList:
    """List the caller's API tokens, oldest first."""
    found = await service(request.app.state, AccountService).list_api_tokens(request.user)
    return messages.ApiTokenList(True, [_token(row) for row in found])


@delete("/users/me/tokens/{token_id:int}", status_code=200, guards=[require()], security=SESSION, responses=_GONE)
async def revoke_token(request: AppRequest, token_id: PathId) -> messages.Done:
    """End an API token of the caller."""
    await service(request.app.state, AccountService).revoke_api_token(request.user, request.user.user_id, token_id)
    return messages.Done(True)


@get("/users/{user_id:int}/tokens", guards=[require()], security=SESSION, responses=_GONE)
async def list_tokens_of(request: AppRequest, user_id: PathId) -> messages.ApiTokenList:
    """List the API tokens of a user, oldest first. It needs the rights for a change of the user's password."""
    found = await service(request.app.state, AccountService).list_api_tokens_of(request.user, user_id)
    return messages.ApiTokenList(True, [_token(row) for row in found])


@delete(
    "/users/{user_id:int}/tokens/{token_id:int}", status_code=200, guards=[require()], security=SESSION, responses=_GONE
)
async def revoke_token_of(request: AppRequest, user_id: PathId, token_id: PathId) -> messages.Done:
    """End an API token of a user. It needs the rights for a change of the user's password."""
    await service(request.app.state, AccountService).revoke_api_token(request.user, user_id, token_id)
    return messages.Done(True)


@post("/users/login/code", status_code=200, responses=_MADE)
async def log_in_by_code(request: AppRequest, data: JSONBody[messages.BrowserLoginRequest]) -> messages.LoginResponse:
    """Begin a session with a one-time code, which the page ``/admin/terminal`` shows to a signed-in user."""
    logins = service(request.app.state, BrowserLogins)
    session = await logins.redeem(data.code, data.verifier, client_address(request), client_agent(request))
    return messages.LoginResponse(True, session.token, session.expires_in_s)


@post("/users/browser-link", status_code=201, guards=[require()], security=SESSION, responses=_READ)
async def make_browser_link(request: AppRequest) -> messages.BrowserLink:
    """Make a link that opens the web console as the caller. It works once, within two minutes."""
    token = find_token(request)
    assert token is not None, "a guard has checked it"
    code = service(request.app.state, BrowserLogins).make_link(request.user, token)
    return messages.BrowserLink(True, f"/admin/enter/{code}", int(LINK_S))


def _token(row: ApiTokenRow) -> messages.ApiTokenInfo:
    scope: Any = row.scope
    return messages.ApiTokenInfo(row.id, row.name, scope, row.created_at, row.expires_at, row.last_used_at)


CREDENTIAL_HANDLERS: list[Any] = [
    *(invite, list_invitations, withdraw_invitation, accept_invitation),
    *(make_reset, reset_password),
    *(make_token, list_tokens, revoke_token, list_tokens_of, revoke_token_of),
    *(log_in_by_code, make_browser_link),
]
