"""Sign-up, login, sessions and private keys: everything that proves a caller's identity."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa

from pygrid import codes
from pygrid.clock import Clock
from pygrid.core import access
from pygrid.core.access import DOMAIN_ACCESS, OWNER, USER, AccessRefusal, AppAccess, Permission, Principal, Role
from pygrid.core.addresses import shortened
from pygrid.core.user_agents import describe_user_agent
from pygrid.errors import Forbidden, InvalidCredentials, InvalidInput, TooManyRequests
from pygrid.features.accounts.attempts import Attempts, FailureLog
from pygrid.features.accounts.grantors import KnownGrantors
from pygrid.features.accounts.passwords import Passwords, normalize_password
from pygrid.ids import hash_secret, new_secret
from pygrid.messages.accounts import SignUpRequest
from pygrid.storage import accounts as store
from pygrid.storage import audit
from pygrid.storage.accounts import User
from pygrid.storage.audit import NotifiedWrites
from pygrid.storage.one_time_codes import delete_expired_codes
from pygrid.storage.setup_code import SetupCode
from pygrid.storage.sql.database import Database
from pygrid.storage.user_sessions import SESSION_IDLE, end_of_session, put_session


class SessionChanges:
    """Wakes all waiters that depend on a session, when a session has ended or a role has changed."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def notify(self) -> None:
        """Wake all waiters. Call it in the event loop's thread, after the commit."""
        self._changed.set()
        self._changed = asyncio.Event()

    def wait(self) -> Coroutine[Any, Any, bool]:
        """Wait for the next `notify` after this call, not after the first await."""
        return self._changed.wait()


logger = logging.getLogger(__name__)

SESSION_TOUCH = dt.timedelta(minutes=5)
"""Shortest time between two updates of a session's last use, so that not each request writes."""
MIN_PASSWORD, MAX_PASSWORD = 8, 1024

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class KeyedUser:
    """A user and the new private key, which is not stored; None: the user has no private key."""

    user: User
    private_key: str | None


@dataclass(frozen=True, slots=True)
class NewSession:
    """A new session. The token is not stored; it is valid for ``expires_in_s`` after each use, seven days at
    most."""

    token: str
    expires_in_s: int


@dataclass(frozen=True, kw_only=True)
class AccountRules:
    """What differs between the accounts of apps.

    Args:
        app_name: for messages.
        open_signup: anybody may create an account with the role User.
        setup_code: required for the very first account; None: no code is required.
        keys_give_own_role: a private key alone assigns also the role of its owner, as in 2020.
    """

    app_name: str
    open_signup: bool
    access: AppAccess = DOMAIN_ACCESS
    setup_code: SetupCode | None = None
    keys_give_own_role: bool = False


class SignIn:
    """Use cases of credentials; `AccountService` inherits them.

    Args:
        writes: transactions of the audit log.
    """

    def __init__(self, database: Database, writes: NotifiedWrites, clock: Clock, rules: AccountRules) -> None:
        self.access = rules.access
        self.grantors = KnownGrantors(database, rules.app_name)
        self.session_changes = SessionChanges()
        self.failures = FailureLog(writes.write, clock)
        self._database = database
        self._writes = writes
        self._clock = clock
        self._open_signup = rules.open_signup
        self._setup_code = rules.setup_code
        self._keys_give_own_role = rules.keys_give_own_role
        self._passwords = Passwords()
        self.attempts = Attempts(clock)

    def close(self) -> None:
        """End the threads that hash passwords."""
        self._passwords.close()

    # Sign-up and login

    async def has_owner(self) -> bool:
        """Return whether the first account, which becomes Owner, exists."""
        return await self._database.read(store.has_first_owner)

    @property
    def needs_setup_code(self) -> bool:
        """Whether the first account needs the setup code."""
        return self._setup_code is not None

    async def sign_up(
        self, principal: Principal | None, request: SignUpRequest, *, by_key: bool = False, address: str = ""
    ) -> KeyedUser:
        """Create an account. The very first one becomes Owner, with any requested role.

        Later, anonymous callers get the role User; a principal with ``can_create_users`` may choose a role within their
        own.

        Args:
            by_key: the principal used a private key, which assigns only roles below the principal's own, unless
                `AccountRules` allow more.
            address: address of the caller, to limit attempts.
        Raises:
            Conflict: ``email_taken``.
            Forbidden: ``signup_closed``: this app requires ``can_create_users``; ``setup_code_needed``,
                ``setup_code_wrong``.
            InvalidInput: ``invalid_email``, ``weak_password``.
            TooManyRequests: ``busy``, ``too_many_attempts``.
        """
        email, _ = normalize_email(request.email)
        check_password(request.password)
        if await self._database.read(store.has_first_owner):
            self._check_may_sign_up(principal)
            if principal is None:
                self.attempts.record_sign_up(address)
        else:
            self._check_setup_code(request.setup_code, address)
        password_hash = await self._passwords.hash(request.password)
        private_key = new_secret()
        now = self._clock.now()

        def put(connection: sa.Connection) -> User:
            if is_first := store.acquire_first_owner(connection, now):
                role = OWNER
            else:
                self._check_may_sign_up(principal)
                role = store.get_role(connection, USER.id)
                if principal is not None and request.role is not None:
                    role = self._role_to_give(connection, principal, request.role, by_key)
            user_id = store.put_user(
                connection,
                email=email,
                password_hash=password_hash,
                private_key_hash=hash_secret(private_key),
                role_id=role.id,
                now=now,
            )
            by = "first" if is_first else "self" if principal is None else "private_key" if by_key else "session"
            data = {"user_id": user_id, "role": role.name, "by": by}
            audit.append(connection, "user_signed_up", data, actor=principal.user_id if principal else user_id, now=now)
            return store.get_user(connection, user_id)

        user = await self._writes.write(put)
        if self._setup_code is not None:
            self._setup_code.remove()
        self.grantors.reset()
        logger.info("user signed up", extra={"user_id": user.id, "role": user.role.name})
        return KeyedUser(user, private_key)

    def _check_may_sign_up(self, principal: Principal | None) -> None:
        if not self._open_signup and (principal is None or not principal.may(Permission.CREATE_USERS)):
            raise Forbidden(
                "sign-up is closed here: ask the people who run this server for an account", code=codes.SIGNUP_CLOSED
            )

    def _check_setup_code(self, given: str | None, address: str) -> None:
        if self._setup_code is None:
            return
        if not given:
            raise Forbidden(
                "the first account needs the setup code, which the server shows at its start and keeps in the file "
                f"{self._setup_code.path.name} of its data folder: send it as setup_code (pygrid login --setup-code "
                "CODE)",
                code=codes.SETUP_CODE_NEEDED,
            )
        attempt = self.failures.limited(lambda: self.attempts.begin_setup_code(address))
        if not self._setup_code.fits(given):
            self.failures.record("setup_code", None, address)
            raise Forbidden(
                f"the setup code is wrong: use the one in the file {self._setup_code.path.name} of the data folder",
                code=codes.SETUP_CODE_WRONG,
            )
        self.attempts.forget(attempt)

    def _role_to_give(self, connection: sa.Connection, principal: Principal, role_id: int, by_key: bool) -> Role:
        role = store.get_role(connection, role_id)
        only_below = by_key and not self._keys_give_own_role
        check = access.can_give_role_by_key if only_below else access.can_give_role
        refuse(check(store.get_principal(connection, principal.user_id), role))
        return role

    async def sign_up_by_key(
        self, principal: Principal | None, private_key: str | None, request: SignUpRequest, address: str
    ) -> KeyedUser:
        """Create an account as clients of 2020 do; without a private key, a requested role has no effect.

        Args:
            principal: the user of the token that was sent with the key; None: the key alone identifies its owner.
        Raises:
            as `sign_up`. InvalidCredentials: the key is not that of the principal, or of any user.
        """
        if private_key is None:
            return await self.sign_up(None, request, address=address)
        if principal is None:
            owner = await self.authenticate_key(private_key, address)
            return await self.sign_up(owner, request, by_key=True, address=address)
        await self.check_private_key(principal, private_key, address)
        return await self.sign_up(principal, request, address=address)

    async def log_in(
        self, email: str, password: str, address: str, private_key: str | None = None, agent: str = ""
    ) -> NewSession:
        """Begin a session.

        Args:
            address: address of the caller, to limit attempts.
            agent: header ``User-Agent`` of the caller.
            private_key: if present, it must be that of the account.
        Raises:
            InvalidCredentials: unknown e-mail, wrong password or wrong private key, without a difference.
            TooManyRequests: ``busy``; ``too_many_attempts`` (the limits are in `pygrid.features.accounts.attempts`).
        """
        email_key = store.key_of_email(email)
        attempt = self.failures.limited(lambda: self.attempts.begin_login(email_key, address))
        found = await self._database.read(lambda connection: store.find_password_hash(connection, email_key))
        try:
            good = len(password) <= MAX_PASSWORD and await self._passwords.verify(
                password, None if found is None else found[1]
            )
        except TooManyRequests:  # the queue is full, so nothing was checked
            self.attempts.forget(attempt)
            raise
        if found is None or not good:
            self.failures.record("password", None if found is None else found[0], address)
            raise InvalidCredentials("the e-mail or the password is wrong")
        user_id, password_hash = found
        if private_key is not None and not await self._is_key_of(user_id, private_key):
            self.failures.record("private_key", user_id, address)
            raise InvalidCredentials("the e-mail or the password is wrong")
        self.attempts.forget(attempt)
        is_old = await self._passwords.needs_rehash(password, password_hash)
        new_hash = await self._passwords.hash(password) if is_old else None
        token, now = new_secret(), self._clock.now()

        def put(connection: sa.Connection) -> None:
            # During the check, the password can have been changed, or the account deleted.
            if store.find_password_hash(connection, email_key) != (user_id, password_hash):
                raise InvalidCredentials("the e-mail or the password is wrong")
            if new_hash is not None:
                store.update_password_hash(connection, user_id, new_hash)
            put_session(connection, hash_secret(token), user_id, now, describe_user_agent(agent))
            data = {"user_id": user_id, "from": shortened(address)}
            audit.append(connection, "user_logged_in", data, actor=user_id, now=now)

        await self._writes.write(put)
        logger.info("user logged in", extra={"user_id": user_id})
        return NewSession(token, int(SESSION_IDLE.total_seconds()))

    async def log_out(self, principal: Principal, token: str) -> None:
        """End the principal's session of this token."""

        def release(connection: sa.Connection) -> None:
            if store.release_session(connection, hash_secret(token)):
                self._append(connection, "user_logged_out", {"user_id": principal.user_id}, principal)

        await self._writes.write(release)
        self.session_changes.notify()

    async def authenticate(self, token: str) -> Principal:
        """Return the user of a session with their present role, and extend the session, at most to its seventh day.

        Raises:
            InvalidCredentials: the session does not exist or has ended.
        """
        token_hash, now = hash_secret(token), self._clock.now()
        session = await self._database.look_up(lambda connection: store.find_session(connection, token_hash))
        if session is None or session.expires_at <= now:
            raise InvalidCredentials("this session is unknown or has ended: log in again")
        if now - session.last_seen_at >= SESSION_TOUCH:
            ends_at = end_of_session(session.created_at, now)
            await self._database.write(lambda connection: store.update_session(connection, token_hash, now, ends_at))
        return session.principal

    async def find_principal(self, token: str) -> Principal | None:
        """Return the user of a session, None if it has ended; does not extend the session."""
        token_hash, now = hash_secret(token), self._clock.now()
        session = await self._database.look_up(lambda connection: store.find_session(connection, token_hash))
        return None if session is None or session.expires_at <= now else session.principal

    def explain_missing(self, principal: Principal, permission: Permission) -> str:
        """Return which permission the principal's role lacks here, which roles have it, and whom to ask."""
        return access.explain_missing(principal.role, permission, self.grantors.get())

    async def authenticate_key(self, private_key: str, address: str) -> Principal:
        """Return the user of a private key.

        Raises:
            InvalidCredentials: no account has this key.
            TooManyRequests: ``too_many_attempts`` with this key, or from this address.
        """
        attempt = self.failures.limited(lambda: self.attempts.begin_key(address))
        key_hash = hash_secret(private_key)
        owner = await self._database.read(lambda connection: store.find_private_key_owner(connection, key_hash))
        if owner is None:
            self.failures.record("private_key", None, address)
            raise InvalidCredentials(
                "no account has this private key: it was rotated or revoked, or the password was changed"
            )
        self.attempts.forget(attempt)
        self.attempts.record_key_use(owner.user_id)
        return owner

    async def check_private_key(self, principal: Principal, private_key: str, address: str) -> None:
        """Check that a private key is that of the principal; a valid one is not counted as an attempt.

        Raises:
            InvalidCredentials: it is not. TooManyRequests: ``too_many_attempts`` with wrong keys from this address.
        """
        attempt = self.failures.limited(lambda: self.attempts.begin_key(address))
        if not await self._is_key_of(principal.user_id, private_key):
            self.failures.record("private_key", principal.user_id, address)
            raise InvalidCredentials("this private key is not that of the token's user")
        self.attempts.forget(attempt)

    async def _is_key_of(self, user_id: int, private_key: str) -> bool:
        key_hash = hash_secret(private_key)
        owner = await self._database.read(lambda connection: store.find_private_key_owner(connection, key_hash))
        return owner is not None and owner.user_id == user_id

    async def rotate_private_key(self, principal: Principal, user_id: int) -> KeyedUser:
        """Replace the private key of the principal. Only their own, so that no user has the key of another."""
        if principal.user_id != user_id:
            raise not_permitted(AccessRefusal.MISSING_PERMISSION)
        private_key = new_secret()

        def rotate(connection: sa.Connection) -> User:
            user = self._manage(connection, principal, user_id)
            store.update_private_key_hash(connection, user_id, hash_secret(private_key))
            self._append(connection, "private_key_rotated", {"user_id": user_id}, principal)
            return user

        return KeyedUser(await self._writes.write(rotate), private_key)

    async def revoke_private_key(self, principal: Principal, user_id: int) -> User:
        """Revoke the private key of a user; `rotate_private_key` creates another one."""

        def revoke(connection: sa.Connection) -> User:
            user = self._manage(connection, principal, user_id)
            store.update_private_key_hash(connection, user_id, None)
            self._append(connection, "private_key_revoked", {"user_id": user_id}, principal)
            return user

        return await self._writes.write(revoke)

    def _append(self, connection: sa.Connection, action: str, data: dict[str, Any], principal: Principal) -> None:
        audit.append(connection, action, data, actor=principal.user_id, now=self._clock.now())

    async def remove_expired_sessions(self) -> None:
        """Delete the sessions and one-time codes that have ended."""
        now = self._clock.now()

        def delete(connection: sa.Connection) -> None:
            store.delete_expired_sessions(connection, now)
            delete_expired_codes(connection, now)

        await self._database.write(delete)

    @staticmethod
    def _manage(connection: sa.Connection, principal: Principal, user_id: int) -> User:
        """Return the user, if the principal's present role may change it."""
        now_actor = store.get_principal(connection, principal.user_id)
        check_may_manage(now_actor, user_id)
        user = store.get_user(connection, user_id)
        refuse(access.can_manage_user(now_actor, user_id, user.role))
        return user


def check_may_manage(actor: Principal, user_id: int) -> None:
    """Check the permission before the target is read, so that others do not learn which users exist."""
    if actor.user_id != user_id and not actor.may(Permission.CREATE_USERS):
        raise missing_permission(Permission.CREATE_USERS)


def normalize_email(email: str) -> tuple[str, str]:
    """Return the e-mail as it is stored and shown, and its key for comparison: NFKC, case-folded.

    Raises:
        InvalidInput: ``invalid_email``: not ``NAME@HOST``, or longer than 254 characters.
    """
    shown = email.strip()
    name, at, host = shown.rpartition("@")
    good = name and at and host and len(shown) <= 254 and shown.isprintable() and not any(c.isspace() for c in shown)
    if not good:
        raise InvalidInput(
            "the e-mail is not valid: it must be name@host with at most 254 characters", code=codes.INVALID_EMAIL
        )
    return shown, store.key_of_email(shown)


def check_password(password: str) -> None:
    if not len(normalize_password(password)) >= MIN_PASSWORD or len(password) > MAX_PASSWORD:
        raise InvalidInput(
            f"the password must have {MIN_PASSWORD} to {MAX_PASSWORD} characters", code=codes.WEAK_PASSWORD
        )


_DETAILS = {
    AccessRefusal.MISSING_PERMISSION: "your role does not allow this",
    AccessRefusal.TARGET_OUTRANKS: "you may not change this: it allows more than your own role",
    AccessRefusal.BEYOND_OWN: "you can assign only permissions that you have",
    AccessRefusal.BEYOND_KEY: "a private key assigns only roles below the role of its owner: log in instead",
}


def refuse(refusal: AccessRefusal | None, needed: Permission = Permission.CREATE_USERS) -> None:
    """Raise the error of a refusal; ``needed`` is the permission that the rule requires."""
    if refusal is AccessRefusal.LAST_OWNER:
        raise Forbidden("this is the last Owner: make another user Owner first", code=codes.LAST_OWNER)
    if refusal is AccessRefusal.BUILT_IN:
        raise Forbidden("the built-in roles User and Owner cannot be changed", code=codes.BUILT_IN_ROLE)
    if refusal is AccessRefusal.MISSING_PERMISSION:
        raise missing_permission(needed)
    if refusal is not None:
        raise not_permitted(refusal)


def missing_permission(permission: Permission) -> Forbidden:
    return Forbidden(
        f"this needs a role with {permission}",
        code=codes.NOT_PERMITTED,
        reason=str(AccessRefusal.MISSING_PERMISSION),
        permission=str(permission),
    )


def not_permitted(refusal: AccessRefusal) -> Forbidden:
    return Forbidden(_DETAILS[refusal], code=codes.NOT_PERMITTED, reason=str(refusal))
