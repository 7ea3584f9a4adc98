"""Queries on users, roles, groups and sessions. Each takes a connection inside a transaction of its caller."""

from __future__ import annotations

import datetime as dt
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from pygrid import codes
from pygrid.core.access import DEFAULT_ROLES, DOMAIN_ACCESS, OWNER, Permission, Principal, Role
from pygrid.errors import Conflict, NotFound
from pygrid.storage.sql.metadata import UtcDateTime, metadata


def _flag(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.Boolean, nullable=False)


roles = sa.Table(
    "roles",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    _flag("can_triage_requests"),
    _flag("can_edit_settings"),
    _flag("can_create_users"),
    _flag("can_create_groups"),
    _flag("can_edit_roles"),
    _flag("can_manage_infrastructure"),
    _flag("can_upload_data"),
    # Only roles of a Network have this permission; of the others, they have only some.
    _flag("can_manage_nodes"),
    sa.Column("can_host_models", sa.Boolean, nullable=False, server_default=sa.false()),
    sqlite_autoincrement=True,
)


users = sa.Table(
    "users",
    metadata,
    # An id is never used twice (autoincrement), so what outlives an account never belongs to another one.
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("email", sa.Text, nullable=False),
    # The e-mail, normalized and case-folded; equal keys are the same address.
    sa.Column("email_key", sa.Text, nullable=False, unique=True),
    sa.Column("password_hash", sa.Text, nullable=False),
    sa.Column("private_key_hash", sa.Text, nullable=False, unique=True),
    sa.Column("role_id", sa.ForeignKey("roles.id"), nullable=False, index=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    # Disconnected from the sign-in provider; only the signed-in person connects it again.
    sa.Column("is_disconnected", sa.Boolean, nullable=False, server_default=sa.false()),
    sqlite_autoincrement=True,
)


first_owner = sa.Table(
    "first_owner",
    metadata,
    # At most one row, which the first user inserts. It is also the lock under which Owners are counted.
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.CheckConstraint("id = 1", name="one_row"),
)


groups = sa.Table(
    "groups",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sqlite_autoincrement=True,
)


memberships = sa.Table(
    "memberships",
    metadata,
    sa.Column("user_id", sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("group_id", sa.ForeignKey("groups.id", ondelete="CASCADE"), primary_key=True, index=True),
)


sessions = sa.Table(
    "sessions",
    metadata,
    # SHA-256 of the token; the token itself is not stored.
    sa.Column("token_hash", sa.Text, primary_key=True),
    sa.Column("user_id", sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("last_seen_at", UtcDateTime, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False, index=True),
    # Browser and system, or the program, that began the session.
    sa.Column("label", sa.String(100), nullable=False, server_default=sa.text("''")),
)


@dataclass(frozen=True, slots=True)
class Group:
    id: int
    name: str


@dataclass(frozen=True, slots=True)
class User:
    """An account, without its secrets."""

    id: int
    email: str
    role: Role
    groups: tuple[Group, ...]
    created_at: dt.datetime


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A stored session; it is valid until ``expires_at``."""

    principal: Principal
    created_at: dt.datetime
    last_seen_at: dt.datetime
    expires_at: dt.datetime


# Roles


def seed_roles(connection: sa.Connection, default_roles: Sequence[Role] = DEFAULT_ROLES) -> None:
    """Add the roles of a new app, unless there are roles already."""
    if connection.execute(sa.select(sa.func.count()).select_from(roles)).scalar_one():
        return
    for role in default_roles:
        values = {"id": role.id, **_role_values(role.name, role.permissions)}
        connection.execute(_insert_if_absent(connection, roles, values))
    if connection.dialect.name == "postgresql":
        # Explicit ids do not advance the sequence.
        connection.execute(sa.text("SELECT setval(pg_get_serial_sequence('roles', 'id'), (SELECT max(id) FROM roles))"))


def list_roles(connection: sa.Connection) -> list[Role]:
    """All roles, oldest first."""
    return [_role(row) for row in connection.execute(sa.select(*_ROLE).order_by(roles.c.id))]


def get_role(connection: sa.Connection, role_id: int) -> Role:
    """The role of an id. Raises NotFound: ``role_not_found``."""
    row = connection.execute(sa.select(*_ROLE).where(roles.c.id == role_id)).first()
    if row is None:
        raise NotFound(f"there is no role {role_id}", code=codes.ROLE_NOT_FOUND, role_id=role_id)
    return _role(row)


def put_role(connection: sa.Connection, name: str, permissions: Iterable[Permission]) -> Role:
    """Add a role. Raises Conflict: ``role_exists``."""
    values = _role_values(name, permissions)
    try:
        role_id = connection.execute(sa.insert(roles).values(values).returning(roles.c.id)).scalar_one()
    except IntegrityError:
        raise _role_exists(name) from None
    return Role(role_id, name, frozenset(permissions))


def update_role(connection: sa.Connection, role: Role) -> None:
    """Set the name and the permissions of a role. Raises Conflict: ``role_exists``."""
    values = _role_values(role.name, role.permissions)
    try:
        connection.execute(sa.update(roles).where(roles.c.id == role.id).values(values))
    except IntegrityError:
        raise _role_exists(role.name) from None


def delete_role(connection: sa.Connection, role_id: int) -> None:
    """Remove a role that nobody has. Raises Conflict: ``role_in_use``."""
    named = sa.select(roles.c.name).join(users, users.c.role_id == roles.c.id).where(roles.c.id == role_id).limit(1)
    if (name := connection.scalar(named)) is not None:
        raise Conflict(
            f"users have the role {name!r}: assign another role to them first", code=codes.ROLE_IN_USE, role_id=role_id
        )
    connection.execute(sa.delete(roles).where(roles.c.id == role_id))


# Users


def acquire_first_owner(connection: sa.Connection, now: dt.datetime) -> bool:
    """Whether this transaction adds the first user. Of several concurrent ones, exactly one gets True."""
    statement = _insert_if_absent(connection, first_owner, {"id": 1, "created_at": now})
    return connection.execute(statement.returning(first_owner.c.id)).first() is not None


def has_first_owner(connection: sa.Connection) -> bool:
    """Whether an account exists or existed."""
    return connection.execute(sa.select(first_owner.c.id)).first() is not None


def count_owners(connection: sa.Connection) -> int:
    """The number of Owners; no other transaction changes it before this one ends."""
    connection.execute(sa.select(first_owner.c.id).with_for_update())
    return connection.execute(
        sa.select(sa.func.count()).select_from(users).where(users.c.role_id == OWNER.id)
    ).scalar_one()


def find_owner_email(connection: sa.Connection) -> str | None:
    """The e-mail of the Owner whose account is the oldest."""
    statement = sa.select(users.c.email).where(users.c.role_id == OWNER.id).order_by(users.c.id).limit(1)
    return connection.execute(statement).scalar()


def put_user(
    connection: sa.Connection, *, email: str, password_hash: str, private_key_hash: str, role_id: int, now: dt.datetime
) -> int:
    """Add a user; returns its id. Raises Conflict: ``email_taken``."""
    email_key = key_of_email(email)
    values = {
        "email": email,
        "email_key": email_key,
        "password_hash": password_hash,
        "private_key_hash": private_key_hash,
        "role_id": role_id,
        "created_at": now,
    }
    refuse_taken(connection, email_key)
    try:
        user_id: int = connection.execute(sa.insert(users).values(values).returning(users.c.id)).scalar_one()
    except IntegrityError:
        raise _email_taken() from None
    return user_id


def list_users(connection: sa.Connection) -> list[User]:
    """All users, oldest first."""
    return _load_users(connection, sa.true())


def get_user(connection: sa.Connection, user_id: int) -> User:
    """The user of an id. Raises NotFound: ``user_not_found``."""
    found = _load_users(connection, users.c.id == user_id)
    if not found:
        raise _user_not_found(user_id)
    return found[0]


def search_users(
    connection: sa.Connection, email: str | None, role_id: int | None, group: str | int | None
) -> list[User]:
    """Users that match all given values: part of the e-mail, the role, part of the name, or the id, of a group."""
    wanted: sa.ColumnElement[bool] = sa.true()
    if email is not None:
        wanted &= users.c.email_key.contains(email.casefold(), autoescape=True)
    if role_id is not None:
        wanted &= users.c.role_id == role_id
    if group is not None:
        is_group = groups.c.name.contains(group, autoescape=True) if isinstance(group, str) else groups.c.id == group
        inside = sa.select(memberships.c.user_id).join(groups).where(is_group)
        wanted &= users.c.id.in_(inside)
    return _load_users(connection, wanted)


def find_password_hash(connection: sa.Connection, email_key: str) -> tuple[int, str] | None:
    """User id and password hash of an account, for a sign-in."""
    row = connection.execute(sa.select(users.c.id, users.c.password_hash).where(users.c.email_key == email_key)).first()
    return None if row is None else (row.id, row.password_hash)


def key_of_email(email: str) -> str:
    """The text by which e-mails are compared: NFKC, case-folded."""
    return unicodedata.normalize("NFKC", email.strip()[:254]).casefold()


def find_user_id(connection: sa.Connection, email: str) -> int | None:
    """The id of the user with this e-mail, in any case; None: there is none."""
    found = connection.execute(sa.select(users.c.id).where(users.c.email_key == key_of_email(email))).scalar()
    return None if found is None else int(found)


def find_emails(connection: sa.Connection, user_ids: Collection[int]) -> dict[int, str]:
    """The e-mail of each of these users that has an account, by id."""
    statement = sa.select(users.c.id, users.c.email).where(users.c.id.in_(user_ids))
    return {row.id: row.email for row in connection.execute(statement)}


def list_emails(connection: sa.Connection, user_ids: Collection[int]) -> dict[int, str]:
    """The e-mail of each of these users, by id; of a removed account, words in its place."""
    found = find_emails(connection, user_ids)
    return {user_id: found.get(user_id, f"removed account {user_id}") for user_id in user_ids}


def list_seen_emails(
    connection: sa.Connection, principal: Principal, user_ids: Iterable[int | None]
) -> dict[int | None, str]:
    """As `list_emails`, of those accounts of a Domain that the caller may see: the caller's own, or all."""
    sees_all = principal.may(DOMAIN_ACCESS.see_users)
    seen = {one for one in user_ids if one is not None and (sees_all or one == principal.user_id)}
    return dict(list_emails(connection, seen).items()) if seen else {}


def get_principal(connection: sa.Connection, user_id: int) -> Principal:
    """The user with its present role. Raises NotFound: ``user_not_found``, ``role_not_found``."""
    role_id = connection.execute(sa.select(users.c.role_id).where(users.c.id == user_id)).scalar()
    if role_id is None:
        raise _user_not_found(user_id)
    return Principal(user_id, get_role(connection, role_id))


def find_private_key_owner(connection: sa.Connection, private_key_hash: str) -> Principal | None:
    row = connection.execute(sa.select(users.c.id).where(users.c.private_key_hash == private_key_hash)).first()
    return None if row is None else get_principal(connection, row.id)


def update_email(connection: sa.Connection, user_id: int, email: str, email_key: str) -> None:
    """Set the e-mail. Raises Conflict: ``email_taken``."""
    refuse_taken(connection, email_key, but=user_id)
    try:
        connection.execute(sa.update(users).where(users.c.id == user_id).values(email=email, email_key=email_key))
    except IntegrityError:
        raise _email_taken() from None


def update_password_hash(connection: sa.Connection, user_id: int, password_hash: str) -> None:
    """Set the password hash; sessions and private key stay."""
    connection.execute(sa.update(users).where(users.c.id == user_id).values(password_hash=password_hash))


def update_private_key_hash(connection: sa.Connection, user_id: int, private_key_hash: str | None) -> None:
    """Set the hash of the private key; None: the user has no private key."""
    # No SHA-256 has this form, so no key matches it. It is unique, as the column requires.
    stored = private_key_hash or f"revoked:{user_id}"
    connection.execute(sa.update(users).where(users.c.id == user_id).values(private_key_hash=stored))


def update_user_role(connection: sa.Connection, user_id: int, role_id: int) -> None:
    """Set the role and end the user's sessions."""
    connection.execute(sa.update(users).where(users.c.id == user_id).values(role_id=role_id))
    release_sessions(connection, user_id)


def delete_user(connection: sa.Connection, user_id: int) -> None:
    """Remove the user with its sessions and memberships."""
    connection.execute(sa.delete(users).where(users.c.id == user_id))


# Groups


def list_groups(connection: sa.Connection) -> list[Group]:
    """All groups, oldest first."""
    return [
        Group(row.id, row.name)
        for row in connection.execute(sa.select(groups.c.id, groups.c.name).order_by(groups.c.id))
    ]


def get_group(connection: sa.Connection, group_id: int) -> Group:
    """The group of an id. Raises NotFound: ``group_not_found``."""
    row = connection.execute(sa.select(groups.c.id, groups.c.name).where(groups.c.id == group_id)).first()
    if row is None:
        raise NotFound(f"there is no group {group_id}", code=codes.GROUP_NOT_FOUND, group_id=group_id)
    return Group(row.id, row.name)


def put_group(connection: sa.Connection, name: str) -> Group:
    """Add a group. Raises Conflict: ``group_exists``."""
    try:
        return Group(connection.execute(sa.insert(groups).values(name=name).returning(groups.c.id)).scalar_one(), name)
    except IntegrityError:
        raise _group_exists(name) from None


def update_group(connection: sa.Connection, group: Group) -> None:
    """Set the name of a group. Raises Conflict: ``group_exists``."""
    try:
        connection.execute(sa.update(groups).where(groups.c.id == group.id).values(name=group.name))
    except IntegrityError:
        raise _group_exists(group.name) from None


def delete_group(connection: sa.Connection, group_id: int) -> None:
    """Remove the group with its memberships."""
    connection.execute(sa.delete(groups).where(groups.c.id == group_id))


def put_memberships(connection: sa.Connection, user_id: int, group_ids: Sequence[int]) -> None:
    """Set the groups of a user. Raises NotFound: ``group_not_found``; nothing was changed."""
    wanted = sorted(set(group_ids))
    known = set(connection.execute(sa.select(groups.c.id).where(groups.c.id.in_(wanted))).scalars())
    for group_id in wanted:
        if group_id not in known:
            raise NotFound(f"there is no group {group_id}", code=codes.GROUP_NOT_FOUND, group_id=group_id)
    connection.execute(sa.delete(memberships).where(memberships.c.user_id == user_id))
    if wanted:
        connection.execute(sa.insert(memberships), [{"user_id": user_id, "group_id": group_id} for group_id in wanted])


# Sessions


def find_session(connection: sa.Connection, token_hash: str) -> SessionRow | None:
    """The session, with the present role of its user. A role that is missing in the database has no permissions."""
    times = [sessions.c.created_at, sessions.c.last_seen_at, sessions.c.expires_at]
    query = (
        sa.select(sessions.c.user_id, *times, *_ROLE)
        .join_from(sessions, users)
        .outerjoin(roles)
        .where(sessions.c.token_hash == token_hash)
    )
    row = connection.execute(query).first()
    return None if row is None else SessionRow(Principal(row.user_id, _role(row)), *row[1:4])


def update_session(connection: sa.Connection, token_hash: str, now: dt.datetime, expires_at: dt.datetime) -> None:
    """Store the use of a session. An ended session stays ended."""
    values = {"last_seen_at": now, "expires_at": expires_at}
    connection.execute(sa.update(sessions).where(sessions.c.token_hash == token_hash).values(values))


def release_session(connection: sa.Connection, token_hash: str) -> bool:
    """End one session; returns whether it existed."""
    return connection.execute(sa.delete(sessions).where(sessions.c.token_hash == token_hash)).rowcount > 0


def release_sessions(connection: sa.Connection, user_id: int, kept_hash: str | None = None) -> int:
    """End all sessions of a user but the one whose token has this hash; returns their number."""
    statement = sa.delete(sessions).where(sessions.c.user_id == user_id)
    if kept_hash is not None:
        statement = statement.where(sessions.c.token_hash != kept_hash)
    return connection.execute(statement).rowcount


def delete_expired_sessions(connection: sa.Connection, now: dt.datetime) -> int:
    """Delete expired sessions; returns their number."""
    return connection.execute(sa.delete(sessions).where(sessions.c.expires_at <= now)).rowcount


_ROLE = [roles.c.id, roles.c.name, *(roles.c[permission] for permission in Permission)]


def _role(row: sa.Row[Any]) -> Role:
    fields = row._mapping
    return Role(fields[roles.c.id], fields[roles.c.name], frozenset(p for p in Permission if fields[roles.c[p]]))


def _role_values(name: str, permissions: Iterable[Permission]) -> dict[str, Any]:
    held = frozenset(permissions)
    return {"name": name, **{str(permission): permission in held for permission in Permission}}


def _load_users(connection: sa.Connection, wanted: sa.ColumnElement[bool]) -> list[User]:
    query = sa.select(users.c.id.label("user_id"), users.c.email, users.c.created_at, *_ROLE).join(roles).where(wanted)
    rows = connection.execute(query.order_by(users.c.id)).all()
    belonging: dict[int, list[Group]] = {row.user_id: [] for row in rows}
    inside = sa.select(memberships.c.user_id, groups.c.id, groups.c.name).join(groups)
    if len(rows) == 1:
        inside = inside.where(memberships.c.user_id == rows[0].user_id)
    for row in connection.execute(inside.order_by(groups.c.id)) if rows else ():
        if row.user_id in belonging:
            belonging[row.user_id].append(Group(row.id, row.name))
    return [User(row.user_id, row.email, _role(row), tuple(belonging[row.user_id]), row.created_at) for row in rows]


def _insert_if_absent(connection: sa.Connection, table: sa.Table, values: dict[str, Any]) -> Any:
    # Only the dialect in use is loaded.
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert
    else:
        from sqlalchemy.dialects.sqlite import insert  # type: ignore[assignment]
    return insert(table).values(values).on_conflict_do_nothing()


def refuse_taken(connection: sa.Connection, email_key: str, but: int | None = None) -> None:
    """Raise Conflict: ``email_taken``, if an account other than ``but`` has this e-mail."""
    found = connection.execute(sa.select(users.c.id).where(users.c.email_key == email_key)).scalar()
    if found is not None and found != but:
        raise _email_taken()


def _user_not_found(user_id: int) -> NotFound:
    return NotFound(f"there is no user {user_id}", code=codes.USER_NOT_FOUND, user_id=user_id)


def _email_taken() -> Conflict:
    return Conflict("there is an account with this e-mail already: log in, or use another one", code=codes.EMAIL_TAKEN)


def _role_exists(name: str) -> Conflict:
    return Conflict(f"there is a role named {name!r} already", code=codes.ROLE_EXISTS, name=name)


def _group_exists(name: str) -> Conflict:
    return Conflict(f"there is a group named {name!r} already", code=codes.GROUP_EXISTS, name=name)
