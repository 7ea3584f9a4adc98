"""Nodes of 2020 at a Network: a name and an address, without proof of an identity.

They join by one call and send nothing later.
"""

from __future__ import annotations

import sqlalchemy as sa

from pygrid import codes
from pygrid.clock import Clock
from pygrid.core.access import Permission, Principal, not_permitted
from pygrid.core.associations import AssociationState, check_domain_name
from pygrid.errors import Conflict, Forbidden, Unauthenticated
from pygrid.features.associations.network.service import NetworkAssociations
from pygrid.ids import hash_secret
from pygrid.storage import associations as rows
from pygrid.storage.associations import KnownDomain
from pygrid.storage.idempotency import once
from pygrid.storage.sql.database import Database
from pygrid.transport.untrusted import check_untrusted_address


class LegacyNodes:
    """Adds and removes nodes of 2020.

    Args:
        allow_private: whether their addresses may be in a private network or on this machine.
        is_open: whether all callers may add and remove them, as in 2020.
    """

    def __init__(
        self, database: Database, associations: NetworkAssociations, clock: Clock, *, allow_private: bool, is_open: bool
    ) -> None:
        self._database = database
        self._associations = associations
        self._clock = clock
        self._allow_private = allow_private
        self._is_open = is_open

    async def join(self, principal: Principal | None, name: str, address: str, invitation: str | None) -> KnownDomain:
        """Add a node to the Network, for its managers, with an invitation, or for all callers if it is open.

        Raises:
            Unauthenticated, Forbidden: ``not_permitted``, ``invalid_invitation``. Conflict: ``node_exists``.
            InvalidInput: ``invalid_name``, ``address_refused``. Unavailable, TooSlow: its host cannot be resolved.
        """
        invited = invitation is not None and not self._is_open
        if not invited:
            self._check_may(principal)
        check_domain_name(name)
        now = self._clock.now()
        token_hash = hash_secret(invitation or "")
        if invited:
            # Checked first: anonymous callers must not cause DNS lookups here, or learn their results.
            found = await self._database.look_up(
                lambda connection: rows.find_invitation(connection, token_hash, name, now)
            )
            if found is None:
                raise _not_invited()
        if await self._database.look_up(lambda connection: rows.find_holder(connection, name)) is not None:
            raise _taken(name)
        address = await check_untrusted_address(address, allow_private=self._allow_private)

        def transaction(connection: sa.Connection) -> KnownDomain:
            if rows.find_holder(connection, name) is not None:
                raise _taken(name)
            invitation_id = None
            if invited:
                found = rows.find_invitation(connection, token_hash, name, now)
                if found is None or not rows.acquire_invitation(connection, found.id):
                    raise _not_invited()
                invitation_id = found.id
            new = rows.NewDomain(
                name=name,
                identity=None,
                state=AssociationState.ACCEPTED,
                entry={"name": name, "address": address},
                entry_signature=None,
                address=address,
                invitation_id=invitation_id,
                decided_by=None if principal is None else principal.user_id,
            )
            return rows.put_domain(connection, new, now)

        known = await self._database.write(once(transaction))
        await self._associations.reconcile(known.name)
        return known

    async def leave(self, principal: Principal | None, name: str, address: str) -> KnownDomain:
        """Delete a node.

        Raises:
            Unauthenticated, Forbidden: ``not_permitted``. NotFound: ``domain_not_found``.
            InvalidInput: ``wrong_address``: the name has another address, or is that of a Domain with a key.
        """
        self._check_may(principal)
        return await self._associations.forget_node(principal, name, address.rstrip("/"))

    def _check_may(self, principal: Principal | None) -> None:
        if self._is_open or (principal is not None and principal.may(Permission.MANAGE_NODES)):
            return
        if principal is None:
            raise Unauthenticated(
                "log in (POST /users/login), or send an invitation to this Network in the field invitation"
            )
        raise not_permitted(Permission.MANAGE_NODES)


def _taken(name: str) -> Conflict:
    return Conflict(f"a node named {name!r} exists already", code=codes.NODE_EXISTS, domain=name)


def _not_invited() -> Forbidden:
    return Forbidden("this invitation is used up, has expired, or is for another name", code=codes.INVALID_INVITATION)
