"""Messages of accounts: sign-up, login, users, roles, groups."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

Id = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Name = Annotated[str, Meta(min_length=1, max_length=100)]


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
    """At least one of them; ``email`` and ``group`` match a part of the text, ``role`` is an id."""

    email: str | None = None
    role: Id | None = None
    group: str | None = None


class _Permissions(msgspec.Struct):
    can_triage_requests: bool | UnsetType = UNSET
    can_edit_settings: bool | UnsetType = UNSET
    can_create_users: bool | UnsetType = UNSET
    can_create_groups: bool | UnsetType = UNSET
    can_edit_roles: bool | UnsetType = UNSET
    can_manage_infrastructure: bool | UnsetType = UNSET
    can_upload_data: bool | UnsetType = UNSET
    can_manage_nodes: bool | UnsetType = UNSET


class RoleRequest(_Permissions, kw_only=True):
    """A new role; every permission that the app has is stated."""

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
