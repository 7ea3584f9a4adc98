"""What people do with accounts. The rules are in `pygrid.core.access`; here they meet the store and the clock."""

from __future__ import annotations

import datetime as dt
import logging
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from pygrid.clock import Clock
from pygrid.core import access
from pygrid.core.access import DOMAIN_ACCESS, OWNER, USER, AppAccess, Permission, Principal, Refusal, Role
from pygrid.errors import Forbidden, InvalidCredentials, InvalidInput
from pygrid.features.accounts.passwords import Passwords
from pygrid.ids import hash_secret, new_secret
from pygrid.messages.relay import RELAYED
from pygrid.storage import accounts as store
from pygrid.storage.accounts import Group, User
from pygrid.storage.database import Database
from pygrid.storage.idempotency import once
from pygrid.web.limits import AttemptLimit

logger = logging.getLogger(__name__)

SESSION_IDLE = dt.timedelta(hours=12)
SESSION_TOUCH = dt.timedelta(minutes=5)
"""A session's last use is noted this often at the most, so that looking at things does not write."""
MAX_LOGINS, LOGIN_WINDOW_S = 10, 60.0
MAX_RELAYED_LOGINS = 100
"""For one account from all addresses that Networks tell of: a Network that lies can tell of as many as it likes."""
MIN_PASSWORD, MAX_PASSWORD = 8, 1024


@dataclass(frozen=True, slots=True)
class NewUser:
    """A user just made, and the key that is shown this once."""

    user: User
    private_key: str


@dataclass(frozen=True, slots=True)
class NewSession:
    """The token is shown this once; it is good for ``expires_in_s`` after each use."""

    token: str
    expires_in_s: int


def anything(_found: object) -> None:
    """Expects nothing of what is changed. What takes its place raises PreconditionFailed, in the transaction of the change."""


class AccountService:
    """Use cases of accounts.

    Each checks everything first; a refusal changes nothing. Refused are, beside what a method lists, with Forbidden
    ``not_permitted`` who lacks a permission, ``last_owner`` what would leave nobody to run the app, and with NotFound
    ``user_not_found``, ``role_not_found`` or ``group_not_found`` an id that is not there.
    """

    def __init__(self, database: Database, clock: Clock, *, open_signup: bool, access: AppAccess = DOMAIN_ACCESS) -> None:
        self.access = access
        self._database = database
        self._clock = clock
        self._open_signup = open_signup
        self._passwords = Passwords()
        self._logins = AttemptLimit(clock, MAX_LOGINS, LOGIN_WINDOW_S)
        self._relayed_logins = AttemptLimit(clock, MAX_RELAYED_LOGINS, LOGIN_WINDOW_S)

    def close(self) -> None:
        """End the threads that hash."""
        self._passwords.close()

    # Signing up and in

    async def sign_up(
        self, email: str, password: str, role_id: int | None = None, *, actor: Principal | None = None
    ) -> NewUser:
        """Make an account. The very first one becomes Owner, whoever asks for whatever.

        After that a stranger gets the role User; an actor with ``can_create_users`` may choose a role within their own.

        Raises:
            Conflict: ``email_taken``. Forbidden: ``signup_closed``: strangers may not. InvalidInput: ``invalid_email``,
            ``weak_password``. TooManyRequests: ``busy``.
        """
        email, email_key = normalise_email(email)
        _check_password(password)
        if await self._database.read(store.has_first_owner):
            self._check_may_sign_up(actor)
        password_hash = await self._passwords.hash(password)
        private_key = new_secret()
        now = self._clock.now()

        def put(connection: sa.Connection) -> User:
            if store.acquire_first_owner(connection, now):
                role = OWNER
            else:
                self._check_may_sign_up(actor)
                role = USER if actor is None or role_id is None else self._role_to_give(connection, actor, role_id)
            user_id = store.put_user(
                connection,
                email=email,
                email_key=email_key,
                password_hash=password_hash,
                private_key_hash=hash_secret(private_key),
                role_id=role.id,
                now=now,
            )
            return store.get_user(connection, user_id)

        user = await self._database.write(put)
        logger.info("user signed up", extra={"user_id": user.id, "role": user.role.name})
        return NewUser(user, private_key)

    def _check_may_sign_up(self, actor: Principal | None) -> None:
        if actor is None and not self._open_signup:
            raise Forbidden("new accounts are made by the people who run this server: ask them for one", code="signup_closed")

    @staticmethod
    def _role_to_give(connection: sa.Connection, actor: Principal, role_id: int) -> Role:
        role = store.get_role(connection, role_id)
        _refuse(access.can_give_role(store.get_principal(connection, actor.user_id), role))
        return role

    async def log_in(self, email: str, password: str, address: str) -> NewSession:
        """Begin a session. ``address``: where the request came from, to limit attempts.

        Raises:
            InvalidCredentials: unknown e-mail or wrong password, which look the same. TooManyRequests: ``too_many_attempts``
            after 10 failures in a minute for this account from this address, or 100 through relays; ``busy``.
        """
        email_key = _email_key(email)
        attempt = (address, email_key)
        if address.startswith(RELAYED):
            self._relayed_logins.record(email_key)
        self._logins.record(attempt)
        found = await self._database.read(lambda connection: store.find_password_hash(connection, email_key))
        good = len(password) <= MAX_PASSWORD and await self._passwords.verify(password, None if found is None else found[1])
        if found is None or not good:
            raise InvalidCredentials("the e-mail or the password is wrong")
        self._logins.forget(attempt)
        self._relayed_logins.forget(email_key)
        user_id, password_hash = found
        token, now = new_secret(), self._clock.now()

        def put(connection: sa.Connection) -> None:
            # The password may have been changed, or the account deleted, while it was being checked.
            if store.find_password_hash(connection, email_key) != (user_id, password_hash):
                raise InvalidCredentials("the e-mail or the password is wrong")
            store.put_session(connection, hash_secret(token), user_id, now, now + SESSION_IDLE)

        await self._database.write(put)
        logger.info("user logged in", extra={"user_id": user_id})
        return NewSession(token, int(SESSION_IDLE.total_seconds()))

    async def log_out(self, token: str) -> None:
        """End the session of this token."""
        await self._database.write(lambda connection: store.release_session(connection, hash_secret(token)))

    async def authenticate(self, token: str) -> Principal:
        """Whose session it is, with the role they have now; puts off the end of the session.

        Raises:
            InvalidCredentials: no such session, or it has ended.
        """
        token_hash, now = hash_secret(token), self._clock.now()
        session = await self._database.look_up(lambda connection: store.find_session(connection, token_hash))
        if session is None or session.expires_at <= now:
            raise InvalidCredentials("this session has ended or never was: log in again")
        if now - session.last_seen_at >= SESSION_TOUCH:
            await self._database.write(lambda connection: store.update_session(connection, token_hash, now, now + SESSION_IDLE))
        return session.principal

    async def authenticate_key(self, private_key: str) -> Principal:
        """Whose private key it is. Raises InvalidCredentials."""
        key_hash = hash_secret(private_key)
        owner = await self._database.read(lambda connection: store.find_private_key_owner(connection, key_hash))
        if owner is None:
            raise InvalidCredentials("this private key is nobody's")
        return owner

    async def remove_expired_sessions(self) -> None:
        """Forget sessions that have ended."""
        now = self._clock.now()
        await self._database.write(lambda connection: store.delete_expired_sessions(connection, now))

    # Users

    async def list_users(self) -> list[User]:
        """All users, oldest first."""
        return await self._database.read(store.list_users)

    async def get_user(self, actor: Principal, user_id: int) -> User:
        """A user: oneself, or with the app's permission to see users anyone."""
        if actor.user_id != user_id and not actor.may(self.access.see_users):
            raise _not_permitted(Refusal.MISSING_PERMISSION)
        return await self._database.read(lambda connection: store.get_user(connection, user_id))

    async def search_users(self, email: str | None, role_id: int | None, group: str | None) -> list[User]:
        """Users that match everything given. Raises InvalidInput: ``missing_field``: nothing was given."""
        if email is None and role_id is None and group is None:
            raise InvalidInput("search by at least one of email, role, group", code="missing_field")
        for text in (email, group):
            if text is not None and not text.isprintable():
                raise InvalidInput("a search text consists of printable characters", code="invalid_search")
        return await self._database.read(lambda connection: store.search_users(connection, email, role_id, group))

    async def change_email(self, actor: Principal, user_id: int, email: str, expect: Callable[[User], None] = anything) -> User:
        """Raises Conflict: ``email_taken``; InvalidInput: ``invalid_email``."""
        email, email_key = normalise_email(email)

        def change(connection: sa.Connection) -> User:
            expect(self._manage(connection, actor, user_id))
            store.update_email(connection, user_id, email, email_key)
            return store.get_user(connection, user_id)

        return await self._database.write(change)

    async def change_password(
        self, actor: Principal, user_id: int, password: str, expect: Callable[[User], None] = anything
    ) -> User:
        """Also ends every session of the user. Raises InvalidInput: ``weak_password``."""
        _check_password(password)
        await self._database.read(lambda connection: self._manage(connection, actor, user_id))
        password_hash = await self._passwords.hash(password)

        def change(connection: sa.Connection) -> User:
            user = self._manage(connection, actor, user_id)
            expect(user)
            store.update_password_hash(connection, user_id, password_hash)
            return user

        return await self._database.write(change)

    async def change_role(
        self, actor: Principal, user_id: int, role_id: int, expect: Callable[[User], None] = anything
    ) -> User:
        """Also ends every session of the user. Nobody raises themselves; the last Owner stays Owner."""

        def change(connection: sa.Connection) -> User:
            num_owners = store.count_owners(connection)
            now_actor = store.get_principal(connection, actor.user_id)
            user, role = store.get_user(connection, user_id), store.get_role(connection, role_id)
            _refuse(access.can_change_role(now_actor, user_id, user.role, role, num_owners))
            expect(user)
            store.update_user_role(connection, user_id, role_id)
            return store.get_user(connection, user_id)

        user = await self._database.write(change)
        logger.info("role changed", extra={"user_id": user_id, "role": user.role.name, "by_user_id": actor.user_id})
        return user

    async def change_groups(
        self, actor: Principal, user_id: int, group_ids: Sequence[int], expect: Callable[[User], None] = anything
    ) -> User:
        """Let the user be in these groups and no others."""

        def change(connection: sa.Connection) -> User:
            expect(self._manage(connection, actor, user_id))
            store.put_memberships(connection, user_id, group_ids)
            return store.get_user(connection, user_id)

        return await self._database.write(change)

    async def delete_user(self, actor: Principal, user_id: int) -> User:
        """Remove an account with its sessions and memberships; what it was. The last Owner stays."""

        def delete(connection: sa.Connection) -> User:
            num_owners = store.count_owners(connection)
            now_actor = store.get_principal(connection, actor.user_id)
            user = store.get_user(connection, user_id)
            _refuse(access.can_delete_user(now_actor, user_id, user.role, num_owners))
            store.delete_user(connection, user_id)
            return user

        user = await self._database.write(delete)
        logger.info("user deleted", extra={"user_id": user_id, "by_user_id": actor.user_id})
        return user

    @staticmethod
    def _manage(connection: sa.Connection, actor: Principal, user_id: int) -> User:
        """The user, if the actor, with the role they have now, may change it."""
        now_actor = store.get_principal(connection, actor.user_id)
        if now_actor.user_id != user_id and not now_actor.may(Permission.CREATE_USERS):
            raise _not_permitted(Refusal.MISSING_PERMISSION)
        user = store.get_user(connection, user_id)
        _refuse(access.can_manage_user(now_actor, user_id, user.role))
        return user

    # Roles

    async def list_roles(self) -> list[Role]:
        """All roles, oldest first."""
        return await self._database.read(store.list_roles)

    async def get_role(self, role_id: int) -> Role:
        """One role."""
        return await self._database.read(lambda connection: store.get_role(connection, role_id))

    async def create_role(self, actor: Principal, name: str, flags: Mapping[Permission, bool]) -> Role:
        """A new role within the actor's own permissions; ``flags`` states each permission that the app has.

        Raises:
            Conflict: ``role_exists``. InvalidInput: ``invalid_name``, ``missing_field``, ``unknown_permission``.
        """
        _check_name(name)
        if missing := [permission for permission in self.access.permissions if permission not in flags]:
            raise InvalidInput(f"a new role states each permission; missing: {', '.join(missing)}", code="missing_field")
        self._check_known(flags)
        wanted = frozenset(permission for permission, given in flags.items() if given)

        def create(connection: sa.Connection) -> Role:
            _refuse(access.can_define_role(store.get_principal(connection, actor.user_id), wanted))
            return store.put_role(connection, name, wanted)

        return await self._database.write(once(create))

    async def edit_role(
        self,
        actor: Principal,
        role_id: int,
        name: str | None = None,
        changes: Mapping[Permission, bool] | None = None,
        expect: Callable[[Role], None] = anything,
    ) -> Role:
        """Rename a role, or change what it allows, for everyone who has it; the built-in User and Owner stay as they are.

        Raises:
            Conflict: ``role_exists``. Forbidden: ``built_in_role``. InvalidInput: ``invalid_name``, ``unknown_permission``.
        """
        if name is not None:
            _check_name(name)
        self._check_known(changes or {})

        def edit(connection: sa.Connection) -> Role:
            role = store.get_role(connection, role_id)
            permissions = frozenset(p for p in Permission if (changes or {}).get(p, p in role.permissions))
            _refuse(access.can_edit_role(store.get_principal(connection, actor.user_id), role, permissions))
            expect(role)
            edited = Role(role.id, role.name if name is None else name, permissions)
            store.update_role(connection, edited)
            return edited

        role = await self._database.write(edit)
        logger.info("role edited", extra={"role": role.name, "by_user_id": actor.user_id})
        return role

    def _check_known(self, flags: Mapping[Permission, bool]) -> None:
        if unknown := sorted(
            permission for permission, given in flags.items() if given and permission not in self.access.permissions
        ):
            raise InvalidInput(f"there is no such permission here: {', '.join(unknown)}", code="unknown_permission")

    async def delete_role(self, actor: Principal, role_id: int) -> Role:
        """Remove a role that nobody has; what it was. Raises Conflict: ``role_in_use``; Forbidden: ``built_in_role``."""

        def delete(connection: sa.Connection) -> Role:
            role = store.get_role(connection, role_id)
            _refuse(access.can_edit_role(store.get_principal(connection, actor.user_id), role, role.permissions))
            store.delete_role(connection, role_id)
            return role

        return await self._database.write(delete)

    # Groups

    async def list_groups(self) -> list[Group]:
        """All groups, oldest first."""
        return await self._database.read(store.list_groups)

    async def get_group(self, group_id: int) -> Group:
        """One group."""
        return await self._database.read(lambda connection: store.get_group(connection, group_id))

    async def create_group(self, name: str) -> Group:
        """A new group. Raises Conflict: ``group_exists``; InvalidInput: ``invalid_name``."""
        _check_name(name)
        return await self._database.write(once(lambda connection: store.put_group(connection, name)))

    async def rename_group(self, group_id: int, name: str) -> Group:
        """Raises Conflict: ``group_exists``; InvalidInput: ``invalid_name``."""
        _check_name(name)

        def rename(connection: sa.Connection) -> Group:
            group = Group(store.get_group(connection, group_id).id, name)
            store.update_group(connection, group)
            return group

        return await self._database.write(rename)

    async def delete_group(self, group_id: int) -> Group:
        """Remove a group; what it was. Its members stay."""

        def delete(connection: sa.Connection) -> Group:
            group = store.get_group(connection, group_id)
            store.delete_group(connection, group_id)
            return group

        return await self._database.write(delete)


def normalise_email(email: str) -> tuple[str, str]:
    """The address as it is kept and shown, and as it is compared: NFKC, case-folded.

    Raises:
        InvalidInput: ``invalid_email``: not ``NAME@HOST``, or longer than 254.
    """
    shown = email.strip()
    name, at, host = shown.rpartition("@")
    good = name and at and host and len(shown) <= 254 and shown.isprintable() and not any(c.isspace() for c in shown)
    if not good:
        raise InvalidInput("the e-mail must look like name@host, with 254 characters at the most", code="invalid_email")
    return shown, _email_key(shown)


def _email_key(email: str) -> str:
    return unicodedata.normalize("NFKC", email.strip()[:254]).casefold()


def _check_password(password: str) -> None:
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise InvalidInput(f"the password must have {MIN_PASSWORD} to {MAX_PASSWORD} characters", code="weak_password")


def _check_name(name: str) -> None:
    if not 1 <= len(name) <= 100 or not name.isprintable() or name != name.strip():
        raise InvalidInput("a name has 1 to 100 printable characters and no blank at its ends", code="invalid_name")


_DETAILS = {
    Refusal.MISSING_PERMISSION: "your role does not allow this",
    Refusal.TARGET_OUTRANKS: "this is not yours to change: it allows more than your own role",
    Refusal.BEYOND_OWN: "nobody can give more permissions than they have",
}


def _refuse(refusal: Refusal | None) -> None:
    if refusal is Refusal.LAST_OWNER:
        raise Forbidden("this is the last Owner: make another user Owner first", code="last_owner")
    if refusal is Refusal.BUILT_IN:
        raise Forbidden("the roles User and Owner stay as they are", code="built_in_role")
    if refusal is not None:
        raise _not_permitted(refusal)


def _not_permitted(refusal: Refusal) -> Forbidden:
    return Forbidden(_DETAILS[refusal], code="not_permitted", reason=str(refusal))
