"""Sign-in by an OpenID Connect provider: what its claims say, and which role they lead to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pygrid.core.access import Permission, Role


@dataclass(frozen=True, slots=True)
class ProvidedIdentity:
    """A person, as a provider named them in an answer whose checks have passed.

    Attributes:
        subject: names the person at the issuer for all time; an e-mail can change hands.
        email: empty if the provider named none.
        is_email_verified: the provider has checked that the person receives mail at ``email``.
        groups: values of the claim that roles are mapped from.
    """

    issuer: str
    subject: str
    email: str
    is_email_verified: bool
    groups: frozenset[str]


@dataclass(frozen=True, slots=True)
class RoleMapping:
    """Which role a value of a claim leads to; the first entry that matches counts.

    Attributes:
        claim: name of the claim; a dot leads into an object (``realm_access.roles``).
        entries: pairs of a value of the claim and the name of a role.
        default: name of the role of a person without a match; empty: such a person gets no account.
    """

    claim: str = ""
    entries: tuple[tuple[str, str], ...] = ()
    default: str = ""

    @classmethod
    def parse(cls, claim: str, entries: str, default: str) -> RoleMapping:
        """Read entries like ``grid-admins=Administrator; grid-people=User``, as the settings have checked them."""
        pairs = [entry.rpartition("=") for entry in entries.split(";") if entry.strip()]
        return cls(claim.strip(), tuple((value.strip(), role.strip()) for value, _, role in pairs), default.strip())

    @property
    def decides(self) -> bool:
        """Whether the provider decides on roles at each sign-in, not only at the first one."""
        return bool(self.entries)

    def find_role(self, groups: Iterable[str]) -> str:
        """Return the name of the role of a person with these values of the claim; empty: none."""
        held = frozenset(groups)
        return next((role for value, role in self.entries if value in held), self.default)

    def groups_in(self, claims: Mapping[str, Any]) -> frozenset[str]:
        """Return the values of the claim: a text, or the texts of a list."""
        found: Any = claims.get(self.claim) if self.claim else None
        if found is None and self.claim:
            found = claims
            for name in self.claim.split("."):
                found = found.get(name) if isinstance(found, Mapping) else None
        values = [found] if isinstance(found, str) else found if isinstance(found, list) else []
        return frozenset(value for value in values if isinstance(value, str))


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderConfig:
    """What the operator says about the provider."""

    issuer: str
    client_id: str
    client_secret: str
    scopes: str
    roles: RoleMapping


@dataclass(frozen=True, slots=True)
class PendingSignIn:
    """A sign-in that the provider has not answered.

    Attributes:
        verifier: the secret of PKCE; the provider has only its hash until the code is redeemed.
        redirect_uri: address of this app that the provider leads the browser back to.
        next_path: page of the console to open afterwards.
    """

    nonce: str
    verifier: str
    redirect_uri: str
    next_path: str


@dataclass(frozen=True, slots=True)
class BrowserAnswer:
    """What the provider has sent by the browser.

    Attributes:
        code: empty: the provider has refused the sign-in.
        issuer: the provider that sent the answer, if the answer names it.
    """

    state: str
    code: str
    issuer: str | None


def needs_password(role: Role) -> bool:
    """Whether an account with this role is connected to a provider only by a person who knows its password.

    These are the accounts with power over other accounts. For the others a verified e-mail is enough.
    """
    return not role.permissions.isdisjoint((Permission.CREATE_USERS, Permission.EDIT_ROLES))
