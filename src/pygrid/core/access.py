"""Who may do what: permissions, roles, and the rules by which people hand them on.

The rules rest on one idea: nobody hands out, takes over or takes away more than they have themselves.
"""

from __future__ import annotations

import enum
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from pygrid import codes
from pygrid.errors import Forbidden


class Permission(enum.StrEnum):
    """What a role may allow; the value is its name in the published interface."""

    TRIAGE_REQUESTS = "can_triage_requests"
    EDIT_SETTINGS = "can_edit_settings"
    CREATE_USERS = "can_create_users"
    CREATE_GROUPS = "can_create_groups"
    EDIT_ROLES = "can_edit_roles"
    MANAGE_INFRASTRUCTURE = "can_manage_infrastructure"
    UPLOAD_DATA = "can_upload_data"
    MANAGE_NODES = "can_manage_nodes"
    """Only on a Network: decide which Domains belong to it."""


DOMAIN_PERMISSIONS = tuple(permission for permission in Permission if permission is not Permission.MANAGE_NODES)
"""What a role of a Domain may allow, in the published order."""
NETWORK_PERMISSIONS = (
    Permission.EDIT_SETTINGS,
    Permission.CREATE_USERS,
    Permission.EDIT_ROLES,
    Permission.MANAGE_NODES,
)
"""What a role of a Network may allow, in the published order."""


@dataclass(frozen=True, slots=True)
class Role:
    """A named set of permissions."""

    id: int
    name: str
    permissions: frozenset[Permission]


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is asking: a user of this app, through a session that is good now."""

    user_id: int
    role: Role

    def may(self, permission: Permission) -> bool:
        """Whether the role allows it."""
        return permission in self.role.permissions


USER = Role(1, "User", frozenset())
COMPLIANCE_OFFICER = Role(2, "Compliance Officer", frozenset({Permission.TRIAGE_REQUESTS}))
ADMINISTRATOR = Role(
    3,
    "Administrator",
    frozenset(DOMAIN_PERMISSIONS) - {Permission.EDIT_ROLES, Permission.MANAGE_INFRASTRUCTURE},
)
OWNER = Role(4, "Owner", frozenset(DOMAIN_PERMISSIONS))

DEFAULT_ROLES = (USER, COMPLIANCE_OFFICER, ADMINISTRATOR, OWNER)
"""The roles of a new Domain, with their published ids."""

NETWORK_ROLES = (
    USER,
    Role(
        ADMINISTRATOR.id,
        ADMINISTRATOR.name,
        frozenset({Permission.EDIT_SETTINGS, Permission.CREATE_USERS, Permission.MANAGE_NODES}),
    ),
    Role(OWNER.id, OWNER.name, frozenset(NETWORK_PERMISSIONS)),
)
"""The roles of a new Network; they have the ids of a Domain's, so that one set of rules holds for both."""


@dataclass(frozen=True, slots=True)
class AppAccess:
    """What differs between the apps in who may do what."""

    permissions: tuple[Permission, ...]
    """Those that there are; an app says nothing of others."""
    roles: tuple[Role, ...]
    """Of a new app."""
    see_users: Permission
    """Needed to look at other users and at groups."""
    see_roles: Permission


DOMAIN_ACCESS = AppAccess(
    DOMAIN_PERMISSIONS, DEFAULT_ROLES, see_users=Permission.TRIAGE_REQUESTS, see_roles=Permission.TRIAGE_REQUESTS
)
NETWORK_ACCESS = AppAccess(
    NETWORK_PERMISSIONS, NETWORK_ROLES, see_users=Permission.CREATE_USERS, see_roles=Permission.EDIT_SETTINGS
)


class AccessRefusal(enum.StrEnum):
    """Why a change to an account or a role is refused."""

    MISSING_PERMISSION = "missing_permission"
    TARGET_OUTRANKS = "target_outranks"
    """The target's role allows something that the actor's does not."""
    BEYOND_OWN = "beyond_own"
    """What is to be given allows something that the actor's role does not."""
    BEYOND_KEY = "beyond_key"
    """A private key gives only roles that allow less than the role of its owner, so never the role Owner."""
    LAST_OWNER = "last_owner"
    BUILT_IN = "built_in"
    """The roles User (what newcomers get) and Owner (all permissions) stay as they are."""


def can_manage_user(actor: Principal, target_id: int, target_role: Role) -> AccessRefusal | None:
    """Whether the actor may change e-mail, password or groups of the target: it is them, or somebody not above them."""
    if actor.user_id == target_id:
        return None
    if not actor.may(Permission.CREATE_USERS):
        return AccessRefusal.MISSING_PERMISSION
    if not target_role.permissions <= actor.role.permissions:
        return AccessRefusal.TARGET_OUTRANKS
    return None


def can_give_role(actor: Principal, new_role: Role) -> AccessRefusal | None:
    """Whether the actor may make an account with this role."""
    if not actor.may(Permission.CREATE_USERS):
        return AccessRefusal.MISSING_PERMISSION
    if not new_role.permissions <= actor.role.permissions:
        return AccessRefusal.BEYOND_OWN
    return None


def can_give_role_by_key(actor: Principal, new_role: Role) -> AccessRefusal | None:
    """Whether the private key of the actor may make an account with this role: one that allows less than the actor's
    own.

    A key lies in scripts and lasts longer than a session: one that leaked must not make an account as strong as its
    owner.
    """
    if refusal := can_give_role(actor, new_role):
        return refusal
    return None if new_role.permissions < actor.role.permissions else AccessRefusal.BEYOND_KEY


def can_change_role(
    actor: Principal, target_id: int, target_role: Role, new_role: Role, num_owners: int
) -> AccessRefusal | None:
    """Whether the actor may give the target another role.

    Anyone may step down, that is, take a role within their own permissions; nobody raises themselves. ``num_owners``
    counts the users with the role Owner now: the last one keeps it.
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
    """Whether the actor may make a role with these permissions."""
    if not actor.may(Permission.EDIT_ROLES):
        return AccessRefusal.MISSING_PERMISSION
    if not frozenset(permissions) <= actor.role.permissions:
        return AccessRefusal.BEYOND_OWN
    return None


def can_edit_role(actor: Principal, role: Role, permissions: Iterable[Permission]) -> AccessRefusal | None:
    """Whether the actor may let this role have these permissions, or (with the role's own) rename or delete it."""
    if refusal := can_define_role(actor, permissions):
        return refusal
    if role.id in (USER.id, OWNER.id):
        return AccessRefusal.BUILT_IN
    if not role.permissions <= actor.role.permissions:
        return AccessRefusal.TARGET_OUTRANKS
    return None


class Changes(Protocol):
    """Something to wait for."""

    def wait(self) -> Coroutine[Any, Any, bool]:
        """Wait for the next change after this call."""
        ...


class Authenticator(Protocol):
    """Turns a session token into who it speaks for; the app's state holds it as ``authenticator``."""

    async def authenticate(self, token: str) -> Principal:
        """Raises Unauthenticated: ``invalid_credentials``: not a token of a session that is good now."""
        ...

    async def find_principal(self, token: str) -> Principal | None:
        """Whose session it is, None if it has ended; this does not count as a use of the session."""
        ...

    @property
    def session_changes(self) -> Changes:
        """Wakes what depends on sessions."""
        ...


def not_permitted(permission: Permission) -> Forbidden:
    """The refusal for a missing permission."""
    return Forbidden(f"this needs a role with {permission}", code=codes.NOT_PERMITTED, permission=str(permission))
