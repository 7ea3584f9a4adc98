"""Permissions and roles, and the rules for changing accounts and roles.

All rules follow one principle: nobody assigns, takes over or removes more permissions than they have.
"""

from __future__ import annotations

import enum
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pygrid import codes
from pygrid.errors import Forbidden, InvalidInput, Unauthenticated


class Permission(enum.StrEnum):
    """A permission of a role. The value is its name in the legacy interface."""

    TRIAGE_REQUESTS = "can_triage_requests"
    EDIT_SETTINGS = "can_edit_settings"
    CREATE_USERS = "can_create_users"
    CREATE_GROUPS = "can_create_groups"
    EDIT_ROLES = "can_edit_roles"
    MANAGE_INFRASTRUCTURE = "can_manage_infrastructure"
    UPLOAD_DATA = "can_upload_data"
    HOST_MODELS = "can_host_models"
    """Domain only: host processes for devices to train, and serve models."""
    MANAGE_NODES = "can_manage_nodes"
    """Network only: decide on the Domains that join."""


DOMAIN_PERMISSIONS = tuple(permission for permission in Permission if permission is not Permission.MANAGE_NODES)
"""The permissions of a Domain, in the order of the legacy interface."""
NETWORK_PERMISSIONS = (
    Permission.EDIT_SETTINGS,
    Permission.CREATE_USERS,
    Permission.EDIT_ROLES,
    Permission.MANAGE_NODES,
)
"""The permissions of a Network, in the order of the legacy interface."""


@dataclass(frozen=True, slots=True)
class Role:
    """A named set of permissions."""

    id: int
    name: str
    permissions: frozenset[Permission]


class Credential(enum.StrEnum):
    """How a caller proved who they are."""

    SESSION = "session"
    ALL = "all"
    """An API token for everything but accounts, roles and credentials."""
    READ = "read"
    """An API token that only reads."""


API_TOKEN_PREFIX = "pgt_"
"""Begins each API token, so that scanners of leaked secrets find it."""


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller: a user of this app with a valid session or API token."""

    user_id: int
    role: Role
    credential: Credential = Credential.SESSION

    def may(self, permission: Permission) -> bool:
        return permission in self.role.permissions


USER = Role(1, "User", frozenset())
COMPLIANCE_OFFICER = Role(2, "Compliance Officer", frozenset({Permission.TRIAGE_REQUESTS}))
ADMINISTRATOR = Role(
    3, "Administrator", frozenset(DOMAIN_PERMISSIONS) - {Permission.EDIT_ROLES, Permission.MANAGE_INFRASTRUCTURE}
)
OWNER = Role(4, "Owner", frozenset(DOMAIN_PERMISSIONS))
MODEL_OWNER = Role(5, "Model Owner", frozenset({Permission.HOST_MODELS}))

DEFAULT_ROLES = (USER, COMPLIANCE_OFFICER, ADMINISTRATOR, OWNER, MODEL_OWNER)
"""The roles of a new Domain; 1 to 4 have the ids of the legacy interface."""

NETWORK_ROLES = (
    USER,
    Role(
        ADMINISTRATOR.id,
        ADMINISTRATOR.name,
        frozenset({Permission.EDIT_SETTINGS, Permission.CREATE_USERS, Permission.MANAGE_NODES}),
    ),
    Role(OWNER.id, OWNER.name, frozenset(NETWORK_PERMISSIONS)),
)
"""The roles of a new Network. They have the same ids as those of a Domain, so the same rules apply to both."""


@dataclass(frozen=True, slots=True)
class AppAccess:
    """The access rules that differ between a Domain and a Network."""

    permissions: tuple[Permission, ...]
    """The permissions of the app."""
    roles: tuple[Role, ...]
    """The roles of a new app."""
    see_users: Permission
    """Required to see other users and groups."""
    see_roles: Permission


DOMAIN_ACCESS = AppAccess(
    DOMAIN_PERMISSIONS, DEFAULT_ROLES, see_users=Permission.TRIAGE_REQUESTS, see_roles=Permission.TRIAGE_REQUESTS
)
NETWORK_ACCESS = AppAccess(
    NETWORK_PERMISSIONS, NETWORK_ROLES, see_users=Permission.CREATE_USERS, see_roles=Permission.EDIT_SETTINGS
)


@dataclass(frozen=True, slots=True)
class Grantors:
    """What a refusal tells a user about the app: its name, its roles, and an Owner to ask."""

    app: str
    roles: tuple[Role, ...]
    owner: str | None
    """The e-mail of an Owner. Only signed-in users see it."""


def explain_missing(role: Role, permission: Permission, known: Grantors) -> str:
    """The text for a user whose role lacks a permission: which, on which app, which roles have it, whom to ask."""
    holders = ", ".join(one.name for one in known.roles if permission in one.permissions)
    asked = f"an Owner ({known.owner})" if known.owner else "an Owner"
    return f"your role {role.name} on {known.app} lacks {permission}; ask {asked} for a role that has it: {holders}"


class AccessRefusal(enum.StrEnum):
    """Why a change to an account or a role is refused."""

    MISSING_PERMISSION = "missing_permission"
    TARGET_OUTRANKS = "target_outranks"
    """The role of the target has a permission that the role of the actor lacks."""
    BEYOND_OWN = "beyond_own"
    """The assigned role has a permission that the role of the actor lacks."""
    BEYOND_KEY = "beyond_key"
    """A private key assigns only roles below that of its owner, so never the role Owner."""
    LAST_OWNER = "last_owner"
    BUILT_IN = "built_in"
    """The roles User (of new accounts) and Owner (all permissions) cannot be changed."""


def can_manage_user(actor: Principal, target_id: int, target_role: Role) -> AccessRefusal | None:
    """Whether the actor may change e-mail, password or groups of the target: their own, or those of a user whose role
    is not above theirs.
    """
    if actor.user_id == target_id:
        return None
    if not actor.may(Permission.CREATE_USERS):
        return AccessRefusal.MISSING_PERMISSION
    if not target_role.permissions <= actor.role.permissions:
        return AccessRefusal.TARGET_OUTRANKS
    return None


def can_give_role(actor: Principal, new_role: Role) -> AccessRefusal | None:
    """Whether the actor may create an account with this role."""
    if not actor.may(Permission.CREATE_USERS):
        return AccessRefusal.MISSING_PERMISSION
    if not new_role.permissions <= actor.role.permissions:
        return AccessRefusal.BEYOND_OWN
    return None


def can_give_role_by_key(actor: Principal, new_role: Role) -> AccessRefusal | None:
    """Whether the private key of the actor may create an account with this role: one below the role of the actor.

    A key is stored in scripts and lasts longer than a session. A leaked key must not create an account with the
    permissions of its owner.
    """
    if refusal := can_give_role(actor, new_role):
        return refusal
    return None if new_role.permissions < actor.role.permissions else AccessRefusal.BEYOND_KEY


def can_change_role(
    actor: Principal, target_id: int, target_role: Role, new_role: Role, num_owners: int
) -> AccessRefusal | None:
    """Whether the actor may assign another role to the target.

    Users may lower their own role, but not raise it. ``num_owners`` is the current number of users with the role
    Owner; the last one keeps it.
    """
    if refusal := can_manage_user(actor, target_id, target_role):
        return refusal
    if not new_role.permissions <= actor.role.permissions:
        return AccessRefusal.BEYOND_OWN
    if target_role.id == OWNER.id and new_role.id != OWNER.id and num_owners <= 1:
        return AccessRefusal.LAST_OWNER
    return None


def can_delete_user(actor: Principal, target_id: int, target_role: Role, num_owners: int) -> AccessRefusal | None:
    """Whether the actor may delete the target; the last Owner stays."""
    if refusal := can_manage_user(actor, target_id, target_role):
        return refusal
    if target_role.id == OWNER.id and num_owners <= 1:
        return AccessRefusal.LAST_OWNER
    return None


def can_define_role(actor: Principal, permissions: Iterable[Permission]) -> AccessRefusal | None:
    if not actor.may(Permission.EDIT_ROLES):
        return AccessRefusal.MISSING_PERMISSION
    if not frozenset(permissions) <= actor.role.permissions:
        return AccessRefusal.BEYOND_OWN
    return None


def complete_flags(app: AppAccess, flags: Mapping[Permission, bool]) -> dict[Permission, bool]:
    """Return the permissions that a new role states; clients of 2020 do not know ``can_host_models``.

    Raises:
        InvalidInput: ``missing_field``: it does not state each permission of the app.
    """
    complete = dict(flags)
    if Permission.HOST_MODELS in app.permissions and Permission.UPLOAD_DATA in flags:
        complete.setdefault(Permission.HOST_MODELS, flags[Permission.UPLOAD_DATA])
    if missing := [permission for permission in app.permissions if permission not in complete]:
        raise InvalidInput(
            f"a new role must state each permission; missing: {', '.join(missing)}", code=codes.MISSING_FIELD
        )
    return complete


def can_edit_role(actor: Principal, role: Role, permissions: Iterable[Permission]) -> AccessRefusal | None:
    """Whether the actor may assign these permissions to this role, or rename or delete the role (with its own
    permissions).
    """
    if refusal := can_define_role(actor, permissions):
        return refusal
    if role.id in (USER.id, OWNER.id):
        return AccessRefusal.BUILT_IN
    if not role.permissions <= actor.role.permissions:
        return AccessRefusal.TARGET_OUTRANKS
    return None


class Changes(Protocol):
    """An event that repeats."""

    def wait(self) -> Coroutine[Any, Any, bool]:
        """Wait for the next change after this call."""
        ...


class Authenticator(Protocol):
    """Finds the principal of a session token."""

    async def authenticate(self, token: str) -> Principal:
        """Raises Unauthenticated: ``invalid_credentials``: not the token of a valid session."""
        ...

    async def find_principal(self, token: str) -> Principal | None:
        """The principal of the session, or None if it has ended. This does not count as a use of the session."""
        ...

    def explain_missing(self, principal: Principal, permission: Permission) -> str:
        """The text for a user whose role lacks a permission."""
        ...

    @property
    def session_changes(self) -> Changes:
        """Changes of sessions."""
        ...


def require(principal: Principal | None, permission: Permission | None = None) -> Principal:
    """Return the principal, if they are logged in and, where a permission is named, their role has it.

    Raises:
        Unauthenticated: ``unauthenticated``. Forbidden: ``not_permitted``.
    """
    if principal is None:
        raise not_logged_in()
    if permission is not None and not principal.may(permission):
        raise not_permitted(permission)
    return principal


def not_logged_in() -> Unauthenticated:
    """The refusal for a caller without a session."""
    return Unauthenticated("log in (POST /users/login) and send 'Authorization: Bearer TOKEN' with the token you get")


def session_needed() -> Forbidden:
    """The refusal for an API token that would change an account, a role or a credential."""
    return Forbidden(
        "an API token cannot change accounts, roles or credentials: log in with e-mail and password, and repeat this",
        code=codes.SESSION_NEEDED,
    )


def token_reads_only() -> Forbidden:
    """The refusal for an API token of the scope ``read`` that would change something."""
    return Forbidden(
        "this API token has the scope read, which allows GET requests only: use one with the scope all",
        code=codes.TOKEN_READS_ONLY,
    )


def not_permitted(permission: Permission) -> Forbidden:
    """The error for a missing permission."""
    return Forbidden(f"this needs a role with {permission}", code=codes.NOT_PERMITTED, permission=str(permission))
