"""One-time codes: invitations to create an account, and resets of a lost password."""

from __future__ import annotations

import base64
import datetime as dt
import logging
import secrets

import sqlalchemy as sa

from pygrid import codes
from pygrid.core import access
from pygrid.core.access import USER, Permission, Principal, require
from pygrid.errors import Forbidden, InvalidInput
from pygrid.features.accounts.signing import check_password, normalize_email, refuse
from pygrid.features.accounts.tokens import TokenSignIn
from pygrid.ids import hash_secret, new_secret
from pygrid.messages.accounts import UserInvitation
from pygrid.storage import accounts as store
from pygrid.storage import api_tokens, audit, one_time_codes
from pygrid.storage.accounts import User
from pygrid.storage.one_time_codes import CodeRow

logger = logging.getLogger(__name__)

INVITATION = dt.timedelta(hours=72)
RESET = dt.timedelta(hours=24)
MAX_HOURS = 720
_CODE_BYTES = 20


class Invitations(TokenSignIn):
    """Use cases of one-time codes; `AccountService` inherits them.

    A code has 160 random bits. Only its SHA-256 is stored, and only until it is used or has expired.
    """

    async def invite(
        self, principal: Principal, email: str, role_id: int | None, expires_in_h: int | None
    ) -> tuple[UserInvitation, str]:
        """Return an invitation to create an account with this e-mail and role, and its code.

        It replaces an earlier invitation of this e-mail.

        Raises:
            Conflict: ``email_taken``. InvalidInput: ``invalid_email``, ``invalid_expiry``.
            NotFound: ``role_not_found``.
            Forbidden: ``not_permitted``: the role has a permission that the principal lacks.
        """
        email, email_key = normalize_email(email)
        code, now = new_code(), self._clock.now()
        expires_at = now + _lifetime(expires_in_h, INVITATION)

        def put(connection: sa.Connection) -> UserInvitation:
            actor = store.get_principal(connection, principal.user_id)
            role = store.get_role(connection, USER.id if role_id is None else role_id)
            refuse(access.can_give_role(actor, role))
            store.refuse_taken(connection, email_key)
            row = CodeRow(0, email, role.id, None, principal.user_id, expires_at)
            kept = one_time_codes.put_code(connection, row, hash_secret(code), email_key, now)
            self._append(connection, "user_invited", {"invitation_id": kept.id, "role": role.name}, principal)
            inviter = store.get_user(connection, principal.user_id).email
            return UserInvitation(kept.id, email, role.name, inviter, expires_at)

        return await self._writes.write(put), grouped(code)

    async def list_invitations(self, principal: Principal) -> list[UserInvitation]:
        """Return the open invitations, oldest first."""
        require(principal, Permission.CREATE_USERS)
        now = self._clock.now()
        return list(await self._database.read(lambda connection: one_time_codes.list_invitations(connection, now)))

    async def withdraw_invitation(self, principal: Principal, invitation_id: int) -> None:
        """End an open invitation. Raises NotFound: ``user_invitation_not_found``."""
        require(principal, Permission.CREATE_USERS)

        def withdraw(connection: sa.Connection) -> None:
            one_time_codes.delete_invitation(connection, invitation_id)
            self._append(connection, "invitation_withdrawn", {"invitation_id": invitation_id}, principal)

        await self._writes.write(withdraw)

    async def accept_invitation(self, code: str, password: str, address: str) -> User:
        """Create the account of an invitation, which ends it.

        Args:
            address: address of the caller, to limit attempts.
        Raises:
            Forbidden: ``code_not_valid``: the code is wrong, was used or has expired, or its author may not assign the
                role any longer. Conflict: ``email_taken``. InvalidInput: ``weak_password``.
            TooManyRequests: ``busy``, ``too_many_attempts``.
        """
        check_password(password)
        row = await self._find_code(code, address)
        password_hash = await self._passwords.hash(password)

        def create(connection: sa.Connection) -> User:
            now = self._clock.now()
            row_now = self._take_code(connection, code)
            if row_now.id != row.id or row_now.email is None or row_now.role_id is None or row_now.created_by is None:
                raise code_not_valid()
            role = store.get_role(connection, row_now.role_id)
            if access.can_give_role(store.get_principal(connection, row_now.created_by), role) is not None:
                raise code_not_valid()
            email, _ = normalize_email(row_now.email)
            user_id = store.put_user(
                connection,
                email=email,
                password_hash=password_hash,
                private_key_hash=hash_secret(new_secret()),
                role_id=role.id,
                now=now,
            )
            data = {"user_id": user_id, "role": role.name, "by": "invitation", "invitation_id": row.id}
            audit.append(connection, "user_signed_up", data, actor=user_id, now=now)
            return store.get_user(connection, user_id)

        user = await self._writes.write(create)
        self.grantors.reset()
        logger.info("user signed up", extra={"user_id": user.id, "role": user.role.name})
        return user

    async def make_reset(
        self, principal: Principal, user_id: int, expires_in_h: int | None
    ) -> tuple[User, str, dt.datetime]:
        """Return a user, a code with which they can choose a new password, and when it expires.

        It replaces an earlier code of the user. Until it is used, the password and the sessions stay.

        Raises:
            Forbidden: ``not_permitted``: as for a change of the user's password. InvalidInput: ``invalid_expiry``.
        """
        code, now = new_code(), self._clock.now()
        expires_at = now + _lifetime(expires_in_h, RESET)

        def put(connection: sa.Connection) -> User:
            user = self._manage(connection, principal, user_id)
            row = CodeRow(0, None, None, user_id, principal.user_id, expires_at)
            one_time_codes.put_code(connection, row, hash_secret(code), None, now)
            self._append(connection, "password_reset_made", {"user_id": user_id}, principal)
            return user

        return await self._writes.write(put), grouped(code), expires_at

    async def reset_password(self, code: str, password: str, address: str) -> User:
        """Set the password of the code's user, and end their sessions, API tokens and private key.

        Raises:
            As `accept_invitation`, without ``email_taken``.
        """
        check_password(password)
        row = await self._find_code(code, address)
        password_hash = await self._passwords.hash(password)

        def reset(connection: sa.Connection) -> User:
            row_now = self._take_code(connection, code)
            if row_now.id != row.id or row_now.user_id is None:
                raise code_not_valid()
            user = store.get_user(connection, row_now.user_id)
            if row_now.created_by is not None:
                actor = store.get_principal(connection, row_now.created_by)
                if access.can_manage_user(actor, user.id, user.role) is not None:
                    raise code_not_valid()
            self.replace_password(connection, user.id, password_hash, None)
            audit.append(connection, "password_reset", {"user_id": user.id}, actor=user.id, now=self._clock.now())
            return user

        user = await self._writes.write(reset)
        self.session_changes.notify()
        logger.info("password reset", extra={"user_id": user.id})
        return user

    @staticmethod
    def replace_password(
        connection: sa.Connection, user_id: int, password_hash: str, private_key_hash: str | None
    ) -> None:
        """Set a password, and end everything that was made with the old one."""
        store.update_password_hash(connection, user_id, password_hash)
        store.release_sessions(connection, user_id)
        store.update_private_key_hash(connection, user_id, private_key_hash)
        api_tokens.delete_api_tokens(connection, user_id)
        one_time_codes.delete_codes_of(connection, user_id)

    async def _find_code(self, code: str, address: str) -> CodeRow:
        """Return the code's row, before the work of hashing a password."""
        attempt = self.failures.limited(lambda: self.attempts.begin_key(address))
        now = self._clock.now()
        found = await self._database.read(lambda connection: one_time_codes.find_code(connection, _hash(code)))
        if found is None or found.expires_at <= now:
            self.failures.record("code", None, address)
            raise code_not_valid()
        self.attempts.forget(attempt)
        return found

    def _take_code(self, connection: sa.Connection, code: str) -> CodeRow:
        """Return the code's row and delete it, so that of parallel uses one succeeds."""
        found = one_time_codes.find_code(connection, _hash(code))
        if found is None or found.expires_at <= self._clock.now():
            raise code_not_valid()
        one_time_codes.delete_code(connection, found.id)
        return found


def code_not_valid() -> Forbidden:
    return Forbidden(
        "this code is not valid: it is wrong, was used, or has expired; ask the person who sent it for another one",
        code=codes.CODE_NOT_VALID,
    )


def _lifetime(hours: int | None, usual: dt.timedelta) -> dt.timedelta:
    if hours is None:
        return usual
    if not 1 <= hours <= MAX_HOURS:
        raise InvalidInput(f"expires_in_h is {hours}: it must be 1 to {MAX_HOURS}", code=codes.INVALID_EXPIRY)
    return dt.timedelta(hours=hours)


def new_code() -> str:
    """160 random bits in base32, lower case."""
    return base64.b32encode(secrets.token_bytes(_CODE_BYTES)).decode().lower()


def grouped(code: str) -> str:
    """A code as people read it: ``k7qd-x2mv-...``."""
    return "-".join(code[start : start + 4] for start in range(0, len(code), 4))


def plain_code(code: str) -> str:
    """A code as it was made; case, dashes and blanks make no difference."""
    return "".join(code.lower().replace("-", "").split())


def _hash(code: str) -> str:
    return hash_secret(plain_code(code))
