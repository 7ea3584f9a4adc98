"""Messages of accounts: sign-up, login, users, roles."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType


class SignUpRequest(msgspec.Struct):
    email: str
    password: str
    role: int | None = None
    """Role id; needs the permission ``can_create_users``."""


class LoginRequest(msgspec.Struct):
    email: str
    password: str


class RoleInfo(msgspec.Struct):
    """A role and its permissions."""

    id: int
    name: str
    can_triage_requests: bool
    can_edit_settings: bool
    can_create_users: bool
    can_create_groups: bool
    can_edit_roles: bool
    can_manage_infrastructure: bool
    can_upload_data: bool


class UserInfo(msgspec.Struct):
    id: int
    email: str
    role: RoleInfo
    groups: list[dict[str, str | int]] = []
    private_key: str | UnsetType = UNSET
    """Only in the answer to the sign-up that made it."""


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
