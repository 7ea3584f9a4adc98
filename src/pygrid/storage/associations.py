"""Associations: tables, and queries inside a transaction of the caller.

a Network:  domains n--1 invitations
a Domain:   networks
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from pygrid import codes
from pygrid.core.associations import HOLDING, AssociationState, name_key
from pygrid.errors import NotFound
from pygrid.messages.associations import InvitationInfo
from pygrid.storage import accounts, cycles, datasets, jobs, models, processes
from pygrid.storage.sql.metadata import UtcDateTime, metadata

_HOLDS = sa.text("state IN ('accepted', 'revoked', 'left')")
"""`pygrid.core.associations.HOLDING`"""

invitations = sa.Table(
    "invitations",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    # SHA-256 of the token, which was shown once.
    sa.Column("token_hash", sa.String(64), nullable=False, unique=True),
    # Null: a Domain of any name may use it.
    sa.Column("domain", sa.String(100), nullable=True),
    sa.Column("max_uses", sa.Integer, nullable=False),
    sa.Column("num_uses", sa.Integer, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False),
    # The id of a user, without a foreign key: an invitation outlives the account.
    sa.Column("created_by", sa.Integer, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sqlite_autoincrement=True,
)


domains = sa.Table(
    "domains",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(100), nullable=False),
    # The name, case-folded; equal keys are the same name.
    sa.Column("name_key", sa.String(100), nullable=False),
    # The text of its key; null for a node of 2020, which has only an address.
    sa.Column("identity", sa.String(64), nullable=True, index=True),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    # Its own description, and its signature of that; null for a node of 2020, which does not sign.
    sa.Column("entry", sa.JSON, nullable=False),
    sa.Column("entry_signature", sa.String(100), nullable=True),
    # Its direct address: checked, or of a node of 2020.
    sa.Column("address", sa.String(300), nullable=True),
    sa.Column("address_checked_at", UtcDateTime, nullable=True),
    sa.Column("invitation_id", sa.ForeignKey("invitations.id", ondelete="SET NULL"), nullable=True),
    sa.Column("reason", sa.String(500), nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("decided_at", UtcDateTime, nullable=True),
    sa.Column("decided_by", sa.Integer, nullable=True),
    sa.Column("last_seen_at", UtcDateTime, nullable=True),
    # Any number of keys may request a name; one holds it.
    sa.UniqueConstraint("name_key", "identity"),
    sa.Index("ix_domains_held_name", "name_key", unique=True, sqlite_where=_HOLDS, postgresql_where=_HOLDS),
    sqlite_autoincrement=True,
)


networks = sa.Table(
    "networks",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("url", sa.String(300), nullable=False, unique=True),
    # Its name and its key at the first contact; null before that.
    sa.Column("name", sa.String(100), nullable=True),
    sa.Column("identity", sa.String(64), nullable=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("reason", sa.String(500), nullable=False),
    # Kept until the Network has accepted, because the Domain may restart before that.
    sa.Column("invitation", sa.String(200), nullable=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sqlite_autoincrement=True,
)


@dataclass(frozen=True, slots=True)
class KnownDomain:
    """A Domain, as its Network stores it."""

    id: int
    name: str
    identity: str | None
    state: AssociationState
    entry: dict[str, Any]
    entry_signature: str | None
    address: str | None
    address_checked_at: dt.datetime | None
    reason: str
    created_at: dt.datetime
    decided_at: dt.datetime | None
    last_seen_at: dt.datetime | None

    @property
    def is_legacy(self) -> bool:
        """Whether it is a node of 2020, which has an address and no key."""
        return self.identity is None

    @property
    def claimed_address(self) -> str | None:
        return self.entry.get("address") or None


@dataclass(frozen=True, slots=True)
class NewDomain:
    name: str
    identity: str | None
    state: AssociationState
    entry: dict[str, Any]
    entry_signature: str | None
    address: str | None = None
    invitation_id: int | None = None
    decided_by: int | None = None


@dataclass(frozen=True, slots=True)
class UnusedInvitation:
    token_hash: str
    domain: str | None
    """The name that a Domain must have; None: any."""
    max_uses: int
    expires_at: dt.datetime
    created_by: int


@dataclass(frozen=True, slots=True)
class JoinedNetwork:
    """A Network, as its Domain stores it."""

    id: int
    url: str
    name: str | None
    identity: str | None
    state: AssociationState
    reason: str
    invitation: str | None
    created_at: dt.datetime
    updated_at: dt.datetime


# A Network's Domains

_DOMAIN = [domains.c[name] for name in KnownDomain.__dataclass_fields__]


def list_named(connection: sa.Connection, name: str) -> list[KnownDomain]:
    """All Domains with this name, in any case: the holder of the name, then the others, oldest first."""
    query = sa.select(*_DOMAIN).where(domains.c.name_key == name_key(name)).order_by(domains.c.id)
    return sorted((_domain(row) for row in connection.execute(query)), key=lambda known: known.state not in HOLDING)


def get_named(connection: sa.Connection, name: str) -> list[KnownDomain]:
    """As `list_named`, but at least one. Raises NotFound: ``domain_not_found``."""
    found = list_named(connection, name)
    if not found:
        raise NotFound(f"this Network knows no Domain {name[:100]!r}", code=codes.DOMAIN_NOT_FOUND, domain=name[:100])
    return found


def find_holder(connection: sa.Connection, name: str) -> KnownDomain | None:
    return next((known for known in list_named(connection, name) if known.state in HOLDING), None)


def find_domain(connection: sa.Connection, domain_id: int) -> KnownDomain | None:
    row = connection.execute(sa.select(*_DOMAIN).where(domains.c.id == domain_id)).first()
    return None if row is None else _domain(row)


def find_key(connection: sa.Connection, name: str, identity: str) -> KnownDomain | None:
    row = connection.execute(
        sa.select(*_DOMAIN).where(domains.c.name_key == name_key(name), domains.c.identity == identity)
    ).first()
    return None if row is None else _domain(row)


def is_revoked(connection: sa.Connection, identity: str) -> bool:
    """Whether this key was revoked under any name."""
    query = sa.select(domains.c.id).where(
        domains.c.identity == identity, domains.c.state == AssociationState.REVOKED.value
    )
    return connection.execute(query.limit(1)).first() is not None


def list_domains(connection: sa.Connection, states: Collection[AssociationState] | None = None) -> list[KnownDomain]:
    """The Domains in these states (None: all), by name."""
    query = sa.select(*_DOMAIN).order_by(domains.c.name_key, domains.c.id)
    if states is not None:
        query = query.where(domains.c.state.in_([state.value for state in states]))
    return [_domain(row) for row in connection.execute(query)]


def put_domain(connection: sa.Connection, domain: NewDomain, now: dt.datetime) -> KnownDomain:
    """Add a Domain. If it is accepted, requests of others for its name end."""
    is_accepted = domain.state is AssociationState.ACCEPTED
    if is_accepted:
        delete_requests(connection, domain.name)
    values = {
        **asdict(domain),
        "name_key": name_key(domain.name),
        "state": domain.state.value,
        "reason": "",
        "created_at": now,
        "decided_at": now if is_accepted else None,
    }
    row = connection.execute(sa.insert(domains).values(values).returning(*_DOMAIN)).one()
    return _domain(row)


def update_domain(connection: sa.Connection, known: KnownDomain, values: Mapping[str, Any]) -> KnownDomain:
    """Set columns of a Domain. If that accepts it, requests of others for its name end."""
    if values.get("state") == AssociationState.ACCEPTED.value:
        delete_requests(connection, known.name, but=known.id)
    query = sa.update(domains).where(domains.c.id == known.id).values(dict(values)).returning(*_DOMAIN)
    return _domain(connection.execute(query).one())


def update_domains_seen(connection: sa.Connection, seen: Mapping[int, dt.datetime]) -> None:
    """Store the time of the last contact with each of these Domains."""
    if seen:
        statement = (
            sa.update(domains).where(domains.c.id == sa.bindparam("domain_id")).values(last_seen_at=sa.bindparam("at"))
        )
        connection.execute(statement, [{"domain_id": domain_id, "at": at} for domain_id, at in seen.items()])


def delete_domains(connection: sa.Connection, ids: Collection[int]) -> None:
    connection.execute(sa.delete(domains).where(domains.c.id.in_(ids)))


def delete_requests(connection: sa.Connection, name: str, but: int | None = None) -> None:
    """Delete the pending requests for a name, except the one of the id ``but``."""
    connection.execute(
        sa.delete(domains).where(
            domains.c.name_key == name_key(name),
            domains.c.state == AssociationState.PENDING.value,
            domains.c.id != (but or 0),
        )
    )


def delete_stale_requests(connection: sa.Connection, before: dt.datetime) -> list[str]:
    """Delete pending requests without contact since ``before``; returns their names."""
    heard_at = sa.func.coalesce(domains.c.last_seen_at, domains.c.created_at)
    where = (domains.c.state == AssociationState.PENDING.value, heard_at < before)
    return list(connection.execute(sa.delete(domains).where(*where).returning(domains.c.name)).scalars())


def count_domains(connection: sa.Connection) -> dict[AssociationState, int]:
    query = sa.select(domains.c.state, sa.func.count()).group_by(domains.c.state)
    return {AssociationState(state): number for state, number in connection.execute(query)}


def _domain(row: sa.Row[Any]) -> KnownDomain:
    fields = dict(row._mapping)
    return KnownDomain(**fields | {"state": AssociationState(fields["state"])})


# A Network's invitations

_INVITATION = [invitations.c[name] for name in InvitationInfo.__struct_fields__]


def put_invitation(connection: sa.Connection, invitation: UnusedInvitation, now: dt.datetime) -> InvitationInfo:
    values = {**asdict(invitation), "num_uses": 0, "created_at": now}
    return InvitationInfo(*connection.execute(sa.insert(invitations).values(values).returning(*_INVITATION)).one())


def list_invitations(connection: sa.Connection) -> list[InvitationInfo]:
    """All invitations that were not withdrawn, oldest first."""
    return [InvitationInfo(*row) for row in connection.execute(sa.select(*_INVITATION).order_by(invitations.c.id))]


def find_invitation(connection: sa.Connection, token_hash: str, name: str, now: dt.datetime) -> InvitationInfo | None:
    """The invitation with this token, if it is valid now for a Domain of this name."""
    row = connection.execute(sa.select(*_INVITATION).where(invitations.c.token_hash == token_hash)).first()
    if row is None:
        return None
    found = InvitationInfo(*row)
    fits = found.domain is None or name_key(found.domain) == name_key(name)
    return found if fits and found.num_uses < found.max_uses and now < found.expires_at else None


def acquire_invitation(connection: sa.Connection, invitation_id: int) -> bool:
    """Count one use of an invitation; returns whether a use was left."""
    statement = sa.update(invitations).where(
        invitations.c.id == invitation_id, invitations.c.num_uses < invitations.c.max_uses
    )
    return bool(connection.execute(statement.values(num_uses=invitations.c.num_uses + 1)).rowcount)


def delete_invitation(connection: sa.Connection, invitation_id: int) -> None:
    """Withdraw an invitation. Raises NotFound: ``invitation_not_found``."""
    if not connection.execute(sa.delete(invitations).where(invitations.c.id == invitation_id)).rowcount:
        raise NotFound(f"there is no invitation {invitation_id}", code=codes.INVITATION_NOT_FOUND, id=invitation_id)


# A Domain's Networks

_NETWORK = [networks.c[name] for name in JoinedNetwork.__dataclass_fields__]


def list_networks(connection: sa.Connection) -> list[JoinedNetwork]:
    """All Networks of the Domain, in every state, oldest first."""
    return [_network(row) for row in connection.execute(sa.select(*_NETWORK).order_by(networks.c.id))]


def find_network(connection: sa.Connection, url: str) -> JoinedNetwork | None:
    row = connection.execute(sa.select(*_NETWORK).where(networks.c.url == url)).first()
    return None if row is None else _network(row)


def get_network(connection: sa.Connection, network_id: int) -> JoinedNetwork:
    """The Network of an id. Raises NotFound: ``association_not_found``."""
    row = connection.execute(sa.select(*_NETWORK).where(networks.c.id == network_id)).first()
    if row is None:
        raise NotFound(f"there is no association {network_id}", code=codes.ASSOCIATION_NOT_FOUND, id=network_id)
    return _network(row)


def put_network(connection: sa.Connection, url: str, invitation: str | None, now: dt.datetime) -> JoinedNetwork:
    """Add a Network that the Domain asks to join."""
    values = {
        "url": url,
        "state": AssociationState.JOINING.value,
        "reason": "",
        "invitation": invitation,
        "created_at": now,
        "updated_at": now,
    }
    return _network(connection.execute(sa.insert(networks).values(values).returning(*_NETWORK)).one())


def update_network(connection: sa.Connection, network_id: int, values: Mapping[str, Any], now: dt.datetime) -> None:
    """Set columns of a Network, if it exists."""
    connection.execute(sa.update(networks).where(networks.c.id == network_id).values({**values, "updated_at": now}))


def delete_network(connection: sa.Connection, network_id: int) -> None:
    connection.execute(sa.delete(networks).where(networks.c.id == network_id))


def _network(row: sa.Row[Any]) -> JoinedNetwork:
    fields = dict(row._mapping)
    return JoinedNetwork(**fields | {"state": AssociationState(fields["state"])})


# Numbers that a Domain publishes

_COUNTED = {
    "datasets": datasets.datasets,
    "models": models.served_models,
    "processes": processes.processes,
    "cycles": cycles.cycles,
    "jobs": jobs.jobs,
    "users": accounts.users,
}


def count_rows(connection: sa.Connection, names: Collection[str]) -> dict[str, int]:
    """Number of rows for each of these names: ``datasets, models, processes, cycles, jobs, users``."""
    counts = {}
    for name in names:
        query = sa.select(sa.func.count()).select_from(_COUNTED[name])
        if name == "datasets":
            query = query.where(datasets.datasets.c.deleted_at.is_(None))
        counts[name] = int(connection.execute(query).scalar_one())
    return counts
