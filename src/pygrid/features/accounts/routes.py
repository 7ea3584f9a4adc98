"""The published routes of accounts: ``/users``, ``/roles``, ``/groups``.

Answers have the published bodies. Refusals are problem documents with the published status. Their member ``error`` is
the published text, which clients of 2020 compare.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from litestar import Response, Router, delete, get, post, put
from litestar.connection import Request
from litestar.exceptions import HTTPException
from litestar.handlers import BaseRouteHandler
from litestar.params import JSONBody, PathParameter

from pygrid.core.access import Permission, Role
from pygrid.core.preconditions import Precondition
from pygrid.errors import PygridError
from pygrid.features.accounts.service import AccountService
from pygrid.features.accounts.signing import KeyedUser
from pygrid.messages.accounts import (
    Done,
    EmailChange,
    GroupInfo,
    GroupRequest,
    GroupResponse,
    GroupsChange,
    GroupsResponse,
    LoginRequest,
    LoginResponse,
    PasswordChange,
    RoleChange,
    RoleDeleted,
    RoleEdit,
    RoleInfo,
    RoleRequest,
    RoleResponse,
    RolesResponse,
    SignUpRequest,
    UserInfo,
    UserResponse,
    UserSearch,
    UsersResponse,
)
from pygrid.storage.accounts import Group, User
from pygrid.web.auth import Connection, authenticate, find_token, require
from pygrid.web.idempotency import repeatable
from pygrid.web.preconditions import IfMatch, tagged
from pygrid.web.problems import answer_unexpected, describe_problems, problem_response, to_problem
from pygrid.web.requests import AppRequest
from pygrid.web.services import service

PathId = Annotated[int, PathParameter(ge=1, le=2**31 - 1)]

_PUBLISHED: dict[str, tuple[int, str]] = {
    "unauthenticated": (400, "Missing request key!"),
    "missing_field": (400, "Missing request key!"),
    "invalid_credentials": (403, "Invalid credentials!"),
    "ambiguous_credentials": (400, "Missing request key!"),
    "not_permitted": (403, "User is not authorized for this operation!"),
    "signup_closed": (403, "User is not authorized for this operation!"),
    "built_in_role": (403, "User is not authorized for this operation!"),
    "last_owner": (403, "User is not authorized for this operation!"),
    "user_not_found": (404, "User ID not found!"),
    "role_not_found": (404, "Role ID not found!"),
    "group_not_found": (404, "Group ID not found!"),
}
"""Published status and text of a code. Other codes keep their status, with their detail as the text."""

_SESSION: list[dict[str, list[str]]] = [{"session": []}]
_READ = describe_problems(400, 403, 404, 413)
_CHANGED = describe_problems(400, 403, 404, 409, 412, 413)
_SIGNED_IN = describe_problems(400, 403, 404, 409, 412, 413, 429)


async def _may_see_users(connection: Connection, handler: BaseRouteHandler) -> None:
    await require(service(connection.app.state, AccountService).access.see_users)(connection, handler)


async def _may_see_roles(connection: Connection, handler: BaseRouteHandler) -> None:
    await require(service(connection.app.state, AccountService).access.see_roles)(connection, handler)


# Users


@post("/users", status_code=200, responses=_SIGNED_IN)
async def sign_up(request: AppRequest, data: JSONBody[SignUpRequest]) -> Response[UserResponse]:
    """Create an account; only this answer contains its ``private_key``.

    The very first account becomes Owner. Later accounts get the role User, unless a caller with ``can_create_users``
    (by session, or by the header ``private-key``) requests another role. A private key can assign only roles that allow
    less than the role of its owner.
    """
    accounts = service(request.app.state, AccountService)
    principal, by_key = None, False
    if find_token(request) is not None:
        principal = await authenticate(request)
    elif private_key := request.headers.get("private-key") or request.headers.get("private_key"):
        principal, by_key = await accounts.authenticate_key(private_key, _address(request)), True
    new = await accounts.sign_up(principal, data, by_key=by_key, address=_address(request))
    return _with_key(request, new)


@post("/users/login", status_code=200, responses=_SIGNED_IN)
async def log_in(request: AppRequest, data: JSONBody[LoginRequest]) -> LoginResponse:
    """Begin a session: a token for the header ``Authorization: Bearer``."""
    session = await service(request.app.state, AccountService).log_in(data.email, data.password, _address(request))
    return LoginResponse(True, session.token, session.expires_in_s)


@post("/users/logout", status_code=200, guards=[require()], security=_SESSION, responses=_READ)
async def log_out(request: AppRequest) -> Done:
    """End the session of this request."""
    await service(request.app.state, AccountService).log_out(request.user, find_token(request) or "")
    return Done(True)


@get("/users", guards=[_may_see_users], security=_SESSION, responses=_READ)
async def list_users(request: AppRequest) -> UsersResponse:
    """List all users, oldest first."""
    return UsersResponse(
        True,
        [
            _user_info(request, user)
            for user in await service(request.app.state, AccountService).list_users(request.user)
        ],
    )


@get("/users/me", guards=[require()], security=_SESSION, responses=_READ)
async def get_me(request: AppRequest) -> Response[UserResponse]:
    """Show the user of this session."""
    return _tagged_user(
        request, await service(request.app.state, AccountService).get_user(request.user, request.user.user_id)
    )


@get("/users/{user_id:int}", guards=[require()], security=_SESSION, responses=_READ)
async def get_user(request: AppRequest, user_id: PathId) -> Response[UserResponse]:
    """Show a user: the caller, or any user to callers who may list users."""
    return _tagged_user(request, await service(request.app.state, AccountService).get_user(request.user, user_id))


@post(
    "/users/search",
    status_code=200,
    guards=[_may_see_users],
    security=_SESSION,
    responses=_READ,
)
async def search_users(request: AppRequest, data: JSONBody[UserSearch]) -> UsersResponse:
    """List the users that match all given criteria."""
    found = await service(request.app.state, AccountService).search_users(
        request.user, data.email, data.role, data.group
    )
    return UsersResponse(True, [_user_info(request, user) for user in found])


@put("/users/{user_id:int}/email", guards=[require()], security=_SESSION, responses=_CHANGED)
async def change_email(
    request: AppRequest, user_id: PathId, data: JSONBody[EmailChange], if_match: IfMatch = None
) -> Response[UserResponse]:
    """Change the caller's e-mail, or with ``can_create_users`` that of a user whose role is not above the caller's."""
    expect = _expect_user(request, if_match)
    return _tagged_user(
        request,
        await service(request.app.state, AccountService).change_email(request.user, user_id, data.email, expect),
    )


@put("/users/{user_id:int}/password", guards=[require()], security=_SESSION, responses=_SIGNED_IN)
async def change_password(
    request: AppRequest, user_id: PathId, data: JSONBody[PasswordChange], if_match: IfMatch = None
) -> Response[UserResponse]:
    """Change a password, with the rights of `change_email`; ends the user's sessions and private key.

    Callers who change their own password lose this session too. They get a new ``private_key``, which only this answer
    contains.
    """
    expect = _expect_user(request, if_match)
    return _with_key(
        request,
        await service(request.app.state, AccountService).change_password(request.user, user_id, data.password, expect),
    )


@post("/users/me/private-key", status_code=200, guards=[require()], security=_SESSION, responses=_READ)
async def rotate_private_key(request: AppRequest) -> Response[UserResponse]:
    """Replace the caller's private key; only this answer contains the new one."""
    return _with_key(
        request, await service(request.app.state, AccountService).rotate_private_key(request.user, request.user.user_id)
    )


@delete("/users/{user_id:int}/private-key", status_code=200, guards=[require()], security=_SESSION, responses=_CHANGED)
async def revoke_private_key(request: AppRequest, user_id: PathId) -> UserResponse:
    """Revoke a private key, with the rights of `change_email`."""
    return UserResponse(
        True,
        _user_info(request, await service(request.app.state, AccountService).revoke_private_key(request.user, user_id)),
    )


@put("/users/{user_id:int}/role", guards=[require()], security=_SESSION, responses=_CHANGED)
async def change_role(
    request: AppRequest, user_id: PathId, data: JSONBody[RoleChange], if_match: IfMatch = None
) -> Response[UserResponse]:
    """Change a user's role and end their sessions. No caller can raise their own role or assign more than they have."""
    expect = _expect_user(request, if_match)
    return _tagged_user(
        request, await service(request.app.state, AccountService).change_role(request.user, user_id, data.role, expect)
    )


@put("/users/{user_id:int}/groups", guards=[require()], security=_SESSION, responses=_CHANGED)
async def change_groups(
    request: AppRequest, user_id: PathId, data: JSONBody[GroupsChange], if_match: IfMatch = None
) -> Response[UserResponse]:
    """Replace the groups of a user."""
    expect = _expect_user(request, if_match)
    return _tagged_user(
        request,
        await service(request.app.state, AccountService).change_groups(request.user, user_id, data.groups, expect),
    )


@delete("/users/{user_id:int}", status_code=200, guards=[require()], security=_SESSION, responses=_CHANGED)
async def delete_user(request: AppRequest, user_id: PathId, if_match: IfMatch = None) -> UserResponse:
    """Delete an account with its sessions and memberships."""
    user = await service(request.app.state, AccountService).delete_user(
        request.user, user_id, _expect_user(request, if_match)
    )
    return UserResponse(True, _user_info(request, user))


# Roles


@post("/roles", status_code=200, guards=[require(Permission.EDIT_ROLES)], security=_SESSION, responses=_CHANGED)
@repeatable(shape=lambda request, role: RoleResponse(True, _role_info(request, role)))
async def create_role(request: AppRequest, data: JSONBody[RoleRequest]) -> RoleResponse:
    """Create a role within the caller's own permissions."""
    return RoleResponse(
        True,
        _role_info(
            request, await service(request.app.state, AccountService).create_role(request.user, data.name, _flags(data))
        ),
    )


@get("/roles", guards=[_may_see_roles], security=_SESSION, responses=_READ)
async def list_roles(request: AppRequest) -> RolesResponse:
    """List all roles, oldest first."""
    return RolesResponse(
        True,
        [
            _role_info(request, role)
            for role in await service(request.app.state, AccountService).list_roles(request.user)
        ],
    )


@get("/roles/{role_id:int}", guards=[_may_see_roles], security=_SESSION, responses=_READ)
async def get_role(request: AppRequest, role_id: PathId) -> Response[RoleResponse]:
    """Show a role."""
    return _tagged_role(request, await service(request.app.state, AccountService).get_role(request.user, role_id))


@put("/roles/{role_id:int}", guards=[require(Permission.EDIT_ROLES)], security=_SESSION, responses=_CHANGED)
async def edit_role(
    request: AppRequest, role_id: PathId, data: JSONBody[RoleEdit], if_match: IfMatch = None
) -> Response[RoleResponse]:
    """Change the given fields of a role, for all of its users."""
    name, expect = None if data.name is msgspec.UNSET else data.name, _expect_role(request, if_match)
    return _tagged_role(
        request,
        await service(request.app.state, AccountService).edit_role(request.user, role_id, name, _flags(data), expect),
    )


@delete(
    "/roles/{role_id:int}",
    status_code=200,
    guards=[require(Permission.EDIT_ROLES)],
    security=_SESSION,
    responses=_CHANGED,
)
async def delete_role(request: AppRequest, role_id: PathId, if_match: IfMatch = None) -> RoleDeleted:
    """Delete a role that no user has."""
    role = await service(request.app.state, AccountService).delete_role(
        request.user, role_id, _expect_role(request, if_match)
    )
    info = _role_info(request, role)
    return RoleDeleted(True, info, info)


# Groups


@post("/groups", status_code=200, guards=[require(Permission.CREATE_GROUPS)], security=_SESSION, responses=_CHANGED)
@repeatable(shape=lambda _request, group: GroupResponse(True, _group_info(group)))
async def create_group(request: AppRequest, data: JSONBody[GroupRequest]) -> GroupResponse:
    """Create a group."""
    return GroupResponse(
        True, _group_info(await service(request.app.state, AccountService).create_group(request.user, data.name))
    )


@get("/groups", guards=[_may_see_users], security=_SESSION, responses=_READ)
async def list_groups(request: AppRequest) -> GroupsResponse:
    """List all groups, oldest first."""
    return GroupsResponse(
        True,
        [_group_info(group) for group in await service(request.app.state, AccountService).list_groups(request.user)],
    )


@get("/groups/{group_id:int}", guards=[_may_see_users], security=_SESSION, responses=_READ)
async def get_group(request: AppRequest, group_id: PathId) -> Response[GroupResponse]:
    """Show a group."""
    return _tagged_group(await service(request.app.state, AccountService).get_group(request.user, group_id))


@put("/groups/{group_id:int}", guards=[require(Permission.CREATE_GROUPS)], security=_SESSION, responses=_CHANGED)
async def rename_group(
    request: AppRequest, group_id: PathId, data: JSONBody[GroupRequest], if_match: IfMatch = None
) -> Response[GroupResponse]:
    """Rename a group."""
    return _tagged_group(
        await service(request.app.state, AccountService).rename_group(
            request.user, group_id, data.name, _expect_group(if_match)
        )
    )


@delete(
    "/groups/{group_id:int}",
    status_code=200,
    guards=[require(Permission.CREATE_GROUPS)],
    security=_SESSION,
    responses=_CHANGED,
)
async def delete_group(request: AppRequest, group_id: PathId, if_match: IfMatch = None) -> GroupResponse:
    """Delete a group; its members stay."""
    return GroupResponse(
        True,
        _group_info(
            await service(request.app.state, AccountService).delete_group(
                request.user, group_id, _expect_group(if_match)
            )
        ),
    )


# Answers


def _role_info(request: AppRequest, role: Role) -> RoleInfo:
    shown = service(request.app.state, AccountService).access.permissions
    return RoleInfo(role.id, role.name, **{str(permission): permission in role.permissions for permission in shown})


def _group_info(group: Group) -> GroupInfo:
    return GroupInfo(group.id, group.name)


def _user_info(request: AppRequest, user: User) -> UserInfo:
    info = UserInfo(user.id, user.email, _role_info(request, user.role))
    if Permission.CREATE_GROUPS in service(request.app.state, AccountService).access.permissions:
        info.groups = [{"id": group.id, "name": group.name} for group in user.groups]
    return info


def _tagged_user(request: AppRequest, user: User) -> Response[UserResponse]:
    info = _user_info(request, user)
    return tagged(UserResponse(True, info), of=info)


def _with_key(request: AppRequest, keyed: KeyedUser) -> Response[UserResponse]:
    """Answer as `_tagged_user` with the new private key, if there is one; the tag does not cover the key."""
    info = _user_info(request, keyed.user)
    shown = _user_info(request, keyed.user)
    if keyed.private_key is not None:
        shown.private_key = keyed.private_key
    return tagged(UserResponse(True, shown), of=info)


def _tagged_role(request: AppRequest, role: Role) -> Response[RoleResponse]:
    info = _role_info(request, role)
    return tagged(RoleResponse(True, info), of=info)


def _tagged_group(group: Group) -> Response[GroupResponse]:
    info = _group_info(group)
    return tagged(GroupResponse(True, info), of=info)


def _expect_role(request: AppRequest, if_match: str | None) -> Callable[[Role], None]:
    return lambda role: Precondition(if_match).check(_role_info(request, role))


def _expect_group(if_match: str | None) -> Callable[[Group], None]:
    return lambda group: Precondition(if_match).check(_group_info(group))


def _expect_user(request: AppRequest, if_match: str | None) -> Callable[[User], None]:
    return lambda user: Precondition(if_match).check(_user_info(request, user))


def _address(request: AppRequest) -> str:
    return request.client.host if request.client else ""


def _flags(data: RoleRequest | RoleEdit) -> dict[Permission, bool]:
    """Return the permissions that a request states."""
    return {permission: value for permission in Permission if (value := getattr(data, permission)) is not msgspec.UNSET}


def _published_problem(problem: dict[str, Any]) -> Response[bytes]:
    status, text = _PUBLISHED.get(problem["code"], (problem["status"], problem["detail"]))
    return problem_response({**problem, "status": status, "error": text})


def _answer_error(request: Request[Any, Any, Any], error: PygridError) -> Response[bytes]:
    return answer_unexpected(request, error) if error.status == 500 else _published_problem(error.to_problem())


def _answer_http_error(_request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    return _published_problem(to_problem(error))


def account_routes(*, with_groups: bool = True) -> list[Any]:
    """Return the routes; they need the service `AccountService`, which is also the app's authenticator."""
    on_error: dict[Any, Any] = {PygridError: _answer_error, HTTPException: _answer_http_error}
    users = [
        *(sign_up, log_in, log_out, list_users, get_me, get_user, search_users),
        *(change_email, change_password, change_role, delete_user, rotate_private_key, revoke_private_key),
        *([change_groups] if with_groups else []),
    ]
    roles = [create_role, list_roles, get_role, edit_role, delete_role]
    groups = [create_group, list_groups, get_group, rename_group, delete_group]
    return [
        Router("/", route_handlers=handlers, tags=[tag], exception_handlers=on_error)
        for tag, handlers in (("users", users), ("roles", roles), ("groups", groups))
        if with_groups or tag != "groups"
    ]
