"""The use cases of a sign-in by an OpenID Connect provider.

begin ──> the provider's page ──> finish ──> session
                                     └─────> NeedsPassword ──> confirm ──> session

What a sign-in needs until the provider answers is in a sealed cookie, and the code of an answer works once at the
provider. So the app remembers nothing, and sign-ins that others begin take nothing from anybody.

A person is found by issuer and subject. Before the first sign-in there is no such entry; then the verified e-mail finds
the account or the invitation.
"""

from __future__ import annotations

import hmac
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from pygrid import codes
from pygrid.clock import Clock
from pygrid.core import access
from pygrid.core.access import OWNER, USER, Principal, Role
from pygrid.core.addresses import shortened
from pygrid.core.oidc import BrowserAnswer, PendingSignIn, ProvidedIdentity, ProviderConfig, RoleMapping, needs_password
from pygrid.core.user_agents import describe_user_agent
from pygrid.errors import Conflict, Forbidden, InvalidInput, NotFound
from pygrid.features.accounts.oidc.sealed import SealedValues
from pygrid.features.accounts.passwords import hash_of_no_password
from pygrid.features.accounts.service import AccountService
from pygrid.features.accounts.signing import NewSession, normalize_email
from pygrid.ids import hash_secret, new_secret
from pygrid.storage import accounts as store
from pygrid.storage import audit, one_time_codes, provided_identities
from pygrid.storage.accounts import User
from pygrid.storage.audit import NotifiedWrites
from pygrid.storage.sql.database import Database
from pygrid.storage.user_sessions import SESSION_IDLE, put_session

if TYPE_CHECKING:
    from pygrid.features.accounts.oidc.provider import OidcProvider

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NeedsPassword:
    """The account has power over others, so the person proves once that it is theirs.

    Attributes:
        secret: the open confirmation, sealed.
    """

    email: str
    secret: str
    next_path: str


@dataclass(frozen=True, slots=True)
class ProvidedSession:
    """A new session, and the page of the console to open.

    Attributes:
        session: None: a signed-in person has connected their account, and their session goes on.
    """

    session: NewSession | None
    next_path: str


@dataclass(frozen=True, slots=True)
class _Begun:
    state: str
    pending: PendingSignIn
    user_id: int | None
    """The account that is connected by this sign-in; None: the person signs in."""


@dataclass(frozen=True, slots=True)
class _Confirmation:
    identity: ProvidedIdentity
    user_id: int
    next_path: str


class OidcService:
    """Sign-in by the provider of an app, if the operator has named one.

    Args:
        writes: transactions of the audit log.
        secret_key: secret of the app.
    """

    def __init__(
        self,
        database: Database,
        writes: NotifiedWrites,
        clock: Clock,
        accounts: AccountService,
        secret_key: str,
        config: ProviderConfig | None = None,
    ) -> None:
        self.config = config
        self._database = database
        self._writes = writes
        self._clock = clock
        self._accounts = accounts
        self._provider = None if config is None else _make_provider(config, clock)
        self._begun = SealedValues(clock, secret_key, _Begun)
        self._confirmations = SealedValues(clock, secret_key, _Confirmation)

    async def close(self) -> None:
        """Close the connections to the provider."""
        if self._provider is not None:
            await self._provider.close()

    async def begin(
        self, redirect_uri: str, next_path: str, address: str, principal: Principal | None = None
    ) -> tuple[str, str]:
        """Begin a sign-in; return the address of the provider's page, and the value of a cookie of the browser.

        Args:
            address: address of the caller, to limit attempts.
            principal: a signed-in person whose account is connected by the sign-in. The caller has checked their
                password.
        Raises:
            NotFound: ``oidc_not_configured``. Unavailable: ``oidc_unreachable``.
            TooManyRequests: ``too_many_attempts``.
        """
        provider = self._configured()
        self._accounts.attempts.record_sign_in(address)
        state = new_secret()
        pending = PendingSignIn(new_secret(), new_secret(), redirect_uri, next_path)
        user_id = None if principal is None else principal.user_id
        return await provider.address(state, pending), self._begun.seal(_Begun(state, pending, user_id))

    async def finish(
        self, answer: BrowserAnswer, begun_here: str, address: str, agent: str = "", principal: Principal | None = None
    ) -> ProvidedSession | NeedsPassword:
        """Take the answer that the provider has sent by the browser.

        Args:
            begun_here: value of the browser's cookie.
            agent: header ``User-Agent`` of the caller.
            principal: whom the browser's session belongs to.
        Raises:
            Forbidden: ``oidc_state_invalid``: another browser began, or none, or long ago, or the person who connects
                an account has signed out; ``oidc_refused``, ``oidc_answer_invalid``, ``oidc_email_unverified``,
                ``oidc_no_account``, ``oidc_disconnected``.
            Conflict: ``oidc_identity_taken``. NotFound: ``oidc_not_configured``. Unavailable: ``oidc_unreachable``.
        """
        provider = self._configured()
        begun = self._begun.open(begun_here)
        if begun is None or not hmac.compare_digest(begun.state.encode(), answer.state.encode()):
            raise _state_invalid()
        await provider.check_sender(answer.issuer)
        if not answer.code:
            raise Forbidden(
                "the sign-in provider did not sign you in: begin again, or sign in with a password",
                code=codes.OIDC_REFUSED,
            )
        identity = await provider.redeem(answer.code, begun.pending)
        if begun.user_id is not None:
            await self._connect_own(identity, begun.user_id, principal)
            return ProvidedSession(None, begun.pending.next_path)
        found = await self._sign_in(identity, address, agent)
        if isinstance(found, NewSession):
            return ProvidedSession(found, begun.pending.next_path)
        path = begun.pending.next_path
        return NeedsPassword(found.email, self._confirmations.seal(_Confirmation(identity, found.id, path)), path)

    async def confirm(self, secret: str, password: str, address: str, agent: str = "") -> ProvidedSession:
        """Connect an account with power over others to the person of a sign-in, by its password.

        Raises:
            Forbidden: ``oidc_state_invalid``, ``oidc_disconnected``.
            InvalidCredentials: the password is wrong; another try is possible.
            TooManyRequests: as a sign-in.
        """
        waiting = self._confirmations.open(secret)
        if waiting is None:
            raise _state_invalid()
        user = await self._database.read(lambda connection: store.get_user(connection, waiting.user_id))
        session = await self._accounts.log_in(user.email, password, address, agent=agent)

        def connect(connection: sa.Connection) -> None:
            _refuse_disconnected(connection, user)
            self._connect(connection, waiting.identity, user.id)

        await self._writes.write(connect)
        return ProvidedSession(session, waiting.next_path)

    async def _connect_own(self, identity: ProvidedIdentity, user_id: int, principal: Principal | None) -> None:
        """Connect the account of a signed-in person, in place of an earlier person at the provider."""
        if principal is None or principal.user_id != user_id:
            raise _state_invalid()

        def connect(connection: sa.Connection) -> None:
            holder = provided_identities.find_provided_user(connection, identity.issuer, identity.subject)
            if holder not in (None, user_id):
                raise Conflict(
                    "this person at the sign-in provider opens another account here: sign in with that account and "
                    "disconnect it first",
                    code=codes.OIDC_IDENTITY_TAKEN,
                )
            self._connect(connection, identity, user_id)

        await self._writes.write(connect)

    async def _sign_in(self, identity: ProvidedIdentity, address: str, agent: str) -> NewSession | User:
        """Begin a session, or return the account whose password is needed first."""
        token = new_secret()

        def sign_in(connection: sa.Connection) -> User | None:
            now, roles = self._clock.now(), self._mapping
            user_id = provided_identities.find_provided_user(connection, identity.issuer, identity.subject)
            if user_id is None:
                user, is_connected = self._find_account(connection, identity)
                if not is_connected:
                    return user
            else:
                user = store.get_user(connection, user_id)
            if roles.decides:
                self._set_role(connection, user, identity)
            put_session(connection, hash_secret(token), user.id, now, describe_user_agent(agent))
            data = {"user_id": user.id, "from": shortened(address), "by": "oidc"}
            audit.append(connection, "user_logged_in", data, actor=user.id, now=now)
            return None

        unconfirmed = await self._writes.write(sign_in)
        self._accounts.grantors.reset()
        self._accounts.session_changes.notify()
        if unconfirmed is not None:
            return unconfirmed
        logger.info("user logged in", extra={"by": "oidc"})
        return NewSession(token, int(SESSION_IDLE.total_seconds()))

    def _find_account(self, connection: sa.Connection, identity: ProvidedIdentity) -> tuple[User, bool]:
        """Return the account of a person who is here for the first time, and whether it is connected to them."""
        if not identity.is_email_verified or not identity.email:
            raise Forbidden(
                "the sign-in provider does not say that it has checked your e-mail, so it cannot be trusted here: "
                "verify the e-mail at the provider, or sign in with a password",
                code=codes.OIDC_EMAIL_UNVERIFIED,
            )
        try:
            email, email_key = normalize_email(identity.email)
        except InvalidInput as error:
            raise Forbidden(error.detail, code=codes.OIDC_EMAIL_UNVERIFIED) from error
        found = store.find_password_hash(connection, email_key)
        if found is None:
            return self._create(connection, identity, email, email_key), True
        user = store.get_user(connection, found[0])
        _refuse_disconnected(connection, user)
        if needs_password(user.role):
            return user, False
        known = provided_identities.list_provided_identities(connection, user.id)
        if any(one.issuer == identity.issuer for one in known):  # an e-mail can change hands
            raise Conflict(
                f"the account of {email} belongs to another person at the sign-in provider: ask an Owner to remove it, "
                "or to disconnect it if it is yours",
                code=codes.OIDC_IDENTITY_TAKEN,
            )
        # Somebody else can have made the account with this e-mail, so what proves their identity ends.
        AccountService.replace_password(connection, user.id, hash_of_no_password(), None)
        self._connect(connection, identity, user.id)
        return user, True

    def _create(self, connection: sa.Connection, identity: ProvidedIdentity, email: str, email_key: str) -> User:
        now = self._clock.now()
        invitation = one_time_codes.find_invitation(connection, email_key)
        role = self._mapped_role(connection, identity)
        if role is None and invitation is not None and invitation.expires_at > now:
            role = _invited_role(connection, invitation)
        if role is None or not store.has_first_owner(connection):
            raise _no_account(email)
        if invitation is not None:
            one_time_codes.delete_code(connection, invitation.id)
        user_id = store.put_user(
            connection,
            email=email,
            password_hash=hash_of_no_password(),
            private_key_hash=hash_secret(new_secret()),
            role_id=role.id,
            now=now,
        )
        data = {"user_id": user_id, "role": role.name, "by": "oidc"}
        audit.append(connection, "user_signed_up", data, actor=user_id, now=now)
        self._connect(connection, identity, user_id)
        return store.get_user(connection, user_id)

    def _connect(self, connection: sa.Connection, identity: ProvidedIdentity, user_id: int) -> None:
        now = self._clock.now()
        provided_identities.put_provided_identity(connection, identity.issuer, identity.subject, user_id, now)
        data = {"user_id": user_id, "issuer": identity.issuer, "subject": identity.subject}
        audit.append(connection, "user_connected", data, actor=user_id, now=now)

    def _set_role(self, connection: sa.Connection, user: User, identity: ProvidedIdentity) -> None:
        """Assign the role that the provider's claims lead to. An Owner stays Owner."""
        if user.role.id == OWNER.id:
            return
        role = self._mapped_role(connection, identity)
        if role is None:
            raise _no_account(user.email)
        if role.id != user.role.id:
            store.update_user_role(connection, user.id, role.id)
            data = {"user_id": user.id, "before": user.role.name, "role": role.name, "by": "oidc"}
            audit.append(connection, "role_changed", data, actor=user.id, now=self._clock.now())

    def _mapped_role(self, connection: sa.Connection, identity: ProvidedIdentity) -> Role | None:
        name = self._mapping.find_role(identity.groups)
        if not name:
            return None
        for role in store.list_roles(connection):
            if role.name == name:
                return role
        raise Forbidden(
            f"the operator's settings PYGRID_OIDC_ROLES and PYGRID_OIDC_DEFAULT_ROLE name the role {name!r}, which "
            "does not exist here: ask an Owner to create it",
            code=codes.OIDC_NO_ACCOUNT,
        )

    @property
    def _mapping(self) -> RoleMapping:
        assert self.config is not None, "a provider has answered"
        return self.config.roles

    def _configured(self) -> OidcProvider:
        if self._provider is None:
            raise no_provider()
        return self._provider


def _make_provider(config: ProviderConfig, clock: Clock) -> OidcProvider:
    from pygrid.features.accounts.oidc.provider import OidcProvider  # needs the extra `oidc`

    return OidcProvider(config, clock)


def _invited_role(connection: sa.Connection, invitation: one_time_codes.CodeRow) -> Role | None:
    """The role of an invitation, if the person who sent it may assign it still."""
    if invitation.created_by is None:
        return None
    role = store.get_role(connection, USER.id if invitation.role_id is None else invitation.role_id)
    return None if access.can_give_role(store.get_principal(connection, invitation.created_by), role) else role


def no_provider() -> NotFound:
    """Return the error of an app without a provider."""
    return NotFound("this app has no sign-in provider: use a password", code=codes.OIDC_NOT_CONFIGURED)


def _refuse_disconnected(connection: sa.Connection, user: User) -> None:
    """Leave a disconnected account and its password as they are, although the provider has verified the e-mail."""
    if provided_identities.is_disconnected(connection, user.id):
        raise Forbidden(
            f"{user.email} was disconnected from the sign-in provider: sign in with the password, and connect it again "
            "under Your account. If you have no password, ask an Owner for a link to set one",
            code=codes.OIDC_DISCONNECTED,
        )


def _no_account(email: str) -> Forbidden:
    return Forbidden(
        f"{email} has no account here, and no role that the sign-in provider's answer leads to: ask an Owner for an "
        "invitation (pygrid user invite) or for a group of the provider that has a role here",
        code=codes.OIDC_NO_ACCOUNT,
    )


def _state_invalid() -> Forbidden:
    return Forbidden(
        "this sign-in was not begun in this browser, has taken over 10 minutes, or is finished: begin again",
        code=codes.OIDC_STATE_INVALID,
    )
