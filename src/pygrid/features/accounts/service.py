"""The use cases of accounts, roles and groups. The rules are in `pygrid.core.access`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from pygrid import codes
from pygrid.core import access
from pygrid.core.access import Permission, Principal, Role, require
from pygrid.errors import InvalidInput
from pygrid.features.accounts.invitations import Invitations
from pygrid.features.accounts.signing import (
    KeyedUser,
    check_may_manage,
    check_password,
    missing_permission,
    normalize_email,
    refuse,
)
from pygrid.ids import hash_secret, new_secret
from pygrid.storage import accounts as store
from pygrid.storage.accounts import Group, User
from pygrid.storage.idempotency import once

logger = logging.getLogger(__name__)

_EDIT_ROLES = Permission.EDIT_ROLES


def anything(_found: object) -> None:
    """Accept any state of the changed object.

    A function in its place raises PreconditionFailed, in the transaction of the change.
    """


class AccountService(Invitations):
    """Use cases of accounts.

    Each method checks everything first; a refusal changes nothing. In addition to the errors that a method lists, it
    raises Forbidden: ``not_permitted`` if the principal lacks a permission, ``last_owner`` if the app would have no
    Owner; and NotFound: ``user_not_found``, ``role_not_found``, ``group_not_found``.
    """

    # Users

    async def list_users(self, principal: Principal) -> list[User]:
        """Return all users, oldest first."""
        require(principal, self.access.see_users)
        return await self._database.read(store.list_users)

    async def get_user(self, principal: Principal, user_id: int) -> User:
        """Return a user: the principal, or with the app's permission to see users any user."""
        if principal.user_id != user_id and not principal.may(self.access.see_users):
            raise missing_permission(self.access.see_users)
        return await self._database.read(lambda connection: store.get_user(connection, user_id))

    async def search_users(
        self, principal: Principal, email: str | None, role_id: int | None, group: str | int | None
    ) -> list[User]:
        """Return the users that match all given criteria.

        Args:
            group: part of the name of a group, or the id of one.
        Raises:
            InvalidInput: ``missing_field``: there are no criteria; ``invalid_search``.
        """
        require(principal, self.access.see_users)
        if email is None and role_id is None and group is None:
            raise InvalidInput("search by at least one of email, role, group", code=codes.MISSING_FIELD)
        for text in (email, group):
            if isinstance(text, str) and not text.isprintable():
                raise InvalidInput("a search text must have only printable characters", code=codes.INVALID_SEARCH)
        return await self._database.read(lambda connection: store.search_users(connection, email, role_id, group))

    async def change_email(
        self, principal: Principal, user_id: int, email: str, expect: Callable[[User], None] = anything
    ) -> User:
        """Change a user's e-mail. Raises Conflict: ``email_taken``; InvalidInput: ``invalid_email``."""
        email, email_key = normalize_email(email)

        def change(connection: sa.Connection) -> User:
            expect(self._manage(connection, principal, user_id))
            store.update_email(connection, user_id, email, email_key)
            self._append(connection, "email_changed", {"user_id": user_id}, principal)
            return store.get_user(connection, user_id)

        user = await self._writes.write(change)
        self.grantors.reset()
        return user

    async def change_password(
        self, principal: Principal, user_id: int, password: str, expect: Callable[[User], None] = anything
    ) -> KeyedUser:
        """Change a user's password, and end all their sessions, API tokens and their private key.

        Users who change their own password get a new key.

        Raises:
            InvalidInput: ``weak_password``. TooManyRequests: ``busy``.
        """
        check_password(password)
        await self._database.read(lambda connection: self._manage(connection, principal, user_id))
        password_hash = await self._passwords.hash(password)
        private_key = new_secret() if principal.user_id == user_id else None

        def change(connection: sa.Connection) -> User:
            user = self._manage(connection, principal, user_id)
            expect(user)
            key_hash = None if private_key is None else hash_secret(private_key)
            self.replace_password(connection, user_id, password_hash, key_hash)
            self._append(connection, "password_changed", {"user_id": user_id}, principal)
            return user

        user = await self._writes.write(change)
        self.session_changes.notify()
        return KeyedUser(user, private_key)

    async def change_role(
        self, principal: Principal, user_id: int, role_id: int, expect: Callable[[User], None] = anything
    ) -> User:
        """Change a user's role and end all their sessions.

        No user can raise their own role; the last Owner stays Owner.
        """

        def change(connection: sa.Connection) -> User:
            num_owners = store.count_owners(connection)
            now_actor = store.get_principal(connection, principal.user_id)
            check_may_manage(now_actor, user_id)
            user, role = store.get_user(connection, user_id), store.get_role(connection, role_id)
            refuse(access.can_change_role(now_actor, user_id, user.role, role, num_owners))
            expect(user)
            store.update_user_role(connection, user_id, role_id)
            data = {"user_id": user_id, "before": user.role.name, "role": role.name}
            self._append(connection, "role_changed", data, principal)
            return store.get_user(connection, user_id)

        user = await self._writes.write(change)
        self.grantors.reset()
        self.session_changes.notify()
        logger.info("role changed", extra={"user_id": user_id, "role": user.role.name, "by_user_id": principal.user_id})
        return user

    async def end_sessions(self, principal: Principal, user_id: int, kept_token: str | None = None) -> int:
        """End the sessions of a user; API tokens and the password stay. Returns the number of ended sessions.

        Args:
            kept_token: of a session that stays.

        Raises:
            Forbidden: ``not_permitted``: as for a change of the user's password.
        """

        def end(connection: sa.Connection) -> int:
            self._manage(connection, principal, user_id)
            kept = None if kept_token is None else hash_secret(kept_token)
            if num_ended := store.release_sessions(connection, user_id, kept):
                self._append(connection, "sessions_ended", {"user_id": user_id, "count": num_ended}, principal)
            return num_ended

        num_ended = await self._writes.write(end)
        self.session_changes.notify()
        return num_ended

    async def change_groups(
        self, principal: Principal, user_id: int, group_ids: Sequence[int], expect: Callable[[User], None] = anything
    ) -> User:
        def change(connection: sa.Connection) -> User:
            expect(self._manage(connection, principal, user_id))
            store.put_memberships(connection, user_id, group_ids)
            return store.get_user(connection, user_id)

        return await self._database.write(change)

    async def delete_user(self, principal: Principal, user_id: int, expect: Callable[[User], None] = anything) -> User:
        """Delete an account with its sessions and memberships, and return it. The last Owner stays."""

        def delete(connection: sa.Connection) -> User:
            num_owners = store.count_owners(connection)
            now_actor = store.get_principal(connection, principal.user_id)
            check_may_manage(now_actor, user_id)
            user = store.get_user(connection, user_id)
            refuse(access.can_delete_user(now_actor, user_id, user.role, num_owners))
            expect(user)
            store.delete_user(connection, user_id)
            self._append(connection, "user_deleted", {"user_id": user_id, "role": user.role.name}, principal)
            return user

        user = await self._writes.write(delete)
        self.grantors.reset()
        self.session_changes.notify()
        logger.info("user deleted", extra={"user_id": user_id, "by_user_id": principal.user_id})
        return user

    # Roles

    async def list_roles(self, principal: Principal) -> list[Role]:
        """Return all roles, oldest first, also to users who assign or edit roles."""
        if not any(map(principal.may, (Permission.CREATE_USERS, Permission.EDIT_ROLES))):
            require(principal, self.access.see_roles)
        return await self._database.read(store.list_roles)

    async def get_role(self, principal: Principal, role_id: int) -> Role:
        require(principal, self.access.see_roles)
        return await self._database.read(lambda connection: store.get_role(connection, role_id))

    async def create_role(self, principal: Principal, name: str, flags: Mapping[Permission, bool]) -> Role:
        """A new role within the principal's own permissions; ``flags`` states each permission that the app has.

        Raises:
            Conflict: ``role_exists``. InvalidInput: ``invalid_name``, ``missing_field``, ``unknown_permission``.
        """
        _check_name(name)
        flags = access.complete_flags(self.access, flags)
        self._check_known(flags)
        wanted = frozenset(permission for permission, given in flags.items() if given)

        def create(connection: sa.Connection) -> Role:
            refuse(access.can_define_role(store.get_principal(connection, principal.user_id), wanted), _EDIT_ROLES)
            role = store.put_role(connection, name, wanted)
            self._append(connection, "role_created", _audited(role), principal)
            return role

        role = await self._writes.write(once(create))
        self.grantors.reset()
        return role

    async def edit_role(
        self,
        principal: Principal,
        role_id: int,
        name: str | None = None,
        changes: Mapping[Permission, bool] | None = None,
        expect: Callable[[Role], None] = anything,
    ) -> Role:
        """Rename a role, or change its permissions for all of its users; the built-in User and Owner cannot change.

        Raises:
            Conflict: ``role_exists``. Forbidden: ``built_in_role``. InvalidInput: ``invalid_name``,
                ``unknown_permission``.
        """
        if name is not None:
            _check_name(name)
        self._check_known(changes or {})

        def edit(connection: sa.Connection) -> Role:
            refuse(access.can_define_role(store.get_principal(connection, principal.user_id), ()), _EDIT_ROLES)
            role = store.get_role(connection, role_id)
            permissions = frozenset(p for p in Permission if (changes or {}).get(p, p in role.permissions))
            now_actor = store.get_principal(connection, principal.user_id)
            refuse(access.can_edit_role(now_actor, role, permissions), _EDIT_ROLES)
            expect(role)
            edited = Role(role.id, role.name if name is None else name, permissions)
            store.update_role(connection, edited)
            self._append(connection, "role_edited", _audited(edited), principal)
            return edited

        role = await self._writes.write(edit)
        self.grantors.reset()
        self.session_changes.notify()
        logger.info("role edited", extra={"role": role.name, "by_user_id": principal.user_id})
        return role

    def _check_known(self, flags: Mapping[Permission, bool]) -> None:
        if unknown := sorted(
            permission for permission, given in flags.items() if given and permission not in self.access.permissions
        ):
            raise InvalidInput(
                f"unknown permission {', '.join(unknown)}; this app has {', '.join(self.access.permissions)}",
                code=codes.UNKNOWN_PERMISSION,
            )

    async def delete_role(self, principal: Principal, role_id: int, expect: Callable[[Role], None] = anything) -> Role:
        """Delete a role that no user has, and return it.

        Raises:
            Conflict: ``role_in_use``. Forbidden: ``built_in_role``.
        """

        def delete(connection: sa.Connection) -> Role:
            now_actor = store.get_principal(connection, principal.user_id)
            refuse(access.can_define_role(now_actor, ()), _EDIT_ROLES)
            role = store.get_role(connection, role_id)
            refuse(access.can_edit_role(now_actor, role, role.permissions), _EDIT_ROLES)
            expect(role)
            store.delete_role(connection, role_id)
            self._append(connection, "role_deleted", {"role_id": role_id, "name": role.name}, principal)
            return role

        role = await self._writes.write(delete)
        self.grantors.reset()
        return role

    # Groups

    async def list_groups(self, principal: Principal) -> list[Group]:
        """Return all groups, oldest first."""
        require(principal, self.access.see_users)
        return await self._database.read(store.list_groups)

    async def get_group(self, principal: Principal, group_id: int) -> Group:
        require(principal, self.access.see_users)
        return await self._database.read(lambda connection: store.get_group(connection, group_id))

    async def create_group(self, principal: Principal, name: str) -> Group:
        """Create a group. Raises Conflict: ``group_exists``; InvalidInput: ``invalid_name``."""
        require(principal, Permission.CREATE_GROUPS)
        _check_name(name)
        return await self._database.write(once(lambda connection: store.put_group(connection, name)))

    async def rename_group(
        self, principal: Principal, group_id: int, name: str, expect: Callable[[Group], None] = anything
    ) -> Group:
        """Rename a group. Raises Conflict: ``group_exists``; InvalidInput: ``invalid_name``."""
        require(principal, Permission.CREATE_GROUPS)
        _check_name(name)

        def rename(connection: sa.Connection) -> Group:
            expect(store.get_group(connection, group_id))
            group = Group(group_id, name)
            store.update_group(connection, group)
            return group

        return await self._database.write(rename)

    async def delete_group(
        self, principal: Principal, group_id: int, expect: Callable[[Group], None] = anything
    ) -> Group:
        """Delete a group and return it. Its members stay."""
        require(principal, Permission.CREATE_GROUPS)

        def delete(connection: sa.Connection) -> Group:
            group = store.get_group(connection, group_id)
            expect(group)
            store.delete_group(connection, group_id)
            return group

        return await self._database.write(delete)


def _audited(role: Role) -> dict[str, Any]:
    return {"role_id": role.id, "name": role.name, "permissions": sorted(role.permissions)}


def _check_name(name: str) -> None:
    if not 1 <= len(name) <= 100 or not name.isprintable() or name != name.strip():
        raise InvalidInput(
            f"the name {name[:80]!r} is not valid: it must have 1 to 100 printable characters, with no space at either "
            "end",
            code=codes.INVALID_NAME,
        )
