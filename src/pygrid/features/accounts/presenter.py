"""The bodies of users, roles and groups, for the routes and for the messages of clients of 2020."""

from __future__ import annotations

import msgspec

from pygrid.core.access import AppAccess, Permission, Role, complete_flags
from pygrid.messages.accounts import GroupInfo, RoleEdit, RoleInfo, RoleRequest, UserInfo
from pygrid.storage.accounts import Group, User


class AccountPresenter:
    """Describes the accounts of an app.

    Args:
        is_published: in the published form, which lacks ``can_host_models``: it is part of ``can_upload_data`` there.
    """

    def __init__(self, access: AppAccess, *, is_published: bool) -> None:
        self._access = access
        self._has_groups = Permission.CREATE_GROUPS in access.permissions
        self._shown = tuple(
            permission
            for permission in access.permissions
            if not (is_published and permission is Permission.HOST_MODELS)
        )
        self._is_published = is_published

    def role(self, role: Role) -> RoleInfo:
        """Return the body of a role: each permission that the app has."""
        return RoleInfo(role.id, role.name, **{str(one): one in role.permissions for one in self._shown})

    def group(self, group: Group) -> GroupInfo:
        return GroupInfo(group.id, group.name)

    def user(self, user: User, private_key: str | None = None) -> UserInfo:
        """Return the body of a user, with the private key if it is new."""
        info = UserInfo(user.id, user.email, self.role(user.role))
        if self._has_groups:
            info.groups = [{"id": group.id, "name": group.name} for group in user.groups]
        if private_key is not None:
            info.private_key = private_key
        return info

    def flags(self, data: RoleRequest | RoleEdit) -> dict[Permission, bool]:
        stated = {one: value for one in Permission if (value := getattr(data, one)) is not msgspec.UNSET}
        if self._is_published and Permission.UPLOAD_DATA in stated and Permission.HOST_MODELS not in self._shown:
            stated.setdefault(Permission.HOST_MODELS, stated[Permission.UPLOAD_DATA])
        return stated

    def new_flags(self, data: RoleRequest) -> dict[Permission, bool]:
        """Return all permissions of a new role. Raises InvalidInput: ``missing_field``: it does not state each one."""
        return complete_flags(self._access, self.flags(data))
