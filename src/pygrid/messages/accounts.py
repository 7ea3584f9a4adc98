"""Messages of accounts: sign-up, login, users, roles, groups."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

Id = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Name = Annotated[str, Meta(min_length=1, max_length=100)]

PERMISSIONS: dict[str, str] = {
    "can_triage_requests": "decide on jobs that others submitted; see users, groups and roles of a Domain",
    "can_edit_settings": "see the roles of a Network",
    "can_create_users": "create, invite, change and remove users whose role is not above the own one",
    "can_create_groups": "create, rename and delete groups",
    "can_edit_roles": "create, change and delete roles within the own permissions",
    "can_manage_infrastructure": "authorize Workers on other machines; join and leave Networks",
    "can_upload_data": "upload datasets, set their policies and budgets, decide on jobs on them",
    "can_host_models": "host processes for devices to train, keep drafts, serve models",
    "can_manage_nodes": "decide on the Domains that join a Network, and invite Domains",
}
"""Each permission, and what it allows, in words for people."""


class SignUpRequest(msgspec.Struct):
    email: str
    password: str
    role: Id | None = None
    """Role id; needs the permission ``can_create_users``."""
    setup_code: str | None = None
    """For the very first account of an app that other machines reach: the code that it showed when it started."""


class LoginRequest(msgspec.Struct):
    email: str
    password: str


class BrowserLoginRequest(msgspec.Struct):
    """A one-time code of the web console, and the secret of the command that asked for it."""

    code: Annotated[str, Meta(min_length=1, max_length=200)]
    verifier: Annotated[str, Meta(min_length=43, max_length=128)]


class BrowserLink(msgspec.Struct):
    """A link that opens the web console; it works once."""

    success: bool
    path: str
    """Append it to the address of the app."""
    expires_in_s: int


class RoleInfo(msgspec.Struct):
    """A role and its permissions: those that the app has."""

    id: int
    name: str
    can_triage_requests: bool | UnsetType = UNSET
    can_edit_settings: bool | UnsetType = UNSET
    can_create_users: bool | UnsetType = UNSET
    can_create_groups: bool | UnsetType = UNSET
    can_edit_roles: bool | UnsetType = UNSET
    can_manage_infrastructure: bool | UnsetType = UNSET
    can_upload_data: bool | UnsetType = UNSET
    can_host_models: bool | UnsetType = UNSET
    can_manage_nodes: bool | UnsetType = UNSET


class UserInfo(msgspec.Struct):
    id: int
    email: str
    role: RoleInfo
    groups: list[dict[str, str | int]] | UnsetType = UNSET
    """Absent on a Network, which has none."""
    private_key: str | UnsetType = UNSET
    """Only in the answer to the request that made it."""


class UserResponse(msgspec.Struct):
    success: bool
    user: UserInfo


class UsersResponse(msgspec.Struct):
    success: bool
    users: list[UserInfo]


class RolesResponse(msgspec.Struct):
    success: bool
    roles: list[RoleInfo]


class LoginResponse(msgspec.Struct):
    """``token``: send it as ``Authorization: Bearer TOKEN`` (or in the header ``token``)."""

    success: bool
    token: str
    expires_in_s: int


class InviteRequest(msgspec.Struct):
    """Invite a person to create an account."""

    email: str
    role: Id | None = None
    """Role id; None: User."""
    expires_in_h: int | None = None
    """1 to 720; None: 72."""


class UserInvitation(msgspec.Struct):
    """An open invitation; ``role`` is the name of the role."""

    id: int
    email: str
    role: str
    invited_by: str | None
    expires_at: dt.datetime


class NewUserInvitation(msgspec.Struct):
    """An invitation and its ``code``, which only this answer contains."""

    success: bool
    invitation: UserInvitation
    code: str


class UserInvitations(msgspec.Struct):
    success: bool
    invitations: list[UserInvitation]


class ResetRequest(msgspec.Struct):
    expires_in_h: int | None = None
    """1 to 720; None: 24."""


class NewPasswordReset(msgspec.Struct):
    """A ``code`` with which the user can choose a new password; only this answer contains it."""

    success: bool
    email: str
    code: str
    expires_at: dt.datetime


class CodeRequest(msgspec.Struct):
    """A one-time code, and the password that its user chooses."""

    code: Annotated[str, Meta(min_length=1, max_length=200)]
    password: str


class CodeAccepted(msgspec.Struct):
    """The code is used; ``email`` is that of its account, for the sign-in."""

    success: bool
    email: str


class ApiTokenRequest(msgspec.Struct):
    name: Name
    scope: Literal["all", "read"] = "all"
    """``read``: GET requests only."""
    expires_in_days: int | None = None
    """1 to 366; None: 90."""


class ApiTokenInfo(msgspec.Struct):
    """An API token, without its text."""

    id: int
    name: str
    scope: Literal["all", "read"]
    created_at: dt.datetime
    expires_at: dt.datetime
    last_used_at: dt.datetime | None
    """To within five minutes."""


class NewApiToken(msgspec.Struct):
    """A new API token; only this answer contains its text ``token``."""

    success: bool
    api_token: ApiTokenInfo
    token: str


class ApiTokenList(msgspec.Struct):
    success: bool
    api_tokens: list[ApiTokenInfo]


class EmailChange(msgspec.Struct):
    email: str


class PasswordChange(msgspec.Struct):
    password: str


class RoleChange(msgspec.Struct):
    role: Id


class GroupsChange(msgspec.Struct):
    """The groups a user is in from now on, all of them."""

    groups: Annotated[list[Id], Meta(max_length=1000)]


class UserSearch(msgspec.Struct):
    """At least one of them; ``email`` matches a part of the text, ``role`` is an id."""

    email: str | None = None
    role: Id | None = None
    group: Id | str | None = None
    """Part of the name of a group, or the id of one."""


class _Permissions(msgspec.Struct):
    can_triage_requests: bool | UnsetType = UNSET
    can_edit_settings: bool | UnsetType = UNSET
    can_create_users: bool | UnsetType = UNSET
    can_create_groups: bool | UnsetType = UNSET
    can_edit_roles: bool | UnsetType = UNSET
    can_manage_infrastructure: bool | UnsetType = UNSET
    can_upload_data: bool | UnsetType = UNSET
    can_host_models: bool | UnsetType = UNSET
    can_manage_nodes: bool | UnsetType = UNSET


class RoleRequest(_Permissions, kw_only=True):
    """A new role; every permission that the app has is stated. Without ``can_host_models``: as ``can_upload_data``."""

    name: Name


class RoleEdit(_Permissions, kw_only=True):
    """What is absent stays as it is."""

    name: Name | UnsetType = UNSET


class RoleResponse(msgspec.Struct):
    success: bool
    role: RoleInfo


class RoleDeleted(msgspec.Struct):
    """The published answer names the deleted role ``user``."""

    success: bool
    role: RoleInfo
    user: RoleInfo


class GroupRequest(msgspec.Struct):
    name: Name


class GroupInfo(msgspec.Struct):
    id: int
    name: str


class GroupResponse(msgspec.Struct):
    success: bool
    group: GroupInfo


class GroupsResponse(msgspec.Struct):
    success: bool
    groups: list[GroupInfo]


class Done(msgspec.Struct):
    success: bool
