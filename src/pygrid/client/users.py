"""The users and roles of a Domain or a Network, for people with ``can_create_users`` or ``can_edit_roles``.

People are named by e-mail, roles by name. The numbers that the routes use stay in here.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

from pygrid import codes
from pygrid.client.display.tables import Table, TableColumn
from pygrid.client.listing import Listing
from pygrid.client.tokens import ApiTokenTable, revoke_by_name, tokens_of
from pygrid.errors import InvalidInput, NotFound
from pygrid.messages.accounts import (
    PERMISSIONS,
    Done,
    InviteRequest,
    NewPasswordReset,
    NewUserInvitation,
    ResetRequest,
    RoleDeleted,
    RoleInfo,
    RoleResponse,
    RolesResponse,
    UserInfo,
    UserInvitation,
    UserInvitations,
    UserResponse,
    UserSearch,
    UsersResponse,
)
from pygrid.transport import Api


def permissions_of(role: RoleInfo) -> list[str]:
    """The permissions that a role has."""
    return [permission for permission in PERMISSIONS if getattr(role, permission) is True]


class UserTable(Table[UserInfo]):
    """The users of an app."""

    def columns(self) -> Sequence[TableColumn[UserInfo]]:
        return (
            TableColumn("e-mail", lambda user: user.email, weight=5),
            TableColumn("role", lambda user: user.role.name, weight=4),
            TableColumn("groups", _groups, weight=2),
        )


class InvitedTable(Table[UserInvitation]):
    """Open invitations to create an account."""

    def columns(self) -> Sequence[TableColumn[UserInvitation]]:
        return (
            TableColumn("e-mail", lambda invitation: invitation.email, weight=5),
            TableColumn("role", lambda invitation: invitation.role, weight=4),
            TableColumn("until", lambda invitation: f"{invitation.expires_at:%Y-%m-%d %H:%M}", min=16, weight=3),
            TableColumn("invited by", lambda invitation: invitation.invited_by, weight=2),
        )


class RoleTable(Table[RoleInfo]):
    """The roles of an app."""

    def columns(self) -> Sequence[TableColumn[RoleInfo]]:
        return (
            TableColumn("role", lambda role: role.name, weight=5),
            TableColumn("permissions", lambda role: ", ".join(permissions_of(role)) or "(none)", min=26, weight=4),
        )


class PermissionTable(Table[tuple[str, bool]]):
    """Each permission of an app, whether a role has it, and what it allows."""

    def columns(self) -> Sequence[TableColumn[tuple[str, bool]]]:
        return (
            TableColumn("permission", lambda row: row[0], weight=5),
            TableColumn("has it", lambda row: "yes" if row[1] else "no", weight=4),
            TableColumn("allows to", lambda row: PERMISSIONS[row[0]], min=24, weight=3),
        )


class Roles(Listing):
    """``domain.roles()`` lists the roles; ``domain.roles["Model Owner"]`` is one of them."""

    def __call__(self) -> RoleTable:
        """All roles, oldest first. Raises Forbidden: you may not see them."""
        return RoleTable(self._api.get("/roles", RolesResponse).roles)

    def __getitem__(self, name: str) -> RoleInfo:
        """A role by its name; case makes no difference.

        Raises:
            NotFound: there is no such role (``role_not_found``); the message lists the roles.
        """
        roles = self()
        found = [role for role in roles if role.name == name] or [
            role for role in roles if _key(role.name) == _key(name)
        ]
        if len(found) != 1:
            there = ", ".join(role.name for role in roles)
            raise NotFound(f"{self._api.url} has no role {name!r}; it has: {there}", code=codes.ROLE_NOT_FOUND)
        return found[0]

    def add(self, name: str, permissions: Iterable[str]) -> RoleInfo:
        """Create a role with these permissions; you can assign only what you have.

        Raises:
            Conflict: there is a role of this name (``role_exists``).
            InvalidInput: a permission does not exist here (``unknown_permission``).
            Forbidden: you lack can_edit_roles, or one of the permissions.
        """
        known = permissions_on(self["User"])
        wanted = set(permissions)
        if unknown := sorted(wanted.difference(known)):
            raise InvalidInput(
                f"{unknown[0]!r} is not a permission of {self._api.url}; it has: {', '.join(known)}",
                code=codes.UNKNOWN_PERMISSION,
            )
        flags = {permission: permission in wanted for permission in known}
        return self._api.post("/roles", RoleResponse, json={"name": name, **flags}, once=True).role

    def remove(self, name: str) -> None:
        """Delete a role that no user has.

        Raises:
            Conflict: users have it (``role_in_use``). Forbidden: it is built in, or you may not.
        """
        self._api.change("DELETE", f"/roles/{self[name].id}", RoleDeleted)


class Users(Listing):
    """``domain.users()`` lists the users; ``domain.users["ann@example.org"]`` is one of them."""

    def __init__(self, api: Api, roles: Roles) -> None:
        self._api = api
        self._roles = roles

    def __call__(self) -> UserTable:
        """All users, oldest first. Raises Forbidden: you may not see them."""
        return UserTable(self._api.get("/users", UsersResponse).users)

    def __getitem__(self, email: str) -> UserInfo:
        """A user by e-mail.

        Raises:
            NotFound: no account has this e-mail (``user_not_found``).
        """
        search = UserSearch(email=email.strip())
        near = self._api.post("/users/search", UsersResponse, json=search, idempotent=True).users
        for user in near:
            if _key(user.email) == _key(email):
                return user
        hint = f"; did you mean {near[0].email}?" if near else ""
        raise NotFound(f"{self._api.url} has no user {email!r}{hint}", code=codes.USER_NOT_FOUND)

    def add(self, email: str, password: str, role: str = "User") -> UserInfo:
        """Create an account with a password that you choose.

        Raises:
            Conflict: there is an account with this e-mail (``email_taken``).
            Forbidden: you lack can_create_users, or the role has a permission that you lack.
        """
        request = {"email": email, "password": password, "role": self._roles[role].id}
        return self._api.post("/users", UserResponse, json=request).user

    def invite(self, email: str, role: str = "User", *, hours: int = 72) -> NewUserInvitation:
        """Invite a person to create an account; send them the ``code`` of the answer, which is not shown again.

        They use it with ``pygrid account accept URL CODE``, or `accept_invitation` of a client.
        It works once, for ``hours`` (1 to 720). It replaces an earlier invitation of the same e-mail.

        Raises:
            Conflict: there is an account with this e-mail (``email_taken``).
            Forbidden: you lack can_create_users, or the role has a permission that you lack.
        """
        # Without a lookup of the role, a caller who may see no roles gets the refusal that names can_create_users.
        request = InviteRequest(email, None if role == "User" else self._roles[role].id, hours)
        return self._api.post("/users/invitations", NewUserInvitation, json=request)

    def invitations(self) -> InvitedTable:
        """The open invitations, oldest first, without their codes."""
        return InvitedTable(self._api.get("/users/invitations", UserInvitations).invitations)

    def withdraw(self, email: str) -> None:
        """End the invitation of an e-mail. Raises NotFound: there is none (``user_invitation_not_found``)."""
        for invitation in self.invitations():
            if _key(invitation.email) == _key(email):
                self._api.change("DELETE", f"/users/invitations/{invitation.id}", Done)
                return
        raise NotFound(f"{self._api.url} has no open invitation of {email!r}", code=codes.USER_INVITATION_NOT_FOUND)

    def reset_password(self, email: str, *, hours: int = 24) -> NewPasswordReset:
        """Make a code with which a user who lost their password can choose another; it is not shown again.

        They use it with ``pygrid account recover URL CODE``, or `reset_password` of a client.
        It works once, for ``hours`` (1 to 720), and ends their sessions, API tokens and private key.

        Raises:
            Forbidden: you lack can_create_users, or the user's role has a permission that you lack.
        """
        path = f"/users/{self[email].id}/password-reset"
        return self._api.post(path, NewPasswordReset, json=ResetRequest(hours))

    def set_role(self, email: str, role: str) -> UserInfo:
        """Change the role of a user, which ends their sessions.

        Raises:
            Forbidden: you lack can_create_users, the user's role or the new role has a permission that you lack, or
                the user is the last Owner (``last_owner``).
        """
        return self._api.change(
            "PUT", f"/users/{self[email].id}/role", UserResponse, json={"role": self._roles[role].id}
        ).user

    def set_password(self, email: str, password: str) -> None:
        """Set the password of a user, which ends their sessions, their API tokens and their private key."""
        self._api.change("PUT", f"/users/{self[email].id}/password", UserResponse, json={"password": password})

    def tokens(self, email: str) -> ApiTokenTable:
        """The API tokens of a user, oldest first, without their texts.

        Raises:
            Forbidden: you lack can_create_users, or the user's role has a permission that you lack.
        """
        return tokens_of(self._api, self[email].id)

    def revoke_token(self, email: str, name: str) -> None:
        """End an API token of a user, by its name.

        Raises:
            NotFound: the user has no such token (``token_not_found``). Forbidden: as `tokens`.
        """
        revoke_by_name(self._api, self[email].id, name)

    def remove(self, email: str) -> None:
        """Delete an account with its sessions.

        Raises:
            Forbidden: you lack can_create_users, the user's role has a permission that you lack, or the user is the
                last Owner (``last_owner``).
        """
        self._api.change("DELETE", f"/users/{self[email].id}", UserResponse)


def permissions_on(role: RoleInfo) -> list[str]:
    """The permissions that the app of this role has."""
    return [permission for permission in PERMISSIONS if isinstance(getattr(role, permission), bool)]


def _groups(user: UserInfo) -> str:
    return ", ".join(str(group["name"]) for group in user.groups or ())


def _key(text: str) -> str:
    return unicodedata.normalize("NFKC", text.strip()).casefold()
