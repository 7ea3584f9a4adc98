"""Decisions about the Domains of a Network, in transactions. They return the names whose links must follow."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from pygrid import codes
from pygrid.core.associations import Act, AssociationState, choose, find_identity, move
from pygrid.errors import Conflict, InvalidInput
from pygrid.storage import associations as rows
from pygrid.storage.associations import KnownDomain


@dataclass(frozen=True, slots=True)
class DomainDecision:
    """A decision, with its author and time."""

    act: Act
    reason: str
    by_user_id: int
    at: dt.datetime


def decide(
    connection: sa.Connection, name: str, identity: str | None, verdict: DomainDecision
) -> tuple[KnownDomain, Collection[str]]:
    """Apply a decision, and return the Domain and the names that it concerns.

    Args:
        identity: the key of the Domain, if several have the name (`pygrid.core.associations.choose`).
    Raises:
        NotFound: ``domain_not_found``.
        Conflict: ``other_identity``, ``several_domains``, ``wrong_state``; ``name_taken``: another Domain has the name.
    """
    named = rows.get_named(connection, name)
    known = choose(named, verdict.act, name, identity)
    values = {
        "state": move(known.state, verdict.act, known.name).value,
        "reason": verdict.reason,
        "decided_at": verdict.at,
        "decided_by": verdict.by_user_id,
    }
    holder = rows.find_holder(connection, name)
    if verdict.act is Act.ACCEPT and holder is not None and holder.id != known.id:
        raise Conflict(
            f"the name {known.name!r} belongs to {holder.identity or holder.address}: forget that Domain first",
            code=codes.NAME_TAKEN,
            domain=known.name,
        )
    decided = rows.update_domain(connection, known, values)
    names = [known.name]
    if verdict.act is Act.REVOKE and known.identity is not None:
        names += _revoke_others(connection, known, values)
    return decided, names


def _revoke_others(connection: sa.Connection, known: KnownDomain, values: Mapping[str, Any]) -> list[str]:
    """Revoke all other names of the key, delete its requests, and return these names."""
    others = rows.list_domains(connection, {AssociationState.ACCEPTED, AssociationState.PENDING})
    others = [other for other in others if other.identity == known.identity and other.id != known.id]
    for other in others:
        if other.state is AssociationState.ACCEPTED:
            rows.update_domain(connection, other, values)
    rows.delete_domains(connection, [other.id for other in others if other.state is AssociationState.PENDING])
    return [other.name for other in others]


def forget(connection: sa.Connection, name: str, identity: str | None) -> KnownDomain:
    """Delete all Domains of a name, or the one with this identity, and return the first of them.

    Raises:
        NotFound: ``domain_not_found``. Conflict: ``other_identity``.
    """
    named = rows.get_named(connection, name)
    if identity is not None:
        named = [find_identity(named, name, identity)]
    rows.delete_domains(connection, [known.id for known in named])
    return named[0]


def forget_node(connection: sa.Connection, name: str, address: str) -> KnownDomain:
    """Delete a node of 2020 at this address.

    Raises:
        NotFound: ``domain_not_found``.
        InvalidInput: ``wrong_address``: the name has another address, or is that of a Domain with a key.
    """
    known = rows.get_named(connection, name)[0]
    if not known.is_legacy or known.address != address:
        raise InvalidInput("this node has another address", code=codes.WRONG_ADDRESS, domain=known.name)
    rows.delete_domains(connection, [known.id])
    return known


def leave(connection: sa.Connection, domain_id: int, at: dt.datetime) -> None:
    """Record that a Domain leaves by itself. A Domain that waits for a decision is deleted, so rows cannot accumulate.

    Raises:
        Conflict: ``wrong_state``: it was denied or revoked before.
    """
    known = rows.find_domain(connection, domain_id)
    if known is None:
        return
    if known.state is AssociationState.PENDING:
        rows.delete_domains(connection, [domain_id])
    else:
        state = move(known.state, Act.LEAVE, known.name)
        rows.update_domain(connection, known, {"state": state.value, "decided_at": at})
