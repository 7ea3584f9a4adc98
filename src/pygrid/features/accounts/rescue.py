"""A one-time code for a lost password, made by a person who can write to the database of the app."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import sqlalchemy as sa

from pygrid import codes
from pygrid.core.access import OWNER
from pygrid.errors import InvalidInput, NotFound
from pygrid.features.accounts.invitations import grouped, new_code
from pygrid.features.accounts.signing import normalize_email
from pygrid.ids import hash_secret
from pygrid.storage import accounts as store
from pygrid.storage import audit, one_time_codes
from pygrid.storage.accounts import User
from pygrid.storage.one_time_codes import CodeRow


@dataclass(frozen=True, slots=True)
class RescueCode:
    email: str
    code: str
    expires_at: dt.datetime


def make_rescue_code(connection: sa.Connection, email: str | None, hours: int, now: dt.datetime) -> RescueCode:
    """Return a code with which a user can choose a new password, as part of the transaction.

    Args:
        email: None: the Owner.
    Raises:
        NotFound: ``user_not_found``; the message names the Owners. InvalidInput: there are several Owners.
    """
    user = _find_user(connection, email)
    code, expires_at = new_code(), now + dt.timedelta(hours=hours)
    row = CodeRow(0, None, None, user.id, None, expires_at)
    one_time_codes.put_code(connection, row, hash_secret(code), None, now)
    audit.append(connection, "password_reset_made", {"user_id": user.id, "by": "machine"}, actor=None, now=now)
    return RescueCode(user.email, grouped(code), expires_at)


def _find_user(connection: sa.Connection, email: str | None) -> User:
    owners = [user for user in store.list_users(connection) if user.role.id == OWNER.id]
    there = ", ".join(user.email for user in owners) or "none"
    if email is not None:
        found = store.find_password_hash(connection, normalize_email(email)[1])
        if found is None:
            raise NotFound(f"no account has the e-mail {email!r}; Owners are: {there}", code=codes.USER_NOT_FOUND)
        return store.get_user(connection, found[0])
    if len(owners) != 1:
        raise InvalidInput(f"name the account by its e-mail; Owners are: {there}")
    return owners[0]
