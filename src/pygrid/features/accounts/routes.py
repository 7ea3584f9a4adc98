"""The published routes of accounts: ``/users``, ``/roles``, ``/groups``.

Answers have the published bodies. Refusals are problem documents with the published status, and the published text as
the member ``error``, which clients of 2020 compare.
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
"""Status and text that the published interface gives to a code; another code keeps its own, its detail being the text.
"""

_SESSION: list[dict[str, list[str]]] = [{"session": []}]
_ASKED = describe_problems(400, 403, 404, 413)
_CHANGED = describe_problems(400, 403, 404, 409, 412, 413)
_SIGNED_IN = describe_problems(400, 403, 404, 409, 412, 413, 429)


async def _may_see_users(connection: Connection, handler: BaseRouteHandler) -> None:
    await require(service(connection.app.state, AccountService).access.see_users)(connection, handler)


async def _may_see_roles(connection: Connection, handler: BaseRouteHandler) -> None:
    await require(service(connection.app.state, AccountService).access.see_roles)(connection, handler)


# Users


@post("/users", status_code=200, responses=_SIGNED_IN)
async def sign_up(request: AppRequest, data: JSONBody[SignUpRequest]) -> Response[UserResponse]:
    """Make an account; ``private_key`` is in this answer and never again.

    The first account of all becomes Owner. Later ones get the role User, unless the caller shows an account with
    ``can_create_users`` (by session, or in the header ``private-key``) and asks for a role. A private key gives only
    roles that allow less than the role of its owner.
    """
    accounts = service(request.app.state, AccountService)
    actor, by_key = None, False
    if find_token(request) is not None:
        actor = await authenticate(request)
    elif private_key := request.headers.get("private-key") or request.headers.get("private_key"):
        actor, by_key = await accounts.authenticate_key(private_key, _address(request)), True
    new = await accounts.sign_up(
        data.email,
        data.password,
        data.role,
        actor=actor,
        by_key=by_key,
        setup_code=data.setup_code,
        address=_address(request),
    )
    return _with_key(request, new)


@post("/users/login", status_code=200, responses=_SIGNED_IN)
async def log_in(request: AppRequest, data: JSONBody[LoginRequest]) -> LoginResponse:
    """Begin a session: a token for the header ``Authorization: Bearer``."""
    session = await service(request.app.state, AccountService).log_in(data.email, data.password, _address(request))
    return LoginResponse(True, session.token, session.expires_in_s)


@post("/users/logout", status_code=200, guards=[require()], security=_SESSION, responses=_ASKED)
async def log_out(request: AppRequest) -> Done:
    """End the session that the request came with."""
    await service(request.app.state, AccountService).log_out(request.user, find_token(request) or "")
    return Done(True)


@get("/users", guards=[_may_see_users], security=_SESSION, responses=_ASKED)
async def list_users(request: AppRequest) -> UsersResponse:
    """All users, oldest first."""
    return UsersResponse(
        True, [_user_info(request, user) for user in await service(request.app.state, AccountService).list_users()]
    )


@get("/users/me", guards=[require()], security=_SESSION, responses=_ASKED)
async def get_me(request: AppRequest) -> Response[UserResponse]:
    """The user whose session it is."""
    return _tagged_user(
        request, await service(request.app.state, AccountService).get_user(request.user, request.user.user_id)
    )


@get("/users/{user_id:int}", guards=[require()], security=_SESSION, responses=_ASKED)
async def get_user(request: AppRequest, user_id: PathId) -> Response[UserResponse]:
    """A user: oneself, or anyone for who may list users."""
    return _tagged_user(request, await service(request.app.state, AccountService).get_user(request.user, user_id))


@post(
    "/users/search",
    status_code=200,
    guards=[_may_see_users],
    security=_SESSION,
    responses=_ASKED,
)
async def search_users(request: AppRequest, data: JSONBody[UserSearch]) -> UsersResponse:
    """Users that match everything given."""
    found = await service(request.app.state, AccountService).search_users(data.email, data.role, data.group)
    return UsersResponse(True, [_user_info(request, user) for user in found])


@put("/users/{user_id:int}/email", guards=[require()], security=_SESSION, responses=_CHANGED)
async def change_email(
    request: AppRequest, user_id: PathId, data: JSONBody[EmailChange], if_match: IfMatch = None
) -> Response[UserResponse]:
    """One's own, or with ``can_create_users`` that of a user who is not above oneself."""
    expect = _expect_user(request, if_match)
    return _tagged_user(
        request,
        await service(request.app.state, AccountService).change_email(request.user, user_id, data.email, expect),
    )


@put("/users/{user_id:int}/password", guards=[require()], security=_SESSION, responses=_SIGNED_IN)
async def change_password(
    request: AppRequest, user_id: PathId, data: JSONBody[PasswordChange], if_match: IfMatch = None
) -> Response[UserResponse]:
    """As for the e-mail; ends the user's sessions (also this one, if it is one's own) and private key.

    One who changes their own password gets a new ``private_key``, in this answer and never again.
    """
    expect = _expect_user(request, if_match)
    return _with_key(
        request,
        await service(request.app.state, AccountService).change_password(request.user, user_id, data.password, expect),
    )


@post("/users/me/private-key", status_code=200, guards=[require()], security=_SESSION, responses=_ASKED)
async def rotate_private_key(request: AppRequest) -> Response[UserResponse]:
    """Make a new private key; it is in this answer and never again, and the one before is invalid."""
    return _with_key(
        request, await service(request.app.state, AccountService).rotate_private_key(request.user, request.user.user_id)
    )


@delete("/users/{user_id:int}/private-key", status_code=200, guards=[require()], security=_SESSION, responses=_CHANGED)
async def revoke_private_key(request: AppRequest, user_id: PathId) -> UserResponse:
    """Make a private key invalid: one's own, or with ``can_create_users`` that of a user who is not above oneself."""
    return UserResponse(
        True,
        _user_info(request, await service(request.app.state, AccountService).revoke_private_key(request.user, user_id)),
    )


@put("/users/{user_id:int}/role", guards=[require()], security=_SESSION, responses=_CHANGED)
async def change_role(
    request: AppRequest, user_id: PathId, data: JSONBody[RoleChange], if_match: IfMatch = None
) -> Response[UserResponse]:
    """Nobody raises themselves or gives more than they have; ends the user's sessions."""
    expect = _expect_user(request, if_match)
    return _tagged_user(
        request, await service(request.app.state, AccountService).change_role(request.user, user_id, data.role, expect)
    )


@put("/users/{user_id:int}/groups", guards=[require()], security=_SESSION, responses=_CHANGED)
async def change_groups(
    request: AppRequest, user_id: PathId, data: JSONBody[GroupsChange], if_match: IfMatch = None
) -> Response[UserResponse]:
    """The groups the user is in from now on, all of them."""
    expect = _expect_user(request, if_match)
    return _tagged_user(
        request,
        await service(request.app.state, AccountService).change_groups(request.user, user_id, data.groups, expect),
    )


@delete("/users/{user_id:int}", status_code=200, guards=[require()], security=_SESSION, responses=_CHANGED)
async def delete_user(request: AppRequest, user_id: PathId, if_match: IfMatch = None) -> UserResponse:
    """Remove an account with its sessions and memberships."""
    user = await service(request.app.state, AccountService).delete_user(
        request.user, user_id, _expect_user(request, if_match)
    )
    return UserResponse(True, _user_info(request, user))


# Roles


@post("/roles", status_code=200, guards=[require(Permission.EDIT_ROLES)], security=_SESSION, responses=_CHANGED)
@repeatable(shape=lambda request, role: RoleResponse(True, _role_info(request, role)))
async def create_role(request: AppRequest, data: JSONBody[RoleRequest]) -> RoleResponse:
    """A new role within one's own permissions."""
    return RoleResponse(
        True,
        _role_info(
            request, await service(request.app.state, AccountService).create_role(request.user, data.name, _flags(data))
        ),
    )


@get("/roles", guards=[_may_see_roles], security=_SESSION, responses=_ASKED)
async def list_roles(request: AppRequest) -> RolesResponse:
    """All roles, oldest first."""
    return RolesResponse(
        True, [_role_info(request, role) for role in await service(request.app.state, AccountService).list_roles()]
    )


@get("/roles/{role_id:int}", guards=[_may_see_roles], security=_SESSION, responses=_ASKED)
async def get_role(request: AppRequest, role_id: PathId) -> Response[RoleResponse]:
    """One role."""
    return _tagged_role(request, await service(request.app.state, AccountService).get_role(role_id))


@put("/roles/{role_id:int}", guards=[require(Permission.EDIT_ROLES)], security=_SESSION, responses=_CHANGED)
async def edit_role(
    request: AppRequest, role_id: PathId, data: JSONBody[RoleEdit], if_match: IfMatch = None
) -> Response[RoleResponse]:
    """What is given changes, for everyone who has the role."""
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
    """Remove a role that nobody has."""
    role = await service(request.app.state, AccountService).delete_role(
        request.user, role_id, _expect_role(request, if_match)
    )
    info = _role_info(request, role)
    return RoleDeleted(True, info, info)


# Groups


@post("/groups", status_code=200, guards=[require(Permission.CREATE_GROUPS)], security=_SESSION, responses=_CHANGED)
@repeatable(shape=lambda _request, group: GroupResponse(True, _group_info(group)))
async def create_group(request: AppRequest, data: JSONBody[GroupRequest]) -> GroupResponse:
    """A new group."""
    return GroupResponse(True, _group_info(await service(request.app.state, AccountService).create_group(data.name)))


@get("/groups", guards=[_may_see_users], security=_SESSION, responses=_ASKED)
async def list_groups(request: AppRequest) -> GroupsResponse:
    """All groups, oldest first."""
    return GroupsResponse(
        True, [_group_info(group) for group in await service(request.app.state, AccountService).list_groups()]
    )


@get("/groups/{group_id:int}", guards=[_may_see_users], security=_SESSION, responses=_ASKED)
async def get_group(request: AppRequest, group_id: PathId) -> Response[GroupResponse]:
    """One group."""
    return _tagged_group(await service(request.app.state, AccountService).get_group(group_id))


@put("/groups/{group_id:int}", guards=[require(Permission.CREATE_GROUPS)], security=_SESSION, responses=_CHANGED)
async def rename_group(
    request: AppRequest, group_id: PathId, data: JSONBody[GroupRequest], if_match: IfMatch = None
) -> Response[GroupResponse]:
    """Give a group another name."""
    return _tagged_group(
        await service(request.app.state, AccountService).rename_group(group_id, data.name, _expect_group(if_match))
    )


@delete(
    "/groups/{group_id:int}",
    status_code=200,
    guards=[require(Permission.CREATE_GROUPS)],
    security=_SESSION,
    responses=_CHANGED,
)
async def delete_group(request: AppRequest, group_id: PathId, if_match: IfMatch = None) -> GroupResponse:
    """Remove a group; its members stay."""
    return GroupResponse(
        True,
        _group_info(await service(request.app.state, AccountService).delete_group(group_id, _expect_group(if_match))),
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
    """As `_tagged_user`, with the private key if there is a new one; the tag is that of the user without it."""
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
    """The permissions that a request states."""
    return {permission: value for permission in Permission if (value := getattr(data, permission)) is not msgspec.UNSET}


def _published_problem(problem: dict[str, Any]) -> Response[bytes]:
    status, text = _PUBLISHED.get(problem["code"], (problem["status"], problem["detail"]))
    return problem_response({**problem, "status": status, "error": text})


def _answer_error(request: Request[Any, Any, Any], error: PygridError) -> Response[bytes]:
    return answer_unexpected(request, error) if error.status == 500 else _published_problem(error.to_problem())


def _answer_http_error(_request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    return _published_problem(to_problem(error))


def account_routes(*, with_groups: bool = True) -> list[Any]:
    """The routes; they need the service `AccountService`, which is the app's authenticator too."""
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
