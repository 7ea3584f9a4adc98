"""The published routes of accounts: ``/users``, ``/roles``, ``/groups``.

Answers have the published bodies. Refusals are problem documents with the published status. Their member ``error`` is
the published text, which clients of 2020 compare. Guards only identify the caller: as published, the body is checked
before the permission, which the service checks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import msgspec
from litestar import Response, Router, delete, get, post, put
from litestar.params import JSONBody

from pygrid.core import access
from pygrid.core.access import Permission, Role
from pygrid.core.preconditions import Precondition
from pygrid.features.accounts.credential_routes import CREDENTIAL_HANDLERS
from pygrid.features.accounts.forms import find_caller, find_private_key, needs_private_key, present
from pygrid.features.accounts.service import AccountService
from pygrid.features.accounts.signing import KeyedUser
from pygrid.messages import accounts as messages
from pygrid.storage.accounts import Group, User
from pygrid.web.addresses import client_address, client_agent
from pygrid.web.auth import SESSION, authenticate, find_bearer, find_token, needs_session, require
from pygrid.web.idempotency import Handler, repeatable
from pygrid.web.parameters import PathId
from pygrid.web.preconditions import IfMatch, tagged
from pygrid.web.problems import describe_problems
from pygrid.web.published import Area, exception_handlers
from pygrid.web.requests import AppRequest
from pygrid.web.services import service

_READ = describe_problems(400, 403, 404, 413)
_CHANGED = describe_problems(400, 403, 404, 409, 412, 413)
_SIGNED_IN = describe_problems(400, 403, 404, 409, 412, 413, 429)


def _accounts(request: AppRequest) -> AccountService:
    return service(request.app.state, AccountService)


# Users


@post("/users", status_code=200, responses=_SIGNED_IN)
async def sign_up(request: AppRequest, data: JSONBody[messages.SignUpRequest]) -> Response[messages.UserResponse]:
    """Create an account; only this answer contains its ``private_key``.

    The very first account becomes Owner. Later accounts get the role User, unless a caller with ``can_create_users``
    (by session, or by the header ``private-key``) requests another role. A private key alone can assign only roles that
    allow less than the role of its owner. As published, the header ``token`` without ``private-key`` has no effect.
    """
    key, address = find_private_key(request), client_address(request)
    if find_bearer(request) is not None:
        new = await _accounts(request).sign_up(await authenticate(request), data, address=address)
    else:
        principal = await authenticate(request) if key and find_token(request) else None
        new = await _accounts(request).sign_up_by_key(principal, key, data, address)
    return _with_key(request, new)


@post("/users/login", status_code=200, responses=_SIGNED_IN)
async def log_in(request: AppRequest, data: JSONBody[messages.LoginRequest]) -> messages.LoginResponse:
    """Begin a session: a token for the header ``Authorization: Bearer``.

    A header ``private-key`` must have the key of the account.
    """
    key, address = find_private_key(request), client_address(request)
    session = await _accounts(request).log_in(data.email, data.password, address, key, client_agent(request))
    return messages.LoginResponse(True, session.token, session.expires_in_s)


@post("/users/logout", status_code=200, guards=[require()], security=SESSION, responses=_READ)
async def log_out(request: AppRequest) -> messages.Done:
    """End the session of this request."""
    await _accounts(request).log_out(await find_caller(request), find_token(request) or "")
    return messages.Done(True)


@get("/users", guards=[require()], security=SESSION, responses=_READ)
async def list_users(request: AppRequest) -> messages.UsersResponse:
    """List all users, oldest first."""
    found = await _accounts(request).list_users(await find_caller(request))
    return messages.UsersResponse(True, [present(request).user(user) for user in found])


@get("/users/me", guards=[require()], security=SESSION, responses=_READ)
async def get_me(request: AppRequest) -> Response[messages.UserResponse]:
    """Show the user of this session."""
    caller = await find_caller(request)
    return _tagged_user(request, await _accounts(request).get_user(caller, caller.user_id))


@get("/users/{user_id:int}", guards=[require()], security=SESSION, responses=_READ)
async def get_user(request: AppRequest, user_id: PathId) -> Response[messages.UserResponse]:
    """Show a user: the caller, or any user to callers who may list users."""
    return _tagged_user(request, await _accounts(request).get_user(await find_caller(request), user_id))


@post("/users/search", status_code=200, guards=[require()], security=SESSION, responses=_READ, opt={"reads": True})
async def search_users(request: AppRequest, data: JSONBody[messages.UserSearch]) -> messages.UsersResponse:
    """List the users that match all given criteria."""
    caller = await find_caller(request)
    found = await _accounts(request).search_users(caller, data.email, data.role, data.group)
    return messages.UsersResponse(True, [present(request).user(user) for user in found])


@put("/users/{user_id:int}/email", guards=[require()], security=SESSION, responses=_CHANGED)
async def change_email(
    request: AppRequest, user_id: PathId, data: JSONBody[messages.EmailChange], if_match: IfMatch = None
) -> Response[messages.UserResponse]:
    """Change the caller's e-mail, or with ``can_create_users`` that of a user whose role is not above the caller's."""
    caller, expect = await find_caller(request), _expect_user(request, if_match)
    return _tagged_user(request, await _accounts(request).change_email(caller, user_id, data.email, expect))


@put("/users/{user_id:int}/password", guards=[require()], security=SESSION, responses=_SIGNED_IN)
async def change_password(
    request: AppRequest, user_id: PathId, data: JSONBody[messages.PasswordChange], if_match: IfMatch = None
) -> Response[messages.UserResponse]:
    """Change a password, with the rights of `change_email`; ends the user's sessions and private key.

    Callers who change their own password lose this session too. They get a new ``private_key``, which only this answer
    contains.
    """
    caller, expect = await find_caller(request), _expect_user(request, if_match)
    return _with_key(request, await _accounts(request).change_password(caller, user_id, data.password, expect))


@post("/users/me/private-key", status_code=200, guards=[require()], security=SESSION, responses=_READ)
async def rotate_private_key(request: AppRequest) -> Response[messages.UserResponse]:
    """Replace the caller's private key; only this answer contains the new one."""
    caller = await find_caller(request)
    return _with_key(request, await _accounts(request).rotate_private_key(caller, caller.user_id))


@delete("/users/{user_id:int}/private-key", status_code=200, guards=[require()], security=SESSION, responses=_CHANGED)
async def revoke_private_key(request: AppRequest, user_id: PathId) -> messages.UserResponse:
    """Revoke a private key, with the rights of `change_email`."""
    user = await _accounts(request).revoke_private_key(await find_caller(request), user_id)
    return messages.UserResponse(True, present(request).user(user))


@put("/users/{user_id:int}/role", guards=[require()], security=SESSION, responses=_CHANGED)
async def change_role(
    request: AppRequest, user_id: PathId, data: JSONBody[messages.RoleChange], if_match: IfMatch = None
) -> Response[messages.UserResponse]:
    """Change a user's role and end their sessions. No caller can raise their own role or assign more than they have."""
    caller, expect = await find_caller(request), _expect_user(request, if_match)
    return _tagged_user(request, await _accounts(request).change_role(caller, user_id, data.role, expect))


@put("/users/{user_id:int}/groups", guards=[require()], security=SESSION, responses=_CHANGED)
async def change_groups(
    request: AppRequest, user_id: PathId, data: JSONBody[messages.GroupsChange], if_match: IfMatch = None
) -> Response[messages.UserResponse]:
    """Replace the groups of a user."""
    caller, expect = await find_caller(request), _expect_user(request, if_match)
    return _tagged_user(request, await _accounts(request).change_groups(caller, user_id, data.groups, expect))


@delete("/users/{user_id:int}", status_code=200, guards=[require()], security=SESSION, responses=_CHANGED)
async def delete_user(request: AppRequest, user_id: PathId, if_match: IfMatch = None) -> messages.UserResponse:
    """Delete an account with its sessions and memberships."""
    caller, expect = await find_caller(request), _expect_user(request, if_match)
    return messages.UserResponse(
        True, present(request).user(await _accounts(request).delete_user(caller, user_id, expect))
    )


# Roles


def _may(permission: Permission) -> Handler:
    """Return a check that the caller has a permission. The use case reads the body before, as published."""

    async def check(request: AppRequest, **_: object) -> None:
        access.require(await find_caller(request), permission)

    return check


@post("/roles", status_code=200, guards=[require()], security=SESSION, responses=_CHANGED)
@repeatable(
    shape=lambda request, role: messages.RoleResponse(True, present(request).role(role)),
    check=_may(Permission.EDIT_ROLES),
)
async def create_role(request: AppRequest, data: JSONBody[messages.RoleRequest]) -> messages.RoleResponse:
    """Create a role within the caller's own permissions."""
    flags = present(request).new_flags(data)
    caller = await find_caller(request)
    return messages.RoleResponse(
        True, present(request).role(await _accounts(request).create_role(caller, data.name, flags))
    )


@get("/roles", guards=[require()], security=SESSION, responses=_READ)
async def list_roles(request: AppRequest) -> messages.RolesResponse:
    """List all roles, oldest first."""
    found = await _accounts(request).list_roles(await find_caller(request))
    return messages.RolesResponse(True, [present(request).role(role) for role in found])


@get("/roles/{role_id:int}", guards=[require()], security=SESSION, responses=_READ)
async def get_role(request: AppRequest, role_id: PathId) -> Response[messages.RoleResponse]:
    """Show a role."""
    return _tagged_role(request, await _accounts(request).get_role(await find_caller(request), role_id))


@put("/roles/{role_id:int}", guards=[require()], security=SESSION, responses=_CHANGED)
async def edit_role(
    request: AppRequest, role_id: PathId, data: JSONBody[messages.RoleEdit], if_match: IfMatch = None
) -> Response[messages.RoleResponse]:
    """Change the given fields of a role, for all of its users."""
    caller, expect = await find_caller(request), _expect_role(request, if_match)
    name, flags = None if data.name is msgspec.UNSET else data.name, present(request).flags(data)
    return _tagged_role(request, await _accounts(request).edit_role(caller, role_id, name, flags, expect))


@delete("/roles/{role_id:int}", status_code=200, guards=[require()], security=SESSION, responses=_CHANGED)
async def delete_role(request: AppRequest, role_id: PathId, if_match: IfMatch = None) -> messages.RoleDeleted:
    """Delete a role that no user has."""
    caller, expect = await find_caller(request), _expect_role(request, if_match)
    info = present(request).role(await _accounts(request).delete_role(caller, role_id, expect))
    return messages.RoleDeleted(True, info, info)


# Groups


@post("/groups", status_code=200, guards=[require()], security=SESSION, responses=_CHANGED)
@repeatable(
    shape=lambda request, group: messages.GroupResponse(True, present(request).group(group)),
    check=_may(Permission.CREATE_GROUPS),
)
async def create_group(request: AppRequest, data: JSONBody[messages.GroupRequest]) -> messages.GroupResponse:
    """Create a group."""
    group = await _accounts(request).create_group(await find_caller(request), data.name)
    return messages.GroupResponse(True, present(request).group(group))


@get("/groups", guards=[require()], security=SESSION, responses=_READ)
async def list_groups(request: AppRequest) -> messages.GroupsResponse:
    """List all groups, oldest first."""
    found = await _accounts(request).list_groups(await find_caller(request))
    return messages.GroupsResponse(True, [present(request).group(group) for group in found])


@get("/groups/{group_id:int}", guards=[require()], security=SESSION, responses=_READ)
async def get_group(request: AppRequest, group_id: PathId) -> Response[messages.GroupResponse]:
    """Show a group."""
    return _tagged_group(request, await _accounts(request).get_group(await find_caller(request), group_id))


@put("/groups/{group_id:int}", guards=[require()], security=SESSION, responses=_CHANGED)
async def rename_group(
    request: AppRequest, group_id: PathId, data: JSONBody[messages.GroupRequest], if_match: IfMatch = None
) -> Response[messages.GroupResponse]:
    """Rename a group."""
    caller, expect = await find_caller(request), _expect_group(request, if_match)
    return _tagged_group(request, await _accounts(request).rename_group(caller, group_id, data.name, expect))


@delete("/groups/{group_id:int}", status_code=200, guards=[require()], security=SESSION, responses=_CHANGED)
async def delete_group(request: AppRequest, group_id: PathId, if_match: IfMatch = None) -> messages.GroupResponse:
    """Delete a group; its members stay."""
    caller, expect = await find_caller(request), _expect_group(request, if_match)
    return messages.GroupResponse(
        True, present(request).group(await _accounts(request).delete_group(caller, group_id, expect))
    )


# Answers


def _tagged_user(request: AppRequest, user: User) -> Response[messages.UserResponse]:
    info = present(request).user(user)
    return tagged(messages.UserResponse(True, info), of=info)


def _with_key(request: AppRequest, keyed: KeyedUser) -> Response[messages.UserResponse]:
    """Answer as `_tagged_user` with the new private key, if there is one; the tag does not cover the key."""
    shown = present(request).user(keyed.user, keyed.private_key)
    return tagged(messages.UserResponse(True, shown), of=present(request).user(keyed.user))


def _tagged_role(request: AppRequest, role: Role) -> Response[messages.RoleResponse]:
    info = present(request).role(role)
    return tagged(messages.RoleResponse(True, info), of=info)


def _tagged_group(request: AppRequest, group: Group) -> Response[messages.GroupResponse]:
    info = present(request).group(group)
    return tagged(messages.GroupResponse(True, info), of=info)


def _expect_role(request: AppRequest, if_match: str | None) -> Callable[[Role], None]:
    return lambda role: Precondition(if_match).check(present(request).role(role))


def _expect_group(request: AppRequest, if_match: str | None) -> Callable[[Group], None]:
    return lambda group: Precondition(if_match).check(present(request).group(group))


def _expect_user(request: AppRequest, if_match: str | None) -> Callable[[User], None]:
    return lambda user: Precondition(if_match).check(present(request).user(user))


@cache
def account_routes(*, with_groups: bool = True) -> list[Any]:
    """Return the routes; they need the service `AccountService`, which is also the app's authenticator."""
    on_error = exception_handlers(Area.ACCOUNTS)
    users = [
        *(sign_up, log_in, log_out, list_users, get_me, get_user, search_users),
        *(change_email, change_password, change_role, delete_user, rotate_private_key, revoke_private_key),
        *([change_groups] if with_groups else []),
    ]
    roles = [create_role, list_roles, get_role, edit_role, delete_role]
    groups = [create_group, list_groups, get_group, rename_group, delete_group]
    return [
        Router("/", route_handlers=handlers, tags=[tag], exception_handlers=on_error, guards=guards)
        for tag, handlers, guards in (
            ("users", users, [needs_session]),
            ("users", CREDENTIAL_HANDLERS, [needs_session, needs_private_key]),
            ("roles", roles, [needs_session]),
            ("groups", groups, [needs_session]),
        )
        if with_groups or tag != "groups"
    ]
